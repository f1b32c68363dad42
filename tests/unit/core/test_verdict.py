# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gate says: the worst of several decides, and only a pass or a waiver lets a release go on."""

from __future__ import annotations

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import VERDICTS, Gate, stops, worst
from hypothesis import given
from hypothesis import strategies as st

ORDER = ["pass", "waived", "inconclusive", "error", "fail"]


@pytest.mark.parametrize(("verdict", "stopped"), [("pass", False), ("waived", False), ("inconclusive", True), ("error", True), ("fail", True), ("", True)])
def test_only_a_pass_or_a_waiver_goes_on(verdict: str, stopped: bool) -> None:
    assert stops(verdict) == stopped


def test_no_verdict_at_all_is_no_pass() -> None:
    assert worst([]) == "inconclusive"


@given(st.lists(st.sampled_from(VERDICTS), min_size=1))
def test_the_worst_decides_in_any_order(verdicts: list[str]) -> None:
    assert worst(verdicts) == max(verdicts, key=ORDER.index) == worst(reversed(verdicts))
    assert stops(worst(verdicts)) == any(stops(verdict) for verdict in verdicts)


@given(st.lists(st.sampled_from(VERDICTS), min_size=1), st.sampled_from(VERDICTS))
def test_one_more_verdict_never_makes_it_better(verdicts: list[str], more: str) -> None:
    assert ORDER.index(worst([*verdicts, more])) >= ORDER.index(worst(verdicts))


def test_a_gate_with_an_unknown_verdict_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="verdict 'maybe' is none of pass, fail, inconclusive, waived, error"):
        Gate("disk", "maybe", "who knows")


@pytest.mark.parametrize(
    ("gate", "data"),
    [
        (Gate("disk", "pass", "enough"), {"name": "disk", "verdict": "pass", "sentence": "enough"}),
        (
            Gate("disk", "fail", "full", value=0, limit=10, sample=1, remedy="Make room."),
            {"name": "disk", "verdict": "fail", "sentence": "full", "value": 0, "limit": 10, "sample": 1, "remedy": "Make room."},
        ),
        (Gate("waiver", "waived", "by hand", value=False), {"name": "waiver", "verdict": "waived", "sentence": "by hand", "value": False}),
    ],
)
def test_a_gate_is_a_mapping_without_what_says_nothing(gate: Gate, data: dict[str, object]) -> None:
    assert gate.as_dict() == data
