# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where an environment file may lie, what is in its place at every moment, and what browsers must not load: on a real file system."""

from __future__ import annotations

import base64
import json
import os
import pwd
import signal
import stat
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import bundle, env_file
from ansible_collections.sluice.deploy.plugins.module_utils.core import bundle as rules
from ansible_collections.sluice.deploy.plugins.module_utils.core import env_place
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

ME = pwd.getpwuid(os.getuid()).pw_name
SECRET = 'kT9w/2Xq+7Lb8"Vn5Kd3=Hs6Qm?7Z'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "etc" / "app.env"
    file.parent.mkdir()
    file.write_text("A=1\n")
    file.chmod(0o600)
    return file


def verdict(path: Path, owner: str = "") -> tuple[str, str]:
    gate = env_place.judge(env_file.look(str(path)), owner)
    return gate.verdict, gate.sentence


def test_a_closed_file_passes(path: Path) -> None:
    assert verdict(path, ME) == ("pass", f"{path} is there with mode 0600, of {ME}")
    path.chmod(0o400)
    assert verdict(path)[0] == "pass"


def test_what_is_no_file_is_told(tmp_path: Path) -> None:
    assert verdict(tmp_path / "none") == ("fail", f"{tmp_path}/none is not there (S3-093)")
    assert verdict(tmp_path) == ("fail", f"{tmp_path} is no plain file (S3-093)")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert verdict(tmp_path / "dangling")[1].endswith("is not there (S3-093)")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_file_others_can_read_is_told(path: Path, mode: int) -> None:
    path.chmod(mode)
    assert f"it has mode {mode:04o}, so others can read it" in verdict(path)[1]
    path.chmod(0o700)
    assert verdict(path)[0] == "fail"


def test_everything_that_is_wrong_with_a_file_is_told_at_once(path: Path) -> None:
    path.chmod(0o644)
    os.link(path, path.parent / "second")
    path.parent.chmod(0o777)
    said = verdict(path, "nobody-of-this-host")[1]
    for words in (
        "it has mode 0644",
        f"it belongs to {ME}, and the app runs as nobody-of-this-host",
        "it has 2 hard links",
        f"since {path.parent} is open to all",
    ):
        assert words in said
    path.parent.chmod(0o1777)
    assert "open to all" not in verdict(path)[1], "nobody renames another's file in a sticky folder"


def test_a_link_is_fine_inside_its_folder_only(path: Path, tmp_path: Path) -> None:
    inside, outside = path.parent / "current.env", tmp_path / "outside.env"
    inside.symlink_to("app.env")
    outside.symlink_to(path)
    assert verdict(inside)[0] == "pass"
    assert f"it is a link to {path}, outside its folder" in verdict(outside)[1]
    path.chmod(0o644)
    assert "it has mode 0644" in verdict(inside)[1]


def test_it_is_installed_closed_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        path.chmod(0o666)
        env_file.install(str(path), "A=2\n", (os.getuid(), os.getgid()))
        env_file.install(str(path.parent / "new" / "app.env"), "A=2\n", None)
    finally:
        os.umask(before)
    for file in (path, path.parent / "new" / "app.env"):
        assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("A=2\n", 0o600)
    assert sorted(each.name for each in path.parent.iterdir()) == ["app.env", "new"]


def test_it_is_not_installed_over_a_link_or_where_all_may_rename(path: Path) -> None:
    link = path.parent / "link.env"
    link.symlink_to("app.env")
    with pytest.raises(SluiceError, match="is a link; the file would take its place"):
        env_file.install(str(link), "A=2\n", None)
    path.parent.chmod(0o777)
    with pytest.raises(SluiceError, match="Everybody may replace files in"):
        env_file.install(str(path), "A=2\n", None)
    assert path.read_text() == "A=1\n"
    with pytest.raises(SluiceError, match="There is no user nobody-of-this-host"):
        env_file.owner_ids("nobody-of-this-host")
    assert env_file.owner_ids(ME) == (os.getuid(), pwd.getpwnam(ME).pw_gid)


def test_a_killed_install_leaves_the_old_file_or_the_new_one_and_the_next_cleans_up(path: Path) -> None:
    texts = {f"A={letter * 300_000}\n" for letter in "xy"} | {"A=1\n"}
    for wait in (0.002, 0.005, 0.01, 0.02, 0.03):
        pid = os.fork()
        if not pid:
            try:
                while True:
                    for text in sorted(texts):
                        env_file.install(str(path), text, None)
            finally:
                os._exit(1)
        time.sleep(wait)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert path.read_text() in texts
        assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}
    (path.parent / ".app.env.4711.tmp").write_text("A=left behind")
    env_file.install(str(path), "A=3\n", None)
    assert [each.name for each in path.parent.iterdir()] == ["app.env"]


def test_the_key_of_the_host_is_made_once_and_closed(tmp_path: Path) -> None:
    assert env_file.held_key(str(tmp_path)) == ""
    assert not (tmp_path / "slots").exists(), "looking for the key makes none"
    key = env_file.fingerprint_key(str(tmp_path))
    assert len(bytes.fromhex(key)) == 32
    assert env_file.fingerprint_key(str(tmp_path)) == env_file.held_key(str(tmp_path)) == key
    assert stat.S_IMODE((tmp_path / "slots" / "env.key").stat().st_mode) == 0o600


def scanned(folder: Path, values: dict[str, str], keys: str = "live") -> tuple[str, str]:
    needles = rules.needles(values)
    gate = rules.judge(bundle.scan(str(folder), ["static"], needles, rules.patterns(keys)), ["static"], len(needles))
    assert not any(value in str(gate.as_dict()) for value in values.values())
    return gate.verdict, gate.sentence


SPELLINGS = {
    "clear": SECRET,
    "url": quote(SECRET, safe=""),
    "url with slashes": quote(SECRET),
    "json": json.dumps({"key": SECRET}),
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "base64 behind one letter": base64.b64encode(f"x{SECRET}y".encode()).decode(),
    "base64 behind two letters": base64.urlsafe_b64encode(f"xy{SECRET}z".encode()).decode(),
    "base64 of a header": base64.b64encode(f"api:{SECRET}".encode()).decode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_secret_is_found_in_each_spelling(tmp_path: Path, spelling: str) -> None:
    (tmp_path / "static" / "chunks").mkdir(parents=True)
    (tmp_path / "static" / "chunks" / "main.js").write_text(f"!function(){{}}({SPELLINGS[spelling]})")
    (tmp_path / "static" / "page.js").write_text("console.log(1)")
    verdict_, sentence = scanned(tmp_path, {"API_KEY": SECRET, "OTHER": "not-in-there-at-all"})
    assert (verdict_, sentence.partition(".js")[0]) == ("fail", "API_KEY is in static/chunks/main")
    assert "OTHER" not in sentence


def test_a_clean_bundle_passes_and_none_cannot_be_told(tmp_path: Path) -> None:
    (tmp_path / "static").mkdir()
    assert scanned(tmp_path, {"API_KEY": SECRET}) == ("inconclusive", "static holds no file, so not everything was looked through")
    (tmp_path / "static" / "page.js").write_text(f"pk_live_Qm7Zt4Rw9Xc2Lb8V {SECRET[:-1]} short")
    assert scanned(tmp_path, {"API_KEY": SECRET, "SHORT": "short"})[0] == "pass"
    (tmp_path / "static").rename(tmp_path / "dist")
    assert scanned(tmp_path, {"API_KEY": SECRET}) == ("inconclusive", "static is not in the release, so not everything was looked through")


@pytest.mark.parametrize(
    ("text", "keys", "words"),
    [
        ("rk_live_Qm7Zt4Rw9Xc2Lb8V", "", "a Stripe secret key is in static/page.js"),
        ("sk_org_live_Qm7Zt4Rw9Xc2", "live", "a Stripe secret key is in static/page.js"),
        ("whsec_Qm7Zt4Rw9Xc2Lb8VaB", "live", "a Stripe webhook secret is in static/page.js"),
        ("pk_test_Qm7Zt4Rw9Xc2Lb8V", "live", "a Stripe test key is in static/page.js"),
    ],
)
def test_keys_that_nobody_listed_are_found_by_their_form(tmp_path: Path, text: str, keys: str, words: str) -> None:
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "page.js").write_text(f'const k="{text}"')
    assert words in scanned(tmp_path, {}, keys)[1]


def test_a_test_key_is_fine_where_keys_are_test_ones(tmp_path: Path) -> None:
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "page.js").write_text("pk_test_Qm7Zt4Rw9Xc2Lb8V")
    assert scanned(tmp_path, {}, "test")[0] == "pass"


def test_a_secret_is_found_where_two_pieces_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "_CHUNK", 1000)
    (tmp_path / "static").mkdir()
    for start in (975, 990, 999, 1000, 1001):
        (tmp_path / "static" / "page.js").write_text("x" * start + SECRET + "y" * 3000)
        assert scanned(tmp_path, {"API_KEY": SECRET})[0] == "fail"
