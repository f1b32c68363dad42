# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The project's own judge, asked at each look as the canary role asks it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Optional

from ansible_collections.sluice.deploy.benchmarks.judging.traces import Arrivals, Second
from ansible_collections.sluice.deploy.plugins.module_utils.core import judge, steps
from ansible_collections.sluice.deploy.plugins.module_utils.core.limits import Limits
from ansible_collections.sluice.deploy.plugins.module_utils.core.sample import Sample, SlotSample
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import PASS

CANARY, LIVE = "green", "blue"
LIMITS = Limits()


class Outcome(NamedTuple):
    """What a judge made of a rollout: the second in which it took the canary back, and the one in which it first held it for a person."""

    rollback: Optional[float] = None
    hold: Optional[float] = None
    words: str = ""

    def stopped(self, before: float) -> bool:
        """Tell whether the canary was taken back or held by then."""
        return any(at is not None and at <= before for at in (self.rollback, self.hold))


class Pool:
    """What one slot got since the step began."""

    def __init__(self) -> None:
        self.requests = self.errors = 0
        self.histogram: Counter[int] = Counter()

    def add(self, arrivals: Arrivals) -> None:
        self.requests += arrivals.requests
        self.errors += arrivals.errors
        self.histogram.update(arrivals.bins)

    def sample(self) -> SlotSample:
        return SlotSample(requests=self.requests, errors=self.errors, histogram=self.histogram)


def watch(rollout: Sequence[Sequence[Second]], look: int, limits: Limits = LIMITS) -> Outcome:
    """Return what the judge made of a rollout.

    Each step lasts as long as the rollout says (``min`` and ``max`` are equal). A hold is noted, and the rollout goes on as if a person had let it,
    so that one run tells both when the judge would have asked and whether it takes the canary back.
    """
    now, hold = 0, None
    for seconds in rollout:
        step = steps.Step(percent=1, min=len(seconds), max=len(seconds), then=steps.HOLD)
        mine, other = Pool(), Pool()
        for elapsed, second in enumerate(seconds, start=1):
            mine.add(second.canary)
            other.add(second.live)
            if elapsed % look and elapsed < len(seconds):
                continue
            verdict, words = ask(Sample(0.0, float(elapsed), {CANARY: mine.sample(), LIVE: other.sample()}), limits, elapsed >= step.max)
            word = steps.decide(step, verdict, elapsed)
            if word == steps.ROLLBACK:
                return Outcome(now + elapsed, hold, words)
            if word == steps.HOLD and hold is None:
                hold = now + elapsed
        now += len(seconds)
    return Outcome(None, hold)


def ask(sample: Sample, limits: Limits, final: bool) -> tuple[str, str]:
    """Return the verdict of one look and its sentence, in the order in which the control node asks."""
    gate = judge.alarm(sample, CANARY, LIVE, limits)
    if gate is not None:
        return gate.verdict, gate.sentence
    judgement = judge.judge(sample, CANARY, LIVE, limits, final)
    return judgement.verdict, "" if judgement.verdict == PASS else judgement.sentence
