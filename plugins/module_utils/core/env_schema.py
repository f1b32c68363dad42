# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The schema of an environment: what each variable must be, as data; a schema that contradicts itself is refused before anything is judged by it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional, Union

from ansible_collections.sluice.deploy.plugins.module_utils.core import stripe_keys
from ansible_collections.sluice.deploy.plugins.module_utils.core.env_kinds import KINDS, truth
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

EXAMPLE = "Example: app_env: {DATABASE_URL: {kind: postgres-url}, SENTRY_DSN: {kind: dsn, required: false}}"
# What a bundler puts into the files that browsers load.
PUBLIC = ("NEXT_PUBLIC_", "VITE_", "REACT_APP_", "PUBLIC_", "NUXT_PUBLIC_", "EXPO_PUBLIC_", "GATSBY_")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LEAST_SECRET = 32  # S2-019


@dataclass(frozen=True)
class Rule:
    """What one variable must be.

    :param kind: one of ``KINDS``.
    :param forbidden: whether it must not be there at all.
    :param value: what it must be exactly; a boolean of the schema means every spelling of that truth.
    :param pattern: regular expression for the whole value.
    :param looks: that pattern in words.
    :param min_length: least characters; 32 for the kind ``secret``.
    :param entropy: least bits of chance a random value must show.
    :param bytes: exact size of what ``hex`` or ``base64`` encode.
    :param min_password: least characters of the password in a ``postgres-url``, decoded (S3-082).
    :param choices: what an ``enum`` may be.
    :param role: claim of a ``jwt``.
    :param project_of: variable with the https URL whose first label must be the claim ``ref`` of this ``jwt`` (S3-084).
    :param mode: ``live`` or ``test`` for a key of Stripe's; empty takes that of the whole environment.
    :param keys: what a ``stripe-secret`` may be: secret, restricted, organisation.
    :param domain: the host must be this domain or one below it (M-110).
    :param remote: the host must not be the machine itself.
    :param together: variables that are all there with this one, or none of them.
    :param equals: variable with the same value.
    :param differs: variables with another value.
    :param not_staging: whether the value must differ from staging's.
    :param stable: whether the value must be that of the live version (S3-104).
    :param server_only: whether it must never reach a browser.
    :param row: where the rule comes from.
    :param why: what goes wrong when it does not hold.
    """

    name: str
    kind: str = "free"
    required: bool = True
    forbidden: bool = False
    value: Union[str, bool, None] = None
    pattern: str = ""
    looks: str = ""
    min_length: int = 0
    entropy: Optional[int] = None
    bytes: Optional[int] = None
    min_password: Optional[int] = None
    choices: tuple[str, ...] = ()
    role: str = ""
    project_of: str = ""
    mode: str = ""
    keys: tuple[str, ...] = ()
    domain: str = ""
    remote: bool = False
    together: tuple[str, ...] = ()
    equals: str = ""
    differs: tuple[str, ...] = ()
    not_staging: bool = False
    stable: bool = False
    server_only: bool = False
    row: str = ""
    why: str = ""


_TEXT, _FLAG, _COUNT, _LIST = "text", "true or false", "a whole number from 1", "a list of texts"
_SHAPES: Mapping[str, str] = {
    "kind": _TEXT,
    "required": _FLAG,
    "forbidden": _FLAG,
    "value": "text, true or false",
    "pattern": _TEXT,
    "looks": _TEXT,
    "min_length": _COUNT,
    "entropy": _COUNT,
    "bytes": _COUNT,
    "min_password": _COUNT,
    "choices": _LIST,
    "role": _TEXT,
    "project_of": _TEXT,
    "mode": _TEXT,
    "keys": _LIST,
    "domain": _TEXT,
    "remote": _FLAG,
    "together": _LIST,
    "equals": _TEXT,
    "differs": _LIST,
    "not_staging": _FLAG,
    "stable": _FLAG,
    "server_only": _FLAG,
    "row": _TEXT,
    "why": _TEXT,
}
_OF_KINDS = {key for kind in KINDS.values() for key in kind.keys}


def is_public(name: str) -> bool:
    """Tell whether a bundler hands a variable of this name to browsers."""
    return name.startswith(PUBLIC)


def rules_from(schema: Mapping[str, Any]) -> list[Rule]:
    """Return the rules a schema describes.

    :raises SluiceError: it is wrong; the message holds every complaint.
    """
    wrong = complaints(schema)
    if wrong:
        raise SluiceError("\n".join(wrong), EXAMPLE)
    return [_rule(str(name), given or {}) for name, given in schema.items()]


def _rule(name: str, given: Mapping[str, Any]) -> Rule:
    data: dict[str, Any] = {key: tuple(map(str, value)) if _SHAPES[key] == _LIST else value for key, value in given.items()}
    kind = data.get("kind", "free")
    server_only = KINDS[kind].server_only or data.get("role") == "service_role"
    data.setdefault("server_only", server_only and not is_public(name))
    if kind == "secret":
        data.setdefault("min_length", _LEAST_SECRET)
    if "value" in data and not isinstance(data["value"], bool):
        data["value"] = str(data["value"])
    return Rule(name, **data)


def complaints(schema: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a schema: each time the variable, what it is, and what is allowed."""
    told = []
    for name, given in schema.items():
        said = _shape(str(name), given) or _sense(str(name), given or {}, schema)
        if said:
            told.append(f"app_env: {name} {said}.")
    return told


def _shape(name: str, given: Any) -> str:
    if not _NAME.fullmatch(name):
        return "cannot be the name of a variable; letters, digits and underscores are allowed, beginning with no digit"
    if given is not None and not isinstance(given, Mapping):
        return f"must be a mapping of keys such as kind and required, not {type(given).__name__}"
    for key, value in (given or {}).items():
        if key not in _SHAPES:
            near = difflib.get_close_matches(str(key), _SHAPES, n=1)
            return f"has the unknown key {key}{f' (did you mean {near[0]}?)' if near else ''}; allowed are {', '.join(_SHAPES)}"
        if not _fits(value, _SHAPES[key]):
            return f"has {key}: {str(value)[:40]}, which must be {_SHAPES[key]}"
    return ""


def _fits(value: Any, shape: str) -> bool:
    if shape == _FLAG:
        return isinstance(value, bool)
    if shape == _COUNT:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if shape == _LIST:
        return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(item, (str, int)) and not isinstance(item, bool) for item in value)
    if shape == _TEXT:
        return isinstance(value, str) and bool(value)
    return isinstance(value, (str, bool, int))


def _sense(name: str, given: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return the first contradiction of one variable."""
    kind = given.get("kind", "free")
    if kind not in KINDS:
        return f"has the unknown kind {kind!r}; allowed are {', '.join(KINDS)}"
    beside = sorted(set(given) - {"forbidden", "row", "why"}) if given.get("forbidden") else []
    if beside:
        return f"is forbidden and has {beside[0]} as well; beside forbidden only row and why make sense"
    for key in given:
        if key in _OF_KINDS and key not in KINDS[kind].keys:
            fitting = [other for other, about in KINDS.items() if key in about.keys]
            return f"has {key}, which kind {kind} does not have; it belongs to {', '.join(fitting)}"
    if kind == "enum" and not given.get("choices"):
        return "is an enum without choices; name them, for example choices: [debug, info, warn]"
    if given.get("mode", "live") not in (stripe_keys.LIVE, stripe_keys.TEST):
        return f"has the mode {given['mode']!r}; allowed are live and test"
    strange = set(given.get("keys", ())) - {stripe_keys.SECRET, stripe_keys.RESTRICTED, stripe_keys.ORGANISATION}
    if strange:
        return f"allows {sorted(map(str, strange))[0]!r} in keys; allowed are secret, restricted and organisation"
    try:
        re.compile(given.get("pattern", ""))
    except re.error as error:
        return f"has a pattern that is no regular expression: {error}"
    return _exposure(name, given) or _others(name, given, schema) or _value(given)


def _exposure(name: str, given: Mapping[str, Any]) -> str:
    never = given.get("server_only", KINDS[given.get("kind", "free")].server_only) or given.get("role") == "service_role"
    if is_public(name) and never and given.get("server_only") is not False:
        prefix = next(prefix for prefix in PUBLIC if name.startswith(prefix))
        return f"is server-only and begins with {prefix}, which gives it to every browser; rename it, or say server_only: false"
    if given.get("kind") in ("stripe-secret", "stripe-webhook", "postgres-url") and given.get("server_only") is False:
        return f"is a {given['kind']} and says server_only: false; such a value never belongs into a browser"
    return ""


def _others(name: str, given: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    for key in ("equals", "project_of", "differs", "together"):
        named = given.get(key, ())
        for other in [named] if isinstance(named, str) else named:
            if other == name:
                return f"names itself in {key}"
            if other not in schema:
                return f"names {other} in {key}, which the schema does not hold"
            if key == "equals" and other in given.get("differs", ()):
                return f"must equal {other} and differ from it"
    return ""


def _value(given: Mapping[str, Any]) -> str:
    if "value" not in given:
        return ""
    value, kind = given["value"], given.get("kind", "free")
    if isinstance(value, bool):
        return "" if kind == "boolean" else f"has value: {str(value).lower()} without quotes and is no boolean; write it in quotes, or say kind: boolean"
    if KINDS[kind].secret or KINDS[kind].server_only:
        return f"is a {kind} and has its value in the schema, where everybody reads it; take the value out and change it"
    rule = _rule("x", {key: part for key, part in given.items() if key != "value"})
    if KINDS[kind].wrong(str(value), rule) or (kind == "boolean" and truth(str(value)) is None):
        return f"has a value that is not {KINDS[kind].looks}, as its kind {kind} wants"
    if rule.pattern and not re.fullmatch(rule.pattern, str(value)):
        return "has a value that its own pattern refuses"
    return "has a value shorter than its own min_length" if len(str(value)) < rule.min_length else ""
