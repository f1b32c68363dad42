# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ordered SQL files: read from a folder, run one by one through psql, and written down in a version table."""

from __future__ import annotations

import os

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.pg_facts import invalid_indexes
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.pg_guards import REPORT, Step
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.postgres import LIVE, Clients, Job, Session
from ansible_collections.sluice.deploy.plugins.module_utils.core import migrations
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.migrations import LAYOUTS, Layout, Migration, identifier, literal


def read_migrations(folder: str, layout: Layout = LAYOUTS["sql"]) -> tuple[Migration, ...]:
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
    return migrations.arrange(files, layout)


def version_table(session: Session, name: str, layout: Layout = LAYOUTS["sql"]) -> tuple[str, list[migrations.Applied]]:
    """Return the version table's full name, quoted, and the migrations it lists; it need not exist yet."""
    found = session.value(
        "SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        f" WHERE c.oid = to_regclass({literal(migrations.check_table(name))})"
    )
    if found:
        return found, [migrations.Applied(**row) for row in session.query(layout.read.format(table=found))]
    schema, _dot, table = name.rpartition(".")
    schema = schema or session.value("SELECT current_schema() AS name") or ""
    if not schema:
        raise SluiceError(
            "The database user's search_path names no schema that exists, so the version table has no place.",
            "Give the table with its schema, such as public.sluice_migrations.",
        )
    return f"{identifier(schema)}.{identifier(table)}", []


class SqlFiles:
    """The migrator of ordered SQL files, and of the Supabase CLI's."""

    def __init__(self, session: Session, clients: Clients, folder: str, layout: Layout, table: str, release_id: str, timeouts: tuple[int, int]) -> None:
        self._session, self._clients, self._layout, self._table = session, clients, layout, table
        self._release_id, self._timeouts = release_id, timeouts
        self._files = read_migrations(folder, layout)

    def current(self) -> list[str]:
        """Return the newest applied migration, as a list."""
        return migrations.heads(self._applied())

    def pending(self) -> list[str]:
        """Return what is due, in order."""
        return [migration.name for migration in self._due()]

    def sql(self, due: list[str]) -> dict[str, str]:
        """Return the SQL of what is due."""
        return {migration.name: migration.sql for migration in self._files if migration.name in due}

    def drops(self, due: list[str]) -> dict[str, str]:
        """Return the SQL that takes back what is due."""
        return {migration.name: migration.down or "" for migration in self._files if migration.name in due}

    def prepare(self) -> None:
        """Make the version table, so that it is there before and after."""
        table, _applied = version_table(self._session, self._table, self._layout)
        self._session.execute(self._layout.create.format(table=table).rstrip().rstrip(";"))

    def up(self, service: str = LIVE, watched: bool = False) -> list[Step]:
        """Return a step for each migration that is due."""
        table, _applied = version_table(self._session, self._table, self._layout)
        report = REPORT if watched else ""
        return [
            self._step(each, each.sql, migrations.script(each, self._layout, table, self._release_id, *self._timeouts, report), service) for each in self._due()
        ]

    def down(self, wanted: list[str], service: str = LIVE) -> list[Step]:
        """Return a step for each migration that is to be taken back, the newest first."""
        table, applied = version_table(self._session, self._table, self._layout)
        back = migrations.reversed_to(self._files, applied, wanted)
        return [self._step(each, each.down or "", migrations.script_down(each, self._layout, table, *self._timeouts), service) for each in back]

    def _applied(self) -> list[migrations.Applied]:
        return version_table(self._session, self._table, self._layout)[1]

    def _due(self) -> tuple[Migration, ...]:
        return migrations.pending(self._files, self._applied())

    def _step(self, migration: Migration, sql: str, text: str, service: str) -> Step:
        whole = migrations.in_transaction(sql)
        known = set() if whole else set(invalid_indexes(self._session))
        stale = sorted(name for name in known if name.rpartition(".")[2].strip('"').lower() in sql.lower())
        if stale:
            raise SluiceError(
                f"{migration.name} names the index {stale[0]}, which is there and invalid: an earlier build was cut, and IF NOT EXISTS would pass over it.",
                f"Run: DROP INDEX CONCURRENTLY {stale[0]};",
            )
        before = {row.name for row in self._applied()}

        def start() -> Job:
            arguments = ["-qAtX", *(["-1"] if whole else []), "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", "-d", f"service={service}", "-f", "-"]
            return self._clients.start("psql", arguments, service, text)

        def leftovers() -> list[str]:
            broken = set() if whole else set(invalid_indexes(self._session)) - known
            listed = {row.name for row in self._applied()} ^ before
            return [f"the invalid index {name}" for name in sorted(broken)] + [f"{name} in the version table" for name in sorted(listed)]

        return Step(migration.name, start, migrations.failure, leftovers)
