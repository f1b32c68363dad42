# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All findings of all hosts at once: how grave each is, who answers for the ones that are let pass, and what stops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from fnmatch import fnmatchcase
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.gates import WARN, comma, plural
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import ERROR, PASS, WAIVED, Gate, stops

CRITICAL, SERIOUS, WARNING, OFF = SEVERITIES = ("critical", "error", "warning", "off")
# The gate of a host that gave no answer, or whose task failed.
ANSWERS = "host answers"
# What nobody can answer for: what is released, the way back, the data, whose money it is, and a host nothing is known of.
NEVER = ("source", "rollback target", "database", "stripe variables", "stripe mode", "stripe one account", "stripe key", ANSWERS)
_KEYS, _OPTIONAL = ("gate", "who", "why", "until"), ("host",)
_EXAMPLE = "Example: {gate: tls days shop.example.org, who: Jo Doe, why: the renewal is ordered, until: 2027-01-31}"


@dataclass(frozen=True)
class Waiver:
    """Somebody's word that a gate may be passed over.

    :param gate: name of the gate, as it is printed.
    :param until: last day on which it holds, in UTC.
    :param host: the one host it holds for; empty for all.
    """

    gate: str
    who: str
    why: str
    until: date
    host: str = ""

    def fits(self, gate: str, host: str) -> bool:
        """Tell whether it speaks of this gate of this host."""
        return self.gate == gate and self.host in ("", host)

    def __str__(self) -> str:
        return f"the waiver of {self.gate}{f' on {self.host}' if self.host else ''} ({self.who}: {self.why})"


@dataclass(frozen=True)
class Finding:
    """One gate of one host, with what the profile makes of it.

    :param area: which task asked, such as ``network``.
    :param severity: one of ``SEVERITIES``.
    """

    gate: Gate
    host: str
    area: str
    severity: str

    @property
    def stops(self) -> bool:
        """Whether it keeps a release from beginning."""
        return stops(self.gate.verdict) and self.severity in (CRITICAL, SERIOUS)

    @property
    def group(self) -> str:
        """The heading it is printed under; the first of ``GROUPS`` comes first."""
        if self.severity == OFF:
            return "off"
        if self.gate.verdict in (PASS, WAIVED):
            return "passed" if self.gate.verdict == PASS else "waived"
        return self.severity

    def as_dict(self) -> dict[str, Any]:
        """Return it as a gate of a result; ``warn`` is what a gate says that does not stop."""
        mark = "" if self.gate.verdict in (PASS, WAIVED) else {WARNING: WARN, SERIOUS: ""}.get(self.severity, self.severity)
        return {**replace(self.gate, severity=mark).as_dict(), "host": self.host, "area": self.area}


GROUPS = {
    CRITICAL: "critical, stops",
    SERIOUS: "error, stops",
    WARNING: "warning, does not stop",
    "waived": "waived by name",
    "passed": "passed",
    "off": "turned off by preflight_severities",
}


@dataclass(frozen=True)
class Report:
    """Every finding, the gravest first, and what is to be said of the waivers."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def stop(self) -> str:
        """Why a release does not begin, one line for each finding; empty when it may."""
        return "\n".join(f"{each.host}: {_sentence(each.gate)}" for each in self.findings if each.stops)

    def groups(self) -> dict[str, list[Finding]]:
        """Return the findings by their headings; a heading without any is left out."""
        sorted_in = {name: [each for each in self.findings if each.group == name] for name in GROUPS}
        return {name: found for name, found in sorted_in.items() if found}

    def summary(self) -> str:
        """Return all in one line."""
        if not self.findings:
            return "No gate was asked."
        count = {name: len(found) for name, found in self.groups().items()}
        stopping = sum(each.stops for each in self.findings)
        told = comma(f"{count[name]} {name}" for name in GROUPS if name in count)
        end = f"{stopping} of them {'stops' if stopping == 1 else 'stop'}" if stopping else "nothing stops"
        return f"{plural(len(self.findings), 'gate')}: {told}; {end}."


def problems(severities: Any, waivers: Any, never: Sequence[str] = NEVER) -> list[str]:
    """Return what is wrong with a profile's severities and waivers, each as a sentence with an example."""
    found = _severity_problems(severities, never) if isinstance(severities, Mapping) else []
    for number, waiver in enumerate(waivers if isinstance(waivers, (list, tuple)) else (), start=1):
        found += [f"preflight_waivers: waiver {number} {wrong} {_EXAMPLE}" for wrong in _waiver_problems(waiver, never)]
    return found


def _severity_problems(severities: Mapping[Any, Any], never: Sequence[str]) -> list[str]:
    example = "Example: {dmarc example.org: warning, 'header *': error}"
    found = [
        f"preflight_severities: {gate} is {level!r}; allowed are {', '.join(SEVERITIES)}. {example}"
        for gate, level in severities.items()
        # YAML reads a bare off as false.
        if level is not False and level not in SEVERITIES
    ]
    for gate in never:
        level = severity(gate, "", severities)
        if level in (WARNING, OFF):
            found.append(f"preflight_severities: {gate} is in preflight_never_waived and would be {level}; it may be {CRITICAL} or {SERIOUS}.")
    return found


def _waiver_problems(waiver: Any, never: Sequence[str]) -> list[str]:
    if not isinstance(waiver, Mapping) or set(waiver) - {*_KEYS, *_OPTIONAL}:
        return [f"must be a mapping with {', '.join(_KEYS)} and optionally host."]
    missing = [key for key in _KEYS if not str(waiver.get(key) or "").strip()]
    if missing:
        return [f"lacks {', '.join(missing)}: a waiver names who answers for it, why, and until when."]
    found = []
    if waiver["gate"] in never:
        found.append(f"is for {waiver['gate']}, which preflight_never_waived keeps from being waived by anybody.")
    if _day(waiver["until"]) is None:
        found.append(f"has until {str(waiver['until'])!r}, which is no day such as 2027-01-31.")
    return found


def _day(given: Any) -> date | None:
    try:
        return date.fromisoformat(str(given))
    except ValueError:
        return None


def waivers_from(given: Sequence[Mapping[str, Any]]) -> tuple[Waiver, ...]:
    """Return the waivers of a profile that ``problems`` finds nothing wrong with."""
    made = []
    for data in given:
        until = _day(data["until"])
        if until is None:
            raise SluiceError(f"preflight_waivers: {data['until']} is no day.", _EXAMPLE)
        made.append(Waiver(str(data["gate"]), str(data["who"]), str(data["why"]), until, str(data.get("host") or "")))
    return tuple(made)


def severity(gate: str, own: str, severities: Mapping[str, Any]) -> str:
    """Return how grave it is when a gate does not pass.

    :param own: the gate's own word, ``warn`` or empty; the profile's counts more.
    :param severities: name of a gate, or a pattern with ``*``, to one of ``SEVERITIES``; of several patterns the longest counts.
    """
    fitting = [pattern for pattern in severities if pattern == gate or ("*" in pattern and fnmatchcase(gate, pattern))]
    if not fitting:
        return WARNING if own == WARN else SERIOUS
    level = severities[max(fitting, key=lambda pattern: (pattern == gate, len(pattern)))]
    return OFF if level is False else str(level)


def of_results(area: str, results: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, Gate]]:
    """Return area, host and gate of everything the hosts answered in one task; a task that failed is a gate that could not tell."""
    names = Gate.__dataclass_fields__
    found = []
    for host, result in results.items():
        found += [(area, host, Gate(**{key: value for key, value in gate.items() if key in names})) for gate in result.get("gates", [])]
        if result.get("failed") or result.get("unreachable"):
            what = "it cannot be reached" if result.get("unreachable") else f"{area} could not be asked"
            told = f"{what}: {result.get('msg') or 'no reason was given'}"
            found.append((area, host, Gate(ANSWERS, ERROR, told, remedy=str(result.get("remedy") or "Mend that, then run this again."))))
    return found


def report(found: Iterable[tuple[str, str, Gate]], severities: Mapping[str, Any], waivers: Sequence[Waiver], today: date) -> Report:
    """Weigh every gate.

    :param found: area, host and gate, in any order.
    :param today: the day in UTC; a waiver holds through its last day.
    """
    findings, used, seen = [], set(), set()
    for area, host, gate in found:
        level = severity(gate.name, gate.severity, severities)
        fitting = [waiver for waiver in waivers if waiver.fits(gate.name, host)]
        seen.update(fitting)
        holding = [waiver for waiver in fitting if waiver.until >= today]
        if stops(gate.verdict) and level != OFF:
            used.update(fitting)
            if holding:
                by = max(holding, key=lambda waiver: waiver.until)
                gate = replace(gate, verdict=WAIVED, sentence=f"{gate.sentence.rstrip('.')}. Waived by {by.who} until {by.until.isoformat()}: {by.why}")
        findings.append(Finding(gate, host, area, level))
    rank = list(GROUPS)
    findings.sort(key=lambda each: (rank.index(each.group), SEVERITIES.index(each.severity), each.area, each.gate.name, each.host, each.gate.sentence))
    notes = []
    for waiver in waivers:
        if waiver not in seen:
            notes.append(f"{waiver} is for a gate that was not asked; correct its name, or remove it.")
        elif waiver.until < today:
            notes.append(f"{waiver} ended on {waiver.until.isoformat()} and counts no more; {'mend the gate' if waiver in used else 'remove it'}.")
        elif waiver not in used:
            notes.append(f"{waiver} is not needed: the gate passes. Remove it.")
    return Report(tuple(findings), tuple(f"{note[0].upper()}{note[1:]}" for note in notes))


def _sentence(gate: Gate) -> str:
    return f"{gate.name}: {gate.sentence}" + (f" {gate.remedy}" if gate.remedy else "")
