# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The arithmetic of chance: bounds of a rate and of a quantile, some of them right at every look."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Optional, Protocol

from ansible_collections.sluice.deploy.plugins.module_utils.core.histogram import value_at
from ansible_collections.sluice.deploy.plugins.module_utils.core.limits import Limits

# Normal quantiles of one-sided bounds, for what is asked once.
Z_95, Z_99, Z_POWER = 1.645, 2.326, 1.282
# Chance that a bound is ever wrong, at whatever look: one against a fixed limit, and each of two against each other, as both must be wrong to mislead.
ONE_END, TWO_ENDS = 0.01, 0.1
# How many times larger than supposed the odds may be: each is one explanation, and all of them count alike.
_ODDS = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
BOUND_RATIO = 1.5  # a difference that is certain but smaller than this is no reason to stop at once


class Counted(Protocol):
    """Requests, and how many of them failed; of a mix of kinds both may be fractions."""

    @property
    def requests(self) -> float: ...

    @property
    def errors(self) -> float: ...

    @property
    def error_rate(self) -> float: ...


def evidence(mine: float, other: float, share: float, limits: Limits) -> float:
    """Return the logarithm of how much better "so many times as bad" explains the errors than "as good as live"."""
    guilty = blamed(share, limits.sprt_ratio)
    return mine * math.log(guilty / share) + other * math.log((1 - guilty) / (1 - share))


def blamed(share: float, ratio: float) -> float:
    """Return which share of the errors a canary makes that has this share of the requests and is so many times as bad as live."""
    return share * ratio / (share * ratio + 1 - share)


def needed_evidence(limits: Limits, among: int = 1) -> float:
    return math.log((1 - limits.sprt_beta) / limits.sprt_alpha * among)


def wilson(errors: float, requests: float, z: float) -> float:
    """Return a bound of a rate by Wilson's score interval: the upper one, or with a negative z the lower one."""
    if not requests:
        return 1.0 if z > 0 else 0.0
    rate, square = errors / requests, z * z / requests
    bound = (rate + square / 2 + z * math.sqrt(rate * (1 - rate) / requests + square / requests / 4)) / (1 + square)
    return min(1.0, max(0.0, bound))


def difference(mine: Counted, other: Counted, z: float) -> tuple[float, float]:
    """Return the lower and upper bound of the canary's error rate less live's (Newcombe's hybrid score interval)."""
    apart = mine.error_rate - other.error_rate
    mine_low, mine_high = (wilson(mine.errors, mine.requests, side) for side in (-z, z))
    other_low, other_high = (wilson(other.errors, other.requests, side) for side in (-z, z))
    down = math.hypot(mine.error_rate - mine_low, other_high - other.error_rate)
    up = math.hypot(mine_high - mine.error_rate, other.error_rate - other_low)
    return apart - down, apart + up


def p95_bounds(histogram: Mapping[int, float], error: float) -> tuple[Optional[float], Optional[float]]:
    """Return both ends of the p95's interval by ranks, whatever the times' distribution; an end the sample does not reach is None."""
    lower, upper = quantile_ranks(int(sum(histogram.values())), 0.95, error)
    return value_at(histogram, lower), value_at(histogram, upper)


def quantile_ranks(count: int, share: float, error: float) -> tuple[int, int]:
    """Return the ranks between which a quantile lies; 0 and ``count + 1`` are beyond the sample.

    Each end is wrong at any look, however many there are, with a chance of at most ``error``.
    """
    return count + 1 - _fewest(count, 1 - share, error), _fewest(count, share, error)


def _fewest(count: int, share: float, error: float) -> int:
    """Return how many hits out of ``count`` show that they come more often than ``share``; ``count + 1`` when no number does."""
    return first(lambda hits: is_above(share, hits, count, error), count + 1)


def first(true: Callable[[int], bool], end: int) -> int:
    """Return the first number below ``end`` from which on something is true; ``end`` when there is none."""
    low, high = 0, end
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if true(middle) else (middle + 1, high)
    return low


def is_above(share: float, hits: float, count: float, error: float = ONE_END) -> bool:
    """Tell whether hits come more often than ``share``, to be asked as often as one likes."""
    return surprise([(hits, count, share)]) >= -math.log(error)


def surprise(parts: Iterable[tuple[float, float, float]]) -> float:
    """Return the logarithm of how much better "more often than ``share``" explains so many hits out of ``count`` than "at most ``share``".

    It is the mean of the likelihood ratios of ``_ODDS``. While hits come at most as often as ``share``, such a mean is expected to stay at 1 or
    below, so the chance that it *ever* reaches 1 / error is at most ``error`` (Ville's inequality): looking at it more often costs nothing.

    :param parts: hits, count and share; of several, each has a share of its own, and the same odds explain all.
    """
    ratios = [0.0] * len(_ODDS)
    for hits, count, share in parts:
        ratios = [ratio + hits * hit + (count - hits) * other for ratio, (hit, other) in zip(ratios, _explanations(share))]
    largest = max(ratios)
    return largest + math.log(sum(math.exp(ratio - largest) for ratio in ratios) / len(ratios))


@lru_cache(maxsize=64)
def _explanations(share: float) -> tuple[tuple[float, float], ...]:
    """Return for each of ``_ODDS`` what a hit adds to its logarithm, and what each of the others does."""
    shares = [blamed(share, odds) for odds in _ODDS]
    return tuple((math.log(more / share), math.log((1 - more) / (1 - share))) for more in shares)


def lower_bound(hits: int, count: int, least: float, error: float) -> float:
    """Return the share above which hits certainly come, at least ``least``, which is known to be below it."""
    low, high = least, hits / count
    while high - low > 0.001 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if is_above(middle, hits, count, error) else (low, middle)
    return low


def _binomial(number: int, count: int, share: float) -> float:
    """Return the chance of exactly ``number`` out of ``count``."""
    if share <= 0 or share >= 1:
        return float(number == (count if share >= 1 else 0))
    ways = math.lgamma(count + 1) - math.lgamma(number + 1) - math.lgamma(count - number + 1)
    return math.exp(ways + number * math.log(share) + (count - number) * math.log1p(-share))


def at_least(number: int, count: int, share: float) -> float:
    """Return the chance of ``number`` or more out of ``count``."""
    mean, variance = count * share, count * share * (1 - share)
    if variance > 400:
        return 0.5 * math.erfc((number - 0.5 - mean) / math.sqrt(2 * variance))
    first = max(0, int(mean - 10 * math.sqrt(variance) - 10))
    return 1.0 - sum(_binomial(each, count, share) for each in range(first, min(number, count + 1)))
