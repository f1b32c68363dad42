# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrations: the order of files, what is due, and what is refused before anything runs."""

from __future__ import annotations

import hashlib

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import migrations
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.migrations import Applied, Failure
from hypothesis import given
from hypothesis import strategies as st

FILES = {"0001_base.sql": b"CREATE TABLE a ();", "0002_more-words.sql": b"ALTER TABLE a ADD b int;", "0003_last.sql": b"SELECT 1"}


def rows(count: int) -> list[Applied]:
    return [Applied(found.number, found.name, found.sha256) for found in migrations.arrange(FILES)[:count]]


@pytest.mark.parametrize("count", range(4))
def test_what_is_due_is_what_was_not_applied(count: int) -> None:
    due = migrations.pending(migrations.arrange(FILES), rows(count))
    assert [found.name for found in due] == ["0001_base", "0002_more-words", "0003_last"][count:]


@given(st.integers(1, 200), st.integers(0, 200))
def test_applied_and_due_make_the_whole(count: int, done: int) -> None:
    files = migrations.arrange({f"{number:04d}_x.sql": str(number).encode() for number in range(1, count + 1)})
    applied = [Applied(found.number, found.name, found.sha256) for found in files[:done]]
    assert len(applied) + len(migrations.pending(files, applied)) == count
    assert migrations.heads(applied) == ([files[min(done, count) - 1].name] if done else [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"0002_again.sql": b""}, "Two migrations have the number 0002: 0002_again and 0002_more-words"),
        ({"0007_far.sql": b""}, "Between 0003_last and 0007_far the migration 0004 to 0006 is missing"),
        ({"0005_far.sql": b""}, "the migration 0004 is missing"),
        ({"4_short.sql": b""}, "4_short.sql is not named like a migration"),
        ({"0004 space.sql": b""}, "is not named like a migration"),
        ({"0004_x.sql": b"\xff"}, "not UTF-8"),
        ({"0004_x.sql": b"SELECT 1;\n\\! id\n"}, "backslash command"),
        ({"0004_x.sql": b"-- head\nBEGIN;\nSELECT 1;\nCOMMIT;"}, "holds BEGIN"),
        ({"0004_x.sql": b"SELECT 1; /* x */ commit"}, "holds COMMIT"),
        ({"0004_x.sql": b"start transaction;"}, "holds START"),
    ],
)
def test_a_folder_out_of_order_is_refused(change: dict[str, bytes], words: str) -> None:
    with pytest.raises(SluiceError) as caught:
        migrations.arrange({**FILES, **change})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE FUNCTION f() RETURNS void AS $$ BEGIN NULL; COMMIT; END $$ LANGUAGE plpgsql;",
        "DO $body$ BEGIN PERFORM 1; END; $body$;",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END;",
        "INSERT INTO a VALUES ('x; COMMIT; \\ '); -- ; COMMIT",
        "INSERT INTO a VALUES (E'it\\'s; COMMIT;');",
        'COMMENT ON COLUMN a."; COMMIT;" IS NULL; /* ; ROLLBACK; */',
        'CREATE TABLE start (begin_at date, "end" date);',
    ],
)
def test_words_that_only_look_like_transactions_are_let_through(sql: str) -> None:
    assert migrations.arrange({"0001_x.sql": sql.encode()})[0].sql == sql


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({**FILES, "0001_base.sql": b"CREATE TABLE edited ();"}, "0001_base was applied and its file was edited since"),
        ({name: FILES[name] for name in list(FILES)[1:]}, "0001_base was applied and its file is missing"),
        ({**{name: FILES[name] for name in list(FILES)[1:]}, "0001_other.sql": b""}, "0001_base was applied and its file is now named 0001_other"),
        ({**FILES, "0000_early.sql": b""}, "0000_early is new but stands below the applied 0002_more-words"),
    ],
)
def test_files_that_disagree_with_the_database_are_refused(files: dict[str, bytes], words: str) -> None:
    with pytest.raises(SluiceError) as caught:
        migrations.pending(migrations.arrange(files), rows(2))
    assert words in str(caught.value)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(SluiceError) as caught:
        migrations.pending(migrations.arrange({"0002_more-words.sql": b"edited"}), rows(2))
    assert len(caught.value.facts["problems"]) == 2


@pytest.mark.parametrize("table", ["sluice_migrations", "ops.done"])
def test_names_of_tables(table: str) -> None:
    assert migrations.check_table(table) == table


@pytest.mark.parametrize("table", ["", "a b", "a.b.c", 'a"', "A", "a;drop", "a" * 64])
def test_what_is_no_name_of_a_table(table: str) -> None:
    with pytest.raises(SluiceError):
        migrations.check_table(table)


@given(st.text(), st.text())
def test_a_lock_key_fits_and_tells_apps_apart(app: str, database: str) -> None:
    key = migrations.lock_key(app, database)
    assert -(2**63) <= key < 2**63
    assert key == migrations.lock_key(app, database) != migrations.lock_key(app + "x", database)


def test_the_file_keeps_its_line_numbers_and_the_row_its_hash() -> None:
    found = migrations.arrange({"0001_it.sql": b"SELECT 1;\nSELECT 2 -- no end"})[0]
    text = migrations.script(found, migrations.LAYOUTS["sql"], '"public"."t"', "it's", 300, 60)
    assert text.splitlines()[1] == "SELECT 2 -- no end" and text.splitlines()[2] == ";"
    assert hashlib.sha256(b"SELECT 1;\nSELECT 2 -- no end").hexdigest() in text and "E'it''s'" in text


def test_an_error_is_read_without_the_details_that_show_data() -> None:
    said = (
        'psql:<stdin>:1: NOTICE:  00000: relation exists\npsql:<stdin>:7: ERROR:  23505: could not create unique index "u"\n'
        "DETAIL:  Key (mail)=(a@b.c) is duplicated.\n"
        "LOCATION:  x, y.c:1\n"
    )
    assert migrations.failure(said) == Failure(7, "23505", 'could not create unique index "u"')
    assert migrations.failure("") == Failure(0, "", "psql said nothing")


@given(st.integers(1, 10), st.integers(0, 10), st.floats(0, 1), st.sampled_from(["55P03", "40P01", "23505", ""]))
def test_only_a_lock_is_tried_again_and_only_so_often(attempt: int, retries: int, chance: float, state: str) -> None:
    delay = migrations.retry_delay(Failure(1, state, ""), attempt, retries, chance)
    assert (delay is not None) == (state == "55P03" and attempt <= retries)
    assert delay is None or 1 <= delay <= 1.9


def test_blockers_are_named() -> None:
    seen = [{"pid": 7, "application_name": "report", "state": "idle in transaction", "query_start": "2026-01-01"}]
    assert migrations.name_blockers(seen) == "blocked by pid 7 (report, idle in transaction, its last query began 2026-01-01)"
    assert migrations.name_blockers([]) == "nobody was seen holding the lock"
