# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One outcome from many hosts: one that fails, cannot be reached, or has a gate that does not pass stops the release."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.outcome import gather
from hypothesis import given
from hypothesis import strategies as st

PASSED = {"name": "health", "verdict": "pass", "sentence": "it answers"}
FAILED = {"name": "disk", "verdict": "fail", "sentence": "1 GiB is free.", "remedy": "Make room."}
UNCLEAR = {"name": "judge", "verdict": "inconclusive", "sentence": "3 requests"}
FINE = {"actions": ["built v2"], "gates": [PASSED]}


@pytest.mark.parametrize(
    ("results", "reason", "hold"),
    [
        ({}, "", False),
        ({"a": FINE, "b": FINE}, "", False),
        ({"a": FINE, "b": {"skipped": True, "gates": [FAILED], "failed": True}}, "", False),
        ({"a": FINE, "b": {"failed": True, "msg": "it broke"}}, "b: it broke", False),
        ({"a": {"failed": True}}, "a: it failed without a word", False),
        ({"a": FINE, "b": {"unreachable": True, "msg": "timed out"}}, "b cannot be reached: timed out", False),
        ({"a": {"unreachable": True, "failed": True}}, "a cannot be reached: no reason given", False),
        ({"a": {"gates": [PASSED, FAILED]}}, "a: disk: 1 GiB is free. Make room.", False),
        ({"a": {"gates": [UNCLEAR]}}, "a: judge: 3 requests", False),
        ({"a": {"gates": [{**FAILED, "verdict": "waived"}]}}, "", False),
        ({"a": {"gates": [{**FAILED, "verdict": "error"}]}}, "a: disk: 1 GiB is free. Make room.", False),
        ({"a": {"gates": [UNCLEAR], "stop": ""}}, "", False),
        ({"a": {"gates": [UNCLEAR], "stop": "the judge cannot tell", "hold": True}}, "the judge cannot tell", True),
        ({"a": {"stop": "it is worse", "hold": False}}, "it is worse", False),
        ({"a": {"stop": "wait", "hold": True}, "b": {"stop": "worse"}}, "wait\nworse", False),
        ({"a": {"stop": "wait", "hold": True}, "b": {"failed": True, "msg": "x"}}, "wait\nb: x", False),
        ({"a": {"stop": "wait", "hold": True, "failed": True, "msg": "x"}}, "a: x", False),
        ({"a": {"stop": "wait", "hold": True, "skipped": True}, "b": {"failed": True, "msg": "x"}}, "b: x", False),
        ({"a": {"stop": "wait", "hold": True}, "b": {"gates": [FAILED]}}, "wait\nb: disk: 1 GiB is free. Make room.", False),
        ({"a": {"failed": True, "msg": "x"}, "b": {"unreachable": True, "msg": "y"}}, "a: x\nb cannot be reached: y", False),
    ],
)
def test_the_reason_names_each_host_that_stops(results: dict[str, Any], reason: str, hold: bool) -> None:
    outcome = gather(results)
    assert (outcome.reason, outcome.hold) == (reason, hold)


def test_what_was_done_and_seen_carries_its_host() -> None:
    outcome = gather({"a": FINE, "b": {"failed": True, "msg": "x", "actions": ["began"]}, "c": {"skipped": True, **FINE}})
    assert outcome.actions == ["a: built v2", "b: began"]
    assert outcome.gates == [{**PASSED, "host": "a"}]


GATE = st.builds(lambda verdict: {**PASSED, "verdict": verdict}, st.sampled_from(["pass", "fail", "inconclusive", "waived", "error"]))
RESULT = st.fixed_dictionaries(
    {},
    optional={
        "skipped": st.booleans(),
        "failed": st.booleans(),
        "unreachable": st.booleans(),
        "stop": st.sampled_from(["", "worse"]),
        "hold": st.booleans(),
        "gates": st.lists(GATE, max_size=3),
    },
)
RESULTS = st.dictionaries(st.sampled_from("abcde"), RESULT)


@given(RESULTS, st.sampled_from(["failed", "unreachable"]))
def test_one_host_that_fails_or_cannot_be_reached_stops_whatever_the_others_say(results: dict[str, Any], how: str) -> None:
    for place in (0, len(results)):
        items = list(results.items())
        outcome = gather(dict([*items[:place], ("bad", {how: True, "msg": "gone"}), *items[place:]]))
        assert any(line.startswith("bad") and line.endswith("gone") for line in outcome.reason.split("\n"))
        assert not outcome.hold


@given(RESULTS)
def test_to_pass_no_host_failed_and_no_gate_stops(results: dict[str, Any]) -> None:
    outcome = gather(results)
    asked = [result for result in results.values() if not result.get("skipped")]
    if not outcome.reason:
        assert not outcome.hold
        assert not any(result.get("failed") or result.get("unreachable") or result.get("stop") for result in asked)
        assert all(gate["verdict"] in ("pass", "waived") for result in asked if "stop" not in result for gate in result.get("gates", []))
    if outcome.hold:
        assert not any(result.get("failed") or result.get("unreachable") for result in asked)
        assert all(result.get("hold") for result in asked if result.get("stop"))
