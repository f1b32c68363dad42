# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a ladder's metrics are read, as data: from whom, how, on which host."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.sluice.deploy.plugins.module_utils.core import database_health, ladder
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.ladder import COUNT, NUMBER, SECONDS, SHARE, TIMES, Limit
from ansible_collections.sluice.deploy.plugins.module_utils.core.slots import LOOPBACK

HTTP, PROMETHEUS, SQL, HOST = "http", "prometheus", "sql", "host"
APP, FIRST_APP, DATABASE = "every app host", "the first app host", "the first database host"

OF_REQUESTS = ("error_rate", "p50", "p95", "p99", "mean", "p95_ratio", "mean_ratio")
"""What the edges' sample tells of the canary's own requests; it needs no source."""

OF_APP_HOST = ("restarts", "failed_probes", "health_failing", "cpu", "memory", "disk")
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
    HTTP: "{metric: custom:queue_age, source: http, url: 'http://{address}:{port}/health/metrics', path: queue.age_seconds, unit: s}",
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


def filled(source: Source, slot: str, ports: Mapping[str, int], address: str = LOOPBACK) -> Source:
    """Return the source with the slot and its ports in the place of ``{slot}``, ``{port}`` (the first service's) and ``{port.SERVICE}``.

    :param address: where the host reaches its own services, for ``{address}``.
    """
    words = {
        "{slot}": slot,
        "{address}": address,
        "{port}": str(next(iter(ports.values()), "")),
        **{f"{{port.{name}}}": str(port) for name, port in ports.items()},
    }

    def fill(text: str) -> str:
        for word, value in words.items():
            text = text.replace(word, value)
        return text

    return replace(source, url=fill(source.url), query=fill(source.query), samples=fill(source.samples), series=fill(source.series))
