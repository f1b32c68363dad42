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
from ansible_collections.sluice.deploy.plugins.module_utils.core.sql_text import statements, strip

_TABLE = re.compile(r"[a-z_][a-z0-9_]{0,62}(?:\.[a-z_][a-z0-9_]{0,62})?\Z")
LOCK_NOT_AVAILABLE = "55P03"
NO_TRANSACTION = "-- sluice: no-transaction"

_ERROR = re.compile(r"^psql:[^\n]*?:(?P<line>\d+): (?:ERROR|FATAL):\s+(?P<state>[0-9A-Z]{5}): (?P<message>[^\n]*)", re.MULTILINE)
_CONTROL = frozenset({"begin", "start", "commit", "end", "rollback", "abort", "prepare transaction"})
_ALONE = re.compile(
    r"(?:create (?:unique )?index|drop index|reindex\b.*|refresh materialized view|alter table .* detach partition \S+) concurrently\b|^vacuum\b", re.I
)


@dataclass(frozen=True)
class Layout:
    """How a tool names its files and keeps its version table.

    :param file: the name of a file, with the groups ``number`` and ``words``.
    :param gapless: whether each number follows the one before.
    :param table: the version table when none is named.
    :param create: statements that make it; ``{table}`` stands for its name.
    :param read: the query for number, name and SHA-256, which is empty where the table keeps none.
    :param columns: the columns of a row, and ``values`` what goes in.
    """

    file: re.Pattern[str]
    example: str
    gapless: bool
    table: str
    create: str
    read: str
    columns: str
    values: str
    key: str


LAYOUTS: Mapping[str, Layout] = {
    "sql": Layout(
        re.compile(r"(?P<number>\d{4})_(?P<words>[a-z0-9]+(?:[_-][a-z0-9]+)*)\.sql\Z", re.IGNORECASE),
        "four digits and words, such as 0007_add_email.sql",
        True,
        "sluice_migrations",
        "CREATE TABLE IF NOT EXISTS {table} (number integer PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL,"
        " applied_at timestamptz NOT NULL DEFAULT now(), release_id text);\n",
        "SELECT number, name, sha256 FROM {table} ORDER BY number",
        "number, name, sha256, release_id",
        "{number}, {name}, {sha256}, {release_id}",
        "number = {number}",
    ),
    # The table of the Supabase CLI, so that both can be used in turn. Its `db push --db-url` would show the password to every user of the host.
    "supabase": Layout(
        re.compile(r"(?P<number>\d{1,18})_(?P<words>[^/]+)\.sql\Z"),
        "a time and words, such as 20260131120000_add_email.sql",
        False,
        "supabase_migrations.schema_migrations",
        "CREATE SCHEMA IF NOT EXISTS supabase_migrations; CREATE TABLE IF NOT EXISTS {table} (version text PRIMARY KEY, statements text[], name text);\n",
        "SELECT version::bigint AS number, version || coalesce('_' || name, '') AS name, '' AS sha256 FROM {table} ORDER BY 1",
        "version, name, statements",
        "{version}, {words}, ARRAY[{sql}]",
        "version = {version}",
    ),
}


@dataclass(frozen=True)
class Migration:
    """One file: its number, its name without ``.sql``, the SHA-256 of its bytes, its text, and the text that takes it back, if there is one."""

    number: int
    name: str
    sha256: str
    sql: str
    down: str | None = None


@dataclass(frozen=True)
class Applied:
    """One row of the version table."""

    number: int
    name: str
    sha256: str


def arrange(files: Mapping[str, bytes], layout: Layout = LAYOUTS["sql"]) -> tuple[Migration, ...]:
    """Return the migrations of a folder in their order.

    :param files: name and bytes of each ``.sql`` file; ``NAME.down.sql`` takes ``NAME.sql`` back.
    :raises SluiceError: a name is misspelt, a number is there twice or missing, a file cannot run in one transaction.
    """
    downs = {name[: -len(".down.sql")]: name for name in files if name.endswith(".down.sql")}
    lost = sorted(name for stem, name in downs.items() if f"{stem}.sql" not in files)
    if lost:
        raise SluiceError(f"{lost[0]} takes back a migration whose own file is missing.", "Put the migration back, or remove the file.")
    ups = {name: content for name, content in files.items() if name not in downs.values()}
    found = sorted(
        (_migration(name, content, files.get(downs.get(name[:-4], "")), layout) for name, content in ups.items()), key=lambda each: (each.number, each.name)
    )
    for before, after in zip(found, found[1:]):
        if before.number == after.number:
            raise SluiceError(
                f"Two migrations have the number {_prefix(after.name)}: {before.name} and {after.name}.", "Give the later one the next free number."
            )
        if layout.gapless and before.number + 1 != after.number:
            missing = _span(before.number + 1, after.number - 1)
            raise SluiceError(f"Between {before.name} and {after.name} the migration {missing} is missing.", "Put it back, or number the files without gaps.")
    return tuple(found)


def _prefix(name: str) -> str:
    return name.partition("_")[0]


def _span(first: int, last: int) -> str:
    return f"{first:04d}" if first == last else f"{first:04d} to {last:04d}"


def _migration(file: str, content: bytes, down: bytes | None, layout: Layout) -> Migration:
    match = layout.file.match(file)
    if not match:
        raise SluiceError(f"{file} is not named like a migration.", f"Name it with {layout.example}.")
    back = None if down is None else _text(f"{file[:-4]}.down.sql", down)
    return Migration(int(match.group("number")), file[:-4], hashlib.sha256(content).hexdigest(), _text(file, content), back)


def _text(file: str, content: bytes) -> str:
    try:
        sql = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SluiceError(f"{file} is not UTF-8.", "Save it as UTF-8.") from error
    _refuse_unsafe(file, sql)
    return sql


def in_transaction(sql: str) -> bool:
    """Tell whether a file runs in one transaction; its first line can say that it does not."""
    return sql.split("\n", 1)[0].strip().lower() != NO_TRANSACTION


def _refuse_unsafe(file: str, sql: str) -> None:
    """Refuse what would leave the file's one transaction, a command of psql, and more than one statement where there is no transaction."""
    bare = strip(sql)
    if "\\" in bare:
        raise SluiceError(f"{file} holds a backslash command of psql, which would run outside the database.", "Write plain SQL.")
    if re.search(r"\bbegin\s+atomic\b", bare, re.IGNORECASE):
        return
    parts = [statement.bare for statement in statements(sql)]
    for part in parts:
        words = part.lower().split()
        if words[0] in _CONTROL or " ".join(words[:2]) in _CONTROL:
            raise SluiceError(
                f"{file} holds {words[0].upper()}, but every migration already runs in one transaction with its version row.",
                "Remove the transaction commands from the file.",
            )
        if in_transaction(sql) and _ALONE.search(part):
            raise SluiceError(
                f"{file} holds {' '.join(words[:3]).upper()} ..., which PostgreSQL refuses inside a transaction.",
                f"Put it alone into a file whose first line is {NO_TRANSACTION}.",
            )
    if not in_transaction(sql) and len(parts) != 1:
        raise SluiceError(
            f"{file} runs outside of a transaction and holds {len(parts)} statements; a failure between them would leave it half applied.",
            "Give each statement a file of its own.",
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
        elif row.sha256 and file.sha256 != row.sha256:
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


def reversed_to(files: Sequence[Migration], applied: Iterable[Applied], wanted: Sequence[str]) -> tuple[Migration, ...]:
    """Return the applied migrations that must be taken back, the newest first, until ``wanted`` is the newest.

    :raises SluiceError: that one was never applied, or one of them has no file that takes it back.
    """
    names = [row.name for row in sorted(applied, key=lambda row: row.number)]
    if len(wanted) > 1 or (wanted and wanted[0] not in names):
        raise SluiceError(f"{', '.join(wanted)} is not applied, so the database cannot be taken back to it.", "Name a migration of the version table.")
    after = names[names.index(wanted[0]) + 1 :] if wanted else names
    by_name = {file.name: file for file in files}
    lacking = [name for name in after if name not in by_name or by_name[name].down is None]
    if lacking:
        raise SluiceError(f"{', '.join(lacking)} cannot be taken back: there is no file {lacking[0]}.down.sql.", "Restore the backup instead.")
    return tuple(by_name[name] for name in reversed(after))


def script(migration: Migration, layout: Layout, table: str, release_id: str, lock_timeout_ms: int, statement_timeout_s: int, report: str = "") -> str:
    """Return what psql runs: the file and its version row, in one transaction where the file allows it.

    The settings stand on the file's first line, so the line numbers in an error are those of the file.

    :param table: the version table, with its schema, quoted: the file may change the search path.
    :param report: statements that look at the transaction before its end.
    """
    values = {
        "number": str(migration.number),
        "version": literal(_prefix(migration.name)),
        "name": literal(migration.name),
        "words": literal(migration.name.partition("_")[2]),
        "sha256": literal(migration.sha256),
        "release_id": literal(release_id),
        "sql": literal(migration.sql),
    }
    row = f"INSERT INTO {table} ({layout.columns}) VALUES ({layout.values.format(**values)});\n"
    return _settings(migration.sql, lock_timeout_ms, statement_timeout_s) + report + layout.create.format(table=table) + row


def script_down(migration: Migration, layout: Layout, table: str, lock_timeout_ms: int, statement_timeout_s: int, report: str = "") -> str:
    """Return what psql runs to take a migration back, with its version row."""
    key = layout.key.format(number=migration.number, version=literal(_prefix(migration.name)))
    return _settings(migration.down or "", lock_timeout_ms, statement_timeout_s) + report + f"DELETE FROM {table} WHERE {key};\n"


def _settings(sql: str, lock_timeout_ms: int, statement_timeout_s: int) -> str:
    if in_transaction(sql):
        return f"SET LOCAL lock_timeout = {lock_timeout_ms}; SET LOCAL statement_timeout = {statement_timeout_s * 1000}; {sql}\n;\n"
    # A concurrent build waits for transactions and holds nobody up; cut short, it would leave an invalid index.
    wait = 0 if _ALONE.search(statements(sql)[0].bare) else lock_timeout_ms
    return f"SET lock_timeout = {wait}; SET statement_timeout = {statement_timeout_s * 1000}; {sql}\n;\nRESET lock_timeout;\n"


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
