# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator declares of a database, turned into checks: what is there, what is not negative, what refers to what, and which rows may change."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.database_checks import DATA, SCHEMA, SERIOUS, Check, Finding, Outcome, is_number
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.migrations import identifier, literal

EXAMPLES: Mapping[str, str] = {
    "tables": "tables: [{name: public.wallet, columns: {id: bigint, balance: numeric}}]",
    "functions": "functions: ['public.transfer(bigint, bigint)']",
    "indexes": "indexes: [{table: public.entry, columns: [account], unique: false}]",
    "references": "references: [{table: public.entry, columns: [account], to: public.account, to_columns: [id]}]",
    "not_negative": "not_negative: [{table: public.wallet, column: balance, null: refused}]",
}
_PART = re.compile(r'"((?:[^"]|"")+)"|([^\W\d][\w$]*)')
_DIFF_LINES = 200


class _Wrong(Exception):
    """What is wrong with a declaration."""


def parts(name: Any) -> list[str]:
    """Return the parts of a name as PostgreSQL reads it: what is not in double quotes is folded to small letters.

    :raises SluiceError: it is no name.
    """
    found, at = [], 0
    while isinstance(name, str) and (part := _PART.match(name, at)):
        found.append(part.group(1).replace('""', '"') if part.group(1) else part.group(2).lower())
        at = part.end()
        if at == len(name):
            return found
        if name[at] != ".":
            break
        at += 1
    raise SluiceError(f"{name!r} is no name of a table.", 'Write schema.table, with double quotes around what is not plain: public."Ünusual name".')


def table_name(name: Any) -> str:
    """Return a table's name as SQL, each part in double quotes.

    :raises SluiceError: it is no name of a table.
    """
    found = parts(name)
    if len(found) > 2:
        raise SluiceError(f"{name!r} has {len(found)} parts; allowed are table and schema.table.", "Example: public.wallet")
    return ".".join(identifier(part) for part in found)


def checks_of(expected: Mapping[str, Any], where: str = "database_expect") -> list[Check]:
    """Return the checks that an operator's declarations are.

    :raises SluiceError: it names the declaration, what is wrong, and an example.
    """
    makers: Mapping[str, Callable[[Sequence[Any]], Check]] = {
        "tables": _tables,
        "functions": _functions,
        "indexes": _indexes,
        "references": _references,
        "not_negative": _not_negative,
    }
    unknown = sorted(set(expected) - set(makers))
    if unknown:
        raise SluiceError(f"{where}: {unknown[0]} is unknown; allowed are {', '.join(makers)}.", f"Example: {EXAMPLES['tables']}")
    found = []
    for name, make in makers.items():
        declared = expected.get(name, ())
        if not isinstance(declared, (list, tuple)):
            raise SluiceError(f"{where}: {name} must be a list and is {declared!r}.", f"Example: {EXAMPLES[name]}")
        try:
            if declared:
                found.append(make(declared))
        except _Wrong as wrong:
            raise SluiceError(f"{where}: {name}: {wrong}", f"Example: {EXAMPLES[name]}") from None
        except SluiceError as error:
            raise SluiceError(f"{where}: {name}: {error.message} {error.remedy}", f"Example: {EXAMPLES[name]}") from None
    return found


def _entry(item: Any, needed: Sequence[str], more: Sequence[str] = ()) -> Mapping[str, Any]:
    if not isinstance(item, Mapping) or set(item) - {*needed, *more} or not set(needed) <= set(item):
        optional = f" and optionally {', '.join(more)}" if more else ""
        raise _Wrong(f"an entry is {item!r}; allowed is a mapping with {', '.join(needed)}{optional}.")
    return item


def _columns(value: Any) -> list[str]:
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(name, str) and name for name in value):
        raise _Wrong(f"columns are {value!r}; allowed is a list of names, just as the database shows them.")
    return list(value)


def _values(rows: Sequence[Sequence[Optional[str]]]) -> str:
    return ", ".join("(" + ", ".join("NULL::text" if cell is None else f"{literal(cell)}::text" for cell in row) + ")" for row in rows)


def _tables(declared: Sequence[Any]) -> Check:
    rows: list[tuple[str, Optional[str], Optional[str]]] = []
    for item in declared:
        entry = _entry({"name": item} if isinstance(item, str) else item, ("name",), ("columns",))
        name, columns = table_name(entry["name"]), entry.get("columns", ())
        rows.append((name, None, None))
        if isinstance(columns, Mapping):
            rows += [(name, str(column), None if kind is None else str(kind)) for column, kind in columns.items()]
        elif columns:
            rows += [(name, column, None) for column in _columns(columns)]
    return Check(
        "required-tables",
        SERIOUS,
        f"""SELECT CASE WHEN c IS NULL THEN t ELSE format('%s.%I', t, c) END AS object,
  CASE WHEN has IS NULL THEN 'it is not there' ELSE format('it is of type %s, wanted is %s', has, kind) END AS detail
FROM (VALUES {_values(rows)}) AS wanted(t, c, kind)
LEFT JOIN LATERAL (
  SELECT CASE WHEN c IS NULL THEN 'a table'
    ELSE (SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
      WHERE a.attrelid = to_regclass(t) AND a.attname = c AND a.attnum > 0 AND NOT a.attisdropped) END AS has
  FROM pg_class WHERE oid = to_regclass(t) AND relkind IN ('r', 'p', 'v', 'm', 'f')) AS found ON true
WHERE (c IS NULL OR to_regclass(t) IS NOT NULL)
  AND (has IS NULL OR kind IS NOT NULL AND has <> kind AND has <> coalesce(format_type(to_regtype(kind), NULL), ''))""",
        "The app needs it.",
        "Run the migration that makes it, or mend database_expect.",
        SCHEMA,
        row="S3-134, S3-135",
    )


def _functions(declared: Sequence[Any]) -> Check:
    for item in declared:
        if not isinstance(item, str) or not re.fullmatch(r"[^()]+\([^()]*\)", item):
            raise _Wrong(f"an entry is {item!r}; allowed is a name with the types of its arguments.")
    return Check(
        "required-functions",
        SERIOUS,
        f"SELECT f AS object, 'it is not there' AS detail FROM (VALUES {_values([(item,) for item in declared])}) AS w(f) WHERE to_regprocedure(f) IS NULL",
        "The app calls it with these types.",
        "Run the migration that makes it, or mend database_expect.",
        SCHEMA,
        row="S3-136",
    )


def _indexes(declared: Sequence[Any]) -> Check:
    rows = []
    for item in declared:
        entry = _entry(item, ("table", "columns"), ("unique",))
        if not isinstance(entry.get("unique", False), bool):
            raise _Wrong(f"unique is {entry['unique']!r}; allowed are true and false.")
        columns = "ARRAY[" + ", ".join(f"{literal(name)}::text" for name in _columns(entry["columns"])) + "]"
        rows.append(f"({literal(table_name(entry['table']))}, {columns}, {str(entry.get('unique', False)).lower()})")
    return Check(
        "required-indexes",
        SERIOUS,
        f"""SELECT format('%s (%s)', t, array_to_string(c, ', ')) AS object,
  CASE WHEN to_regclass(t) IS NULL THEN 'the table is not there'
    ELSE format('no valid %sindex begins with these columns', CASE WHEN u THEN 'unique ' ELSE '' END) END AS detail
FROM (VALUES {", ".join(rows)}) AS wanted(t, c, u)
WHERE NOT EXISTS (
  SELECT 1 FROM pg_index i WHERE i.indrelid = to_regclass(t) AND i.indisvalid AND i.indpred IS NULL
    AND (NOT u OR i.indisunique AND i.indnkeyatts = cardinality(c))
    AND c = ARRAY(SELECT a.attname::text FROM generate_series(0, least(cardinality(c), i.indnkeyatts) - 1) AS place
      JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[place] ORDER BY place))""",
        "The app's queries need it to be fast.",
        "CREATE INDEX CONCURRENTLY with these columns first.",
        SCHEMA,
        row="S1-015, S4-023",
    )


def _generated(name: str, queries: Sequence[tuple[str, str]], sentence: str, remedy: str, row: str) -> Check:
    sql = f"SELECT * FROM (VALUES {_values(queries)}) AS asked(object, sql)"
    return Check(name, SERIOUS, sql, sentence, remedy, DATA, generates=True, row=row)


def _references(declared: Sequence[Any]) -> Check:
    queries = []
    for item in declared:
        entry = _entry(item, ("table", "columns", "to", "to_columns"))
        table, to = table_name(entry["table"]), table_name(entry["to"])
        columns, targets = _columns(entry["columns"]), _columns(entry["to_columns"])
        if len(columns) != len(targets):
            raise _Wrong(f"{entry['table']} has {len(columns)} columns and {entry['to']} {len(targets)}; allowed is one for each.")
        held = " AND ".join(f"c.{identifier(name)} IS NOT NULL" for name in columns)
        same = " AND ".join(f"p.{identifier(target)} = c.{identifier(name)}" for name, target in zip(columns, targets))
        names = ", ".join(columns)
        queries.append((f"{table} ({names}) to {to}", f"SELECT count(*) FROM {table} AS c WHERE {held} AND NOT EXISTS (SELECT 1 FROM {to} AS p WHERE {same})"))
    return _generated(
        "declared-orphans", queries, "These rows point at rows that are not there. A NULL reference is no orphan.", "Mend or remove the rows.", "S3-139, M-053"
    )


def _not_negative(declared: Sequence[Any]) -> Check:
    queries = []
    for item in declared:
        entry = _entry(item, ("table", "column"), ("null",))
        table, column = table_name(entry["table"]), identifier(_columns([entry["column"]])[0])
        if entry.get("null", "refused") not in ("refused", "allowed"):
            raise _Wrong(f"null is {entry['null']!r}; allowed are refused and allowed.")
        queries.append((f"{table}.{column} below 0", f"SELECT count(*) FROM {table} WHERE {column} < 0"))
        if entry.get("null", "refused") == "refused":
            queries.append((f"{table}.{column} NULL", f"SELECT count(*) FROM {table} WHERE {column} IS NULL"))
    return _generated(
        "negative-amounts",
        queries,
        "An amount must not be negative, nor NULL unless it is declared so.",
        "Find out how they came in, and mend the rows; a CHECK constraint keeps them out.",
        "S3-138, M-053",
    )


# --- Against a backup --------------------------------------------------------------------------------------------------

ROW_COUNT = Check(
    "row-count",
    SERIOUS,
    "",
    "The rows changed by more than database_row_changes allows since the backup was taken.",
    "Look what the migration did to the table; if it is right, allow it in database_row_changes.",
    DATA,
    row="S3-137, S3-141, M-052",
)
SCHEMA_DIFF = Check(
    "schema-diff",
    SERIOUS,
    "",
    "The schema is not what it should be.",
    "Look at the diff; was something changed past the migrations?",
    SCHEMA,
    row="S3-141",
)


def allowed_from(data: Mapping[str, Any], where: str = "database_row_changes") -> dict[str, tuple[float, float]]:
    """Return by how many rows each table may change; ``*`` stands for every table that is not named.

    :raises SluiceError: an entry is no number and no mapping with min and max.
    """
    example = "Example: {public.session: {min: -100000, max: 100000}, public.coupon: 12, '*': {min: 0, max: 500}}"
    found = {}
    for name, change in data.items():
        limits = change if isinstance(change, Mapping) else {"min": change, "max": change}
        if not limits or set(limits) - {"min", "max"} or not all(is_number(value) for value in limits.values()):
            raise SluiceError(f"{where}: {name} is {change!r}; allowed is a number of rows, or a mapping with min and max.", example)
        try:
            key = name if name == "*" else ".".join(parts(name))
        except SluiceError as error:
            raise SluiceError(f"{where}: {error.message}", example) from None
        found[key] = (limits.get("min", float("-inf")), limits.get("max", float("inf")))
    return found


def row_changes(before: Mapping[str, int], after: Mapping[str, int], allowed: Mapping[str, tuple[float, float]]) -> Outcome:
    """Compare the rows of every table with those of a backup; without ``*`` in ``allowed``, what is not named may not change at all."""
    findings = []
    for name in sorted({*before, *after}):
        low, high = allowed.get(".".join(parts(name)), allowed.get("*", (0.0, 0.0)))
        had, has = before.get(name), after.get(name)
        change = (has or 0) - (had or 0)
        if has is None and not low <= change <= high or has is None and not had:
            findings.append(Finding(name, f"it had {had:,} rows and is gone"))
        elif not low <= change <= high:
            now = f"{had:,} rows then, {has:,} now" if had is not None else f"new, with {has:,} rows"
            findings.append(Finding(name, f"{now}; {_limits(low, high)}", float(abs(change))))
    return Outcome(ROW_COUNT, findings)


def _limits(low: float, high: float) -> str:
    if low == high:
        return "no change is allowed" if not low else f"a change of {low:+,.0f} is wanted"
    shown = ["any loss" if low == float("-inf") else f"{low:+,.0f}", "any gain" if high == float("inf") else f"{high:+,.0f}"]
    return f"allowed is from {shown[0]} to {shown[1]}"


def schema_diff(wanted: str, found: str) -> tuple[Outcome, str]:
    """Compare two texts that describe a schema, line by line, and return the finding and a readable diff."""
    lines = list(difflib.unified_diff(wanted.splitlines(), found.splitlines(), "wanted", "found", lineterm="", n=2))
    if not lines:
        return Outcome(SCHEMA_DIFF), ""
    added = sum(line.startswith("+") for line in lines[2:])
    removed = sum(line.startswith("-") for line in lines[2:])
    cut = [f"... and {len(lines) - _DIFF_LINES} more lines"] if len(lines) > _DIFF_LINES else []
    return Outcome(SCHEMA_DIFF, [Finding("the schema", f"{removed} lines missing, {added} lines too many", float(added + removed))]), "\n".join(
        lines[:_DIFF_LINES] + cut
    ) + "\n"
