# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a PostgreSQL server and a database say of themselves."""

from __future__ import annotations

from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.postgres import Session


def server(session: Session) -> dict[str, Any]:
    """Return version, major version, and whether this is a standby."""
    return session.query(
        "SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int / 10000 AS major, pg_is_in_recovery() AS standby"
    )[0]


# Tables a dump carries rows of: not those of an extension, which makes its own.
_TABLES = (
    "SELECT format('%I.%I', n.nspname, c.relname) AS name, pg_table_size(c.oid) AS bytes FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind = 'r' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'"
    " AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1"
)


def table_bytes(session: Session) -> int:
    """Return the size of all tables on disk, without their indexes: an archive holds none."""
    return sum(int(row["bytes"]) for row in session.query(_TABLES))


def count_tables(session: Session) -> dict[str, int]:
    """Return the exact rows of every table, as the session's snapshot sees them."""
    return {row["name"]: int(session.execute(f"SELECT count(*) FROM ONLY {row['name']}")[0]) for row in session.query(_TABLES)}


def export_snapshot(session: Session) -> tuple[str, str]:
    """Begin a read-only transaction and return its snapshot, for pg_dump, and its log position."""
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    snapshot = str(session.value("SELECT pg_export_snapshot() AS id"))
    return snapshot, str(session.value("SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS lsn"))


def invalid_indexes(session: Session) -> list[str]:
    """Return the indexes that exist and are not used."""
    return [
        row["name"]
        for row in session.query("SELECT indexrelid::regclass::text AS name FROM pg_index WHERE NOT (indisvalid AND indisready AND indislive) ORDER BY 1")
    ]
