# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Going back by swap: marks survive being written, nothing is dropped that is the way back, a host that forbids it is named, losses are counted."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import losses, restores
from ansible_collections.sluice.deploy.plugins.module_utils.core.database_traits import Traits, carry_over, setting_value
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.losses import Loss
from ansible_collections.sluice.deploy.plugins.module_utils.core.restores import Kept
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, PASS, WAIVED
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=timezone.utc)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=63).filter(lambda name: len(name.encode()) <= 63)
FREE = {
    "database": "shop",
    "desk": "postgres",
    "role": "app",
    "owner": "app",
    "superuser": False,
    "createdb": True,
    "owns": True,
    "standby": False,
    "hosts": [],
}
NOTHING: dict[str, list[dict[str, Any]]] = {"prepared": [], "slots": [], "subscriptions": [], "clients": []}


@given(NAMES, st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", fullmatch=True))
def test_the_name_of_what_is_kept_always_fits_and_has_the_time(database: str, release_id: str) -> None:
    name = restores.kept_name(database, release_id, NOW)
    assert len(name.encode()) <= 63 and name.endswith("_20260102T030405678Z") and name != database
    assert name != restores.kept_name(database, release_id, NOW + timedelta(milliseconds=1))


@given(st.integers(1, 2**32), st.tuples(*[st.integers(0, 2**60)] * 3), st.booleans())
def test_a_mark_is_read_back(live: int, written: tuple[int, int, int], back: bool) -> None:
    mark = restores.kept_mark("wallet", "r-1+x", NOW, live, written, back)
    assert restores.read_kept("n", mark) == Kept("n", "wallet", "r-1+x", NOW, live, written, back)


@pytest.mark.parametrize(
    "comment",
    ["", "the shop's own", "sluice kept of wallet r1", "sluice kept of wallet r1 {}", "sluice kept of wallet r1 {broken", "sluice restored of wallet r1"],
)
def test_what_is_no_mark_is_none(comment: str) -> None:
    assert restores.read_kept("n", comment) is None


def kept(*ages: float) -> list[Kept]:
    return [Kept(f"k{number}", "wallet", f"r{number}", NOW - timedelta(days=age), number, (0, 0, 0), False) for number, age in enumerate(ages)]


def test_retention_by_number_and_age_never_takes_the_way_back() -> None:
    some = kept(1, 5, 3, 9)
    way_back = restores.newest(some, 3)
    assert way_back == some[3] and restores.newest(some, 77) is None
    assert [one.name for one in restores.to_remove(some, 2, 0, NOW, None)] == ["k3", "k1"]
    assert [one.name for one in restores.to_remove(some, 2, 0, NOW, way_back)] == ["k1"]
    assert [one.name for one in restores.to_remove(some, 9, 4, NOW, None)] == ["k3", "k1"]
    assert restores.to_remove(some, 9, 0, NOW, None) == []
    assert [one.name for one in restores.to_remove(some, 0, 1, NOW, way_back)] == ["k1", "k2", "k0"]


@pytest.mark.parametrize(
    ("change", "said", "remedy"),
    [
        ({}, "", ""),
        ({"superuser": True, "createdb": False}, "", ""),
        ({"createdb": False}, "may create and rename no databases", "ALTER ROLE app CREATEDB;"),
        ({"owns": False, "owner": '"An owner"'}, 'belongs to "An owner"', 'GRANT "An owner" TO app;'),
        ({"standby": True}, "a standby", "primary"),
        ({"database": "postgres"}, "none can rename itself", "maintenance_database"),
        (
            {"hosts": ["supabase_admin"], "database": "postgres"},
            "This is Supabase. Its services hold on to postgres",
            "point in time in the project's settings",
        ),
        ({"hosts": ["rdsadmin"]}, "", ""),
        ({"hosts": ["rdsadmin"], "createdb": False}, "This is Amazon RDS. The database user app may create", "Restore the instance to a point in time"),
    ],
)
def test_where_a_swap_is_not_allowed_one_sentence_says_what_to_do_instead(change: dict[str, Any], said: str, remedy: str) -> None:
    gate = restores.swap_gate({**FREE, **change})
    assert gate.verdict == (FAIL if said else PASS) and said in gate.sentence and remedy in gate.remedy


def test_each_thing_that_holds_on_to_the_database_is_named() -> None:
    assert [gate.verdict for gate in restores.blocking_gates("shop", NOTHING)] == [PASS]
    for kind, said in (
        ("prepared", "prepared transactions"),
        ("slots", "logical replication slots"),
        ("subscriptions", "subscriptions"),
        ("clients", "may not end"),
    ):
        gates = restores.blocking_gates("shop", {**NOTHING, kind: [{"name": "one"}, {"name": "two"}]})
        assert [gate.verdict for gate in gates] == [FAIL] and said in gates[0].sentence and "one, two" in gates[0].sentence and gates[0].remedy


def test_the_way_back() -> None:
    assert restores.choose_way("leave", "restore", 9)[0] == "leave"
    assert restores.choose_way("down", "down", 9)[0] == "down"
    assert restores.choose_way("restore", "none", 0) == ("restore", "The backup is restored; 0 rows were written since.")
    assert "down would have kept" in restores.choose_way("restore", "down", 9)[1]
    assert "an unknown number" in restores.choose_way("restore", "restore", None)[1]
    for choice, reversible in (("down", "none"), ("down", "restore"), ("up", "down")):
        with pytest.raises(SluiceError) as raised:
            restores.choose_way(choice, reversible, 0)
        assert raised.value.remedy


TRAITS = Traits(1, "app", -1, "", True, frozenset({("", "CONNECT", False), ("app", "CREATE", False)}), {})


def test_what_is_alike_needs_no_statement() -> None:
    assert carry_over("copy", TRAITS, TRAITS) == []


def test_statements_that_carry_over() -> None:
    want = Traits(
        2,
        'o"w',
        7,
        "x",
        True,
        frozenset({("", "CONNECT", False), ('o"w', "CREATE", True)}),
        {("", "search_path"): '"$user", public, "odd, one"', ("r", "app.x"): "it's"},
    )
    have = Traits(1, "app", -1, "", True, TRAITS.rights, {("", "work_mem"): "7MB"})
    assert carry_over("c", have, want) == [
        'ALTER DATABASE "c" OWNER TO "o""w"',
        'ALTER DATABASE "c" CONNECTION LIMIT 7',
        'REVOKE ALL ON DATABASE "c" FROM PUBLIC',
        'REVOKE ALL ON DATABASE "c" FROM "app"',
        'REVOKE ALL ON DATABASE "c" FROM "o""w"',
        'GRANT CONNECT ON DATABASE "c" TO PUBLIC',
        'GRANT CREATE ON DATABASE "c" TO "o""w" WITH GRANT OPTION',
        'ALTER DATABASE "c" RESET "work_mem"',
        """ALTER DATABASE "c" SET "search_path" TO E'$user', E'public', E'odd, one'""",
        """ALTER ROLE "r" IN DATABASE "c" SET "app"."x" TO E'it''s'""",
    ]
    assert setting_value("search_path", "") == "''" and setting_value("search_path", '""') == "E''"


ROWS = st.dictionaries(st.integers(0, 40), st.integers(0, 3), max_size=30)


@given(ROWS, ROWS)
def test_rows_are_compared_exactly(before: dict[int, int], now: dict[int, int]) -> None:
    loss = losses.compare_rows("t", True, (f"{key} {row}" for key, row in before.items()), (f"{key} {row}" for key, row in now.items()))
    shared = set(before) & set(now)
    assert (loss.inserted, loss.deleted) == (len(set(now) - shared), len(set(before) - shared))
    assert loss.updated == sum(before[key] != now[key] for key in shared)


def test_rows_without_a_key_are_compared_as_a_bag() -> None:
    loss = losses.compare_rows("t", False, ["1 1", "1 1", "2 2"], ["1 1", "2 2", "3 3"])
    assert (loss.inserted, loss.updated, loss.deleted) == (1, 0, 1) and "no primary key" in loss.words()


def test_counts_and_counters_say_how_sure_they_are() -> None:
    assert losses.compare_counts({"a": 3, "b": 1, "c": 2}, {"a": 5, "c": 2, "d": 1}) == [
        Loss("a", 2, 0, 0, losses.COUNTS),
        Loss("b", 0, 0, 1, losses.EXACT),
        Loss("d", 1, 0, 0, losses.EXACT),
    ]
    assert losses.compare_counters("a", (1, 2, 3), (2, 4, 6)) == Loss("a", 1, 2, 3, losses.COUNTERS)
    lost = losses.compare_counters("a", (1, 2, 3), (0, 0, 0))
    assert losses.loss_gate([lost], "r1", "then", "").verdict == FAIL and "counters were set back" in losses.loss_gate([lost], "r1", "then", "").sentence


def test_groups_are_compared_in_batches_that_fit() -> None:
    backup, live = {1: (2, "9"), 2: (1, "5"), 3: (4, "1")}, {1: (2, "9"), 2: (1, "6"), 4: (60_000, "1")}
    assert losses.differing(backup, live) == [(2, 2), (3, 4), (4, 60_000)]
    assert losses.batches([(1, 30_000), (2, 30_000), (3, 1)]) == [[1], [2, 3]]
    assert losses.batches([(1, losses.MOST_ROWS + 1)]) is None
    assert losses.at_most("t", backup, live) == Loss("t", 59_996, 5, 0, losses.AT_MOST)


def test_a_loss_is_refused_unless_its_release_is_named() -> None:
    lost = [Loss(f"t{number}", number, 0, 0, losses.EXACT) for number in range(1, 20)]
    gate = losses.loss_gate(lost, "r1", "then", "")
    assert gate.verdict == FAIL and gate.value == 190 and "t19: 19 inserted" in gate.sentence and "and 7 more tables" in gate.sentence
    with pytest.raises(SluiceError) as raised:
        losses.refuse_loss(gate, lost, [])
    assert "restore_accept_loss=r1" in raised.value.remedy and len(raised.value.facts["lost"]) == 19
    assert losses.loss_gate(lost, "r1", "then", "r1").verdict == WAIVED
    assert "which is another release" in losses.loss_gate(lost, "r1", "then", "r2").sentence
    assert losses.loss_gate([], "r1", "then", "").verdict == PASS
    late = losses.loss_gate([], "r1", "then", "", late=3)
    assert late.verdict == FAIL and "3 rows while this was prepared" in late.sentence
