# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a PostgreSQL server and a database say of themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.postgres import Session
from ansible_collections.sluice.deploy.plugins.module_utils.core import facts
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.migrations import literal


def server(session: Session) -> dict[str, Any]:
    """Return version, major version, and whether this is a standby."""
    return session.query(
        "SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int / 10000 AS major, pg_is_in_recovery() AS standby"
    )[0]


# What the text of a row or of a definition depends on; an empty search path makes every name a full one.
_STABLE = {
    "search_path": "pg_catalog",
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmloption": "content",
    "lc_monetary": "C",
    "quote_all_identifiers": "off",
}

# Tables a dump carries rows of: not those of an extension, which makes its own.
_TABLES = (
    "SELECT format('%I.%I', n.nspname, c.relname) AS name, n.nspname || ' ' || c.relname AS listed, pg_table_size(c.oid) AS bytes,"
    " has_table_privilege(c.oid, 'SELECT') AS readable FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind = 'r' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'"
    " AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1"
)


@contextmanager
def stable(session: Session) -> Iterator[None]:
    """Make the texts of rows and definitions depend on them alone, and put the session's settings back afterwards."""
    names = ", ".join(literal(name) for name in _STABLE)
    before = session.query(f"SELECT s.name, current_setting(s.name) AS value FROM unnest(ARRAY[{names}]) AS s(name)")
    try:
        _set(session, _STABLE)
        yield
    finally:
        with suppress(SluiceError):
            _set(session, {row["name"]: row["value"] for row in before})


def _set(session: Session, settings: Mapping[str, str]) -> None:
    session.execute("SELECT " + ", ".join(f"set_config({literal(name)}, {literal(value)}, false)" for name, value in settings.items()))


def tables(session: Session) -> list[dict[str, Any]]:
    """Return every table that a dump carries rows of: quoted name, name as an archive lists it, size on disk without indexes, and whether we may read it."""
    return session.query(_TABLES)


def table_facts(session: Session, checksum_max_bytes: int, only: Collection[str] | None = None) -> dict[str, facts.TableFact]:
    """Return exact rows and size of every table, and for the small ones a checksum of the rows, as the session's snapshot sees them.

    The checksum is the sum of a 64-bit hash of each row's text, so the order of the rows does not matter.

    :param checksum_max_bytes: size on disk of all tables together whose rows are hashed, the smallest first.
    :param only: hash exactly the rows of these tables instead, to compare with facts taken elsewhere.
    """
    found, seen = session.query(_TABLES), {}
    hashed = only if only is not None else facts.cheap_tables({row["name"]: int(row["bytes"]) for row in found}, checksum_max_bytes)
    with stable(session):
        for row in found:
            name, checksum = row["name"], row["name"] in hashed
            what = ", sum(hashtextextended((the_row.*)::text, 0)::numeric)" if checksum else ""
            rows, _bar, total = session.execute(f"SELECT count(*){what} FROM ONLY {name} AS the_row")[0].partition("|")
            seen[name] = facts.TableFact(int(rows), int(row["bytes"]), (total or "0") if checksum else None)
    return seen


def sequences(session: Session) -> dict[str, int]:
    """Return the value each sequence gives next. Sequences know no snapshot: others may move them meanwhile."""
    found = session.query(
        "SELECT format('%I.%I', n.nspname, c.relname) AS name, q.seqincrement AS step FROM pg_sequence q JOIN pg_class c ON c.oid = q.seqrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relpersistence <> 't'"
        " AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(c.oid, 'SELECT') END"
        " AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1"
    )
    asked = " UNION ALL ".join(
        f"SELECT {literal(row['name'])} AS name, (last_value::numeric + CASE WHEN is_called THEN {row['step']} ELSE 0 END)::text AS next FROM {row['name']}"
        for row in found
    )
    return {row["name"]: int(row["next"]) for row in session.query(asked)} if asked else {}


def large_objects(session: Session) -> int:
    """Return how many large objects there are, as the session's snapshot sees them."""
    return int(session.value("SELECT count(*) AS objects FROM pg_largeobject_metadata"))


def extensions(session: Session) -> dict[str, str]:
    """Return name and version of each extension."""
    return {row["extname"]: row["extversion"] for row in session.query("SELECT extname, extversion FROM pg_extension ORDER BY 1")}


def settings(session: Session) -> dict[str, str]:
    """Return what a database must be made with to hold the same texts in the same order, and the settings that change what rows mean."""
    row = session.query(
        "SELECT to_jsonb(d) AS db, pg_encoding_to_char(encoding) AS encoding, current_setting('TimeZone') AS timezone,"
        " current_setting('standard_conforming_strings') AS strings, pg_get_userbyid(datdba) AS owner, shobj_description(oid, 'pg_database') AS comment,"
        " pg_database_size(oid) AS bytes FROM pg_database d WHERE datname = current_database()"
    )[0]
    db = row["db"]
    found = {
        "encoding": row["encoding"],
        "lc_collate": db["datcollate"],
        "lc_ctype": db["datctype"],
        # Columns of newer versions; older ones know libc only.
        "locale_provider": db.get("datlocprovider") or "c",
        "locale": db.get("datlocale") or db.get("daticulocale"),
        "collation_version": db.get("datcollversion"),
        "timezone": row["timezone"],
        "standard_conforming_strings": row["strings"],
        "owner": row["owner"],
        "comment": row["comment"],
        "connection_limit": db["datconnlimit"],
        "database_bytes": row["bytes"],
        "grants": " ".join(sorted(db["datacl"] or [])) or None,
    }
    own = session.query(
        "SELECT CASE setrole WHEN 0 THEN '' ELSE pg_get_userbyid(setrole) || ': ' END || setting AS setting FROM pg_db_role_setting"
        " CROSS JOIN LATERAL unnest(setconfig) AS setting WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1"
    )
    for number, line in enumerate(own, 1):
        name, _equals, value = line["setting"].partition("=")
        # Parameters with a dot are the app's own, and some apps keep keys there; the archive carries them.
        found[f"set {number}"] = f"{name}=(not shown)" if "." in name.split(": ")[-1] else line["setting"]
    return {name: str(value) for name, value in found.items() if value is not None}


def roles(session: Session) -> dict[str, str]:
    """Return the roles that own something in the database or were granted something there, each with its attributes; never a password."""
    found = session.query(
        "SELECT r.rolname AS name, concat_ws(' ', CASE WHEN rolsuper THEN 'superuser' END, CASE WHEN rolcanlogin THEN 'login' END,"
        " CASE WHEN rolcreatedb THEN 'createdb' END, CASE WHEN rolcreaterole THEN 'createrole' END, CASE WHEN rolreplication THEN 'replication' END,"
        " CASE WHEN rolbypassrls THEN 'bypassrls' END, 'in ' || (SELECT string_agg(quote_ident(pg_get_userbyid(roleid)), ' ' ORDER BY 1)"
        " FROM pg_auth_members m WHERE m.member = r.oid)) AS may FROM pg_roles r WHERE r.oid IN (SELECT refobjid FROM pg_shdepend"
        " WHERE refclassid = 'pg_authid'::regclass AND dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))"
        " UNION SELECT datdba FROM pg_database WHERE datname = current_database() UNION SELECT oid FROM pg_roles WHERE rolname = current_user)"
        " AND rolname !~ '^pg_' ORDER BY 1"
    )
    return {row["name"]: row["may"] for row in found}


def writes(session: Session) -> dict[str, list[int]]:
    """Return the counters of rows inserted, updated and deleted in each table since the server's statistics began; they lag by up to a second."""
    found = session.query(
        "SELECT format('%I.%I', schemaname, relname) AS name, n_tup_ins AS ins, n_tup_upd AS upd, n_tup_del AS del FROM pg_stat_user_tables ORDER BY 1"
    )
    return {row["name"]: [int(row["ins"]), int(row["upd"]), int(row["del"])] for row in found}


def export_snapshot(session: Session) -> tuple[str, str, str]:
    """Begin a read-only transaction; return its snapshot for pg_dump, its log position, and the transactions it sees (``xmin:xmax:running``)."""
    session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    row = session.query(
        "SELECT pg_export_snapshot() AS id, txid_current_snapshot()::text AS seen,"
        " CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS lsn"
    )[0]
    return str(row["id"]), str(row["lsn"]), str(row["seen"])


def invalid_indexes(session: Session) -> list[str]:
    """Return the indexes that exist and are not used."""
    return [
        row["name"]
        for row in session.query("SELECT indexrelid::regclass::text AS name FROM pg_index WHERE NOT (indisvalid AND indisready AND indislive) ORDER BY 1")
    ]


def database_bytes(session: Session) -> int:
    """Return the size of the session's database on disk."""
    return int(session.value("SELECT pg_database_size(current_database()) AS bytes"))


def table_files(session: Session) -> dict[str, int]:
    """Return the file each table is in; a table that was rewritten is in another one."""
    return {
        row["name"]: int(row["file"])
        for row in session.query(
            "SELECT format('%I.%I', n.nspname, c.relname) AS name, pg_relation_filenode(c.oid) AS file FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
        )
    }
