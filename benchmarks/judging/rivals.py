# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Other judges' rules, written anew from what their sources do, and shown the same rollouts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import NormalDist, median
from typing import NamedTuple, Optional

from ansible_collections.sluice.deploy.benchmarks.judging.traces import Arrivals, Second
from ansible_collections.sluice.deploy.plugins.module_utils.core.histogram import quantile, value_of

MINUTE = 60


class Interval(NamedTuple):
    """What one slot got in an interval."""

    requests: int
    errors: int
    histogram: Counter[int]

    @property
    def error_rate(self) -> Optional[float]:
        return self.errors / self.requests if self.requests else None

    @property
    def mean(self) -> Optional[float]:
        return sum(value_of(number) * count for number, count in self.histogram.items()) / self.requests if self.requests else None

    @property
    def p95(self) -> Optional[float]:
        return quantile(self.histogram, 0.95)


def interval_of(arrivals: Iterable[Arrivals]) -> Interval:
    requests, errors, histogram = 0, 0, Counter[int]()
    for second in arrivals:
        requests += second.requests
        errors += second.errors
        histogram.update(second.bins)
    return Interval(requests, errors, histogram)


def minutes(seconds: Sequence[Second]) -> Iterator[tuple[Interval, Interval]]:
    """Yield what canary and live got in each minute of a step."""
    for start in range(0, len(seconds), MINUTE):
        part = seconds[start : start + MINUTE]
        yield interval_of(second.canary for second in part), interval_of(second.live for second in part)


# --- Naive -----------------------------------------------------------------------------------------------------------


def naive(rollout: Sequence[Sequence[Second]], look: int, limit: float = 0.01) -> Optional[float]:
    """Return the second at which the canary's errors since the step began are more than a share of its requests, if they ever are."""
    now = 0
    for seconds in rollout:
        requests = errors = 0
        for elapsed, second in enumerate(seconds, start=1):
            requests += second.canary.requests
            errors += second.canary.errors
            if (elapsed % look == 0 or elapsed == len(seconds)) and errors > limit * requests:
                return now + elapsed
        now += len(seconds)
    return None


# --- Flagger ---------------------------------------------------------------------------------------------------------


def flagger(rollout: Sequence[Sequence[Second]], threshold: int = 10, success: float = 0.99, seconds: float = 0.5) -> Optional[float]:
    """Return the second of the failed check that is one too many.

    A check a minute: at least 99 % of the canary's requests in it succeeded, and their mean time was at most 500 ms; no request is a failed check.
    Failed checks add up over the rollout.
    """
    now, failed = 0, 0
    for step in rollout:
        for canary, _live in minutes(step):
            now += MINUTE
            failed += canary.error_rate is None or 1 - canary.error_rate < success or (canary.mean or 0.0) > seconds
            if failed >= threshold:
                return float(now)
    return None


# --- Kayenta ---------------------------------------------------------------------------------------------------------


def kayenta(rollout: Sequence[Sequence[Second]], confidence: float = 0.98, tolerance: float = 0.25) -> Optional[float]:
    """Return the end of the step at which a metric is classified as high.

    Two critical metrics, error rate and p95, each one value a minute and slot, from the start of the canary to the end of each step.
    A metric without values says nothing; if none has any, the canary fails.
    """
    now = 0
    seen: list[tuple[Interval, Interval]] = []
    for step in rollout:
        now += len(step)
        seen += minutes(step)
        pairs = [
            (_values(canary.error_rate for canary, _live in seen), _values(live.error_rate for _canary, live in seen)),
            (_values(canary.p95 for canary, _live in seen), _values(live.p95 for _canary, live in seen)),
        ]
        there = [pair for pair in pairs if all(pair)]
        if not there or any(is_high(canary, live, confidence, tolerance) for canary, live in there):
            return float(now)
    return None


def _values(found: Iterable[Optional[float]]) -> list[float]:
    return [value for value in found if value is not None]


def is_high(canary: Sequence[float], live: Sequence[float], confidence: float, tolerance: float) -> bool:
    """Tell whether the interval of the shift lies above a share of the estimated shift itself."""
    if list(canary) == list(live):
        return False
    lower, estimate = shift(canary, live, confidence)
    return lower > tolerance * abs(estimate)


def shift(canary: Sequence[float], live: Sequence[float], confidence: float) -> tuple[float, float]:
    """Return the lower end of the Mann-Whitney interval of the shift between two groups (by the normal approximation), and the Hodges-Lehmann estimate."""
    differences = sorted(mine - other for mine in canary for other in live)
    pairs, values = len(differences), len(canary) + len(live)
    ties = sum(count**3 - count for group in (canary, live) for count in Counter(group).values())
    variance = pairs / 12 * (values + 1 - ties / (values * (values - 1)))
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(max(variance, 0.0))
    return differences[max(0, math.floor(pairs / 2 - 0.5 - reach))], median(differences)
