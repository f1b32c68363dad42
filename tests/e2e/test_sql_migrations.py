# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations by SQL files: what a rehearsal proves, what stops them, and that the app is never held up, on a real PostgreSQL."""

# ruff: noqa: F811
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from tests.e2e.test_database import APP, BASE, CHECKOUT, MORE, Holder, Site, collections, server, site, wait_for  # noqa: F401  # pylint: disable=unused-import

INDEX = "-- sluice: no-transaction\nCREATE INDEX CONCURRENTLY account_owner ON account (owner);\n"
BOTH_WAYS = {**BASE, "0003_mail.sql": "ALTER TABLE account ADD mail text;", "0003_mail.down.sql": "ALTER TABLE account DROP mail;"}


def gate(result: dict[str, Any], name: str) -> dict[str, Any]:
    return next(dict(each) for each in result["gates"] if each["name"] == name)


def test_up_down_and_up_prove_that_a_migration_can_be_taken_back(site: Site) -> None:
    result = site.rehearse(BOTH_WAYS)
    assert result["reversible"] == "down" and "drops: account drop column mail" in gate(result, "reversible")["sentence"].lower()
    assert result["rehearsal"]["heads"] == ["0002_entry"] and result["rehearsal"]["classes"] == ["expand"] and not result["rehearsal"]["floor_moves"]
    assert {"table": "public.account", "mode": "AccessExclusiveLock"}.items() <= result["pending"][0]["locks"][0].items()
    done = site.migrate(BOTH_WAYS, expected=result["rehearsal"])
    assert [each["verdict"] for each in done["gates"]] == ["pass"] * 3 and gate(done, "fingerprint")["value"] == result["rehearsal"]["fingerprint"][:16]
    before = site.state()
    planned = site.good("migrate", check=True, directory=site.files(BOTH_WAYS), down_to=["0002_entry"])
    assert planned["changed"] and site.state() == before
    back = site.migrate(BOTH_WAYS, down_to=done["before"])
    assert back["after"] == ["0002_entry"] and back["pending"] == ["0003_mail"] and "mail" not in site.state()
    assert not site.migrate(BOTH_WAYS, down_to=done["before"])["changed"]
    assert "is not applied" in site.bad("migrate", directory=site.files(BOTH_WAYS), down_to=["0009_other"])
    assert "there is no file 0002_entry.down.sql" in site.bad("migrate", directory=site.files(BOTH_WAYS), down_to=["0001_base"])


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (MORE, "there is no file 0003_mail.down.sql"),
        ({**BOTH_WAYS, "0003_mail.down.sql": "SELECT 1;"}, "another schema than before"),
        ({**BOTH_WAYS, "0003_mail.sql": "UPDATE account SET owner = '';", "0003_mail.down.sql": "SELECT 1;"}, "public.account has other rows"),
        ({**BOTH_WAYS, "0003_mail.down.sql": "SELECT 1 / 0;"}, "division by zero"),
    ],
)
def test_what_does_not_come_back_the_same_needs_a_restore(site: Site, files: dict[str, str], words: str) -> None:
    result = site.rehearse(files)
    assert result["reversible"] == "restore" and words in gate(result, "reversible")["sentence"]
    assert site.server.sql("SELECT max(number) FROM sluice_migrations", result["database"]) == "3"  # it is left migrated, for the versions' smoke


def test_nothing_pending_has_nothing_to_take_back(site: Site) -> None:
    result = site.rehearse(BASE)
    assert result["reversible"] == "none" and result["rehearsal"]["before"] == result["rehearsal"]["fingerprint"]


def test_impact_is_told(site: Site) -> None:
    result = site.rehearse({**BASE, "0003_wide.sql": "ALTER TABLE entry ALTER cents TYPE bigint;"}, floor_moves=True)
    assert result["impact"]["rewritten"] == ["public.entry"] and "Rewritten: public.entry" in gate(result, "impact")["sentence"]
    assert result["rehearsal"]["floor_moves"] and gate(result, "classes")["verdict"] == gate(result, "contract")["verdict"] == "waived"
    assert "public.entry.cents was integer and is bigint" in gate(result, "contract")["sentence"]


def test_a_contract_step_is_refused_by_its_text_and_by_what_it_does(site: Site) -> None:
    site.good("drill", backup=site.backup()["backup"]["path"])
    for check in (True, False):
        message = site.bad("rehearsal", check, directory=site.files({**BASE, "0003_gone.sql": "\nALTER TABLE entry DROP cents;"}))
        assert "0003_gone line 2 drops: entry drop column cents" in message and "migrate_floor_moves: true" in message
    hidden = "DO $$ BEGIN EXECUTE 'ALTER TABLE entry DR' || 'OP cents'; END $$;"
    message = site.bad("rehearsal", directory=site.files({**BASE, "0003_gone.sql": hidden}))
    assert "On the copy, public.entry.cents is gone" in message and site.databases() == f"{site.database} {site.database}_restored"


def test_squawk_is_asked_and_its_absence_is_told(site: Site) -> None:
    site.good("drill", backup=site.backup()["backup"]["path"])
    plain = {**BASE, "0003_slow.sql": "CREATE INDEX ON account (owner);"}
    advice = gate(site.good("rehearsal", directory=site.files(plain)), "lint")
    assert advice["verdict"] == "pass" and "0003_slow line 1" in advice["sentence"] and "require-concurrent-index-creation" in advice["sentence"]
    assert "require-concurrent-index-creation" in site.bad("rehearsal", directory=site.files(plain), lint="required")
    ignored = {**BASE, "0003_slow.sql": "-- squawk-ignore require-concurrent-index-creation\nCREATE INDEX ON account (owner);"}
    assert gate(site.good("rehearsal", directory=site.files(ignored), lint="required"), "lint")["value"] == 0
    assert "lint" not in {each["name"] for each in site.good("rehearsal", check=True, directory=site.files(plain), lint="off")["gates"]}


def test_a_schema_changed_past_the_migrations_is_found_before_and_after(site: Site) -> None:
    expected = site.rehearse(MORE)["rehearsal"]
    site.sql("CREATE INDEX by_hand ON entry (cents)")
    before = site.state()
    assert "was changed since the rehearsal" in site.bad("migrate", directory=site.files(MORE), expected=expected) and site.state() == before
    site.sql("DROP INDEX by_hand")
    body = "BEGIN IF to_regclass(''sneaked'') IS NULL THEN CREATE TABLE sneaked (); END IF; END"
    site.sql(f"CREATE FUNCTION sneak() RETURNS event_trigger LANGUAGE plpgsql AS '{body}'")
    expected = site.good("rehearsal", directory=site.files(MORE))["rehearsal"]
    site.sql("CREATE EVENT TRIGGER sneak ON ddl_command_end WHEN TAG IN ('ALTER TABLE') EXECUTE FUNCTION sneak()")
    expected["before"] = expected["fingerprint"]
    expected["heads"] = None  # as a cut run would find it: only the end is compared
    message = site.bad("migrate", directory=site.files(MORE), expected=expected)
    assert "another schema than the copy had after the rehearsal" in message and site.sql("SELECT max(number) FROM sluice_migrations") == "3"


def test_a_run_far_slower_than_the_rehearsal_warns(site: Site) -> None:
    result = site.migrate({**BASE, "0003_slow.sql": "SELECT pg_sleep(1.1);"}, expected={"seconds": 0.1})
    assert "times as long as in the rehearsal" in str(result["warnings"])
    slow = site.files({**BASE, "0003_slow.sql": "SELECT pg_sleep(1.1);", "0004_slow.sql": "SELECT pg_sleep(0.3);"})
    site.good("drill", backup=site.backup()["backup"]["path"])
    assert "the limit is 0.1 s. The slowest is 0004_slow" in site.bad("rehearsal", directory=slow, limit_s=0.1)


def test_a_lock_timeout_over_the_deadlock_timeout_is_refused(site: Site) -> None:
    for milliseconds in (0, 1000):
        assert "deadlock_timeout of 1000 ms" in site.bad("migrate", directory=site.files(MORE), lock_timeout_ms=milliseconds)


def test_a_concurrent_index_is_built_outside_of_a_transaction(site: Site) -> None:
    assert "refuses inside a transaction" in site.bad("migrate", directory=site.files({**BASE, "0003_x.sql": "CREATE INDEX CONCURRENTLY ON account (owner);"}))
    files = {**BASE, "0003_index.sql": INDEX}
    result = site.rehearse(files)
    assert "It left" not in str(result)
    # A transaction far longer than lock_timeout: a concurrent build waits for it and holds nobody up.
    holder = Holder(site, "INSERT INTO account VALUES (99999, 'x')")
    process = site.start("migrate", directory=site.files(files), expected=result["rehearsal"])
    wait_for(lambda: site.sql("SELECT count(*) FROM pg_stat_progress_create_index") == "1")
    time.sleep(0.6)
    holder.end()
    assert [entry["name"] for entry in site.finish(process)["applied"]] == ["0003_index"]


def test_an_invalid_leftover_is_named_and_not_passed_over(site: Site) -> None:
    files = {**BASE, "0003_index.sql": INDEX.replace("INDEX CONCURRENTLY account_owner", "UNIQUE INDEX CONCURRENTLY IF NOT EXISTS account_owner")}
    site.sql("UPDATE account SET owner = 'twice' WHERE id IN (1, 2)")
    message = site.bad("migrate", directory=site.files(files))
    assert "could not create unique index" in message and "It left: the invalid index account_owner." in message and "twice" not in message
    site.sql("UPDATE account SET owner = id::text")
    message = site.bad("migrate", directory=site.files(files))
    assert "names the index account_owner, which is there and invalid" in message and "DROP INDEX CONCURRENTLY account_owner;" in message
    site.sql("DROP INDEX account_owner")
    assert site.migrate(files)["after"] == ["0003_index"]


def test_a_migration_that_holds_the_app_up_is_stopped(site: Site) -> None:
    before = site.state()
    process = site.start("migrate", directory=site.files({**BASE, "0003_hold.sql": "LOCK TABLE account; SELECT pg_sleep(30);"}), max_blocked=0.5)
    wait_for(lambda: site.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(30)%' AND pid <> pg_backend_pid()") == "1")
    started = time.monotonic()
    site.sql("SELECT count(*) FROM account")
    assert time.monotonic() - started < 20
    result = site.finish(process)
    assert "Migration 0003_hold was stopped: 1 sessions waited up to" in result["msg"] and "Nothing of it was applied." in result["msg"], result
    assert site.state() == before


def test_two_migrators_at_once_apply_everything_once(site: Site) -> None:
    folder = site.files({**MORE, "0004_nap.sql": "SELECT pg_sleep(0.5);"})
    both = [site.start("migrate", directory=folder, lock_wait=20) for _each in range(2)]
    results = [json.loads(process.communicate(timeout=60)[0]) for process in both]
    assert sorted(len(result["applied"]) for result in results) == [0, 2] and not any(result.get("failed") for result in results)


def test_a_lost_lock_stops_before_the_next_step(site: Site) -> None:
    files = site.files({**MORE, "0004_nap.sql": "SELECT pg_sleep(1);", "0005_more.sql": "ALTER TABLE account ADD more int;"})
    process = site.start("migrate", directory=files)
    wait_for(lambda: site.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(1)%' AND pid <> pg_backend_pid()") == "1")
    site.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sluice:migrate:wallet:session' AND datname = current_database()")
    result = site.finish(process)
    assert result["failed"] and "There is no connection" in result["msg"] or "terminat" in result["msg"], result
    assert "more" not in site.state()
    assert site.good("migrate", directory=files)["after"] == ["0005_more"]


def test_a_server_that_goes_away_in_the_middle_is_told_and_the_next_run_goes_on(site: Site) -> None:
    files = site.files({**MORE, "0004_nap.sql": "CREATE TABLE nap (); SELECT pg_sleep(20);"})
    process = site.start("migrate", directory=files)
    wait_for(lambda: site.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(20)%' AND pid <> pg_backend_pid()") == "1")
    assert site.server.process
    site.server.process.send_signal(signal.SIGQUIT)  # as a crash: no goodbye to anybody
    site.server.process.wait(timeout=20)
    try:
        result = site.finish(process)
    finally:
        site.server.start()
    assert result["failed"] and [entry["name"] for entry in result["applied"]] == ["0003_mail"] and "There is no connection" in result["msg"], result
    again = site.migrate({**MORE, "0004_nap.sql": "CREATE TABLE nap ();"})
    assert again["before"] == ["0003_mail"] and again["after"] == ["0004_nap"]


def run_to(site: Site, module: str, number: int, **arguments: Any) -> tuple[int, int]:
    """Run a module that ends itself by SIGKILL before its n-th call that changes something; return its exit code and the calls it made."""
    words = {"app": APP, "env_file": str(site.env), "client_directory": str(site.server.programs), "lock_wait": 5, **arguments}
    env = {"PYTHONPATH": str(site.collections), "PATH": os.environ["PATH"], "HOME": str(site.folder), "TMPDIR": str(site.folder)}
    name = f"ansible_collections.sluice.deploy.plugins.modules.{module}"
    program = [sys.executable, str(CHECKOUT / "tests/e2e/kill_at.py"), name, str(number), str(site.folder)]
    process = subprocess.Popen(program, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _out, err = process.communicate(json.dumps({"ANSIBLE_MODULE_ARGS": words}), timeout=60)
    return process.returncode, err.count("\n")


@pytest.mark.parametrize("module", ["rehearsal", "migrate"])
def test_a_kill_at_any_point_leaves_what_the_next_run_finishes(site: Site, module: str) -> None:
    files = {**BASE, "0003_mail.sql": "ALTER TABLE account ADD mail text;", "0003_mail.down.sql": "ALTER TABLE account DROP mail;"}
    site.rehearse(files)
    arguments = {"directory": site.files(files), **({"rehearsal": f"{site.database}_rehearsal"} if module == "migrate" else {"lint": "off"})}
    _rc, calls = run_to(site, module, 0, **{**arguments, "directory": site.files(BASE)} if module == "migrate" else arguments)
    site.files(files)
    assert calls > 5
    for number in range(2, calls, max(2, calls // 6)):
        assert run_to(site, module, number, **arguments)[0] == -signal.SIGKILL, number
    result = site.good(module, **arguments)
    assert (result["reversible"] == "down") if module == "rehearsal" else (result["after"] == ["0003_mail"] and result["pending"] == [])
    assert site.databases() == f"{site.database} {site.database}_restored" if module == "migrate" else f"{site.database}_rehearsal" in site.databases()
    wait_for(lambda: site.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'sluice:%' AND datname = current_database()") == "0")


def test_the_table_of_the_supabase_cli_is_kept(site: Site) -> None:
    files = {"20260101000000_first.sql": "CREATE TABLE one ();", "20260102000000_Second step.sql": "CREATE TABLE two ();"}
    arguments = {"tool": "supabase"}
    done = site.migrate(files, **arguments)
    assert done["after"] == ["20260102000000_Second step"]
    table = site.sql("SELECT version, name, statements[1] FROM supabase_migrations.schema_migrations ORDER BY 1").splitlines()
    assert table == ["20260101000000|first|CREATE TABLE one ();", "20260102000000|Second step|CREATE TABLE two ();"]
    assert not site.migrate(files, **arguments)["changed"]
    site.sql("INSERT INTO supabase_migrations.schema_migrations (version) VALUES ('20260103000000')")  # pushed by the CLI from elsewhere
    assert "20260103000000 was applied and its file is missing" in site.bad("migrate", directory=site.files(files), **arguments)
    site.sql("DELETE FROM supabase_migrations.schema_migrations WHERE version = '20260101000000'")
    assert "is new but stands below" in site.bad("migrate", directory=site.files(files), **arguments)


def test_others_wait_no_longer_than_the_lock_timeout(site: Site) -> None:
    holder = Holder(site, "SELECT count(*) FROM account")
    longest, stop = [0.0], threading.Event()

    def read() -> None:
        reader = site.server.client(site.database, "reader")
        assert reader.stdin and reader.stdout
        while not stop.is_set():
            began = time.monotonic()
            reader.stdin.write("SELECT count(*) FROM account WHERE id = 1;\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == "1\n"
            longest[0] = max(longest[0], time.monotonic() - began)
        reader.communicate(timeout=10)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert "did not get its lock in 2 attempts" in site.bad("migrate", directory=site.files(MORE), retries=1)
    finally:
        stop.set()
        reader.join()
        holder.end()
    assert 0.2 < longest[0] < 0.6
