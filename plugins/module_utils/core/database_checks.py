# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of a database as data: one SELECT each, what it should return, how bad it is when it does not, and what to do then.

A check that could not run, that returned NULL or no row where a number was wanted, says nothing: it is an error, never a pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import ERROR, FAIL, PASS, WAIVED, Gate

CRITICAL, SERIOUS, WARNING, HINT = "critical", "error", "warning", "hint"
SEVERITIES = (CRITICAL, SERIOUS, WARNING, HINT)
"""``critical`` always stops; ``error`` stops unless it was there before; ``warning`` and ``hint`` never stop."""

BEFORE, AFTER = "before", "after"
SCHEMA, DATA, SERVER, SUGGESTIONS = "schema", "data", "server", "suggestions"
GROUPS = (SCHEMA, DATA, SERVER, SUGGESTIONS)
MOST = 500  # rows of one check that are read; whoever has more has enough to do

SETTINGS: Mapping[str, Any] = {
    "sequence_share": 0.8,
    "wraparound_share": 0.5,
    "replication_lag_bytes": 64 * 1024 * 1024,
    "replication_lag_seconds": 30,
    "slot_bytes": 1024 * 1024 * 1024,
    "prepared_seconds": 60,
    "dead_rows": 10000,
    "dead_share": 0.2,
    "stale_rows": 10000,
    "large_bytes": 10 * 1024 * 1024,
    "orphans_of": "unvalidated",
    "exposed_schemas": (),
}
"""Limits that the queries read with ``current_setting('sluice.NAME')``; a size is in bytes, a time in seconds, a share from 0 to 1."""

_SHOWN = 8  # findings named in one sentence; the result holds them all


@dataclass(frozen=True)
class Check:
    """One question to the database.

    :param sql: one SELECT.
    :param expect: None when every row is a finding; else the one value it must return, or a mapping with ``min``, ``max`` or both.
    :param generates: the rows hold further queries in ``sql``, each of which returns one number that must be 0.
    :param sentence: what a finding means.
    :param row: the rule it comes from.
    """

    id: str
    severity: str
    sql: str
    sentence: str
    remedy: str = ""
    group: str = DATA
    expect: Any = None
    generates: bool = False
    row: str = ""


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    :param value: how many, where it is counted.
    :param unknown: why nobody can tell.
    :param before: it was there before.
    :param accepted: why somebody lets it be.
    """

    object: str
    detail: str = ""
    value: Optional[float] = None
    unknown: str = ""
    before: bool = False
    accepted: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a check found, or why it could not run."""

    check: Check
    findings: Sequence[Finding] = ()
    why: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Accepted:
    """What somebody lets be, and why; without an object, the whole check."""

    check: str
    reason: str
    object: str = ""


@dataclass(frozen=True)
class Judged:
    """One check with its verdict and whether that stops the release."""

    check: Check
    verdict: str
    sentence: str
    stops: bool
    findings: Sequence[Finding] = field(default_factory=tuple)
    remedy: str = ""


# --- What the answers mean -------------------------------------------------------------------------------------------


def outcome_of(check: Check, rows: Sequence[Mapping[str, Any]]) -> Outcome:
    """Return what the rows of a check say; a generating check's rows hold ``object`` and ``value`` or ``unknown``."""
    if check.generates:
        return Outcome(check, [found for found in (_counted(row) for row in rows) if found])
    if check.expect is None:
        return Outcome(check, [_found(row) for row in rows])
    if len(rows) != 1 or len(rows[0]) != 1:
        return Outcome(check, why=f"it returned {len(rows)} rows where one with one value was wanted", remedy="Make the query return one value, with count(*).")
    value = next(iter(rows[0].values()))
    if value is None:
        return Outcome(check, why="it returned NULL, which is no answer", remedy="Say in the query what NULL means, with coalesce().")
    return Outcome(
        check, [] if _as_wanted(value, check.expect) else [Finding("", f"it is {_shown(value)}, wanted is {_wanted(check.expect)}", number_of(value))]
    )


def _counted(row: Mapping[str, Any]) -> Optional[Finding]:
    value = number_of(row.get("value"))
    if row.get("unknown") or value is None:
        return Finding(str(row.get("object") or ""), unknown=str(row.get("unknown") or "its query returned no number"))
    return Finding(str(row.get("object") or ""), f"{value:,.0f}", value) if value else None


def _found(row: Mapping[str, Any]) -> Finding:
    """Return one row as a finding; of a query without an object, the first column is it."""
    name = "object" if "object" in row else next(iter(row))
    rest = {key: value for key, value in row.items() if key not in (name, "value", "unknown", "detail")}
    detail = str(row.get("detail") or "") or ", ".join(f"{key} {_shown(value)}" for key, value in rest.items())
    return Finding("NULL" if row[name] is None else _shown(row[name]), detail, number_of(row.get("value")), str(row.get("unknown") or ""))


def is_number(value: Any) -> bool:
    """Tell whether a value of a profile is a number; true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def number_of(value: Any) -> Optional[float]:
    """Return a value of an answer as a number, or None."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _as_wanted(value: Any, expect: Any) -> bool:
    if isinstance(expect, Mapping):
        number = number_of(value)
        return number is not None and expect.get("min", number) <= number <= expect.get("max", number)
    if isinstance(expect, bool) or isinstance(value, bool):
        return bool(value is expect)
    if is_number(expect):
        return number_of(value) == float(expect)
    return str(value) == str(expect)


def _wanted(expect: Any) -> str:
    if isinstance(expect, Mapping):
        return " and ".join(f"at {'least' if key == 'min' else 'most'} {expect[key]:g}" for key in ("min", "max") if key in expect)
    return _shown(expect)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


# --- Verdicts ----------------------------------------------------------------------------------------------------------


def judge(
    outcomes: Iterable[Outcome], when: str = "", baseline: Optional[Mapping[str, Mapping[str, Any]]] = None, accepted: Sequence[Accepted] = ()
) -> list[Judged]:
    """Return every check with its verdict, what stops first and then by severity.

    :param when: ``before`` a migration only ``critical`` stops, for the rest is what ``after`` is held against; empty when neither is near.
    :param baseline: what was found before, from :func:`baseline_of`.
    """
    judged = [_judged(outcome, when, (baseline or {}).get(outcome.check.id, {}), accepted) for outcome in outcomes]
    return sorted(judged, key=lambda one: (not one.stops, one.verdict in (PASS, WAIVED), SEVERITIES.index(one.check.severity), one.check.id))


def _judged(outcome: Outcome, when: str, known: Mapping[str, Any], accepted: Sequence[Accepted]) -> Judged:
    check = outcome.check
    reasons = {each.object: each.reason for each in accepted if each.check == check.id}
    blocking = check.severity in (CRITICAL, SERIOUS)
    if outcome.why:
        if "" in reasons:
            return Judged(check, WAIVED, f"could not run: {outcome.why}. Accepted: {reasons['']}.", False)
        return Judged(check, ERROR, f"could not run: {outcome.why}", blocking, remedy=outcome.remedy)
    findings = [replace(each, before=_was_there(each, known), accepted=reasons.get(each.object, reasons.get("", ""))) for each in outcome.findings]
    if not findings:
        return Judged(check, PASS, "nothing found", False)
    left = [each for each in findings if not each.accepted]
    sentence = _sentence(check, findings, left)
    if not left:
        return Judged(check, WAIVED, sentence, False, findings)
    new = left if check.severity == CRITICAL else [each for each in left if not each.before]
    unknown = any(each.unknown for each in left)
    verdict = ERROR if unknown and not any(not each.unknown for each in new) else FAIL
    stops = blocking and (unknown or bool(new) and (when != BEFORE or check.severity == CRITICAL))
    return Judged(check, verdict, sentence, stops, findings, check.remedy)


def _was_there(finding: Finding, known: Mapping[str, Any]) -> bool:
    """Tell whether it was there before; a count that grew is new."""
    if finding.unknown or finding.object not in known:
        return False
    before = known[finding.object]
    return finding.value is None or before is not None and finding.value <= before


def _sentence(check: Check, findings: Sequence[Finding], left: Sequence[Finding]) -> str:
    ordered = sorted(left or findings, key=lambda each: (bool(each.unknown), each.before))
    named = [_named(each) for each in ordered[:_SHOWN]]
    more = len(ordered) - len(named)
    count = f"{len(ordered)} found" if len(ordered) < MOST else f"at least {MOST} found"
    old = sum(each.before for each in ordered)
    words = [f"{count}: {'; '.join(named)}{f'; and {more} more' if more else ''}.", check.sentence]
    if old:
        words.append(
            "It was there before." if old == len(ordered) == 1 else "All were there before." if old == len(ordered) else f"{old} of them were there before."
        )
    if not left:
        words.append(f"Accepted: {'; '.join(sorted({each.accepted.rstrip('.') for each in findings}))}.")
    elif len(left) < len(findings):
        words.append(f"{len(findings) - len(left)} more are accepted.")
    return " ".join(words)


def _named(finding: Finding) -> str:
    about = f"cannot tell, {finding.unknown}" if finding.unknown else finding.detail
    text = f"{finding.object} ({about})" if finding.object and about else finding.object or about
    return f"{text}, was there before" if finding.before else text


def baseline_of(outcomes: Iterable[Outcome]) -> dict[str, dict[str, Optional[float]]]:
    """Return what was found, to be handed in as the baseline of a later look."""
    found = {outcome.check.id: {each.object: each.value for each in outcome.findings if not each.unknown} for outcome in outcomes}
    return {name: objects for name, objects in found.items() if objects}


def gates_of(judged: Sequence[Judged]) -> list[Gate]:
    """Return the gates: one for each check that stops or was waived, and one for all others of a group together."""
    stopping = [
        Gate(one.check.id, one.verdict, one.sentence, value=len(one.findings), remedy=one.remedy)
        for one in judged
        if one.stops or one.verdict == WAIVED and one.check.severity in (CRITICAL, SERIOUS)
    ]
    passing = []
    for group in GROUPS[:3]:
        mine = [one for one in judged if one.check.group == group and one.check.severity in (CRITICAL, SERIOUS)]
        clean = sum(one.verdict == PASS for one in mine)
        if clean:
            passing.append(Gate(f"{group} checks", PASS, f"{clean} of {len(mine)} found nothing", value=clean, sample=len(mine)))
    return [*stopping, *passing]


def notes_of(judged: Sequence[Judged]) -> list[str]:
    """Return the sentences about what does not stop: warnings first, then suggestions, each labelled."""
    said = []
    for one in judged:
        if one.stops or one.verdict in (PASS, WAIVED):
            continue
        label = "suggestion" if one.check.severity == HINT else "warning"
        said.append(f"{label}, {one.check.id}: {one.sentence} {one.remedy}".rstrip())
    return said
