# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a look at a server says: who is at the root of a queue, what grew, and what is only told."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import database_health as health
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

COUNTERS = {
    "database": "d",
    "server": "s",
    "reset": None,
    "at": 0.0,
    "deadlocks": 0,
    "hit": 0,
    "read": 0,
    "commits": 0,
    "rollbacks": 0,
    "temp_bytes": 0,
    "bytes": 1 << 20,
}
NONE = dict.fromkeys(health.LIMITS)


def session(pid: int, **more: Any) -> dict[str, Any]:
    base = {"pid": pid, "role": "app", "application": "web", "state": "active", "backend": "client backend", "query": "SELECT 1"}
    return {**base, "query_age": 1.0, "state_age": 1.0, "blocked_by": None, "wait_age": None, **more}


def seen(*sessions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"sessions": sessions, "role": "app", "connections": {"used": 5, "usable": 10, "max": 13}, "change": None, **more}


def test_a_tree_has_one_root_and_counts_everybody_behind_it() -> None:
    waiting = [session(1), session(2, blocked_by=[1], wait_age=4.0), session(3, blocked_by=[2], wait_age=9.0), session(4, blocked_by=[1, 2], wait_age=1.0)]
    assert [(tree["pid"], tree["waiting"], tree["seconds"]) for tree in health.blocking(waiting)] == [(1, [2, 3, 4], 9.0)]


def test_a_ring_has_no_root_and_ends() -> None:
    assert health.blocking([session(1, blocked_by=[2]), session(2, blocked_by=[1])]) == []


def test_a_prepared_transaction_at_the_root_is_named() -> None:
    gates = health.gates(seen(session(2, blocked_by=[0], wait_age=60.0)), {**NONE, "blocked_seconds": 10}, [])
    assert gates[0].verdict == "fail" and gates[0].sentence.startswith("a prepared transaction holds up 1 session, the longest for 60 s")


def test_only_what_runs_is_a_long_query() -> None:
    sessions = [session(1, state="idle", query_age=9999.0), session(2, backend="logical replication worker", query_age=9999.0), session(3, query_age=299.0)]
    limits = {**NONE, "query_seconds": 300}
    assert health.gates(seen(*sessions), limits, [])[0].verdict == "pass"
    assert health.gates(seen(session(3, query_age=301.0)), limits, [])[0].verdict == "fail"


def test_what_is_hidden_is_an_error_unless_something_is_seen_to_be_wrong() -> None:
    hidden = session(1, query=health.HIDDEN, state=None, query_age=None, state_age=None)
    limits = {**NONE, "query_seconds": 300}
    assert health.gates(seen(hidden), limits, [])[0].verdict == "error"
    assert health.gates(seen(hidden, session(2, query_age=400.0)), limits, [])[0].verdict == "fail"


@pytest.mark.parametrize(
    ("statement", "shown"),
    [
        ("UPDATE a SET t = 'it''s me' WHERE x = E'a\\'b'", "UPDATE a SET t = '…' WHERE x = '…'"),
        ("SELECT $x$ secret $x$, 'cut off", "SELECT '…', '…'"),
        ("SELECT\n  1", "SELECT 1"),
        ("SELECT N'x', B'1', U&'y'", "SELECT '…', '…', '…'"),
        ("SELECT " + "a" * 100, "SELECT " + "a" * 72 + "…"),
    ],
)
def test_texts_in_statements_are_nobodys_business(statement: str, shown: str) -> None:
    assert health.masked(statement) == shown


def test_counters_are_compared_with_those_of_the_same_server_only() -> None:
    now = {**COUNTERS, "at": 10.0, "hit": 5000, "deadlocks": 1}
    assert health.change_of(COUNTERS, now) == {
        "deadlocks": 1,
        "hit": 5000,
        "read": 0,
        "commits": 0,
        "rollbacks": 0,
        "temp_bytes": 0,
        "seconds": 10.0,
        "bytes": 0,
    }
    for other in ({"server": "t"}, {"database": "e"}, {"reset": "then"}, {"deadlocks": 2}, {"at": 10.0}):
        assert health.change_of({**COUNTERS, **other}, now) is None
    assert health.change_of(None, now) is None


@pytest.mark.parametrize(
    ("hit", "read", "said"), [(99_000, 1000, "cache hits: 99.0%"), (90_000, 10_000, "warning, cache hits: 90.0%"), (900, 99, "cache hits: 999")]
)
def test_cache_hits_are_those_of_the_span(hit: int, read: int, said: str) -> None:
    change = {"hit": hit, "read": read, "seconds": 2.0}
    told = health.notes(seen(change=change, counters=COUNTERS), {**NONE, "cache_hit_share": 0.95}, None)
    assert told[0].startswith(said)


def test_growth_and_slow_statements_warn() -> None:
    now = {"a": {"calls": 12, "ms": 9000.0, "query": "SELECT 'x'"}, "b": {"calls": 5, "ms": 1.0, "query": "b"}, "c": {"calls": 1, "ms": 7.0, "query": "c"}}
    between = health.statements_between({"a": {"calls": 10, "ms": 1000.0}, "b": {"calls": 5, "ms": 1.0}}, now)
    assert [(each["calls"], each["mean_ms"]) for each in between] == [(2, 4000.0), (1, 7.0)]
    about = seen(counters={**COUNTERS, "bytes": 3 << 20}, statements=between, statements_since=60.0)
    told = health.notes(about, {**NONE, "growth_share": 0.2, "slow_query_ms": 500}, {"bytes": 1 << 20, "seconds": 2 * 86400})
    assert told[0].startswith("warning, size: 3.0 MiB, +1.0 MiB (+50.0%) in 2.0 days")
    assert told[1].startswith("warning, slow statements in 60 s: 4,000 ms, 2 times: SELECT '…'.")


def test_a_client_that_waits_only_once_is_no_failure() -> None:
    pool = {"database": "d", "user": "u", "cl_active": 1, "cl_waiting": 1, "sv_active": 1, "maxwait": 3.0}
    databases = [{"name": "d", "pool_size": 1, "paused": 0, "disabled": 0}]
    waiting = {"pools": [pool], "databases": databases, "stats": []}
    calm = {**waiting, "pools": [{**pool, "cl_waiting": 0, "maxwait": 0.0}]}
    limits = {**NONE, "pgbouncer_wait_seconds": 1}
    assert [health.pgbouncer_gates(looks, limits)[0].verdict for looks in ([waiting, waiting], [calm, waiting], [waiting, calm])] == ["fail", "pass", "pass"]
    assert health.pgbouncer_notes([waiting])[0].startswith("suggestion, pool size: all 1 connections")


def test_idle_connections_are_a_suggestion_for_smaller_pools() -> None:
    idle = [session(pid, state="idle", state_age=700.0) for pid in range(6)]
    assert health.notes(seen(*idle, counters=COUNTERS), NONE, None)[-1].startswith("suggestion, pool size: 6 of 6")


@pytest.mark.parametrize("wrong", [{"query_second": 1}, {"query_seconds": -1}, {"connections_share": 1.5}, {"deadlocks": "none"}, {"deadlocks": True}])
def test_wrong_limits_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(SluiceError, match="database_limits: "):
        health.limits_from(wrong)


def test_pools_of_both_slots() -> None:
    assert health.pools_from([{"name": "web", "size": 5, "instances": 2}, {"name": "cron", "size": 1, "slots": 1}]) == [("web", 20), ("cron", 1)]
    for wrong in ({"name": "web"}, {"name": "web", "size": 0}, {"name": "web", "size": True}, {"name": "web", "size": 1, "max": 2}):
        with pytest.raises(SluiceError, match="database_pools: entry 1"):
            health.pools_from([wrong])
