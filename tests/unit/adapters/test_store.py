# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger and the lease on disk: synced, private, whole after a writer was killed, and damage is told."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.store import Store, process_started
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.lease import Lease

LEASE = Lease("ada@here", 11, 500, "release.yml v2-1", 7, 0.0, 900.0)
REASON = {"event": "hold", "data": {"reason": "zu wenig Verkehr \u2013 \u65e9"}}


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "none"))
    assert (store.records(), store.lease(), store.last_fence()) == ([], None, 0)
    assert not (tmp_path / "none").exists()


def test_what_was_appended_is_read_back_in_order(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    first = store.append({"event": "claim"})
    both = store.append(REASON, {"event": "promote"})
    assert both[:1] == first
    assert Store(str(tmp_path)).records() == both
    assert [record["seq"] for record in both] == [1, 2, 3]
    assert both[1]["data"] == REASON["data"]


def test_a_folder_that_is_made_and_its_files_are_private(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "app"))
    before = os.umask(0)
    try:
        with store.lock():
            store.append({"event": "claim"})
            store.write_lease(LEASE)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [tmp_path / "app", *(tmp_path / "app").iterdir()]}
    assert modes == {"app": 0o700, "ledger.jsonl": 0o600, "lease.json": 0o600, ".lock": 0o600}


@pytest.mark.parametrize("torn", [b'{"at": 1', b'{"at": "\xe2\x82', b"\xff\xfe", b"x" * 5000, b'{"a": "\r'])
def test_a_torn_tail_does_not_count_and_goes_with_the_next_line(tmp_path: Path, torn: bytes) -> None:
    store, path = Store(str(tmp_path)), tmp_path / "ledger.jsonl"
    kept = store.append(REASON)
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert store.records() == kept
    store.append({"event": "promote"})
    assert path.read_bytes().startswith(whole + b'{"event": "promote"')
    assert len(store.records()) == 2


@pytest.mark.parametrize("old_new", [(b"hold", b"hole"), (b"hold", b"h\xffld"), (b'"event"', b'"event" '), (b"\n", b"\r\n")])
def test_damage_is_told_and_nothing_is_appended_to_it(tmp_path: Path, old_new: tuple[bytes, bytes]) -> None:
    store, path = Store(str(tmp_path)), tmp_path / "ledger.jsonl"
    store.append(REASON, {"event": "promote"})
    damaged = path.read_bytes().replace(*old_new, 1)
    path.write_bytes(damaged)
    for reach in (store.records, lambda: store.append({"event": "rollback"})):
        with pytest.raises(SluiceError) as caught:
            reach()
        assert str(caught.value) == (
            "Line 1 of the ledger was changed after it was written: its hash does not fit. Restore the ledger from its copy; nobody edits it by hand."
        )
    assert path.read_bytes() == damaged


def test_a_writer_that_is_killed_leaves_whole_lines(tmp_path: Path) -> None:
    # The writer is a fork, so that it needs no way to the collection of its own.
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            store = Store(str(tmp_path))
            while True:
                store.append({"event": "share", "data": {"text": "x" * 20000}})
                os.write(writer, b".")
        finally:
            os._exit(1)
    try:
        os.read(reader, 1)
        time.sleep(0.05)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
    store = Store(str(tmp_path))
    before = store.records()
    assert before
    assert len(store.append({"event": "claim"})) == len(before) + 1
    assert (tmp_path / "ledger.jsonl").read_bytes().endswith(b"\n")


def test_the_lease_comes_and_goes_and_its_number_stays(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write_lease(LEASE)
    assert (store.lease(), store.last_fence()) == (LEASE, 7)
    store.free_lease()
    assert (store.lease(), store.last_fence()) == (None, 7)
    assert json.loads((tmp_path / "lease.json").read_text()) == {"fence": 7}


@pytest.mark.parametrize("text", ["{", "[1]", "7", '{"owner": "ada", "colour": "red"}'])
def test_a_damaged_lease_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "lease.json").write_text(text)
    with pytest.raises(SluiceError) as caught:
        Store(str(tmp_path)).lease()
    assert str(caught.value) == (
        f"The lease {tmp_path}/lease.json is damaged: it cannot be read as one. Restore it from its copy; its fencing number must not go back."
    )


def test_a_ledger_that_cannot_be_read_or_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(SluiceError) as caught:
        Store(str(tmp_path / "none")).append({"event": "claim"})
    assert str(caught.value) == (
        f"The ledger {tmp_path}/none/ledger.jsonl could not be written: No such file or directory. Free some space, or check the folder's owner."
    )
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(SluiceError) as caught:
        Store(str(tmp_path)).records()
    assert str(caught.value) == f"The ledger {tmp_path}/ledger.jsonl could not be read: Is a directory. Check the folder's owner and mode."


def test_the_start_of_a_process_tells_it_from_another() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        seen = process_started(process.pid)
        assert seen == process_started(process.pid) > process_started(1) - 1
        process.kill()
    assert process_started(process.pid) == 0
    assert process_started(2**30) == 0
