# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs the checks of a database, and reads how its server copes; changes nothing, and keeps no lock after an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.postgres import Session
from ansible_collections.sluice.deploy.plugins.module_utils.core import database_checks, database_health
from ansible_collections.sluice.deploy.plugins.module_utils.core.database_checks import Check, Outcome
from ansible_collections.sluice.deploy.plugins.module_utils.core.database_input import misread
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.migrations import identifier, literal

_DENIED, _CANCELLED, _READ_ONLY = "42501", "57014", "25006"

_AT_ONCE = 50

_TABLES = (
    "SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.relkind = 'r' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'"
    " AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1"
)


class Reader:
    """Asks in one read-only transaction, each question with a savepoint and a time of its own.

    :param seconds: after which the server gives a question up.
    """

    def __init__(self, session: Session, settings: Mapping[str, str], seconds: float) -> None:
        self.session = session
        self._seconds = seconds
        # Each statement sees its own snapshot, so that vacuum is not held back for as long as we look.
        session.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY")
        session.execute(f"SET LOCAL statement_timeout = {max(1, int(seconds * 1000))}; SET LOCAL lock_timeout = '2s'")
        self.role = str(session.value("SELECT quote_ident(current_user) AS role"))
        if settings:
            session.execute("SELECT " + ", ".join(f"set_config({literal('sluice.' + name)}, {literal(value)}, true)" for name, value in settings.items()))

    def close(self) -> None:
        """End the transaction."""
        self.session.execute("ROLLBACK")

    def ask(self, sql: str, most: Optional[int] = None) -> list[dict[str, Any]]:
        """Return the rows of one SELECT, or the first of them; its locks are gone afterwards."""
        return self.within(lambda: self.session.query(f"SELECT * FROM ({sql}\n) AS found LIMIT {'ALL' if most is None else most}"))

    def within(self, ask: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        """Ask something within a savepoint that is rolled back."""
        self.session.execute("SAVEPOINT question")
        try:
            return ask()
        finally:
            self.session.execute("ROLLBACK TO SAVEPOINT question")

    def why(self, error: SluiceError) -> tuple[str, str]:
        """Return why a question has no answer, and what helps.

        :raises SluiceError: it is no matter of the question: the server is gone, or the time is up.
        """
        state = error.facts.get("sqlstate")
        if not state:
            raise error
        said = error.message.partition(" refused: ")[2].rstrip(".") or error.message
        if state == _DENIED:
            return f"{said}, for the role {self.role}", f"Grant {self.role} the right to read it (GRANT SELECT ON ... TO {self.role}, or pg_monitor)."
        if state == _CANCELLED:
            return f"it did not end within {self._seconds:g} s", "Raise statement_timeout, or make the query cheaper."
        if state == _READ_ONLY:
            return f"it wants to write: {said}", "A check may only read."
        return said, error.remedy or "Mend the check's query."

    def check(self, check: Check) -> Outcome:
        """Return what one check found, or why it could not run."""
        try:
            # Of findings the first ones will do; a query that is not run would be a pass that nobody proved.
            rows = self.ask(check.sql, None if check.generates else database_checks.MOST)
            if not check.generates:
                return database_checks.outcome_of(check, rows)
            wrong = [row for row in rows if not row.get("object") or misread(str(row.get("sql") or ""))]
            if wrong:
                return Outcome(check, (), f"a row holds no object with one SELECT in sql: {wrong[0]!r}", "Return object and sql in each row.")
            return database_checks.outcome_of(check, self._numbers(rows))
        except SluiceError as error:
            return Outcome(check, (), *self.why(error))

    def row_counts(self, check: Check) -> tuple[dict[str, int], Optional[Outcome]]:
        """Return the exact rows of every table that a backup holds rows of, or the outcome that says why not."""
        try:
            names = [row["name"] for row in self.within(lambda: self.session.query(_TABLES))]
            found = self._numbers([{"object": name, "sql": f"SELECT count(*) FROM ONLY {name}"} for name in names])
        except SluiceError as error:
            return {}, Outcome(check, (), *self.why(error))
        unknown = [row for row in found if row.get("unknown")]
        if unknown:
            more = f"; and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            return {}, Outcome(check, (), f"{unknown[0]['unknown']}{more}", f"Grant {self.role} the right to read every table.")
        return {row["object"]: int(row["value"]) for row in found}, None

    def _numbers(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the one number of each row's query, or why there is none."""
        found: list[dict[str, Any]] = []
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            try:
                # Together they take one answer instead of fifty; when one of them fails, each is asked by itself.
                asked = " UNION ALL ".join(f"SELECT {place} AS place, ({row['sql']}\n)::text AS value" for place, row in enumerate(some))
                values = {int(row["place"]): row["value"] for row in self.ask(asked)}
                found += [{"object": row["object"], "value": values[place]} for place, row in enumerate(some)]
            except SluiceError as error:
                self.why(error)
                found += [self._number(row) for row in some]
        return found

    def _number(self, row: Mapping[str, Any]) -> dict[str, Any]:
        try:
            rows = self.ask(str(row["sql"]))
            return {"object": row["object"], "value": next(iter(rows[0].values())) if len(rows) == 1 else None}
        except SluiceError as error:
            return {"object": row["object"], "unknown": self.why(error)[0]}


# --- Health ------------------------------------------------------------------------------------------------------------

_CONNECTIONS = f"SELECT current_setting('max_connections')::int AS max, ({database_health.USED})::int AS used, ({database_health.USABLE}) AS usable"
# Background processes have no database.
_SESSIONS = (
    "SELECT pid, usename AS role, application_name AS application, host(client_addr) AS address, datname AS database, state, backend_type AS backend, query,"
    " extract(epoch FROM clock_timestamp() - query_start) AS query_age, extract(epoch FROM clock_timestamp() - state_change) AS state_age,"
    " extract(epoch FROM clock_timestamp() - xact_start) AS transaction_age,"
    " CASE WHEN wait_event_type = 'Lock' THEN pg_blocking_pids(pid) END AS blocked_by,"
    " CASE WHEN wait_event_type = 'Lock' THEN (SELECT extract(epoch FROM clock_timestamp() - min(l.waitstart)) FROM pg_locks l WHERE l.pid = a.pid) END"
    " AS wait_age"
    " FROM pg_stat_activity a WHERE pid <> pg_backend_pid() AND datname IS NOT NULL ORDER BY pid"
)
_COUNTERS = (
    "SELECT datname AS database, pg_postmaster_start_time()::text AS server, stats_reset::text AS reset, extract(epoch FROM clock_timestamp()) AS at,"
    " deadlocks, blks_hit AS hit, blks_read AS read, xact_commit AS commits, xact_rollback AS rollbacks, temp_bytes,"
    " pg_database_size(datid) AS bytes FROM pg_stat_database WHERE datname = current_database()"
)
_STATEMENTS = "SELECT n.nspname AS schema FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_stat_statements'"


def connections(reader: Reader) -> dict[str, Any]:
    """Return the connections that clients hold, that ordinary roles may hold, and max_connections."""
    return dict(reader.ask(_CONNECTIONS)[0])


def sessions(reader: Reader, major: int) -> list[dict[str, Any]]:
    """Return the sessions of clients, ours left out; of those that are hidden from the role, the query says so."""
    query = _SESSIONS if major >= 14 else _SESSIONS.replace("min(l.waitstart)", "NULL::timestamptz")
    return reader.within(lambda: reader.session.query(query))


def counters(reader: Reader) -> dict[str, Any]:
    """Return what the server counts for this database, and its size."""
    # A transaction sees the statistics as they were at its first look, unless it lets go of them.
    reader.session.execute("SELECT pg_stat_clear_snapshot()")
    return dict(reader.ask(_COUNTERS)[0])


def statements(reader: Reader) -> tuple[Optional[dict[str, dict[str, Any]]], str]:
    """Return calls and milliseconds of this database's statements by their id, or None and why there are none."""
    found = reader.ask(_STATEMENTS)
    if not found:
        return None, "the extension pg_stat_statements is not in this database"
    view = f"{identifier(found[0]['schema'])}.pg_stat_statements"
    query = (
        f"SELECT queryid::text || '/' || userid AS key, calls, total_exec_time AS ms, left(query, 300) AS query FROM {view}"
        " WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND queryid IS NOT NULL"
        " ORDER BY total_exec_time DESC LIMIT 500"
    )
    try:
        return {row["key"]: row for row in reader.ask(query)}, ""
    except SluiceError as error:
        return None, reader.why(error)[0]


def run(reader: Reader, checks: Sequence[Check]) -> list[Outcome]:
    """Run all checks, whatever each one finds."""
    return [reader.check(check) for check in checks]
