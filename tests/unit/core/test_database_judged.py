# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks as data: what is refused, what an answer means, and what stops a release."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import database_checks as checks
from ansible_collections.sluice.deploy.plugins.module_utils.core import database_expect as expect
from ansible_collections.sluice.deploy.plugins.module_utils.core import database_input as inputs
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

GOOD = {"id": "mine", "severity": "error", "sql": "SELECT 1", "sentence": "It is so."}


def check(**more: Any) -> checks.Check:
    return inputs.checks_from([{**GOOD, **more}])[0]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'it''s; \\ fine'",
        "select $$a ; ' b$$ ;",
        "WITH a AS (SELECT 1) SELECT * FROM a -- a ; in a comment",
        '(SELECT "odd ; name" FROM x)',
        "VALUES ($tag$ ( $tag$)",
        "/* says ' what */ TABLE x",
        "SELECT E'tab'",
        "SELECT '(' || ')'",
    ],
)
def test_one_select_is_taken(sql: str) -> None:
    assert inputs.misread(sql) == ""


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("SELECT 'a", "open quote"),
        ('SELECT "a', "open quote"),
        ("SELECT 1; DROP TABLE x", "a ;"),
        ("SELECT 1 \\! rm", "backslash"),
        ("SELECT (1", "open bracket"),
        ("SELECT 1) AS a, (SELECT 2", "closing bracket too many"),
        ("SELECT /* a", "open bracket or comment"),
        ("SELECT /* a /* b */ */ 1", "comment in a comment"),
        ("SELECT E'a\\'b'", "E'...\\...'"),
        ("SELECT $$a", "open quote"),
        ("DELETE FROM x", "is no SELECT"),
        ("", "is no SELECT"),
    ],
)
def test_what_psql_would_misread_is_refused(sql: str, why: str) -> None:
    assert why in inputs.misread(sql)
    if why:
        with pytest.raises(SluiceError, match="check 1: sql"):
            check(sql=sql)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("x", "must be a mapping"),
        ({**GOOD, "sqll": ""}, "the key sqll is unknown"),
        ({**GOOD, "id": "Mine"}, "id is 'Mine'"),
        ({**GOOD, "severity": "low"}, "severity is 'low'; allowed are critical, error, warning, hint"),
        ({**GOOD, "group": "x"}, "group is 'x'"),
        ({**GOOD, "sentence": " "}, "sentence is empty"),
        ({**GOOD, "expect": {"least": 1}}, "allowed are min and max"),
        ({**GOOD, "expect": [1]}, "expect is [1]"),
        ({**GOOD, "generates": "yes"}, "generates is 'yes'"),
        ({key: value for key, value in GOOD.items() if key != "sql"}, "sql must be text and is None"),
    ],
)
def test_a_wrong_check_is_named_with_an_example(wrong: Any, said: str) -> None:
    with pytest.raises(SluiceError) as error:
        inputs.checks_from([GOOD, wrong])
    assert "database_checks: check 2: " in str(error.value) and said in str(error.value) and "Example: {id: admins" in str(error.value)


def test_ids_are_there_once() -> None:
    with pytest.raises(SluiceError, match="check 2: the id mine is there twice"):
        inputs.checks_from([GOOD, GOOD])


@pytest.mark.parametrize(
    ("wanted", "value", "passes"),
    [
        (0, 0, True),
        (0, 1, False),
        (0, "0", True),
        ({"min": 1, "max": 3}, 3, True),
        ({"min": 1}, 0.5, False),
        ({"max": 1}, "text", False),
        ("on", "on", True),
        ("on", "off", False),
        (True, True, True),
        (True, 1, False),
        (1, True, False),
    ],
)
def test_a_value_is_held_against_what_was_wanted(wanted: Any, value: Any, passes: bool) -> None:
    found = checks.outcome_of(check(expect=wanted), [{"v": value}])
    assert (not found.findings and not found.why) is passes


@pytest.mark.parametrize("rows", [[], [{"v": None}], [{"v": 0}, {"v": 0}], [{"v": 0, "w": 0}]])
def test_no_value_is_no_pass(rows: list[dict[str, Any]]) -> None:
    judged = checks.judge([checks.outcome_of(check(expect=0), rows)])[0]
    assert (judged.verdict, judged.stops) == ("error", True)


def test_a_row_that_nobody_can_tell_is_an_error_also_when_it_was_there_before() -> None:
    outcome = checks.outcome_of(check(), [{"object": "standby", "unknown": "hidden"}])
    judged = checks.judge([outcome], "after", {"mine": {"standby": None}})[0]
    assert (judged.verdict, judged.stops) == ("error", True)
    assert "standby (cannot tell, hidden)" in judged.sentence


def test_a_generated_query_without_a_number_is_unknown() -> None:
    outcome = checks.outcome_of(check(generates=True), [{"object": "a", "value": 0}, {"object": "b", "value": None}, {"object": "c", "value": 2}])
    assert [(each.object, each.value, each.unknown) for each in outcome.findings] == [("b", None, "its query returned no number"), ("c", 2.0, "")]


@pytest.mark.parametrize(
    ("severity", "when", "known", "stops"),
    [
        ("critical", "", False, True),
        ("critical", "before", False, True),
        ("critical", "after", True, True),
        ("error", "", False, True),
        ("error", "before", False, False),
        ("error", "after", False, True),
        ("error", "after", True, False),
        ("warning", "after", False, False),
        ("hint", "", False, False),
    ],
)
def test_what_stops(severity: str, when: str, known: bool, stops: bool) -> None:
    outcome = checks.outcome_of(check(severity=severity), [{"object": "a"}])
    judged = checks.judge([outcome], when, {"mine": {"a": None}} if known else {})[0]
    assert (judged.verdict, judged.stops) == ("fail", stops)
    assert ("It was there before." in judged.sentence) is known
    assert bool(checks.notes_of([judged])) is not stops


def test_what_cannot_run_stops_also_before_a_migration_unless_it_is_only_a_hint() -> None:
    outcomes = [checks.Outcome(check(severity=severity), why="no right") for severity in checks.SEVERITIES]
    assert [judged.stops for judged in checks.judge(outcomes, "before")] == [True, True, False, False]
    assert [checks.notes_of([judged]) for judged in checks.judge(outcomes)[2:]] == [
        ["warning, mine: could not run: no right"],
        ["suggestion, mine: could not run: no right"],
    ]


def test_the_worst_comes_first_and_many_findings_are_cut() -> None:
    many = checks.outcome_of(check(id="many"), [{"object": f"t{number}"} for number in range(20)])
    hint = checks.outcome_of(check(id="a-hint", severity="hint"), [{"object": "x"}])
    worst = checks.outcome_of(check(id="worst", severity="critical"), [{"object": "x"}])
    fine = checks.outcome_of(check(id="fine"), [])
    judged = checks.judge([hint, fine, many, worst])
    assert [one.check.id for one in judged] == ["worst", "many", "a-hint", "fine"]
    assert judged[1].sentence.startswith("20 found: t0; t1;") and "and 12 more." in judged[1].sentence
    assert [gate.name for gate in checks.gates_of(judged)] == ["worst", "many", "data checks"]


def test_settings_are_texts_for_the_server() -> None:
    given = inputs.settings_from({"exposed_schemas": ['a"b', "c\\d"], "sequence_share": 0.5})
    assert given["exposed_schemas"] == '{"a\\"b","c\\\\d"}' and given["sequence_share"] == "0.500000000000"
    for wrong in ({"sequence_share": 2}, {"orphans_of": "some"}, {"exposed_schemas": "public"}, {"large_bytes": True}):
        with pytest.raises(SluiceError, match="allowed"):
            inputs.settings_from(wrong)


def test_what_is_accepted_needs_a_reason() -> None:
    assert inputs.accepted_from([{"check": "mine", "reason": "why"}], ["mine"]) == [checks.Accepted("mine", "why")]
    for wrong in ({"check": "mine", "reason": " "}, {"check": "yours", "reason": "x"}, {"check": "mine", "reason": 1}, "mine"):
        with pytest.raises(SluiceError):
            inputs.accepted_from([wrong], ["mine"])


@pytest.mark.parametrize(
    ("name", "found"),
    [("Public.Wallet", '"public"."wallet"'), ('"Ünï ""x""".y', '"Ünï ""x"""."y"'), ("ärger", '"ärger"')],
)
def test_names_are_read_as_postgresql_reads_them(name: str, found: str) -> None:
    assert expect.table_name(name) == found


@pytest.mark.parametrize("name", ["a b", "a.b.c", "", "a.", '"a', "a;b", "1a", None])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(SluiceError):
        expect.table_name(name)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"table": []}, "table is unknown"),
        ({"tables": "x"}, "tables must be a list"),
        ({"functions": ["f"]}, "functions: an entry is 'f'"),
        ({"indexes": [{"table": "a"}]}, "indexes: an entry is"),
        ({"references": [{"table": "a", "columns": ["b"], "to": "c", "to_columns": ["d", "e"]}]}, "allowed is one for each"),
        ({"not_negative": [{"table": "a", "column": "b", "null": "maybe"}]}, "null is 'maybe'"),
    ],
)
def test_wrong_declarations_are_refused_with_an_example(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SluiceError) as error:
        expect.checks_of(wrong)
    assert said in str(error.value) and "Example: " in str(error.value)


def test_rows_may_change_as_was_declared() -> None:
    allowed = expect.allowed_from({"Public.a": {"min": -5}, "public.b": 3, '"public"."Ü"': {"max": 0}})
    assert not expect.row_changes({"public.a": 10, "public.b": 1}, {"public.a": 5, "public.b": 4}, allowed).findings
    found = expect.row_changes({"public.a": 10, "public.b": 1, 'public."Ü"': 0}, {"public.a": 4, "public.b": 3, 'public."Ü"': 1}, allowed).findings
    assert [each.detail for each in found] == [
        "0 rows then, 1 now; allowed is from any loss to +0",
        "10 rows then, 4 now; allowed is from -5 to any gain",
        "1 rows then, 3 now; a change of +3 is wanted",
    ]
    with pytest.raises(SluiceError, match="allowed is a number of rows"):
        expect.allowed_from({"a": "many"})


def test_a_schema_that_is_equal_has_no_diff() -> None:
    assert expect.schema_diff("a\nb\n", "a\nb\n")[1] == ""
    outcome, diff = expect.schema_diff("a\nb\n", "a\nc\n")
    assert outcome.findings and diff.splitlines()[-2:] == ["-b", "+c"]
