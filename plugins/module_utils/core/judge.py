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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Optional, Union

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.sample import Sample, SlotSample, quantile, value_at, value_of
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, INCONCLUSIVE, PASS, Gate, worst

# Normal quantiles of one-sided bounds, for what is asked once.
_Z_95, _Z_99, _Z_POWER = 1.645, 2.326, 1.282
_CHANCE = 0.01  # that a kind of requests is held for nothing, over all kinds
# Chance that a bound is ever wrong, at whatever look: one against a fixed limit, and each of two against each other, as both must be wrong to mislead.
_ONE_END, _TWO_ENDS = 0.01, 0.1
# How many times larger than supposed the odds may be: each is one explanation, and all of them count alike.
_ODDS = (1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)
_BOUND_RATIO = 1.5  # a difference that is certain but smaller than this is no reason to stop at once
_MALFORMED_SHARE = 0.01  # with more lines than this unread, the rest is not a fair sample

_MORE_TIME = "Give the step more time."
_MORE_REQUESTS = "Give the step more time or a larger share."
_LIVE_UNWELL = "Live itself is above the limit: hold, do not blame the canary."
_LOOK_AT_LIVE = "Find out what ails the live slot first."


@dataclass(frozen=True)
class Limits:
    """What a canary must keep to.

    :param error_rate: largest share of first attempts that may fail.
    :param error_margin: how much larger than live's the share may be (0.005 is half a percentage point).
    :param p95_seconds: largest 95th percentile of the request time.
    :param p95_ratio: largest 95th percentile as a multiple of live's.
    :param p95_floor_seconds: a 95th percentile below this never fails by the ratio.
    :param min_samples: first attempts that are needed for a verdict.
    :param guard_errors: so many failures ...
    :param guard_requests: ... among so many first attempts end a step at once.
    :param sprt_ratio: the canary that is so many times as bad as live is what the sequential test looks for.
    :param sprt_alpha: chance that the sequential test stops a canary as good as live.
    :param sprt_beta: chance that it overlooks one that is ``sprt_ratio`` times as bad.
    """

    error_rate: float = 0.01
    error_margin: float = 0.005
    p95_seconds: float = 2.0
    p95_ratio: float = 2.0
    p95_floor_seconds: float = 0.05
    min_samples: int = 50
    guard_errors: int = 5
    guard_requests: int = 20
    sprt_ratio: float = 3.0
    sprt_alpha: float = 0.01
    sprt_beta: float = 0.1

    def __post_init__(self) -> None:
        wrong = [sentence for name, (right, sentence) in _RULES.items() if not (_is_number(getattr(self, name)) and right(getattr(self, name)))]
        if not wrong and self.guard_errors > self.guard_requests:
            wrong = [f"guard_errors ({self.guard_errors}) must not be larger than guard_requests ({self.guard_requests})"]
        if wrong:
            raise SluiceError(f"The limits of the canary are wrong: {'; '.join(wrong)}.", "Nothing was judged. Correct them; all have a default.", limits=wrong)

    @classmethod
    def of(cls, given: Optional[Mapping[str, object]]) -> Limits:
        """Return the limits with what the operator gave over the defaults; a key without a value keeps its default."""
        known = [item.name for item in fields(cls)]
        chosen = {name: value for name, value in (given or {}).items() if value is not None}
        unknown = sorted(set(chosen) - set(known))
        if unknown:
            raise SluiceError(f"The limits of the canary have no {', '.join(unknown)}.", f"They are: {', '.join(known)}.", limits=unknown)
        return cls(**chosen)  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_RULES: dict[str, tuple[Callable[[float], bool], str]] = {
    "error_rate": (lambda value: 0 < value < 1, "error_rate is a share between 0 and 1, such as 0.01 for 1 %"),
    "error_margin": (lambda value: 0 <= value < 1, "error_margin is a share from 0 up to 1, such as 0.005 for half a percentage point"),
    "p95_seconds": (lambda value: value > 0, "p95_seconds is a time above 0, such as 2.0"),
    "p95_ratio": (lambda value: value >= 1, "p95_ratio is a factor of 1 or more, such as 2.0"),
    "p95_floor_seconds": (lambda value: value >= 0, "p95_floor_seconds is a time of 0 or more, such as 0.05"),
    "min_samples": (lambda value: value >= 1 and value == int(value), "min_samples is a whole number of 1 or more, such as 50"),
    "guard_errors": (lambda value: value >= 1 and value == int(value), "guard_errors is a whole number of 1 or more, such as 5"),
    "guard_requests": (lambda value: value >= 1 and value == int(value), "guard_requests is a whole number of 1 or more, such as 20"),
    "sprt_ratio": (lambda value: value > 1, "sprt_ratio is a factor above 1, such as 3.0"),
    "sprt_alpha": (lambda value: 0 < value < 0.5, "sprt_alpha is a chance between 0 and 0.5, such as 0.01"),
    "sprt_beta": (lambda value: 0 < value < 0.5, "sprt_beta is a chance between 0 and 0.5, such as 0.1"),
}


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
        live = _wilson(other.errors, other.requests, _Z_95)
    if reached and mine.error_rate >= limits.sprt_ratio * live:
        return f"{limits.guard_errors} failures among {limits.guard_requests} end a step at once."
    return ""


def _sequential(pair: _Pair, limits: Limits) -> str:
    if not pair.other.requests or pair.mine.error_rate - pair.other.error_rate <= limits.error_margin:
        return ""
    parts = _comparable(pair)
    if sum(_evidence(part.mine.errors, part.other.errors, _share(part), limits) for part in parts) < _needed_evidence(limits, pair.among):
        return ""
    mine, all_errors = sum(part.mine.errors for part in parts), sum(part.mine.errors + part.other.errors for part in parts)
    if pair.kinds:
        expected = sum(_share(part) * (part.mine.errors + part.other.errors) for part in parts)
        return f"As good as live it would have made {_plain(expected)} of {all_errors:,.0f} errors with its mix of requests; it made {mine:,}."
    return f"With {_percent(_share(pair))} of the requests it made {mine:,} of {all_errors:,.0f} errors."


def _evidence(mine: float, other: float, share: float, limits: Limits) -> float:
    """Return the logarithm of how much better "so many times as bad" explains the errors than "as good as live"."""
    blamed = _blamed(share, limits.sprt_ratio)
    return mine * math.log(blamed / share) + other * math.log((1 - blamed) / (1 - share))


def _blamed(share: float, ratio: float) -> float:
    """Return which share of the errors a canary makes that has this share of the requests and is so many times as bad as live."""
    return share * ratio / (share * ratio + 1 - share)


def _needed_evidence(limits: Limits, among: int = 1) -> float:
    return math.log((1 - limits.sprt_beta) / limits.sprt_alpha * among)


def _bound(pair: _Pair, limits: Limits) -> str:
    mine, error = pair.mine, _ONE_END / pair.among
    if mine.requests < limits.min_samples or not _is_above(limits.error_rate, mine.errors, mine.requests, error):
        return ""
    # Live's rate is an estimate as well: whose errors they are is asked of both slots' errors together.
    known = _is_known(pair.other, limits)
    if known and not _is_theirs(pair, error) or pair.kind and not known:
        return ""
    return f"Chance aside, it is {_at_least_percent(_lower_bound(mine.errors, mine.requests, limits.error_rate, error))} or more."


def _is_theirs(pair: _Pair, error: float) -> bool:
    """Tell whether the canary makes more of the errors than one would that is 1.5 times as bad as live."""
    parts = [(part.mine.errors, part.mine.errors + part.other.errors, _blamed(_share(part), _BOUND_RATIO)) for part in _comparable(pair)]
    return _surprise(parts) >= -math.log(error)


def _comparable(pair: _Pair) -> list[_Pair]:
    return [part for part in pair.parts if part.mine.requests and part.other.requests]


def _share(pair: _Pair) -> float:
    return pair.mine.requests / (pair.mine.requests + pair.other.requests)


def _is_known(other: _Part, limits: Limits) -> bool:
    """Tell whether live's error rate counts; while few requests speak for it, two unlucky ones would shield a broken canary."""
    return other.requests >= limits.guard_requests


def _stop_for_p95(pair: _Pair, limits: Limits) -> Optional[Gate]:
    mine, other, one_end, end = pair.mine, pair.other, _ONE_END / pair.among, _TWO_ENDS / math.sqrt(pair.among)
    if mine.requests < limits.min_samples:
        return None
    live, highest = _live_p95(other, limits), _p95_bounds(other.histogram, end)[1]
    alone, beside = (_p95_bounds(mine.histogram, error)[0] or 0.0 for error in (one_end, end))
    # Live's p95 is an estimate as well, so its upper end counts here; with few requests that end is open, and the ratio cannot fail.
    slow, count = _slow(pair.parts, limits, lambda part: _p95_bounds(part.histogram, end)[1])
    slower_than_live = _is_above(0.05, slow, count, end)
    as_slow = _is_unwell(live, limits) or (live is not None and highest is not None and alone <= highest)
    if not slower_than_live and (pair.kind or as_slow or alone <= limits.p95_seconds):
        return None
    more = f"Chance aside, it is {_seconds(beside if slower_than_live else alone)} or more."
    if slower_than_live and pair.kinds:
        more = f"{_percent(slow / count)} took more than {limits.p95_ratio:g} times as long as 95 % of live's of the same kind."
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
    window = f" in {_seconds(sample.until - sample.since)}" if sample.since is not None and sample.until is not None else ""
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
    upper = _wilson(mine.errors, mine.requests, _Z_95)
    if compare:
        high = _difference(mine, other, _Z_95)[1]
        if not final and high > limits.error_margin:
            return unsure(f"It may be {_at_most_percent(high)} of all requests worse than live; the margin is {_percent(limits.error_margin)}.")
        if final and mine.error_rate - other.error_rate > limits.error_margin and _difference(mine, other, _Z_99)[0] > 0:
            more = f"Within the limit, yet more than {_percent(limits.error_margin)} of all requests worse than live."
            return unsure(more, "Compare its errors with live's, then decide.")
    elif not final and upper > limits.error_rate:
        return unsure(f"Up to {_at_most_percent(upper)} cannot be ruled out yet.")
    seen, unseen = f"More than {_at_most_percent(upper)} is ruled out.", f"Up to {_at_most_percent(upper)} cannot be ruled out with so few."
    return _error_gate(PASS, pair, limits, seen if upper <= limits.error_rate else unseen)


def _error_gate(verdict: str, pair: _Pair, limits: Limits, more: str, remedy: str = "") -> Gate:
    mine, other = pair.mine, pair.other
    value = round(mine.error_rate, 6)
    if pair.kind:
        return Gate(f"error rate of {pair.kind}", verdict, f"{_failed(pair)}. {more}", value=value, sample=mine.requests, remedy=remedy)
    seen, limit = "unknown, no first attempt was seen", _percent(limits.error_rate)
    if mine.requests:
        seen = f"{_percent(mine.error_rate)} ({mine.errors:,} of {mine.requests:,} first attempts)"
    if other.requests:
        seen += f" against {_percent(other.error_rate)} {_live(pair)}"
    if 0 < other.requests < limits.min_samples:
        seen += f" ({other.errors:,.0f} of only {other.requests:,.0f})"
    return Gate("error rate", verdict, f"canary: error rate {seen}; limit {limit}. {more}", value, limits.error_rate, mine.requests, remedy)


def _failed(pair: _Pair) -> str:
    live = f" against {_percent(pair.other.error_rate)} live" if pair.other.requests else ""
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
        if larger and _at_least(mine.errors, mine.errors + int(other.errors), _share(kind)) <= chance:
            return _error_gate(INCONCLUSIVE, kind, limits, "Chance hardly explains that.", "Give the step more time, or look at the canary's log.")
        slow, count = _slow([kind], limits, lambda part: quantile(part.histogram, 0.95))
        if count and slow > 0.05 * count and _at_least(slow, count, 0.05) <= chance:
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
    against = f" against {_seconds(live)} {_live(pair)}" if live is not None else ""
    who = kind or "canary"
    seen = f"{who}: p95 {_seconds(value)} ({count:,} requests){against}" if value is not None else f"{who}: p95 unknown, no request was seen"
    sentence = f"{seen}; limit {_seconds(allowed)}. {more}".strip()
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


# --- What can be seen ------------------------------------------------------------------------------------------------


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
    step = f"{_percent(share)} for {_duration(seconds)} at {rate_per_second:.3g} requests/s"
    if least is None:
        return f"{step} detects nothing: some {rate_per_second * share * seconds:,.0f} requests are too few."
    return f"{step} detects an error rate of {_at_most_percent(least)} or more."


def _finds(rate: float, mine: float, other: float, base: float, limits: Limits) -> bool:
    """Tell whether a canary with this error rate is found by the end of a step, in nine of ten cases, by the rule that suits it best."""
    if mine < 1:
        return False
    count = int(mine)
    fewest = limits.guard_errors
    guard = max(fewest, math.ceil(count * limits.guard_errors / limits.guard_requests))
    if rate >= limits.sprt_ratio * base and _at_least(guard, count, rate) >= 0.9:
        return True
    if count >= limits.min_samples and _at_least(max(fewest, _errors_above(limits, count, other, base)), count, rate) >= 0.9:
        return True
    if other < 1 or _at_least(fewest, count, rate) < 0.9:
        return False
    # Errors are rare, so their number scatters like a Poisson count: its variance is its mean.
    share = mine / (mine + other)
    each_mine, each_other = _evidence(1, 0, share, limits), _evidence(0, 1, share, limits)
    evidence = mine * rate * each_mine + other * base * each_other
    scatter = math.sqrt(mine * rate * each_mine**2 + other * base * each_other**2)
    larger = rate - base - _Z_POWER * math.sqrt(rate * (1 - rate) / mine + base * (1 - base) / other)
    return evidence - _Z_POWER * scatter >= _needed_evidence(limits) and larger > limits.error_margin


def _errors_above(limits: Limits, count: int, other: float, base: float) -> int:
    """Return how many errors the bound needs, with as many on live's side as it has in nine of ten cases; ``count + 1`` when no number does."""
    lives = other * base + _Z_POWER * math.sqrt(other * base)
    whose = _blamed(count / (count + other), _BOUND_RATIO)
    known = other >= limits.guard_requests

    def enough(errors: int) -> bool:
        return _is_above(limits.error_rate, errors, count) and not (known and not _is_above(whose, errors, errors + lives))

    return _first(enough, count + 1)


# --- Arithmetic ------------------------------------------------------------------------------------------------------


def _wilson(errors: float, requests: float, z: float) -> float:
    """Return a bound of a rate by Wilson's score interval: the upper one, or with a negative z the lower one."""
    if not requests:
        return 1.0 if z > 0 else 0.0
    rate, square = errors / requests, z * z / requests
    bound = (rate + square / 2 + z * math.sqrt(rate * (1 - rate) / requests + square / requests / 4)) / (1 + square)
    return min(1.0, max(0.0, bound))


def _difference(mine: SlotSample, other: _Part, z: float) -> tuple[float, float]:
    """Return the lower and upper bound of the canary's error rate less live's (Newcombe's hybrid score interval)."""
    difference = mine.error_rate - other.error_rate
    mine_low, mine_high = (_wilson(mine.errors, mine.requests, side) for side in (-z, z))
    other_low, other_high = (_wilson(other.errors, other.requests, side) for side in (-z, z))
    down = math.hypot(mine.error_rate - mine_low, other_high - other.error_rate)
    up = math.hypot(mine_high - mine.error_rate, other.error_rate - other_low)
    return difference - down, difference + up


def _p95_bounds(histogram: Mapping[int, float], error: float) -> tuple[Optional[float], Optional[float]]:
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
    return _first(lambda hits: _is_above(share, hits, count, error), count + 1)


def _first(true: Callable[[int], bool], end: int) -> int:
    """Return the first number below ``end`` from which on something is true; ``end`` when there is none."""
    low, high = 0, end
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if true(middle) else (middle + 1, high)
    return low


def _is_above(share: float, hits: float, count: float, error: float = _ONE_END) -> bool:
    """Tell whether hits come more often than ``share``, to be asked as often as one likes."""
    return _surprise([(hits, count, share)]) >= -math.log(error)


def _surprise(parts: Iterable[tuple[float, float, float]]) -> float:
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
    shares = [_blamed(share, odds) for odds in _ODDS]
    return tuple((math.log(more / share), math.log((1 - more) / (1 - share))) for more in shares)


def _lower_bound(hits: int, count: int, least: float, error: float) -> float:
    """Return the share above which hits certainly come, at least ``least``, which is known to be below it."""
    low, high = least, hits / count
    while high - low > 0.001 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _is_above(middle, hits, count, error) else (low, middle)
    return low


def _binomial(number: int, count: int, share: float) -> float:
    """Return the chance of exactly ``number`` out of ``count``."""
    if share <= 0 or share >= 1:
        return float(number == (count if share >= 1 else 0))
    ways = math.lgamma(count + 1) - math.lgamma(number + 1) - math.lgamma(count - number + 1)
    return math.exp(ways + number * math.log(share) + (count - number) * math.log1p(-share))


def _at_least(number: int, count: int, share: float) -> float:
    """Return the chance of ``number`` or more out of ``count``."""
    mean, variance = count * share, count * share * (1 - share)
    if variance > 400:
        return 0.5 * math.erfc((number - 0.5 - mean) / math.sqrt(2 * variance))
    first = max(0, int(mean - 10 * math.sqrt(variance) - 10))
    return 1.0 - sum(_binomial(each, count, share) for each in range(first, min(number, count + 1)))


# --- Words -----------------------------------------------------------------------------------------------------------


def _percent(share: float) -> str:
    return f"{_plain(100 * share)} %"


def _at_most_percent(share: float) -> str:
    """Return an upper bound: rounded up, so that the words claim no more than was proven."""
    return _percent_by(math.ceil, share)


def _at_least_percent(share: float) -> str:
    """Return a lower bound, rounded down."""
    return _percent_by(math.floor, share)


def _percent_by(rounding: Callable[[float], int], share: float) -> str:
    if share <= 0:
        return "0 %"
    digits = 1 - math.floor(math.log10(100 * share))
    number = rounding(round(100 * share * 10.0**digits, 6)) / 10.0**digits
    return f"{number:.{digits}f}".rstrip("0") + " %" if number % 1 else f"{number:.0f} %"


def _plain(value: float) -> str:
    """Return a number with as many digits as a reader needs."""
    if value and abs(value) < 0.1:
        return f"{value:.1g}"
    return f"{value:.1f}".rstrip("0").rstrip(".") if abs(value) < 99.95 else f"{value:.0f}"


def _seconds(value: float) -> str:
    return f"{1000 * value:.0f} ms" if value < 0.9995 else f"{_plain(value)} s"


def _duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{_plain(seconds)} s"
