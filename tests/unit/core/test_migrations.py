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


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"0001_x.sql": b"SELECT 1;\nCREATE INDEX CONCURRENTLY i ON a (b);"}, "refuses inside a transaction"),
        ({"0001_x.sql": b"VACUUM a"}, "refuses inside a transaction"),
        ({"0001_x.sql": b"-- sluice: no-transaction\nSELECT 1; SELECT 2"}, "holds 2 statements"),
        ({"0001_x.sql": b"-- sluice: no-transaction\n"}, "holds 0 statements"),
        ({"0001_x.sql": b"-- sluice: no-transaction\nCOMMIT"}, "holds COMMIT"),
        ({"0001_x.sql": b"", "0002_y.down.sql": b""}, "0002_y.down.sql takes back a migration whose own file is missing"),
        ({"0001_x.sql": b"", "0001_x.down.sql": b"BEGIN"}, "0001_x.down.sql holds BEGIN"),
    ],
)
def test_what_cannot_run_as_it_stands_is_refused(files: dict[str, bytes], words: str) -> None:
    with pytest.raises(SluiceError) as caught:
        migrations.arrange(files)
    assert words in str(caught.value)


def test_a_concurrent_build_waits_without_a_lock_timeout() -> None:
    files = {
        "0001_i.sql": b"-- sluice: no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY i ON a (b)",
        "0002_e.sql": b"-- Sluice: no-transaction \nALTER TYPE a ADD VALUE 'b'",
    }
    texts = [migrations.script(found, migrations.LAYOUTS["sql"], "t", "", 300, 60) for found in migrations.arrange(files)]
    assert [text.split(";")[0] for text in texts] == ["SET lock_timeout = 0", "SET lock_timeout = 300"]


def test_the_way_back_is_the_newest_first_and_needs_its_files() -> None:
    files = migrations.arrange({**FILES, "0003_last.down.sql": b"DROP a", "0002_more-words.down.sql": b"DROP b"})
    assert [found.name for found in migrations.reversed_to(files, rows(3), ["0001_base"])] == ["0003_last", "0002_more-words"]
    assert migrations.reversed_to(files, rows(2), ["0002_more-words"]) == ()
    refused = ((["0009_x"], "0009_x is not applied"), ([], "there is no file 0001_base.down.sql"), (["0001_base", "0002_more-words"], "is not applied"))
    for wanted, words in refused:
        with pytest.raises(SluiceError) as caught:
            migrations.reversed_to(files, rows(3), wanted)
        assert words in str(caught.value)


def test_files_of_the_supabase_cli_have_times_and_gaps() -> None:
    layout = migrations.LAYOUTS["supabase"]
    files = migrations.arrange({"20260102000000_b c.sql": b"SELECT 'it''s'", "20260101000000_a.sql": b""}, layout)
    assert [found.name for found in files] == ["20260101000000_a", "20260102000000_b c"]
    text = migrations.script(files[1], layout, "t", "r", 300, 60)
    assert "(version, name, statements) VALUES (E'20260102000000', E'b c', ARRAY[E'SELECT ''it''''s''']" in text
    assert "WHERE version = E'20260102000000'" in migrations.script_down(files[1], layout, "t", 300, 60)
    assert migrations.pending(files, [Applied(20260101000000, "20260101000000_a", "")]) == files[1:]
