# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Databases beside the real one: made like it, restored into, and dropped only when they carry our mark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.pg_facts import server
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.postgres import COPY, Clients, Deadline, Session
from ansible_collections.sluice.deploy.plugins.module_utils.core import backups
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.migrations import identifier, literal


def database_comment(session: Session, name: str) -> str | None:
    """Return the comment of a database, empty when it has none, or None when there is no such database.

    A copy whose maker was killed before it could mark it has a mark that says so.
    """
    half_made = f"NOT datallowconn AND datconnlimit = {backups.HALF_MADE_LIMIT}"
    sql = (
        f"SELECT coalesce(shobj_description(oid, 'pg_database'), CASE WHEN {half_made} THEN {literal(backups.half_made_marker())} ELSE '' END) AS comment"
        f" FROM pg_database WHERE datname = {literal(name)}"
    )
    comment: str | None = session.value(sql)
    return comment


def check_may_create(session: Session) -> None:
    """Refuse early when the user may not create databases.

    :raises SluiceError: with the statement that grants it.
    """
    row = session.query("SELECT quote_ident(rolname) AS role, rolcreatedb OR rolsuper AS may FROM pg_roles WHERE rolname = current_user")[0]
    if not row["may"]:
        raise SluiceError(
            f"The database user {row['role']} may not create databases, so no copy can be made beside the real one.",
            f"As a superuser, run: ALTER ROLE {row['role']} CREATEDB;",
        )


def create_copy(session: Session, name: str, comment: str, made: Mapping[str, str]) -> None:
    """Create an empty database with a comment that marks it as ours.

    :param made: settings of a manifest, of which encoding and locale are used; or of ``pg_facts.settings``.
    """
    words = [
        "TEMPLATE template0",
        f"ENCODING {literal(made['encoding'])}",
        f"LC_COLLATE {literal(made['lc_collate'])}",
        f"LC_CTYPE {literal(made['lc_ctype'])}",
    ]
    if made["locale_provider"] == "i":
        words.append(f"LOCALE_PROVIDER icu ICU_LOCALE {literal(made['locale'])}")
    elif made["locale_provider"] == "b":
        words.append(f"LOCALE_PROVIDER builtin BUILTIN_LOCALE {literal(made['locale'])}")
    _make(session, name, " ".join(words), comment)


def copy_database(session: Session, source: str, name: str, comment: str) -> None:
    """Copy a closed database, file by file where the server can, and mark the copy as ours."""
    strategy = " STRATEGY file_copy" if server(session)["major"] >= 15 else ""
    _make(session, name, f"TEMPLATE {identifier(source)}{strategy}", comment)


def _make(session: Session, name: str, words: str, comment: str) -> None:
    """Create a database that is known as ours whenever we are killed, and open it."""
    session.execute(f"CREATE DATABASE {identifier(name)} {words} ALLOW_CONNECTIONS false CONNECTION LIMIT {backups.HALF_MADE_LIMIT}")
    _mark(session, name, comment, "true CONNECTION LIMIT -1")


def copy_settings(session: Session, name: str) -> None:
    """Give a copy the settings of the session's database that ``ALTER DATABASE ... SET`` made."""
    settings = session.query(
        "SELECT split_part(setting, '=', 1) AS name FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(setconfig) AS setting"
        " WHERE setrole = 0 AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    for setting in settings:
        # lock_timeout and row_security are ours in this session; FROM CURRENT would copy them.
        if setting["name"] not in ("lock_timeout", "row_security"):
            parameter = ".".join(identifier(part) for part in setting["name"].split("."))
            session.execute(f"ALTER DATABASE {identifier(name)} SET {parameter} FROM CURRENT")


def seal_copy(session: Session, name: str, comment: str) -> None:
    """Let nobody into a copy any more and say in its comment what it is, both at once."""
    _mark(session, name, comment, "false")


def _mark(session: Session, name: str, comment: str, door: str) -> None:
    session.execute("BEGIN")
    try:
        session.execute(f"COMMENT ON DATABASE {identifier(name)} IS {literal(comment)}")
        session.execute(f"ALTER DATABASE {identifier(name)} ALLOW_CONNECTIONS {door}")
        session.execute("COMMIT")
    except SluiceError:
        with suppress(SluiceError):
            session.execute("ROLLBACK")
        raise


def sealed(session: Session, name: str) -> bool:
    """Tell whether a database lets nobody in."""
    return bool(session.value(f"SELECT NOT datallowconn AS sealed FROM pg_database WHERE datname = {literal(name)}"))


def drop_copy(session: Session, name: str) -> bool:
    """Drop a copy with whoever is in it; True when there was one.

    :raises SluiceError: a database of that name is none that a drill or a rehearsal made.
    """
    comment = database_comment(session, name)
    if comment is not None:
        backups.check_marker(name, comment)
        force = " WITH (FORCE)" if server(session)["major"] >= 13 else ""
        session.execute(f"DROP DATABASE {identifier(name)}{force}")
    return comment is not None


def restore(clients: Clients, archive: str, jobs: int, server_major: int, deadline: Deadline, more: Sequence[str] = ()) -> float:
    """Restore an archive in parallel into the copy, and return the seconds it took."""
    newer = clients.major("pg_restore") >= 17 > server_major
    # From version 17 on the clients set transaction_timeout, which older servers do not know; nothing else may fail.
    arguments = ["-Fd", f"-j{jobs}", "-d", f"service={COPY}", *([] if newer else ["--exit-on-error"]), *more, archive]
    with clients.start("pg_restore", arguments, COPY) as job:
        rc = job.wait(deadline)
        said = [line for line in job.errors().splitlines() if line.startswith("pg_restore: error:")]
        harmless = newer and rc == 1 and said and all('unrecognized configuration parameter "transaction_timeout"' in line for line in said)
        if rc and not harmless:
            raise job.failed(rc, "The backup could not be restored", "Take a new backup; do not release on this one.")
        return job.seconds()
