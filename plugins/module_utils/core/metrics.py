# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a ladder's metrics are read, as data, and what the answers mean: a number, or the reason why there is none.

An answer that holds no number is a reading without a value. It is neither good nor bad, and the ladder counts it apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Optional
from urllib.parse import urlsplit

from ansible_collections.sluice.deploy.plugins.module_utils.core import database_health, ladder
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.ladder import COUNT, NUMBER, SECONDS, SHARE, TIMES, Climb, Limit, Reading
from ansible_collections.sluice.deploy.plugins.module_utils.core.sample import Sample, SlotSample, quantile, value_of
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, INCONCLUSIVE, PASS, worst

HTTP, PROMETHEUS, SQL, HOST = "http", "prometheus", "sql", "host"
APP, FIRST_APP, DATABASE = "every app host", "the first app host", "the first database host"

OF_REQUESTS = ("error_rate", "p50", "p95", "p99", "mean")
"""What the edges' sample tells of the canary's own requests; it needs no source."""

OF_APP_HOST = ("restarts", "cpu", "memory", "disk")
OF_DATABASE = database_health.METRICS
OF_HOST = (*OF_APP_HOST, *OF_DATABASE)

DEADLINE_SECONDS = 3.0
FRESH_SECONDS = 120.0

# Keys of each source beside metric and source: those it needs, and those it may have.
_KEYS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    HTTP: (("url", "path"), ("samples_path", "unit", "delta", "each", "token_var", "deadline")),
    PROMETHEUS: (("url", "query"), ("samples_query", "series", "max_age", "unit", "delta", "token_var", "deadline")),
    SQL: (("query",), ("samples_query", "unit", "delta", "deadline")),
    HOST: ((), ("deadline",)),
}
EXAMPLES: Mapping[str, str] = {
    HTTP: "{metric: custom:queue_age, source: http, url: 'http://127.0.0.1:{port}/health/metrics', path: queue.age_seconds, unit: s}",
    PROMETHEUS: "{metric: p95, source: prometheus, url: 'http://10.0.0.9:9090', query: 'job:request_seconds:p95', unit: seconds}",
    SQL: "{metric: custom:stuck_orders, source: sql, query: 'SELECT count(*) FROM orders WHERE stuck'}",
    HOST: "{metric: cpu, source: host}",
}

# What a source may count in: the ladder's unit, and by what the number is multiplied to be in it.
_UNITS: Mapping[str, tuple[str, float]] = {
    "share": (SHARE, 1.0),
    "percent": (SHARE, 0.01),
    "seconds": (SECONDS, 1.0),
    "milliseconds": (SECONDS, 0.001),
    "count": (COUNT, 1.0),
    "times": (TIMES, 1.0),
}
_NUMBERS = {"deadline": (0.1, 30.0), "max_age": (1.0, 3600.0)}
_UNIT_WORD = re.compile(r"[^\s{}]{1,20}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Source:
    """Where one metric is read.

    :param kind: ``http``, ``prometheus``, ``sql`` or ``host``.
    :param path: dotted path of the number in a JSON answer.
    :param query: in PromQL or SQL.
    :param samples: path or query of how many observations the number rests on; empty when the source does not count them.
    :param series: what must be fresh, where ``query`` is an expression and has no time of its own.
    :param max_age: seconds after which Prometheus's newest sample says nothing.
    :param unit: the operator's word for a custom metric's unit.
    :param factor: turns the source's numbers into the metric's unit.
    :param delta: the metric is how much the number grew since the first look.
    :param each: ask on every app host instead of the first one only.
    :param token_var: variable of the environment file with a bearer token.
    :param deadline: seconds for the answer.
    """

    metric: str
    kind: str
    url: str = ""
    path: str = ""
    query: str = ""
    samples: str = ""
    series: str = ""
    max_age: float = FRESH_SECONDS
    unit: str = ""
    factor: float = 1.0
    delta: bool = False
    each: bool = False
    token_var: str = ""
    deadline: float = DEADLINE_SECONDS

    @property
    def place(self) -> str:
        """The hosts it is asked on."""
        if self.kind == SQL or self.metric in OF_DATABASE and self.kind == HOST:
            return DATABASE
        return APP if self.each or self.kind == HOST else FIRST_APP


# --- From a profile --------------------------------------------------------------------------------------------------


def source_from(data: Any, where: str = "source") -> Source:
    """Return the source a mapping describes.

    :param where: name of the variable and the place in it, for the message.
    :raises SluiceError: it names the key, what is wrong with it, what is allowed, and an example.
    """
    kind = data.get("source") if isinstance(data, Mapping) else None
    example = f"Example: {EXAMPLES[kind if isinstance(kind, str) and kind in EXAMPLES else HTTP]}"
    try:
        return _source(data)
    except _Wrong as wrong:
        raise SluiceError(f"{where}: {wrong}", example, source=where) from None
    except SluiceError as error:
        raise SluiceError(f"{where}: metric: {error.message} {error.remedy}", example, source=where) from None


class _Wrong(Exception):
    """What is wrong with a key."""


def _source(data: Any) -> Source:
    if not isinstance(data, Mapping):
        raise _Wrong(f"a source must be a mapping with metric, source and the keys of its kind, not {data!r}.")
    kind = data.get("source")
    if not isinstance(kind, str) or kind not in _KEYS:
        raise _Wrong(f"source is {kind!r}; allowed are {', '.join(_KEYS)}.")
    needed, more = _KEYS[kind]
    allowed = ("metric", "source", *needed, *more)
    unknown = sorted(str(key) for key in data if key not in allowed)
    if unknown:
        raise _Wrong(f"the key {unknown[0]} is unknown; allowed for {kind} are {', '.join(allowed)}.")
    missing = [key for key in ("metric", *needed) if not isinstance(data.get(key), str) or not data[key].strip()]
    if missing:
        raise _Wrong(f"{missing[0]} must be text and is {data.get(missing[0])!r}.")
    metric = data["metric"]
    known = ladder.metric_of(metric)
    if kind == HOST and metric not in OF_HOST:
        raise _Wrong(f"metric is {metric}, which no host tells of itself; allowed are {', '.join(OF_HOST)}.")
    unit, factor = ("", 1.0) if kind == HOST else _unit(metric, known.unit, data.get("unit"))
    for key in ("query", "samples_query", "series", "samples_path"):
        _check_text(key, data.get(key, "-"), kind)
    if "url" in data:
        _check_url(data["url"])
    token = data.get("token_var", "")
    if token and not (isinstance(token, str) and _VARIABLE.fullmatch(token)):
        raise _Wrong(f"token_var is {token!r}; allowed is the name of a variable in the app's environment file, never the token itself.")
    return Source(
        metric=metric,
        kind=kind,
        url=data.get("url", ""),
        path=data.get("path", ""),
        query=OF_DATABASE.get(metric, "") if kind == HOST else data.get("query", "").strip().rstrip(";"),
        samples=data.get("samples_path", data.get("samples_query", "")).strip().rstrip(";"),
        series=data.get("series", ""),
        unit=unit,
        factor=factor,
        delta=_bool(data, "delta") or (kind == HOST and metric == "deadlocks"),
        each=_bool(data, "each"),
        token_var=token,
        max_age=_number(data, "max_age", FRESH_SECONDS),
        deadline=_number(data, "deadline", DEADLINE_SECONDS),
    )


def _unit(metric: str, unit: str, given: Any) -> tuple[str, float]:
    """Return the word to show, and the factor; a share or a time has no unit that goes without saying."""
    if unit == NUMBER:
        if given is not None and not (isinstance(given, str) and _UNIT_WORD.fullmatch(given)):
            raise _Wrong(f"unit is {given!r}; allowed is a short word without spaces, such as jobs or s.")
        return given or "", 1.0
    fitting = [name for name, (counted_in, _factor) in _UNITS.items() if counted_in == unit]
    if given is None and len(fitting) == 1:
        return "", 1.0
    if given not in fitting:
        raise _Wrong(f"unit is {given!r}, but {metric} is a matter of {unit}; allowed for what its source returns are {', '.join(fitting)}.")
    return "", _UNITS[given][1]


def _check_text(key: str, text: Any, kind: str) -> None:
    if not isinstance(text, str) or not text.strip():
        raise _Wrong(f"{key} must be text and is {text!r}.")
    # One statement, and none of psql's own commands: it is run inside a read-only transaction that it must not end.
    if kind == SQL and (";" in text.strip().rstrip(";") or "\\" in text):
        raise _Wrong(f"{key} holds ; or a backslash; allowed is one SELECT without them.")


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url.replace("{", "").replace("}", ""))
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise _Wrong(f"url is {url!r}; allowed is an address that begins with http:// or https://.")
    if "@" in parts.netloc:
        raise _Wrong("url holds a user or a password; allowed is token_var with the name of a variable in the app's environment file.")


def _bool(data: Mapping[str, Any], key: str) -> bool:
    value = data.get(key, False)
    if not isinstance(value, bool):
        raise _Wrong(f"{key} is {value!r}; allowed are true and false.")
    return value


def _number(data: Mapping[str, Any], key: str, default: float) -> float:
    value, (low, high) = data.get(key, default), _NUMBERS[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise _Wrong(f"{key} is {value!r}; allowed is a number of seconds from {low:g} to {high:g}.")
    return float(value)


def complaints(limits: Iterable[Any], sources: Iterable[Any]) -> list[str]:
    """Return what is wrong with ``canary_ladder`` and ``canary_metrics``, each by itself and together; every complaint ends with an example."""
    read = [_parsed(ladder.limit_from, data, "canary_ladder", f"limit {number}") for number, data in enumerate(limits, start=1)]
    asked = [_parsed(source_from, data, "canary_metrics", f"source {number}") for number, data in enumerate(sources, start=1)]
    said = [each for each in (*read, *asked) if isinstance(each, str)]
    if said:
        return said
    rungs = [each for each in read if isinstance(each, Limit)]
    found: dict[str, Source] = {}
    for number, source in enumerate((each for each in asked if isinstance(each, Source)), start=1):
        if source.metric in found:
            said.append(f"canary_metrics: source {number} reads {source.metric} once more; one source for each metric is allowed. {_METRICS_EXAMPLE}")
        found[source.metric] = source
    return [*said, *_unread(rungs, found), *_unused(rungs, found)]


def _parsed(parse: Callable[[Any, str], Any], data: Any, variable: str, place: str) -> Any:
    """Return what a mapping describes, or the complaint about it."""
    try:
        return parse(data, f"{variable}: {place}")
    except SluiceError as error:
        text, _word, example = str(error).partition(" Example: ")
        return f"{text} Example: {variable}: [{example}]" if example else f"{text} {_LADDER_EXAMPLE}"


_LADDER_EXAMPLE = "Example: canary_ladder: [{metric: error_rate, op: '>', value: 0.05, for: 300, min_samples: 100, action: rollback}]"
_METRICS_EXAMPLE = f"Example: canary_metrics: [{EXAMPLES[HTTP]}]"


def _unread(limits: Iterable[Limit], sources: Mapping[str, Source]) -> list[str]:
    said = []
    for number, limit in enumerate(limits, start=1):
        source = sources.get(limit.metric)
        if source is None and limit.metric not in OF_REQUESTS:
            seen = f"canary_ladder: limit {number} looks at {limit.metric}, which nothing reads"
            kind = HOST if limit.metric in OF_HOST else SQL
            example = EXAMPLES[kind].replace("custom:stuck_orders", limit.metric).replace("cpu", limit.metric)
            said.append(f"{seen}; allowed are {', '.join(OF_REQUESTS)} and the metrics of canary_metrics. Example: canary_metrics: [{example}]")
        elif source is not None and limit.needed and not source.samples:
            key = "samples_path" if source.kind == HTTP else "samples_query"
            seen = f"canary_ladder: limit {number} needs {limit.needed:,} samples of {limit.metric}, which its source does not count"
            said.append(f"{seen}; allowed is a source with {key}. {_METRICS_EXAMPLE.replace(', unit', f', {key}: queue.jobs, unit')}")
    return said


def _unused(limits: Iterable[Limit], sources: Mapping[str, Source]) -> list[str]:
    idle = sorted(set(sources) - {limit.metric for limit in limits})
    return [f"canary_metrics reads {metric}, but no limit looks at it; allowed are the metrics of canary_ladder. {_LADDER_EXAMPLE}" for metric in idle]


# --- Who reads what --------------------------------------------------------------------------------------------------


def sources_of(sources: Iterable[Source], host: str, apphosts: Sequence[str], databases: Sequence[str]) -> list[Source]:
    """Return the sources that a host is asked for."""
    places = {
        APP: host in apphosts,
        FIRST_APP: host == next(iter(apphosts), None),
        DATABASE: host == next(iter(databases), None),
    }
    return [source for source in sources if places[source.place]]


def filled(source: Source, slot: str, ports: Mapping[str, int]) -> Source:
    """Return the source with the slot and its ports in the place of ``{slot}``, ``{port}`` (the first service's) and ``{port.SERVICE}``."""
    words = {"{slot}": slot, "{port}": str(next(iter(ports.values()), "")), **{f"{{port.{name}}}": str(port) for name, port in ports.items()}}

    def fill(text: str) -> str:
        for word, value in words.items():
            text = text.replace(word, value)
        return text

    return replace(source, url=fill(source.url), query=fill(source.query), samples=fill(source.samples), series=fill(source.series))


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
        elif isinstance(document, list) and step.isdigit() and int(step) < len(document):
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


def of_requests(sample: Sample, slot: str, at: float) -> list[Reading]:
    """Return what a slot's own requests tell; without requests they rest on no sample, and no limit takes that for good."""
    mine = sample.slot(slot)
    timed = sum(mine.histogram.values())
    times = {"p50": quantile(mine.histogram, 0.5), "p95": quantile(mine.histogram, 0.95), "p99": quantile(mine.histogram, 0.99), "mean": _mean(mine)}
    return [
        Reading("error_rate", at, mine.error_rate, mine.requests),
        *(Reading(metric, at, value or 0.0, timed) for metric, value in times.items()),
    ]


def _mean(slot: SlotSample) -> Optional[float]:
    total = sum(slot.histogram.values())
    return sum(value_of(number) * count for number, count in slot.histogram.items()) / total if total else None


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
