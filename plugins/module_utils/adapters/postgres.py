# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL, by its own clients: a private connection file, one long session, and jobs that are watched."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, cast

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import process
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.fence import claim
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import locked, make_folder, read_text
from ansible_collections.sluice.deploy.plugins.module_utils.core import dotenv, migrations, pgurl
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.migrations import literal
from ansible_collections.sluice.deploy.plugins.module_utils.core.pgurl import PgUrl
from ansible_collections.sluice.deploy.plugins.module_utils.core.secret import scrub

LIVE, COPY = "live", "copy"
_CONNECT_TIMEOUT = 10
_PREFIX = "sluice-pg-"
WORK = "work"
_KINDS = ("backup", "drill", "rehearsal", "migrate", "restore")


class Deadline:
    """The end of the time a module has for everything it does."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left.

        :raises SluiceError: there are none.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise SluiceError(
                f"The work was not done within {self._seconds:g} s and was stopped.",
                "Raise timeout, or look what holds the database up.",
                timeout=self._seconds,
            )
        return left


def read_url(env_file: str, variable: str) -> PgUrl:
    """Return the database URL that an environment file holds.

    :raises SluiceError: file or variable is not there, or the value is no database URL; the value is never shown.
    """
    text = read_text(env_file)
    if text is None:
        raise SluiceError(f"The environment file {env_file} is not there.", "Check env_file.", path=env_file)
    url = dotenv.parse(text).get(variable, "")
    if not url:
        raise SluiceError(f"{env_file} does not set {variable}.", f"Set {variable} to the URL of the database.", path=env_file)
    try:
        return pgurl.parse(url)
    except SluiceError as error:
        raise SluiceError(f"{variable} in {env_file}: {error.message}", error.remedy, path=env_file) from error


@contextmanager
def connect(url: PgUrl, what: str, directory: str | None = None, copy: str | None = None) -> Iterator[Clients]:
    """Write how to connect into a private folder, and remove it at the end.

    :param what: what the connection is for; servers show it as the application name.
    :param directory: the folder of psql, pg_dump and pg_restore; None to search the path.
    :param copy: name of a second database on the same server.
    """
    _sweep()
    folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    before = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        settings = pgurl.libpq_settings(url)
        _private(os.path.join(folder, "pg_service.conf"), _service(LIVE, settings) + (_service(COPY, {**settings, "dbname": copy}) if copy else ""))
        # One folder holds one server's password, so the other columns can stay open.
        _private(os.path.join(folder, "pgpass"), "*:*:*:*:" + re.sub(r"([\\:])", r"\\\1", url.password.reveal()) + "\n")
        yield Clients(url, what, directory, folder)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _sweep() -> None:
    """Remove the private folders of runs that were killed."""
    for name in os.listdir(tempfile.gettempdir()):
        path = os.path.join(tempfile.gettempdir(), name)
        found = re.match(re.escape(_PREFIX) + r"(\d+)-", name)
        if found and not _alive(int(found.group(1))):
            with suppress(OSError):
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    # Another container's process has no number here, and still holds its lock.
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.fstat(handle).st_uid == os.geteuid():
                        shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(handle)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _service(name: str, settings: Mapping[str, str]) -> str:
    return f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in settings.items())


def _private(path: str, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)


def application_name(what: str, suffix: str) -> str:
    """Return the application name, which PostgreSQL would cut after 63 bytes."""
    return f"sluice:{what}"[:50] + f":{suffix}"


class Clients:
    """psql, pg_dump and pg_restore with a connection; no password is in their arguments or environment."""

    def __init__(self, url: PgUrl, what: str, directory: str | None, folder: str) -> None:
        self.url = url
        self.what = what
        self.folder = folder
        self._directory = directory

    def tool(self, name: str) -> str:
        """Return the path of a client program.

        :raises SluiceError: it is not there.
        """
        path = shutil.which(name, path=self._directory)
        if not path:
            raise SluiceError(f"{name} is not in {self._directory or 'the path'}.", "Install the PostgreSQL clients, or name their folder in client_directory.")
        return path

    def major(self, name: str) -> int:
        """Return the major version of a client program."""
        said = process.run([self.tool(name), "--version"], timeout=10).stdout
        found = re.search(r"\(PostgreSQL\) (\d+)", said)
        if not found:
            raise SluiceError(
                f"{self.tool(name)} does not tell its version.", "Name the folder of the PostgreSQL clients in client_directory.", stdout=said[-500:]
            )
        return int(found.group(1))

    def compresses(self, method: str) -> bool:
        """Tell whether pg_dump was built with a compression method; it says so before it connects."""
        if self.major("pg_dump") < 16:
            return method in ("gzip", "none")
        said = process.run(
            [self.tool("pg_dump"), "-Fd", f"-Z{method}", "-f", os.path.join(self.folder, "probe"), "-h", self.folder], timeout=10, ok=(0, 1)
        ).stderr
        shutil.rmtree(os.path.join(self.folder, "probe"), ignore_errors=True)
        return "compression" not in said

    def environment(self, service: str, suffix: str = "session") -> dict[str, str]:
        """Return what a client needs in its environment."""
        return process.clean_environment(
            {
                "PGSERVICEFILE": os.path.join(self.folder, "pg_service.conf"),
                "PGSERVICE": service,
                "PGPASSFILE": os.path.join(self.folder, "pgpass"),
                "PGAPPNAME": application_name(self.what, suffix),
                "PGCONNECT_TIMEOUT": str(_CONNECT_TIMEOUT),
                "PGCLIENTENCODING": "UTF8",
            }
        )

    def start(self, tool: str, arguments: Sequence[str], service: str = LIVE, stdin: str | None = None) -> Job:
        """Start a client program beside us."""
        argv = [self.tool(tool), *arguments]
        return Job(argv, self.environment(service, WORK), self.folder, stdin, self.url.secrets())

    @contextmanager
    def session(self, deadline: Deadline, service: str = LIVE) -> Iterator[Session]:
        """Hold one connection open.

        :raises SluiceError: the server does not answer, or does not let us in.
        """
        session = Session(
            [self.tool("psql"), "-qAtX", "-v", "ON_ERROR_STOP=0", "-d", f"service={service}"], self.environment(service), self.folder, deadline, self.url
        )
        try:
            session.execute("SET lock_timeout = '10s'; SET row_security = off")
            yield session
        finally:
            session.close()


class Job:
    """A client program that runs beside us, with its errors in a private file."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], folder: str, stdin: str | None, secrets: Sequence[str], cwd: str | None = None) -> None:
        """Start it.

        :param cwd: for a tool that is none of PostgreSQL's: the folder it runs in. Its output counts as errors, and it ends with all that it started.
        """
        self._argv = list(argv)
        self._group = cwd is not None
        self._secrets = secrets
        self._started = time.monotonic()
        self._stderr = tempfile.TemporaryFile("w+", dir=folder, encoding="utf-8", errors="replace")  # noqa: SIM115
        source = tempfile.TemporaryFile("w+", dir=folder, encoding="utf-8")  # noqa: SIM115
        source.write(stdin or "")
        source.seek(0)
        # A file, not a pipe: a job that does not read cannot hold us up, and nothing is kept in memory.
        with source:
            # run_command waits for the end; this job is watched while it runs.
            # pylint: disable-next=ansible-bad-function
            self._process = subprocess.Popen(
                self._argv,
                env=dict(env),
                stdin=source,
                stdout=self._stderr if cwd else subprocess.DEVNULL,
                stderr=self._stderr,
                cwd=cwd,
                start_new_session=self._group,
            )

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()
        self._stderr.close()

    def wait(self, deadline: Deadline, watch: Callable[[], None] | None = None) -> int:
        """Wait for the end, calling ``watch`` ten times a second, and return the exit code; an error in ``watch`` stops the job."""
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    return self._process.wait(timeout=min(0.1, deadline.left()))
                if watch:
                    watch()
        finally:
            self.stop()

    def stop(self) -> None:
        """End the program: asked first, so that it can tell the server and its own workers, then killed."""
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._process.wait()

    def _signal(self, number: int) -> None:
        if self._group:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
        else:
            self._process.send_signal(number)

    @property
    def pid(self) -> int:
        """Return the number of the process, which is that of its group too when it is a tool's."""
        return self._process.pid

    def seconds(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._started

    def errors(self) -> str:
        """Return the end of what the program wrote as errors, without secrets."""
        self._stderr.seek(0)
        return scrub(self._stderr.read()[-8000:], self._secrets).strip()

    def failed(self, rc: int, what: str, remedy: str = "") -> SluiceError:
        """Return the error to raise for an exit code."""
        said = self.errors()
        return SluiceError(
            f"{what}: {os.path.basename(self._argv[0])} ended with exit code {rc}: {said[-1500:] or 'it said nothing'}", remedy, rc=rc, stderr=said
        )


class Session:
    """One psql that stays: it keeps a snapshot or a lock, and answers questions."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], folder: str, deadline: Deadline, url: PgUrl) -> None:
        self._deadline = deadline
        self._url = url
        self._mark = f"sluice-{os.urandom(8).hex()}"
        self._buffer = b""
        self._stderr = tempfile.TemporaryFile("w+", dir=folder, encoding="utf-8", errors="replace")  # noqa: SIM115
        # run_command waits for the end; this program stays and is talked with.
        # pylint: disable-next=ansible-bad-function
        self._process = subprocess.Popen(list(argv), env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr)

    def grant(self, seconds: float) -> None:
        """Give the session time of its own to clean up."""
        self._deadline = Deadline(seconds)

    def close(self) -> None:
        """End the session; the server lets go of its locks and its snapshot."""
        if self._process.poll() is None:
            with suppress(OSError):
                if self._process.stdin:
                    self._process.stdin.close()
            try:
                self._process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                # psql passes an interrupt on to the server, so that the query ends there too.
                self._process.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(timeout=1)
                self._process.kill()
                self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._stderr.close()

    def execute(self, sql: str) -> list[str]:
        """Run one statement and return its lines.

        :raises SluiceError: the server refused it, is gone, or did not answer in time.
        """
        self._send(f"{sql}\n;\n\\echo {self._mark} :ERROR :SQLSTATE\n\\if :ERROR\n\\echo :LAST_ERROR_MESSAGE\n\\endif\n\\echo {self._mark}\n")
        lines = self._until(lambda line: line.startswith(f"{self._mark} "))
        status = lines.pop().split()
        message = "\n".join(self._until(lambda line: line == self._mark)[:-1])
        if status[1] == "true":
            remedy = "Somebody holds a lock on a table; let them finish, then run this again." if status[2] == migrations.LOCK_NOT_AVAILABLE else ""
            raise SluiceError(scrub(f"PostgreSQL at {self._url.location()} refused: {message}.", self._url.secrets()), remedy, sqlstate=status[2])
        return lines

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Run a SELECT and return its rows."""
        rows: list[dict[str, Any]] = json.loads("\n".join(self.execute(f"SELECT coalesce(json_agg(answer), '[]') FROM ({sql}\n) AS answer")))
        return rows

    def value(self, sql: str) -> Any:
        """Run a SELECT and return the first column of its one row, or None."""
        return next((next(iter(row.values())) for row in self.query(sql)), None)

    def _send(self, text: str) -> None:
        try:
            stdin = cast(IO[bytes], self._process.stdin)
            stdin.write(text.encode())
            stdin.flush()
        except OSError as error:
            raise self._gone() from error

    def _until(self, last: Callable[[str], bool]) -> list[str]:
        lines: list[str] = []
        while not lines or not last(lines[-1]):
            while b"\n" not in self._buffer:
                self._read_more()
            line, _newline, self._buffer = self._buffer.partition(b"\n")
            lines.append(line.decode(errors="replace"))
        return lines

    def _read_more(self) -> None:
        stdout = cast(IO[bytes], self._process.stdout)
        readable, _writable, _broken = select.select([stdout], [], [], self._deadline.left())
        if readable:
            chunk = os.read(stdout.fileno(), 1 << 16)
            if not chunk:
                raise self._gone()
            self._buffer += chunk

    def _gone(self) -> SluiceError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=2)
        self._stderr.seek(0)
        said = scrub(self._stderr.read()[-2000:].strip(), self._url.secrets()).replace("psql: error: ", "")
        return SluiceError(
            f"There is no connection to PostgreSQL at {self._url.location()}: {said or 'psql ended without a word'}",
            "Check that the server runs, and that host, port, user and password in the URL are right.",
            stderr=said,
        )


def take_lock(session: Session, app: str, database: str, wait: float) -> None:
    """Take the lock under which backup, rehearsal and migration of an app exclude each other; it ends with the session.

    It is asked for again and again instead of waited for: a waiting session would make another's CREATE INDEX CONCURRENTLY fail.

    :raises SluiceError: somebody else holds it; with who.
    """
    key = migrations.lock_key(app, database)
    end = time.monotonic() + wait
    while not session.value(f"SELECT pg_try_advisory_lock({key}) AS taken"):
        if time.monotonic() >= end:
            who = session.query(
                "SELECT a.pid, a.application_name, a.backend_start FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
                " WHERE l.locktype = 'advisory' AND l.granted"
                f" AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND ((l.classid::bigint << 32) | l.objid::bigint) = {key}"
            )
            shown = (
                ", ".join(f"pid {row['pid']} ({row['application_name'] or 'no application name'}) since {row['backend_start']}" for row in who) or "somebody"
            )
            raise SluiceError(f"Another run works on the database of {app}: {shown}; waited {wait:g} s.", "Let it finish, or end that session.", holders=who)
        time.sleep(min(0.5, max(0.05, wait / 10)))


def end_orphans(session: Session, app: str) -> int:
    """End the server's side of jobs whose module was killed, wait until they are gone, and return how many; only for the holder of the lock."""
    names = ", ".join(literal(application_name(f"{kind}:{app}", WORK)) for kind in _KINDS)
    end = (
        "SELECT pid, pg_terminate_backend(pid) AS ended FROM pg_stat_activity"
        f" WHERE application_name IN ({names}) AND usename = current_user AND datname = current_database()"
    )
    ended: set[int] = set()
    while rows := session.query(end):
        ended.update(row["pid"] for row in rows)
        time.sleep(0.05)
    return len(ended)


@contextmanager
def at_work(kind: str, url: PgUrl, params: Mapping[str, Any], check: bool, copy: str | None = None) -> Iterator[tuple[Clients, Session, Deadline]]:
    """Connect for one module: with the fence passed, the lock taken and orphans ended, unless it only checks.

    :param kind: one of ``_KINDS``.
    """
    deadline = Deadline(params["timeout"])
    if params["fence"] is not None and not check:
        make_folder(params["state_dir"], 0o700)
        with locked(os.path.join(params["state_dir"], ".lock")):
            claim(params["state_dir"], params["fence"])
    with connect(url, f"{kind}:{params['app']}", params["client_directory"], copy) as clients, clients.session(deadline) as session:
        # A standby can be dumped, and that is all.
        if kind != "backup" and session.value("SELECT pg_is_in_recovery() AS standby"):
            raise SluiceError(f"The PostgreSQL at {url.location()} is a standby, which changes nothing.", "Name the primary in the URL.")
        if not check:
            take_lock(session, params["app"], url.database, params["lock_wait"])
            end_orphans(session, params["app"])
        yield clients, session, deadline


def argument_spec(**more: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that every module of the database has, and ``more``."""
    return {
        "env_file": {"type": "path", "required": True},
        "env_var": {"type": "str", "default": "DATABASE_URL"},
        "app": {"type": "str", "required": True},
        "client_directory": {"type": "path"},
        "lock_wait": {"type": "float", "default": 15.0},
        "timeout": {"type": "int", "default": 1800},
        "fence": {"type": "int"},
        "state_dir": {"type": "path"},
        **more,
    }
