# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Edges that agree and a live slot that runs are a ground; anything else is told."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.ground import survey

EDGE = {"live": "blue", "percent": 0}
HELD: dict[str, Any] = {"blue": {"version": "v1", "online": 2, "wanted": 2}, "green": {"online": 0, "wanted": 2}}


def test_a_good_ground() -> None:
    ground = survey({"e1": EDGE, "e2": EDGE}, {"h1": HELD, "h2": HELD}, {})
    assert (ground.live, ground.idle, ground.live_version, ground.percent) == ("blue", "green", "v1", 0)
    assert {gate.verdict for gate in ground.gates} == {"pass"}


@pytest.mark.parametrize(
    ("edges", "hosts", "said"),
    [
        ({}, {"h": HELD}, "no edge state for this app: there is none"),
        ({"e1": EDGE, "e2": {}}, {"h": HELD}, "no edge state for this app: e2"),
        ({"e1": EDGE, "e2": {"live": "green", "percent": 0}}, {"h": HELD}, "the edges do not agree: e1: blue live, 0 % to green; e2: green live, 0 % to blue"),
        ({"e1": {"live": "blue", "percent": 5}}, {"h": HELD}, "5 % of the traffic go to green though no release is open"),
        ({"e1": EDGE}, {}, "no app host is known"),
        ({"e1": EDGE}, {"h": {**HELD, "blue": {"online": 0, "wanted": 2}}}, "h: it holds no version"),
        ({"e1": EDGE}, {"h": {**HELD, "blue": {"version": "v1", "online": 1, "wanted": 2}}}, "h: 1 of 2 processes of v1 are online"),
        (
            {"e1": EDGE},
            {"h": HELD, "i": {**HELD, "blue": {"version": "v2", "online": 2, "wanted": 2}}},
            "the app hosts hold different versions in blue: v1, v2",
        ),
    ],
)
def test_what_is_wrong_is_told(edges: dict[str, Any], hosts: dict[str, Any], said: str) -> None:
    failing = [gate for gate in survey(edges, hosts, {}).gates if gate.verdict == "fail"]
    assert len(failing) == 1
    assert said in failing[0].sentence
    assert failing[0].remedy


@pytest.mark.parametrize("edge", [{"live": "blue", "percent": 25}, {"live": "green", "percent": 0}])
def test_a_release_that_goes_on_keeps_the_slots_it_began_with(edge: dict[str, Any]) -> None:
    ground = survey({"e": edge}, {"h": HELD}, {"live": "blue", "idle": "green", "live_version": "v1"})
    assert (ground.live, ground.idle, ground.live_version) == ("blue", "green", "v1")
    assert {gate.verdict for gate in ground.gates} == {"pass"}
