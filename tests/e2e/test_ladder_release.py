# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole releases under a ladder of limits: a canary whose requests look healthy is warned of, held and taken back for what its log cannot show."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import QUICK, report
from tests.e2e.test_metric_sources import Target
from tests.sandbox.demo import Load
from tests.sandbox.runner import Run
from tests.sandbox.world import World

Play = Callable[..., Run]

# A step that has time for some looks.
STEPS = [{"percent": 25, "min": 3, "max": 8, "then": "rollback"}, {"percent": 100, "min": 1, "max": 5, "then": "rollback"}]
HOST = ("restarts", "memory", "disk", "database_connections", "deadlocks")


@pytest.fixture
def target() -> Iterator[Target]:
    """The app's own numbers, which the test sets."""
    with Target() as running:
        yield running


def queue(target: Target, **more: Any) -> dict[str, Any]:
    """Return the variables of a release that is held to the age of a queue."""
    source = {"metric": "custom:queue_age", "source": "http", "url": f"{target.url}/health/metrics", "path": "queue.age_seconds", "unit": "s"}
    return {**QUICK, "canary_steps": STEPS, "canary_look_seconds": 1.0, "canary_metrics": [source], **more}


def limit(metric: str, value: float, action: str, **more: Any) -> dict[str, Any]:
    """Return one rung."""
    return {"metric": metric, "op": ">", "value": value, "action": action, **more}


def share(world: World) -> int:
    """Return the canary's share by the edge's own truth: the name of the set of buckets it serves, live, idle, share."""
    return int(os.path.basename(os.readlink(Path(world.facts["edge"], "wallet/traffic")).rstrip("/")).split("-")[2])


def assert_unnoticed(load: Load) -> None:
    """Assert that no visitor met a failure."""
    time.sleep(0.7)
    counts = load.seen()["requests"]
    assert (counts["failed"], counts["app_errors"]) == (0, 0)


def test_a_ladder_that_nothing_can_tell_is_refused_beforehand(world: World, play: Play, target: Target) -> None:
    before = len(world.ledger())
    run = play("release", release_version="v1.0.0", **queue(target, canary_ladder=[limit("custom:queue_age", 60, "stop"), limit("disk", 0.99, "hold")]))
    assert run.rc != 0
    assert "canary_ladder: limit 1: action is 'stop'; allowed are warn, hold, rollback. Example: canary_ladder: [{metric: " in run.flat
    run = play("release", release_version="v1.0.0", **queue(target, canary_ladder=[limit("custom:queue_age", 60, "hold"), limit("disk", 0.99, "hold")]))
    assert run.rc != 0
    assert "canary_ladder: limit 2 looks at disk, which nothing reads;" in run.flat
    assert "nothing was changed" in run.flat
    assert (len(world.ledger()), target.asked) == (before, [])


def test_a_healthy_looking_canary_is_rolled_back_for_its_queue(world: World, play: Play, load: Load, target: Target) -> None:
    target.queue_age = 900
    rungs = [limit("custom:queue_age", 30, "warn"), limit("custom:queue_age", 300, "rollback", **{"for": 2}), limit("p95", 5.0, "rollback", min_samples=20)]
    run = play("release", release_version="v1.0.0", **queue(target, canary_ladder=rungs))
    assert run.rc != 0
    done = report(world)
    assert (done["result"], done["live_version"]) == ("rolled_back", "v0.9.9")
    assert share(world) == 0
    assert "custom:queue_age on sandbox is 900 s, for " in done["reason"]
    assert "custom:queue_age > 300 for 2 s: rollback." in done["reason"]
    assert run.flat.count("warning: custom:queue_age on sandbox is 900 s; custom:queue_age > 30: warn.") == 1
    verdict = next(record for record in reversed(world.ledger()) if record["event"] == "verdict")
    assert verdict["data"]["word"] == "rollback"
    judged = [(gate["name"], gate["verdict"]) for gate in verdict["data"]["gates"]]
    assert [name for name, verdict in judged if verdict == "fail"] == ["custom:queue_age"]
    green = verdict["data"]["sample"]["slots"][done["manifest"]["idle"]]
    assert green["requests"] > 20 and green["errors"] == 0
    assert_unnoticed(load)


def test_a_source_that_does_not_answer_holds(world: World, play: Play, load: Load, target: Target) -> None:
    source = {"metric": "custom:queue_age", "source": "http", "url": f"{target.url}/none", "path": "queue.age_seconds"}
    rungs = [limit("custom:queue_age", 300, "rollback")]
    steps = [{**STEPS[0], "min": 15, "max": 30}, STEPS[1]]
    run = play("release", release_version="v1.0.0", **queue(target, canary_ladder=rungs, canary_metrics=[source], canary_steps=steps))
    done = report(world)
    assert done["result"] == "held", run.text
    assert "custom:queue_age on sandbox could not be read 4 times in a row:" in done["reason"]
    assert "/none answered with status 404. The share is held." in done["reason"]
    assert share(world) == 25
    back = play("rollback")
    assert back.rc == 0, back.text
    assert_unnoticed(load)


def test_an_alarm_does_not_wait_for_a_slow_source(world: World, play: Play, load: Load, target: Target) -> None:
    source = {"metric": "custom:queue_age", "source": "http", "url": f"{target.url}/drip", "path": "queue.age_seconds", "deadline": 30}
    rungs = [limit("custom:queue_age", 300, "rollback")]
    steps = [{**STEPS[0], "min": 20, "max": 30}, STEPS[1]]
    variables = {**queue(target, canary_ladder=rungs, canary_metrics=[source], canary_steps=steps), "canary_look_seconds": 20.0}
    assert play("release", release_version="v1.5.0-dead", app_smoke=[], **variables).rc != 0
    done = report(world)
    assert done["result"] == "rolled_back"
    assert "error rate" in done["reason"]
    assert target.asked == []


def test_a_good_version_passes_every_limit(world: World, play: Play, load: Load, target: Target) -> None:
    target.queue_age = 4
    sources = [*queue(target)["canary_metrics"], *({"metric": metric, "source": "host"} for metric in HOST)]
    rungs = [
        limit("custom:queue_age", 300, "rollback", **{"for": 60}),
        limit("error_rate", 0.01, "rollback", min_samples=20),
        limit("mean", 5.0, "rollback", min_samples=20),
        limit("restarts", 0, "rollback"),
        limit("deadlocks", 0, "rollback"),
        *(limit(metric, 0.999, "hold") for metric in ("memory", "disk", "database_connections")),
    ]
    run = play("release", release_version="v1.0.0", **queue(target, canary_ladder=rungs, canary_metrics=sources))
    assert run.rc == 0, run.text
    assert report(world)["result"] == "promoted"
    gates = {gate["name"] for phase in report(world)["phases"] if phase["name"] == "canary" for gate in phase["gates"]}
    assert {limit["metric"] for limit in rungs} <= gates
    assert_unnoticed(load)
    assert play("rollback").rc == 0


@pytest.mark.parametrize(
    ("version", "metric"), [("v1.6.0-sick", "failed_probes"), ("v1.7.0-restless", "restarts")]
)
def test_a_canary_whose_requests_are_fine_is_rolled_back_by_the_guard(world: World, play: Play, load: Load, version: str, metric: str) -> None:
    steps = [{**STEPS[0], "percent": 50, "min": 60, "max": 90}, STEPS[1]]
    run = play("release", release_version=version, **{**QUICK, "canary_steps": steps, "canary_look_seconds": 1.0})
    assert run.rc != 0
    done = report(world)
    assert (done["result"], done["live_version"]) == ("rolled_back", "v0.9.9"), done["reason"]
    assert f"{metric} on sandbox is " in done["reason"] and f"{metric} >= 3: rollback." in done["reason"]
    verdict = next(record for record in reversed(world.ledger()) if record["event"] == "verdict")
    assert verdict["data"]["elapsed"] < 60  # before the step could have passed
    assert share(world) == 0
    assert_unnoticed(load)


def test_the_guard_passes_a_good_version(world: World, play: Play, load: Load) -> None:
    run = play("release", release_version="v1.0.0", **{**QUICK, "canary_ladder": [limit("error_rate", 0.01, "rollback", min_samples=20)]})
    assert run.rc == 0, run.text
    gates = {gate["name"]: gate["verdict"] for phase in report(world)["phases"] if phase["name"] == "canary" for gate in phase["gates"]}
    assert (gates["restarts"], gates["failed_probes"]) == ("pass", "pass")
    assert play("rollback").rc == 0


def test_an_increase_by_hand_climbs_the_same_ladder(world: World, play: Play, load: Load, target: Target) -> None:
    target.queue_age = 4
    limits = {**QUICK["canary_limits"], "min_samples": 20}
    variables = queue(target, canary_ladder=[limit("custom:queue_age", 300, "hold")], canary_pace="stepwise", canary_limits=limits)
    begun = play("release", release_version="v1.0.0", **variables)
    assert begun.rc == 0 and share(world) == 25, begun.text
    target.queue_age = 900
    time.sleep(3)
    refused = play("canary", canary_percent=100, **variables)
    assert refused.rc != 0
    assert "The share stays at 25 %: custom:queue_age on sandbox is 900 s; custom:queue_age > 300: hold." in refused.flat
    assert share(world) == 25
    target.queue_age = 4
    assert play("canary", canary_percent=100, **variables).rc == 0
    assert share(world) == 100
    assert play("rollback").rc == 0
    assert_unnoticed(load)
