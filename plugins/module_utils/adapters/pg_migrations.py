# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ordered SQL files: read from a folder, run one by one, and written down in a version table."""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.postgres import WORK, Clients, Deadline, Session, application_name, end_orphans
from ansible_collections.sluice.deploy.plugins.module_utils.core import migrations
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.migrations import identifier, literal


def read_migrations(folder: str) -> tuple[migrations.Migration, ...]:
    """Return the migrations of a folder, in order.

    :raises SluiceError: there is no such folder, or the files are not in order.
    """
    try:
        files = {}
        for name in sorted(os.listdir(folder)):
            if name.endswith(".sql") and not name.startswith("."):
                with open(os.path.join(folder, name), "rb") as stream:
                    files[name] = stream.read()
    except OSError as error:
        raise SluiceError(f"The migrations in {folder} cannot be read: {error.strerror}.", "Check the path of the folder.", path=folder) from error
    return migrations.arrange(files)


def version_table(session: Session, name: str) -> tuple[str, list[migrations.Applied]]:
    """Return the version table's full name, quoted, and the migrations it lists; it need not exist yet."""
    found = session.value(
        "SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        f" WHERE c.oid = to_regclass({literal(migrations.check_table(name))})"
    )
    if found:
        return found, [migrations.Applied(**row) for row in session.query(f"SELECT number, name, sha256 FROM {found} ORDER BY number")]
    schema, _dot, table = name.rpartition(".")
    schema = schema or session.value("SELECT current_schema() AS name") or ""
    if not schema:
        raise SluiceError(
            "The database user's search_path names no schema that exists, so the version table has no place.",
            "Give the table with its schema, such as public.sluice_migrations.",
        )
    return f"{identifier(schema)}.{identifier(table)}", []


def apply_migration(
    clients: Clients,
    session: Session,
    migration: migrations.Migration,
    *,
    table: str,
    release_id: str,
    lock_timeout_ms: int,
    statement_timeout_s: int,
    retries: int,
    deadline: Deadline,
    service: str,
) -> float:
    """Run one file and its version row in one transaction, again when a lock was not granted, and return the seconds of the attempt that worked.

    :param session: a session on the same database; it watches who blocks.
    :raises SluiceError: it failed, and nothing of the file is left; with the line, the server's words and who blocked.
    """
    blockers: dict[int, dict[str, Any]] = {}

    def watch() -> None:
        blockers.update({row["pid"]: row for row in session.query(_blockers(application_name(clients.what, WORK)))})

    attempt = 0
    while True:
        attempt += 1
        text = migrations.script(migration, table, release_id, lock_timeout_ms, min(statement_timeout_s, int(deadline.left()) + 1))
        with clients.start("psql", ["-qAtX1", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", "-d", f"service={service}", "-f", "-"], service, text) as job:
            try:
                rc = job.wait(deadline, watch)
            except BaseException:
                # A client that is gone does not stop what the server is doing for it.
                session.grant(10)
                with suppress(SluiceError):
                    end_orphans(session, clients.what.partition(":")[2])
                raise
            if rc == 0:
                return job.seconds()
            found = migrations.failure(job.errors())
        delay = migrations.retry_delay(found, attempt, retries, random.random())
        if delay is None:
            raise _migration_error(migration, found, attempt, list(blockers.values()))
        blockers.clear()
        time.sleep(min(delay, deadline.left()))


def _migration_error(migration: migrations.Migration, found: migrations.Failure, attempts: int, blockers: list[dict[str, Any]]) -> SluiceError:
    facts = {"migration": migration.name, "line": found.line, "sqlstate": found.state}
    if found.state == migrations.LOCK_NOT_AVAILABLE:
        return SluiceError(
            f"Migration {migration.name} did not get its lock in {attempts} attempts: {migrations.name_blockers(blockers)}. Nothing of it was applied.",
            "End that session or wait for it, then run the migration again.",
            blockers=blockers,
            **facts,
        )
    where = f" at line {found.line}" if found.line else ""
    return SluiceError(
        f"Migration {migration.name} failed{where}: {found.message}. Nothing of it was applied.", "Correct the file, then run the migration again.", **facts
    )


def _blockers(application: str) -> str:
    return (
        "SELECT b.pid, b.application_name, b.state, b.query_start, b.xact_start FROM pg_stat_activity m"
        " CROSS JOIN LATERAL unnest(pg_blocking_pids(m.pid)) AS blocker(pid)"
        f" JOIN pg_stat_activity b ON b.pid = blocker.pid WHERE m.application_name = {literal(application)} AND m.datname = current_database()"
    )
