# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases in place: both slots have one port, so one ends before the other starts, and the site is closed meanwhile.

The tests share one world and run in their order.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import report
from tests.e2e.test_release import await_record, cut, lease, served, snapshot, started
from tests.sandbox.demo import Load
from tests.sandbox.runner import Run
from tests.sandbox.world import World

Play = Callable[..., Run]
JOBS = {"name": "jobs", "kind": "worker", "entry": "worker.js", "heartbeat": 5}


def place(world: World, *more: dict[str, Any], rehearsal: bool = True) -> dict[str, Any]:
    """Return the variables of an app in place whose slots share the port that blue has."""
    port = world.facts["ports"]["blue"]
    ports = {"blue": port, "green": port, **({"rehearsal": world.facts["ports"]["rehearsal"]} if rehearsal else {})}
    services = [{"name": "web", "entry": "server.js", "instances": 2, "health_path": "/api/health", "ports": ports}, *more]
    limits = {"min_samples": 20, "p95_ratio": 50.0, "p95_seconds": 3.0, "error_margin": 0.05}
    return {"app_in_place": True, "app_services": services, "canary_steps": [], "canary_watch_seconds": 1, "canary_limits": limits}


def running(world: World) -> set[str]:
    """Return the processes that are online."""
    return {entry["name"] for entry in world.pm2() if entry["pm2_env"]["status"] == "online"}


def closed(world: World) -> bool:
    """Tell whether a visitor finds the site closed."""
    try:
        with urllib.request.urlopen(world.url, timeout=5):
            return False
    except urllib.error.HTTPError as error:
        return error.code == 503 and error.headers.get("Sluice-Maintenance") == "on"


def assert_only_closed(load: Load, world: World) -> dict[str, Any]:
    """Assert that no request was lost but to the closed site, and no payment written twice."""
    time.sleep(0.7)
    counts = load.seen()
    assert counts["requests"]["failed"] == 0, counts["lost"]
    assert counts["requests"]["app_errors"] == 0
    doubled = world.psql("SELECT count(*) - count(DISTINCT reference) FROM transactions WHERE reference NOT LIKE 'smoke%'")
    assert doubled == "0"
    return counts


def test_a_good_version_takes_the_place_of_the_live_one(world: World, play: Play, load: Load) -> None:
    edge = play("edge", **place(world))
    assert edge.rc == 0, edge.text
    run = play("release", release_version="v1.0.0", **place(world))
    print(run.text)
    assert run.rc == 0, run.text
    done = report(world)
    print(done["stops"], load.seen()["requests"])
    assert (done["result"], done["live_version"], done["live_slot"]) == ("promoted", "v1.0.0", "green")
    assert served(world) == ("v1.0.0", "green")
    assert running(world) == {"wallet-web-green"}
    counts = assert_only_closed(load, world)
    (stop,) = done["stops"]
    first, last = counts["requests"]["closed_at"]
    assert counts["requests"]["closed"] > 0
    # What visitors met is what the account says, to within the time of two small tasks.
    assert 0 <= stop["seconds"] - (last - first) < 2
    assert stop["seconds"] < 15
