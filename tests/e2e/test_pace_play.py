# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan can see, when its steps are taken, and the watch after it, in whole playbooks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.e2e.conftest import QUICK, report
from tests.e2e.test_release import assert_lossless, served, share, snapshot
from tests.sandbox.demo import Load
from tests.sandbox.runner import Run
from tests.sandbox.world import World

Play = Callable[..., Run]
LATER: dict[str, Any] = {
    **QUICK,
    "canary_accept_blind": False,
    "canary_steps": [
        {"percent": 25, "min": 1, "max": 4, "then": "hold"},
        {"percent": 100, "min": 1, "max": 4, "then": "hold", "not_before": 3600},
    ],
    "canary_pace": "stepwise",
}


def shares(world: World) -> int:
    """Return how often a share was written."""
    return sum(record["event"] == "share" for record in world.ledger())


def test_a_plan_that_can_see_nothing_is_refused(world: World, play: Play) -> None:
    before = snapshot(world)
    refused = play("release", release_version="v1.0.0", **{**QUICK, "canary_accept_blind": False})
    assert refused.rc != 0
    assert "FAIL power:" in refused.flat and "detects nothing" in refused.flat
    assert "canary_accept_blind=true" in refused.flat
    assert snapshot(world) == before
    tested = play("preflight", canary_self_test=True, canary_accept_blind=True)
    assert tested.rc != 0
    assert "self test: two halves" in tested.flat and "too few to test the judge" in tested.flat


def test_a_step_is_taken_when_it_is_due(world: World, play: Play, load: Load) -> None:
    time.sleep(4)
    held = play("release", release_version="v1.0.0", canary_self_test=True, **LATER)
    assert held.rc == 0, held.text
    assert "ok power: 25 % for 4 s at" in held.flat
    assert "ok self test: two halves of the live slot's own traffic" in held.flat
    assert (share(world), report(world)["result"]) == (25, "held")
    written = shares(world)
    for variables in ({}, {"canary_percent": 25}):
        asked = play("canary", **variables, **LATER)
        assert asked.rc == 0, asked.text
        assert variables or "100 % is due in 59 min; the share stays at 25 %" in asked.flat or "100 % is due in 1 h 0 min" in asked.flat
        assert (share(world), shares(world)) == (25, written)
    early = play("canary", canary_percent=50, **LATER)
    assert early.rc != 0
    assert "comes too early: 100 % is due in" in early.flat
    closed = play("canary", canary_windows=[{"days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], "from": "00:00", "to": "00:01"}], **LATER)
    assert closed.rc == 0 and " is due in " in closed.flat
    reasoned = play("canary", canary_percent=100, canary_force_reason="the board said so", **LATER)
    assert reasoned.rc == 0, reasoned.text
    assert share(world) == 100
    promoted = play("promote", canary_force_reason="the board said so", **LATER)
    assert promoted.rc == 0, promoted.text
    assert_lossless(load, world)


def test_the_watch_looks_when_it_is_due_and_takes_a_bad_version_back(world: World, play: Play, load: Load) -> None:
    time.sleep(2)
    looked = play("watch", canary_watch_phases=[{"until": 3600, "every": 1}], **QUICK)
    assert looked.rc == 0, looked.text
    newest = next(record for record in reversed(world.ledger()) if record["event"] == "watch")
    assert {reading["metric"] for reading in newest["data"]["history"]["readings"]} == {"restarts", "failed_probes"}
    assert [record["data"]["verdict"] for record in world.ledger() if record["event"] == "watch"] == ["pass"]
    later = play("watch", **QUICK)
    assert later.rc == 0 and "looks again in" in later.flat
    blind = {"error_rate": 0.9, "error_margin": 0.9, "guard_errors": 1000, "guard_requests": 1000, "min_samples": 1, "p95_ratio": 100, "p95_seconds": 60}
    bad = play("release", release_version="v1.1.0-bad", **{**QUICK, "canary_limits": blind})
    assert bad.rc == 0, bad.text
    time.sleep(6)
    often = {**QUICK, "canary_watch_phases": [{"until": 3600, "every": 1}]}
    told = play("watch", **often)
    assert told.rc != 0
    assert "v1.1.0-bad fails after its promotion; take it back with rollback.yml" in told.flat
    assert served(world)[0] == "v1.1.0-bad"
    time.sleep(6)
    back = play("watch", canary_watch_rollback=True, **often)
    assert back.rc != 0
    assert "was rolled back" in back.flat
    assert served(world)[0] == "v1.0.0"
    assert report(world)["result"] == "rolled_back"
    done = play("watch", **often)
    assert done.rc == 0 and "Nothing to watch" in done.flat
