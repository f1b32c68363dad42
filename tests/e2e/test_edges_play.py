# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks over two edges: both move or none does, status tells of each, and the site is closed and opened on both."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.conftest import QUICK, report
from tests.e2e.edges import Edge, binary_of
from tests.e2e.test_release import assert_lossless
from tests.sandbox.demo import Load
from tests.sandbox.runner import Run
from tests.sandbox.world import World

Play = Callable[..., Run]
SECRET = "s3cret-of-the-testers"
HOLD = {
    **QUICK,
    "canary_steps": [
        {"percent": 0, "min": 1, "max": 1, "then": "promote"},
        {"percent": 25, "min": 1, "max": 4, "then": "hold"},
        {"percent": 100, "min": 1, "max": 4, "then": "hold"},
    ],
    "canary_pace": "stepwise",
}


@pytest.fixture(scope="module", params=["buckets", "weights"])
def second(request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """A second edge beside the world's own, in an inventory of its own."""
    folder = tmp_path_factory.mktemp("second")
    edge = Edge(folder, binary_of("current"))
    edge.defaults["switch"] = request.param
    variables = {
        "edge_directory": str(folder / "sluice"),
        "edge_log": str(folder / "wallet.log"),
        "edge_control": edge.control,
        "edge_nginx_command": edge.command,
    }
    groups = {"edges": {"hosts": {"second": variables}}, "all": {"vars": {"edge_switch": request.param, "edge_tester_secret": SECRET}}}
    (folder / "hosts.json").write_text(json.dumps({"all": {"children": {"edges": groups["edges"]}, **groups["all"]}}))
    try:
        yield edge
    finally:
        edge.end()


@pytest.fixture
def fleet(play: Play, second: Edge) -> Play:
    """Run a playbook over both edges."""

    def runner(name: str, *words: str, **variables: Any) -> Run:
        return play(name, "-i", str(second.folder / "hosts.json"), *words, **variables)

    return runner


@pytest.fixture
def joined(fleet: Play, second: Edge) -> Play:
    """Run a playbook over both edges, once the second one serves."""
    if second.master() is None:
        made = fleet("edge", edge_live="blue", edge_nginx_running="optional")
        assert made.rc == 0, made.text
        second.start()
    return fleet


def versions(world: World, second: Edge, **headers: str) -> set[str]:
    """Return the versions both edges answer with."""
    found = set()
    for port in (world.facts["ports"]["public"], second.port):
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/health", headers={name.replace("_", "-"): value for name, value in headers.items()})
        with urllib.request.urlopen(request, timeout=5) as answer:
            found.add(json.loads(answer.read())["version"])
    return found


def states(run: Run) -> list[str]:
    """Return what status.yml says of the edges."""
    return [line.strip() for line in run.text.splitlines() if line.strip().startswith("edge ")]


def test_two_edges_are_one(world: World, second: Edge, fleet: Play, load: Load) -> None:
    """Brought up to date, released over, broken, rolled back."""
    would = fleet("edge", "--check", "--diff", edge_live="blue", edge_nginx_running="optional")
    assert would.rc == 0, would.text
    assert "upstream wallet_web_blue" in would.text and SECRET not in would.text
    assert not second.generated.exists()
    made = fleet("edge", edge_live="blue", edge_nginx_running="optional")
    assert made.rc == 0, made.text
    second.start()
    assert fleet("edge").rc == 0
    again = fleet("edge")
    assert "edge second: blue live, shares blue 100 %, green 0 %" in again.text and "generation 1 ->" not in again.text

    status = fleet("status")
    assert len(states(status)) == 2 and "do NOT agree" not in status.text
    assert SECRET not in status.text + made.text

    held = fleet("release", release_version="v1.0.0", **HOLD)
    assert held.rc == 0, held.text
    assert report(world)["result"] == "held"
    assert "0 % is for testers alone" in held.text
    assert {line.split("shares ")[1].split(", " + second.defaults["switch"])[0] for line in states(fleet("status")) if "shares" in line} == {
        "blue 75 %, green 25 %"
    }
    assert versions(world, second, Sluice_Tester=SECRET) == {"v1.0.0"}
    assert versions(world, second, Sluice_Tester=f"{SECRET}/blue") == {"v0.9.9"}

    # One edge cannot move: none does, and it is named.
    second.stop()
    broken = fleet("canary", canary_percent=30, canary_force_reason="a test", edge_reload_timeout=2, **HOLD)
    assert broken.rc != 0
    assert "edge second: FAILED" in broken.text
    assert "edge sandbox: went back" in broken.text or "edge sandbox: was not switched" in broken.text
    now = states(fleet("status"))
    assert any("edge sandbox: blue live, shares blue 75 %, green 25 %" in line for line in now), now
    assert any("does NOT answer" in line for line in now), now

    # A way back does not wait for the edge that is down.
    back = fleet("rollback", edge_reload_timeout=2)
    assert back.rc != 0
    assert "edge second: FAILED" in back.text
    assert any("edge sandbox: blue live, shares blue 100 %, green 0 %" in line for line in states(fleet("status")))
    assert "do NOT agree" in fleet("status").text
    second.start()
    assert fleet("rollback").rc == 0
    assert "do NOT agree" not in fleet("status").text
    assert versions(world, second) == {"v0.9.9"}
    # The world's nginx has keepalive_min_timeout, so not even the reloads of weights lose a request.
    assert_lossless(load, world)


@pytest.mark.parametrize("second", ["buckets"], indirect=True)  # a closed site is closed the same way by both switches
def test_a_site_is_closed_and_opened_on_every_edge(world: World, second: Edge, joined: Play) -> None:
    closed = joined("maintenance", maintenance_state="on")
    assert closed.rc == 0, closed.text
    assert "closed for maintenance" in closed.text
    for port in (world.facts["ports"]["public"], second.port):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
        assert (refused.value.code, refused.value.headers["Retry-After"]) == (503, "300")
    assert versions(world, second) == {"v0.9.9"}  # the health path stays open
    assert joined("status").text.count("CLOSED for maintenance") == 2
    refused_release = joined("release", release_version="v1.0.0", **QUICK)
    assert refused_release.rc != 0
    assert "the site is closed for maintenance" in refused_release.flat
    opened = joined("maintenance", maintenance_state="off")
    assert opened.rc == 0, opened.text
    assert ": open: " in opened.text or " open: " in opened.text
    with urllib.request.urlopen(f"{world.url}/", timeout=5) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("second", ["buckets"], indirect=True)  # a closed site is closed the same way by both switches
def test_a_site_that_cannot_be_closed_everywhere_stays_open(world: World, second: Edge, joined: Play) -> None:
    second.stop()
    failed = joined("maintenance", maintenance_state="on", edge_reload_timeout=2)
    assert failed.rc != 0
    assert "It was opened again wherever that worked" in failed.flat
    with urllib.request.urlopen(f"{world.url}/", timeout=5) as answer:
        assert answer.status == 200
    kept = joined("maintenance", maintenance_state="on", maintenance_keep_on_failure=True, edge_reload_timeout=2)
    assert kept.rc != 0
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{world.url}/", timeout=5)
    second.start()
    assert joined("maintenance", maintenance_state="off").rc == 0
