# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rehearsal proves about the real run."""

from __future__ import annotations

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import rehearsals
from ansible_collections.sluice.deploy.plugins.module_utils.core.facts import Schema, TableFact
from hypothesis import given
from hypothesis import strategies as st

OBJECTS = st.dictionaries(st.sampled_from([f"table t{n}" for n in range(6)]), st.sampled_from(["owner a", "owner b", "owner a\n    more"]))


def schema(objects: dict[str, str]) -> Schema:
    return Schema("".join(f"{line}\n" for line in sorted(f"{name}: {words}" for name, words in objects.items())))


@given(OBJECTS, OBJECTS)
def test_a_copy_that_was_the_same_foretells_the_real_one(before: dict[str, str], after: dict[str, str]) -> None:
    assert rehearsals.expected_schema(schema(before), schema(before), schema(after)) == schema(after)


def test_what_a_restore_spells_otherwise_is_taken_from_the_real_one() -> None:
    live, copy = {"table a": "CHECK (x)", "table b": "old"}, {"table a": "CHECK ((x))", "table b": "old"}
    found = rehearsals.expected_schema(schema(live), schema(copy), schema({**copy, "table b": "new", "table c": "made"}))
    assert found == schema({"table a": "CHECK (x)", "table b": "new", "table c": "made"})


@pytest.mark.parametrize(
    ("due", "problem", "same", "rows", "again", "way", "words"),
    [
        ([], "", True, [], True, "none", "nothing has to be taken back"),
        (["m"], "", True, [], True, "down", "same schema and the same rows"),
        (["m"], "no file", True, [], True, "restore", "no file"),
        (["m"], "", False, [], True, "restore", "another schema than before"),
        (["m"], "", True, ["t has other rows"], True, "restore", "t has other rows"),
        (["m"], "", True, [], False, "restore", "second way up"),
    ],
)
def test_reversible(due: list[str], problem: str, same: bool, rows: list[str], again: bool, way: str, words: str) -> None:
    found, sentence = rehearsals.reversible(due, problem, same, rows, again, [])
    assert found == way and words in sentence


def test_what_a_way_back_drops_is_said() -> None:
    sentence = rehearsals.reversible(["m"], "", True, [], True, ["drops: a drop column b"])[1]
    assert "is lost with it where the way back drops: drops: a drop column b." in sentence


def test_rows_that_differ() -> None:
    before = {"a": TableFact(1, 8, "x"), "b": TableFact(2, 8, "y"), "c": TableFact(3, 8, "z")}
    after = {"a": TableFact(1, 99, "x"), "b": TableFact(2, 8, "other"), "d": TableFact(0, 0, "0")}
    assert rehearsals.rows_differ(before, after) == ["b has other rows", "c is gone", "d is new"]


@given(st.floats(0, 1000), st.integers(0, 10**12), st.integers(0, 10**12))
def test_the_forecast_is_never_below_the_rehearsal(seconds: float, live: int, copy: int) -> None:
    assert rehearsals.forecast([{"seconds": seconds}], live, copy) >= round(seconds, 3)


@pytest.mark.parametrize(("expected", "seconds", "warns"), [(0.01, 0.9, False), (0.1, 1.1, True), (10.0, 49.0, False), (10.0, 51.0, True), (0.0, 2.0, True)])
def test_a_run_far_slower_than_rehearsed_warns(expected: float, seconds: float, warns: bool) -> None:
    assert bool(rehearsals.slower(expected, seconds)) == warns


def test_gates() -> None:
    steps = [{"name": "a", "seconds": 1.0}, {"name": "b", "seconds": 3.0}]
    assert rehearsals.judge_duration(steps, 4.0, 5.0).verdict == "pass"
    assert "The slowest is b (3.0 s)" in rehearsals.judge_duration(steps, 6.0, 5.0).sentence
    assert rehearsals.judge_duration([], 0.0, 5.0).verdict == "pass"
    assert [rehearsals.judge_fingerprint("a", found).verdict for found in "ab"] == ["pass", "fail"]
    assert [rehearsals.judge_before("a", found).verdict for found in "ab"] == ["pass", "fail"]
    locks = [{"table": "t", "mode": "AccessExclusiveLock", "seconds": 1.2}, {"table": "u", "mode": "ShareLock", "seconds": 9}]
    sentence = rehearsals.judge_impact(locks, ["t"], -2048).sentence
    assert sentence == "Locked against everybody: t 1.2 s. Rewritten: t. The database shrank by 2.0 KiB."
