# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The judge on simulated rollouts, on fewer runs than the benchmark: it is seldom wrong, and quick where it must be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from statistics import median

from ansible_collections.sluice.deploy.benchmarks.judging import ours, rivals
from ansible_collections.sluice.deploy.benchmarks.judging.traces import STEADY, TWO_KINDS, Behaviour, Scenario, draw
from ansible_collections.sluice.deploy.plugins.module_utils.core import judge
from ansible_collections.sluice.deploy.plugins.module_utils.core.limits import Limits
from ansible_collections.sluice.deploy.plugins.module_utils.core.sample import Sample, merge


def moments(scenario: Scenario, runs: int, look: int) -> list[float]:
    """Return the seconds at which canaries were taken back."""
    found = [ours.watch(draw(scenario, 700 + seed), look).rollback for seed in range(runs)]
    return [at for at in found if at is not None]


def test_identical_slots_are_left_alone_at_thirty_looks() -> None:
    alike = Scenario("alike", False, Behaviour(0.01), Behaviour(0.01), steps=((10, 300),))
    assert len(moments(alike, 30, look=10)) <= 1


def test_ten_times_the_errors_are_caught_within_seconds() -> None:
    caught = moments(Scenario("ten times", True, Behaviour(0.1), Behaviour(0.01), steps=((10, 120),)), 100, look=2)
    assert len(caught) >= 99 and median(caught) <= 15


def test_a_p95_between_two_kinds_of_pages_is_left_alone() -> None:
    mixed = Behaviour(times=TWO_KINDS)
    assert not moments(Scenario("alike", False, mixed, mixed, rate=10, steps=((50, 120),)), 45, look=5)


def test_two_slots_above_the_limit_are_not_told_apart_by_chance() -> None:
    unwell = Behaviour(0.02)
    assert not moments(Scenario("alike", False, unwell, unwell, rate=5, steps=((50, 200),)), 45, look=10)


def test_three_times_the_p95_ends_the_first_step_early() -> None:
    caught = moments(Scenario("slow", True, Behaviour(times=STEADY.slower(3)), steps=((5, 300),)), 20, look=10)
    assert len(caught) >= 19 and median(caught) <= 120


def several(*scenarios: Scenario, seed: int) -> Iterator[Sample]:
    """Yield what is seen at each look of a rollout whose visitors make several kinds of requests; each scenario is one of them."""
    rollouts = [draw(scenario, 1000 * seed + number)[0] for number, scenario in enumerate(scenarios)]
    pools = [(ours.Pool(), ours.Pool()) for _scenario in scenarios]
    for seconds in zip(*rollouts):
        for (mine, other), second in zip(pools, seconds):
            mine.add(second.canary)
            other.add(second.live)
        strata = {name: {f"kind{number}": pair[side].sample() for number, pair in enumerate(pools)} for side, name in enumerate((ours.CANARY, ours.LIVE))}
        whole = merge([Sample(slots={name: part}) for name, parts in strata.items() for part in parts.values()])
        yield replace(whole, strata=strata)


def taken_back(*scenarios: Scenario, seed: int, limits: Limits = ours.LIMITS) -> bool:
    return any(judge.alarm(sample, ours.CANARY, ours.LIVE, limits) for sample in several(*scenarios, seed=seed))


def kind(canary: float, live: float, rate: float, percent: int = 10) -> Scenario:
    """A kind of requests at six looks; what the simulation calls a second is ten of them here."""
    return Scenario("kind", False, Behaviour(canary), Behaviour(live), rate=10 * rate, steps=((percent, 6),))


def test_three_kinds_are_no_three_chances_to_be_wrong() -> None:
    wrong = [
        taken_back(kind(0.01, 0.01, 2.5, percent), kind(0.01, 0.01, 0.8, percent), kind(0.05, 0.05, 0.2, percent), seed=seed)
        for seed in range(250)
        for percent in (5, 10, 25, 50)
    ]
    assert len(wrong) == 1000 and sum(wrong) <= 20


def test_a_rare_kind_that_fails_is_caught_among_many_good_ones() -> None:
    payments, pages = kind(0.4, 0.01, 5.0), kind(0.001, 0.001, 40.0)
    assert sum(taken_back(pages, payments, seed=seed) for seed in range(50)) >= 48


def test_another_mix_is_not_blamed() -> None:
    # Nine of ten of the canary's requests are of a kind that fails more often, of live's it is one of ten.
    for seed in range(50):
        often, seldom = kind(0.03, 0.03, 10.0, 50), kind(0.001, 0.001, 10.0, 50)
        often, seldom = replace(often, steps=((90, 6),)), replace(seldom, steps=((10, 6),))
        assert not taken_back(often, seldom, seed=seed)


def test_the_rivals_do_what_their_sources_say() -> None:
    dead = draw(Scenario("dead", True, Behaviour(1.0), rate=10), 1)
    assert (rivals.naive(dead, 10), rivals.flagger(dead), rivals.kayenta(dead)) == (10, 600, 600)
    good = draw(Scenario("good", False, Behaviour(0.0), Behaviour(0.0), rate=10), 1)
    assert (rivals.naive(good, 10), rivals.flagger(good), rivals.kayenta(good)) == (None, None, None)
    silent = draw(replace(Scenario("silent", True, None), rate=10.0), 1)
    assert (rivals.naive(silent, 10), rivals.flagger(silent), rivals.kayenta(silent)) == (None, 600, 600)
    # The table of the exact test (5 and 5 values, 90 %) names the fifth smallest difference as well.
    lower, estimate = rivals.shift([5, 7, 9, 11, 13], [1, 2, 3, 4, 6], 0.9)
    assert (lower, estimate) == (3, 6) and rivals.is_high([5, 7, 9, 11, 13], [1, 2, 3, 4, 6], 0.9, 0.25)
