# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two databases compared table by table: what the live one has that its backup has not, without holding more than a few rows in memory."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import pg_facts
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.postgres import Session
from ansible_collections.sluice.deploy.plugins.module_utils.core import losses
from ansible_collections.sluice.deploy.plugins.module_utils.core.losses import Loss
from ansible_collections.sluice.deploy.plugins.module_utils.core.migrations import literal

_SHAPE = (
    "SELECT (SELECT json_agg(json_build_array(quote_ident(attname), format_type(atttypid, atttypmod)) ORDER BY attnum) FROM pg_attribute"
    " WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) AS columns,"
    " (SELECT json_agg(quote_ident(a.attname) ORDER BY k.place) FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(num, place)"
    " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num WHERE i.indrelid = c.oid AND i.indisprimary) AS key"
    " FROM pg_class c WHERE c.oid = {name}::regclass"
)


def counters(session: Session) -> dict[str, tuple[int, int, int]]:
    """Return the rows inserted, updated and deleted in each table since the server's counters began."""
    rows = session.query("SELECT format('%I.%I', schemaname, relname) AS name, n_tup_ins, n_tup_upd, n_tup_del FROM pg_stat_user_tables")
    return {row["name"]: (int(row["n_tup_ins"]), int(row["n_tup_upd"]), int(row["n_tup_del"])) for row in rows}


def by_counters(live: Session, rows: Mapping[str, int], writes: Mapping[str, tuple[int, int, int]]) -> list[Loss]:
    """Return what a table's counters and rows say was written, without reading the copy."""
    now = {name: fact.rows for name, fact in pg_facts.table_facts(live, 0).items()}
    counted = {loss.table: loss for loss in losses.compare_counts(rows, now)}
    for table, after in counters(live).items():
        if table in writes and table in rows and table in now:
            loss = losses.compare_counters(table, writes[table], after)
            # Counters that were set back say less than the rows do.
            if loss.total() or (loss.how == losses.UNKNOWN and table not in counted):
                counted[table] = loss
    return [counted[table] for table in sorted(counted)]


def compare(live: Session, copy: Session, writes: Mapping[str, tuple[int, int, int]], exact_bytes: int) -> list[Loss]:
    """Return what each table of the live database has otherwise than the copy.

    A table is read once on each side, hashed into groups; only groups that differ are looked into. Columns that are on one side
    alone are left out of the comparison.

    :param writes: counters when the backup was made, for tables that are too large to be read.
    :param exact_bytes: size on disk up to which a table is read.
    """
    sizes = {row["name"]: int(row["bytes"]) for row in pg_facts.tables(live)}
    had = {name: fact.rows for name, fact in pg_facts.table_facts(copy, 0).items()}
    small = [name for name, size in sizes.items() if name in had and size <= exact_bytes]
    found = [loss for loss in by_counters(live, had, writes) if loss.table not in small]
    with pg_facts.stable(live), pg_facts.stable(copy):
        for table in small:
            loss = _table(live, copy, table)
            if loss.total():
                found.append(loss)
    return sorted(found, key=lambda loss: loss.table)


def _table(live: Session, copy: Session, table: str) -> Loss:
    ours, theirs = (session.query(_SHAPE.format(name=literal(table)))[0] for session in (live, copy))
    columns = [name for name, kind in theirs["columns"] or [] if [name, kind] in (ours["columns"] or [])]
    key = theirs["key"] if theirs["key"] == ours["key"] and set(theirs["key"] or ()) <= set(columns) else None
    row = _hash(columns)
    identity = _hash(key) if key else row
    with ThreadPoolExecutor(2) as both:
        groups = list(both.map(_groups, (copy, live), (table,) * 2, (identity,) * 2, (row,) * 2))
    differing = losses.differing(groups[0], groups[1])
    parts = losses.batches(differing)
    if parts is None:
        return losses.at_most(table, groups[0], groups[1])
    total = losses.compare_rows(table, bool(key), (), ())
    for part in parts:
        wanted = f"ARRAY[{', '.join(map(str, part))}]"
        sql = f"SELECT {identity} || ' ' || {row} FROM ONLY {table} WHERE {identity} & {losses.GROUPS - 1} = ANY ({wanted}::bigint[])"
        total = losses.add(total, losses.compare_rows(table, bool(key), copy.execute(sql), live.execute(sql)))
    return total


def _groups(session: Session, table: str, identity: str, row: str) -> dict[int, tuple[int, str]]:
    sql = f"SELECT {identity} & {losses.GROUPS - 1} AS part, count(*), sum({row}::numeric) FROM ONLY {table} GROUP BY 1"
    found: dict[int, tuple[int, str]] = {}
    for line in session.execute(sql):
        part, rows, total = line.split("|")
        found[int(part)] = (int(rows), total)
    return found


def _hash(columns: Any) -> str:
    return f"hashtextextended(ROW({', '.join(columns)})::text, 0)"
