# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two databases that change names in one transaction, seen from a third one: who is in the way, what is carried over, what was kept before."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.pg_facts import server
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.postgres import Session
from ansible_collections.sluice.deploy.plugins.module_utils.core import restores
from ansible_collections.sluice.deploy.plugins.module_utils.core.database_traits import Traits, carry_over
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.migrations import identifier, literal

# Everybody in a database but one of us; an autovacuum worker leaves by itself when a rename asks it to.
_OTHERS = "FROM pg_stat_activity WHERE datname = {name} AND pid NOT IN ({spare}) AND backend_type IS DISTINCT FROM 'autovacuum worker'"


@dataclass(frozen=True)
class Swapped:
    """A swap that was done: milliseconds from the first client that was ended to the commit, and how many were ended."""

    milliseconds: float
    ended: int
    late: int


def rights(desk: Session, database: str) -> dict[str, Any]:
    """Return what decides whether ``database`` may be swapped by this role on this server; ``restores.swap_gate`` judges it.

    :raises SluiceError: there is no such database.
    """
    hosts = ", ".join(literal(role) for role in restores.HOST_ROLES)
    found = desk.query(
        "SELECT d.datname AS database, current_database() AS desk, quote_ident(current_user) AS role, quote_ident(pg_get_userbyid(d.datdba)) AS owner,"
        " r.rolsuper AS superuser, r.rolcreatedb AS createdb, pg_has_role(d.datdba, 'USAGE') AS owns, pg_is_in_recovery() AS standby,"
        f" (SELECT coalesce(json_agg(h.rolname), '[]') FROM pg_roles h WHERE h.rolname IN ({hosts})) AS hosts"
        f" FROM pg_database d JOIN pg_roles r ON r.rolname = current_user WHERE d.datname = {literal(database)}"
    )
    if not found:
        kept = ", ".join(name for name in _marked(desk)) or "none"
        raise SluiceError(
            f"There is no database {database}; databases that earlier restores kept: {kept}.",
            "Somebody renamed or dropped it by hand; rename the right one back: ALTER DATABASE ... RENAME TO ...",
        )
    return found[0]


def obstacles(desk: Session, database: str, spare: Sequence[int] = ()) -> dict[str, list[dict[str, Any]]]:
    """Return what holds on to a database and cannot be ended; ``restores.blocking_gates`` judges it.

    :param spare: connections that will be gone by then, such as those of a pooler.
    """
    name, oid = literal(database), f"(SELECT oid FROM pg_database WHERE datname = {literal(database)})"
    others = _OTHERS.format(name=name, spare=", ".join(map(str, (0, *spare))))
    return {
        "prepared": desk.query(f"SELECT quote_literal(gid) || ' of ' || owner AS name FROM pg_prepared_xacts WHERE database = {name} ORDER BY 1"),
        "slots": desk.query(f"SELECT slot_name AS name FROM pg_replication_slots WHERE database = {name} ORDER BY 1"),
        "subscriptions": desk.query(f"SELECT subname AS name FROM pg_subscription WHERE subdbid = {oid} ORDER BY 1"),
        "clients": desk.query(
            "SELECT 'pid ' || pid || ' of ' || usename AS name FROM (SELECT pid, usename, usesysid, datname, backend_type"
            f" {others}) a JOIN pg_roles r ON r.oid = a.usesysid"
            " WHERE NOT (SELECT me.rolsuper FROM pg_roles me WHERE me.rolname = current_user)"
            " AND (r.rolsuper OR NOT (pg_has_role(r.oid, 'USAGE') OR pg_has_role('pg_signal_backend', 'USAGE'))) ORDER BY pid"
        ),
    }


def traits(desk: Session, database: str) -> Traits:
    """Return what a database has beside its contents."""
    name = literal(database)
    row = desk.query(
        "SELECT oid::bigint AS oid, pg_get_userbyid(datdba) AS owner, datconnlimit, datallowconn,"
        " coalesce(shobj_description(oid, 'pg_database'), '') AS comment,"
        " (SELECT coalesce(json_agg(json_build_array(CASE WHEN a.grantee = 0 THEN '' ELSE pg_get_userbyid(a.grantee) END,"
        " a.privilege_type, a.is_grantable)), '[]')"
        " FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) a) AS rights,"
        " (SELECT coalesce(json_agg(json_build_array(CASE WHEN s.setrole = 0 THEN '' ELSE pg_get_userbyid(s.setrole) END, each)), '[]')"
        " FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) AS each WHERE s.setdatabase = d.oid) AS settings"
        f" FROM pg_database d WHERE datname = {name}"
    )[0]
    settings = {}
    for role, setting in row["settings"]:
        parameter, _equals, value = setting.partition("=")
        settings[role, parameter] = value
    held = frozenset((grantee, privilege, bool(pass_on)) for grantee, privilege, pass_on in row["rights"])
    return Traits(int(row["oid"]), row["owner"], int(row["datconnlimit"]), row["comment"], bool(row["datallowconn"]), held, settings)


def give_traits(desk: Session, database: str, want: Traits) -> list[str]:
    """Give a database what another has beside its contents, all at once, and return the statements.

    :raises SluiceError: this role may not, or something did not come over.
    """
    have = traits(desk, database)
    if have.carried() == want.carried():
        return []
    statements = carry_over(database, have, want)
    try:
        with transaction(desk):
            for statement in statements:
                desk.execute(statement)
    except SluiceError as error:
        raise SluiceError(
            f"Not everything can be carried over to the restored copy, and nothing was swapped: {statement}: {error.message}",
            "Run the restore as a role that may, or take the setting away first.",
            **error.facts,
        ) from error
    if traits(desk, database).carried() != want.carried():
        raise SluiceError(
            f"{database} did not get owner, rights, limit and settings as they are on the live database; nothing was swapped.", "Compare \\l+ and \\drds."
        )
    return statements


def open_copy(desk: Session, name: str, opened: bool) -> None:
    """Let clients into a database beside the live one, or nobody."""
    desk.execute(f"ALTER DATABASE {identifier(name)} ALLOW_CONNECTIONS {'true' if opened else 'false'}")


@contextmanager
def transaction(session: Session) -> Iterator[None]:
    """Do the block's statements all or none; the server undoes them by itself when the session is lost."""
    session.execute("BEGIN")
    try:
        yield
    except BaseException:
        with suppress(SluiceError):
            session.execute("ROLLBACK")
        raise
    session.execute("COMMIT")


def end_clients(desk: Session, database: str, spare: int = 0) -> set[int]:
    """End everybody in a database but one of us, and return who was asked to go."""
    others = _OTHERS.format(name=literal(database), spare=spare)
    return {int(row["pid"]) for row in desk.query(f"SELECT pid, pg_terminate_backend(pid) AS ended {others}")}


def drain(desk: Session, database: str, spare: int, seconds: float = 1.0) -> set[int]:
    """End everybody in a database again and again until nobody is left, or clients come back as fast as they are ended."""
    ended: set[int] = set()
    end = time.monotonic() + seconds
    while found := end_clients(desk, database, spare):
        ended |= found
        if time.monotonic() > end:
            break
        time.sleep(0.005)
    return ended


def written(session: Session) -> tuple[int, int, int]:
    """Return the rows that were ever inserted, updated and deleted in the session's database, by the server's counters."""
    session.execute("SELECT pg_stat_clear_snapshot()")
    sums = ", ".join(f"coalesce(sum(n_tup_{kind}), 0)::bigint AS {kind}" for kind in ("ins", "upd", "del"))
    row = session.query(f"SELECT {sums} FROM pg_stat_user_tables")[0]
    return int(row["ins"]), int(row["upd"]), int(row["del"])


def swap(
    mover: Session,
    desk: Session,
    live: Session,
    names: tuple[str, str, str],
    want: Traits,
    mark: str,
    refuse: Callable[[int], object],
    before: Sequence[int],
) -> Swapped:
    """Move the live database aside and the other one into its place, in one transaction.

    While the first rename waits for clients, it keeps new ones out; those who came back meanwhile are ended from beside. So a
    door that a killed run left shut is never needed: whatever happens, either both names have changed or none.

    :param mover: session that renames.
    :param desk: session beside it that ends clients.
    :param live: our session in the live database: it counts what was written last, and leaves.
    :param names: the live database, the name under which it is kept, and the one that comes.
    :param want: what the live database has; its comment goes to the one that comes.
    :param mark: comment of the database that is kept.
    :param refuse: is told the rows written since ``before``, and raises when nobody agreed to lose them.
    :param before: what ``written`` returned when the loss was counted.
    """
    name, aside, incoming = names
    pid = int(live.value("SELECT pg_backend_pid() AS pid"))
    started = time.monotonic()
    ended = drain(desk, name, pid) | drain(desk, incoming, 0)
    late = max(0, sum(written(live)) - sum(before))
    refuse(late)
    seen = _database_writes(desk, name)
    live.close()
    with transaction(mover):
        with ThreadPoolExecutor(1) as beside:
            renamed = beside.submit(mover.execute, f"ALTER DATABASE {identifier(name)} RENAME TO {identifier(aside)}")
            while not renamed.done():
                ended |= end_clients(desk, name) - {pid}
                time.sleep(0.01)
            renamed.result()
        # Nobody is left who could write: what the counters grew by came from somebody who slipped in after we had counted.
        if server(mover)["major"] >= 15:
            late += max(0, _database_writes(mover, aside) - seen)
            refuse(late)
        mover.execute(f"ALTER DATABASE {identifier(incoming)} RENAME TO {identifier(name)}")
        mover.execute(f"ALTER DATABASE {identifier(name)} ALLOW_CONNECTIONS true")
        mover.execute(f"COMMENT ON DATABASE {identifier(name)} IS {literal(want.comment) if want.comment else 'NULL'}")
        mover.execute(f"ALTER DATABASE {identifier(aside)} ALLOW_CONNECTIONS false")
        mover.execute(f"COMMENT ON DATABASE {identifier(aside)} IS {literal(mark)}")
    return Swapped(round((time.monotonic() - started) * 1000, 1), len(ended), late)


def _database_writes(session: Session, database: str) -> int:
    """Return the rows ever written in a database, catalogues included, by the server's counters."""
    session.execute("SELECT pg_stat_clear_snapshot()")
    total = "pg_stat_get_db_tuples_inserted(oid) + pg_stat_get_db_tuples_updated(oid) + pg_stat_get_db_tuples_deleted(oid)"
    return int(session.value(f"SELECT {total} AS rows FROM pg_database WHERE datname = {literal(database)}") or 0)


def kept(desk: Session, app: str) -> list[restores.Kept]:
    """Return the databases that earlier swaps moved aside for this app."""
    found = (restores.read_kept(name, comment) for name, comment in _marked(desk).items())
    return [one for one in found if one and one.app == app]


def _marked(desk: Session) -> dict[str, str]:
    rows = desk.query(
        "SELECT datname AS name, shobj_description(oid, 'pg_database') AS comment FROM pg_database"
        f" WHERE shobj_description(oid, 'pg_database') LIKE {literal(restores.KEPT + ' of %')} ORDER BY 1"
    )
    return {row["name"]: row["comment"] for row in rows}


def drop_kept(desk: Session, one: restores.Kept) -> str:
    """Drop a database that was kept, unless its mark has changed since it was read; return why it stays, or nothing."""
    if restores.read_kept(one.name, _marked(desk).get(one.name, "")) != one:
        return "it no longer carries the mark it had"
    force = " WITH (FORCE)" if server(desk)["major"] >= 13 else ""
    try:
        desk.execute(f"DROP DATABASE {identifier(one.name)}{force}")
    except SluiceError as error:
        return error.message
    return ""
