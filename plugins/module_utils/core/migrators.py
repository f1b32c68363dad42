# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tools that migrate: what each is asked, how its answers are read, and in which order it takes migrations back. A table, no tool's code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

SQL_TOOLS = ("sql", "supabase")
LOCK_TIMEOUT = re.compile(r"55P03|lock timeout|LockNotAvailable|lock_not_available", re.IGNORECASE)
_EVERY_LINE = r"^(\S+)\s*$"


@dataclass(frozen=True)
class Ask:
    """A question to a tool.

    :param words: its arguments.
    :param line: the pattern of a line that answers; group 1 is the answer.
    :param after: the pattern of the line behind which answers stand; the next heading (a line that begins with ``until``) ends them.
    :param newest_first: whether the answers come in that order.
    """

    words: tuple[str, ...]
    line: str = _EVERY_LINE
    after: str = ""
    until: str = ""
    newest_first: bool = False
    ok: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Tool:
    """A tool, as arguments. ``{name}`` in them is one migration, ``{app}`` and ``{own}`` its parts, ``{from}`` the one before it,
    ``{to}`` where to go back to.

    :param program: the words every call begins with; a path with a slash is one below the folder it runs in.
    :param current: what is applied.
    :param pending: what is due, in order.
    :param heads: the newest migrations among the files; more than one is refused.
    :param up: with ``{name}`` it is called once for each that is due; without, once for all.
    :param down: with ``{name}`` called for each, the newest first; with ``{app}`` for each app; with ``{to}`` once; empty when the tool cannot go back.
    :param base: what ``{to}`` is for going back to before the first.
    :param sql: what prints the SQL of one migration, or the path of its file when it begins with ``file:``.
    :param whole: whether ``current`` lists every applied migration, and not only the newest.
    """

    program: tuple[str, ...]
    current: Ask
    pending: Ask
    up: tuple[str, ...]
    down: tuple[str, ...] = ()
    heads: Ask | None = None
    base: str = ""
    sql: tuple[str, ...] = ()
    whole: bool = True


TOOLS: Mapping[str, Tool] = {
    "alembic": Tool(
        program=("alembic",),
        # `current` says only where it is, and exits 0 also when behind; `heads` is what there is.
        current=Ask(("current",), r"^(\w+)(?: \(.*\))?(?: \(.*\))?$"),
        pending=Ask(("history", "-r", "current:heads"), r"^\S.* -> (\w+)(?: \(.*?\))*, ", newest_first=True),
        heads=Ask(("heads",), r"^(\w+) (?:\([\w ]+\) )?\(head\)"),
        up=("upgrade", "{name}"),
        down=("downgrade", "{to}"),
        base="base",
        sql=("upgrade", "{from}:{name}", "--sql"),
        whole=False,
    ),
    "django": Tool(
        program=("python3", "manage.py"),
        current=Ask(("showmigrations", "--plan"), r"^\[X\]\s+(\S+)"),
        pending=Ask(("showmigrations", "--plan"), r"^\[ \]\s+(\S+)"),
        up=("migrate", "--no-input", "{app}", "{own}"),
        down=("migrate", "--no-input", "{app}", "{to}"),
        base="zero",
        sql=("sqlmigrate", "{app}", "{own}"),
    ),
    "knex": Tool(
        program=("node_modules/.bin/knex",),
        current=Ask(("migrate:list",), r"^(\S+\.[cm]?[jt]s)\b", r"^Found \d+ Completed", r"^(?:Found|No) .*Pending"),
        pending=Ask(("migrate:list",), r"^(\S+\.[cm]?[jt]s)\b", r"^Found \d+ Pending", r"^$"),
        up=("migrate:up", "{name}"),
        down=("migrate:down", "{name}"),
    ),
    "prisma": Tool(
        program=("node_modules/.bin/prisma",),
        # It lists what is due and nothing else, and says so with exit code 1.
        current=Ask((), ""),
        pending=Ask(("migrate", "status"), r"^(\S+)\s*$", r"^Following migrations? ha(?:s|ve) not yet been applied", r"^(?:$|To apply)", ok=(0, 1)),
        up=("migrate", "deploy"),
        sql=("file:prisma/migrations/{name}/migration.sql",),
    ),
    "command": Tool(program=(), current=Ask(()), pending=Ask(()), up=()),
}
# Prisma's own table is the only place that lists what it applied.
PRISMA_APPLIED = (
    "SELECT migration_name AS name FROM _prisma_migrations WHERE finished_at IS NOT NULL AND rolled_back_at IS NULL ORDER BY started_at, migration_name"
)
# These it runs again, and does not list as pending.
PRISMA_TAKEN_BACK = "SELECT DISTINCT migration_name AS name FROM _prisma_migrations WHERE rolled_back_at IS NOT NULL"
# It neither lists nor runs anything as long as one of these is there.
PRISMA_FAILED = "SELECT migration_name AS name FROM _prisma_migrations WHERE finished_at IS NULL AND rolled_back_at IS NULL ORDER BY started_at"
# What `prisma migrate resolve --rolled-back` does, without a program that may be missing.
PRISMA_SETTLE = "UPDATE _prisma_migrations SET rolled_back_at = now() WHERE finished_at IS NULL AND rolled_back_at IS NULL"
NAMES = (*SQL_TOOLS, *TOOLS)
_KEYS = ("program", "current", "pending", "heads", "up", "down", "sql")


def tool_from(name: str, commands: Mapping[str, Sequence[str]]) -> Tool:
    """Return a tool with the arguments an operator changed.

    :param commands: lists of words by ``program``, ``current``, ``pending``, ``heads``, ``up``, ``down``, ``sql``. What ``current``, ``pending`` and
        ``heads`` of the tool ``command`` print are names, one a line.
    :raises SluiceError: a key is unknown, a value is no list of words, or ``command`` lacks one it needs.
    """
    example = "Example: migrate_commands: {program: [.venv/bin/alembic]}"
    tool = TOOLS[name]
    for key, words in commands.items():
        if key not in _KEYS:
            raise SluiceError(f"migrate_commands: {key} is unknown; allowed are {', '.join(_KEYS)}.", example)
        if isinstance(words, str) or not words or not all(isinstance(word, str) and word for word in words):
            raise SluiceError(f"migrate_commands: {key} is no list of words.", example)
        given = tuple(words)
        if key in ("current", "pending", "heads"):
            tool = replace(tool, **{key: replace(getattr(tool, key) or Ask(()), words=given)})  # type: ignore[arg-type]
        else:
            tool = replace(tool, **{key: given})  # type: ignore[arg-type]
    if name == "command" and not (tool.current.words and tool.pending.words and tool.up):
        raise SluiceError(
            "migrate_tool: command needs current, pending and up in migrate_commands.",
            "Example: migrate_commands: {current: [./db, applied], pending: [./db, due], up: [./db, migrate]}",
        )
    return tool


def answers(ask: Ask, stdout: str) -> list[str]:
    """Return what a tool's output answers, the oldest first."""
    found: list[str] = []
    listening = not ask.after
    for line in stdout.splitlines():
        if ask.after and re.search(ask.after, line):
            listening = True
        elif listening and ask.until and re.search(ask.until, line) and found:
            listening = False
        elif listening and (match := re.match(ask.line, line)):
            found.append(match.group(1))
    return found[::-1] if ask.newest_first else found


def heads_of(tool: Tool, applied: Sequence[str]) -> list[str]:
    """Return the newest of what is applied: for a tool with several apps, of each; it is what the ledger keeps and ``back`` understands."""
    if not tool.whole:
        return sorted(applied)
    if "{app}" in tool.up:
        return [newest for _app, newest in sorted({name.partition(".")[0]: name for name in applied}.items())]
    return list(applied[-1:])


def check_heads(heads: Sequence[str]) -> None:
    """Refuse files with several heads: nobody knows which of them the app wants.

    :raises SluiceError: there are several.
    """
    if len(heads) > 1:
        raise SluiceError(
            f"The migrations have {len(heads)} heads: {', '.join(heads)}.", "Merge them into one, for example with `alembic merge heads`.", heads=list(heads)
        )


def words_for(words: Sequence[str], name: str = "", before: str = "", to: str = "") -> list[str]:
    """Return the arguments of one call."""
    app, _dot, own = name.partition(".")
    values = {"{name}": name, "{app}": app, "{own}": own, "{from}": before, "{to}": to}
    pattern = re.compile("|".join(re.escape(key) for key in values))
    return [pattern.sub(lambda match: values[match.group()], word) for word in words]


def check_settled(failed: Sequence[str]) -> None:
    """Refuse when the tool remembers migrations that did not come to their end: it would list nothing else as pending.

    :raises SluiceError: with the words that settle it.
    """
    if failed:
        raise SluiceError(
            f"Prisma's table says that {', '.join(failed)} began and did not end, and as long as it does, Prisma runs nothing.",
            f"See what of it is in the database. When nothing is, run: prisma migrate resolve --rolled-back {failed[0]}; when all of it is, with --applied.",
            failed=list(failed),
        )


def ups(tool: Tool, due: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return the calls that migrate, each with what it is called in messages."""
    each = any("{name}" in word or "{app}" in word for word in tool.up)
    return [(name, words_for(tool.up, name)) for name in due] if each else [(", ".join(due), words_for(tool.up))] if due else []


def backs(tool: Tool, applied: Sequence[str], wanted: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return the calls that take the database back until ``wanted`` are the newest, each with what it is called in messages.

    :param wanted: what ``heads_of`` said before the migration.
    :raises SluiceError: the tool cannot go back, or one of ``wanted`` is not applied.
    """
    if sorted(heads_of(tool, applied)) == sorted(wanted):
        return []
    if not tool.down:
        raise SluiceError("This tool cannot take a migration back.", "Restore the backup instead.")
    if tool.whole:
        strange = [name for name in wanted if name not in applied]
        if strange:
            raise SluiceError(
                f"{', '.join(strange)} is not applied, so the database cannot be taken back to it.", "Name what was recorded before the migration."
            )
    if any("{app}" in word for word in tool.down):
        kept = {name.partition(".")[0]: name for name in wanted}
        moved = [name for name in heads_of(tool, applied) if name not in wanted]
        return [(name, words_for(tool.down, name, to=kept.get(name.partition(".")[0], f".{tool.base}").partition(".")[2])) for name in reversed(moved)]
    if any("{name}" in word for word in tool.down):
        after = applied[applied.index(wanted[0]) + 1 :] if wanted else applied
        return [(name, words_for(tool.down, name)) for name in reversed(after)]
    to = wanted[0] if wanted else tool.base
    return [(f"everything after {to}", words_for(tool.down, to=to))]
