# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a migration means for the version that still serves: expand, contract, data, irreversible; and what squawk says of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.facts import Schema
from ansible_collections.sluice.deploy.plugins.module_utils.core.sql_text import Statement, inner, statements
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, INCONCLUSIVE, PASS, WAIVED, Gate

EXPAND, CONTRACT, DATA, IRREVERSIBLE = "expand", "contract", "data", "irreversible"
CLASSES = (EXPAND, CONTRACT, DATA, IRREVERSIBLE)
LINT_MODES = ("required", "advisory", "off")

# What the guards and the classes below already see to, and what cannot be told from the text of a migration.
SQUAWK_EXCLUDED = (
    "require-lock-timeout",
    "require-statement-timeout",
    "prefer-robust-stmts",
    "ban-drop-column",
    "ban-drop-table",
    "renaming-column",
    "renaming-table",
)

_SHARED = "The live version serves on this schema during the canary and after a rollback."
_WORD = r'[\w."]+'
_LOSES = r"table|schema|type|domain|materialized view|sequence|column|database"
# The first rule that is found in a clause gives its classes; clauses of one ALTER TABLE are looked at one by one.
_RULES: Sequence[tuple[str, tuple[str, ...], str]] = (
    (r"\bdrop (?:not null|constraint|identity|expression)\b", (EXPAND,), "relaxes"),
    (r"\bdrop default\b", (CONTRACT,), "drops a default"),
    (r"^drop index\b", (EXPAND,), "drops an index"),
    (rf"\bdrop (?:{_LOSES})\b", (CONTRACT, IRREVERSIBLE), "drops"),
    (r"^drop owned\b", (CONTRACT, IRREVERSIBLE), "drops"),
    (r"^drop \w+", (CONTRACT,), "drops"),
    (r"^alter index\b.*\brename\b|\brename constraint\b", (EXPAND,), "renames an index or a constraint"),
    (r"\brename\b", (CONTRACT,), "renames"),
    (r"\bset schema\b", (CONTRACT,), "moves"),
    (r"^alter (?:column )?\S+ (?:set data )?type\b", (CONTRACT, IRREVERSIBLE), "changes a type"),
    (r"\bset not null\b", (CONTRACT,), "forbids NULL"),
    (r"^revoke\b", (CONTRACT,), "revokes"),
    (r"^alter type\b.*\badd value\b", (EXPAND, IRREVERSIBLE), "adds a value to a type"),
    (r"^truncate\b", (DATA, IRREVERSIBLE), "empties"),
    (r"^(?:delete|with\b.*\bdelete from)\b", (DATA, IRREVERSIBLE), "deletes rows"),
    (r"^(?:update|merge|with\b.*\bupdate)\b", (DATA, IRREVERSIBLE), "changes rows"),
    (r"^(?:insert|copy|with\b.*\binsert into)\b", (DATA,), "adds rows"),
    (r"^(?:select|values|table|with|call|execute|refresh)\b", (DATA,), "runs what cannot be told from its text"),
)
# The tools' own bookkeeping is nothing that the release does.
_OWN = re.compile(r"\b(?:alembic_version|django_migrations|knex_migrations(?:_lock)?|_prisma_migrations|sluice_migrations|schema_migrations)\b", re.IGNORECASE)
_NEUTRAL = re.compile(
    r"^(?:begin|commit|start|savepoint|release|rollback|end|set|reset|show|analyze|vacuum|comment|lock|notify|discard|explain|reindex|cluster|checkpoint)\b",
    re.IGNORECASE,
)
_ADDED = re.compile(r"\badd (?!constraint\b|primary\b|unique\b|check\b|foreign\b|exclude\b|value\b|generated\b)", re.IGNORECASE)
_ALTERED = re.compile(rf"^alter (?:table|foreign table|materialized view|view) (?:if exists )?(?:only )?(?P<table>{_WORD})\*? (?P<clauses>.*)", re.IGNORECASE)
_CREATED = re.compile(
    rf"^create (?:or replace )?(?:(?:global |local )?temp(?:orary)? |unlogged |materialized |recursive |foreign )*(?:table|view|sequence|type|schema|function) "
    rf"(?:if not exists )?(?P<name>{_WORD})",
    re.IGNORECASE,
)
_DROPPED = re.compile(
    rf"^(?:drop|truncate)(?: table| view| materialized view| sequence| type| schema| function)?(?: if exists)?(?: only)? (?P<name>{_WORD})", re.I
)


@dataclass(frozen=True)
class Step:
    """One thing that a migration does.

    :param classes: of ``CLASSES``, the deciding one first.
    :param words: what it does, with the statement's beginning; never a value.
    """

    migration: str
    line: int
    classes: tuple[str, ...]
    words: str


def classify(migration: str, sql: str, created: set[str] | None = None) -> tuple[Step, ...]:
    """Return what a migration's SQL does, step by step.

    What the same release creates, no other version knows: changing or dropping it again takes nothing from anybody.

    :param created: names that earlier migrations of the release created; names of this one are added.
    """
    known = set() if created is None else created
    steps: list[Step] = []
    for statement in statements(sql):
        steps += _steps(migration, statement, known)
    return tuple(steps)


def _steps(migration: str, statement: Statement, created: set[str]) -> list[Step]:
    if re.match(r"do\b", statement.bare, re.IGNORECASE):
        return [Step(migration, statement.line, (DATA,), "runs a block")] + [
            Step(migration, statement.line, classes, f"in a block {words}")
            for body in statement.bodies
            for text in inner(body)
            for classes, words in _judged(text, created)
            if EXPAND not in classes
        ]
    return [Step(migration, statement.line, classes, words) for classes, words in _judged(statement.bare, created)]


def _judged(bare: str, created: set[str]) -> list[tuple[tuple[str, ...], str]]:
    """Return classes and words of each clause of a statement."""
    text = bare.strip()
    if not text or _NEUTRAL.match(text) or _OWN.search(text):
        return []
    made = _CREATED.match(text)
    if made:
        created.add(_name(made.group("name")))
        return [((EXPAND,), f"creates {made.group('name')}")]
    altered, dropped = _ALTERED.match(text), _DROPPED.match(text)
    of = altered.group("table") if altered else dropped.group("name") if dropped else ""
    if of and _name(of) in created:
        return [((EXPAND,), f"changes {of}, which this release creates")]
    if altered:
        return [(classes, f"{what}: {of} {_short(clause)}") for clause in _clauses(altered.group("clauses")) for classes, what in [_clause(clause)]]
    classes, what = _clause(text)
    return [(classes, f"{what}: {_short(text)}")]


def _clause(text: str) -> tuple[tuple[str, ...], str]:
    added = _ADDED.match(text)
    if added:
        needs = re.search(r"\bnot null\b|\bprimary key\b", text, re.I) and not re.search(r"\bdefault\b|\bgenerated\b|\b(?:small|big)?serial\b", text, re.I)
        return ((CONTRACT,), "adds a column that must be given") if needs else ((EXPAND,), "adds a column")
    if re.match(r"create\b|grant\b|add\b|validate\b", text, re.IGNORECASE):
        return (EXPAND,), "adds"
    for pattern, classes, what in _RULES:
        if re.search(pattern, text, re.IGNORECASE):
            return classes, what
    return (EXPAND,), "changes"


def _clauses(text: str) -> list[str]:
    """Cut the clauses of an ALTER TABLE at the commas outside of parentheses."""
    found, depth, begin = [], 0, 0
    for at, char in enumerate(text):
        depth += {"(": 1, ")": -1}.get(char, 0)
        if char == "," and not depth:
            found.append(text[begin:at].strip())
            begin = at + 1
    clauses = [*found, text[begin:].strip()]
    # DROP x in ALTER TABLE drops a column.
    return [re.sub(r"^drop (?:if exists )?(?=\S+(?: cascade| restrict)?$)", "drop column ", clause, flags=re.IGNORECASE) for clause in clauses]


def _name(name: str) -> str:
    return re.sub(r'"', "", name).lower().rpartition(".")[2]


def _short(bare: str) -> str:
    return bare if len(bare) <= 80 else f"{bare[:77]}..."


def classes_of(steps: Iterable[Step]) -> list[str]:
    """Return the classes that occur."""
    present = {name for step in steps for name in step.classes}
    return [name for name in CLASSES if name in present]


def judge_classes(steps: Sequence[Step], unread: Sequence[str], floor_moves: bool, mode: str) -> Gate:
    """Judge the classes of what will run.

    A canary, and every return of the traffic, puts two versions on one schema; a contract step takes something from the older one.

    :param unread: migrations whose SQL the tool does not show.
    :param floor_moves: the operator knows that no older version can be returned to.
    """
    contract = [step for step in steps if CONTRACT in step.classes]
    counted = ", ".join(f"{sum(name in step.classes for step in steps)} {name}" for name in classes_of(steps)) or "nothing that changes anything"
    if contract:
        shown = "; ".join(f"{step.migration} line {step.line} {step.words}" for step in contract[:5]) + (" and more" if len(contract) > 5 else "")
        if floor_moves:
            return Gate("classes", WAIVED, f"The floor moves knowingly: {shown}. No version before this one may be returned to.", value=len(contract), limit=0)
        return Gate(
            "classes",
            FAIL,
            f"{len(contract)} contract steps: {shown}. {_SHARED}",
            value=len(contract),
            limit=0,
            sample=len(steps),
            remedy="Release first the version that no longer needs it, and contract in a later release; or set migrate_floor_moves: true.",
        )
    if unread:
        verdict = INCONCLUSIVE if mode == "required" else PASS
        sentence = f"The SQL of {', '.join(unread[:5])} is not shown by its tool, so its classes are not known before the rehearsal."
        return Gate("classes", verdict, sentence, value=len(unread), limit=0, remedy="Set migrate_lint: advisory if that is to do." if verdict != PASS else "")
    return Gate("classes", PASS, f"{len(steps)} steps: {counted}.", value=len(contract), sample=len(steps))


def columns(schema: Schema) -> dict[str, str]:
    """Return the type of each column, with ``!`` behind it when a row cannot leave the column out."""
    found = {}
    for name, definition in schema.objects().items():
        if name.startswith("column "):
            parts = definition.split(", ")[1:]
            given = "not null" in parts and not any(part.startswith(("default ", "identity ", "generated ")) for part in parts)
            found[name[len("column ") :]] = parts[0] + ("!" if given else "")
    return found


def columns_lost(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Return in words what a schema lost: columns that are gone, have another type, or newly forbid NULL without a default.

    :param before: by ``table.column``, the type, with ``!`` behind it when a row cannot leave the column out.
    """
    old_tables = {name.rpartition(".")[0] for name in before}
    words = []
    for name in sorted(set(before) | set(after)):
        was, now = before.get(name), after.get(name)
        if now is None:
            words.append(f"{name} is gone")
        elif was is None:
            if now.endswith("!") and name.rpartition(".")[0] in old_tables:
                words.append(f"{name} is new and must be given")
        elif was.rstrip("!") != now.rstrip("!"):
            words.append(f"{name} was {was.rstrip('!')} and is {now.rstrip('!')}")
        elif now.endswith("!") and not was.endswith("!"):
            words.append(f"{name} must be given now")
    return words


def judge_columns(lost: Sequence[str], floor_moves: bool) -> Gate:
    """Judge what the migrations took on the copy, whatever tool ran them."""
    if not lost:
        return Gate("contract", PASS, "On the copy, no column is gone, has another type, or must newly be given.", value=0, limit=0)
    shown = "; ".join(lost[:5]) + (" and more" if len(lost) > 5 else "")
    if floor_moves:
        return Gate("contract", WAIVED, f"On the copy, {shown}; the floor moves knowingly.", value=len(lost), limit=0)
    return Gate(
        "contract",
        FAIL,
        f"On the copy, {shown}. {_SHARED}",
        value=len(lost),
        limit=0,
        remedy="Release first the version that no longer needs it, and contract in a later release; or set migrate_floor_moves: true.",
    )


def squawk_findings(migration: str, stdout: str) -> list[str]:
    """Return what squawk found in a migration, as ``0007_x line 3: message (rule)``.

    :raises SluiceError: it did not answer in its JSON.
    """
    try:
        found: list[dict[str, Any]] = json.loads(stdout)
        return [f"{migration} line {int(row['line']) + 1}: {row['message'].rstrip('.')} ({row['rule_name']})" for row in found]
    except (ValueError, KeyError, TypeError) as error:
        raise SluiceError("squawk did not answer in JSON.", "Install squawk-cli 2 or newer, or set migrate_lint: off.", stdout=stdout[-500:]) from error


def judge_squawk(findings: Sequence[str] | None, files: int, mode: str) -> Gate:
    """Judge what squawk said.

    :param findings: None when it is not installed.
    :param mode: of ``LINT_MODES``; ``advisory`` tells and does not stop.
    """
    if findings is None:
        verdict = INCONCLUSIVE if mode == "required" else PASS
        remedy = "Install squawk-cli on that host (pip install squawk-cli), or set migrate_lint: advisory." if verdict != PASS else ""
        return Gate("lint", verdict, "squawk is not installed where the migrations run, so nobody linted them.", remedy=remedy)
    if not findings:
        return Gate("lint", PASS, f"squawk finds nothing in {files} migrations.", value=0, limit=0, sample=files)
    shown = "; ".join(findings[:5]) + (f"; and {len(findings) - 5} more" if len(findings) > 5 else "")
    if mode == "required":
        return Gate(
            "lint",
            FAIL,
            f"squawk finds {len(findings)}: {shown}.",
            value=len(findings),
            limit=0,
            sample=files,
            remedy="Correct the migration, or write -- squawk-ignore RULE above the statement.",
        )
    return Gate("lint", PASS, f"squawk advises on {len(findings)}: {shown}.", value=len(findings), sample=files)
