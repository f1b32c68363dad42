# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rollouts that never happened: what each slot got and answered, second by second, the same for every judge that is shown them."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from statistics import NormalDist
from typing import NamedTuple, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.histogram import FLOOR_SECONDS, GROWTH

TEN_MINUTES = ((5, 600), (25, 600), (50, 600))
_BINS = 300


class Arrivals(NamedTuple):
    """What one slot got in one second: first attempts, failures among them, and the histogram's bin of each."""

    requests: int
    errors: int
    bins: Sequence[int]


NOTHING = Arrivals(0, 0, ())


class Second(NamedTuple):
    """One second of a rollout."""

    canary: Arrivals
    live: Arrivals


@dataclass(frozen=True)
class Times:
    """A distribution of request times: lognormal parts, each with its weight, median and spread."""

    parts: tuple[tuple[float, float, float], ...] = ((1.0, 0.082, 0.8),)

    def slower(self, factor: float) -> Times:
        """Return the times, each so many times as long."""
        return Times(tuple((weight, median * factor, spread) for weight, median, spread in self.parts))

    def below(self, seconds: float) -> float:
        """Return the share of the requests that take less."""
        return sum(weight * NormalDist(math.log(median), spread).cdf(math.log(seconds)) for weight, median, spread in self.parts)


STEADY = Times()
# Ordinary pages and a few heavy ones: the 95th percentile lies in the gap between them, where it jumps with every sample.
TWO_KINDS = Times(((0.951, 0.02, 0.4), (0.049, 1.0, 0.3)))


@dataclass(frozen=True)
class Behaviour:
    """How a slot answers: its share of failures, and its times."""

    error_rate: float = 0.002
    times: Times = STEADY


@dataclass(frozen=True)
class Scenario:
    """One kind of rollout.

    :param words: what happens in it.
    :param bad: whether the canary ought to be stopped.
    :param canary: how it answers; None when no request reaches it.
    :param steps: the share in percent and the seconds of each step.
    :param outage: from and until which second how large a share of all requests fails, on both slots.
    """

    words: str
    bad: bool
    canary: Optional[Behaviour]
    live: Behaviour = Behaviour()
    rate: float = 50.0
    steps: tuple[tuple[int, int], ...] = TEN_MINUTES
    outage: tuple[int, int, float] = (0, 0, 0.0)


def draw(scenario: Scenario, seed: int) -> list[list[Second]]:
    """Return one rollout of a scenario: the seconds of each step."""
    rng = random.Random(seed)
    steps: list[list[Second]] = []
    begin, end, failing = scenario.outage
    now = 0
    for percent, seconds in scenario.steps:
        mine, other = scenario.rate * percent / 100, scenario.rate * (100 - percent) / 100
        step = []
        for moment in range(now, now + seconds):
            least = failing if begin <= moment < end else 0.0
            canary = _arrivals(rng, scenario.canary, mine, least) if scenario.canary else NOTHING
            step.append(Second(canary, _arrivals(rng, scenario.live, other, least)))
        now += seconds
        steps.append(step)
    return steps


def _arrivals(rng: random.Random, behaviour: Behaviour, rate: float, least: float) -> Arrivals:
    """Return one second of visitors who come independently of each other: failures and the others are Poisson counts of their own."""
    share = max(behaviour.error_rate, least)
    errors = bisect_right(_poisson(rate * share), rng.random())
    requests = errors + bisect_right(_poisson(rate * (1 - share)), rng.random())
    return Arrivals(requests, errors, rng.choices(range(_BINS), cum_weights=_bins(behaviour.times), k=requests))


@cache
def _poisson(mean: float) -> list[float]:
    """Return the cumulated chances of 0, 1, 2, ... arrivals."""
    if mean <= 0:
        return [1.0]
    most = int(mean + 12 * math.sqrt(mean) + 12)
    return list(accumulate(math.exp(count * math.log(mean) - mean - math.lgamma(count + 1)) for count in range(most)))


@cache
def _bins(times: Times) -> list[float]:
    """Return the cumulated chances of the histogram's bins."""
    return [times.below(FLOOR_SECONDS * GROWTH**number) for number in range(_BINS)]
