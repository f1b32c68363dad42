# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Retention: what must never go, whatever the policy says, and what a policy keeps."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import retention
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.retention import Choice, Copy, Policy
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2025, 11, 20, 12, tzinfo=timezone.utc)
POLICIES = st.builds(Policy, **{name: st.integers(0, 4) for name in ("last", "daily", "weekly", "monthly", "yearly")})
AGES = st.lists(st.integers(-3 * 24 * 60, 900 * 24 * 60), unique=True, max_size=40)
WHOLE = st.sampled_from([True, True, False])


def one(number: int, age: int) -> st.SearchStrategy[Copy]:
    created = NOW - timedelta(minutes=age)
    return st.builds(Copy, st.just("vault"), st.just(f"r{number}"), st.just(created), st.just(1), st.booleans(), WHOLE)


COPIES = AGES.flatmap(lambda ages: st.tuples(*(one(number, age) for number, age in enumerate(ages))))
PINNED = st.sets(st.sampled_from([f"r{number}" for number in range(40)]), max_size=3)


def copy(days: float, release_id: str = "", **facts: bool) -> Copy:
    return Copy("vault", release_id or f"d{days}", NOW - timedelta(days=days), 10, **facts)


def kept(choices: list[Choice]) -> list[str]:
    return [choice.copy.release_id for choice in choices if choice.keep]


@given(COPIES, POLICIES, PINNED)
def test_what_always_stays(copies: tuple[Copy, ...], rules: Policy, pinned: set[str]) -> None:
    choices = retention.choose(copies, rules, pinned, NOW)
    assert {choice.copy for choice in choices} == set(copies)
    stay = {choice.copy for choice in choices if choice.keep}
    dated = [each for each in copies if each.whole and each.created <= NOW + retention.SKEW]
    if dated:
        assert max(dated, key=lambda each: each.created) in stay
    drilled = [each for each in dated if each.drilled]
    if drilled:
        assert max(drilled, key=lambda each: each.created) in stay
    assert {each for each in copies if each.release_id in pinned} <= stay
    assert {each for each in copies if each.whole and each.created > NOW + retention.SKEW} <= stay
    assert all(choice.reason for choice in choices)


@given(COPIES, POLICIES, PINNED)
def test_pruning_twice_removes_nothing_more(copies: tuple[Copy, ...], rules: Policy, pinned: set[str]) -> None:
    once = [choice.copy for choice in retention.choose(copies, rules, pinned, NOW) if choice.keep]
    assert all(choice.keep for choice in retention.choose(once, rules, pinned, NOW))


@given(COPIES, POLICIES, st.sampled_from(["last", "daily", "weekly", "monthly", "yearly"]))
def test_a_larger_number_never_removes_more(copies: tuple[Copy, ...], rules: Policy, name: str) -> None:
    more = Policy(**{**vars(rules), name: getattr(rules, name) + 1})
    assert set(kept(retention.choose(copies, rules, (), NOW))) <= set(kept(retention.choose(copies, more, (), NOW)))


@given(COPIES, POLICIES, st.timedeltas(timedelta(0), timedelta(days=4000)))
def test_time_alone_removes_nothing(copies: tuple[Copy, ...], rules: Policy, pause: timedelta) -> None:
    """A pause in the backups is when the old ones are needed most."""
    past = [each for each in copies if each.created <= NOW]
    assert kept(retention.choose(past, rules, (), NOW)) == kept(retention.choose(past, rules, (), NOW + pause))


@given(COPIES, POLICIES, st.randoms())
def test_the_order_of_the_listing_does_not_matter(copies: tuple[Copy, ...], rules: Policy, chance: object) -> None:
    shuffled = list(copies)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert retention.choose(copies, rules, (), NOW) == retention.choose(shuffled, rules, (), NOW)


@given(POLICIES, st.integers(0, 60))
def test_no_more_stay_than_the_policy_has_places(rules: Policy, count: int) -> None:
    copies = [copy(day) for day in range(count)]
    assert len(kept(retention.choose(copies, rules, (), NOW))) <= max(1, sum(vars(rules).values()))


def test_grandfather_father_son() -> None:
    copies = [copy(day) for day in range(800)]
    choices = retention.choose(copies, Policy(last=2, daily=3, weekly=2, monthly=2, yearly=3), (), NOW)
    reasons = {choice.copy.created.strftime("%Y-%m-%d"): choice.reason for choice in choices if choice.keep}
    assert reasons == {
        "2025-11-20": "the newest; last 1 of 2; daily 2025-11-20; weekly 2025-W47; monthly 2025-11; yearly 2025",
        "2025-11-19": "last 2 of 2; daily 2025-11-19",
        "2025-11-18": "daily 2025-11-18",
        "2025-11-16": "weekly 2025-W46",
        "2025-10-31": "monthly 2025-10",
        "2024-12-31": "yearly 2024",
        "2023-12-31": "yearly 2023",
    }
    assert choices[-1].reason == "no rule keeps it"


def test_days_are_those_of_utc_and_weeks_those_of_iso() -> None:
    east = timezone(timedelta(hours=14))
    one = Copy("vault", "one", datetime(2024, 12, 30, 13, tzinfo=east), 1)  # 2024-12-29 in UTC, a Sunday: week 52
    two = Copy("vault", "two", datetime(2024, 12, 30, 1, tzinfo=timezone.utc), 1)  # a Monday: week 1 of 2025
    reasons = {choice.copy.release_id: choice.reason for choice in retention.choose([one, two], Policy(daily=2, weekly=2), (), NOW)}
    assert reasons == {"two": "the newest; daily 2024-12-30; weekly 2025-W01", "one": "daily 2024-12-29; weekly 2024-W52"}


def test_a_damaged_copy_takes_no_place_and_goes_unless_it_is_pinned() -> None:
    copies = [copy(0, "bad", whole=False), copy(1, "good"), copy(2, "old"), copy(3, "held", whole=False)]
    choices = retention.choose(copies, Policy(last=1), {"held"}, NOW)
    assert kept(choices) == ["good", "held"]
    assert "no backup" in next(choice.reason for choice in choices if choice.copy.release_id == "bad")


def test_what_no_destination_has_stays() -> None:
    assert kept(retention.choose([copy(0), copy(1), copy(2)], Policy(last=1), (), NOW, unshipped={"d2"})) == ["d0", "d2"]


@pytest.mark.parametrize("given_", [{}, {"last": 0}, {"last": -1, "daily": 3}])
def test_a_policy_that_keeps_nothing_is_refused(given_: dict[str, int]) -> None:
    with pytest.raises(SluiceError, match="retention of vault.*must be above 0"):
        retention.policy(given_, "vault")


@pytest.mark.parametrize("given_", [{"dayly": 3}, {"last": "many"}])
def test_a_rule_that_is_none_is_refused(given_: dict[str, object]) -> None:
    with pytest.raises(SluiceError, match="retention of vault"):
        retention.policy(given_, "vault")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("copies", "verdict", "sentence"),
    [
        ([copy(0.5), copy(3)], "pass", "vault: the newest backup (d0.5) is 12 hours old, the limit is 24 hours."),
        ([copy(2)], "fail", "vault: the newest backup (d2) is 2 days old, the limit is 24 hours."),
        ([copy(0, whole=False), copy(2)], "fail", "vault: the newest backup (d2) is 2 days old, the limit is 24 hours."),
        ([copy(0, whole=False)], "fail", "vault has 1 backups, and none of them is whole."),
        ([], "fail", "vault has no backup."),
        ([copy(-1, "early"), copy(0)], "inconclusive", "vault: the newest backup (early) is dated 24 hours in the future, so its age cannot be told."),
        (None, "inconclusive", "vault could not be read, so the age of its newest backup cannot be told."),
    ],
)
def test_the_age_of_the_newest(copies: list[Copy] | None, verdict: str, sentence: str) -> None:
    gate = retention.fresh("vault", copies, 86400, NOW)
    assert (gate.verdict, gate.sentence) == (verdict, sentence)
