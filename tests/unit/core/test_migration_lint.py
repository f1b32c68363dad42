# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The classes of what migrations do, and what is refused before it runs."""

from __future__ import annotations

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import migration_lint as lint
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.facts import Schema
from ansible_collections.sluice.deploy.plugins.module_utils.core.sql_text import statements
from hypothesis import given
from hypothesis import strategies as st

EXPAND, CONTRACT, DATA, IRREVERSIBLE = lint.CLASSES


@pytest.mark.parametrize(
    ("sql", "classes"),
    [
        ("CREATE TABLE a (id int NOT NULL)", [EXPAND]),
        ("ALTER TABLE a ADD b text", [EXPAND]),
        ("ALTER TABLE a ADD COLUMN b numeric(3, 2) NOT NULL DEFAULT 0", [EXPAND]),
        ("ALTER TABLE a ADD b int NOT NULL", [CONTRACT]),
        ("ALTER TABLE a ADD type text, ADD CONSTRAINT c CHECK (type <> 'x') NOT VALID", [EXPAND]),
        ("ALTER TABLE a ALTER b DROP NOT NULL, DROP CONSTRAINT c", [EXPAND]),
        ("ALTER TABLE a ALTER COLUMN b SET NOT NULL", [CONTRACT]),
        ("ALTER TABLE a ALTER b TYPE bigint", [CONTRACT, IRREVERSIBLE]),
        ("ALTER TABLE a ALTER b SET DATA TYPE bigint USING 1", [CONTRACT, IRREVERSIBLE]),
        ("ALTER TABLE a ALTER type SET DEFAULT 3", [EXPAND]),
        ("ALTER TABLE a ALTER b DROP DEFAULT", [CONTRACT]),
        ('ALTER TABLE ONLY "A b" ADD c int, DROP IF EXISTS "d e" CASCADE', [EXPAND, CONTRACT, IRREVERSIBLE]),
        ("ALTER TABLE a RENAME b TO c", [CONTRACT]),
        ("ALTER TABLE a RENAME CONSTRAINT b TO c; ALTER INDEX d RENAME TO e; DROP INDEX f", [EXPAND]),
        ("DROP TABLE IF EXISTS a", [CONTRACT, IRREVERSIBLE]),
        ("DROP VIEW v", [CONTRACT]),
        ("REVOKE ALL ON a FROM b", [CONTRACT]),
        ("ALTER TYPE mood ADD VALUE 'x'", [EXPAND, IRREVERSIBLE]),
        ("UPDATE a SET b = 'drop table c'", [DATA, IRREVERSIBLE]),
        ("INSERT INTO a VALUES ('; DROP TABLE a;')", [DATA]),
        ("WITH x AS (DELETE FROM a RETURNING 1) SELECT * FROM x", [DATA, IRREVERSIBLE]),
        ("TRUNCATE a", [DATA, IRREVERSIBLE]),
        ("DO $$ BEGIN IF true THEN ALTER TABLE a DROP b; END IF; END $$", [CONTRACT, DATA, IRREVERSIBLE]),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ DELETE FROM a $$", [EXPAND]),
        ("-- DROP TABLE a\nSET search_path = b; /* RENAME */ COMMENT ON TABLE a IS 'x'", []),
        ("BEGIN; UPDATE alembic_version SET version_num = 'x'; COMMIT", []),
        ("CREATE TABLE a (b int); ALTER TABLE a ALTER b SET NOT NULL; DROP TABLE a", [EXPAND]),
    ],
)
def test_classes(sql: str, classes: list[str]) -> None:
    assert lint.classes_of(lint.classify("m", sql)) == classes


def test_what_an_earlier_migration_of_the_release_creates_may_be_changed() -> None:
    created: set[str] = set()
    lint.classify("one", "CREATE TABLE shop.a (b int)", created)
    assert lint.classes_of(lint.classify("two", "ALTER TABLE shop.a DROP b", created)) == [EXPAND]


def test_a_step_names_its_line_and_no_value() -> None:
    (step,) = lint.classify("m", "\n\n-- first\nUPDATE a\n SET b = 'a secret'")
    assert step.line == 4 and "secret" not in step.words and step.words == "changes rows: UPDATE a SET b = ?"


@given(st.text(alphabet=st.characters(exclude_characters="'\\", exclude_categories=["Cs"])))
def test_what_stands_in_a_string_is_no_statement(text: str) -> None:
    assert len(statements(f"SELECT '{text}'; SELECT 2")) == 2


@pytest.mark.parametrize(
    ("sql", "unread", "floor_moves", "mode", "verdict"),
    [
        ("CREATE TABLE a ()", [], False, "advisory", "pass"),
        ("DROP TABLE a", [], False, "advisory", "fail"),
        ("DROP TABLE a", [], True, "required", "waived"),
        ("", ["x.js"], False, "advisory", "pass"),
        ("", ["x.js"], False, "required", "inconclusive"),
    ],
)
def test_the_gate_over_the_classes(sql: str, unread: list[str], floor_moves: bool, mode: str, verdict: str) -> None:
    gate = lint.judge_classes(lint.classify("m", sql), unread, floor_moves, mode)
    assert gate.verdict == verdict and (verdict not in ("fail", "inconclusive") or gate.remedy)


@pytest.mark.parametrize(
    ("findings", "mode", "verdict"),
    [
        (None, "required", "inconclusive"),
        (None, "advisory", "pass"),
        ([], "required", "pass"),
        (["m line 1: x (y)"], "required", "fail"),
        (["m line 1: x (y)"], "advisory", "pass"),
    ],
)
def test_the_gate_over_squawk(findings: list[str] | None, mode: str, verdict: str) -> None:
    assert lint.judge_squawk(findings, 1, mode).verdict == verdict


def test_squawk_is_read() -> None:
    said = '[{"file": "/tmp/0.sql", "line": 2, "message": "Slow.", "rule_name": "r", "level": "Warning"}]'
    assert lint.squawk_findings("0007_x", said) == ["0007_x line 3: Slow (r)"]
    with pytest.raises(SluiceError, match="did not answer in JSON"):
        lint.squawk_findings("0007_x", "Usage: squawk")


def test_columns_of_a_schema_and_what_it_lost() -> None:
    before = Schema("column t.a: place 1, integer, not null\ncolumn t.b: place 2, text\ncolumn t.c: place 3, numeric(3,2)\ntable t: owner x\n")
    after = Schema(
        "column t.a: place 1, bigint, not null\ncolumn t.b: place 2, text, not null\ncolumn t.d: place 3, int, not null\ncolumn u.x: place 1, int, not null\n"
    )
    assert lint.columns(before) == {"t.a": "integer!", "t.b": "text", "t.c": "numeric(3,2)"}
    lost = lint.columns_lost(lint.columns(before), lint.columns(after))
    assert lost == ["t.a was integer and is bigint", "t.b must be given now", "t.c is gone", "t.d is new and must be given"]
    relaxed = Schema(
        "column t.a: place 1, integer\ncolumn t.b: place 2, text\ncolumn t.c: place 3, numeric(3,2)\ncolumn t.e: place 4, int, not null, default 1\n"
    )
    assert lint.columns_lost(lint.columns(before), lint.columns(relaxed)) == []
    assert [lint.judge_columns(words, moves).verdict for words, moves in (([], False), (lost, False), (lost, True))] == ["pass", "fail", "waived"]
