# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Queues and schedules belong to one slot: its workers run, those of the other do not, through release, rollback and failure."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import QUICK, report
from tests.e2e.test_slot import arguments, popen, run
from tests.sandbox.demo import Load
from tests.sandbox.runner import Run
from tests.sandbox.world import World

Play = Callable[..., Run]
# This is not about how fast the canary answers.
LIMITS = {"min_samples": 20, "p95_ratio": 50.0, "error_margin": 0.05}
JOBS = {"name": "jobs", "kind": "worker", "entry": "worker.js", "heartbeat": 5}


def services(world: World, **more: Any) -> list[dict[str, Any]]:
    """Return the wallet's services with a worker."""
    ports = {slot: world.facts["ports"][slot] for slot in ("blue", "green", "rehearsal")}
    return [{"name": "web", "entry": "server.js", "instances": 2, "ports": ports}, {**JOBS, **more}]


def at_work(world: World) -> set[str]:
    """Return the slots whose workers run."""
    return {entry["name"].rpartition("-")[2] for entry in world.pm2() if entry["name"].startswith("wallet-jobs-") and entry["pm2_env"]["status"] == "online"}


def environment(world: World, name: str) -> dict[str, str]:
    """Return the environment a process was started with. The kernel's copy is no use: the process's title is written over it."""
    return dict(next(entry["pm2_env"]["env"] for entry in world.pm2() if entry["name"] == name))


@pytest.mark.timeout(400)
def test_the_jobs_move_with_a_promotion_and_go_back_with_a_rollback(world: World, play: Play) -> None:
    assert run(world, "owning", slot="blue", services=services(world))["changed"]
    assert at_work(world) == {"blue"}
    with Load(world) as load:
        begun = play("release", release_version="v1.0.0", app_services=services(world), **{**QUICK, "canary_limits": LIMITS})
        assert begun.rc == 0, begun.text
        assert at_work(world) == {"green"}
        promoted = next(phase for phase in report(world)["phases"] if phase["name"] == "promote")
        assert [gate["verdict"] for gate in promoted["gates"] if gate["name"] == "workers"] == ["pass"]
        mine, web = environment(world, "wallet-jobs-green"), environment(world, "wallet-web-green")
        assert (mine["SLUICE_ROLE"], mine["SLUICE_SLOT"], "PORT" in mine) == ("live", "green", False)
        assert (web["SLUICE_ROLE"], web["SLUICE_RELEASE"]) == ("canary", mine["SLUICE_RELEASE"])
        said = Path(mine["SLUICE_HEARTBEAT"]).read_text(encoding="utf-8").split()
        assert said[:2] == ["green", "live"]

        back = play("rollback", app_services=services(world))
        assert back.rc == 0, back.text
        assert at_work(world) == {"blue"}
        saved = {entry["name"] for entry in json.loads(Path(world.facts["pm2_home"], "dump.pm2").read_text(encoding="utf-8"))}
        assert "wallet-jobs-green" in saved  # what a reboot brings back is what was promoted

        bad = play("release", release_version="v1.8.0-workshy", app_services=services(world), **{**QUICK, "canary_limits": LIMITS})
        assert bad.rc != 0
        assert "did not touch its heartbeat within 5 s" in report(world)["reason"]
        assert "the queue is locked by another worker" in report(world)["reason"]
        assert (report(world)["result"], at_work(world)) == ("rolled_back", {"blue"})
        assert load.seen()["requests"]["failed"] == 0


def test_taking_the_jobs_twice_changes_nothing_and_check_mode_neither(world: World) -> None:
    mine = services(world)
    run(world, "prepared")
    assert not run(world, "started", services=mine).get("failed")
    run(world, "owning", slot="blue", services=mine)
    would = run(world, "owning", {"check_mode": True}, slot="green", services=mine)
    assert would["changed"] and at_work(world) == {"blue"}
    done = run(world, "owning", slot="green", services=mine)
    assert done["actions"] == would["actions"] and at_work(world) == {"green"}
    assert not run(world, "owning", slot="green", services=mine)["changed"]
    assert run(world, "stopped", services=mine)["changed"]
    assert at_work(world) == set()


def test_a_cut_handover_never_has_two_owners_and_is_finished_by_the_next(world: World) -> None:
    mine = services(world)
    run(world, "prepared")
    assert not run(world, "started", services=mine).get("failed")
    for after in (0.5, 1.0, 1.6):
        run(world, "owning", slot="blue", services=mine)
        process = popen(world, arguments(world, "owning", slot="green", services=mine))
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
        process.communicate()
        assert len(at_work(world)) <= 1
        assert not run(world, "owning", slot="green", services=mine).get("failed")
        assert at_work(world) == {"green"}
    run(world, "stopped", services=mine)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"kind": "cron"}, "jobs is a 'cron' with the heartbeat 5; it must be web, or worker"),
        ({"heartbeat": -1}, "with the heartbeat -1"),
        ({"kind": "web"}, "jobs is a 'web' with the heartbeat 5"),
    ],
)
def test_a_worker_of_the_wrong_shape_is_named(world: World, more: dict[str, Any], said: str) -> None:
    before = at_work(world)
    result = run(world, "owning", slot="blue", services=services(world, **more))
    assert result["failed"] and said in result["msg"]
    assert at_work(world) == before


def test_a_worker_without_a_heartbeat_must_stay_up(world: World) -> None:
    """One that ends again at once does not take the jobs; the workers before have them again."""
    mine = services(world, heartbeat=0)
    run(world, "prepared")
    assert not run(world, "started", services=mine).get("failed")
    run(world, "owning", slot="blue", services=mine)
    result = run(world, "owning", slot="green", services=services(world, heartbeat=0, entry="public/wallet.css"))
    assert result["failed"]
    assert "The workers of v1.0.0 do not work in green: jobs ended with exit code 1" in result["msg"]
    run(world, "stopped", slot="green", services=mine)
    assert run(world, "read")["slots"]["blue"]["online"] == 2
