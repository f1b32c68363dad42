# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One host that fails, cannot be reached, or has a gate that does not pass stops a phase."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.outcome import gather

GOOD = {"actions": ["did it"], "gates": [{"name": "disk", "verdict": "pass", "sentence": "enough"}]}


def test_good_hosts_pass() -> None:
    outcome = gather({"a": GOOD, "b": {**GOOD, "gates": [{"name": "disk", "verdict": "waived", "sentence": "signed"}]}})
    assert (outcome.reason, outcome.hold) == ("", False)
    assert outcome.actions == ["a: did it", "b: did it"]
    assert [gate["host"] for gate in outcome.gates] == ["a", "b"]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"failed": True, "msg": "no space"}, "b: no space"),
        ({"failed": True}, "b: it failed without a word"),
        ({"unreachable": True, "msg": "timed out"}, "b cannot be reached: timed out"),
        ({"gates": [{"name": "disk", "verdict": "fail", "sentence": "full", "remedy": "Free some."}]}, "b: disk: full Free some."),
        ({"gates": [{"name": "disk", "verdict": "inconclusive", "sentence": "who knows"}]}, "b: disk: who knows"),
        ({"gates": [{"name": "disk", "verdict": "error", "sentence": "no answer"}]}, "b: disk: no answer"),
        ({"stop": "at 5 %: too many errors"}, "at 5 %: too many errors"),
    ],
)
def test_one_bad_host_stops(bad: dict[str, Any], said: str) -> None:
    assert gather({"a": GOOD, "b": bad}).reason == said


def test_a_skipped_host_was_not_asked() -> None:
    assert gather({"a": GOOD, "b": {"skipped": True, "failed": True}}).reason == ""


def test_a_hold_is_a_hold_only_when_nothing_else_stops() -> None:
    hold = {"stop": "wait for a person", "hold": True}
    assert gather({"control": hold}).hold
    assert not gather({"control": hold, "b": {"failed": True, "msg": "gone"}}).hold


def test_a_judge_that_goes_on_has_weighed_its_own_gates() -> None:
    gate = {"name": "canary", "verdict": "inconclusive", "sentence": "not judged"}
    assert gather({"control": {"stop": "", "gates": [gate]}}).reason == ""
