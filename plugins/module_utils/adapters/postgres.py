# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL, by its own clients: a private connection file, one long session, and jobs that are watched."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
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
from ansible_collections.sluice.deploy.plugins.module_utils.core import backups, dotenv, migrations, pgurl
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.migrations import identifier, literal
from ansible_collections.sluice.deploy.plugins.module_utils.core.pgurl import PgUrl
from ansible_collections.sluice.deploy.plugins.module_utils.core.secret import scrub

LIVE, COPY = "live", "copy"
_CONNECT_TIMEOUT = 10
_PREFIX = "sluice-pg-"
_WORK = "work"
_KINDS = ("backup", "rehearsal", "migrate")


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


def _application(what: str, suffix: str) -> str:
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
                "PGAPPNAME": _application(self.what, suffix),
                "PGCONNECT_TIMEOUT": str(_CONNECT_TIMEOUT),
                "PGCLIENTENCODING": "UTF8",
            }
        )

    def start(self, tool: str, arguments: Sequence[str], service: str = LIVE, stdin: str | None = None) -> Job:
        """Start a client program beside us."""
        argv = [self.tool(tool), *arguments]
        return Job(argv, self.environment(service, _WORK), self.folder, stdin, self.url.secrets())

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

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], folder: str, stdin: str | None, secrets: Sequence[str]) -> None:
        self._argv = list(argv)
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
            self._process = subprocess.Popen(self._argv, env=dict(env), stdin=source, stdout=subprocess.DEVNULL, stderr=self._stderr)

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
            self._process.terminate()
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

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
    names = ", ".join(literal(_application(f"{kind}:{app}", _WORK)) for kind in _KINDS)
    end = (
        "SELECT pid, pg_terminate_backend(pid) AS ended FROM pg_stat_activity"
        f" WHERE application_name IN ({names}) AND usename = current_user AND datname = current_database()"
    )
    ended: set[int] = set()
    while rows := session.query(end):
        ended.update(row["pid"] for row in rows)
        time.sleep(0.05)
    return len(ended)


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


def hash_files(folder: str, skip: Sequence[str] = ()) -> dict[str, backups.FileFact]:
    """Return size and SHA-256 of every file below a folder, by its path there."""
    seen = {}
    for base, _folders, names in os.walk(folder):
        for name in sorted(names):
            path = os.path.join(base, name)
            relative = os.path.relpath(path, folder)
            if relative not in skip:
                digest, count = hashlib.sha256(), 0
                with open(path, "rb") as stream:
                    while block := stream.read(1 << 20):
                        digest.update(block)
                        count += len(block)
                seen[relative] = backups.FileFact(count, digest.hexdigest())
    return seen


def folder_bytes(folder: str) -> int:
    """Return the size of all files below a folder; files may come and go meanwhile."""
    total = 0
    for base, _folders, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(base, name)).st_size
    return total


def database_comment(session: Session, name: str) -> str | None:
    """Return the comment of a database, empty when it has none, or None when there is no such database."""
    sql = f"SELECT coalesce(shobj_description(oid, 'pg_database'), '') AS comment FROM pg_database WHERE datname = {literal(name)}"
    comment: str | None = session.value(sql)
    return comment


def check_may_create(session: Session) -> None:
    """Refuse early when the user may not create databases.

    :raises SluiceError: with the statement that grants it.
    """
    row = session.query("SELECT quote_ident(rolname) AS role, rolcreatedb OR rolsuper AS may FROM pg_roles WHERE rolname = current_user")[0]
    if not row["may"]:
        raise SluiceError(
            f"The database user {row['role']} may not create databases, so no rehearsal database can be made.",
            f"As a superuser, run: ALTER ROLE {row['role']} CREATEDB;",
        )


def create_copy(session: Session, name: str, comment: str) -> None:
    """Create an empty database like the one of the session: encoding, locale and settings; with a comment that marks it as ours."""
    like = session.query("SELECT to_jsonb(d) AS db, pg_encoding_to_char(encoding) AS encoding FROM pg_database d WHERE datname = current_database()")[0]
    facts = like["db"]
    words = [
        "TEMPLATE template0",
        f"ENCODING {literal(like['encoding'])}",
        f"LC_COLLATE {literal(facts['datcollate'])}",
        f"LC_CTYPE {literal(facts['datctype'])}",
    ]
    # Columns of newer versions; older ones know libc only.
    locale = facts.get("datlocale") or facts.get("daticulocale")
    if facts.get("datlocprovider") == "i":
        words.append(f"LOCALE_PROVIDER icu ICU_LOCALE {literal(locale)}")
    elif facts.get("datlocprovider") == "b":
        words.append(f"LOCALE_PROVIDER builtin BUILTIN_LOCALE {literal(locale)}")
    session.execute(f"CREATE DATABASE {identifier(name)} {' '.join(words)}")
    session.execute(f"COMMENT ON DATABASE {identifier(name)} IS {literal(comment)}")
    settings = session.query(
        "SELECT split_part(setting, '=', 1) AS name FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(setconfig) AS setting"
        " WHERE setrole = 0 AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    for setting in settings:
        # lock_timeout and row_security are ours in this session; FROM CURRENT would copy them.
        if setting["name"] not in ("lock_timeout", "row_security"):
            parameter = ".".join(identifier(part) for part in setting["name"].split("."))
            session.execute(f"ALTER DATABASE {identifier(name)} SET {parameter} FROM CURRENT")


def drop_copy(session: Session, name: str) -> bool:
    """Drop a rehearsal database with whoever is in it; True when there was one.

    :raises SluiceError: a database of that name is not a rehearsal's.
    """
    comment = database_comment(session, name)
    if comment is not None:
        backups.check_marker(name, comment)
        force = " WITH (FORCE)" if server(session)["major"] >= 13 else ""
        session.execute(f"DROP DATABASE {identifier(name)}{force}")
    return comment is not None


def restore(clients: Clients, archive: str, jobs: int, server_major: int, deadline: Deadline) -> float:
    """Restore an archive in parallel into the copy, and return the seconds it took."""
    newer = clients.major("pg_restore") >= 17 > server_major
    # From version 17 on the clients set transaction_timeout, which older servers do not know; nothing else may fail.
    arguments = ["-Fd", f"-j{jobs}", "-d", f"service={COPY}", *([] if newer else ["--exit-on-error"]), archive]
    with clients.start("pg_restore", arguments, COPY) as job:
        rc = job.wait(deadline)
        said = [line for line in job.errors().splitlines() if line.startswith("pg_restore: error:")]
        harmless = newer and rc == 1 and said and all('unrecognized configuration parameter "transaction_timeout"' in line for line in said)
        if rc and not harmless:
            raise job.failed(rc, "The backup could not be restored", "Take a new backup; do not release on this one.")
        return job.seconds()


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
        blockers.update({row["pid"]: row for row in session.query(_blockers(_application(clients.what, _WORK)))})

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


def invalid_indexes(session: Session) -> list[str]:
    """Return the indexes that exist and are not used."""
    return [
        row["name"]
        for row in session.query("SELECT indexrelid::regclass::text AS name FROM pg_index WHERE NOT (indisvalid AND indisready AND indislive) ORDER BY 1")
    ]


@contextmanager
def at_work(kind: str, url: PgUrl, params: Mapping[str, Any], check: bool, copy: str | None = None) -> Iterator[tuple[Clients, Session, Deadline]]:
    """Connect for one module: with the fence passed, the lock taken and orphans ended, unless it only checks.

    :param kind: backup, rehearsal or migrate.
    """
    deadline = Deadline(params["timeout"])
    if params["fence"] is not None and not check:
        make_folder(params["state_dir"], 0o700)
        with locked(os.path.join(params["state_dir"], ".lock")):
            claim(params["state_dir"], params["fence"])
    with connect(url, f"{kind}:{params['app']}", params["client_directory"], copy) as clients, clients.session(deadline) as session:
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
