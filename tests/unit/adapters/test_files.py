# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files on disk: whole or not at all, with their final mode, under one lock."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import files
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError


@contextmanager
def child(work: object) -> Iterator[int]:
    """Run a function in a fork that writes a byte when it is ready; it is killed at the end."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            work(writer)  # type: ignore[operator]
        finally:
            os._exit(1)
    try:
        assert os.read(reader, 1) == b"."
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_reading_what_is_not_there_gives_none(tmp_path: Path) -> None:
    assert files.read_text(str(tmp_path / "none")) is None
    (tmp_path / "some").write_text("\u20ac\n", encoding="utf-8")
    assert files.read_text(str(tmp_path / "some")) == "\u20ac\n"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("wanted", [0o600, 0o644, 0o664])
def test_a_file_has_its_mode_whatever_the_umask_and_the_file_before(tmp_path: Path, umask: int, wanted: int) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o777)
    before = os.umask(umask)
    try:
        files.write_atomic(str(path), "new\u20ac", wanted)
    finally:
        os.umask(before)
    assert (path.read_text(encoding="utf-8"), mode(path)) == ("new\u20ac", wanted)
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_reader_sees_the_old_bytes_or_the_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "file"
    texts = {letter * 200_000 for letter in "ab"}
    files.write_atomic(str(path), "a" * 200_000)

    def write(ready: int) -> None:
        os.write(ready, b".")
        while True:
            for text in sorted(texts):
                files.write_atomic(str(path), text)

    with child(write):
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            assert path.read_text() in texts
    assert path.read_text() in texts


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "inside").touch()
    with pytest.raises(SluiceError) as caught:
        files.write_atomic(str(tmp_path / "taken"), "text")
    assert str(caught.value) == f"{tmp_path}/taken could not be written: Is a directory. Check the folder's owner, mode and free space."
    assert [found.name for found in tmp_path.iterdir()] == ["taken"]
    with pytest.raises(SluiceError, match="could not be written: No such file or directory"):
        files.write_atomic(str(tmp_path / "none" / "file"), "text")


def test_a_link_is_set_and_turned_by_one_rename(tmp_path: Path) -> None:
    link = tmp_path / "current"
    assert files.link_target(str(link)) is None
    (tmp_path / f".current.{os.getpid()}.tmp").symlink_to("rest-of-a-killed-run")
    for target in ("blue", "green", "nowhere"):
        files.link_atomic(target, str(link))
        assert files.link_target(str(link)) == target
    assert [found.name for found in tmp_path.iterdir()] == ["current"]
    (tmp_path / "plain").touch()
    assert files.link_target(str(tmp_path / "plain")) is None


def test_a_folder_is_made_once_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    assert files.make_folder(str(path), 0o700)
    assert mode(path) == 0o700
    assert not files.make_folder(str(path), 0o755)
    assert mode(path) == 0o700


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, why in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "below", "Not a directory")):
        with pytest.raises(SluiceError) as caught:
            files.make_folder(str(path))
        assert str(caught.value) == f"The folder {path} could not be made: {why}. Check the owner and mode of the folder above it."


def test_many_that_make_one_folder_all_succeed(tmp_path: Path) -> None:
    failed: list[BaseException] = []

    def make(path: str, barrier: threading.Barrier) -> None:
        barrier.wait(5)
        try:
            files.make_folder(path)
        except SluiceError as error:
            failed.append(error)

    for number in range(20):
        barrier = threading.Barrier(8)
        threads = [threading.Thread(target=make, args=(str(tmp_path / str(number) / "deep"), barrier)) for _thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
        assert failed == []


def test_free_bytes_of_what_is_not_there_yet_are_those_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert files.free_bytes(str(tmp_path / "a" / "b")) > 0
    monkeypatch.chdir(tmp_path)
    assert files.free_bytes("not/there") > 0


def test_a_lock_keeps_the_others_out_until_it_is_let_go(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with files.locked(path):
        began = time.monotonic()
        with pytest.raises(SluiceError) as caught, files.locked(path, 0.1):
            pass
        assert 0.1 <= time.monotonic() - began < 20
        assert str(caught.value) == f"Another run holds {path}; waited 0.1 s for it. Let it finish, or look with `status.yml` who it is."
    with files.locked(path, 0):
        pass


def test_a_lock_is_let_go_when_its_work_fails(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with pytest.raises(ValueError, match="broke"), files.locked(path):
        raise ValueError("broke")
    with files.locked(path, 0):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")

    def hold(ready: int) -> None:
        with files.locked(path):
            os.write(ready, b".")
            time.sleep(60)

    with child(hold), pytest.raises(SluiceError, match="Another run holds"), files.locked(path, 0):
        pass
    with files.locked(path, 0):
        pass
