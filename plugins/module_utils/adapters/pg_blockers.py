# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who would hold a dump up, or be held up by it: locks, other dumps, long transactions, free connections."""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.postgres import Session
from ansible_collections.sluice.deploy.plugins.module_utils.core import blockers

# Who holds or awaits the one mode in which nobody can read a table; another's temporary tables do not matter, and a dump does not read them.
_EXCLUSIVE = (
    "SELECT l.pid, coalesce(a.application_name, '') AS application_name, coalesce(a.state, '') AS state, a.query_start, l.granted,"
    " l.relation::regclass::text AS relation,"
    " (SELECT p.gid FROM pg_prepared_xacts p WHERE p.transaction = x.transactionid) AS prepared"
    " FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid"
    " LEFT JOIN pg_locks x ON x.virtualtransaction = l.virtualtransaction AND x.locktype = 'transactionid' AND l.pid IS NULL"
    " JOIN pg_class c ON c.oid = l.relation"
    " WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.pid IS DISTINCT FROM pg_backend_pid() AND c.relpersistence <> 't'"
    " AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.oid >= 16384"
    " AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY l.granted DESC, l.pid"
)


def wait_for_exclusive_locks(session: Session, seconds: float) -> list[dict[str, Any]]:
    """Wait until nobody holds or awaits a lock that shuts readers out, and return who still does when the time is over."""
    end = time.monotonic() + seconds
    while (found := session.query(_EXCLUSIVE)) and time.monotonic() < end:
        time.sleep(0.2)
    return found


def seen_sessions(session: Session) -> blockers.Sessions:
    """Return the sessions of others that matter to a dump, and how many connections the role can still open."""
    dumps = session.query(
        "SELECT pid, application_name FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND application_name IN ('pg_dump', 'pg_dumpall', 'pg_restore', 'pgcopydb') ORDER BY 1"
    )
    old = session.query(
        "SELECT pid, application_name, state, extract(epoch FROM now() - xact_start)::int AS seconds FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        f" AND xact_start < now() - interval '{blockers.LONG_SECONDS} s' ORDER BY xact_start"
    )
    free = session.value(
        "SELECT least(current_setting('max_connections')::int"
        " - CASE WHEN r.rolsuper THEN 0 ELSE current_setting('superuser_reserved_connections')::int END"
        " - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),"
        " CASE WHEN r.rolconnlimit >= 0 AND NOT r.rolsuper THEN r.rolconnlimit - (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user) END,"
        " CASE WHEN d.datconnlimit >= 0 AND NOT r.rolsuper THEN d.datconnlimit"
        " - (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) END) AS free"
        " FROM pg_roles r, pg_database d WHERE r.rolname = current_user AND d.datname = current_database()"
    )
    return blockers.Sessions(dumps, old, int(free))
