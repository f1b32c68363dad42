# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrators that are programs: Alembic, Django, Knex, Prisma, or any command; run in the release's folder with the app's environment."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import process
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import read_text
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.pg_guards import Step
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.pg_schema import schema_fingerprint
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.postgres import LIVE, WORK, Clients, Deadline, Job, Session, application_name
from ansible_collections.sluice.deploy.plugins.module_utils.core import facts, migrations, migrators
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.migrators import Ask, Tool
from ansible_collections.sluice.deploy.plugins.module_utils.core.secret import scrub


class Command:
    """A tool that migrates. The URL is in its environment, as it is in the app's; never in its arguments."""

    def __init__(
        self, session: Session, clients: Clients, tool: Tool, folder: str, values: Mapping[str, str], path: str, deadline: Deadline, note: Callable[[int], None]
    ) -> None:
        """Hold what a call needs.

        :param values: the app's environment, with the URL of the database that is to be migrated.
        :param path: folders of programs, before those of the host.
        :param note: is told the number of each process that migrates.
        """
        self._session, self._clients, self._tool, self._folder, self._deadline, self._note = session, clients, tool, folder, deadline, note
        # A tool takes half a second to say anything: it is asked once as long as nothing ran.
        self._known: dict[tuple[str, ...], str] = {}
        self._secrets = (*clients.url.secrets(), *values.values())
        self._env = process.clean_environment(
            {
                **values,
                "PATH": os.pathsep.join(filter(None, (path, os.environ.get("PATH", os.defpath)))),
                # By it the tool's sessions are told from the app's.
                "PGAPPNAME": application_name(clients.what, WORK),
            }
        )
        if not os.path.isdir(folder):
            raise SluiceError(f"{folder}, in which the migrations run, is not there.", "Check the path of the folder.", path=folder)

    def current(self) -> list[str]:
        """Return the newest applied migrations."""
        return migrators.heads_of(self._tool, self._applied())

    def pending(self) -> list[str]:
        """Return what is due, in order.

        :raises SluiceError: the files have several heads.
        """
        migrators.check_settled(self._remembered(migrators.PRISMA_FAILED))
        if self._tool.heads:
            migrators.check_heads(self._asked(self._tool.heads))
        applied = set(self._applied())
        due = self._asked(self._tool.pending)
        taken_back = [name for name in self._remembered(migrators.PRISMA_TAKEN_BACK) if os.path.isdir(os.path.join(self._folder, "prisma/migrations", name))]
        due = sorted({*due, *taken_back}) if taken_back else due
        return [name for name in due if name not in applied]

    def sql(self, due: list[str]) -> dict[str, str]:
        """Return the SQL of what is due, as far as the tool shows it."""
        found, words = {}, self._tool.sql
        before = (self.current() or [""])[0] if due and any("{from}" in word for word in words) else ""
        for name in due if words else ():
            filled = migrators.words_for(words, name, before)
            if filled[0].startswith("file:"):
                text = read_text(os.path.join(self._folder, filled[0][len("file:") :]))
            else:
                done = process.run(
                    self._argv([word.removeprefix(":") for word in filled]), timeout=self._left(), env=self._env, cwd=self._folder, ok=range(256)
                )
                text = done.stdout if done.rc == 0 else None
            if text:
                found[name] = text
            before = name
        return found

    def drops(self, due: list[str]) -> dict[str, str]:
        """Return the SQL that takes back what is due: no tool shows it."""
        return {}

    def prepare(self) -> None:
        """Do nothing: a tool makes its version table itself."""

    def up(self, service: str = LIVE, watched: bool = False) -> list[Step]:
        """Return a step for each migration that is due, or one for all where the tool runs them together."""
        return [self._step(name, words) for name, words in migrators.ups(self._tool, self.pending())]

    def down(self, wanted: list[str], service: str = LIVE) -> list[Step]:
        """Return the steps that take the database back until ``wanted`` are the newest."""
        return [self._step(name, words) for name, words in migrators.backs(self._tool, self._applied(), wanted)]

    def _applied(self) -> list[str]:
        if self._tool.current.words:
            return self._asked(self._tool.current)
        return self._remembered(migrators.PRISMA_APPLIED)

    def _remembered(self, sql: str) -> list[str]:
        """Return names from Prisma's own table; none for any other tool."""
        if self._tool.current.words or not self._session.value("SELECT to_regclass('_prisma_migrations') AS found"):
            return []
        return [row["name"] for row in self._session.query(sql)]

    def _asked(self, ask: Ask) -> list[str]:
        if ask.words not in self._known:
            argv = self._argv(ask.words)
            done = process.run(argv, timeout=self._left(), env=self._env, cwd=self._folder, ok=ask.ok, secrets=self._secrets)
            self._known[ask.words] = done.stdout
        return migrators.answers(ask, self._known[ask.words])

    def _left(self) -> float:
        return min(120.0, self._deadline.left())

    def _argv(self, words: object) -> list[str]:
        return [*self._tool.program, *words]  # type: ignore[misc]

    def _step(self, name: str, words: list[str]) -> Step:
        before: list[tuple[list[str], facts.Schema]] = []

        def start() -> Job:
            before[:] = [(self._applied(), schema_fingerprint(self._session))]
            self._known.clear()
            job = Job(self._argv(words), self._env, self._clients.folder, None, self._secrets, cwd=self._folder)
            self._note(job.pid)
            return job

        def leftovers() -> list[str]:
            self._known.clear()
            applied, schema = before[0]
            listed = sorted(set(self._applied()) ^ set(applied))
            left = [f"{each} in its version table" for each in listed] + facts.schema_changes(schema, schema_fingerprint(self._session))
            if not left and self._remembered(migrators.PRISMA_FAILED):
                # Nothing of it was applied, so it can be run again; Prisma would not without this.
                self._session.execute(migrators.PRISMA_SETTLE)
            return left

        return Step(name, start, self._understand, leftovers)

    def _understand(self, said: str) -> migrations.Failure:
        """Return the failure in a tool's last words, without the lines that show rows."""
        lines = [line.strip() for line in said.splitlines() if line.strip() and not re.match(r"\s*(DETAIL|CONTEXT|at |File |\[SQL|\[parameters)", line)]
        telling = [line for line in lines if re.search(r"error|exception|failed|timeout", line, re.IGNORECASE)] or lines
        message = scrub(telling[-1], self._secrets)[-500:] if telling else "it said nothing"
        return migrations.Failure(0, migrations.LOCK_NOT_AVAILABLE if migrators.LOCK_TIMEOUT.search(said) else "", message)
