# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ground of a release: edges that agree, and a live slot that runs on every host."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.ground import survey
from hypothesis import given
from hypothesis import strategies as st

EDGES = {"e1": {"live": "blue", "percent": 0}, "e2": {"live": "blue", "percent": 0}}
GOOD = {"version": "v1", "online": 2, "wanted": 2}
HOSTS = {"a1": {"blue": GOOD, "green": {}}, "a2": {"blue": GOOD}}


def test_solid_ground_names_the_slots_and_the_way_back() -> None:
    ground = survey(EDGES, HOSTS, {})
    assert (ground.live, ground.idle, ground.live_version, ground.percent) == ("blue", "green", "v1", 0)
    assert [(gate.verdict, gate.sentence) for gate in ground.gates] == [
        ("pass", "2 edges serve blue, 0 % go to green"),
        ("pass", "v1 runs in blue on 2 app hosts; a rollback goes back to it"),
    ]


def test_one_is_told_in_the_singular() -> None:
    ground = survey({"e1": {"live": "green", "percent": 0}}, {"a1": {"green": GOOD}}, {})
    assert [gate.sentence for gate in ground.gates] == [
        "1 edge serves green, 0 % go to blue",
        "v1 runs in green on 1 app host; a rollback goes back to it",
    ]


@pytest.mark.parametrize(
    ("edges", "words"),
    [
        ({}, "no edge state for this app: there is none"),
        ({"e1": {}}, "no edge state for this app: e1"),
        ({**EDGES, "e3": {"live": ""}}, "no edge state for this app: e3"),
        ({**EDGES, "e2": {"live": "green", "percent": 0}}, "the edges do not agree: e1: blue live, 0 % to green; e2: green live, 0 % to blue"),
        ({**EDGES, "e2": {"live": "blue", "percent": 5}}, "the edges do not agree: e1: blue live, 0 % to green; e2: blue live, 5 % to green"),
    ],
)
def test_edges_that_do_not_agree_stop_before_anything_else(edges: dict[str, Any], words: str) -> None:
    ground = survey(edges, HOSTS, {"live": "blue", "percent": 5})
    assert [(gate.name, gate.verdict, gate.sentence) for gate in ground.gates] == [("edge", "fail", words)]
    assert ground.gates[0].remedy
    assert (ground.live, ground.idle) == ("", "")


def test_a_share_without_a_release_is_refused() -> None:
    edges = {"e1": {"live": "blue", "percent": 25}}
    gate = survey(edges, HOSTS, {}).gates[0]
    assert (gate.verdict, gate.sentence) == ("fail", "25 % of the traffic go to green though no release is open")
    assert gate.remedy == "Take it back with rollback.yml first."


@pytest.mark.parametrize("edge", [{"live": "blue", "percent": 25}, {"live": "green", "percent": 0}])
def test_a_release_that_goes_on_keeps_the_slots_it_began_with(edge: dict[str, Any]) -> None:
    ground = survey({"e1": edge}, HOSTS, {"live": "blue", "idle": "green", "live_version": "v1"})
    assert (ground.live, ground.idle, ground.live_version, ground.percent) == ("blue", "green", "v1", edge["percent"])
    assert [gate.verdict for gate in ground.gates] == ["pass", "pass"]
    assert ground.gates[0].sentence.endswith("; the release began with blue live")


def test_a_release_that_goes_on_still_needs_its_way_back() -> None:
    ground = survey({"e1": {"live": "green", "percent": 0}}, {"a1": {"green": GOOD}}, {"live": "blue", "live_version": "v1"})
    assert ground.gates[-1].sentence == "blue is live but does not run as it should: a1: it holds no version"
    assert ground.gates[-1].verdict == "fail"


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        ({}, "blue is live but does not run as it should: no app host is known"),
        ({"a1": {}}, "blue is live but does not run as it should: a1: it holds no version"),
        ({**HOSTS, "a2": {"green": GOOD}}, "blue is live but does not run as it should: a2: it holds no version"),
        ({**HOSTS, "a2": {"blue": {**GOOD, "online": 1}}}, "blue is live but does not run as it should: a2: 1 of 2 processes of v1 are online"),
        ({"a1": {"blue": {"version": "v1"}}}, "blue is live but does not run as it should: a1: 0 of 0 processes of v1 are online"),
        ({**HOSTS, "a2": {"blue": {**GOOD, "version": "v0"}}}, "the app hosts hold different versions in blue: v0, v1"),
    ],
)
def test_a_live_slot_that_does_not_run_is_no_way_back(hosts: dict[str, Any], words: str) -> None:
    gate = survey(EDGES, hosts, {}).gates[-1]
    assert (gate.name, gate.verdict, gate.sentence) == ("rollback target", "fail", words)
    assert gate.remedy


HELD = st.fixed_dictionaries({}, optional={"version": st.sampled_from(["", "v1", "v2"]), "online": st.integers(0, 2), "wanted": st.integers(0, 2)})
HOST = st.fixed_dictionaries({}, optional={"blue": HELD, "green": HELD})
EDGE = st.just({}) | st.fixed_dictionaries({"live": st.sampled_from(["blue", "green"]), "percent": st.sampled_from([0, 5])})


@given(st.dictionaries(st.sampled_from("ef"), EDGE), st.dictionaries(st.sampled_from("abc"), HOST))
def test_ground_that_passes_has_one_live_slot_and_one_version_that_runs(edges: dict[str, Any], hosts: dict[str, Any]) -> None:
    ground = survey(edges, hosts, {})
    if any(gate.verdict != "pass" for gate in ground.gates):
        return
    assert {ground.live, ground.idle} == {"blue", "green"}
    assert ground.live_version
    assert edges
    assert all(edge == {"live": ground.live, "percent": 0} for edge in edges.values())
    assert hosts
    assert all(host[ground.live]["version"] == ground.live_version for host in hosts.values())
    assert all(host[ground.live].get("online", 0) == host[ground.live]["wanted"] for host in hosts.values())
