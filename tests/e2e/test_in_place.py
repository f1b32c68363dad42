# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases in place: both slots have one port, so one ends before the other starts, and the site is closed meanwhile.

The tests share one world and run in their order.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import QUICK, report
from tests.e2e.test_release import cut, lease, served, snapshot, started
from tests.e2e.test_slot import arguments, popen
from tests.e2e.test_slot import run as module
from tests.sandbox.demo import Load
from tests.sandbox.runner import Run, run_playbook
from tests.sandbox.world import World

Play = Callable[..., Run]
JOBS = {"name": "jobs", "kind": "worker", "entry": "worker.js", "heartbeat": 5}


def place(world: World, rehearsal: bool = True) -> dict[str, Any]:
    """Return the variables of an app in place whose slots share the port that blue has."""
    port = world.facts["ports"]["blue"]
    ports = {"blue": port, "green": port, **({"rehearsal": world.facts["ports"]["rehearsal"]} if rehearsal else {})}
    services = [{"name": "web", "entry": "server.js", "instances": 2, "health_path": "/api/health", "ports": ports}, JOBS]
    limits = {"min_samples": 20, "p95_ratio": 50.0, "p95_seconds": 3.0, "error_margin": 0.05}
    return {"app_in_place": True, "app_services": services, "canary_steps": [], "canary_watch_seconds": 1, "canary_limits": limits}


def alive(slot: str) -> set[str]:
    """Return the processes of one slot that has everything."""
    return {f"wallet-web-{slot}", f"wallet-jobs-{slot}"}


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


def saved(world: World) -> set[str]:
    """Return the processes that come back after a reboot."""
    return {entry["name"] for entry in json.loads(Path(world.facts["pm2_home"], "dump.pm2").read_text(encoding="utf-8"))}


def assert_measured(stops: list[dict[str, Any]], counts: dict[str, Any]) -> None:
    """Assert that the last stop of an account is what visitors met, to within the time of small tasks."""
    first, last = counts["requests"]["closed_at"]
    print(f"\nthe stop: {stops[-1]['seconds']:.1f} s in the account, {last - first:.1f} s met by visitors, {counts['requests']['closed']} closed answers")
    assert -0.1 <= stops[-1]["seconds"] - (last - first) < max(5, stops[-1]["seconds"] / 2)


def assert_only_closed(load: Load, world: World) -> dict[str, Any]:
    """Assert that no request was lost but to the closed site, and no payment written twice."""
    time.sleep(0.7)
    counts = load.seen()
    assert counts["requests"]["failed"] == 0, counts["lost"]
    assert counts["requests"]["app_errors"] == 0
    doubled = world.psql("SELECT count(*) - count(DISTINCT reference) FROM transactions WHERE reference NOT LIKE 'smoke%'")
    assert doubled == "0"
    return counts


@pytest.fixture(scope="module", autouse=True)
def shared(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Have the edge know that both slots are the same hosts."""
    done = run_playbook(world, tmp_path_factory.mktemp("edge"), "edge", (), 0, place(world))
    assert done.rc == 0, done.text


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"canary_steps": [{"percent": 100}]}, "canary_steps would steer a canary, but app_in_place: true leaves the canary out"),
        ({"canary_pace": "stepwise"}, "canary_pace would steer a canary"),
        ({"app_in_place": "perhaps"}, "app_in_place must be true or false, not 'perhaps'."),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(world: World, play: Play, variables: dict[str, Any], said: str) -> None:
    before = snapshot(world)
    run = play("release", release_version="v1.0.0", **{**place(world), **variables})
    assert run.rc != 0
    assert said in run.flat and "nothing was changed" in run.flat
    assert snapshot(world) == before


def test_two_slots_that_run_together_need_ports_of_their_own(world: World, play: Play) -> None:
    before = snapshot(world)
    run = play("release", release_version="v1.0.0", **{**place(world), "app_in_place": False, **QUICK})
    assert run.rc != 0
    assert "web needs three different ports" in run.flat
    assert snapshot(world) == before


def test_check_mode_tells_of_the_stop_and_changes_nothing(world: World, play: Play) -> None:
    before, records = snapshot(world), len(world.ledger())
    run = play("release", "--check", "--diff", release_version="v1.0.0", **place(world))
    assert run.rc == 0, run.text
    for said in (
        "left out, the app is in place: no second slot runs that could be compared",
        "maintenance on: the site is closed",
        "v1.0.0 runs in green now, in place of v0.9.9 in blue",
        "live slot: blue -> green",
    ):
        assert said in run.flat
    assert (snapshot(world), len(world.ledger())) == (before, records)


@pytest.mark.timeout(400)
def test_a_good_version_takes_the_place_of_the_live_one_and_goes_back(world: World, play: Play) -> None:
    mine = place(world)
    with Load(world) as load:
        run = play("release", release_version="v1.0.0", **mine)
        assert run.rc == 0, run.text
        done = report(world)
        assert (done["result"], done["live_version"], done["live_slot"]) == ("promoted", "v1.0.0", "green")
        assert served(world) == ("v1.0.0", "green")
        assert running(world) == saved(world) == alive("green")
        outcomes = {phase["name"]: phase["outcome"] for phase in done["phases"]}
        assert (outcomes["start"], outcomes["canary"], outcomes["promote"], outcomes["watch"]) == ("left out", "left out", "done", "done")
        assert {"compatibility", "smoke", "health", "workers"} <= {gate["name"] for phase in done["phases"] for gate in phase["gates"]}
        counts = assert_only_closed(load, world)
        assert_measured(done["stops"], counts)
        assert "The site was closed for" in run.flat and "v0.9.9 does not run, and a rollback starts it again" in run.flat
    with Load(world) as load:
        back = play("rollback", **mine)
        assert back.rc == 0, back.text
        assert "v0.9.9 in blue: possible, it is kept in blue and is started again in a short stop" in back.flat
        assert served(world) == ("v0.9.9", "blue")
        assert running(world) == saved(world) == alive("blue")
        assert report(world)["result"] == "rolled_back"
        assert_measured(report(world)["stops"], assert_only_closed(load, world))


@pytest.mark.timeout(300)
def test_a_version_that_does_not_start_gives_its_place_back(world: World, play: Play, load: Load) -> None:
    """Without a port for the rehearsal nothing of it is started before."""
    run = play("release", release_version="v1.2.0-crash", **place(world, rehearsal=False))
    assert run.rc != 0
    done = report(world)
    assert (done["result"], done["live_version"], done["phases"][-1]["name"]) == ("rolled_back", "v0.9.9", "promote")
    assert "Exit code 3" in done["reason"] and "v0.9.9 runs in blue again." in done["reason"]
    assert ("compatibility", "waived") in {(gate["name"], gate["verdict"]) for phase in done["phases"] for gate in phase["gates"]}
    assert running(world) == alive("blue")
    assert served(world) == ("v0.9.9", "blue")
    assert_measured(done["stops"], assert_only_closed(load, world))


@pytest.mark.timeout(400)
def test_a_version_that_fails_its_visitors_is_taken_back_by_the_watch(world: World, play: Play, load: Load) -> None:
    run = play("release", release_version="v1.1.0-bad", **{**place(world), "canary_watch_seconds": 15})
    assert run.rc != 0
    done = report(world)
    assert (done["result"], done["phases"][-1]["name"], len(done["stops"])) == ("rolled_back", "watch", 2)
    assert "error rate" in done["reason"]
    assert (served(world), running(world)) == (("v0.9.9", "blue"), alive("blue"))
    assert saved(world) == alive("blue")
    time.sleep(0.7)
    assert load.seen()["requests"]["failed"] == 0


@pytest.mark.parametrize(
    ("version", "variables"),
    [("v1.4.0-slow", {"app_build": [["false"]]}), ("v1.3.0-breaking", {"migrate_floor_moves": True})],
)
def test_what_fails_before_the_stop_closes_nothing(world: World, play: Play, load: Load, version: str, variables: dict[str, Any]) -> None:
    before = served(world), running(world)
    run = play("release", release_version=version, **place(world), **variables)
    assert run.rc != 0
    assert (report(world)["result"], report(world)["stops"]) == ("refused", [])
    assert (served(world), running(world)) == before
    assert assert_only_closed(load, world)["requests"]["closed"] == 0


def cut_in_the_stop(world: World, after: float, **variables: Any) -> str:
    """Kill a release some time after it has begun to close the site; return its id."""
    since = len(world.ledger())
    run = started(world, "v1.0.0", **place(world), **variables)
    deadline = time.monotonic() + 100
    while not any(record["event"] == "closed" for record in world.ledger()[since:]):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(after)
    cut(run)
    return str(world.ledger()[-1]["release"])


@pytest.mark.timeout(600)
def test_a_release_cut_in_its_stop_goes_on_or_goes_back(world: World, play: Play) -> None:
    name, mine = "", place(world)
    for after in (0.5, 2.0, 4.0):
        if name and not any(record["event"] == "closed" for record in world.ledger() if record.get("release") == name):
            break
        before = len(world.ledger())
        name = cut_in_the_stop(world, after, **({"release_id": name} if name else {}))
        told = play("status", **mine)
        if any(record["event"] == "opened" for record in world.ledger()[before:]):
            break
        assert f"for {name}. rollback.yml starts the version before and opens it; maintenance.yml -e maintenance_state=off opens it as it is." in told.flat
        assert closed(world) or served(world)
    # A run that cannot go on leaves it open, and says that the site is closed.
    stuck = play("release", release_version="v1.0.0", release_id=name, **{**mine, "app_env_file": "/nowhere/wallet.env"})
    assert stuck.rc != 0
    assert "It had gone further before, so it stays open" in stuck.flat
    refused = play("release", release_version="v1.1.0-bad", **mine)
    assert refused.rc != 0 and f"The release {name} has not ended" in refused.flat
    moved = play("canary", **mine)
    assert moved.rc != 0 and "is in place, so there is no canary to move" in moved.flat
    last = play("release", release_version="v1.0.0", release_id=name, **mine)
    assert last.rc == 0, last.text
    assert report(world)["result"] == "promoted"
    assert served(world) == ("v1.0.0", "green")
    assert running(world) == alive("green")
    assert not closed(world)


@pytest.mark.timeout(400)
def test_a_rollback_whose_version_does_not_start_leaves_the_live_one(world: World, play: Play, load: Load) -> None:
    if served(world)[0] != "v1.0.0":
        assert play("release", release_version="v1.0.0", **place(world)).rc == 0
    folder = next(Path(world.facts["app"], "releases").glob("v0.9.9-*"))
    whole = (folder / "server.js").read_text(encoding="utf-8")
    (folder / "server.js").write_text("process.exit(3);\n", encoding="utf-8")
    try:
        run = play("rollback", **place(world))
        assert run.rc != 0
        assert "v0.9.9 does not serve on every host" in run.flat and "The version that was live serves again." in run.flat
        assert served(world) == ("v1.0.0", "green")
        assert running(world) == alive("green")
        assert world.ledger()[-1]["event"] == "opened"
        assert "owner" not in lease(world)
    finally:
        (folder / "server.js").write_text(whole, encoding="utf-8")
    assert_only_closed(load, world)
    back = play("rollback", **place(world))
    assert back.rc == 0, back.text
    assert served(world) == ("v0.9.9", "blue")


@pytest.mark.timeout(400)
def test_a_release_cut_in_its_stop_is_rolled_back(world: World, play: Play) -> None:
    cut_in_the_stop(world, 1.0)
    back = play("rollback", **place(world))
    assert back.rc == 0, back.text
    assert report(world)["result"] == "rolled_back"
    assert served(world) == ("v0.9.9", "blue")
    assert running(world) == saved(world) == alive("blue")
    assert not closed(world)


def one(world: World, state: str, flags: dict[str, bool] | None = None, **more: Any) -> dict[str, Any]:
    """Run the slot module for the app in place."""
    return module(world, state, flags, in_place=True, services=place(world)["app_services"], **more)


@pytest.mark.timeout(300)
def test_an_exchange_changes_once_and_check_mode_nothing(world: World) -> None:
    one(world, "prepared")
    one(world, "alone", slot="blue", version=None, commit=None)
    before = running(world)
    would = one(world, "alone", {"check_mode": True, "diff": True})
    assert would["changed"] and running(world) == before
    done = one(world, "alone")
    assert done["changed"] and done["actions"] == would["actions"]
    assert running(world) == {"wallet-web-green"}
    again = one(world, "alone")
    assert not again["changed"] and again["actions"] == ["green runs v1.0.0 already, alone, and is healthy"]
    environment = Path(world.facts["env_file"])
    whole = environment.read_text(encoding="utf-8")
    environment.write_text(f"{whole}GREETING=hello\n", encoding="utf-8")
    try:
        # The way back takes what runs as it is; a release starts it anew with what the environment says now.
        assert not one(world, "alone", version=None, commit=None)["changed"]
        assert one(world, "alone")["actions"] == ["v1.0.0 runs in green now"]
        assert not one(world, "alone")["changed"]
    finally:
        environment.write_text(whole, encoding="utf-8")
    assert one(world, "alone", fence=1)["msg"].startswith("A newer run (fencing number ")
    unbuilt = one(world, "alone", slot="blue", version="v9.9.9", commit="0" * 40)
    assert "is not built. Nothing was stopped." in unbuilt["msg"] and running(world) == {"wallet-web-green"}


@pytest.mark.timeout(300)
def test_the_exchange_of_a_dead_run_does_not_meet_the_way_back(world: World) -> None:
    """A module outlives its run: the next exchange waits for its end, and has the last word."""
    one(world, "alone", slot="blue", version=None, commit=None)
    words = arguments(world, "alone", in_place=True, services=place(world)["app_services"])
    orphan = popen(world, words)
    time.sleep(1.0)
    back = one(world, "alone", slot="blue", version=None, commit=None)
    out, _err = orphan.communicate(timeout=60)
    assert not json.loads(out).get("failed") and not back.get("failed"), (out, back)
    assert running(world) == {"wallet-web-blue"}
    assert one(world, "read")["slots"]["blue"]["online"] == 2
