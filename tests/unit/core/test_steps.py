# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What follows from a verdict: a failure never goes on, and time always ends in an action."""

from __future__ import annotations

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import steps
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.steps import Step
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import VERDICTS
from hypothesis import given
from hypothesis import strategies as st

STEPS = (Step(5, 60, 120), Step(25, 60, 120), Step(100, 60, 120))
ANY_STEP = st.builds(
    lambda percent, low, more, then: Step(percent, low, low + more, then),
    st.integers(1, 100),
    st.floats(0, 1e5),
    st.floats(0, 1e5),
    st.sampled_from(["hold", "promote", "rollback"]),
)


@pytest.mark.parametrize(
    ("verdict", "elapsed", "then", "action"),
    [
        ("fail", 0, "promote", "rollback"),
        ("fail", 59, "hold", "rollback"),
        ("fail", 500, "promote", "rollback"),
        ("pass", 0, "hold", "continue"),
        ("pass", 59.9, "rollback", "continue"),
        ("pass", 60, "rollback", "advance"),
        ("inconclusive", 60, "hold", "continue"),
        ("inconclusive", 119.9, "promote", "continue"),
        ("inconclusive", 120, "hold", "hold"),
        ("inconclusive", 120, "promote", "advance"),
        ("inconclusive", 120, "rollback", "rollback"),
        ("error", 120, "hold", "hold"),
    ],
)
def test_the_table_of_actions(verdict: str, elapsed: float, then: str, action: str) -> None:
    assert steps.decide(Step(5, 60, 120, then), verdict, elapsed) == action


@given(ANY_STEP, st.floats(0, 1e6))
def test_a_failure_always_rolls_back(step: Step, elapsed: float) -> None:
    assert steps.decide(step, "fail", elapsed) == steps.ROLLBACK


@given(ANY_STEP, st.sampled_from(VERDICTS), st.floats(0, 1e6))
def test_the_deadline_always_ends_in_an_action(step: Step, verdict: str, more: float) -> None:
    assert steps.decide(step, verdict, step.max + more) in (steps.ADVANCE, steps.HOLD, steps.ROLLBACK)


@given(ANY_STEP, st.sampled_from(VERDICTS), st.floats(0, 1e6))
def test_to_advance_takes_a_pass_or_the_operators_word_and_the_time(step: Step, verdict: str, elapsed: float) -> None:
    if steps.decide(step, verdict, elapsed) == steps.ADVANCE:
        assert verdict != "fail"
        assert elapsed >= step.min
        assert verdict == "pass" or (step.then == "promote" and elapsed >= step.max)


@given(ANY_STEP, st.lists(st.sampled_from(VERDICTS), min_size=1, max_size=30), st.floats(0.1, 100))
def test_a_step_that_saw_a_failure_never_advances(step: Step, verdicts: list[str], interval: float) -> None:
    for number, verdict in enumerate(verdicts):
        action = steps.decide(step, verdict, number * interval)
        if action != steps.CONTINUE:
            assert (action == steps.ROLLBACK) if verdict == "fail" else True
            break
    else:
        assert "fail" not in verdicts


@pytest.mark.parametrize(
    ("data", "step"),
    [
        ({"percent": "5"}, Step(5, 0, 0, "hold")),
        ({"percent": 5, "min": 60}, Step(5, 60, 60, "hold")),
        ({"percent": 5, "min": "60", "max": "120", "then": "promote"}, Step(5, 60, 120, "promote")),
    ],
)
def test_a_step_has_defaults(data: dict[str, object], step: Step) -> None:
    assert steps.step_from(data) == step


@pytest.mark.parametrize(("share", "percent"), [(0, 5), (4, 5), (5, 25), (10, 25), (25, 100), (99, 100), (100, None)])
def test_the_next_step_is_the_first_above_the_share(share: int, percent: int | None) -> None:
    found = steps.next_step(STEPS, share)
    assert (found.percent if found else None) == percent


@pytest.mark.parametrize(
    ("share", "wanted", "reason"),
    [(0, 5, ""), (0, 3, ""), (5, 25, ""), (25, 0, ""), (100, 100, ""), (100, 50, ""), (0, 100, "it is a hot fix"), (25, 25, "")],
)
def test_a_share_by_hand_that_skips_nothing_is_taken(share: int, wanted: int, reason: str) -> None:
    steps.check_by_hand(STEPS, share, wanted, reason)


@pytest.mark.parametrize(
    ("share", "wanted", "words"),
    [
        (
            0,
            25,
            "canary_percent=25 skips a step: the share is 0 %, the next step is 5 %. Use canary_percent=5, or give -e canary_force_reason='...'.",
        ),
        (5, 26, "canary_percent=26 skips a step: the share is 5 %, the next step is 25 %. Use canary_percent=25, or give -e canary_force_reason='...'."),
    ],
)
def test_a_share_that_skips_a_step_is_refused_with_the_next(share: int, wanted: int, words: str) -> None:
    with pytest.raises(SluiceError) as caught:
        steps.check_by_hand(STEPS, share, wanted, "")
    assert str(caught.value) == words


@given(st.integers(0, 100), st.integers(0, 100))
def test_less_is_always_allowed_and_more_only_to_the_next_step(share: int, wanted: int) -> None:
    following = steps.next_step(STEPS, share)
    if wanted <= share or following is None or wanted <= following.percent:
        steps.check_by_hand(STEPS, share, wanted, "")
    else:
        with pytest.raises(SluiceError, match="skips a step"):
            steps.check_by_hand(STEPS, share, wanted, "")
    steps.check_by_hand(STEPS, share, wanted, "a reason")
