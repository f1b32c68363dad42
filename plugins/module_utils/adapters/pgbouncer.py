# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PgBouncer, by psql on its admin console: which of its databases lead to ours, and PAUSE and RESUME of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import postgres
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.pgurl import PgUrl

_FIELD = "\x1f"


class Console:
    """The admin console of one PgBouncer."""

    def __init__(self, clients: postgres.Clients) -> None:
        self._clients = clients

    @property
    def location(self) -> str:
        """Return where it is, for messages."""
        return self._clients.url.location()

    @contextmanager
    def session(self, seconds: float) -> Iterator[postgres.Session]:
        """Hold the console open for at most ``seconds``."""
        words = [self._clients.tool("psql"), "-qAX", "-F", _FIELD, "-P", "footer=off", "-v", "ON_ERROR_STOP=0", "-d", f"service={postgres.LIVE}"]
        session = postgres.Session(words, self._clients.environment(postgres.LIVE), self._clients.folder, postgres.Deadline(seconds), self._clients.url)
        try:
            yield session
        except SluiceError as error:
            raise SluiceError(error.message.replace("PostgreSQL at", "PgBouncer at", 1), error.remedy, **error.facts) from error
        finally:
            session.close()

    def run(self, command: str, seconds: float = 5.0) -> list[dict[str, str]]:
        """Give one command and return its rows, by the names of their columns: these differ between versions.

        :raises SluiceError: PgBouncer refused it, is not there, or took longer than ``seconds``.
        """
        with self.session(seconds) as session:
            lines = session.execute(command)
        names = lines[0].split(_FIELD) if lines else []
        return [dict(zip(names, line.split(_FIELD))) for line in lines[1:]]


class Pools:
    """Every PgBouncer's databases that lead to one of ours."""

    def __init__(self, consoles: Sequence[Console], url: PgUrl) -> None:
        self._consoles = consoles
        self._url = url

    def names(self, console: Console, paused: bool | None = None) -> list[str]:
        """Return the names by which clients of one PgBouncer reach our database."""
        rows = [row for row in console.run("SHOW DATABASES") if row["database"] == self._url.database and row["port"] in ("", "0", self._url.port or "5432")]
        return [row["name"] for row in rows if paused is None or paused == (row["paused"] == "1")]

    def check(self) -> list[int]:
        """Return the server's process ids of all pooled connections to our database.

        :raises SluiceError: a PgBouncer has no database that leads to ours.
        """
        pids = []
        for console in self._consoles:
            names = self.names(console)
            if not names:
                raise SluiceError(
                    f"PgBouncer at {console.location} has no database that leads to {self._url.database} on port {self._url.port or '5432'}.",
                    "Check restore_pgbouncer_vars: it names the variables with the URLs of the consoles whose clients use this database.",
                )
            pids += [int(row["remote_pid"]) for row in console.run("SHOW SERVERS") if row["database"] in names and row.get("remote_pid", "0").isdecimal()]
        return pids

    @contextmanager
    def held(self, seconds: float) -> Iterator[list[str]]:
        """Let running transactions end and hold new ones back for the length of the block; says what was paused.

        :raises SluiceError: transactions did not end within ``seconds``; everything goes on as before.
        """
        with ExitStack() as stack:
            # Opened before, so that nobody is held while a psql starts; and apart, since one that waits in PAUSE cannot resume.
            ways = [
                (console, stack.enter_context(console.session(seconds + 60)), stack.enter_context(console.session(seconds + 60)), self.names(console))
                for console in self._consoles
            ]
            begun: list[tuple[postgres.Session, str]] = []
            try:
                for console, waiter, resumer, names in ways:
                    waiter.grant(seconds)
                    for name in names:
                        begun.append((resumer, name))
                        self._pause(console, waiter, name, seconds)
                yield [f"{name} of PgBouncer at {console.location}" for console, _waiter, _resumer, names in ways for name in names]
            finally:
                for resumer, name in begun:
                    resumer.execute(f"RESUME {_quoted(name)}")

    @staticmethod
    def _pause(console: Console, waiter: postgres.Session, name: str, seconds: float) -> None:
        try:
            waiter.execute(f"PAUSE {_quoted(name)}")
        except SluiceError as error:
            raise SluiceError(
                f"{name} of PgBouncer at {console.location} could not be paused within {seconds:g} s, so nothing was swapped and its clients go on:"
                f" {error.message}",
                "End the long transaction, or raise restore_pause_seconds; pools in session mode can be paused only when their clients leave.",
            ) from error

    def resume(self) -> list[str]:
        """Let all held clients go on, and return what was paused."""
        done = []
        for console in self._consoles:
            for name in self.names(console, paused=True):
                console.run(f"RESUME {_quoted(name)}")
                done.append(f"{name} of PgBouncer at {console.location}")
        return done

    def paused(self) -> list[str]:
        """Return what is paused now."""
        return [f"{name} of PgBouncer at {console.location}" for console in self._consoles for name in self.names(console, paused=True)]


@contextmanager
def pools(params: Mapping[str, Any], url: PgUrl) -> Iterator[Pools]:
    """Reach the consoles that ``pgbouncer_vars`` names in the environment file.

    :raises SluiceError: a URL is missing, or the app's own URL leads to PgBouncer.
    """
    with ExitStack() as stack:
        consoles = []
        for variable in params["pgbouncer_vars"]:
            console = postgres.read_url(params["env_file"], variable)
            if (console.host, console.port or "6432") == (url.host, url.port or "5432"):
                raise SluiceError(
                    f"{params['env_var']} leads to PgBouncer itself, and a database cannot be swapped through a pool.",
                    "Set another variable to the URL of PostgreSQL, and name it in app_database_var.",
                )
            consoles.append(Console(stack.enter_context(postgres.connect(console, f"restore:{params['app']}", params["client_directory"]))))
        yield Pools(consoles, url)


def _quoted(name: str) -> str:
    """Return a database's name as the console reads it: it knows double quotes, and no way to write one within."""
    if re.search(r'["\\]', name):
        raise SluiceError(f"PgBouncer's console cannot name the database {name}.", "Give it a plain name in the [databases] section.")
    return f'"{name}"'
