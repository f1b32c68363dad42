# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan can see at the traffic there is, told before the canary; and whether the judge can be trusted on that traffic."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Sequence
from typing import Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.judge import alarm
from ansible_collections.sluice.deploy.plugins.module_utils.core.limits import Limits
from ansible_collections.sluice.deploy.plugins.module_utils.core.odds import BOUND_RATIO, Z_POWER, at_least, blamed, evidence, first, is_above, needed_evidence
from ansible_collections.sluice.deploy.plugins.module_utils.core.sample import Sample, merge, parse
from ansible_collections.sluice.deploy.plugins.module_utils.core.steps import Step
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, INCONCLUSIVE, PASS, WAIVED, Gate
from ansible_collections.sluice.deploy.plugins.module_utils.core.words import at_most_percent, duration, percent

HALVES = ("one half", "the other half")
_BLIND = "Give the steps more time or larger shares, or go on all the same with -e canary_accept_blind=true."


def power(plan: Sequence[Step], rate: Optional[float], limits: Limits, accept_blind: bool) -> Gate:
    """Say what each step can detect at the measured traffic; a plan that can detect nothing does not pass.

    :param rate: requests per second of all visitors; None when nobody could tell.
    :param accept_blind: go on with such a plan.
    """
    judged = [step for step in plan if step.percent > 0 and step.max > 0]
    seeing = [step for step in judged if rate and detectable(rate, step.percent / 100, step.max, limits) is not None]
    if rate is None:
        seen = "how many requests there are could not be measured, so nobody can tell what the plan detects."
    elif not judged:
        seen = f"no step has time and visitors, so the plan detects nothing ({rate:.3g} requests/s)."
    else:
        shown = [*dict.fromkeys((judged[0], judged[-1]))]
        seen = " ".join(detectable_sentence(rate, step.percent / 100, step.max, limits) for step in shown)
    if seeing:
        return Gate("power", PASS, seen, value=len(seeing), limit=len(judged))
    return Gate("power", WAIVED if accept_blind else FAIL, seen, value=0, limit=len(judged), remedy=_BLIND)


def detectable(rate_per_second: float, share: float, seconds: float, limits: Limits, live_rate: Optional[float] = None) -> Optional[float]:
    """Return the smallest error rate that ``alarm`` finds in a step with a chance of 90 % or more; None when it can find none.

    :param rate_per_second: requests of all visitors.
    :param share: the canary's share of them, 0 to 1.
    :param live_rate: live's own error rate; a quarter of the limit when it is not known.
    """
    mine, other = rate_per_second * share * seconds, rate_per_second * (1 - share) * seconds
    base = limits.error_rate / 4 if live_rate is None else live_rate
    if not _finds(1.0, mine, other, base, limits):
        return None
    low, high = 0.0, 1.0
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if _finds(middle, mine, other, base, limits) else (middle, high)
    return high


def detectable_sentence(rate_per_second: float, share: float, seconds: float, limits: Limits, live_rate: Optional[float] = None) -> str:
    """Return what a step can see, in words."""
    least = detectable(rate_per_second, share, seconds, limits, live_rate)
    step = f"{percent(share)} for {duration(seconds)} at {rate_per_second:.3g} requests/s"
    if least is None:
        return f"{step} detects nothing: some {rate_per_second * share * seconds:,.0f} requests are too few."
    return f"{step} detects an error rate of {at_most_percent(least)} or more."


def _finds(rate: float, mine: float, other: float, base: float, limits: Limits) -> bool:
    """Tell whether a canary with this error rate is found by the end of a step, in nine of ten cases, by the rule that suits it best."""
    if mine < 1:
        return False
    count = int(mine)
    fewest = limits.guard_errors
    guard = max(fewest, math.ceil(count * limits.guard_errors / limits.guard_requests))
    if rate >= limits.sprt_ratio * base and at_least(guard, count, rate) >= 0.9:
        return True
    if count >= limits.min_samples and at_least(max(fewest, _errors_above(limits, count, other, base)), count, rate) >= 0.9:
        return True
    if other < 1 or at_least(fewest, count, rate) < 0.9:
        return False
    # Errors are rare, so their number scatters like a Poisson count: its variance is its mean.
    share = mine / (mine + other)
    each_mine, each_other = evidence(1, 0, share, limits), evidence(0, 1, share, limits)
    weight = mine * rate * each_mine + other * base * each_other
    scatter = math.sqrt(mine * rate * each_mine**2 + other * base * each_other**2)
    larger = rate - base - Z_POWER * math.sqrt(rate * (1 - rate) / mine + base * (1 - base) / other)
    return weight - Z_POWER * scatter >= needed_evidence(limits) and larger > limits.error_margin


def _errors_above(limits: Limits, count: int, other: float, base: float) -> int:
    """Return how many errors the bound needs, with as many on live's side as it has in nine of ten cases; ``count + 1`` when no number does."""
    lives = other * base + Z_POWER * math.sqrt(other * base)
    whose = blamed(count / (count + other), BOUND_RATIO)
    known = other >= limits.guard_requests

    def enough(errors: int) -> bool:
        return is_above(limits.error_rate, errors, count) and not (known and not is_above(whose, errors, errors + lives))

    return first(enough, count + 1)


_VISITOR = re.compile(rb'"v":"([^"\\\\]*)"')


def halves(block: bytes, addresses: Sequence[str], ignore_paths: Sequence[str]) -> Sample:
    """Return the requests that came to some addresses as two samples in one, cut by the visitor: nobody is in both.

    :param block: whole lines of the edge's log.
    """
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for line in block.splitlines(keepends=True):
        found = _VISITOR.search(line)
        parts[zlib.crc32(found.group(1)) & 1 if found else 0].append(line)
    return merge([parse(b"".join(lines), dict.fromkeys(addresses, half), ignore_paths) for half, lines in zip(HALVES, parts)])


def self_test(sample: Sample, limits: Limits) -> Gate:
    """Judge one half of the live slot's own traffic against the other: a difference between likes is the judge's fault, not a version's."""
    one, other = (sample.slot(half) for half in HALVES)
    found = alarm(sample, HALVES[0], HALVES[1], limits) or alarm(sample, HALVES[1], HALVES[0], limits)
    if found:
        remedy = "Look at what differs (few heavy visitors, an outage in the window); go on without canary_self_test when a person has decided."
        return Gate("self test", FAIL, f"the judge finds a difference between two halves of the live slot's own traffic: {found.sentence}", remedy=remedy)
    said = f"two halves of the live slot's own traffic, {one.requests:,} and {other.requests:,} requests"
    if min(one.requests, other.requests) < limits.min_samples:
        return Gate(
            "self test", INCONCLUSIVE, f"{said}, are too few to test the judge; {limits.min_samples:,} each are needed", remedy="Wait for more traffic."
        )
    return Gate("self test", PASS, f"{said}, do not differ", sample=one.requests + other.requests)
