# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A verdict and a time lead to one word, and every step ends."""

from __future__ import annotations

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import steps
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import ERROR, FAIL, INCONCLUSIVE, PASS, VERDICTS
from hypothesis import given
from hypothesis import strategies as st

LADDER = [steps.step_from({"percent": percent, "min": 10, "max": 60}) for percent in (5, 25, 50, 100)]
THEN = st.sampled_from(["hold", "promote", "rollback"])


@pytest.mark.parametrize(
    ("verdict", "elapsed", "then", "word"),
    [
        (FAIL, 0, "promote", steps.ROLLBACK),
        (PASS, 9.9, "hold", steps.CONTINUE),
        (PASS, 10, "hold", steps.ADVANCE),
        (INCONCLUSIVE, 10, "hold", steps.CONTINUE),
        (INCONCLUSIVE, 60, "hold", steps.HOLD),
        (INCONCLUSIVE, 60, "promote", steps.ADVANCE),
        (INCONCLUSIVE, 60, "rollback", steps.ROLLBACK),
        (ERROR, 59.9, "promote", steps.CONTINUE),
        (ERROR, 60, "hold", steps.HOLD),
    ],
)
def test_the_word_that_follows(verdict: str, elapsed: float, then: str, word: str) -> None:
    assert steps.decide(steps.Step(5, 10, 60, then), verdict, elapsed) == word


@given(st.sampled_from(VERDICTS), THEN, st.floats(0, 100), st.floats(0, 100), st.floats(0, 1000))
def test_every_step_ends_at_its_maximum_and_no_failure_advances(verdict: str, then: str, low: float, more: float, late: float) -> None:
    step = steps.Step(5, low, low + more, then)
    assert steps.decide(step, verdict, step.max + late) != steps.CONTINUE
    assert steps.decide(step, FAIL, late) == steps.ROLLBACK


def test_a_share_by_hand_takes_one_step_at_a_time() -> None:
    steps.check_by_hand(LADDER, 5, 25, "")
    steps.check_by_hand(LADDER, 5, 10, "")
    steps.check_by_hand(LADDER, 50, 0, "")
    steps.check_by_hand(LADDER, 5, 100, "a reason")
    with pytest.raises(SluiceError, match=r"canary_percent=50 skips a step: the share is 5 %, the next step is 25 %\. Use canary_percent=25"):
        steps.check_by_hand(LADDER, 5, 50, "")


def test_the_next_step_is_the_first_above_the_share() -> None:
    assert [step.percent if step else None for step in (steps.next_step(LADDER, share) for share in (0, 5, 24, 50, 100))] == [5, 25, 25, 100, None]
