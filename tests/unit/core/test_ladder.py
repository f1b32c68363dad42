# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ladder of limits: every rollback trigger is a rung of data, what cannot be read is never good, and worse readings never have milder ends."""

from __future__ import annotations

import math
from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.ladder import (
    ACTIONS,
    CONTINUE,
    FRESH_SECONDS,
    HOLD,
    METRICS,
    ROLLBACK,
    UNREADABLE_IN_A_ROW,
    WARN,
    Climb,
    Limit,
    Reading,
    climb,
    limit_from,
)
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import ERROR, FAIL, INCONCLUSIVE, PASS
from hypothesis import given
from hypothesis import strategies as st

NOW = 100_000.0
ORDER = (CONTINUE, *ACTIONS)


def rung(**keys: Any) -> Limit:
    return limit_from({"metric": "error_rate", "op": ">", "value": 0.05, "action": ROLLBACK, **{key.rstrip("_"): value for key, value in keys.items()}})


def at(seconds_ago: float, value: float | None, metric: str = "error_rate", samples: int = 1000, why: str = "") -> Reading:
    return Reading(metric, NOW - seconds_ago, value, samples, why)


def said(limit: Limit, *readings: Reading, **more: Any) -> Climb:
    return climb([limit], readings, NOW, **more)


# --- The rollback triggers of the five systems ---

# Row of the requirements, the rung it asks for, a value that fires it and one that does not.
# Where the row has no number of its own ("multiple", "sustained", "significantly"), the profile must give one; those used here are marked.
TRIGGERS: list[tuple[str, dict[str, Any], float, float]] = [
    ("S0-116 error rate exceeds 1 %", {"metric": "error_rate", "op": ">", "value": 0.01, "action": "rollback"}, 0.011, 0.01),
    ("S0-117 critical functionality broken", {"metric": "smoke_failures", "op": ">", "value": 0, "action": "rollback"}, 1, 0),
    ("S0-118 payment system failure", {"metric": "payment_success_rate", "op": "<=", "value": 0.0, "min_samples": 5, "action": "rollback"}, 0.0, 0.2),
    ("S0-119 security vulnerability discovered", {"metric": "custom:security_reports", "op": ">", "value": 0, "action": "rollback"}, 1, 0),
    ("S0-120 performance degradation above 50 %", {"metric": "p95_ratio", "op": ">", "value": 1.5, "action": "rollback"}, 1.51, 1.5),
    ("S1-152 critical functionality broken", {"metric": "smoke_failures", "op": ">", "value": 0, "action": "rollback"}, 2, 0),
    ("S1-153 error rate above 10 %", {"metric": "error_rate", "op": ">", "value": 0.1, "action": "rollback"}, 0.11, 0.1),
    ("S1-154 security vulnerability discovered", {"metric": "custom:security_reports", "op": ">", "value": 0, "action": "rollback"}, 1, 0),
    ("S1-155 payments completely failing", {"metric": "payment_success_rate", "op": "<=", "value": 0.0, "min_samples": 5, "action": "rollback"}, 0.0, 0.01),
    ("S1-156 database corruption or data loss", {"metric": "integrity_failures", "op": ">", "value": 0, "action": "rollback"}, 1, 0),
    ("S3-261 critical functionality broken", {"metric": "smoke_failures", "op": ">", "value": 0, "action": "rollback"}, 1, 0),
    ("S3-262 data corruption detected", {"metric": "integrity_failures", "op": ">", "value": 0, "action": "rollback"}, 3, 0),
    ("S3-263 security vulnerability exposed", {"metric": "custom:security_reports", "op": ">", "value": 0, "action": "rollback"}, 1, 0),
    ("S3-264 error rate above 10 %", {"metric": "error_rate", "op": ">", "value": 0.1, "action": "rollback"}, 0.5, 0.1),
    ("S3-265 multiple payment failures (profile: 3)", {"metric": "payment_failures", "op": ">=", "value": 3, "action": "rollback"}, 3, 2),
    ("S3-266 error rate above 5 % for 30 minutes", {"metric": "error_rate", "op": ">", "value": 0.05, "for": 1800, "action": "hold"}, 0.06, 0.05),
    ("S3-267 response time degraded significantly (profile: 3)", {"metric": "p95_ratio", "op": ">", "value": 3, "action": "hold"}, 3.1, 3.0),
    ("S3-268 user complaints above a threshold (profile: 5)", {"metric": "custom:complaints", "op": ">", "value": 5, "action": "hold"}, 6, 5),
    ("S4-101 health failing for more than 5 minutes", {"metric": "health_failing", "op": ">", "value": 300, "action": "rollback"}, 301, 300),
    ("S4-102 error rate above 5 %", {"metric": "error_rate", "op": ">", "value": 0.05, "action": "rollback"}, 0.051, 0.05),
    ("S4-103 authentication fails twice", {"metric": "custom:auth_smoke_failures", "op": ">=", "value": 2, "action": "rollback"}, 2, 1),
    ("S4-104 payment processing failure", {"metric": "payment_failures", "op": ">", "value": 0, "action": "rollback"}, 1, 0),
    ("S4-105 database corruption or failed migration", {"metric": "integrity_failures", "op": ">", "value": 0, "action": "rollback"}, 1, 0),
    ("S4-106 security vulnerability discovered", {"metric": "custom:security_reports", "op": ">", "value": 0, "action": "rollback"}, 1, 0),
    ("S4-107 response times above 5 times the baseline", {"metric": "p95_ratio", "op": ">", "value": 5, "action": "rollback"}, 5.1, 5.0),
    ("S4-108 database deadlocks", {"metric": "deadlocks", "op": ">", "value": 0, "action": "rollback"}, 1, 0),
    ("S4-109 memory above 90 %, sustained (profile: 300 s)", {"metric": "memory", "op": ">", "value": 0.9, "for": 300, "action": "rollback"}, 0.95, 0.9),
    ("S4-110 CPU above 90 %, sustained (profile: 300 s)", {"metric": "cpu", "op": ">", "value": 0.9, "for": 300, "action": "rollback"}, 0.99, 0.9),
    ("S4-111 orders cannot be created", {"metric": "smoke_failures", "op": ">", "value": 0, "action": "rollback"}, 1, 0),
    ("S4-112 menu data not loading", {"metric": "smoke_failures", "op": ">", "value": 0, "action": "rollback"}, 1, 0),
    ("S4-113 analytics unavailable", {"metric": "smoke_failures", "op": ">", "value": 0, "action": "rollback"}, 1, 0),
    ("S4-114 multiple user complaints (profile: 3)", {"metric": "custom:complaints", "op": ">=", "value": 3, "action": "rollback"}, 3, 2),
]
# The rungs below a rollback: an entry condition of a step, a warning, or a pager.
RUNGS: list[tuple[str, dict[str, Any], float, float]] = [
    ("S3-220 canary error rate below 1 %", {"metric": "error_rate", "op": ">=", "value": 0.01, "action": "hold"}, 0.01, 0.0099),
    ("S3-221 canary response time below 2 s", {"metric": "p95", "op": ">=", "value": 2.0, "action": "hold"}, 2.0, 1.99),
    ("S3-222 no payment failures in the canary", {"metric": "payment_failures", "op": ">", "value": 0, "action": "hold"}, 1, 0),
    ("S3-241 error rate above 5 %", {"metric": "error_rate", "op": ">", "value": 0.05, "action": "warn"}, 0.06, 0.05),
    ("S3-242 response time above 5 s", {"metric": "p95", "op": ">", "value": 5, "action": "warn"}, 5.1, 5.0),
    ("S3-246 CPU above 80 %", {"metric": "cpu", "op": ">", "value": 0.8, "action": "warn"}, 0.81, 0.8),
    ("S3-247 memory above 85 %", {"metric": "memory", "op": ">", "value": 0.85, "action": "warn"}, 0.86, 0.85),
    ("S3-248 disk above 90 %", {"metric": "disk", "op": ">", "value": 0.9, "action": "warn"}, 0.91, 0.9),
    ("S1-103 more than 180 of 200 connections", {"metric": "database_connections", "op": ">", "value": 0.9, "action": "warn"}, 0.91, 0.9),
    ("S1-104 payment failure rate above 10 %", {"metric": "payment_success_rate", "op": "<", "value": 0.9, "min_samples": 10, "action": "warn"}, 0.89, 0.9),
    ("S1-108 error rate above 1 %", {"metric": "error_rate", "op": ">", "value": 0.01, "action": "warn"}, 0.02, 0.01),
    ("S2-076 mean above 500 ms", {"metric": "mean", "op": ">=", "value": 0.5, "action": "hold"}, 0.5, 0.49),
    ("S4-125 error rate of 0.1 % or more", {"metric": "error_rate", "op": ">=", "value": 0.001, "min_samples": 3000, "action": "hold"}, 0.001, 0.0009),
]


def test_every_trigger_is_here() -> None:
    wanted = {f"S{system}-{row}" for system, first, last in ((0, 116, 120), (1, 152, 156), (3, 261, 268), (4, 101, 114)) for row in range(first, last + 1)}
    assert {words.split()[0] for words, _data, _bad, _good in TRIGGERS} == wanted and len(TRIGGERS) == 32


@pytest.mark.parametrize(("data", "bad", "good"), [pytest.param(*rest, id=words) for words, *rest in TRIGGERS + RUNGS])
def test_a_trigger_fires_and_does_not(data: dict[str, Any], bad: float, good: float) -> None:
    limit, lasting, samples = limit_from(data), data.get("for", 0), data.get("min_samples", 100)

    def over_time(value: float) -> list[Reading]:
        return [Reading(limit.metric, NOW - ago, value, samples) for ago in range(0, lasting + 1, 60)]

    fired, calm = climb([limit], over_time(bad), NOW), climb([limit], over_time(good), NOW)
    assert fired.action == data["action"]
    assert fired.gates[0].verdict == {"rollback": FAIL, "hold": INCONCLUSIVE, "warn": PASS}[data["action"]]
    assert fired.sentence == fired.gates[0].sentence and str(limit) in fired.sentence
    assert (calm.action, calm.gates[0].verdict, calm.sentence) == (CONTINUE, PASS, "")
    if lasting:
        assert climb([limit], over_time(bad)[:-1], NOW).action == CONTINUE
        assert climb([limit], [*over_time(bad)[:-1], Reading(limit.metric, NOW - lasting, good, samples)], NOW).action == CONTINUE
    assert climb([limit], [Reading(limit.metric, NOW, None, why="timed out")], NOW).gates[0].verdict == ERROR


def test_several_numbers_are_rungs_of_one_ladder() -> None:
    ladder = [rung(value=0.01, action=WARN), rung(value=0.05, for_=1800, action=HOLD), rung(value=0.1)]
    steady = [at(ago, 0.06) for ago in range(0, 1801, 60)]
    assert climb(ladder, [at(0, 0.005)], NOW).action == CONTINUE
    assert climb(ladder, steady[:5], NOW).action == WARN
    assert climb(ladder, steady, NOW).action == HOLD
    assert climb(ladder, [*steady, at(0, 0.12)], NOW).action == ROLLBACK


# --- What is said ---


@pytest.mark.parametrize(
    ("limit", "readings", "verdict", "action", "sentence"),
    [
        (rung(), [at(0, 0.12)], FAIL, ROLLBACK, "error_rate is 12 % (1,000 samples); error_rate > 5 %: rollback."),
        (rung(), [at(0, 0.002)], PASS, CONTINUE, "error_rate is 0.2 % (1,000 samples); error_rate > 5 %: rollback does not apply."),
        (
            rung(for_=300), [at(60, 0.12), at(0, 0.12)], INCONCLUSIVE, CONTINUE,
            "error_rate is 12 % (1,000 samples), for 60 s now; error_rate > 5 % for 300 s: rollback applies if it stays so.",
        ),
        (
            rung(min_samples=100), [at(0, 0.0, samples=12)], INCONCLUSIVE, CONTINUE,
            "error_rate is 0 % (12 samples); 100 samples are needed to tell error_rate > 5 %: rollback.",
        ),
        (rung(), [at(0, None, why="connection refused")], ERROR, CONTINUE, "error_rate could not be read: connection refused."),
        (rung(), [at(0, math.nan)], ERROR, CONTINUE, "error_rate could not be read: no value came back."),
        (rung(), [], ERROR, HOLD, "error_rate was not read, so error_rate > 5 %: rollback cannot be told."),
        (rung(), [at(400, 0.0)], ERROR, HOLD, "error_rate was not read for 400 s, so error_rate > 5 %: rollback cannot be told."),
        (rung(), [at(-5, 0.0)], ERROR, HOLD, "error_rate was not read, so error_rate > 5 %: rollback cannot be told."),
        (
            rung(metric="p95_ratio", value=1.5, action=WARN), [at(0, 1.75, "p95_ratio")], PASS, WARN,
            "p95_ratio is 1.75 times live's (1,000 samples); p95_ratio > 1.5 times live's: warn.",
        ),
        (
            rung(metric="health_failing", value=300), [at(0, 301, "health_failing", 0)], FAIL, ROLLBACK,
            "health_failing is 301 s; health_failing > 300 s: rollback.",
        ),
    ],
)  # fmt: skip
def test_a_rung_says_what_it_sees(limit: Limit, readings: list[Reading], verdict: str, action: str, sentence: str) -> None:
    found = said(limit, *readings)
    assert (found.gates[0].verdict, found.action, found.gates[0].sentence) == (verdict, action, sentence)
    assert found.gates[0].name == limit.metric and (verdict == PASS or found.gates[0].remedy)


def test_four_unreadable_in_a_row_hold() -> None:
    blind = [at(60 * number, None, why="connection refused") for number in range(4)]
    assert [said(rung(), *blind[:count]).action for count in (1, 2, 3, 4)] == [CONTINUE, CONTINUE, CONTINUE, HOLD]
    assert said(rung(), *blind).sentence == "error_rate could not be read 4 times in a row: connection refused."
    assert said(rung(), *blind[:3], at(200, 0.0)).action == CONTINUE
    assert said(rung(), *blind[:2], unreadable=2).action == HOLD


def test_a_reading_that_fails_now_and_then_does_not_hide_a_long_trouble() -> None:
    trouble = [at(ago, None if ago % 120 else 0.2) for ago in range(0, 1801, 60)]
    assert said(rung(for_=1800), *trouble).action == ROLLBACK
    gap = [at(ago, None if 300 <= ago <= 600 else 0.2) for ago in range(0, 1801, 60)]
    assert said(rung(for_=1800), *gap).action == CONTINUE


def test_a_climb_without_limits_says_nothing() -> None:
    assert climb([], [at(0, 1.0)], NOW) == Climb((), CONTINUE, "")


# --- What is refused ---


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("error_rate > 5 %", "a limit is a mapping with the keys metric, op, value, for, min_samples, action, not 'error_rate > 5 %'."),
        ({"metrik": "cpu"}, "the key metrik is unknown; allowed are metric, op, value, for, min_samples, action."),
        ({"metric": None}, "metric is missing; there is no default for it."),
        ({"value": None}, "value is missing; there is no default for it."),
        ({"action": None}, "action is missing; there is no default for it."),
        ({"metric": "eror_rate"}, "metric: There is no metric 'eror_rate'. Did you mean error_rate? Metrics are error_rate, p50"),
        ({"metric": "custom:Orders!"}, "metric: There is no metric 'custom:Orders!'."),
        ({"op": ""}, "op is ''; allowed are > >= < <=. In YAML it needs quotes."),
        ({"op": "="}, "op is '='; allowed are > >= < <=."),
        ({"action": "panic"}, "action is 'panic'; allowed are warn, hold, rollback."),
        ({"value": "5%"}, "value of error_rate is '5%'; allowed is a share from 0 to 1; write 0.05 for 5 %."),
        ({"value": 5}, "value of error_rate is 5; allowed is a share from 0 to 1; write 0.05 for 5 %."),
        ({"value": True}, "value of error_rate is True; allowed is a share"),
        ({"value": math.nan}, "value of error_rate is nan; allowed is a share"),
        ({"value": -0.1}, "value of error_rate is -0.1; allowed is a share"),
        ({"metric": "p95", "value": "500ms"}, "value of p95 is '500ms'; allowed is a number of seconds; write 0.5 for 500 ms."),
        ({"metric": "restarts", "value": 1.5}, "value of restarts is 1.5; allowed is a whole number; write 3 for three of them."),
        ({"metric": "custom:orders", "value": "many"}, "value of custom:orders is 'many'; allowed is a number in the unit the source returns; write 12.5."),
        ({"value": 1}, "error_rate > 100 % can never be true, so this limit would guard nothing."),
        ({"op": ">=", "value": 0}, "error_rate >= 0 % is always true, so this limit would stop every release."),
        ({"metric": "restarts", "op": "<", "value": 0}, "restarts < 0 can never be true"),
        ({"for": "5m"}, "for is '5m'; allowed is a number of seconds from 0 on; write 300 for five minutes."),
        ({"for": -1}, "for is -1; allowed is a number of seconds from 0 on"),
        ({"min_samples": 0.5}, "min_samples is 0.5; allowed is a whole number from 0 on; write 100."),
    ],
)
def test_a_wrong_limit_is_refused_in_words(data: Any, words: str) -> None:
    whole = {"metric": "error_rate", "op": ">", "value": 0.05, "action": "rollback", **data} if isinstance(data, dict) else data
    with pytest.raises(SluiceError) as refused:
        limit_from(whole, "canary_ladder[2]")
    assert str(refused.value).startswith(f"canary_ladder[2]: {words}")
    assert "custom:NAME" in str(refused.value) or "Example: {metric: error_rate, op: '>', value: 0.05" in str(refused.value)


def test_a_limit_that_says_no_number_of_samples_gets_its_metric_s() -> None:
    assert rung().min_samples == METRICS["error_rate"].min_samples > 0
    assert rung(metric="cpu", value=0.9).min_samples == 0
    assert rung(metric="custom:queue", value=-3.5) == Limit("custom:queue", ">", -3.5, 0.0, 0, ROLLBACK)


# --- Laws ---

values = st.one_of(st.none(), st.floats(0, 1), st.just(math.nan))
looks = st.lists(st.tuples(values, st.integers(0, 200)), min_size=1, max_size=12)
upward = st.builds(
    rung,
    op=st.sampled_from([">", ">="]),
    value=st.floats(0.01, 0.99),
    for_=st.sampled_from([0, 60, 180, 600]),
    min_samples=st.sampled_from([0, 50]),
    action=st.sampled_from(ACTIONS),
)


def readings_of(history: list[tuple[float | None, int]]) -> list[Reading]:
    return [Reading("error_rate", NOW - 60 * ago, value, samples) for ago, (value, samples) in enumerate(reversed(history))]


@given(st.lists(upward, max_size=4), looks, st.data())
def test_a_worse_reading_never_has_a_milder_end(limits: list[Limit], history: list[tuple[float | None, int]], data: st.DataObject) -> None:
    which = data.draw(st.integers(0, len(history) - 1))
    value, samples = history[which]
    if value is None or math.isnan(value):
        return
    worse = [*history[:which], (data.draw(st.floats(value, 1)), samples), *history[which + 1 :]]
    before, after = climb(limits, readings_of(history), NOW), climb(limits, readings_of(worse), NOW)
    assert ORDER.index(after.action) >= ORDER.index(before.action)


@given(st.lists(upward, max_size=4), upward, looks)
def test_one_more_rung_never_makes_it_milder(limits: list[Limit], more: Limit, history: list[tuple[float | None, int]]) -> None:
    assert ORDER.index(climb([*limits, more], readings_of(history), NOW).action) >= ORDER.index(climb(limits, readings_of(history), NOW).action)


@given(upward, looks)
def test_no_data_is_never_good(limit: Limit, history: list[tuple[float | None, int]]) -> None:
    for blind in (None, math.nan):
        found = climb([limit], readings_of([*history, (blind, 200)]), NOW)
        assert found.gates[0].verdict == ERROR and found.action in (CONTINUE, HOLD)
    few = climb([limit], readings_of([*history, (0.0, limit.min_samples - 1)]), NOW)
    assert few.gates[0].verdict == INCONCLUSIVE or not limit.min_samples
    assert climb([limit], readings_of([(None, 0)] * UNREADABLE_IN_A_ROW), NOW).action == HOLD
    assert climb([limit], readings_of(history), NOW + FRESH_SECONDS + 1).action == HOLD


@given(upward, looks)
def test_a_rung_fires_only_on_what_was_seen(limit: Limit, history: list[tuple[float | None, int]]) -> None:
    readings = readings_of(history)
    found = climb([limit], readings, NOW)
    if found.action != limit.action or found.gates[0].verdict == ERROR:
        return
    told = [reading for reading in readings if reading.known and reading.samples >= limit.min_samples and NOW - reading.at <= limit.lasting]
    assert told and all(limit.is_bad(reading.value or 0.0) for reading in told)
    assert any(reading.known and NOW - reading.at >= limit.lasting for reading in readings)


@given(st.lists(upward, max_size=3), looks, st.randoms())
def test_the_order_of_readings_does_not_matter(limits: list[Limit], history: list[tuple[float | None, int]], rng: Any) -> None:
    readings = readings_of(history)
    shuffled = rng.sample(readings, len(readings))
    assert climb(limits, shuffled, NOW).action == climb(limits, readings, NOW).action
