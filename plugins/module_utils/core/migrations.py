# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ordered SQL migrations: which files there are, which of them ran, which are due, and which must not run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

_FILE = re.compile(r"(?P<number>\d{4})_(?P<words>[a-z0-9]+(?:[_-][a-z0-9]+)*)\.sql\Z", re.IGNORECASE)
_TABLE = re.compile(r"[a-z_][a-z0-9_]{0,62}(?:\.[a-z_][a-z0-9_]{0,62})?\Z")
LOCK_NOT_AVAILABLE = "55P03"

_ERROR = re.compile(r"^psql:[^\n]*?:(?P<line>\d+): (?:ERROR|FATAL):\s+(?P<state>[0-9A-Z]{5}): (?P<message>[^\n]*)", re.MULTILINE)
# Comments, strings, quoted names and dollar-quoted bodies: what stands in them is no statement.
_OPAQUE = re.compile(
    r"--[^\n]*|/\*.*?\*/|\bE'(?:\\.|''|[^'\\])*'|'(?:''|[^'])*'|\"(?:\"\"|[^\"])*\"|(?P<tag>\$(?:[A-Za-z_]\w*)?\$).*?(?P=tag)", re.DOTALL | re.IGNORECASE
)
_CONTROL = frozenset({"begin", "start", "commit", "end", "rollback", "abort", "prepare transaction"})


@dataclass(frozen=True)
class Migration:
    """One file: its number, its name without ``.sql``, the SHA-256 of its bytes, and its text."""

    number: int
    name: str
    sha256: str
    sql: str


@dataclass(frozen=True)
class Applied:
    """One row of the version table."""

    number: int
    name: str
    sha256: str


def arrange(files: Mapping[str, bytes]) -> tuple[Migration, ...]:
    """Return the migrations of a folder in their order.

    :param files: name and bytes of each ``.sql`` file.
    :raises SluiceError: a name is misspelt, a number is there twice or missing, a file cannot run in one transaction.
    """
    found = sorted((_migration(name, content) for name, content in files.items()), key=lambda migration: (migration.number, migration.name))
    for before, after in zip(found, found[1:]):
        if before.number == after.number:
            raise SluiceError(f"Two migrations have the number {after.number:04d}: {before.name} and {after.name}.", "Give the later one the next free number.")
        if before.number + 1 != after.number:
            missing = _span(before.number + 1, after.number - 1)
            raise SluiceError(f"Between {before.name} and {after.name} the migration {missing} is missing.", "Put it back, or number the files without gaps.")
    return tuple(found)


def _span(first: int, last: int) -> str:
    return f"{first:04d}" if first == last else f"{first:04d} to {last:04d}"


def _migration(file: str, content: bytes) -> Migration:
    match = _FILE.match(file)
    if not match:
        raise SluiceError(f"{file} is not named like a migration.", "Name it with four digits and words, such as 0007_add_email.sql.")
    try:
        sql = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SluiceError(f"{file} is not UTF-8.", "Save it as UTF-8.") from error
    _refuse_unsafe(file, sql)
    return Migration(int(match.group("number")), file[:-4], hashlib.sha256(content).hexdigest(), sql)


def _refuse_unsafe(file: str, sql: str) -> None:
    """Refuse what would leave the file's one transaction: its own COMMIT, or a command of psql."""
    bare = _OPAQUE.sub(lambda match: " " if match.group().startswith(("--", "/*")) else " ? ", sql)
    if "\\" in bare:
        raise SluiceError(f"{file} holds a backslash command of psql, which would run outside the database.", "Write plain SQL.")
    if re.search(r"\bbegin\s+atomic\b", bare, re.IGNORECASE):
        return
    for statement in bare.split(";"):
        words = statement.lower().split()
        if words and (words[0] in _CONTROL or " ".join(words[:2]) in _CONTROL):
            raise SluiceError(
                f"{file} holds {words[0].upper()}, but every migration already runs in one transaction with its version row.",
                "Remove the transaction commands from the file.",
            )


def pending(files: Sequence[Migration], applied: Iterable[Applied]) -> tuple[Migration, ...]:
    """Return the migrations that are due.

    :raises SluiceError: an applied file was edited, renamed or is missing, or a file was slipped in below an applied one.
    """
    by_number = {migration.number: migration for migration in files}
    done = sorted(applied, key=lambda row: row.number)
    problems = []
    for row in done:
        file = by_number.get(row.number)
        if file is None:
            problems.append(f"{row.name} was applied and its file is missing")
        elif file.name != row.name:
            problems.append(f"{row.name} was applied and its file is now named {file.name}")
        elif file.sha256 != row.sha256:
            problems.append(f"{row.name} was applied and its file was edited since ({row.sha256[:12]} then, {file.sha256[:12]} now)")
    last = done[-1] if done else None
    known = {row.number for row in done}
    problems += [
        f"{file.name} is new but stands below the applied {last.name}" for file in files if last and file.number < last.number and file.number not in known
    ]
    if problems:
        raise SluiceError(
            f"The migration files and the database disagree: {'; '.join(problems)}.",
            "Restore the applied files byte for byte, and put changes into a new file with the next number.",
            problems=problems,
        )
    return tuple(file for file in files if file.number not in known)


def heads(applied: Iterable[Applied]) -> list[str]:
    """Return the name of the newest applied migration, as a list: other tools can have several heads."""
    newest = max(applied, key=lambda row: row.number, default=None)
    return [newest.name] if newest else []


def check_table(name: str) -> str:
    """Return the name of the version table when it is one.

    :raises SluiceError: it is not a plain name, with or without a schema.
    """
    if not _TABLE.match(name):
        raise SluiceError(
            f"{name!r} cannot be the version table.", "Use small letters, digits and underscores, such as sluice_migrations or ops.sluice_migrations."
        )
    return name


def lock_key(app: str, database: str) -> int:
    """Return the advisory lock of an app on a database, as PostgreSQL's signed 64-bit number."""
    digest = hashlib.sha256(f"sluice\0{app}\0{database}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def literal(value: str) -> str:
    """Return a text as an SQL literal that means the same whatever ``standard_conforming_strings`` says."""
    if "\0" in value:
        raise SluiceError("A text with a NUL character cannot be sent to PostgreSQL.")
    return "E'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return a name as a quoted SQL identifier."""
    if not name or "\0" in name:
        raise SluiceError("An empty name, or one with a NUL character, names nothing in PostgreSQL.")
    return '"' + name.replace('"', '""') + '"'


def script(migration: Migration, table: str, release_id: str, lock_timeout_ms: int, statement_timeout_s: int) -> str:
    """Return what psql runs in one transaction: the file and its version row.

    The settings stand on the file's first line, so the line numbers in an error are those of the file.

    :param table: the version table, with its schema, quoted: the file may change the search path.
    """
    return (
        f"SET LOCAL lock_timeout = {lock_timeout_ms}; SET LOCAL statement_timeout = {statement_timeout_s * 1000}; {migration.sql}\n;\n"
        f"CREATE TABLE IF NOT EXISTS {table} (number integer PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL,"
        f" applied_at timestamptz NOT NULL DEFAULT now(), release_id text);\n"
        f"INSERT INTO {table} (number, name, sha256, release_id) VALUES"
        f" ({migration.number}, {literal(migration.name)}, {literal(migration.sha256)}, {literal(release_id)});\n"
    )


@dataclass(frozen=True)
class Failure:
    """What psql said last: the line in the file, the SQLSTATE and the message without its details, which may show data."""

    line: int
    state: str
    message: str


def failure(stderr: str) -> Failure:
    """Return the first error in psql's verbose output."""
    match = _ERROR.search(stderr)
    if not match:
        return Failure(0, "", (stderr.strip().splitlines() or ["psql said nothing"])[-1])
    return Failure(int(match.group("line")), match.group("state"), match.group("message"))


def retry_delay(found: Failure, attempt: int, retries: int, chance: float) -> float | None:
    """Return the seconds to wait before the next attempt, or None when there is to be none.

    Only a lock that was not granted is tried again: the transaction is rolled back then, and time can help.

    :param attempt: how many attempts were made.
    :param chance: a random number from 0 to 1, so that two runs do not meet again.
    """
    if found.state != LOCK_NOT_AVAILABLE or attempt > retries:
        return None
    return 1.0 + 0.9 * chance


def name_blockers(blockers: Sequence[Mapping[str, object]]) -> str:
    """Return who held the lock, in words; never what they were running, which may show data."""
    if not blockers:
        return "nobody was seen holding the lock"
    return "; ".join(
        f"blocked by pid {who['pid']} ({who.get('application_name') or 'no application name'}, {who.get('state') or 'state not visible'},"
        f" its last query began {who.get('query_start') or 'at a time not visible'})"
        for who in blockers
    )
