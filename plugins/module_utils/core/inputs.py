# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator may set: known names, right shapes, allowed ranges; each complaint names the variable, what is wrong, what is allowed and an example."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core import env_schema, findings, metric_sources, provisioning
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.sample import ROUTE_EXAMPLE, route_complaint
from ansible_collections.sluice.deploy.plugins.module_utils.core.smoke import steps_from
from ansible_collections.sluice.deploy.plugins.module_utils.core.steps import watch_from, window_from

_SHAPES: Mapping[str, tuple[type, ...]] = {"str": (str,), "path": (str,), "list": (list, tuple), "dict": (dict,), "bool": (bool,)}
_EXAMPLES = {"str": "text", "path": "/srv/wallet", "list": "[one, two]", "dict": "{name: value}", "bool": "true", "float": "1.5"}
_BOOLS = ("true", "false", "yes", "no", "on", "off", "1", "0")

# Ranges that an argument spec has no word for: name -> (lowest, highest, unit).
RANGES: Mapping[str, tuple[float, float, str]] = {
    "canary_percent": (0, 100, "%"),
    "edge_percent": (0, 100, "%"),
    "edge_salt": (0, 999, ""),
    "edge_drain_timeout": (0, 3600, "s"),
    "edge_reload_timeout": (1, 600, "s"),
    "edge_reload_budget": (1, 1000, "workers"),
    "edge_maintenance_retry_after": (1, 86400, "s"),
    "canary_watch_seconds": (0, 7 * 86400, "s"),
    "slot_deadline": (1, 3600, "s"),
    "slot_passes": (1, 100, "answers"),
    "slot_keep": (1, 1000, "releases"),
    "release_lease_ttl": (60, 86400, "s"),
    "backup_jobs": (1, 64, "processes"),
    "restore_pause_seconds": (0.1, 600, "s"),
    "restore_keep": (0, 1000, "databases"),
    "restore_jobs": (1, 64, "processes"),
    "migrate_lock_timeout_ms": (1, 60_000, "ms"),
    "provision_postgresql_major": (0, 99, ""),
    "provision_logs_days": (1, 3650, "days"),
}
_VERSION = "letters, digits, dots, dashes, plus signs and underscores only, beginning with a letter or digit"
_WORDS: Mapping[str, tuple[str, str, str]] = {
    "app_name": (r"[a-z][a-z0-9_]{0,30}", "up to 31 lower-case letters, digits and underscores only, beginning with a letter", "wallet"),
    "release_version": (r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}", f"up to 63 {_VERSION}", "v1.0.0"),
    "app_source_sha256": (r"[0-9a-f]{64}", "64 lower-case hex digits only", "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"),
    "app_build_where": (r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}", "target, control, or the name of a host of the inventory", "control"),
    "release_id": (r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}", f"up to 128 {_VERSION}", "v1.0.0-20260102T030405Z"),
}
# What says how a share grows.
OF_THE_CANARY = ("canary_steps", "canary_pace", "canary_percent", "canary_windows", "canary_self_test")
_STEP_KEYS = ("percent", "min", "max", "then", "not_before")
_THEN = ("hold", "promote", "rollback")
_STEP_EXAMPLE = "Example: canary_steps: [{percent: 5, min: 600, max: 1800, then: hold}, {percent: 100, min: 300, max: 900, then: hold}]"


def unknown(given: Iterable[str], named: Iterable[str], specs: Mapping[str, Any]) -> list[str]:
    """Return a complaint for each name nobody knows.

    :param given: names from the command line; every one of them must be known.
    :param named: names from the inventory that carry one of our prefixes.
    """
    names = sorted(name for name in {*given, *named} if name not in specs and not name.startswith(("ansible_", "__")))
    complaints = []
    for name in names:
        near = difflib.get_close_matches(name, specs, n=1, cutoff=0.6)
        complaints.append(
            f"{name} is no variable of this collection." + (f" Did you mean {near[0]}?" if near else " See the tables in the roles' README files.")
        )
    return complaints


def wrong(values: Mapping[str, Any], specs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a complaint for each value of the wrong shape."""
    complaints = []
    for name in sorted(values):
        complaint = _shape(name, values[name], specs[name]) or _range(name, values[name]) or _word(name, values[name])
        if complaint:
            complaints.append(complaint)
    if not complaints and _on(values.get("app_in_place")):
        complaints += in_place(values, specs)
    elif not complaints and "canary_steps" in values:
        complaints += steps(values["canary_steps"])
    if not complaints and values.get("app_source_kind") == "archive" and not values.get("app_source_sha256"):
        complaints.append("app_source_sha256 must be the SHA-256 of the archive app_source, as it was approved. `sha256sum FILE` tells it.")
    if not complaints and "app_env" in values:
        complaints += [f"{complaint} {env_schema.EXAMPLE}" for complaint in env_schema.complaints(values["app_env"])]
    if not complaints and {"preflight_severities", "preflight_waivers"} & set(values):
        complaints += findings.problems(
            values.get("preflight_severities", {}), values.get("preflight_waivers", ()), values.get("preflight_never_waived", findings.NEVER)
        )
    if not complaints and "canary_windows" in values:
        complaints += _each(window_from, values["canary_windows"])
    if not complaints and "canary_watch_phases" in values:
        complaints += _each(watch_from, values["canary_watch_phases"])
    if not complaints and "app_smoke" in values:
        complaints += _suite(values["app_smoke"], values.get("app_smoke_values"))
    if not complaints and "canary_routes" in values:
        complaints += routes(values["canary_routes"])
    if not complaints and {"canary_ladder", "canary_metrics"} & set(values):
        complaints += metric_sources.complaints(values.get("canary_ladder", ()), values.get("canary_metrics", ()))
    if not complaints and any(name.startswith("provision_") for name in values):
        complaints += provisioning.complaints(values)
    return complaints


def _shown(value: Any, spec: Mapping[str, Any]) -> str:
    if spec.get("no_log"):
        return "the given value"
    text = repr(str(value)) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _shape(name: str, value: Any, spec: Mapping[str, Any]) -> str:
    kind = spec.get("type", "str")
    shown = _shown(value, spec)
    default = spec.get("default")
    example = f" Example: {name}={_EXAMPLES.get(kind, '') if default in (None, '', [], {}) else default}"
    if kind == "int" and (isinstance(value, bool) or not re.fullmatch(r"[+-]?\d+", str(value).strip())):
        low, high, unit = RANGES.get(name, (0, 0, ""))
        allowed = f" from {low:g} to {high:g} {unit}".rstrip() if high else ""
        return f"{name} must be a whole number{allowed}, not {shown}. Example: {name}={spec.get('default') or (25 if high == 100 else int(low) or 1)}"
    if kind == "float" and (isinstance(value, bool) or not re.fullmatch(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", str(value).strip())):
        return f"{name} must be a number, not {shown}.{example}"
    if kind == "bool" and not isinstance(value, bool) and str(value).lower() not in _BOOLS:
        return f"{name} must be true or false, not {shown}.{example}"
    if kind in ("list", "dict") and not isinstance(value, _SHAPES[kind]):
        return f"{name} must be a {'list' if kind == 'list' else 'mapping'}, not {shown}.{example}"
    if kind in ("str", "path") and isinstance(value, (list, tuple, dict)):
        return f"{name} must be text, not {shown}.{example}"
    if spec.get("choices") and str(value) not in [str(choice) for choice in spec["choices"]]:
        return f"{name} must be one of {', '.join(map(str, spec['choices']))}, not {shown}. Example: {name}={spec['choices'][0]}"
    return ""


def _range(name: str, value: Any) -> str:
    if name not in RANGES:
        return ""
    low, high, unit = RANGES[name]
    if low <= float(value) <= high:
        return ""
    return f"{name} must be from {low:g} to {high:g} {unit}, not {value}. Example: {name}={25 if high == 100 else int(low) or 1}"


def _word(name: str, value: Any) -> str:
    if name not in _WORDS or value in (None, ""):
        return ""
    pattern, allowed, example = _WORDS[name]
    return "" if re.fullmatch(pattern, str(value)) else f"{name} may hold {allowed}, not {str(value)[:60]!r}. Example: {name}={example}"


def steps(given: Iterable[Any]) -> list[str]:
    """Return what is wrong with the steps of a canary: percent grows to 100, times are seconds, ``then`` is a known word."""
    complaints: list[str] = []
    before = -1  # a first step of 0 % is for testers alone
    for number, step in enumerate(given, start=1):
        if not isinstance(step, Mapping) or set(step) - set(_STEP_KEYS) or "percent" not in step:
            return [f"canary_steps: step {number} must be a mapping with percent and optionally min, max, then, not_before. {_STEP_EXAMPLE}"]
        try:
            percent, low = int(str(step["percent"])), float(step.get("min", 0))
            high, not_before = float(step.get("max", low)), float(step.get("not_before", 0))
        except (TypeError, ValueError):
            return [f"canary_steps: percent, min, max and not_before of step {number} must be numbers. {_STEP_EXAMPLE}"]
        if not before < percent <= 100:
            complaints.append(
                f"canary_steps: step {number} has {percent} %, but each step must be above the one before ({max(before, 0)} %) and at most 100. {_STEP_EXAMPLE}"
            )
        if not 0 <= low <= high:
            complaints.append(f"canary_steps: step {number} has min {low:g} s and max {high:g} s; 0 <= min <= max is allowed. {_STEP_EXAMPLE}")
        if not 0 <= not_before <= 365 * 86400:
            complaints.append(f"canary_steps: step {number} has not_before {not_before:g}; allowed are seconds from 0 to a year. {_STEP_EXAMPLE}")
        if step.get("then", "hold") not in _THEN:
            complaints.append(f"canary_steps: step {number} says then: {step['then']}; allowed are {', '.join(_THEN)}. {_STEP_EXAMPLE}")
        before = percent
    if before != 100:
        complaints.append(f"canary_steps must end at 100 %, not at {max(before, 0)} %. {_STEP_EXAMPLE}")
    return complaints


def in_place(values: Mapping[str, Any], specs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what is set of a canary although there can be none: a version in place has no other one beside it."""
    given = [name for name in OF_THE_CANARY if values.get(name) not in (None, "", [], specs.get(name, {}).get("default"))]
    if not given:
        return []
    return [
        f"{' and '.join(given)} would steer a canary, but app_in_place: true leaves the canary out: one slot ends before the other one starts. "
        f"Take {'it' if len(given) == 1 else 'them'} out (canary_steps: [] where the inventory has steps), or set app_in_place: false."
    ]


def _on(value: Any) -> bool:
    return str(value).lower() in ("true", "yes", "on", "1")


def routes(given: Iterable[Any]) -> list[str]:
    """Return what is wrong with the routes that tell kinds of requests apart."""
    complaint = route_complaint(list(given))
    return [f"canary_routes: {complaint} Example: canary_routes: {ROUTE_EXAMPLE}"] if complaint else []


def _suite(given: Any, private: Any) -> list[str]:
    try:
        steps_from(given, None if private else ())
    except SluiceError as error:
        return [f"{error.message} {error.remedy}"]
    return []


def _each(read: Callable[[Any], object], given: Iterable[Any]) -> list[str]:
    """Return the complaint of the first value that cannot be read."""
    try:
        for data in given:
            read(data)
    except SluiceError as error:
        return [str(error)]
    return []
