# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The account of a release is made from its records alone, and ends in a sentence for the operator."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.account import account, summary
from ansible_collections.sluice.deploy.plugins.module_utils.core.ledger import fold

GATE = {"name": "health", "verdict": "pass", "sentence": "it answers"}
PLAN = {"live": "blue", "idle": "green", "live_version": "v1"}


def record(name: str, at: float, phase: str = "", release: str = "r1", **data: Any) -> dict[str, Any]:
    return {"event": name, "at": at, "release": release, "phase": phase, "operator": "ann@control", "data": data}


BEGUN = [
    record("claim", 100.0, version="v2"),
    record("plan", 101.0, manifest=PLAN, digest="d1"),
    record("begin", 102.0, "backup"),
    record("end", 104.257, "backup", actions=["db1: dumped"], gates=[GATE]),
]


def told(*more: dict[str, Any]) -> dict[str, Any]:
    records = [*BEGUN, *more]
    return account(fold(records)[0].as_dict(), records)


def test_a_release_that_went_well() -> None:
    report = told(
        record("begin", 110.0, "canary"),
        record("share", 111.0, percent=5),
        record("verdict", 112.0, verdict="pass"),
        record("share", 113.0, percent=100),
        record("end", 120.0, "canary"),
        record("claim", 130.0, release="other", version="v9"),
        record("promote", 160.5),
    )
    assert report == {
        "release_id": "r1",
        "version": "v2",
        "result": "promoted",
        "reason": "",
        "opened": "1970-01-01 00:01:40 UTC",
        "closed": "1970-01-01 00:02:40 UTC",
        "seconds": 60.5,
        "operator": "ann@control",
        "manifest": PLAN,
        "plan_digest": "d1",
        "live_slot": "green",
        "live_version": "v2",
        "shares": [{"at": "1970-01-01 00:01:51 UTC", "percent": 5}, {"at": "1970-01-01 00:01:53 UTC", "percent": 100}],
        "verdicts": [{"verdict": "pass"}],
        "stops": [],
        "restores": [],
        "database": "leave",
        "phases": [
            {"name": "backup", "began": 102.0, "seconds": 2.26, "outcome": "done", "reason": "", "actions": ["db1: dumped"], "gates": [GATE]},
            {"name": "canary", "began": 110.0, "seconds": 10.0, "outcome": "done", "reason": "", "actions": [], "gates": []},
        ],
    }


def test_a_phase_that_stopped_says_why() -> None:
    report = told(record("begin", 110.0, "migrate"), record("stop", 111.0, "migrate", reason="locked", gates=[GATE]), record("fail", 112.0, reason="locked"))
    assert report["phases"][-1] == {
        "name": "migrate",
        "began": 110.0,
        "seconds": 1.0,
        "outcome": "stopped",
        "reason": "locked",
        "actions": [],
        "gates": [GATE],
    }
    assert (report["live_slot"], report["live_version"]) == ("blue", "v1")


def test_a_phase_without_an_end_was_cut_and_one_done_again_counts_once() -> None:
    assert told(record("begin", 110.0, "start"))["phases"][-1] == {"name": "start", "began": 110.0, "seconds": None, "outcome": "cut"}
    phases = told(record("begin", 110.0, "start"), record("begin", 120.0, "start"), record("end", 121.5, "start"))["phases"]
    assert [(phase["name"], phase["seconds"], phase["outcome"]) for phase in phases] == [("backup", 2.26, "done"), ("start", 1.5, "done")]


@pytest.mark.parametrize(
    ("event", "reason", "lines"),
    [
        ("promote", "", ["r1: v2 is live in green; the slot before stays warm for a rollback."]),
        (
            "hold",
            "too few requests",
            [
                "r1: v2 is held at its present share; go on with canary.yml or promote.yml, or take it back with rollback.yml.",
                "Reason: too few requests",
            ],
        ),
        ("refuse", "no room", ["r1: v2 was refused before anything real was touched; v1 serves as before.", "Reason: no room"]),
        ("fail", "locked", ["r1: v2 failed before it got any traffic; v1 serves in blue as before.", "Reason: locked"]),
        (
            "rollback",
            "errors",
            ["r1: v2 was taken back; all traffic is on blue (v1). The database was left as it is.", "Reason: errors"],
        ),
    ],
)
def test_the_last_words_say_who_serves(event: str, reason: str, lines: list[str]) -> None:
    assert summary(told(record(event, 200.0, reason=reason))) == lines


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"database": "leave", "restore": None}, "The database was left as it is."),
        ({"database": "down", "restore": None}, "Its migrations were to go down; the run says what came of it."),
        ({"database": "restore", "restore": None}, "The restore that was asked for did not come to its end; look with restore.yml --check."),
        ({"database": "restore", "restore": {"backup": "r1", "back": False, "kept": "k", "lost": []}}, "The database was restored."),
    ],
)
def test_a_rollback_says_what_became_of_the_database(data: dict[str, Any], words: str) -> None:
    restore = {**data["restore"], "rows_lost": 0, "seconds": 2.5} if data["restore"] else None
    lines = summary(told(record("promote", 150.0), record("rollback", 200.0, database=data["database"], restore=restore)))
    assert lines[0] == f"r1: v2 was taken back; all traffic is on blue (v1). {words}"
    assert len(lines) == (2 if restore else 1)


def test_a_restore_by_hand_is_told_and_leaves_the_end_of_the_release_as_it_was() -> None:
    lost = [{"table": "public.entry", "inserted": 3, "updated": 2, "deleted": 1, "how": "exact"}]
    restore = {"backup": "r1", "back": False, "kept": "shop_before", "lost": lost, "rows_lost": 6, "seconds": 9.0, "swap_ms": 40.0}
    report = told(record("promote", 160.5), record("restore", 500.0, **restore))
    assert report["result"] == "promoted" and report["seconds"] == 60.5
    assert report["restores"] == [{"at": "1970-01-01 00:08:20 UTC", "operator": "ann@control", **restore}]
    assert summary(report)[-1] == (
        "At 1970-01-01 00:08:20 UTC the database went back to the backup of r1, by ann@control in 9.0 s; "
        "6 rows written since were lost (public.entry). Kept as shop_before."
    )


def test_a_release_refused_before_preflight_knows_no_live_version() -> None:
    records = [record("claim", 1.0, version="v2"), record("refuse", 2.0, reason="no edge")]
    report = account(fold(records)[0].as_dict(), records)
    assert summary(report)[0] == "r1: v2 was refused before anything real was touched; the live version serves as before."


def test_a_release_that_is_open_is_said_to_be() -> None:
    assert summary(told()) == ["r1: open"]
