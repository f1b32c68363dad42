# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an answer must look like: status, body and version, and how many such answers make a service healthy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

_PROBE_KEYS = ("name", "method", "path", "headers", "body", "status", "contains", "json", "writes")
_EXAMPLE = "Example: {name: wallet page, path: /wallet/1, status: 200, contains: balance}"


@dataclass(frozen=True)
class Answer:
    """One HTTP answer, or why there was none.

    :param status: HTTP status; 0 when there was no answer.
    :param seconds: time until the whole body was read.
    :param error: why there was no answer; empty when there was one.
    """

    status: int
    body: str
    seconds: float
    headers: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass(frozen=True)
class Probe:
    """One request and what its answer must look like.

    :param status: the one status that passes; a redirect passes only when it is asked for.
    :param contains: text the body must hold.
    :param json: values by dotted path the JSON body must hold, e.g. ``{"checks.database.status": "ok"}``.
    :param writes: whether it changes data; such a probe runs only against a copy.
    :param closed: True expects the answer of a site that is closed for maintenance, False any other answer; None asserts what the others say.
    """

    name: str
    path: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    status: int = 200
    contains: str = ""
    json: Mapping[str, Any] = field(default_factory=dict)
    writes: bool = False
    closed: Optional[bool] = None

    def expecting(self, **values: Any) -> Probe:
        """Return the probe with further JSON values asserted; empty values are left out."""
        return replace(self, json={**self.json, **{path.replace("__", "."): value for path, value in values.items() if value}})


def probe_from(data: Mapping[str, Any], variable: str) -> Probe:
    """Return the probe a mapping describes.

    :param variable: name of the variable it comes from, for the message.
    :raises SluiceError: a key is unknown or a value has the wrong shape.
    """
    unknown = sorted(set(data) - set(_PROBE_KEYS))
    if unknown:
        raise SluiceError(f"{variable} has the unknown key {unknown[0]}; allowed are {', '.join(_PROBE_KEYS)}.", _EXAMPLE)
    path = str(data.get("path", ""))
    if not path.startswith("/"):
        raise SluiceError(f"{variable} needs a path that begins with /, not {path!r}.", _EXAMPLE)
    body = data.get("body", "")
    headers = dict(data.get("headers", {}))
    if not isinstance(body, str):
        body = json.dumps(body)
        headers.setdefault("Content-Type", "application/json")
    try:
        status = int(data.get("status", 200))
    except (TypeError, ValueError) as error:
        raise SluiceError(f"{variable}: status must be a number such as 200, not {data['status']!r}.", _EXAMPLE) from error
    return Probe(
        name=str(data.get("name", path)),
        path=path,
        method=str(data.get("method", "GET")).upper(),
        headers=headers,
        body=body,
        status=status,
        contains=str(data.get("contains", "")),
        json=dict(data.get("json", {})),
        writes=bool(data.get("writes", False)),
    )


def complaint(probe: Probe, answer: Answer) -> str:
    """Return what is wrong with an answer, in words; empty when nothing is."""
    if answer.error:
        return answer.error
    if probe.closed is not None:
        marked = {name.lower(): value for name, value in answer.headers.items()}.get("sluice-maintenance") == "on"
        if (answer.status == 503 and marked) == probe.closed:
            return ""
        return f"status {answer.status}, {'open' if probe.closed else 'still closed for maintenance'}"
    if answer.status != probe.status:
        return f"status {answer.status} instead of {probe.status}: {_head(answer.body)}"
    if probe.contains and probe.contains not in answer.body:
        return f"the body does not hold {probe.contains!r}: {_head(answer.body)}"
    if not probe.json:
        return ""
    try:
        document = json.loads(answer.body)
    except ValueError:
        return f"the body is no JSON: {_head(answer.body)}"
    for path, wanted in probe.json.items():
        seen = _walk(document, path)
        if seen != wanted:
            return f"{path} is {seen!r} instead of {wanted!r}"
    return ""


def _walk(document: Any, path: str) -> Any:
    for step in path.split("."):
        if isinstance(document, Mapping):
            document = document.get(step)
        elif isinstance(document, list) and step.isdigit() and int(step) < len(document):
            document = document[int(step)]
        else:
            return None
    return document


def _head(body: str) -> str:
    text = " ".join(body.split())
    return text[:160] + ("..." if len(text) > 160 else "") if text else "empty body"


@dataclass(frozen=True)
class Streak:
    """Consecutive good answers of one target; one bad answer starts it again."""

    wanted: int
    passes: int = 0
    asked: int = 0
    last: str = "it was not asked yet"

    def after(self, wrong: str) -> Streak:
        """Return the streak after one more answer."""
        return replace(self, asked=self.asked + 1, passes=0 if wrong else self.passes + 1, last=wrong)

    @property
    def healthy(self) -> bool:
        """Tell whether enough good answers came one after the other."""
        return self.passes >= self.wanted
