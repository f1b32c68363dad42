# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run asks of the ledger, on real files and with real processes."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.store import Store, process_started
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.desk import Desk

CLAIM = {"release_id": "", "version": "v1", "reason": "release", "ttl": 900}
MANIFEST = {"event": "plan", "data": {"manifest": {"live": "blue", "idle": "green", "live_version": "v0"}, "digest": "d"}}


def desk(folder: Path, owner: str = "ada@here", pid: int = 1, started: int = 0, now: float = 1000.0) -> Desk:
    return Desk(Store(str(folder)), "shop", {"owner": owner, "pid": pid, "started": started}, "here", now)


def record(at: Desk, release: str, *events: dict[str, Any]) -> dict[str, Any]:
    return at.answer("record", {"release_id": release, "events": list(events), "ttl": 900})


def test_a_release_from_claim_to_promotion(tmp_path: Path) -> None:
    mine = desk(tmp_path)
    claimed = mine.answer("claim", CLAIM)
    name = claimed["release"]["id"]
    assert name == "v1-19700101T001640Z"
    assert claimed["fence"] == 1
    assert record(mine, name, {"event": "begin", "phase": "preflight"}, MANIFEST, {"event": "end", "phase": "preflight", "data": {"x": 1}})["release"][
        "done"
    ] == {"preflight": {"x": 1}}
    closed = mine.answer("close", {"release_id": name, "event": "promote"})
    assert closed["release"]["state"] == "promoted"
    assert closed["lease"] == {}
    assert closed["fence"] == 1


def test_a_second_run_is_told_who_and_since_when(tmp_path: Path) -> None:
    desk(tmp_path).answer("claim", CLAIM)
    with pytest.raises(SluiceError, match=r"being changed by ada@here \(process 1\) for release v1-.* since 1970-01-01 00:16:40 UTC"):
        desk(tmp_path, "bob@there", 2).answer("claim", CLAIM)
    taken = desk(tmp_path, "bob@there", 2).answer("claim", {**CLAIM, "break_reason": "ada is on holiday"})
    assert taken["fence"] == 2
    assert "reason given: ada is on holiday" in taken["note"]
    with pytest.raises(SluiceError, match="This run has lost the lease: bob@there holds it"):
        record(desk(tmp_path), "v1", {"event": "begin", "phase": "backup"})


def test_an_expired_lease_is_taken_over(tmp_path: Path) -> None:
    desk(tmp_path).answer("claim", {**CLAIM, "version": "", "ttl": 60})
    assert "expired 1970-01-01 00:17:40 UTC" in desk(tmp_path, "bob@there", now=1060.0).answer("claim", CLAIM)["note"]


def test_the_lease_of_a_process_that_is_gone_is_taken_over_at_once(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        started = process_started(process.pid)
        assert started > 0
        desk(tmp_path, pid=process.pid, started=started).answer("claim", {**CLAIM, "version": ""})
        with pytest.raises(SluiceError, match="being changed by"):
            desk(tmp_path, pid=2, started=1).answer("claim", CLAIM)
        process.kill()
    assert "and that process is gone" in desk(tmp_path, pid=2, started=1).answer("claim", CLAIM)["note"]


def test_an_open_release_is_resumed_by_its_id_and_by_nothing_else(tmp_path: Path) -> None:
    mine = desk(tmp_path)
    name = mine.answer("claim", CLAIM)["release"]["id"]
    record(mine, name, MANIFEST, {"event": "begin", "phase": "migrate"})
    with pytest.raises(SluiceError, match=rf"{name} has not ended .* Go on with -e release_version=v1 -e release_id={name}"):
        desk(tmp_path, now=2000.0).answer("claim", {**CLAIM, "version": "v2"})
    with pytest.raises(SluiceError, match="is of v1, not of v2"):
        mine.answer("claim", {**CLAIM, "version": "v2", "release_id": name})
    assert mine.answer("claim", {**CLAIM, "release_id": name})["release"]["begun"] == "migrate"
    mine.answer("close", {"release_id": name, "event": "fail"})
    with pytest.raises(SluiceError, match="has ended: it was failed"):
        mine.answer("claim", {**CLAIM, "release_id": name})


def test_a_release_cut_before_it_touched_anything_gives_way(tmp_path: Path) -> None:
    mine = desk(tmp_path)
    name = mine.answer("claim", CLAIM)["release"]["id"]
    record(mine, name, {"event": "begin", "phase": "backup"})
    reply = desk(tmp_path, now=2000.0).answer("claim", {**CLAIM, "version": "v2"})
    assert {release["id"]: release["state"] for release in reply["releases"]} == {name: "refused", "v2-19700101T003320Z": "open"}


def test_of_many_claims_at_once_one_wins(tmp_path: Path) -> None:
    def claim(number: int) -> bool:
        try:
            desk(tmp_path, f"run{number}@there", number).answer("claim", {**CLAIM, "version": ""})
        except SluiceError:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(claim, range(20))) == 1


def test_a_torn_last_line_is_dropped_and_written_over(tmp_path: Path) -> None:
    mine = desk(tmp_path)
    name = mine.answer("claim", CLAIM)["release"]["id"]
    path = tmp_path / "ledger.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"seq": 2, "torn')
    assert mine.answer("read", {})["lines"] == 1
    record(mine, name, {"event": "begin", "phase": "preflight"})
    assert path.read_bytes().startswith(whole)
    assert mine.answer("read", {})["lines"] == 2


def test_check_mode_writes_nothing(tmp_path: Path) -> None:
    reply = desk(tmp_path).answer("claim", {**CLAIM, "check": True})
    assert reply["release"]["version"] == "v1"
    assert not (tmp_path / "ledger.jsonl").exists()
    assert not (tmp_path / "lease.json").exists()


def test_of_twenty_processes_at_once_one_gets_the_release(tmp_path: Path) -> None:
    # Forked, so that every one of them stands at the same barrier with the code loaded; the folder is not there yet.
    world = multiprocessing.get_context("fork")
    folder, barrier, answers = tmp_path / "app", world.Barrier(20), world.Queue()

    def claim(number: int) -> None:
        barrier.wait(10)
        try:
            answers.put((number, desk(folder, f"run{number}@there", number).answer("claim", CLAIM)["fence"], ""))
        except SluiceError as error:
            answers.put((number, 0, str(error)))

    runs = [world.Process(target=claim, args=(number,)) for number in range(20)]
    for run in runs:
        run.start()
    told = [answers.get(timeout=20) for _run in runs]
    for run in runs:
        run.join(10)
    assert [run.exitcode for run in runs] == [0] * 20
    ((winner, fence, _said),) = [answer for answer in told if answer[1]]
    assert fence == 1
    held = desk(folder).answer("read", {})
    assert held["lease"]["owner"] == f"run{winner}@there"
    assert (held["lines"], len(held["releases"])) == (1, 1)
    losers = [said for number, _fence, said in told if number != winner]
    assert all(said.startswith(f"The app is being changed by run{winner}@there (process {winner}) for release v1-") for said in losers)


@pytest.mark.parametrize(
    ("owner", "alive", "note"),
    [("ada@here", True, ""), ("ada@here", False, "and that process is gone"), ("ada@elsewhere", None, "")],
)
def test_only_a_process_of_this_host_can_be_known_to_be_gone(tmp_path: Path, owner: str, alive: Any, note: str) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        started = process_started(process.pid)
        # Another start time is another process that got the same number.
        desk(tmp_path, owner, process.pid, started if alive is not False else started + 1).answer("claim", {**CLAIM, "version": ""})
        assert desk(tmp_path).answer("read", {})["lease"]["alive"] is alive
        said = ""
        try:
            said = desk(tmp_path, "bob@here", 2, 3).answer("claim", CLAIM)["note"]
        except SluiceError as error:
            assert "being changed by" in str(error)
        process.kill()
    assert note in said
    assert bool(said) == bool(note)


def test_the_ledger_says_who_took_the_lease_away(tmp_path: Path) -> None:
    desk(tmp_path).answer("claim", {**CLAIM, "version": ""})
    desk(tmp_path, "bob@there", 2).answer("claim", {**CLAIM, "break_reason": "it hangs"})
    takeover, claim = Store(str(tmp_path)).records()
    assert (takeover["event"], takeover["operator"], takeover["fence"]) == ("takeover", "bob@there", 2)
    assert takeover["data"]["note"].startswith("broken by bob@there: it was held by ada@here (process 1) for release since 1970-01-01 00:16:40 UTC")
    assert (claim["event"], claim["fence"], claim["data"]) == ("claim", 2, {"version": "v1", "resumed": False})


def test_the_number_grows_through_claims_and_closes(tmp_path: Path) -> None:
    fences = []
    for number in range(4):
        run = desk(tmp_path, pid=number + 1, now=1000.0 + number)
        fences.append(run.answer("claim", {**CLAIM, "version": ""})["fence"])
        run.answer("close", {})
    assert fences == [1, 2, 3, 4]
    assert desk(tmp_path).answer("read", {})["fence"] == 4


@pytest.mark.parametrize(
    ("state", "request_"),
    [("record", {"release_id": "x", "events": [], "ttl": 9}), ("renew", {"ttl": 9}), ("close", {"release_id": "x", "event": "promote"})],
)
def test_a_run_without_the_lease_changes_nothing(tmp_path: Path, state: str, request_: dict[str, Any]) -> None:
    with pytest.raises(SluiceError) as caught:
        desk(tmp_path).answer(state, request_)
    assert str(caught.value) == "This run has lost the lease: nobody holds it now. Nothing more is changed from here. Look with status.yml."
    assert not (tmp_path / "ledger.jsonl").exists()


def test_a_lease_is_renewed_by_a_word_and_by_a_record(tmp_path: Path) -> None:
    name = desk(tmp_path).answer("claim", {**CLAIM, "ttl": 60})["release"]["id"]
    assert desk(tmp_path, now=1050.0).answer("renew", {"ttl": 60}) == {"changed": False}
    assert desk(tmp_path).answer("read", {})["lease"]["expires"] == 1110.0
    record(desk(tmp_path, now=1100.0), name, {"event": "begin", "phase": "backup"})
    assert desk(tmp_path).answer("read", {})["lease"]["expires"] == 2000.0


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"release_id": "none", "event": "promote"}, "The ledger knows no release 'none'. Look with status.yml which ones there are."),
        (
            {"event": "dance"},
            "A release that is open cannot take the event dance. Allowed now: begin, claim, end, fail, hold, promote, refuse, rollback, share.",
        ),
    ],
)
def test_a_close_that_cannot_be_keeps_the_lease(tmp_path: Path, asked: dict[str, Any], words: str) -> None:
    mine = desk(tmp_path)
    name = mine.answer("claim", CLAIM)["release"]["id"]
    with pytest.raises(SluiceError) as caught:
        mine.answer("close", {"release_id": name, **asked})
    assert str(caught.value) == words
    assert mine.answer("read", {})["lease"]["owner"] == "ada@here"
    assert mine.answer("read", {})["lines"] == 1


def test_a_close_gives_the_records_of_its_own_release(tmp_path: Path) -> None:
    mine = desk(tmp_path)
    first = mine.answer("claim", CLAIM)["release"]["id"]
    mine.answer("close", {"release_id": first, "event": "refuse", "data": {"reason": "no room"}})
    later = desk(tmp_path, now=2000.0)
    second = later.answer("claim", CLAIM)["release"]["id"]
    closed = later.answer("close", {"release_id": second, "event": "hold"})
    assert [(found["event"], found["release"]) for found in closed["records"]] == [("claim", second), ("hold", second)]
    assert [found["reason"] for found in closed["releases"]] == ["no room", ""]
