# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every migrator: it gives way to the app, it runs under one lock, and who holds it up or waits behind it is seen."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import read_text, sync_directory, write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.postgres import WORK, Clients, Deadline, Job, Session, application_name, end_orphans
from ansible_collections.sluice.deploy.plugins.module_utils.core import migrations
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.migrations import Failure, identifier, literal

_GUARDS = ("lock_timeout", "statement_timeout")


@dataclass(frozen=True)
class Step:
    """One call of a migrator.

    :param name: the migration, as it is called in messages.
    :param start: starts it.
    :param understand: reads its last words.
    :param leftovers: says what of a failed call is left in the database; empty when nothing was applied.
    """

    name: str
    start: Callable[[], Job]
    understand: Callable[[str], Failure]
    leftovers: Callable[[], list[str]]


@dataclass(frozen=True)
class Rules:
    """How a step runs.

    :param retries: how often it is tried again after a lock was not granted, and nothing was applied.
    :param max_blocked: seconds others may wait behind it; 0 for no limit.
    """

    retries: int
    max_blocked: float = 0


class Watch:
    """Looks, ten times a second, who holds the migrator up, who waits behind it, and what it has locked."""

    def __init__(self, session: Session, clients: Clients, rules: Rules) -> None:
        self._session, self._rules = session, rules
        self._query = _SEEN.format(migrator=literal(application_name(clients.what, WORK)))
        self.blockers: dict[int, dict[str, Any]] = {}
        self._waiting: dict[int, float] = {}
        self._locks: dict[tuple[str, str], tuple[float, float]] = {}

    def __call__(self) -> None:
        """Look once.

        :raises SluiceError: others have waited too long.
        """
        rows, now = self._session.query(self._query), time.monotonic()
        self.blockers.update({row["pid"]: row for row in rows if row["kind"] == "blocker"})
        waiting = {row["pid"] for row in rows if row["kind"] == "waiting"}
        self._waiting = {pid: self._waiting.get(pid, now) for pid in waiting}
        for row in rows:
            if row["kind"] == "lock":
                first, _last = self._locks.get((row["name"], row["state"]), (now, now))
                self._locks[row["name"], row["state"]] = (first, now)
        longest = max((now - since for since in self._waiting.values()), default=0.0)
        if self._rules.max_blocked and longest > self._rules.max_blocked:
            raise Blocked(len(waiting), longest)

    def locks(self, said: str) -> list[dict[str, Any]]:
        """Return each table that was locked, how, and for how long it was seen so; 0 is less than the time between two looks."""
        found = {key: round(last - first, 1) for key, (first, last) in self._locks.items()}
        for text in re.findall(rf"{_REPORT_MARK} (\[.*\])", said):
            for row in json.loads(text):
                found.setdefault((row["table"], row["mode"]), 0.0)
        return [{"table": table, "mode": mode, "seconds": seconds} for (table, mode), seconds in sorted(found.items())]


class Blocked(SluiceError):
    """Others waited behind the migration for longer than they may."""

    def __init__(self, count: int, seconds: float) -> None:
        super().__init__(f"{count} sessions waited up to {seconds:.1f} s behind it", waiting=count, seconds=round(seconds, 1))


# Only backends that wait for a lock are asked for whom they wait: it is not free on a busy server.
_SEEN = """
WITH migrator AS (SELECT pid, wait_event_type FROM pg_stat_activity WHERE application_name = {migrator} AND datname = current_database())
SELECT 'blocker' AS kind, b.pid, b.application_name, b.state, b.query_start, NULL::text AS name FROM migrator m
  CROSS JOIN LATERAL unnest(pg_blocking_pids(m.pid)) AS blocker(pid) JOIN pg_stat_activity b ON b.pid = blocker.pid WHERE m.wait_event_type = 'Lock'
UNION ALL SELECT 'waiting', v.pid, NULL, NULL, NULL, NULL FROM pg_stat_activity v WHERE v.wait_event_type = 'Lock' AND v.datname = current_database()
  AND v.pid NOT IN (SELECT pid FROM migrator) AND pg_blocking_pids(v.pid) && ARRAY(SELECT pid FROM migrator)
UNION ALL SELECT 'lock', l.pid, NULL, l.mode, NULL, format('%I.%I', n.nspname, c.relname) FROM pg_locks l JOIN migrator m ON m.pid = l.pid
  JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE l.granted AND l.locktype = 'relation' AND c.relkind IN ('r', 'p', 'm') AND l.mode <> 'AccessShareLock' AND n.nspname !~ '^pg_'
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_REPORT_MARK = "sluice-locks"
# Stands at the end of a rehearsed transaction, where all its locks are still held: what was locked for a moment only is seen as well.
REPORT = (
    "DO $sluice$ BEGIN RAISE INFO '" + _REPORT_MARK + " %', (SELECT coalesce(json_agg(json_build_object('table', format('%I.%I', n.nspname, c.relname),"
    " 'mode', l.mode)), '[]') FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation"
    " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE l.pid = pg_catalog.pg_backend_pid() AND l.locktype = 'relation'"
    " AND c.relkind IN ('r', 'p', 'm') AND l.mode <> 'AccessShareLock' AND n.nspname !~ '^pg_'); END $sluice$;\n"
)


def run_step(step: Step, session: Session, clients: Clients, rules: Rules, deadline: Deadline, fence: Callable[[], None]) -> dict[str, Any]:
    """Run one step, again when a lock was not granted and nothing was applied; return its name, seconds, attempts and locks.

    :param session: a session on the same database; it watches.
    :param fence: called before each attempt; raises when the right to migrate is gone.
    :raises SluiceError: it failed; with what is left of it, and who blocked.
    """
    attempt, blockers = 0, dict[int, dict[str, Any]]()
    while True:
        attempt += 1
        fence()
        watch = Watch(session, clients, rules)
        with step.start() as job:
            try:
                rc = job.wait(deadline, watch)
            except BaseException as error:
                # A client that is gone does not stop what the server is doing for it.
                session.grant(30)
                with suppress(SluiceError):
                    end_orphans(session, clients.what.partition(":")[2])
                if isinstance(error, Blocked):
                    raise _stopped(step, error) from error
                raise
            seconds, said = job.seconds(), job.errors()
        if rc == 0:
            return {"name": step.name, "seconds": round(seconds, 3), "attempts": attempt, "locks": watch.locks(said)}
        blockers = watch.blockers or blockers
        found, left = step.understand(said), _left(step)
        delay = None if left else migrations.retry_delay(found, attempt, rules.retries, random.random())
        if delay is None:
            raise _failed(step, found, attempt, left, list(blockers.values()))
        time.sleep(min(delay, deadline.left()))


def _left(step: Step) -> list[str]:
    try:
        return step.leftovers()
    except SluiceError as error:
        raise SluiceError(
            f"The connection was lost in the middle of {step.name}, so whether it was applied is not known yet: {error.message}",
            "Run the migration again when the server is back: it looks first what is applied.",
            migration=step.name,
        ) from error


def _outcome(left: list[str]) -> str:
    return f"It left: {'; '.join(left[:5])}." if left else "Nothing of it was applied."


def _stopped(step: Step, error: Blocked) -> SluiceError:
    left = _left(step)
    return SluiceError(
        f"Migration {step.name} was stopped: {error.message}. {_outcome(left)}",
        "Split it so that it holds its locks for a shorter time, run it when fewer are there, or raise migrate_max_blocked.",
        migration=step.name,
        left=left,
        **error.facts,
    )


def _failed(step: Step, found: Failure, attempts: int, left: list[str], blockers: list[dict[str, Any]]) -> SluiceError:
    facts = {"migration": step.name, "line": found.line, "sqlstate": found.state, "left": left}
    if found.state == migrations.LOCK_NOT_AVAILABLE:
        return SluiceError(
            f"Migration {step.name} did not get its lock in {attempts} attempts: {migrations.name_blockers(blockers)}. {_outcome(left)}",
            "End that session or wait for it, then run the migration again.",
            blockers=[{key: row[key] for key in ("pid", "application_name", "state", "query_start")} for row in blockers],
            **facts,
        )
    where = f" at line {found.line}" if found.line else ""
    remedy = "Remove what it left, and run the migration again." if left else "Correct the file, then run the migration again."
    return SluiceError(f"Migration {step.name} failed{where}: {found.message.rstrip('.')}. {_outcome(left)}", remedy, **facts)


def check_lock_timeout(session: Session, lock_timeout_ms: int) -> None:
    """Refuse a lock timeout that lets the app be the victim of a deadlock.

    Who waits for a lock for the server's ``deadlock_timeout`` looks for a deadlock and ends itself: a migration has to give way before that.

    :raises SluiceError: it is not below.
    """
    limit = int(session.value("SELECT setting FROM pg_settings WHERE name = 'deadlock_timeout'"))
    if not 0 < lock_timeout_ms < limit:
        raise SluiceError(
            f"The lock timeout of {lock_timeout_ms} ms is not below the server's deadlock_timeout of {limit} ms,"
            " so in a deadlock a visitor's query could be the one that ends.",
            f"Set migrate_lock_timeout_ms to 1 to {limit - 1}, such as 300.",
        )


def check_lock(session: Session, app: str, database: str) -> None:
    """Refuse to go on without the lock that was taken at the beginning.

    :raises SluiceError: this very connection does not hold it.
    """
    key = migrations.lock_key(app, database)
    held = session.value(
        "SELECT count(*) AS held FROM pg_locks WHERE locktype = 'advisory' AND granted AND pid = pg_backend_pid()"
        f" AND ((classid::bigint << 32) | objid::bigint) = {key}"
    )
    if not held:
        raise SluiceError(
            f"The lock on the database of {app} is no longer held by this connection, so another run may have begun; nothing more was started.",
            "Use a URL that leads straight to the server: behind a pooler in transaction mode no lock lasts.",
        )


class Guards:
    """The timeouts on the role of the database user, so that they hold for any tool and through a pooler; and the note by which a next run undoes them."""

    def __init__(self, session: Session, state_dir: str, app: str, database: str) -> None:
        self._session, self._database = session, database
        self._path = os.path.join(state_dir, f"migrate-{migrations.lock_key(app, database) & (1 << 64) - 1:016x}.json")
        self._note: dict[str, Any] = {}

    def repair(self) -> bool:
        """Undo what a killed run left: its tool, and the timeouts; True when there was something."""
        text = read_text(self._path)
        if text is None:
            return False
        self._note = json.loads(text)
        self._end_tool()
        self._restore()
        return True

    @contextmanager
    def set(self, lock_timeout_ms: int, statement_timeout_s: int) -> Iterator[None]:
        """Set the timeouts, and put back at the end what was there before."""
        settings = self._session.query(
            "SELECT split_part(setting, '=', 1) AS name, substr(setting, strpos(setting, '=') + 1) AS value FROM pg_db_role_setting"
            " CROSS JOIN LATERAL unnest(setconfig) AS setting WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())"
            " AND setrole = (SELECT oid FROM pg_roles WHERE rolname = current_user)"
        )
        before = {row["name"]: row["value"] for row in settings if row["name"] in _GUARDS}
        self._write({"before": before})
        try:
            set_guards(self._session, self._database, lock_timeout_ms, statement_timeout_s)
            yield
        except BaseException:
            # Also when the time is up.
            self._session.grant(30)
            raise
        finally:
            self._restore()

    def tool(self, pid: int) -> None:
        """Note a tool that was started, so that the next run can end it."""
        self._write({**self._note, "pid": pid, "started": _started(pid)})

    def _write(self, note: dict[str, Any]) -> None:
        self._note = note
        write_atomic(self._path, json.dumps(note) + "\n", 0o600)

    def _restore(self) -> None:
        for name in _GUARDS:
            before = self._note["before"].get(name)
            change = f"RESET {name}" if before is None else f"SET {name} = {literal(before)}"
            self._session.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {identifier(self._database)} {change}")
        os.unlink(self._path)
        sync_directory(os.path.dirname(self._path))

    def _end_tool(self) -> None:
        pid = self._note.get("pid")
        if pid and _started(pid) == self._note["started"]:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def set_guards(session: Session, database: str, lock_timeout_ms: int, statement_timeout_s: int) -> None:
    """Give every new connection of this user to a database the timeouts."""
    for name, value in zip(_GUARDS, (lock_timeout_ms, statement_timeout_s * 1000)):
        session.execute(f"ALTER ROLE CURRENT_USER IN DATABASE {identifier(database)} SET {name} = {value}")


def _started(pid: int) -> str:
    """Return when a process began, as the kernel counts; empty when there is none."""
    text = read_text(f"/proc/{pid}/stat") or ""
    return text.rpartition(")")[2].split()[19] if text else ""
