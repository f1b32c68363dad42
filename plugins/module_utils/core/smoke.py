# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Smoke requests as data: what each may change and so where it may be sent, what is taken out of an answer, and what the suite says."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional
from urllib.parse import quote
from xml.etree import ElementTree

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import (
    COMMAND,
    Answer,
    Probe,
    document_of,
    missing,
    payload,
    private_values,
    probe_from,
    shown,
    walk,
)

READ, TENANT, WRITE = "read", "test-tenant", "write"
EFFECTS = (READ, TENANT, WRITE)  # each may do what those before it do
SLOT, PUBLIC = "slot", "public"
COPY = "copy"  # a slot whose database is the rehearsal's copy

_ALSO = ("effect", "where", "extract")
_EXAMPLE = "Example: {name: sign in, method: POST, path: /api/login, body: {user: smoke}, effect: test-tenant, extract: {token: session.token}}"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_BASE = "base"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Step:
    """One request of the suite.

    :param effect: what it may change: nothing, data of a test tenant, or any data.
    :param where: sent only to a slot's own port, or only to the public address; empty for both.
    :param extract: name -> dotted path in the JSON answer; later requests use it as ``{name}``.
    :param body: as it was written, so that values are put into it before it becomes text.
    """

    probe: Probe
    effect: str = READ
    where: str = ""
    extract: Mapping[str, str] = field(default_factory=dict)
    body: Any = ""

    @property
    def label(self) -> str:
        """Return the request in words, as it was written: no value that was put into it."""
        probe = self.probe
        what = f"{probe.method} {probe.path}" if probe.kind == "path" else {COMMAND: "command", "tcp": f"tcp {probe.address}"}.get(probe.kind, probe.path)
        return probe.name if probe.name == what else f"{probe.name} ({what})"


@dataclass(frozen=True)
class Case:
    """What came of one check: nothing wrong, something wrong, or why it was left out."""

    suite: str
    name: str
    seconds: float = 0.0
    wrong: str = ""
    skipped: str = ""


def steps_from(data: Any, values: Optional[Collection[str]] = (), variable: str = "app_smoke") -> list[Step]:
    """Return the suite a list describes.

    :param values: names that are known before the first request is sent; None when their file was not read yet.
    :raises SluiceError: a request has the wrong shape, does not say what it may change, or uses a value nobody extracts.
    """
    if not isinstance(data, (list, tuple)):
        raise SluiceError(f"{variable} must be a list of requests, not {shown('', data)}.", _EXAMPLE)
    steps: list[Step] = []
    for number, item in enumerate(data):
        step = _step_from(item, f"{variable}[{number}]")
        _check_values(step, steps, values, f"{variable}[{number}] ({step.probe.name})", _later(data[number + 1 :]))
        steps.append(step)
    return steps


def _step_from(data: Any, variable: str) -> Step:
    probe = probe_from(data, variable, _ALSO)
    extract, where = data.get("extract", {}), data.get("where", "")
    if "effect" not in data and (probe.kind == COMMAND or probe.method not in _SAFE_METHODS):
        what = "a command" if probe.kind == COMMAND else f"a {probe.method}"
        raise SluiceError(f"{variable}: {what} must say what it may change, as effect: {', '.join(EFFECTS[:-1])} or {WRITE}.", _EXAMPLE)
    effect = data.get("effect", READ)
    if effect not in EFFECTS:
        raise SluiceError(f"{variable}: effect must be {', '.join(EFFECTS[:-1])} or {WRITE}, not {shown('effect', effect)}.", _EXAMPLE)
    if where not in ("", SLOT, PUBLIC):
        raise SluiceError(f"{variable}: where must be {SLOT} or {PUBLIC}, or left out for both, not {shown('where', where)}.", _EXAMPLE)
    if (
        not isinstance(extract, Mapping)
        or not all(isinstance(path, str) and path for path in extract.values())
        or not all(isinstance(name, str) and _NAME.match(name) for name in extract)
    ):
        raise SluiceError(f"{variable}: extract must be a mapping of names to dotted paths, not {shown('extract', extract)}.", _EXAMPLE)
    if extract and probe.kind != "path":
        raise SluiceError(f"{variable}: only an HTTP answer has values to extract.", _EXAMPLE)
    return Step(probe, effect, where, dict(extract), data.get("body", ""))


def _later(data: Sequence[Any]) -> set[str]:
    return {str(name) for item in data if isinstance(item, Mapping) and isinstance(item.get("extract"), Mapping) for name in item["extract"]}


def _check_values(step: Step, before: Sequence[Step], values: Optional[Collection[str]], variable: str, later: Collection[str]) -> None:
    """Refuse a value that is not known, or not everywhere the request is sent."""
    sources = {name: source for source in before for name in source.extract}
    twice = [name for name in step.extract if name in sources or name in (values or ()) or name == _BASE]
    if twice:
        raise SluiceError(f"{variable} extracts {twice[0]}, but that name is taken.", "Give each value a name of its own.")
    for name in _used(step, {*sources, *(values or ()), *later}):
        if step.probe.kind == COMMAND:
            if name != _BASE:
                raise SluiceError(f"{variable}: a command may use {{{_BASE}}} only; {{{name}}} would be seen in the list of processes.", _EXAMPLE)
            continue
        source = sources.get(name)
        if source is None and (values is not None or name in later) and name not in (values or ()):
            raise SluiceError(f"{variable} uses {{{name}}}, which no request before it extracts.", _EXAMPLE)
        if source and (EFFECTS.index(source.effect) > EFFECTS.index(step.effect) or source.where not in ("", step.where)):
            raise SluiceError(
                f"{variable} uses {{{name}}}, but {source.probe.name} is not sent everywhere it is: it has effect {source.effect}"
                f"{f' and where {source.where}' if source.where else ''}.",
                "Give both the same effect and where.",
            )


def _used(step: Step, known: Collection[str]) -> list[str]:
    """Return the names a request uses. In a body braces mean many things, so only names that somebody extracts count there."""
    probe = step.probe
    strict = [name for text in (probe.path, *probe.headers.values(), *probe.command) for name in _PLACE.findall(text)]
    body = [name for text in _texts(step.body) for name in _PLACE.findall(text) if name in known]
    return list(dict.fromkeys(strict + body))


def _texts(body: Any) -> Iterator[str]:
    if isinstance(body, str):
        yield body
    elif isinstance(body, (Mapping, list)):
        for item in body.values() if isinstance(body, Mapping) else body:
            yield from _texts(item)


def left_out(steps: Sequence[Step], place: str, tenant: bool) -> dict[int, str]:
    """Return which requests are not sent to a place, by their number, and why, in words.

    :param place: ``slot``, ``copy`` or ``public``.
    :param tenant: whether the real system has a tenant for tests.
    """
    reasons = {number: _why_not(step, place, tenant) for number, step in enumerate(steps)}
    return {number: reason for number, reason in reasons.items() if reason}


def _why_not(step: Step, place: str, tenant: bool) -> str:
    if step.where and step.where != (SLOT if place == COPY else place):
        return f"it is for the {'public address' if step.where == PUBLIC else 'port of a slot'}"
    if step.effect == WRITE and place != COPY:
        return "it writes, so it goes to the rehearsal's copy only"
    if step.effect == TENANT and place != COPY and not tenant:
        return "it writes for a test tenant, and app_smoke_tenant is not true"
    return ""


def filled(step: Step, values: Mapping[str, Any], base: str) -> Probe:
    """Return the request with the values put in: quoted in the path, of their own type where a body's field is nothing else."""
    probe = step.probe
    if probe.kind == COMMAND:
        return replace(probe, command=tuple(word.replace(f"{{{_BASE}}}", base) for word in probe.command))
    body = _put(step.body, values)
    return replace(
        probe,
        path=_PLACE.sub(lambda match: quote(_text(values.get(match.group(1), match.group(0))), safe=""), probe.path),
        headers={name: str(_put(text, values, plain=True)) for name, text in probe.headers.items()},
        body=payload({}, body)[1],
    )


def _put(body: Any, values: Mapping[str, Any], plain: bool = False) -> Any:
    if isinstance(body, Mapping):
        return {key: _put(item, values) for key, item in body.items()}
    if isinstance(body, list):
        return [_put(item, values) for item in body]
    if not isinstance(body, str):
        return body
    whole = _PLACE.match(body)
    if whole and whole.end() == len(body) and not plain:
        return values.get(whole.group(1), body)
    return _PLACE.sub(lambda match: _text(values[match.group(1)]) if match.group(1) in values else match.group(0), body)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def waits_for(step: Step, values: Mapping[str, Any], steps: Sequence[Step]) -> str:
    """Return the name of a value the request needs and that nobody gave; empty when it has all."""
    extracted = {name for other in steps for name in other.extract}
    return next((name for name in _used(step, extracted) if name in extracted and name not in values), "")


def harvest(step: Step, answer: Answer) -> tuple[dict[str, Any], str]:
    """Return the values taken out of an answer, and what is wrong with them; no value is ever in the words."""
    if not step.extract or answer.error:
        return {}, ""
    document = document_of(answer.body)
    if missing(document):
        return {}, "the body is no JSON, so nothing can be extracted"
    found: dict[str, Any] = {}
    wrong = ""
    for name, path in step.extract.items():
        value = walk(document, path)
        if missing(value) or value in (None, ""):
            wrong = wrong or f"{path} is {'missing' if missing(value) else 'empty'}, so there is no {name}"
        elif isinstance(value, (Mapping, list)):
            wrong = wrong or f"{path} is {shown('', value)}, so there is no {name}"
        else:
            found[name] = value
    return found, wrong


def secrets_of(step: Step, values: Mapping[str, Any]) -> list[str]:
    """Return what must not be seen in a message about a request: extracted values, and what its own fields keep private."""
    texts = [_text(value) for value in values.values()]
    return [*texts, *(quote(text, safe="") for text in texts), *private_values(step.body), *private_values(step.probe.headers)]


def sentence(cases: Sequence[Case], target: str) -> str:
    """Return what a suite that passed says: how many, and what was left out and why."""
    sent, out = [case for case in cases if not case.skipped], [case for case in cases if case.skipped]
    left = f"; left out: {', '.join(f'{case.name}: {case.skipped}' for case in out)}" if out else ""
    return f"{len(sent)} smoke requests to {target} answered as they should{left}"


def failure(cases: Sequence[Case], target: str) -> Optional[SluiceError]:
    """Return the error of a suite of which a request failed; None when none did."""
    wrong = [f"{case.name}: {case.wrong}" for case in cases if case.wrong]
    if not wrong:
        return None
    count = sum(1 for case in cases if not case.skipped)
    return SluiceError(f"{len(wrong)} of {count} smoke requests failed on {target}: {'; '.join(wrong)}.", wrong=wrong)


def junit(cases: Sequence[Case]) -> str:
    """Return cases as a JUnit XML document, one suite for each kind of check."""
    root = ElementTree.Element("testsuites")
    for suite in dict.fromkeys(case.suite for case in cases):
        mine = [case for case in cases if case.suite == suite]
        counts = {"tests": len(mine), "failures": sum(1 for case in mine if case.wrong), "errors": 0, "skipped": sum(1 for case in mine if case.skipped)}
        numbers = {name: str(count) for name, count in counts.items()}
        element = ElementTree.SubElement(root, "testsuite", {"name": suite, **numbers, "time": f"{sum(case.seconds for case in mine):.3f}"})
        for case in mine:
            entry = ElementTree.SubElement(element, "testcase", {"classname": suite, "name": _xml(case.name), "time": f"{case.seconds:.3f}"})
            if case.wrong:
                ElementTree.SubElement(entry, "failure", {"message": _xml(case.wrong)})
            elif case.skipped:
                ElementTree.SubElement(entry, "skipped", {"message": _xml(case.skipped)})
    return f'<?xml version="1.0" encoding="utf-8"?>\n{ElementTree.tostring(root, encoding="unicode")}\n'


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
