# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a database server copes: connections against what is allowed, who waits for whom, and counters as differences of two looks.

The server's counters run since their last reset, so one look at them says nothing about now.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.database_checks import is_number
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import ERROR, FAIL, PASS, Gate

HIDDEN = "<insufficient privilege>"
"""What pg_stat_activity shows as the query of a session that the role may not see."""

USABLE = (
    "current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    " - coalesce(current_setting('reserved_connections', true), '0')::int"
)
"""Connections that an ordinary role can have."""

# Only clients count; where some are hidden, the statistics that everybody sees count them, and others too.
USED = (
    f"SELECT CASE WHEN bool_or(query = '{HIDDEN}') THEN (SELECT sum(numbackends) FROM pg_stat_database)"
    " ELSE count(*) FILTER (WHERE backend_type = 'client backend') END FROM pg_stat_activity"
)
"""Connections that clients hold."""


def _longest(since: str, condition: str) -> str:
    # One hidden session could be the longest, so then there is no number.
    return (
        f"SELECT CASE WHEN bool_or(query = '{HIDDEN}') THEN NULL"
        f" ELSE coalesce(max(extract(epoch FROM clock_timestamp() - {since})) FILTER (WHERE {condition}), 0) END"
        " FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
    )


METRICS: Mapping[str, str] = {
    "database_connections": f"SELECT ({USED})::numeric / ({USABLE})",
    "deadlocks": "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
    "idle_in_transaction": _longest("state_change", "state LIKE 'idle in transaction%'"),
    "longest_query": _longest("query_start", "state = 'active' AND backend_type = 'client backend'"),
    "longest_wait": _longest("query_start", "wait_event_type = 'Lock' AND state = 'active'"),
}
"""One SELECT of one number for each metric that a ladder can hold a release to."""


@dataclass(frozen=True)
class Bound:
    """A limit's default, what it limits, and the rule it comes from."""

    default: Optional[float]
    meaning: str
    row: str
    gate: bool = True


LIMITS: Mapping[str, Bound] = {
    "connections_share": Bound(0.9, "share of the usable connections that is taken (180 of 200)", "S1-103, M-048"),
    "pool_share": Bound(1.0, "share of the usable connections that the pools of both slots may take together", "S0-069"),
    "query_seconds": Bound(300, "seconds a statement has been running", "S3-237, M-049"),
    "idle_in_transaction_seconds": Bound(60, "seconds a session has been idle inside a transaction", "S3-237"),
    "blocked_seconds": Bound(10, "seconds a session has been waiting for another's lock", "S4-108"),
    "deadlocks": Bound(0, "deadlocks between the two looks", "S4-108, M-064"),
    "pgbouncer_wait_seconds": Bound(1, "seconds the oldest client of a PgBouncer pool has been waiting, at both looks", "S1-147"),
    "cache_hit_share": Bound(0.95, "share of the block reads between the two looks that hit the cache; below is a warning", "S1-109, M-064", gate=False),
    "slow_query_ms": Bound(500, "mean milliseconds of a statement between two looks of pg_stat_statements; above is a warning", "S0-085, M-068", gate=False),
    "growth_share": Bound(0.2, "share by which the database grew since the reading before; above it is a warning", "S3-238", gate=False),
}
_FEWEST_READS = 1000  # a hit ratio of fewer block reads is chance
_EXAMPLE = "Example: {query_seconds: 120, cache_hit_share: null}"
_TEXT = re.compile(
    r"""\b[eE]'(?:[^'\\]|''|\\.)*(?:'|\Z)|(?:\b[xXbBnN]|\b[uU]&)?'(?:[^']|'')*(?:'|\Z)|(?P<tag>\$(?:[A-Za-z_]\w*)?\$).*?(?:(?P=tag)|\Z)""", re.DOTALL
)


def limits_from(data: Mapping[str, Any], where: str = "database_limits") -> dict[str, Optional[float]]:
    """Return every limit; None is no limit.

    :raises SluiceError: a limit is unknown or no number.
    """
    unknown = sorted(set(data) - set(LIMITS))
    if unknown:
        raise SluiceError(f"{where}: {unknown[0]} is unknown; allowed are {', '.join(LIMITS)}.", _EXAMPLE)
    for name, value in data.items():
        if value is not None and (not is_number(value) or value < 0 or name.endswith("_share") and name != "growth_share" and value > 1):
            kind = "a share from 0 to 1" if name.endswith("_share") else "a number that is not negative"
            raise SluiceError(f"{where}: {name} is {value!r}; allowed is {kind}, or null for no limit.", _EXAMPLE)
    return {name: data.get(name, bound.default) for name, bound in LIMITS.items()}


def pools_from(data: Any, where: str = "database_pools") -> list[tuple[str, int]]:
    """Return each pool's name and the most connections it can hold while both slots run.

    :raises SluiceError: an entry is no mapping with name and size.
    """
    found, example = [], "Example: [{name: web, size: 10, instances: 2}, {name: worker, size: 2, slots: 1}]"
    for number, item in enumerate(data, start=1):
        if not isinstance(item, Mapping) or set(item) - {"name", "size", "instances", "slots"} or not {"name", "size"} <= set(item):
            raise SluiceError(f"{where}: entry {number} is {item!r}; allowed is a mapping with name, size and optionally instances (1) and slots (2).", example)
        sizes = [item["size"], item.get("instances", 1), item.get("slots", 2)]
        if not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
            raise SluiceError(f"{where}: entry {number}: size, instances and slots must be whole numbers above 0.", example)
        found.append((str(item["name"]), sizes[0] * sizes[1] * sizes[2]))
    return found


def masked(query: str, most: int = 80) -> str:
    """Return the beginning of a statement without the texts in it, which may be anybody's data."""
    text = " ".join(_TEXT.sub("'…'", query).split())
    return text if len(text) <= most else text[: most - 1] + "…"


# --- Gates -------------------------------------------------------------------------------------------------------------


def gates(seen: Mapping[str, Any], limits: Mapping[str, Optional[float]], pools: Sequence[tuple[str, int]]) -> list[Gate]:
    """Return the gates of one look; a limit that is None has none.

    :param seen: what the adapter read: connections, sessions, role, and counters with the difference to the look before.
    """
    answers = [
        _connections(seen, limits["connections_share"]),
        _pools(seen, limits["pool_share"], pools),
        _sessions(seen, "long queries", limits["query_seconds"], _running, "End it with SELECT pg_cancel_backend(pid), or wait."),
        _sessions(
            seen,
            "idle in transaction",
            limits["idle_in_transaction_seconds"],
            _idle,
            "Find why the app leaves transactions open; end one with SELECT pg_terminate_backend(pid), and set idle_in_transaction_session_timeout.",
        ),
        _blocking(seen, limits["blocked_seconds"]),
        _deadlocks(seen, limits["deadlocks"]),
    ]
    return [gate for gate in answers if gate]


def _hidden(seen: Mapping[str, Any], name: str) -> Optional[Gate]:
    hidden = sum(session["query"] == HIDDEN for session in seen["sessions"])
    if not hidden:
        return None
    words = "one session of another role is" if hidden == 1 else f"{hidden} sessions of other roles are"
    return Gate(name, ERROR, f"{words} hidden from {seen['role']}, so nobody can tell", sample=hidden, remedy=f"GRANT pg_read_all_stats TO {seen['role']}.")


def _connections(seen: Mapping[str, Any], limit: Optional[float]) -> Optional[Gate]:
    if limit is None:
        return None
    used, usable, most = seen["connections"]["used"], seen["connections"]["usable"], seen["connections"]["max"]
    sentence = f"{used} of {usable} usable connections taken ({used / usable:.0%}; max_connections is {most}), limit {limit:.0%}"
    remedy = "" if used <= limit * usable else "Find who holds them (sessions in the result), make pools smaller, or raise max_connections."
    return Gate("connections", PASS if used <= limit * usable else FAIL, sentence, value=round(used / usable, 4), limit=limit, sample=used, remedy=remedy)


def _pools(seen: Mapping[str, Any], limit: Optional[float], pools: Sequence[tuple[str, int]]) -> Optional[Gate]:
    if limit is None or not pools:
        return None
    usable, total = seen["connections"]["usable"], sum(size for _name, size in pools)
    bouncer = seen.get("pgbouncer")
    where = "usable connections"
    if bouncer:
        usable, where = bouncer["max_client_conn"], "clients that PgBouncer takes"
    named = ", ".join(f"{name} {size}" for name, size in pools)
    fits = total <= limit * usable
    remedy = "" if fits else "Make the pools smaller, put PgBouncer between, or raise max_connections."
    sentence = f"with both slots up the pools can take {total} connections ({named}) of {usable} {where}"
    return Gate("pools", PASS if fits else FAIL, sentence, value=total, limit=int(limit * usable), remedy=remedy)


def _running(session: Mapping[str, Any]) -> Optional[float]:
    return session["query_age"] if session["state"] == "active" and session["backend"] == "client backend" else None


def _idle(session: Mapping[str, Any]) -> Optional[float]:
    return session["state_age"] if str(session["state"]).startswith("idle in transaction") else None


def _sessions(seen: Mapping[str, Any], name: str, limit: Optional[float], age: Any, remedy: str) -> Optional[Gate]:
    if limit is None:
        return None
    aged = sorted(((age(session), session) for session in seen["sessions"] if age(session) is not None), key=lambda pair: -pair[0])
    over = [(seconds, session) for seconds, session in aged if seconds > limit]
    if over:
        named = "; ".join(f"{_who(session)} for {seconds:.0f} s: {masked(session['query'])}" for seconds, session in over[:5])
        more = f"; and {len(over) - 5} more" if len(over) > 5 else ""
        return Gate(name, FAIL, f"{len(over)} over {limit:g} s: {named}{more}", value=round(over[0][0], 1), limit=limit, sample=len(over), remedy=remedy)
    longest = aged[0][0] if aged else 0.0
    return _hidden(seen, name) or Gate(
        name, PASS, f"the longest takes {longest:.1f} s, limit {limit:g} s", value=round(longest, 1), limit=limit, sample=len(aged)
    )


def _who(session: Mapping[str, Any]) -> str:
    return f"pid {session['pid']} ({session['application'] or 'no application name'}, {session['role'] or 'no role'})"


def blocking(sessions: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return who is at the root of a queue of locks: pid, how many wait behind it, directly or not, and for how long."""
    waits = {session["pid"]: tuple(session["blocked_by"] or ()) for session in sessions}
    known = {session["pid"]: session for session in sessions}
    behind: dict[int, set[int]] = {}
    for pid in waits:
        for root in _roots(pid, waits):
            behind.setdefault(root, set()).add(pid)
    found = []
    for root, waiting in behind.items():
        ages = [known[pid]["wait_age"] if known[pid]["wait_age"] is not None else known[pid]["query_age"] or 0.0 for pid in waiting]
        found.append({"pid": root, "waiting": sorted(waiting), "seconds": max(ages), "session": known.get(root)})
    return sorted(found, key=lambda tree: -tree["seconds"])


def _roots(pid: int, waits: Mapping[int, Sequence[int]]) -> set[int]:
    """Return those who wait for nobody, or for each other, behind whom a session waits."""
    seen, left, roots = {pid}, list(waits.get(pid, ())), set()
    while left:
        other = left.pop()
        if other in seen:
            continue
        seen.add(other)
        if waits.get(other):
            left += waits[other]
        else:
            roots.add(other)
    return roots


def _blocking(seen: Mapping[str, Any], limit: Optional[float]) -> Optional[Gate]:
    if limit is None:
        return None
    trees = blocking(seen["sessions"])
    over = [tree for tree in trees if tree["seconds"] > limit]
    if over:
        said = []
        for tree in over[:5]:
            root = tree["session"]
            # Number 0 stands for a prepared transaction.
            who = f"{_who(root)}, {root['state']}: {masked(root['query'])}," if root else "a prepared transaction" if not tree["pid"] else f"pid {tree['pid']}"
            count = len(tree["waiting"])
            said.append(f"{who} holds up {count} {'session' if count == 1 else 'sessions'}, the longest for {tree['seconds']:.0f} s")
        remedy = "End the one at the root with SELECT pg_terminate_backend(pid), or wait for it."
        return Gate("blocked sessions", FAIL, "; ".join(said), value=round(over[0]["seconds"], 1), limit=limit, sample=len(over), remedy=remedy)
    longest = trees[0]["seconds"] if trees else 0.0
    return _hidden(seen, "blocked sessions") or Gate(
        "blocked sessions", PASS, f"the longest wait for a lock is {longest:.1f} s, limit {limit:g} s", value=round(longest, 1), limit=limit, sample=len(trees)
    )


def _deadlocks(seen: Mapping[str, Any], limit: Optional[float]) -> Optional[Gate]:
    if limit is None:
        return None
    change = seen["change"]
    if change is None:
        return Gate("deadlocks", ERROR, "the server's counters went back between the two looks, so nobody can tell", remedy="Run it once more.")
    count = change["deadlocks"]
    sentence = f"{count} in the last {change['seconds']:.0f} s, limit {limit:g}"
    remedy = "" if count <= limit else "The server's log names both sides; make them take their locks in the same order."
    return Gate("deadlocks", PASS if count <= limit else FAIL, sentence, value=count, limit=limit, sample=round(change["seconds"]), remedy=remedy)


# --- What is only told -------------------------------------------------------------------------------------------------


def change_of(before: Optional[Mapping[str, Any]], now: Mapping[str, Any]) -> Optional[dict[str, Any]]:
    """Return by how much the counters grew, or None when they were reset or belong to another server."""
    if not before or before.get("server") != now["server"] or before.get("reset") != now["reset"] or before.get("database") != now["database"]:
        return None
    change = {name: now[name] - before[name] for name in ("deadlocks", "hit", "read", "commits", "rollbacks", "temp_bytes")}
    if any(value < 0 for value in change.values()) or now["at"] <= before["at"]:
        return None
    return {**change, "seconds": now["at"] - before["at"], "bytes": now["bytes"] - before["bytes"]}


def notes(seen: Mapping[str, Any], limits: Mapping[str, Optional[float]], since: Optional[Mapping[str, Any]]) -> list[str]:
    """Return what an operator wants to know and what stops nothing: cache, slow statements, size and growth, and suggestions.

    :param since: how much the counters grew since the reading before, which may be days old.
    """
    return [
        *_cache(seen["change"], limits["cache_hit_share"]),
        *_size(seen, since, limits["growth_share"]),
        *_slow(seen, limits["slow_query_ms"]),
        *_pool_size(seen),
    ]


def _cache(change: Optional[Mapping[str, Any]], limit: Optional[float]) -> list[str]:
    if limit is None or change is None:
        return []
    reads = change["hit"] + change["read"]
    if reads < _FEWEST_READS:
        return [f"cache hits: {reads:,} block reads in {change['seconds']:.0f} s are too few to tell"]
    share = change["hit"] / reads
    text = f"cache hits: {share:.1%} of {reads:,} block reads in {change['seconds']:.0f} s"
    return [text if share >= limit else f"warning, {text}; limit {limit:.0%}. The working set does not fit into shared_buffers, or a query reads too much."]


def _size(seen: Mapping[str, Any], since: Optional[Mapping[str, Any]], limit: Optional[float]) -> list[str]:
    now = seen["counters"]["bytes"]
    text = f"size: {now / 1048576:,.1f} MiB"
    if not since or now <= since["bytes"]:
        return [text]
    share = since["bytes"] / (now - since["bytes"])
    text += f", {since['bytes'] / 1048576:+,.1f} MiB ({share:+.1%}) in {_span(since['seconds'])}"
    return [text if limit is None or share <= limit else f"warning, {text}; limit {limit:.0%}. Find which table grows before the disk is full."]


def _span(seconds: float) -> str:
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} s"


def _slow(seen: Mapping[str, Any], limit: Optional[float]) -> list[str]:
    if limit is None:
        return []
    if seen["statements"] is None:
        return [f"slow statements: nobody can tell, {seen['statements_why']}"]
    slow = [statement for statement in seen["statements"] if statement["mean_ms"] > limit]
    span = "since the statistics began" if seen["statements_since"] is None else f"in {seen['statements_since']:.0f} s"
    if not slow:
        return [f"slow statements: none above a mean of {limit:g} ms {span}"]
    named = "; ".join(f"{each['mean_ms']:,.0f} ms, {each['calls']:,} times: {masked(each['query'])}" for each in slow[:5])
    return [f"warning, slow statements {span}: {named}. A mean hides the slowest; EXPLAIN (ANALYZE, BUFFERS) them."]


def statements_between(before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the statements that ran between two looks, the slowest mean first."""
    found = []
    for key, each in now.items():
        old = before.get(key, {"calls": 0, "ms": 0.0})
        calls, spent = each["calls"] - old["calls"], each["ms"] - old["ms"]
        if calls > 0 and spent >= 0:
            found.append({"query": each["query"], "calls": calls, "mean_ms": spent / calls})
    return sorted(found, key=lambda each: -each["mean_ms"])


def _pool_size(seen: Mapping[str, Any]) -> list[str]:
    idle = [session for session in seen["sessions"] if session["state"] == "idle" and (session["state_age"] or 0) > 600]
    if len(idle) < max(5, len(seen["sessions"]) // 2):
        return []
    return [f"suggestion, pool size: {len(idle)} of {len(seen['sessions'])} sessions have been idle for more than 10 minutes; smaller pools would do."]


# --- PgBouncer -----------------------------------------------------------------------------------------------------------


def pgbouncer_gates(looks: Sequence[Mapping[str, Any]], limits: Mapping[str, Optional[float]]) -> list[Gate]:
    """Return the gate of the pools: a client that waits at both looks waits for longer than a moment."""
    limit = limits["pgbouncer_wait_seconds"]
    if limit is None:
        return []
    first, last = ({(pool["database"], pool["user"]): pool for pool in look["pools"]} for look in (looks[0], looks[-1]))
    stuck = [pool for key, pool in last.items() if pool["cl_waiting"] and first.get(key, {}).get("cl_waiting") and pool["maxwait"] > limit]
    paused = [name for name, database in last_databases(looks).items() if database["paused"] or database["disabled"]]
    clients = sum(pool["cl_active"] + pool["cl_waiting"] for pool in last.values())
    if paused:
        return [
            Gate("pgbouncer", FAIL, f"{', '.join(sorted(paused))} is paused or disabled, so its clients wait", value=len(paused), remedy="RESUME or ENABLE it.")
        ]
    if stuck:
        named = "; ".join(f"{pool['database']} of {pool['user']}: {pool['cl_waiting']} wait, the oldest for {pool['maxwait']:.1f} s" for pool in stuck[:5])
        worst_wait = max(pool["maxwait"] for pool in stuck)
        remedy = "Look for long transactions, or raise pool_size where the server has connections left."
        return [Gate("pgbouncer", FAIL, f"{named}; limit {limit:g} s", value=round(worst_wait, 1), limit=limit, sample=clients, remedy=remedy)]
    waiting = sum(pool["cl_waiting"] for pool in last.values())
    return [Gate("pgbouncer", PASS, f"{clients} clients in {len(last)} pools, {waiting} of them wait", value=waiting, limit=limit, sample=clients)]


def last_databases(looks: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the databases of the last look by their name."""
    return {database["name"]: database for database in looks[-1]["databases"]}


def pgbouncer_notes(looks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the suggestion to make pools larger where all their connections are in use, and what clients waited on average."""
    said = []
    sizes = {name: database["pool_size"] for name, database in last_databases(looks).items()}
    for pool in looks[-1]["pools"]:
        size = sizes.get(pool["database"], 0)
        if size and pool["sv_active"] >= size:
            said.append(f"suggestion, pool size: all {size} connections of PgBouncer's pool {pool['database']} of {pool['user']} are in use.")
    slow = [(stats["database"], stats["avg_wait_time"] / 1000) for stats in looks[-1]["stats"] if stats["avg_wait_time"] > 1000]
    return [*said, *(f"pgbouncer: clients of {name} waited {wait:,.0f} ms on average for a connection" for name, wait in slow)]
