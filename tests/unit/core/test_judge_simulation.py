# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The judge on simulated rollouts, on fewer runs than the benchmark: it is seldom wrong, and quick where it must be."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from ansible_collections.sluice.deploy.benchmarks.judging import ours, rivals
from ansible_collections.sluice.deploy.benchmarks.judging.traces import STEADY, TWO_KINDS, Behaviour, Scenario, draw


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
