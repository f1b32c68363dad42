# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the canary may go on: its own first attempts against limits, and against the live slot in the same window.

Two questions with two kinds of proof:

- *Must it stop?* ``alarm`` may be asked after every request. Its rules stay right however often they are asked,
  so a healthy canary is not taken back for being looked at too often.
- *May it go on?* ``judge`` passes what was measured and found good. Too few requests, no requests, a live slot that
  is itself in trouble: that is ``inconclusive``, never a pass.

Where the sample tells kinds of requests apart, like is compared with like:

- *Together*: what live would show if it had the canary's mix of kinds, and each error is weighed with the canary's share of its own kind.
  That is the stratified comparison of Cochran (Biometrics 10, 1954, 417) and of Mantel and Haenszel (J. Natl. Cancer Inst. 22, 1959, 719),
  asked as Wald's test is, after every request. A canary that merely got another mix is then not blamed.
- *Each kind by itself*, so that a kind that is rare is not drowned by the others. An absolute limit speaks of all requests, as a kind may be worse
  by nature; within a kind only the comparison with live counts, and the guard.

With k kinds these are k + 1 questions, and each may be wrong with a (k + 1)-th of the chance that one question has (Bonferroni): all together are
wrong as seldom as one would be.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional, Union

from ansible_collections.sluice.deploy.plugins.module_utils.core.histogram import quantile, value_of
from ansible_collections.sluice.deploy.plugins.module_utils.core.limits import Limits
from ansible_collections.sluice.deploy.plugins.module_utils.core.odds import (
    BOUND_RATIO,
    ONE_END,
    TWO_ENDS,
    Z_95,
    Z_99,
    at_least,
    blamed,
    difference,
    evidence,
    is_above,
    lower_bound,
    needed_evidence,
    p95_bounds,
    surprise,
    wilson,
)
from ansible_collections.sluice.deploy.plugins.module_utils.core.sample import Sample, SlotSample
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, INCONCLUSIVE, PASS, Gate, worst
from ansible_collections.sluice.deploy.plugins.module_utils.core.words import at_least_percent, at_most_percent, percent, plain, seconds_in_words

_CHANCE = 0.01  # that a kind of requests is held for nothing, over all kinds
_MALFORMED_SHARE = 0.01  # with more lines than this unread, the rest is not a fair sample

_MORE_TIME = "Give the step more time."
_MORE_REQUESTS = "Give the step more time or a larger share."
_LIVE_UNWELL = "Live itself is above the limit: hold, do not blame the canary."
_LOOK_AT_LIVE = "Find out what ails the live slot first."


@dataclass(frozen=True)
class Judgement:
    """The verdict over a sample, the gates it rests on, and the sentence of those that decided."""

    verdict: str
    gates: tuple[Gate, ...]
    sentence: str


@dataclass(frozen=True)
class _Mix:
    """What live would show with the canary's mix of kinds; its counts are those of as many requests as would tell it as surely, so they are fractions."""

    requests: float
    errors: float
    histogram: Mapping[int, float]

    @property
    def error_rate(self) -> float:
        return self.errors / self.requests


_Part = Union[SlotSample, _Mix]


@dataclass(frozen=True)
class _Pair:
    """The canary's requests and those of live they are held against.

    :param kind: what kind of requests; empty for all of them.
    :param kinds: the same by kind, where the sample tells kinds apart.
    :param among: of how many questions this is one.
    """

    mine: SlotSample
    other: _Part
    kind: str = ""
    kinds: tuple[_Pair, ...] = ()
    among: int = 1

    @property
    def parts(self) -> tuple[_Pair, ...]:
        """Like and like: the kinds, or where none are told apart, the whole."""
        return self.kinds or (self,)


def _pair(sample: Sample, canary: str, live: Optional[str], limits: Limits) -> _Pair:
    """Return the canary's part and live's; after a promotion the canary is the live slot, and there is nothing to compare it with."""
    alone = live == canary
    mine, other = sample.slot(canary), SlotSample() if alone else sample.slot(live)
    if len(sample.kinds) < 2:
        return _Pair(mine, other)
    among = len(sample.kinds) + 1
    kinds = tuple(_Pair(sample.stratum(canary, kind), SlotSample() if alone else sample.stratum(live, kind), kind, (), among) for kind in sample.kinds)
    return _Pair(mine, _remixed(kinds, limits) or other, "", kinds, among)


def _remixed(kinds: Sequence[_Pair], limits: Limits) -> Optional[_Mix]:
    """Return live with the canary's mix (direct standardisation): each kind of live's requests weighs as much as the canary has of it.

    A kind of which live had next to nothing is left out; nobody knows how live would have answered it. None when no kind is left.
    """
    known = [pair for pair in kinds if pair.mine.requests and _is_known(pair.other, limits)]
    total = sum(pair.mine.requests for pair in known)
    if not total:
        return None
    weights = [pair.mine.requests / total for pair in known]
    # So many requests of the right mix would tell the rate as surely as these of another mix do.
    worth = 1 / sum(weight**2 / pair.other.requests for weight, pair in zip(weights, known))
    errors, scaled = 0.0, defaultdict[int, float](float)
    for weight, pair in zip(weights, known):
        scale = weight * worth / pair.other.requests
        errors += scale * pair.other.errors
        for number, count in pair.other.histogram.items():
            scaled[number] += scale * count
    return _Mix(worth, errors, scaled)


# --- Must it stop? ---------------------------------------------------------------------------------------------------


def alarm(sample: Sample, canary: str, live: Optional[str], limits: Limits) -> Optional[Gate]:
    """Return the gate that ends a step at once, or None while there is no reason to.

    Four rules, each safe to ask at every look:

    - *guard*: at least ``guard_errors`` errors, and they are at least ``guard_errors / guard_requests`` of all first attempts so far.
      Up to ``guard_requests`` requests that is "so many errors among the first so many"; from then on the share counts.
      Where live fails as well, it must be ``sprt_ratio`` times live's share (of a kind: its upper bound): an outage behind both slots is not the
      canary's doing.
    - *sequential*: Wald's test on who makes the errors. With the share w of the requests, a canary as good as live makes the share w of the
      errors, one ``sprt_ratio`` times as bad makes w r / (w r + 1 - w). It needs live traffic, and a difference above ``error_margin``.
    - *bound*: from ``min_samples`` requests and ``guard_errors`` errors on, the canary's rate is above the limit, and above 1.5 times live's,
      each with a chance of 1 % to be wrong at any look.
    - *p95*: from ``min_samples`` requests on, even the lower end of its p95 is above ``p95_seconds``, or above ``p95_ratio`` times the upper end of live's.
      Both ends hold at all looks together, whatever the times' distribution. Where live is above ``p95_seconds`` itself, or may be as slow as the
      canary, only the ratio counts.

    Where kinds of requests are told apart, all of them are asked together first, then each by itself.
    """
    pair = _pair(sample, canary, live, limits)
    return _stop_for_errors(pair, limits) or _stop_for_p95(pair, limits) or _stop_for_kind(pair, limits)


def _stop_for_kind(pair: _Pair, limits: Limits) -> Optional[Gate]:
    gates = (ask(kind, limits) for ask in (_stop_for_errors, _stop_for_p95) for kind in pair.kinds)
    return next((gate for gate in gates if gate), None)


def _stop_for_errors(pair: _Pair, limits: Limits) -> Optional[Gate]:
    if pair.mine.errors < limits.guard_errors:
        return None
    reason = _guard(pair, limits) or _sequential(pair, limits) or _bound(pair, limits)
    return _error_gate(FAIL, pair, limits, reason, "Take the traffic off the canary, then look at its log.") if reason else None


def _guard(pair: _Pair, limits: Limits) -> str:
    mine, other = pair.mine, pair.other
    reached = mine.errors * limits.guard_requests >= limits.guard_errors * mine.requests
    live = other.error_rate if _is_known(other, limits) else 0.0
    if pair.kind and other.requests:
        # A kind may fail often by nature, and of a rare one live's rate is a rough estimate.
        live = wilson(other.errors, other.requests, Z_95)
    if reached and mine.error_rate >= limits.sprt_ratio * live:
        return f"{limits.guard_errors} failures among {limits.guard_requests} end a step at once."
    return ""


def _sequential(pair: _Pair, limits: Limits) -> str:
    if not pair.other.requests or pair.mine.error_rate - pair.other.error_rate <= limits.error_margin:
        return ""
    parts = _comparable(pair)
    if sum(evidence(part.mine.errors, part.other.errors, _share(part), limits) for part in parts) < needed_evidence(limits, pair.among):
        return ""
    mine, all_errors = sum(part.mine.errors for part in parts), sum(part.mine.errors + part.other.errors for part in parts)
    if pair.kinds:
        expected = sum(_share(part) * (part.mine.errors + part.other.errors) for part in parts)
        return f"As good as live it would have made {plain(expected)} of {all_errors:,.0f} errors with its mix of requests; it made {mine:,}."
    return f"With {percent(_share(pair))} of the requests it made {mine:,} of {all_errors:,.0f} errors."


def _bound(pair: _Pair, limits: Limits) -> str:
    mine, error = pair.mine, ONE_END / pair.among
    if mine.requests < limits.min_samples or not is_above(limits.error_rate, mine.errors, mine.requests, error):
        return ""
    # Live's rate is an estimate as well: whose errors they are is asked of both slots' errors together.
    known = _is_known(pair.other, limits)
    if known and not _is_theirs(pair, error) or pair.kind and not known:
        return ""
    return f"Chance aside, it is {at_least_percent(lower_bound(mine.errors, mine.requests, limits.error_rate, error))} or more."


def _is_theirs(pair: _Pair, error: float) -> bool:
    """Tell whether the canary makes more of the errors than one would that is 1.5 times as bad as live."""
    parts = [(part.mine.errors, part.mine.errors + part.other.errors, blamed(_share(part), BOUND_RATIO)) for part in _comparable(pair)]
    return surprise(parts) >= -math.log(error)


def _comparable(pair: _Pair) -> list[_Pair]:
    return [part for part in pair.parts if part.mine.requests and part.other.requests]


def _share(pair: _Pair) -> float:
    return pair.mine.requests / (pair.mine.requests + pair.other.requests)


def _is_known(other: _Part, limits: Limits) -> bool:
    """Tell whether live's error rate counts; while few requests speak for it, two unlucky ones would shield a broken canary."""
    return other.requests >= limits.guard_requests


def _stop_for_p95(pair: _Pair, limits: Limits) -> Optional[Gate]:
    mine, other, one_end, end = pair.mine, pair.other, ONE_END / pair.among, TWO_ENDS / math.sqrt(pair.among)
    if mine.requests < limits.min_samples:
        return None
    live, highest = _live_p95(other, limits), p95_bounds(other.histogram, end)[1]
    alone, beside = (p95_bounds(mine.histogram, error)[0] or 0.0 for error in (one_end, end))
    # Live's p95 is an estimate as well, so its upper end counts here; with few requests that end is open, and the ratio cannot fail.
    slow, count = _slow(pair.parts, limits, lambda part: p95_bounds(part.histogram, end)[1])
    slower_than_live = is_above(0.05, slow, count, end)
    as_slow = _is_unwell(live, limits) or (live is not None and highest is not None and alone <= highest)
    if not slower_than_live and (pair.kind or as_slow or alone <= limits.p95_seconds):
        return None
    more = f"Chance aside, it is {seconds_in_words(beside if slower_than_live else alone)} or more."
    if slower_than_live and pair.kinds:
        more = f"{percent(slow / count)} took more than {limits.p95_ratio:g} times as long as 95 % of live's of the same kind."
    return _p95_gate(FAIL, pair, live, limits, more, "Take the traffic off the canary, then look what it waits for.")


def _slow(parts: Sequence[_Pair], limits: Limits, p95_of: Callable[[_Part], Optional[float]]) -> tuple[int, int]:
    """Return how many of the canary's requests are slower than live's p95 of their kind allows, and among how many that can be told.

    Of a canary as quick as that, 5 % are; so that many more are slow means the same as a p95 above the limit, and can be added up over kinds.
    """
    slow = count = 0
    for part in parts:
        limit = _ratio_limit(p95_of(part.other) if _live_p95(part.other, limits) is not None else None, limits)
        if limit < math.inf:
            slow += sum(times for number, times in part.mine.histogram.items() if value_of(number) > limit)
            count += sum(part.mine.histogram.values())
    return slow, count


# --- May it go on? ---------------------------------------------------------------------------------------------------


def judge(sample: Sample, canary: str, live: Optional[str], limits: Limits, final: bool) -> Judgement:
    """Return the verdict over a canary's sample.

    The error rate passes within ``error_rate``, and

    - at an interim look (``final`` false) with proof: the upper 95 % bound of the canary's difference to live (Newcombe) is within
      ``error_margin``; without live traffic, the upper bound of its rate is within ``error_rate``. Luck in one of many looks is then no pass.
    - at the end of a step (``final`` true) with what ``min_samples`` can show: the difference is within ``error_margin``, or so small that it cannot
      be told from chance (its lower 99 % bound is not above 0). The sentence names the rate that cannot be ruled out.

    Where kinds of requests are told apart, live is taken with the canary's mix of them, and no kind may have more errors or slow requests than live's
    has, beyond a chance of 1 % over all kinds.

    It fails by ``alarm`` alone, so the number of looks does not matter.

    :param live: the slot to compare with. Without requests there, or where it is the canary itself (after a promotion), the absolute limits decide alone.
    """
    pair = _pair(sample, canary, live, limits)
    gates: tuple[Gate, ...] = (_judge_sample(sample, pair.mine, limits), _judge_errors(pair, limits, final), _judge_p95(pair, limits))
    if pair.kinds:
        gates = (*gates, _judge_kinds(pair, limits))
    verdict = worst(gate.verdict for gate in gates)
    return Judgement(verdict, gates, " ".join(gate.sentence for gate in gates if gate.verdict == verdict))


def _judge_sample(sample: Sample, mine: SlotSample, limits: Limits) -> Gate:
    lines = sample.malformed + sample.ignored + sample.unowned + sum(slot.requests + slot.aborted for slot in sample.slots.values())
    window = f" in {seconds_in_words(sample.until - sample.since)}" if sample.since is not None and sample.until is not None else ""
    seen = f"canary: {mine.requests:,} first attempts{window}; {limits.min_samples:,} are needed."
    stray = f" {sample.unowned:,} requests went to addresses that belong to no slot." if sample.unowned else ""
    verdict, remedy = PASS, ""
    if mine.requests < limits.min_samples:
        verdict, remedy = INCONCLUSIVE, _MORE_REQUESTS
        if stray:
            remedy = "Compare the slots' addresses with those in the edge's configuration."
        elif not mine.requests:
            remedy = "No request has reached the canary: look whether the edge sends it any, and whether the log is that edge's."
    if sample.malformed > _MALFORMED_SHARE * lines:
        verdict, remedy = INCONCLUSIVE, "Compare the log's format with the one the edge renders."
        stray += f" {sample.malformed:,} of {lines:,} lines of the log could not be read."
    return Gate("sample", verdict, seen + stray, value=mine.requests, limit=limits.min_samples, sample=mine.requests, remedy=remedy)


def _judge_errors(pair: _Pair, limits: Limits, final: bool) -> Gate:
    stop = _stop_for_errors(pair, limits)
    if stop:
        return stop
    mine, other = pair.mine, pair.other

    def unsure(more: str, remedy: str = _MORE_TIME) -> Gate:
        return _error_gate(INCONCLUSIVE, pair, limits, more, remedy)

    if mine.requests < limits.min_samples:
        return unsure(f"{limits.min_samples:,} first attempts are needed.", _MORE_REQUESTS)
    compare = other.requests >= limits.min_samples
    if compare and other.error_rate > limits.error_rate:
        return unsure(_LIVE_UNWELL, _LOOK_AT_LIVE)
    if mine.error_rate > limits.error_rate:
        return unsure("Above the limit, yet it may be chance.", "Give the step more time, or look at the canary's log.")
    upper = wilson(mine.errors, mine.requests, Z_95)
    if compare:
        high = difference(mine, other, Z_95)[1]
        if not final and high > limits.error_margin:
            return unsure(f"It may be {at_most_percent(high)} of all requests worse than live; the margin is {percent(limits.error_margin)}.")
        if final and mine.error_rate - other.error_rate > limits.error_margin and difference(mine, other, Z_99)[0] > 0:
            more = f"Within the limit, yet more than {percent(limits.error_margin)} of all requests worse than live."
            return unsure(more, "Compare its errors with live's, then decide.")
    elif not final and upper > limits.error_rate:
        return unsure(f"Up to {at_most_percent(upper)} cannot be ruled out yet.")
    seen, unseen = f"More than {at_most_percent(upper)} is ruled out.", f"Up to {at_most_percent(upper)} cannot be ruled out with so few."
    return _error_gate(PASS, pair, limits, seen if upper <= limits.error_rate else unseen)


def _error_gate(verdict: str, pair: _Pair, limits: Limits, more: str, remedy: str = "") -> Gate:
    mine, other = pair.mine, pair.other
    value = round(mine.error_rate, 6)
    if pair.kind:
        return Gate(f"error rate of {pair.kind}", verdict, f"{_failed(pair)}. {more}", value=value, sample=mine.requests, remedy=remedy)
    seen, limit = "unknown, no first attempt was seen", percent(limits.error_rate)
    if mine.requests:
        seen = f"{percent(mine.error_rate)} ({mine.errors:,} of {mine.requests:,} first attempts)"
    if other.requests:
        seen += f" against {percent(other.error_rate)} {_live(pair)}"
    if 0 < other.requests < limits.min_samples:
        seen += f" ({other.errors:,.0f} of only {other.requests:,.0f})"
    return Gate("error rate", verdict, f"canary: error rate {seen}; limit {limit}. {more}", value, limits.error_rate, mine.requests, remedy)


def _failed(pair: _Pair) -> str:
    live = f" against {percent(pair.other.error_rate)} live" if pair.other.requests else ""
    return f"{pair.kind}: {pair.mine.errors:,} of {pair.mine.requests:,} first attempts failed{live}"


def _live(pair: _Pair) -> str:
    return "live with the same mix of requests" if isinstance(pair.other, _Mix) else "live"


def _judge_kinds(pair: _Pair, limits: Limits) -> Gate:
    """Return the gate of the kind that is worse than live's; it passes when none is."""
    stop = _stop_for_kind(pair, limits)
    if stop:
        return stop
    chance = _CHANCE / (2 * len(pair.kinds))
    for kind in pair.kinds:
        mine, other = kind.mine, kind.other
        larger = other.requests > 0 and mine.error_rate - other.error_rate > limits.error_margin
        if larger and at_least(mine.errors, mine.errors + int(other.errors), _share(kind)) <= chance:
            return _error_gate(INCONCLUSIVE, kind, limits, "Chance hardly explains that.", "Give the step more time, or look at the canary's log.")
        slow, count = _slow([kind], limits, lambda part: quantile(part.histogram, 0.95))
        if count and slow > 0.05 * count and at_least(slow, count, 0.05) <= chance:
            return _p95_gate(INCONCLUSIVE, kind, _live_p95(other, limits), limits, "Chance hardly explains that.", _MORE_TIME)
    asked = [kind for kind in pair.kinds if kind.mine.requests]
    unknown = [kind.kind for kind in asked if not _is_known(kind.other, limits)]
    seen = ", ".join(f"{kind.kind} {kind.mine.errors:,} of {kind.mine.requests:,}" for kind in asked) or "none of none"
    sentence = f"canary: no kind of requests is worse than live's; failed are {seen}."
    if len(unknown) == len(asked):
        sentence = f"canary: failed are {seen}; live had too few requests to compare them kind by kind."
    elif unknown:
        sentence += f" Not compared, as live had too few: {', '.join(unknown)}."
    few = pair.mine.requests < limits.min_samples
    return Gate("kinds of requests", INCONCLUSIVE if few else PASS, sentence, sample=pair.mine.requests, remedy=_MORE_REQUESTS if few else "")


def _judge_p95(pair: _Pair, limits: Limits) -> Gate:
    stop = _stop_for_p95(pair, limits)
    if stop:
        return stop
    mine, live = pair.mine, _live_p95(pair.other, limits)

    def gate(verdict: str, more: str = "", remedy: str = "") -> Gate:
        return _p95_gate(verdict, pair, live, limits, more, remedy)

    value = quantile(mine.histogram, 0.95)
    if value is None or mine.requests < limits.min_samples:
        return gate(INCONCLUSIVE, f"{limits.min_samples:,} first attempts are needed.", _MORE_REQUESTS)
    if _is_unwell(live, limits):
        return gate(INCONCLUSIVE, _LIVE_UNWELL, _LOOK_AT_LIVE)
    if value > _allowed_p95(live, limits):
        return gate(INCONCLUSIVE, "Above the limit, yet it may be chance.", _MORE_TIME)
    return gate(PASS)


def _p95_gate(verdict: str, pair: _Pair, live: Optional[float], limits: Limits, more: str, remedy: str) -> Gate:
    mine, kind = pair.mine, pair.kind
    value, count = quantile(mine.histogram, 0.95), sum(mine.histogram.values())
    allowed = _ratio_limit(live, limits) if kind else _allowed_p95(live, limits)
    against = f" against {seconds_in_words(live)} {_live(pair)}" if live is not None else ""
    who = kind or "canary"
    seen = f"{who}: p95 {seconds_in_words(value)} ({count:,} requests){against}" if value is not None else f"{who}: p95 unknown, no request was seen"
    sentence = f"{seen}; limit {seconds_in_words(allowed)}. {more}".strip()
    name = f"p95 of {kind}" if kind else "p95"
    return Gate(name, verdict, sentence, None if value is None else round(value, 6), round(allowed, 6), count, remedy)


def _live_p95(other: _Part, limits: Limits) -> Optional[float]:
    """Return live's p95; None while too few requests speak for it."""
    return quantile(other.histogram, 0.95) if sum(other.histogram.values()) >= limits.min_samples else None


def _is_unwell(live: Optional[float], limits: Limits) -> bool:
    return live is not None and live > limits.p95_seconds


def _allowed_p95(live: Optional[float], limits: Limits) -> float:
    return min(limits.p95_seconds, _ratio_limit(live, limits))


def _ratio_limit(live: Optional[float], limits: Limits) -> float:
    return math.inf if live is None else max(limits.p95_ratio * live, limits.p95_floor_seconds)
