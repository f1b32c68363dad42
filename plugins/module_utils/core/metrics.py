# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the answers of a ladder's sources mean: a number, or the reason why there is none; and one look at all of them.

An answer that holds no number is a reading without a value. It is neither good nor bad, and the ladder counts it apart.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core import ladder
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.histogram import FLOOR_SECONDS, quantile
from ansible_collections.sluice.deploy.plugins.module_utils.core.ladder import Climb, Limit, Reading
from ansible_collections.sluice.deploy.plugins.module_utils.core.metric_sources import Source
from ansible_collections.sluice.deploy.plugins.module_utils.core.sample import Sample
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, INCONCLUSIVE, PASS, worst

# --- What an answer means --------------------------------------------------------------------------------------------


def number(value: Any, what: str) -> float:
    """Return a finite number.

    :param what: what it is of, for the message.
    :raises SluiceError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SluiceError(f"{what} is {_cut(value)}, which is no number")
    if not math.isfinite(value):
        raise SluiceError(f"{what} is {value}, which says nothing")
    return float(value)


def dotted(document: Any, path: str) -> Any:
    """Return what lies at a dotted path of a JSON document; a number is a place in a list.

    :raises SluiceError: there is nothing; it names the last step that was found.
    """
    walked: list[str] = []
    for step in path.split("."):
        if isinstance(document, Mapping) and step in document:
            document = document[step]
        elif isinstance(document, list) and step.isdecimal() and int(step) < len(document):
            document = document[int(step)]
        else:
            there = ", ".join(map(str, document)) if isinstance(document, Mapping) else type(document).__name__
            raise SluiceError(f"there is no {path} in the answer; {'.'.join(walked) or 'it'} holds {_cut(there) if there else 'nothing'}")
        walked.append(step)
    return document


def instant(document: Any, what: str) -> tuple[float, float]:
    """Return the one number that Prometheus answered to an instant query, and its own time then.

    :raises SluiceError: an error, no series, several of them, or no finite number.
    """
    if not isinstance(document, Mapping) or document.get("status") != "success":
        error = document.get("error") if isinstance(document, Mapping) else None
        raise SluiceError(f"Prometheus refused {what}: {_cut(error)}" if error else f"what answered {what} is no Prometheus")
    data = document.get("data", {})
    result = data.get("result")
    if data.get("resultType") == "scalar":
        pair = result
    elif data.get("resultType") == "vector":
        if not result:
            raise SluiceError(f"{what} found no series")
        if len(result) > 1:
            raise SluiceError(f"{what} found {len(result)} series instead of one; join them, for example with sum(...)")
        pair = result[0].get("value", (0, None))
    else:
        raise SluiceError(f"{what} returned a {data.get('resultType')} instead of one number")
    moment, text = pair
    try:
        value = float(text)
    except (TypeError, ValueError):
        value = math.nan
    return number(value, what), float(moment)


def single(rows: Sequence[Mapping[str, Any]], what: str) -> float:
    """Return the one number of an SQL query's answer.

    :raises SluiceError: more or less than one row of one column, or no number.
    """
    if len(rows) != 1 or len(rows[0]) != 1:
        shape = f"{len(rows)} rows" if len(rows) != 1 else f"{len(rows[0])} columns"
        raise SluiceError(f"{what} returned {shape} instead of one number")
    return number(next(iter(rows[0].values())), what)


def _cut(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 120 else text[:117] + "..."


# --- Readings --------------------------------------------------------------------------------------------------------


def reading_of(source: Source, at: float, value: float, samples: float, counters: Mapping[str, Any]) -> tuple[Reading, dict[str, Any]]:
    """Return the reading that a source's number is, and the counters to hand in at the next look.

    :param counters: the first number of each counter, by metric.
    """
    empty = Reading(source.metric, at, None, int(samples), unit=source.unit)
    kept = dict(counters)
    if source.delta:
        first = kept.setdefault(source.metric, value)
        if value < first:
            return replace(empty, why=f"the counter went back from {first:g} to {value:g}, so nobody knows how much it grew"), kept
        value -= first
    value *= source.factor
    why = ladder.misfit(source.metric, value)
    return (replace(empty, why=why) if why else replace(empty, value=value)), kept


def busy_share(text: str, before: Sequence[float]) -> tuple[Optional[float], list[float]]:
    """Return the share of the processors that was busy since ``before``, and the counts to hand in as ``before`` next time.

    :param text: ``/proc/stat``.
    """
    ticks = [float(word) for word in text.split("\n", 1)[0].split()[1:9]]
    total, idle = sum(ticks), sum(ticks[3:5])
    spent = total - before[1] if len(before) == 2 else 0.0
    share = min(1.0, max(0.0, (total - idle - before[0]) / spent)) if spent > 0 else None
    return share, [total - idle, total]


def used_memory(text: str) -> float:
    """Return the share of the memory that is not available.

    :param text: ``/proc/meminfo``.
    """
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    total, available = (float(lines[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return (total - available) / total


def of_requests(sample: Sample, slot: str, live: Optional[str], at: float) -> list[Reading]:
    """Return what a slot's own requests tell; without requests they rest on no sample, and no limit takes that for good.

    :param live: the slot to compare with; None when there is none, and nothing is said of the ratios then.
    """
    mine = sample.slot(slot)
    timed = sum(mine.histogram.values())
    p95 = quantile(mine.histogram, 0.95)
    times = {"p50": quantile(mine.histogram, 0.5), "p95": p95, "p99": quantile(mine.histogram, 0.99), "mean": mine.mean_seconds}
    readings = [
        Reading("error_rate", at, mine.error_rate, mine.requests),
        *(Reading(metric, at, value or 0.0, timed) for metric, value in times.items()),
    ]
    if live is not None:
        other = sample.slot(live)
        among = min(timed, sum(other.histogram.values()))
        readings += [
            _ratio("p95_ratio", at, p95, quantile(other.histogram, 0.95), among),
            _ratio("mean_ratio", at, mine.mean_seconds, other.mean_seconds, among),
        ]
    return readings


def _ratio(metric: str, at: float, mine: Optional[float], other: Optional[float], among: int) -> Reading:
    """Return a time as a multiple of another; below what nginx can tell, times are alike."""
    return Reading(metric, at, max(mine or 0.0, FLOOR_SECONDS) / max(other or 0.0, FLOOR_SECONDS), among)


# --- One look --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What the ladder says at one look.

    :param history: what the next look needs: readings, counters by host, and the warnings that were said.
    :param warnings: sentences of the warnings that are new.
    """

    climb: Climb
    history: Mapping[str, Any]
    warnings: tuple[str, ...]

    @property
    def held(self) -> bool:
        """Tell whether a limit, or one that nobody can tell, holds the release."""
        return self.climb.action == ladder.HOLD


def look(
    limits: Sequence[Limit],
    sources: Sequence[Source],
    requests: Sequence[Reading],
    results: Mapping[str, Mapping[str, Any]],
    placed: Mapping[str, Sequence[Source]],
    history: Mapping[str, Any],
    now: float,
    unasked: Collection[str] = (),
) -> Look:
    """Join what all hosts read now with what was read before, and climb the ladder.

    :param requests: readings of the canary's own requests; a metric with a source is read there instead.
    :param results: what each host's module returned; times in it are by that host's clock.
    :param placed: the sources that each host was asked for.
    :param now: by the clock of the caller, to which every time is turned.
    :param unasked: metrics that nobody asked for at this look; their limits say nothing now.
    """
    sourced = {source.metric for source in sources}
    fresh = [reading for reading in requests if reading.metric not in sourced]
    for host, result in results.items():
        fresh += _readings(host, result, placed.get(host, ()), now)
    known = {item.name for item in fields(Reading)}
    past = [Reading(**{key: value for key, value in data.items() if key in known}) for data in history.get("readings", ())]
    watched = {limit.metric for limit in limits}
    readings = [reading for reading in (*past, *fresh) if reading.metric in watched]
    climbed = ladder.climb([limit for limit in limits if limit.metric not in unasked], readings, now)
    counters = {**history.get("counters", {}), **{host: result["counters"] for host, result in results.items() if result.get("counters")}}
    kept = {"readings": [asdict(reading) for reading in ladder.recent(limits, readings)], "counters": counters, "warned": sorted(climbed.warnings)}
    new = tuple(sentence for rung, sentence in climbed.warnings.items() if rung not in history.get("warned", ()))
    return Look(climbed, kept, new)


def _readings(host: str, result: Mapping[str, Any], asked: Iterable[Source], now: float) -> list[Reading]:
    if result.get("failed") or result.get("unreachable") or "readings" not in result:
        why = _cut(result.get("msg") or "the host gave no readings")
        return [Reading(source.metric, now, None, why=why, host=host) for source in asked]
    return [
        Reading(
            str(data["metric"]),
            now - max(0.0, float(result["now"]) - float(data["at"])),
            data["value"],
            int(data["samples"]),
            str(data["why"]),
            host=host,
            unit=str(data.get("unit", "")),
        )
        for data in result["readings"]
    ]


def combined(verdict: str, sentence: str, climbed: Climb) -> tuple[str, str]:
    """Return the verdict and the sentence of the judge and the ladder together; the worse one decides, and what is unclear to one is unclear."""
    if climbed.action == ladder.ROLLBACK:
        return FAIL, f"{sentence} {climbed.sentence}" if verdict == FAIL else climbed.sentence
    if verdict == FAIL:
        return verdict, sentence
    if climbed.action == ladder.HOLD:
        return worst((INCONCLUSIVE, verdict, climbed.verdict)), climbed.sentence
    both = worst((verdict, climbed.verdict))
    said = (sentence if verdict == both else "", climbed.doubt if climbed.verdict == both != PASS else "")
    return both, " ".join(filter(None, said))
