# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What PgBouncer's console tells a role of its stats_users; columns are read by name, because versions differ in them."""

from __future__ import annotations

import csv
import io
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import process
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.postgres import LIVE, Clients
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

_CONSOLE = "pgbouncer"


def read(clients: Clients, timeout: float = 10) -> dict[str, Any]:
    """Return pools, databases, statistics and the most clients; not those of the console itself.

    :param clients: connected to the database ``pgbouncer``.
    :raises SluiceError: it does not answer, or answers without a column that is needed.
    """
    config = {row["key"]: row["value"] for row in _show(clients, "CONFIG", timeout)}
    pools = [row for row in _show(clients, "POOLS", timeout) if row["database"] != _CONSOLE]
    databases = [row for row in _show(clients, "DATABASES", timeout) if row["name"] != _CONSOLE]
    stats = [row for row in _show(clients, "STATS", timeout) if row["database"] != _CONSOLE]
    try:
        return {
            "max_client_conn": int(config["max_client_conn"]),
            "pools": [_pool(row) for row in pools],
            "databases": [{"name": row["name"], **{key: int(row[key]) for key in ("pool_size", "paused", "disabled")}} for row in databases],
            "stats": [{"database": row["database"], "avg_wait_time": int(row["avg_wait_time"])} for row in stats],
        }
    except (KeyError, ValueError) as error:
        raise SluiceError(f"PgBouncer at {clients.url.location()} answers without {error}.", "PgBouncer 1.8 and newer are known.") from error


def _pool(row: dict[str, str]) -> dict[str, Any]:
    counts = {key: int(row[key]) for key in ("cl_active", "cl_waiting", "sv_active", "sv_idle", "sv_used")}
    return {"database": row["database"], "user": row["user"], **counts, "maxwait": int(row["maxwait"]) + int(row.get("maxwait_us") or 0) / 1e6}


def _show(clients: Clients, what: str, timeout: float) -> list[dict[str, str]]:
    # The console speaks the simple protocol and no SQL, so one psql for each word.
    words = [clients.tool("psql"), "-X", "--csv", "-v", "ON_ERROR_STOP=1", "-c", f"SHOW {what}", "-d", f"service={LIVE}"]
    try:
        done = process.run(words, env=clients.environment(LIVE), timeout=timeout, secrets=clients.url.secrets())
    except SluiceError as error:
        said = str(error.facts.get("stderr", "")).strip().replace("psql: error: ", "") or error.message
        raise SluiceError(
            f"PgBouncer at {clients.url.location()} did not answer SHOW {what}: {said[-500:]}",
            "Check that it runs, that the database in the URL is pgbouncer, and that the role is one of its stats_users.",
        ) from error
    return list(csv.DictReader(io.StringIO(done.stdout)))
