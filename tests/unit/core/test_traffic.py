# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The laws of shares, buckets and weights, and what a state leads to."""

from __future__ import annotations

from fractions import Fraction

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.traffic import (
    BUCKETS,
    SALTS,
    SLOTS,
    State,
    bucket_order,
    bucket_slots,
    file_names,
    gaining,
    host_weights,
    idle_of,
    link_name,
    parse_link,
    telling_buckets,
    wanted_state,
)
from hypothesis import given
from hypothesis import strategies as st

slots = st.sampled_from(SLOTS)
percents = st.integers(0, 100)
salts = st.integers(0, SALTS - 1)
states = st.builds(State, slots, percents, salts, st.booleans())


def inside(live: str, percent: int, salt: int) -> set[int]:
    """Return the buckets that go to the idle slot."""
    return {bucket for bucket, slot in enumerate(bucket_slots(State(live, percent, salt))) if slot != live}


@given(slots, percents, percents, salts)
def test_nobody_who_was_in_falls_out_when_the_share_grows(live: str, one: int, two: int, salt: int) -> None:
    low, high = sorted((one, two))
    assert inside(live, low, salt) <= inside(live, high, salt)


@given(salts)
def test_a_salt_orders_all_buckets(salt: int) -> None:
    assert sorted(bucket_order(salt)) == list(range(BUCKETS))


def test_other_salts_let_others_in_first() -> None:
    first = [frozenset(inside("blue", 5, salt)) for salt in range(200)]
    assert len(set(first)) == 200
    counts = [sum(bucket in let_in for let_in in first) for bucket in range(BUCKETS)]
    # Each bucket is among the first five in about one release of twenty; 10 of 200 are expected.
    assert max(counts) <= 25


@given(states)
def test_shares_are_exact(state: State) -> None:
    served = bucket_slots(state)
    assert len(served) == BUCKETS
    assert {slot: served.count(slot) for slot in SLOTS} == state.shares()
    assert sum(state.shares().values()) == 100


@given(slots, salts)
def test_nothing_and_everything_are_exact(live: str, salt: int) -> None:
    assert set(bucket_slots(State(live, 0, salt))) == {live}
    assert set(bucket_slots(State(live, 100, salt))) == {idle_of(live)}


@given(states)
def test_link_name_round_trip(state: State) -> None:
    assert parse_link(link_name(state)) == state


@pytest.mark.parametrize(
    "target",
    [
        None,
        "",
        ".traffic/blue-blue-005-000",
        ".traffic/blue-green-101-000",
        ".traffic/blue-green-005",
        "/x/.traffic/blue-green-005-000",
        ".traffic/blue-green-005-000/",
        ".traffic/blue-green-005-000-others",
    ],
)
def test_other_link_targets_mean_nothing(target: str | None) -> None:
    assert parse_link(target) is None


@given(states)
def test_a_folder_names_every_bucket_once_the_live_slot_and_the_slot_of_the_testers(state: State) -> None:
    names = file_names(state)
    assert len(names) == BUCKETS + 1 + state.testers
    assert f"live.{state.live}" in names
    assert (f"testers.{state.idle}" in names) == state.testers
    assert {f"{bucket}.{slot}" for bucket, slot in enumerate(bucket_slots(state))} < names


@given(states)
def test_the_buckets_asked_lie_on_both_sides_of_the_cut(state: State) -> None:
    asked, slots_of = telling_buckets(state), bucket_slots(state)
    assert all(slots_of[bucket] == slot for bucket, slot in asked.items())
    assert set(asked.values()) == {slot for slot, share in state.shares().items() if share}


@pytest.mark.parametrize("percent", [-1, 101, True, 5.5, "5", None])
def test_other_shares_are_refused(percent: object) -> None:
    with pytest.raises(SluiceError) as error:
        State("blue", percent)  # type: ignore[arg-type]
    assert error.value.facts == {"variable": "percent", "wrong": percent, "allowed": "a whole number from 0 to 100", "example": "25"}


@pytest.mark.parametrize("salt", [-1, SALTS, True, "7"])
def test_other_salts_are_refused(salt: object) -> None:
    with pytest.raises(SluiceError, match="salt is"):
        State("blue", 5, salt)  # type: ignore[arg-type]


@given(percents, st.integers(1, 12), st.integers(1, 12), st.booleans())
def test_weights_give_the_share_exactly_however_many_hosts_there_are(percent: int, idle: int, live: int, keep_sum: bool) -> None:
    each_idle, each_live = host_weights(percent, idle, live, keep_sum)
    assert Fraction(each_idle * idle, each_idle * idle + each_live * live) == Fraction(percent, 100)


@given(percents, percents, st.integers(1, 12), st.integers(1, 12))
def test_weights_for_a_hash_keep_their_sum(one: int, two: int, idle: int, live: int) -> None:
    sums = {first * idle + second * live for first, second in (host_weights(percent, idle, live, True) for percent in (one, two))}
    assert len(sums) == 1


@given(states, states)
def test_a_slot_that_had_nothing_must_answer_first(before: State, after: State) -> None:
    for slot in SLOTS:
        if not before.shares()[slot] and after.shares()[slot]:
            assert slot in gaining(before, after)
    if before.live != after.live and after.percent < 100:
        assert after.live in gaining(before, after)
    if after.testers and not before.testers:
        assert after.idle in gaining(before, after)


@given(slots, st.integers(0, 99), percents)
def test_giving_a_canary_less_asks_nobody(live: str, had: int, percent: int) -> None:
    assert gaining(State(live, had), State(live, min(percent, had))) == ()


@given(states, slots | st.none(), percents | st.none(), salts | st.none(), st.none() | st.booleans())
def test_what_is_not_said_is_kept(before: State, live: str | None, percent: int | None, salt: int | None, testers: bool | None) -> None:
    after = wanted_state(before, live, percent, salt, testers)
    same = after.live == before.live
    assert after.live == (live or before.live)
    assert after.percent == (percent if percent is not None else before.percent if same else 0)
    assert after.salt == (before.salt if salt is None else salt)
    assert after.testers == (testers if testers is not None else before.testers and same)
