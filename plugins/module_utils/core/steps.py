# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What follows from a verdict at a step: go on looking, take the next step, hold, or roll back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, PASS

CONTINUE, ADVANCE, HOLD, ROLLBACK = "continue", "advance", "hold", "rollback"


@dataclass(frozen=True)
class Step:
    """One share of the canary.

    :param percent: share of the public traffic.
    :param min: seconds it lasts at least.
    :param max: seconds after which ``then`` decides if the judge still cannot tell.
    :param then: ``hold``, ``promote`` (go on all the same) or ``rollback``.
    """

    percent: int
    min: float
    max: float
    then: str = HOLD


def step_from(data: Mapping[str, Any]) -> Step:
    """Return the step a mapping describes; shapes were checked with the other inputs."""
    low = float(data.get("min", 0))
    return Step(int(data["percent"]), low, float(data.get("max", low)), str(data.get("then", HOLD)))


def decide(step: Step, verdict: str, elapsed: float) -> str:
    """Return what happens now.

    A failure ends the step at once; a pass counts only after the minimum time; what is still unclear at the maximum time is up to ``then``.
    """
    if verdict == FAIL:
        return ROLLBACK
    if elapsed < step.min:
        return CONTINUE
    if verdict == PASS:
        return ADVANCE
    if elapsed < step.max:
        return CONTINUE
    return {"hold": HOLD, "promote": ADVANCE, "rollback": ROLLBACK}[step.then]


def next_step(steps: Sequence[Step], share: int) -> Optional[Step]:
    """Return the first step above the present share, or None at the top."""
    return next((step for step in steps if step.percent > share), None)


def check_by_hand(steps: Sequence[Step], share: int, wanted: int, reason: str) -> None:
    """Refuse a share set by hand that skips a step without a reason; a decrease is always allowed.

    :raises SluiceError: it names the next step.
    """
    following = next_step(steps, share)
    if wanted <= share or reason or following is None or wanted <= following.percent:
        return
    raise SluiceError(
        f"canary_percent={wanted} skips a step: the share is {share} %, the next step is {following.percent} %.",
        f"Use canary_percent={following.percent}, or give -e canary_force_reason='...'.",
    )
