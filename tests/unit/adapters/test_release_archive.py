# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives of releases on a real disk: packed alike each time, unpacked whole, and never beside their folder."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import tarfile
from pathlib import Path

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import archive, given_source, package, release_dir
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError


def folder_at(path: Path) -> Path:
    """Make a folder of sources with all that may be in one."""
    (path / "bin").mkdir(parents=True)
    (path / "empty").mkdir()
    (path / "lib" / ".git").mkdir(parents=True)
    (path / ".git").mkdir()
    (path / ".git" / "config").write_text("[core]\n", encoding="utf-8")
    (path / "bin" / "run").write_text("#!/bin/sh\n", encoding="utf-8")
    (path / "bin" / "run").chmod(0o4770)
    (path / "server.js").write_text("// app\n", encoding="utf-8")
    os.utime(path / "server.js", (1_700_000_000.5, 1_700_000_000.5))
    (path / "now").symlink_to("bin/run")
    (path / ("long" * 40)).write_text("x", encoding="utf-8")
    return path


def evil(path: Path, *members: tuple[str, bytes, str]) -> Path:
    """Write an archive of members that were never files: name, type and target of a link."""
    with tarfile.open(path, "w:gz") as tar:
        for name, kind, target in (("package.json", tarfile.REGTYPE, ""), *members):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, 2 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"{}"))
    return path


def test_a_folder_comes_out_as_it_went_in(tmp_path: Path) -> None:
    source, packed, out = folder_at(tmp_path / "source"), tmp_path / "packed.tar.gz", tmp_path / "releases" / "out"
    sha256 = archive.pack(str(source), str(packed), archive.HISTORY)
    assert sha256 == hashlib.sha256(packed.read_bytes()).hexdigest()
    assert archive.pack(str(source), str(tmp_path / "again.tar.gz"), archive.HISTORY) == sha256
    archive.unpack(str(packed), str(out), packed_here=True)
    assert sorted(path.name for path in out.rglob("*")) == sorted(["bin", "run", "empty", "lib", "server.js", "now", "long" * 40])
    assert (out / "now").read_text(encoding="utf-8") == "#!/bin/sh\n" and os.readlink(out / "now") == "bin/run"
    assert ((out / "bin/run").stat().st_mode & 0o7777, (out / "server.js").stat().st_mode & 0o7777) == (0o755, 0o644)
    assert (out / "server.js").stat().st_mtime == 1_700_000_000
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_a_folder_is_known_by_its_content_alone(tmp_path: Path) -> None:
    first, second = folder_at(tmp_path / "first"), folder_at(tmp_path / "second")
    os.utime(second / "server.js")
    (second / ".git" / "config").write_text("[other]\n", encoding="utf-8")
    number = archive.content_of(str(first), archive.HISTORY)
    assert archive.content_of(str(second), archive.HISTORY) == number
    (second / "server.js").chmod(0o755)
    assert archive.content_of(str(second), archive.HISTORY) != number


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([("../../evil", tarfile.REGTYPE, "")], "would land outside"),
        ([("/tmp/evil", tarfile.REGTYPE, "")], "would land outside"),
        ([("etc", tarfile.SYMTYPE, "/etc")], "leads outside"),
        ([("up", tarfile.SYMTYPE, ".."), ("up/evil", tarfile.REGTYPE, "")], "through the link|leads outside"),
        ([("shadow", tarfile.LNKTYPE, "/etc/shadow")], "which is no file before it"),
        ([("null", tarfile.CHRTYPE, "")], "is a device or a pipe"),
        ([("pipe", tarfile.FIFOTYPE, "")], "is a device or a pipe"),
    ],
)
def test_an_evil_archive_writes_nothing(tmp_path: Path, members: list[tuple[str, bytes, str]], said: str) -> None:
    path, out = evil(tmp_path / "evil.tar.gz", *members), tmp_path / "releases" / "out"
    with pytest.raises(SluiceError, match=said):
        archive.unpack(str(path), str(out))
    assert [entry.name for entry in tmp_path.iterdir()] == ["evil.tar.gz"]


@pytest.mark.parametrize("spoil", [lambda data: data[:-40], lambda data: data[:200] + b"\0" * 50 + data[250:], lambda data: b"no archive", lambda data: b""])
def test_a_damaged_archive_is_refused(tmp_path: Path, spoil: object) -> None:
    packed = tmp_path / "packed.tar.gz"
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "noise").write_bytes(os.urandom(5000))
    archive.pack(str(tmp_path / "source"), str(packed))
    packed.write_bytes(spoil(packed.read_bytes()))  # type: ignore[operator]
    with pytest.raises(SluiceError, match="no tar archive, or a damaged one|could not be unpacked"):
        archive.look(str(packed))


def test_a_socket_is_not_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").mkdir()
    monkeypatch.chdir(tmp_path / "source")
    with socket.socket(socket.AF_UNIX) as held:
        held.bind("control")
        with pytest.raises(SluiceError, match="is a socket, a pipe or a device"):
            archive.pack(str(tmp_path / "source"), str(tmp_path / "packed.tar.gz"))
        with pytest.raises(SluiceError, match="cannot be released"):
            archive.content_of(str(tmp_path / "source"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["source"]


def test_the_archive_must_be_the_one_that_was_approved(tmp_path: Path) -> None:
    path = evil(tmp_path / "good.tar.gz")
    right = hashlib.sha256(path.read_bytes()).hexdigest()
    commit, sentence, place = given_source.identify("archive", str(path), right, "v1", "")
    assert commit == right[:40] and "1 files" in sentence and place == str(path)
    given = ("archive", str(path), right, "v1", commit, str(tmp_path))
    assert given_source.archive_of(*given) == package.Packed(str(path), right, path.stat().st_size)
    for sha256, said in (("0" * 64, "another file than the one that was approved"), ("", "Nobody said which archive")):
        with pytest.raises(SluiceError, match=said):
            given_source.identify("archive", str(path), sha256, "v1", "")
    with pytest.raises(SluiceError, match="not the archive this release began with"):
        given_source.archive_of("archive", str(path), right, "v1", "0" * 40, str(tmp_path))
    with pytest.raises(SluiceError, match="is not there"):
        given_source.identify("archive", str(tmp_path / "none"), right, "v1", "")


def test_a_folder_that_changed_since_is_refused_and_one_that_was_packed_is_not_read_again(tmp_path: Path) -> None:
    source, builds = folder_at(tmp_path / "source"), tmp_path / "builds"
    commit, _sentence, _place = given_source.identify("directory", str(source), "", "v1", "")
    (source / "server.js").write_text("// other\n", encoding="utf-8")
    given = ("directory", str(source), "", "v1", commit, str(builds))
    with pytest.raises(SluiceError, match="does not hold what this release began with"):
        given_source.archive_of(*given)
    (source / "server.js").write_text("// app\n", encoding="utf-8")
    packed = given_source.archive_of(*given)
    (source / "server.js").write_text("// the next version\n", encoding="utf-8")
    assert given_source.archive_of(*given) == packed
    with open(packed.path, "ab") as stream:
        stream.write(b"bad disk")
    with pytest.raises(SluiceError, match="does not hold what this release began with"):
        given_source.archive_of(*given)


def test_old_archives_go(tmp_path: Path) -> None:
    for number in range(package.KEEP + 2):
        path = Path(package.place(str(tmp_path), f"v{number}"))
        path.write_bytes(b"x")
        package.note(str(tmp_path), f"v{number}", hashlib.sha256(b"x").hexdigest())
        os.utime(f"{path}.json", (number, number))
    Path(package.place(str(tmp_path), "cut") + ".1.partial").touch()
    package.prune(str(tmp_path))
    left = sorted(path.name for path in (tmp_path / "packages").iterdir())
    assert left == sorted(f"v{number}.tar.gz{end}" for number in range(2, package.KEEP + 2) for end in ("", ".json"))
    assert package.find(str(tmp_path), "v0") is None and package.find(str(tmp_path), "v3") is not None


def test_a_build_has_caches_unless_it_was_given_others() -> None:
    plain = release_dir.build_environment({}, "", "/srv/shop")
    assert (plain["npm_config_cache"], plain["PIP_CACHE_DIR"]) == ("/srv/shop/cache/npm", "/srv/shop/cache/pip")
    given = release_dir.build_environment({"NPM_CONFIG_CACHE": "/cache", "DEBUG": 1}, "/opt/node/bin", "/srv/shop")
    assert "npm_config_cache" not in given and given["NPM_CONFIG_CACHE"] == "/cache" and given["DEBUG"] == "1"
    assert given["PATH"].startswith("/opt/node/bin:")


def test_a_build_runs_in_its_final_folder_and_says_what_took_how_long(tmp_path: Path) -> None:
    """A file of the source with the name of our marker does not make a cut build look whole."""
    final, told = tmp_path / "releases" / "v1-cccccccccccc", []

    def put(partial: str) -> None:
        Path(partial).mkdir()
        Path(partial, release_dir.MARKER).write_text("{}", encoding="utf-8")

    with pytest.raises(SluiceError, match="exit code 3"):
        release_dir.build(str(final), "v1", "c" * 40, put, [["sh", "-c", f"test ! -e {release_dir.MARKER} && exit 3"]], {})
    assert not final.exists()
    ran = release_dir.build(str(final), "v1", "c" * 40, put, [["sh", "-c", "pwd > where"]], {}, told.append)
    assert (final / "where").read_text(encoding="utf-8").strip() == str(final)
    assert told == ["sh -c 'pwd > where'"] and len(ran) == 1 and ran[0].startswith("ran sh -c 'pwd > where' in 0.")
    assert release_dir.is_built(str(final)) and [path.name for path in final.parent.iterdir()] == [final.name]
