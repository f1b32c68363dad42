# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Absolute limits as a ladder of data: what is read, from where on it is bad, for how long, and what follows.

A profile holds a list of rungs, such as ``{metric: error_rate, op: '>', value: 0.05, for: 1800, min_samples: 100, action: hold}``.
Several numbers for one metric do not contradict each other then: each is a rung of its own, and the most severe one that applies decides.

A metric that cannot be read is neither good nor bad. It is counted apart, and when it stays unreadable the release is held.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import ERROR, FAIL, INCONCLUSIVE, PASS, Gate, worst

CONTINUE, WARN, HOLD, ROLLBACK = "continue", "warn", "hold", "rollback"
ACTIONS = (WARN, HOLD, ROLLBACK)

UNREADABLE_IN_A_ROW = 4
"""So many readings in a row that could not be taken hold a release."""

FRESH_SECONDS = 300.0
"""A newest reading older than this says nothing about now."""

SHARE, SECONDS, COUNT, TIMES, NUMBER = "share", "seconds", "count", "times", "number"

_REQUESTS = 50  # a rate or a percentile of fewer requests is not judged unless the profile says so
_ORDER = (CONTINUE, *ACTIONS)
_KEYS = ("metric", "op", "value", "for", "min_samples", "action")
_CUSTOM = re.compile(r"custom:[a-z][a-z0-9_]{0,62}")
_EXAMPLE = "Example: {metric: error_rate, op: '>', value: 0.05, for: 300, min_samples: 100, action: rollback}"
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


@dataclass(frozen=True)
class Metric:
    """One thing that is read.

    :param unit: what its values are counted in; a limit is given in the same unit, and in no other.
    :param meaning: what it is, in words.
    :param min_samples: observations a reading needs if the limit does not say.
    """

    unit: str
    meaning: str
    min_samples: int = 0


METRICS: Mapping[str, Metric] = {
    "error_rate": Metric(SHARE, "share of the first attempts that failed", _REQUESTS),
    "p50": Metric(SECONDS, "request time that half of the requests stay below", _REQUESTS),
    "p95": Metric(SECONDS, "request time that 95 % of the requests stay below", _REQUESTS),
    "p99": Metric(SECONDS, "request time that 99 % of the requests stay below", _REQUESTS),
    "mean": Metric(SECONDS, "mean request time", _REQUESTS),
    "p95_ratio": Metric(TIMES, "p95 as a multiple of live's in the same time", _REQUESTS),
    "mean_ratio": Metric(TIMES, "mean request time as a multiple of live's in the same time", _REQUESTS),
    "payment_success_rate": Metric(SHARE, "share of the payments that were processed; a declined card was", 1),
    "payment_failures": Metric(COUNT, "payments in the source's window that could not be processed; declined cards do not count"),
    "webhook_failures": Metric(COUNT, "webhooks in the source's window that were not accepted"),
    "health_failing": Metric(SECONDS, "how long the health check has been failing; 0 while it passes"),
    "smoke_failures": Metric(COUNT, "critical smoke requests that failed, retries included"),
    "integrity_failures": Metric(COUNT, "integrity checks of the database that failed, and migrations"),
    "failed_probes": Metric(COUNT, "health probes in a row that failed"),
    "restarts": Metric(COUNT, "ends of the slot's processes since its start, restarted or not"),
    "cpu": Metric(SHARE, "share of the host's processors that is busy"),
    "memory": Metric(SHARE, "share of the host's memory that is used"),
    "disk": Metric(SHARE, "share of the file system that is used"),
    "database_connections": Metric(SHARE, "share of the connections that ordinary roles may have which is taken"),
    "deadlocks": Metric(COUNT, "deadlocks since the release began (the server's own counter never goes back)"),
    "idle_in_transaction": Metric(SECONDS, "how long the longest idle session has been inside a transaction"),
    "longest_query": Metric(SECONDS, "how long the longest statement has been running"),
    "longest_wait": Metric(SECONDS, "how long the statement that waits for another's lock runs, the longest of them"),
}
_OF_CUSTOM = Metric(NUMBER, "whatever the operator's own query or address returns")

# What a unit allows: lowest, highest, and how its numbers are written.
_UNITS: Mapping[str, tuple[float, float, str]] = {
    SHARE: (0.0, 1.0, "a share from 0 to 1; write 0.05 for 5 %"),
    SECONDS: (0.0, math.inf, "a number of seconds; write 0.5 for 500 ms"),
    COUNT: (0.0, math.inf, "a whole number; write 3 for three of them"),
    TIMES: (0.0, math.inf, "a multiple of live's; write 1.5 for half as much again"),
    NUMBER: (-math.inf, math.inf, "a number in the unit the source returns; write 12.5"),
}


def metric_of(name: str) -> Metric:
    """Return what a metric is.

    :raises SluiceError: there is no such metric.
    """
    if _CUSTOM.fullmatch(name):
        return _OF_CUSTOM
    if name in METRICS:
        return METRICS[name]
    near = difflib.get_close_matches(name, METRICS, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise SluiceError(f"There is no metric {name!r}.{hint}", f"Metrics are {', '.join(METRICS)}, and custom:NAME for your own.", metric=name)


@dataclass(frozen=True)
class Limit:
    """One rung.

    :param value: in the metric's unit.
    :param lasting: seconds for which the condition must hold without interruption (``for`` in a profile).
    :param min_samples: observations a reading needs to count.
    :param action: ``warn``, ``hold`` or ``rollback``.
    """

    metric: str
    op: str
    value: float
    lasting: float = 0.0
    min_samples: int = 0
    action: str = WARN

    def is_bad(self, value: float) -> bool:
        """Tell whether the condition holds for a value."""
        return _COMPARE[self.op](value, self.value)

    @property
    def needed(self) -> int:
        """Observations a reading needs to count; what is a rate or a percentile of none says nothing."""
        return max(self.min_samples, min(1, metric_of(self.metric).min_samples))

    def __str__(self) -> str:
        lasting = f" for {self.lasting:g} s" if self.lasting else ""
        return f"{self.metric} {self.op} {shown(self.value, self.metric)}{lasting}: {self.action}"


@dataclass(frozen=True)
class Reading:
    """One look at one metric.

    :param at: when it was taken, in seconds.
    :param value: in the metric's unit; None when it could not be read.
    :param samples: how many observations it rests on.
    :param why: why it could not be read.
    :param host: where it was read; the readings of each host are a row of their own.
    :param unit: the operator's word for what a metric of their own is counted in.
    """

    metric: str
    at: float
    value: Optional[float]
    samples: int = 0
    why: str = ""
    host: str = ""
    unit: str = ""

    @property
    def known(self) -> bool:
        """Tell whether it was read; what is no finite number was not."""
        return self.value is not None and math.isfinite(self.value)


@dataclass(frozen=True)
class Climb:
    """What a ladder says: a gate for each rung and host, what follows, and the sentences of the rungs it follows from.

    :param verdict: the worst of the gates, those of mere warnings left out: as long as it is unclear, a step has not passed.
    :param doubt: the sentences of the gates that make the verdict no pass.
    :param warnings: the sentence of each warning that applies, by its rung and host.
    """

    gates: tuple[Gate, ...]
    action: str
    sentence: str
    verdict: str = PASS
    doubt: str = ""
    warnings: Mapping[str, str] = field(default_factory=dict)


# --- From a profile --------------------------------------------------------------------------------------------------


def limit_from(data: Any, where: str = "limit") -> Limit:
    """Return the limit a mapping describes.

    :param where: name of the variable and the place in it, for the message.
    :raises SluiceError: it names the key, what is wrong with it, what is allowed, and an example.
    """
    try:
        return _limit(data)
    except _Wrong as wrong:
        raise SluiceError(f"{where}: {wrong}", _EXAMPLE, limit=where) from None
    except SluiceError as error:
        raise SluiceError(f"{where}: metric: {error.message}", error.remedy, limit=where) from None


class _Wrong(Exception):
    """What is wrong with a key."""


def _limit(data: Any) -> Limit:
    if not isinstance(data, Mapping):
        raise _Wrong(f"a limit is a mapping with the keys {', '.join(_KEYS)}, not {data!r}.")
    unknown = sorted(str(key) for key in data if key not in _KEYS)
    if unknown:
        raise _Wrong(f"the key {unknown[0]} is unknown; allowed are {', '.join(_KEYS)}.")
    missing = [key for key in ("metric", "op", "value", "action") if data.get(key) is None]
    if missing:
        raise _Wrong(f"{missing[0]} is missing; there is no default for it.")
    metric, op, action = str(data["metric"]), data["op"], data["action"]
    known = metric_of(metric)
    if op not in _COMPARE:
        quotes = " In YAML it needs quotes." if op == "" else ""
        raise _Wrong(f"op is {op!r}; allowed are {' '.join(_COMPARE)}.{quotes}")
    if action not in ACTIONS:
        raise _Wrong(f"action is {action!r}; allowed are {', '.join(ACTIONS)}.")
    value = _value(metric, known.unit, data["value"])
    _check_reach(metric, known.unit, op, value)
    lasting, samples = data.get("for", 0), data.get("min_samples", known.min_samples)
    if not _is_number(lasting) or lasting < 0:
        raise _Wrong(f"for is {lasting!r}; allowed is a number of seconds from 0 on; write 300 for five minutes.")
    if not _is_number(samples) or samples < 0 or samples != int(samples):
        raise _Wrong(f"min_samples is {samples!r}; allowed is a whole number from 0 on; write 100.")
    return Limit(metric, op, value, float(lasting), int(samples), action)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _value(metric: str, unit: str, value: Any) -> float:
    low, high, allowed = _UNITS[unit]
    if not _is_number(value) or not low <= value <= high or (unit == COUNT and value != int(value)):
        raise _Wrong(f"value of {metric} is {value!r}; allowed is {allowed}.")
    return float(value)


def _check_reach(metric: str, unit: str, op: str, value: float) -> None:
    """Refuse a limit that no reading can reach, and one that every reading does."""
    low, high, _allowed = _UNITS[unit]
    ends = [_COMPARE[op](end, value) for end in (low, high)]
    if not any(ends):
        raise _Wrong(f"{metric} {op} {shown(value, metric)} can never be true, so this limit would guard nothing.")
    if all(ends):
        raise _Wrong(f"{metric} {op} {shown(value, metric)} is always true, so this limit would stop every release.")


# --- What it says now ------------------------------------------------------------------------------------------------


def climb(limits: Sequence[Limit], readings: Iterable[Reading], now: float, unreadable: int = UNREADABLE_IN_A_ROW, fresh: float = FRESH_SECONDS) -> Climb:
    """Return what the readings mean for a ladder.

    A rung applies when its condition held in the newest reading and, without a reading to the contrary, for as long as it says. A reading with too few samples,
    or none at all, neither proves nor refutes a condition; so many in a row as hold a release do interrupt it.

    :param readings: of all metrics, in any order; those after ``now`` are left out.
    :param unreadable: so many readings in a row that could not be taken decide for ``hold``.
    :param fresh: seconds after which a newest reading counts as none. A metric without a fresh reading holds: nobody looks at it.
    """
    past = sorted((reading for reading in readings if reading.at <= now), key=lambda reading: reading.at)
    rungs = [(limit, row, *_rung(limit, row, now, unreadable, fresh)) for limit in limits for row in _rows(past, limit.metric)]
    action = max((each for _limit, _readings, _gate, each in rungs), key=_ORDER.index, default=CONTINUE)
    binding = [gate for limit, _readings, gate, _each in rungs if limit.action != WARN]
    verdict = worst([PASS, *(gate.verdict for gate in binding)])
    return Climb(
        tuple(gate for _limit, _readings, gate, _each in rungs),
        action,
        " ".join(dict.fromkeys(gate.sentence for _limit, _readings, gate, each in rungs if each == action != CONTINUE)),
        verdict,
        " ".join(dict.fromkeys(gate.sentence for gate in binding if gate.verdict == verdict != PASS)),
        {f"{limit} {row[-1].host}".strip(): gate.sentence for limit, row, gate, each in rungs if each == WARN},
    )


def _rows(readings: Sequence[Reading], metric: str) -> list[list[Reading]]:
    """Return the readings of a metric, those of each host by themselves; without any it is one empty row."""
    rows: dict[str, list[Reading]] = {}
    for reading in readings:
        if reading.metric == metric:
            rows.setdefault(reading.host, []).append(reading)
    return list(rows.values()) or [[]]


def recent(limits: Sequence[Limit], readings: Iterable[Reading], unreadable: int = UNREADABLE_IN_A_ROW) -> list[Reading]:
    """Return the readings that a later ``climb`` still needs, so that hours of looks stay a handful of readings.

    Of a run that is the same to every limit, the first and the newest ones say all; what is older than every ``for`` says nothing.
    """
    past = sorted(readings, key=lambda reading: reading.at)
    kept: list[Reading] = []
    for metric in dict.fromkeys(limit.metric for limit in limits):
        rungs = [limit for limit in limits if limit.metric == metric]
        longest = max(limit.lasting for limit in rungs)
        for row in _rows(past, metric):
            told = [_told(rungs, reading) for reading in row]
            lean = [reading for number, reading in enumerate(row) if not _is_amid(told, number, unreadable)]
            old = sum(reading.at < row[-1].at - longest for reading in lean)
            kept += lean[max(0, old - unreadable - 1) :]
    return kept


def _is_amid(told: Sequence[object], number: int, unreadable: int) -> bool:
    """Tell whether a reading is neither the first of a run of equal ones, nor among the newest that are counted."""
    around = told[max(0, number - 1) : number + unreadable + 1]
    return len(around) == unreadable + 2 and len(set(around)) == 1


def _told(limits: Sequence[Limit], reading: Reading) -> Optional[tuple[Optional[bool], ...]]:
    """Return what a reading tells each limit: bad or not, None with too few samples; None at all when it could not be read."""
    if reading.value is None or not reading.known:
        return None
    value = reading.value
    return tuple(limit.is_bad(value) if reading.samples >= limit.needed else None for limit in limits)


def _rung(limit: Limit, readings: Sequence[Reading], now: float, unreadable: int, fresh: float) -> tuple[Gate, str]:
    newest = readings[-1] if readings else None
    name = limit.metric + (f" on {newest.host}" if newest and newest.host else "")
    if newest is None or now - newest.at > fresh:
        seen = f"{name} was not read" + (f" for {now - newest.at:.0f} s" if newest else "")
        return _gate(limit, ERROR, f"{seen}, so {limit} cannot be told.", newest, "See that its source answers."), HOLD
    if newest.value is None or not newest.known:
        row = _row(readings)
        seen = f"{name} could not be read {row} times in a row" if row > 1 else f"{name} could not be read"
        why = newest.why or "no value came back"
        return _gate(limit, ERROR, f"{seen}: {why}.", newest, "See that its source answers."), HOLD if row >= unreadable else CONTINUE
    unit = f" {newest.unit}" if newest.unit else ""
    seen = f"{name} is {shown(newest.value, limit.metric)}{unit}" + (f" ({newest.samples:,} samples)" if newest.samples else "")
    if newest.samples < limit.needed:
        seen = seen if newest.samples else f"{name} rests on no sample"
        return _gate(limit, INCONCLUSIVE, f"{seen}; {limit.needed:,} samples are needed to tell {limit}.", newest, "Wait for more requests."), CONTINUE
    if not limit.is_bad(newest.value):
        return _gate(limit, PASS, f"{seen}; {limit} does not apply.", newest), CONTINUE
    held = newest.at - _begin(limit, readings, unreadable)
    since = f", for {held:g} s now" if limit.lasting else ""
    if held < limit.lasting:
        verdict = PASS if limit.action == WARN else INCONCLUSIVE
        return _gate(limit, verdict, f"{seen}{since}; {limit} applies if it stays so.", newest, "Find out what ails it."), CONTINUE
    verdict = {WARN: PASS, HOLD: INCONCLUSIVE, ROLLBACK: FAIL}[limit.action]
    return _gate(limit, verdict, f"{seen}{since}; {limit}.", newest, "Find out what ails it."), limit.action


def _row(readings: Sequence[Reading]) -> int:
    """Return how many of the newest readings could not be taken, one after the other."""
    return next((number for number, reading in enumerate(reversed(readings)) if reading.known), len(readings))


def _begin(limit: Limit, readings: Sequence[Reading], unreadable: int) -> float:
    """Return since when the condition holds without interruption; the newest reading is known to be bad."""
    begin, unknown = readings[-1].at, 0
    for reading in reversed(readings):
        if reading.value is None or not reading.known or reading.samples < limit.needed:
            unknown += 1
        elif limit.is_bad(reading.value):
            begin, unknown = reading.at, 0
        else:
            break
        if unknown >= unreadable:
            break
    return begin


def _gate(limit: Limit, verdict: str, sentence: str, newest: Optional[Reading], remedy: str = "") -> Gate:
    value, samples = (newest.value, newest.samples) if newest and newest.known else (None, None)
    return Gate(limit.metric, verdict, sentence, value=value, limit=f"{limit.op} {shown(limit.value, limit.metric)}", sample=samples, remedy=remedy)


def misfit(metric: str, value: float) -> str:
    """Return why a value cannot be one of this metric, so its source counts in another unit; empty when it can."""
    low, high, allowed = _UNITS[metric_of(metric).unit]
    return "" if low <= value <= high else f"{value:g} came back, but {metric} is {allowed.partition(';')[0]}"


def shown(value: float, metric: str) -> str:
    """Return a metric's value as an operator reads it."""
    unit = metric_of(metric).unit
    number = f"{100 * value:.4g} %" if unit == SHARE else f"{value:.4g}"
    return number + {SECONDS: " s", TIMES: " times live's"}.get(unit, "")
