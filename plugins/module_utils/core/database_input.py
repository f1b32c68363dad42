# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An operator's checks of the database, their limits, and what they accept, read from variables before anything is asked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.database_checks import DATA, GROUPS, SETTINGS, SEVERITIES, Accepted, Check, is_number
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

_EXAMPLE = "Example: {id: admins, severity: error, sql: SELECT count(*) FROM users WHERE admin, expect: {min: 1, max: 5}, sentence: Few or many admins.}"
_KEYS = ("id", "severity", "group", "sql", "expect", "generates", "sentence", "remedy", "row")
_ID = re.compile(r"[a-z][a-z0-9-]{0,62}")


class _Wrong(Exception):
    """What is wrong with a check."""


def checks_from(data: Any, where: str = "database_checks") -> list[Check]:
    """Return the checks a list describes.

    :raises SluiceError: it names the check, what is wrong, what is allowed, and an example.
    """
    if not isinstance(data, (list, tuple)):
        raise SluiceError(f"{where} must be a list and is {data!r}.", f"{_EXAMPLE}")
    found: dict[str, Check] = {}
    for number, item in enumerate(data, start=1):
        try:
            check = _check(item)
            if check.id in found:
                raise _Wrong(f"the id {check.id} is there twice; each check needs its own.")
        except _Wrong as wrong:
            raise SluiceError(f"{where}: check {number}: {wrong}", _EXAMPLE, check=number) from None
        found[check.id] = check
    return list(found.values())


def _check(data: Any) -> Check:
    if not isinstance(data, Mapping):
        raise _Wrong(f"it must be a mapping with id, severity, sql and sentence, not {data!r}.")
    unknown = sorted(str(key) for key in data if key not in _KEYS)
    if unknown:
        raise _Wrong(f"the key {unknown[0]} is unknown; allowed are {', '.join(_KEYS)}.")
    for key in ("id", "severity", "sql", "sentence", "remedy", "group", "row"):
        if not isinstance(data.get(key, "" if key in ("remedy", "row", "group") else None), str):
            raise _Wrong(f"{key} must be text and is {data.get(key)!r}.")
    if not _ID.fullmatch(data["id"]):
        raise _Wrong(f"id is {data['id']!r}; allowed are small letters, digits and -.")
    if data["severity"] not in SEVERITIES:
        raise _Wrong(f"severity is {data['severity']!r}; allowed are {', '.join(SEVERITIES)}.")
    if data.get("group", DATA) not in GROUPS:
        raise _Wrong(f"group is {data['group']!r}; allowed are {', '.join(GROUPS)}.")
    if not data["sentence"].strip():
        raise _Wrong("sentence is empty; say what it means when the check finds something.")
    if not isinstance(data.get("generates", False), bool):
        raise _Wrong(f"generates is {data['generates']!r}; allowed are true and false.")
    said = misread(data["sql"])
    if said:
        raise _Wrong(f"sql {said}")
    _check_expect(data.get("expect"))
    texts = {key: data[key].strip() for key in ("sentence", "remedy", "row") if key in data}
    return Check(**{**data, **texts, "sql": data["sql"].strip().rstrip(";")})


def _check_expect(expect: Any) -> None:
    if isinstance(expect, Mapping):
        if not expect or set(expect) - {"min", "max"} or not all(is_number(value) for value in expect.values()):
            raise _Wrong(f"expect is {dict(expect)!r}; allowed are min and max with a number each.")
    elif expect is not None and not isinstance(expect, (str, int, float, bool)):
        raise _Wrong(f"expect is {expect!r}; allowed is one value, a mapping with min and max, or nothing when every row is a finding.")


_TOKEN = re.compile(
    r"(?P<quoted>(?P<escaped>\b[eE])?'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|(?P<dollar>\$(?:[A-Za-z_]\w*)?\$).*?(?P=dollar))|(?P<comment>--[^\n]*|/\*.*?\*/)|.",
    re.DOTALL,
)


def misread(sql: str) -> str:
    """Return why psql would not take a text for one SELECT, or an empty text; an open quote would make it wait for ever."""
    depth, words = 0, ""
    for token in _TOKEN.finditer(sql.strip().rstrip(";")):
        text = token.group()
        if token.group("comment"):
            if "/*" in text[2:]:
                return "holds a comment in a comment; leave it out."
        elif token.group("quoted"):
            if token.group("escaped") and "\\" in text:
                return "holds a text with E'...\\...'; write '...' or $$...$$."
            words += " x "
        else:
            depth += {"(": 1, ")": -1}.get(text, 0)
            if depth < 0 or text in ("'", '"', "$", ";", "\\", "\0"):
                break
            words += text
    else:
        if not depth and not words.count("/*"):
            return "" if re.match(r"\s*\(*\s*(select|with|values|table)\b", words, re.IGNORECASE) else "is no SELECT; allowed is one SELECT."
        return "has an open bracket or comment; close it."
    return "has an open quote, a closing bracket too many, a ; or a backslash; allowed is one SELECT without them."


def settings_from(data: Mapping[str, Any], where: str = "database_settings") -> dict[str, str]:
    """Return every limit as the text that the server is given.

    :raises SluiceError: a limit is unknown or of the wrong kind.
    """
    unknown = sorted(set(data) - set(SETTINGS))
    if unknown:
        raise SluiceError(f"{where}: {unknown[0]} is unknown; allowed are {', '.join(SETTINGS)}.", "Example: {sequence_share: 0.7}")
    return {name: _setting(name, data.get(name, default), where) for name, default in SETTINGS.items()}


def _setting(name: str, value: Any, where: str) -> str:
    if name == "exposed_schemas":
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) and item for item in value):
            raise SluiceError(f"{where}: {name} is {value!r}; allowed is a list of schema names.", "Example: {exposed_schemas: [public]}")
        return "{" + ",".join('"' + re.sub(r'(["\\])', r"\\\1", item) + '"' for item in value) + "}"
    if name == "orphans_of":
        if value not in ("unvalidated", "all"):
            raise SluiceError(f"{where}: {name} is {value!r}; allowed are unvalidated and all.", "Example: {orphans_of: all}")
        return str(value)
    high = 1 if name.endswith("_share") else 2**62
    if not is_number(value) or not 0 <= value <= high:
        raise SluiceError(f"{where}: {name} is {value!r}; allowed is a number from 0 to {high:g}.", "Example: {sequence_share: 0.7}")
    return f"{value:.12f}" if isinstance(value, float) else str(value)


def accepted_from(data: Any, checks: Iterable[str], where: str = "database_accept") -> list[Accepted]:
    """Return what somebody lets be.

    :raises SluiceError: an entry is no mapping with check and reason, or names a check that is not there.
    """
    known, found = sorted(checks), []
    example = "Example: [{check: missing-primary-key, object: public.log, reason: rows are only appended}]"
    for number, item in enumerate(data, start=1):
        if not isinstance(item, Mapping) or set(item) - {"check", "object", "reason"} or not all(isinstance(text, str) for text in item.values()):
            raise SluiceError(f"{where}: entry {number} is {item!r}; allowed is a mapping with check, reason and optionally object.", example)
        if item.get("check") not in known:
            raise SluiceError(f"{where}: entry {number}: there is no check {item.get('check')!r}; allowed are {', '.join(known)}.", example)
        if not item.get("reason", "").strip():
            raise SluiceError(f"{where}: entry {number}: reason is empty; say why {item['check']} may be as it is.", example)
        found.append(Accepted(item["check"], item["reason"].strip(), item.get("object", "")))
    return found
