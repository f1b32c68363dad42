# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Going back by swap: names and marks of the databases beside the real one, whether a server lets us, what is kept, and which way back is taken."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.backups import NAME_BYTES
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, PASS, Gate

KEPT = "sluice kept"
LEAVE, DOWN, RESTORE = "leave", "down", "restore"
WAYS = (LEAVE, DOWN, RESTORE)
_STAMP = "%Y%m%dT%H%M%S%fZ"
_KEPT = re.compile(r"sluice kept of (?P<app>\S+) (?P<release_id>\S+) (?P<facts>\{.*\})\Z", re.DOTALL)

# A role that only this host's servers have: who it is, and how one goes back in time there.
_HOSTS = {
    "supabase_admin": ("Supabase", "Restore a backup or a point in time in the project's settings, or restore into a new project and point the app at it"),
    "rdsadmin": ("Amazon RDS", "Restore the instance to a point in time under another name and point the app at it"),
    "cloudsqladmin": ("Cloud SQL", "Clone the instance at a point in time and point the app at it"),
    "azuresu": ("Azure Database", "Restore the server to a point in time under another name and point the app at it"),
    "neon_superuser": ("Neon", "Restore the branch to a point in time"),
    "doadmin": ("DigitalOcean", "Fork the cluster from a point in time and point the app at it"),
}
HOST_ROLES = tuple(_HOSTS)


@dataclass(frozen=True)
class Kept:
    """A database that a swap moved aside.

    :param release_id: release whose backup took its place.
    :param at: when, in UTC.
    :param live: oid of the database that took its place.
    :param written: rows the server had ever seen inserted, updated and deleted in that one at the time, by its own counters.
    :param back: whether it was moved aside by the way back from a restore.
    """

    name: str
    app: str
    release_id: str
    at: datetime
    live: int
    written: tuple[int, int, int]
    back: bool


def kept_name(database: str, release_id: str, at: datetime) -> str:
    """Return the name under which the broken database is kept; whatever the lengths, at most 63 bytes, and the time is always whole."""
    end = f"_before_{_cut(release_id, 20)}_{_stamp(at)}"
    return _cut(database, NAME_BYTES - len(end.encode())) + end


def _stamp(at: datetime) -> str:
    """Return a time in UTC to the millisecond: two restores in one second are two databases."""
    return f"{at:%Y%m%dT%H%M%S}{at.microsecond // 1000:03d}Z"


def _cut(text: str, limit: int) -> str:
    return text.encode()[:limit].decode(errors="ignore")


def kept_mark(app: str, release_id: str, at: datetime, live: int, written: Sequence[int], back: bool = False) -> str:
    """Return the comment of a database that is moved aside."""
    return f"{KEPT} of {app} {release_id} " + json.dumps({"at": _stamp(at), "back": back, "live": live, "written": list(written)}, sort_keys=True)


def read_kept(name: str, comment: str) -> Kept | None:
    """Return what a mark says, or None when the comment is none."""
    found = _KEPT.match(comment)
    if not found:
        return None
    try:
        facts = json.loads(found.group("facts"))
        at = datetime.strptime(facts["at"], _STAMP).replace(tzinfo=timezone.utc)
        inserted, updated, deleted = (int(count) for count in facts["written"])
        return Kept(name, found.group("app"), found.group("release_id"), at, int(facts["live"]), (inserted, updated, deleted), bool(facts["back"]))
    except (ValueError, KeyError, TypeError):
        return None


def newest(kept: Sequence[Kept], live: int) -> Kept | None:
    """Return what the live database replaced, or None when it came from no swap."""
    return max((one for one in kept if one.live == live), key=lambda one: one.at, default=None)


def to_remove(kept: Sequence[Kept], count: int, days: float, now: datetime, way_back: Kept | None) -> list[Kept]:
    """Return the databases that are kept no longer, the oldest first; the way back from the live one always stays.

    :param count: how many stay, the newest ones.
    :param days: how long they stay; 0 is for ever.
    """
    ordered = sorted(kept, key=lambda one: one.at, reverse=True)
    old = [one for rank, one in enumerate(ordered) if rank >= count or (days and now - one.at > timedelta(days=days))]
    return [one for one in reversed(old) if one != way_back]


def swap_gate(facts: Mapping[str, Any]) -> Gate:
    """Tell whether this server and this role allow a swap of databases by name.

    :param facts: what ``pg_swap.rights`` reads: database, desk, role, owner, superuser, createdb, owns, standby, hosts.
    """
    host, way = next((_HOSTS[role] for role in facts["hosts"] if role in _HOSTS), ("", ""))
    where = f"This is {host}. " if host else ""

    def refused(sentence: str, remedy: str) -> Gate:
        return Gate("restore_rights", FAIL, where + sentence, value=host or None, remedy=f"{way}." if host else remedy)

    database, role = facts["database"], facts["role"]
    if host == "Supabase":
        return refused(f"Its services hold on to {database}, so it can be replaced by no other database.", "")
    if facts["standby"]:
        return refused("The server is a standby, which changes nothing.", "Name the primary in the URL.")
    if database == facts["desk"]:
        return refused(
            f"{database} is also the database from which others are renamed, and none can rename itself.", "Name another one in maintenance_database."
        )
    if not facts["owns"]:
        return refused(f"{database} belongs to {facts['owner']}, and {role} may not act for it.", f"As a superuser, run: GRANT {facts['owner']} TO {role};")
    if not facts["createdb"] and not facts["superuser"]:
        return refused(
            f"The database user {role} may create and rename no databases, so nothing can be restored beside {database}.",
            f"As a superuser, run: ALTER ROLE {role} CREATEDB;",
        )
    return Gate("restore_rights", PASS, f"{role} may restore beside {database} and swap the two by name.")


def blocking_gates(database: str, facts: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Gate]:
    """Return one failed gate for each kind of thing that stands in the way of a swap, or one that passed.

    :param facts: what ``pg_swap.obstacles`` reads: prepared, slots, subscriptions and clients that cannot be ended.
    """
    gates = []
    for kind, sentence, remedy in (
        ("prepared", "has prepared transactions, which would block the rename: {}", "COMMIT PREPARED or ROLLBACK PREPARED each of them, as its owner."),
        (
            "slots",
            "has logical replication slots, which would stay with the broken database: {}",
            "Drop them with pg_drop_replication_slot and make them anew after the restore; their readers need a fresh copy.",
        ),
        (
            "subscriptions",
            "has subscriptions, which would go on filling the broken database: {}",
            "Drop them, and subscribe anew after the restore.",
        ),
        (
            "clients",
            "has connections that this user may not end: {}",
            "End them, or as a superuser, run: GRANT pg_signal_backend TO the user of the database URL; a superuser's can be ended by a superuser alone.",
        ),
    ):
        found = [str(row["name"]) for row in facts[kind]]
        if found:
            gates.append(Gate("restore_blockers", FAIL, f"{database} " + sentence.format(", ".join(found)) + ".", value=len(found), limit=0, remedy=remedy))
    return gates or [Gate("restore_blockers", PASS, f"Nothing holds on to {database} that could not be ended.", value=0, limit=0)]


def choose_way(choice: str, reversible: str, written: int | None) -> tuple[str, str]:
    """Return how the database goes back, and why in a sentence.

    :param choice: what the operator wants: leave, down or restore.
    :param reversible: what the rehearsal proved of the release's migrations: none (there is nothing to undo, or nothing proven), down or restore.
    :param written: rows written since the backup, or None when they cannot be counted.
    :raises SluiceError: the way that is wanted was not proven, or is unknown.
    """
    if choice not in WAYS:
        raise SluiceError(f"rollback_database is {choice!r}.", f"Use {', '.join(WAYS)}.")
    if choice == LEAVE:
        return LEAVE, "The database stays as it is; the version before was proven on it in the rehearsal."
    if choice == DOWN:
        if reversible != DOWN:
            raise SluiceError(
                "The migrations of this release were not proven to go down without loss, so they are not run backwards.",
                "Use rollback_database: leave, or restore with restore_accept_loss.",
                reversible=reversible,
            )
        return DOWN, "The migrations go down to the recorded revision, as the rehearsal proved."
    count = "an unknown number of rows was" if written is None else f"{written} rows were"
    if reversible == DOWN and written != 0:
        return RESTORE, f"The backup is restored as asked; {count} written since, which rollback_database: down would have kept."
    return RESTORE, f"The backup is restored; {count} written since."
