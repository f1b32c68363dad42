# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an answer must look like: status, body, components, time and version, and how many such answers make a service healthy."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.secret import scrub

HTTP, WEBSOCKET, TCP, COMMAND = "path", "websocket", "tcp", "command"
EXAMPLE = "Example: {name: wallet page, path: /wallet/1, status: 200, contains: balance}"
_KEYS: dict[str, tuple[str, ...]] = {
    HTTP: ("name", "method", "path", "headers", "body", "status", "contains", "json", "components", "max_seconds", "tls", "timeout"),
    WEBSOCKET: ("name", "websocket", "ping", "headers", "status", "max_seconds", "tls", "timeout"),
    TCP: ("name", "tcp", "max_seconds", "timeout"),
    COMMAND: ("name", "command", "max_seconds", "timeout"),
}
_PRIVATE = re.compile(r"auth|cookie|token|secret|passw|session|key", re.IGNORECASE)
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/@]+):(?P<port>[0-9]{1,5})\Z")
_MISSING = object()
_HEAD, _EVIDENCE = 160, 2000
_TOLD = 8  # targets named in one message; the result holds them all


@dataclass(frozen=True)
class Answer:
    """One answer, or why there was none.

    :param status: HTTP status, or the exit code of a command; 0 when there was no answer.
    :param seconds: time until the whole body was read.
    :param error: why there was no answer; empty when there was one.
    :param fields: every header as it was sent, in order: some names are there more than once.
    """

    status: int
    body: str
    seconds: float
    headers: Mapping[str, str] = field(default_factory=dict)
    error: str = ""
    fields: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Tls:
    """How the certificate of an address is checked.

    :param ca: file with the authorities that are trusted; empty for those of the system.
    :param server_name: name that is asked for and that the certificate must hold; empty for the host of the address.
    :param verify: False checks nothing, and is for a loopback address only.
    """

    ca: str = ""
    server_name: str = ""
    verify: bool = True


@dataclass(frozen=True)
class Components:
    """Where an answer lists its components, and what each of them must say.

    :param path: dotted path of the mapping or list of components; empty for the whole document.
    :param key: dotted path of the word inside a component; a component that is no mapping is the word itself.
    :param ok: words that pass.
    """

    path: str = ""
    key: str = "status"
    ok: tuple[Any, ...] = ("ok", "healthy")


@dataclass(frozen=True)
class Probe:
    """One question and what its answer must look like.

    :param kind: an HTTP request, a WebSocket handshake, a TCP connection or a command.
    :param path: of the request or the handshake.
    :param status: the statuses that pass; a redirect passes only when it is asked for.
    :param contains: text the body must hold.
    :param json: values by dotted path the JSON body must hold, e.g. ``{"checks.0.status": "ok"}``.
    :param max_seconds: the whole answer must be there by then; 0 for no limit.
    :param timeout: seconds for this answer; 0 for those of the caller.
    :param ping: a ping must come back on the WebSocket.
    :param address: ``host:port`` of a TCP connection.
    :param command: argument list of a command, which must end with 0.
    :param closed: True expects the answer of a site that is closed for maintenance, False any other answer; None asserts what the others say.
    """

    name: str
    path: str = ""
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    status: tuple[int, ...] = (200,)
    contains: str = ""
    json: Mapping[str, Any] = field(default_factory=dict)
    components: Optional[Components] = None
    max_seconds: float = 0.0
    timeout: float = 0.0
    tls: Optional[Tls] = None
    closed: Optional[bool] = None
    kind: str = HTTP
    ping: bool = False
    address: str = ""
    command: tuple[str, ...] = ()

    def expecting(self, values: Mapping[str, Any]) -> Probe:
        """Return the probe with further JSON values asserted; empty values are left out."""
        return replace(self, json={**self.json, **{path: value for path, value in values.items() if path and value}})

    def within(self, headers: Mapping[str, str], tls: Optional[Tls]) -> Probe:
        """Return the probe with the caller's headers and TLS options where it has none of its own."""
        return replace(self, headers={**headers, **self.headers}, tls=self.tls or tls)

    def place(self, base: str) -> str:
        """Return what is asked, in words."""
        return {TCP: f"tcp {self.address}", COMMAND: f"command {self.command[0] if self.command else ''}"}.get(self.kind, f"{base.rstrip('/')}{self.path}")


def _number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and 0 < float(value) < float("inf")
    except (TypeError, ValueError):
        return False


def _statuses(value: Any) -> bool:
    return all(re.fullmatch(r"[1-5][0-9][0-9]", str(status)) for status in value) and bool(value) if isinstance(value, list) else _statuses([value])


def _words(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(word, (str, int, float)) and not isinstance(word, bool) for word in value)


def _scalars(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(item, (str, int, float)) for item in value.values())


def _fields(**types: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Mapping) and all(key in types and isinstance(item, types[key]) for key, item in value.items())


def _route(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("/")


def _address(value: Any) -> bool:
    found = _ADDRESS.match(value) if isinstance(value, str) else None
    return bool(found and 0 < int(found.group("port")) < 65536)


_SHAPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (lambda value: isinstance(value, str) and value.strip() != "", "a text"),
    "method": (lambda value: isinstance(value, str) and value.isalpha(), "a word such as GET or POST"),
    "path": (_route, "a path that begins with /"),
    "websocket": (_route, "a path that begins with /"),
    "headers": (_scalars, "a mapping of names to texts"),
    "body": (lambda value: value is not None, "a text, a mapping or a list"),
    "status": (_statuses, "a number such as 200, or a list such as [401, 403]"),
    "contains": (lambda value: isinstance(value, str), "a text"),
    "json": (lambda value: isinstance(value, Mapping), "a mapping of dotted paths to values, such as {checks.database.status: ok}"),
    "components": (_fields(path=str, key=str, ok=list), "a mapping of path, key and ok, such as {path: checks, key: status, ok: [ok, healthy]}"),
    "max_seconds": (_number, "a number of seconds such as 0.5"),
    "timeout": (_number, "a number of seconds such as 5"),
    "tls": (_fields(ca=str, server_name=str, verify=bool), "a mapping of ca, server_name and verify, such as {server_name: wallet.example.org}"),
    "ping": (lambda value: isinstance(value, bool), "true or false"),
    "tcp": (_address, "a host and a port such as 127.0.0.1:6379"),
    "command": (_words, "a list of words such as [npm, run, smoke]"),
}


def probe_from(data: Any, variable: str, also: Collection[str] = ()) -> Probe:
    """Return the probe a mapping describes.

    :param variable: name of the variable it comes from, for the message.
    :param also: further keys that are allowed, which the caller reads.
    :raises SluiceError: a key is unknown or a value has the wrong shape.
    """
    if not isinstance(data, Mapping):
        raise SluiceError(f"{variable} must be a mapping, not {shown('', data)}.", EXAMPLE)
    kinds = [kind for kind in _KEYS if kind in data]
    known = _KEYS[kinds[0]] if kinds else tuple(dict.fromkeys(key for keys in _KEYS.values() for key in keys))
    unknown = sorted(str(key) for key in data if key not in known and key not in also)
    if unknown:
        raise SluiceError(f"{variable} has the unknown key {unknown[0]}; allowed are {', '.join((*known, *also))}.", EXAMPLE)
    if not kinds:
        raise SluiceError(f"{variable} needs one of {', '.join(_KEYS)}.", EXAMPLE)
    for key, value in data.items():
        if key in _SHAPES and not _SHAPES[key][0](value):
            raise SluiceError(f"{variable}: {key} needs {_SHAPES[key][1]}, not {shown(key, value)}.", EXAMPLE)
    kind = kinds[0]
    words = tuple(str(word) for word in data.get("command", ()))
    headers, body = payload(data.get("headers", {}), data.get("body", ""))
    status = data.get("status", {HTTP: 200, WEBSOCKET: 101}.get(kind, []))
    return Probe(
        name=str(data.get("name") or (words[0] if words else data[kind])),
        path=data.get("path") or data.get("websocket", ""),
        method=str(data.get("method", "GET")).upper(),
        headers=headers,
        body=body,
        status=tuple(int(code) for code in (status if isinstance(status, list) else [status])),
        contains=data.get("contains", ""),
        json=dict(data.get("json", {})),
        components=Components(**{**data["components"], "ok": tuple(data["components"].get("ok", Components.ok))}) if "components" in data else None,
        max_seconds=float(data.get("max_seconds", 0)),
        timeout=float(data.get("timeout", 0)),
        tls=Tls(**data["tls"]) if "tls" in data else None,
        kind=kind,
        ping=data.get("ping", False),
        address=data.get("tcp", ""),
        command=words,
    )


def payload(headers: Mapping[str, Any], body: Any) -> tuple[dict[str, str], str]:
    """Return headers and body as they are sent; a body that is no text is sent as JSON, and says so."""
    texts = {str(name): str(value) for name, value in headers.items()}
    if isinstance(body, str):
        return texts, body
    return {"Content-Type": "application/json", **texts}, json.dumps(body)


def shown(key: str, value: Any) -> str:
    """Return a refused value for a message: simple ones as they are, others by their type, and what may hold a secret not at all."""
    simple = key not in ("headers", "body") and isinstance(value, (str, int, float, bool, type(None)))
    return repr(value) if simple else {"dict": "a mapping", "list": "a list", "str": "a text"}.get(type(value).__name__, type(value).__name__)


def guard(base: str, host: str, tls: Optional[Tls]) -> None:
    """Refuse to look away from a certificate of another machine.

    :raises SluiceError: ``verify`` is false and the host is not this one.
    """
    if tls is None or tls.verify:
        return
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host.lower() == "localhost"
    if not loopback:
        raise SluiceError(
            f"tls.verify: false is allowed for a loopback address only, not for {base}: anybody on the way could answer.",
            "Give the authority in tls.ca, or the name in the certificate in tls.server_name.",
        )


def complaint(probe: Probe, answer: Answer, secrets: Collection[str] = (), bare: bool = True) -> str:
    """Return what is wrong with an answer, in words; empty when nothing is.

    :param secrets: values that are starred, beside those of the probe's own headers.
    :param bare: whether the body may be shown; an answer that a value is taken out of keeps it to itself.
    """
    said = answer.error or _wrong(probe, answer, bare)
    return scrub(said, [*secrets, *private_values(probe.headers)]) if said else ""


def _wrong(probe: Probe, answer: Answer, bare: bool) -> str:
    head = f": {_head(answer.body)}" if bare else ""
    if probe.closed is not None:
        if (answer.status == 503 and _header(answer, "sluice-maintenance") == "on") == probe.closed:
            return ""
        return f"status {answer.status}, {'open' if probe.closed else 'still closed for maintenance'}"
    if probe.status and answer.status not in probe.status:
        target = _header(answer, "location").partition("?")[0] if 300 <= answer.status < 400 else ""
        return f"status {answer.status}{f' to {target}' if target else ''} instead of {' or '.join(map(str, probe.status))}{head}"
    if probe.max_seconds and answer.seconds > probe.max_seconds:
        return f"the answer took {answer.seconds:.3f} s; the limit is {probe.max_seconds:g} s"
    if probe.contains and probe.contains not in answer.body:
        return f"the body does not hold {probe.contains!r}{head}"
    if not probe.json and not probe.components:
        return ""
    document = document_of(answer.body)
    if document is _MISSING:
        return f"the body is no JSON{head}"
    for path, wanted in probe.json.items():
        seen = walk(document, path)
        if seen is _MISSING:
            return f"{path} is missing; it should be {wanted!r}"
        if not _same(seen, wanted):
            return f"{path} is {_short(seen) if bare else 'something else'} instead of {wanted!r}"
    return _sick(probe.components, document) if probe.components else ""


def _sick(components: Components, document: Any) -> str:
    found = walk(document, components.path) if components.path else document
    where = components.path or "the body"
    members: list[tuple[str, Any]] = []
    if isinstance(found, Mapping):
        members = [(str(name), member) for name, member in found.items()]
    elif isinstance(found, list):
        members = [(str(member.get("name", number)) if isinstance(member, Mapping) else str(number), member) for number, member in enumerate(found)]
    if not members:
        return f"{where} lists no components"
    wanted = " or ".join(map(repr, components.ok))
    words = [(name, walk(member, components.key) if isinstance(member, Mapping) else member) for name, member in members]
    bad = [
        f"{name} {f'has no {components.key}' if word is _MISSING else f'is {_short(word)}'}"
        for name, word in words
        if not any(_same(word, good) for good in components.ok)
    ]
    return f"component {', '.join(bad[:_TOLD])} instead of {wanted}" if bad else ""


def document_of(body: str) -> Any:
    """Return what a JSON body holds, or a value for which ``missing`` is true."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return _MISSING


def missing(value: Any) -> bool:
    """Tell whether a body was no JSON, or a path led nowhere; ``null`` is a value."""
    return value is _MISSING


def walk(document: Any, path: str) -> Any:
    """Return what stands at a dotted path; numbers are places in a list."""
    for step in path.split("."):
        if isinstance(document, Mapping) and step in document:
            document = document[step]
        elif isinstance(document, list) and step.isdecimal() and int(step) < len(document):
            document = document[int(step)]
        else:
            return _MISSING
    return document


def _same(seen: Any, wanted: Any) -> bool:
    return bool(seen == wanted) and isinstance(seen, bool) == isinstance(wanted, bool)


def _short(value: Any) -> str:
    return _head(repr(value))


def _head(body: str, length: int = _HEAD) -> str:
    text = " ".join(body[: 4 * length].split())
    return text[:length] + ("..." if len(text) > length or len(body) > 4 * length else "") if text else "empty body"


def _header(answer: Answer, name: str) -> str:
    return {key.lower(): value for key, value in answer.headers.items()}.get(name, "")


def private_values(named: Any) -> Iterator[str]:
    """Return the values of headers or body fields whose name tells that nobody else should read them."""
    for name, value in named.items() if isinstance(named, Mapping) else ():
        if isinstance(value, Mapping):
            yield from private_values(value)
        elif value and _PRIVATE.search(str(name)):
            yield str(value)
            yield str(value).rpartition(" ")[2]  # without the scheme: Bearer, Basic


def evidence(probe: Probe, answer: Answer) -> dict[str, Any]:
    """Return an answer for the result: status, headers without the private ones, and the head of the body."""
    if answer.error:
        return {"error": complaint(probe, answer), "seconds": round(answer.seconds, 3)}
    secrets = list(private_values(probe.headers))
    headers = {
        name: scrub(value.partition("?")[0] if name.lower() == "location" else value, secrets)
        for name, value in answer.headers.items()
        if not _PRIVATE.search(name)
    }
    return {
        "status": answer.status,
        "seconds": round(answer.seconds, 3),
        "headers": headers,
        "body": scrub(answer.body[:_EVIDENCE], secrets),
    }


@dataclass(frozen=True)
class Streak:
    """Consecutive good answers of one target; one bad answer starts it again."""

    wanted: int
    passes: int = 0
    asked: int = 0
    last: str = "it gave no answer yet"
    answer: Optional[Answer] = None

    def after(self, wrong: str, answer: Optional[Answer] = None) -> Streak:
        """Return the streak after one more answer."""
        return replace(self, asked=self.asked + 1, passes=0 if wrong else self.passes + 1, last=wrong, answer=answer)

    @property
    def healthy(self) -> bool:
        """Tell whether enough good answers came one after the other."""
        return self.passes >= self.wanted

    @property
    def wrong(self) -> str:
        """Return why it is not healthy, in words; empty when it is."""
        return "" if self.healthy else self.last or "good, but not often enough"


Targets = Mapping[str, tuple[str, Probe]]


def unhealthy(why: str, targets: Targets, streaks: Mapping[str, Streak]) -> SluiceError:
    """Return the error of a wait that ended before each target was healthy: what was seen last, for each."""
    ill = [name for name, streak in streaks.items() if not streak.healthy]
    seen = []
    for name in ill[:_TOLD]:
        base, probe = targets[name]
        place = probe.place(base)
        label = place if place.startswith(name) else name if name.endswith(place) else f"{name} {place}"
        seen.append(f"{scrub(label)}: {streaks[name].wrong}")
    more = f"; and {len(ill) - _TOLD} more" if len(ill) > _TOLD else ""
    answers = {name: evidence(targets[name][1], answer) for name in ill for answer in [streaks[name].answer] if answer}
    return SluiceError(f"{why}; last seen: {'; '.join(seen)}{more}.", seen={name: streak.last for name, streak in streaks.items()}, answers=answers)
