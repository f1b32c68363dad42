# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What PostgreSQL says of the app's role, its room for connections, its extensions and its row security."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.postgres import Session
from ansible_collections.sluice.deploy.plugins.module_utils.core.migrations import literal


def role(session: Session) -> dict[str, Any]:
    """Return the role of this session and what it may do beyond its tables."""
    return session.query(
        "SELECT rolname AS name, rolsuper AS superuser, rolbypassrls AS bypassrls, rolcreaterole AS createrole, rolreplication AS replication"
        " FROM pg_roles WHERE rolname = current_user"
    )[0]


def room(session: Session) -> dict[str, int]:
    """Return how many connections are let in, by server, role and database, and how many clients there are now."""
    return session.query(
        "SELECT current_setting('max_connections')::int AS max_connections,"
        " current_setting('superuser_reserved_connections')::int + coalesce(current_setting('reserved_connections', true)::int, 0) AS kept,"
        " (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS role_limit,"
        " (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS database_limit,"
        " (SELECT sum(numbackends) FROM pg_stat_database)::int AS clients"
    )[0]


def extensions(session: Session) -> tuple[dict[str, str], list[str]]:
    """Return the installed extensions with their versions, and the names of those that could be."""
    installed = {row["name"]: row["version"] for row in session.query("SELECT extname AS name, extversion AS version FROM pg_extension")}
    return installed, [row["name"] for row in session.query("SELECT name FROM pg_available_extensions")]


def row_security(session: Session, schemas: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the tables of some schemas with row security and no policy, and those without row security."""
    rows = session.query(
        "SELECT format('%I.%I', n.nspname, c.relname) AS name, c.relrowsecurity AS on, EXISTS (SELECT 1 FROM pg_policy p WHERE p.polrelid = c.oid) AS ruled"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p')"
        f" AND n.nspname IN ({', '.join(literal(schema) for schema in schemas)})"
        " AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1"
    )
    return [row["name"] for row in rows if row["on"] and not row["ruled"]], [row["name"] for row in rows if not row["on"]]
