# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The judge: bad canaries are caught quickly, good ones are left alone however often they are looked at, and nothing unseen passes."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.histogram import bin_of
from ansible_collections.sluice.deploy.plugins.module_utils.core.judge import Judgement, alarm, judge
from ansible_collections.sluice.deploy.plugins.module_utils.core.limits import Limits
from ansible_collections.sluice.deploy.plugins.module_utils.core.odds import quantile_ranks
from ansible_collections.sluice.deploy.plugins.module_utils.core.power import detectable, detectable_sentence
from ansible_collections.sluice.deploy.plugins.module_utils.core.sample import Sample, SlotSample, merge
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, INCONCLUSIVE, PASS
from hypothesis import given, settings
from hypothesis import strategies as st

LIMITS = Limits()


def slot(requests: int, errors: int = 0, seconds: float = 0.1) -> SlotSample:
    """A slot whose requests all took the same time."""
    return SlotSample(requests=requests, errors=errors, histogram={bin_of(seconds): requests} if requests else {})


def sample(canary: SlotSample, live: SlotSample | None = None, **more: int) -> Sample:
    return Sample(since=0.0, until=30.0, slots={"green": canary, "blue": live or SlotSample()}, **more)


def judged(canary: SlotSample, live: SlotSample | None = None, final: bool = True, limits: Limits = LIMITS, **more: int) -> Judgement:
    return judge(sample(canary, live, **more), "green", "blue", limits, final)


def verdicts(judgement: Judgement) -> dict[str, str]:
    return {gate.name: gate.verdict for gate in judgement.gates}


# --- Must it stop? ---


@pytest.mark.parametrize(
    ("requests", "errors", "live", "stops"),
    [
        (5, 5, slot(95), True),
        (20, 5, slot(380), True),
        (20, 4, slot(380), False),
        (4, 4, slot(0), False),
        (40, 9, slot(0), False),
        (40, 10, slot(0), True),
        (20, 8, slot(380, 95), False),
        (20, 20, slot(380, 95), True),
        (20, 10, slot(5, 2), True),
    ],
)
def test_the_guard_needs_no_statistics(requests: int, errors: int, live: SlotSample, stops: bool) -> None:
    gate = alarm(sample(slot(requests, errors), live), "green", "blue", LIMITS)
    assert (gate is not None) is stops
    assert gate is None or "5 failures among 20 end a step at once." in gate.sentence


def test_the_sequential_test_names_who_makes_the_errors() -> None:
    gate = alarm(sample(slot(200, 8), slot(3800, 8)), "green", "blue", LIMITS)
    assert gate is not None and (gate.verdict, gate.name, gate.value, gate.limit, gate.sample) == (FAIL, "error rate", 0.04, 0.01, 200)
    assert gate.sentence == ("canary: error rate 4 % (8 of 200 first attempts) against 0.2 % live; limit 1 %. With 5 % of the requests it made 8 of 16 errors.")
    assert gate.remedy


def test_the_hard_bound_needs_no_live_traffic() -> None:
    gate = alarm(sample(slot(1322, 41)), "green", None, LIMITS)
    assert gate is not None
    assert gate.sentence == "canary: error rate 3.1 % (41 of 1,322 first attempts); limit 1 %. Chance aside, it is 1.6 % or more."


def test_after_a_promotion_the_canary_is_not_its_own_excuse() -> None:
    broken = Sample(slots={"green": slot(400, 300), "blue": slot(0)})
    assert alarm(broken, "green", "green", LIMITS) is not None
    assert judge(Sample(slots={"green": slot(400)}), "green", "green", LIMITS, final=True).verdict == PASS


def test_an_outage_behind_both_slots_is_not_the_canary_s_doing() -> None:
    assert alarm(sample(slot(100, 31), slot(900, 270)), "green", "blue", LIMITS) is None
    judgement = judged(slot(100, 31), slot(900, 270))
    assert verdicts(judgement)["error rate"] == INCONCLUSIVE and "hold, do not blame the canary" in judgement.sentence


def test_slots_that_are_as_bad_are_not_told_apart_by_a_few_errors() -> None:
    assert alarm(sample(slot(50, 5), slot(50)), "green", "blue", LIMITS) is None
    assert alarm(sample(slot(50, 5), slot(950, 5)), "green", "blue", LIMITS) is not None
    assert alarm(sample(slot(50, 5)), "green", None, LIMITS) is not None


def test_a_slow_canary_ends_a_step_without_one_error() -> None:
    gate = alarm(sample(slot(500, seconds=0.3), slot(5000, seconds=0.1)), "green", "blue", LIMITS)
    assert gate is not None and (gate.verdict, gate.name, gate.sample) == (FAIL, "p95", 500)
    assert gate.sentence == "canary: p95 294 ms (500 requests) against 101 ms live; limit 201 ms. Chance aside, it is 294 ms or more."
    assert alarm(sample(slot(49, seconds=9.0), slot(5000, seconds=0.1)), "green", "blue", LIMITS) is None


def test_a_live_slot_that_may_be_as_slow_is_no_reason_to_blame_the_canary() -> None:
    live = SlotSample(requests=300, histogram={bin_of(1.0): 285, bin_of(2.5): 15})
    assert alarm(sample(slot(500, seconds=2.2), live), "green", "blue", LIMITS) is None
    assert verdicts(judged(slot(500, seconds=2.2), live))["p95"] == INCONCLUSIVE
    assert alarm(sample(slot(500, seconds=2.2), slot(300, seconds=1.5)), "green", "blue", LIMITS) is not None


def test_errors_are_named_before_slowness() -> None:
    gate = alarm(sample(slot(500, 100, seconds=0.3), slot(5000, seconds=0.1)), "green", "blue", LIMITS)
    assert gate is not None and gate.name == "error rate"


def test_a_difference_within_the_margin_does_not_stop_a_step() -> None:
    assert alarm(sample(slot(10_000, 45), slot(90_000, 45)), "green", "blue", LIMITS) is None


@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 50_000), st.integers(0, 5000))
def test_more_errors_never_quieten_an_alarm(requests: int, errors: int, live: int, live_errors: int) -> None:
    errors, live_errors = min(errors, requests), min(live_errors, live)
    gate = alarm(sample(slot(requests, errors), slot(live, live_errors)), "green", "blue", LIMITS)
    if gate is not None and errors < requests:
        assert alarm(sample(slot(requests, errors + 1), slot(live, live_errors)), "green", "blue", LIMITS) is not None


# --- May it go on? ---


def test_a_good_canary_passes_and_says_what_is_ruled_out() -> None:
    judgement = judged(slot(1000, 1), slot(9000, 9))
    assert judgement.verdict == PASS and set(verdicts(judgement).values()) == {PASS}
    assert judgement.sentence == (
        "canary: 1,000 first attempts in 30 s; 50 are needed. "
        "canary: error rate 0.1 % (1 of 1,000 first attempts) against 0.1 % live; limit 1 %. More than 0.45 % is ruled out. "
        f"canary: p95 {judgement.gates[2].value * 1000:.0f} ms (1,000 requests) against {judgement.gates[2].value * 1000:.0f} ms live; limit 201 ms."
    )


def test_few_samples_say_what_they_cannot_rule_out() -> None:
    judgement = judged(slot(50), slot(950))
    assert judgement.verdict == PASS and "Up to 5.2 % cannot be ruled out with so few." in judgement.sentence


@pytest.mark.parametrize("requests", [0, 1, 49])
@pytest.mark.parametrize("final", [False, True])
def test_too_few_or_no_requests_never_pass(requests: int, final: bool) -> None:
    judgement = judged(slot(requests), slot(5000), final)
    assert judgement.verdict == INCONCLUSIVE and set(verdicts(judgement).values()) == {INCONCLUSIVE}
    assert "unknown" in judgement.sentence if requests == 0 else f"{requests} first attempts" in judgement.sentence


def test_an_empty_sample_never_passes() -> None:
    assert judge(Sample(), "green", "blue", LIMITS, final=True).verdict == INCONCLUSIVE


@given(st.integers(0, 49), st.integers(0, 49), st.integers(0, 10_000), st.booleans())
def test_nothing_below_the_minimum_passes(requests: int, errors: int, live: int, final: bool) -> None:
    assert judged(slot(requests, min(errors, requests)), slot(live), final).verdict in (INCONCLUSIVE, FAIL)


def test_an_interim_look_passes_with_proof_alone() -> None:
    few = judged(slot(100), slot(1900), final=False)
    assert few.verdict == INCONCLUSIVE and "It may be 2.7 % of all requests worse than live; the margin is 0.5 %." in few.sentence
    assert judged(slot(1000), slot(19_000), final=False).verdict == PASS
    assert judged(slot(100), final=False).verdict == INCONCLUSIVE and judged(slot(300), final=False).verdict == PASS


def test_above_the_limit_is_no_pass_even_where_chance_can_explain_it() -> None:
    judgement = judged(slot(70, 1), slot(700))
    assert judgement.verdict == INCONCLUSIVE and "Above the limit, yet it may be chance." in judgement.sentence


def test_within_the_limit_but_plainly_worse_than_live_is_no_pass() -> None:
    strict = Limits(sprt_ratio=20)
    assert verdicts(judged(slot(5000, 45), slot(45_000, 90), limits=strict))["error rate"] == INCONCLUSIVE
    assert verdicts(judged(slot(150, 1), slot(3000, 3), limits=strict))["error rate"] == PASS


def test_live_with_few_requests_is_named_and_not_compared() -> None:
    judgement = judged(slot(950, 2, seconds=0.5), slot(20, 1, seconds=0.01))
    assert judgement.verdict == PASS and "against 5 % live (1 of only 20)" in judgement.sentence


def test_a_failure_is_the_alarm_s() -> None:
    judgement = judged(slot(200, 8), slot(3800, 8))
    assert judgement.verdict == FAIL and judgement.sentence.endswith("With 5 % of the requests it made 8 of 16 errors.")


def test_a_log_that_cannot_be_read_is_no_fair_sample() -> None:
    judgement = judged(slot(1000), slot(9000), malformed=500)
    assert judgement.verdict == INCONCLUSIVE and "500 of 10,500 lines of the log could not be read." in judgement.sentence
    assert judged(slot(1000), slot(9000), malformed=5).verdict == PASS


def test_requests_of_no_slot_are_named() -> None:
    judgement = judged(slot(0), slot(900), unowned=100)
    assert "100 requests went to addresses that belong to no slot." in judgement.sentence
    assert judgement.gates[0].remedy == "Compare the slots' addresses with those in the edge's configuration."


@pytest.mark.parametrize(
    ("canary", "live", "verdict", "words"),
    [
        (slot(500, seconds=0.3), slot(5000, seconds=0.1), FAIL, "Chance aside"),
        (slot(500, seconds=0.15), slot(5000, seconds=0.1), PASS, "limit 201 ms"),
        (slot(500, seconds=0.045), slot(5000, seconds=0.005), PASS, "limit 50 ms"),
        (slot(500, seconds=2.5), SlotSample(), FAIL, "limit 2 s"),
        (slot(500, seconds=1.5), SlotSample(), PASS, "limit 2 s"),
        (slot(500, seconds=0.3), slot(55, seconds=0.1), INCONCLUSIVE, "it may be chance"),
        (slot(500, seconds=0.3), slot(49, seconds=0.1), PASS, "limit 2 s"),
        (slot(500, seconds=2.6), slot(5000, seconds=2.4), INCONCLUSIVE, "hold, do not blame the canary"),
        (slot(500, seconds=9.0), slot(5000, seconds=2.4), FAIL, "Chance aside"),
    ],
)
def test_the_p95(canary: SlotSample, live: SlotSample, verdict: str, words: str) -> None:
    gate = judged(canary, live).gates[2]
    assert gate.verdict == verdict and words in gate.sentence


@given(st.integers(1, 3000), st.sampled_from([0.5, 0.9, 0.95, 0.99]), st.sampled_from([0.05, 0.01, 0.001]))
def test_the_ranks_of_a_quantile_keep_their_promise(count: int, share: float, error: float) -> None:
    lower, upper = quantile_ranks(count, share, error)

    def below(number: int) -> float:
        """Return the chance that at most so many values lie below the quantile."""
        ways = (math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(number + 1))
        return math.fsum(math.exp(way + k * math.log(share) + (count - k) * math.log(1 - share)) for k, way in enumerate(ways))

    assert lower == 0 or below(lower - 1) <= error * 1.0001
    assert upper == count + 1 or below(upper - 1) >= 1 - error * 1.0001
    assert 0 <= lower <= upper <= count + 1


@pytest.mark.parametrize(("count", "lower", "upper"), [(1, 0, 2), (30, 23, 31), (200, 178, 199), (2000, 1863, 1934), (20_000, 18_766, 19_188)])
def test_the_ranks_of_a_quantile_close_in(count: int, lower: int, upper: int) -> None:
    assert quantile_ranks(count, 0.95, 0.01) == (lower, upper)


@pytest.mark.parametrize("share", [0.95, 0.5])
def test_no_look_of_many_finds_a_wrong_end(share: float) -> None:
    rng, wrong = random.Random(24), 0
    for _run in range(300):
        below, looks = 0, []
        for count in range(1, 1501):
            below += rng.random() < share
            if count % 25 == 0:
                lower, upper = quantile_ranks(count, share, 0.05)
                looks.append(below < lower or upper <= below)
        wrong += any(looks)
    # Each end may be wrong in 5 % of the runs; at one look in twenty each, it would be in far more of them.
    assert wrong <= 0.1 * 300


# --- Kinds of requests ---


PAGES = (slot(4000, 4), slot(76_000, 76))


def by_kind(**kinds: tuple[SlotSample, SlotSample]) -> Sample:
    """A sample in which the kinds are told apart: the canary's part of each, and live's."""
    parts = {name: {kind: pair[number] for kind, pair in kinds.items()} for number, name in enumerate(("green", "blue"))}
    whole = merge([Sample(0.0, 30.0, {name: part}) for name, strata in parts.items() for part in strata.values()])
    return replace(whole, strata=parts)


def blurred(told_apart: Sample) -> Sample:
    """The same requests with nothing known of their kinds."""
    return replace(told_apart, strata={})


def stopped(seen: Sample, live: str = "blue") -> str:
    gate = alarm(seen, "green", live, LIMITS)
    return gate.sentence if gate else ""


def passed(seen: Sample) -> Judgement:
    return judge(seen, "green", "blue", LIMITS, final=True)


def test_many_good_page_views_do_not_hide_a_rare_kind_that_fails() -> None:
    seen = by_kind(payment=(slot(18, 7), slot(499, 1)), page=PAGES)
    assert stopped(seen) == "payment: 7 of 18 first attempts failed against 0.2 % live. 5 failures among 20 end a step at once."
    assert passed(seen).verdict == FAIL and passed(seen).sentence == stopped(seen) and verdicts(passed(seen))["error rate of payment"] == FAIL
    assert not stopped(blurred(seen)) and passed(blurred(seen)).verdict == PASS


def test_a_rare_kind_that_may_be_bad_is_no_pass() -> None:
    seen = by_kind(payment=(slot(18, 4), slot(499, 1)), page=PAGES)
    assert not stopped(seen) and passed(seen).verdict == INCONCLUSIVE
    assert passed(seen).sentence == "payment: 4 of 18 first attempts failed against 0.2 % live. Chance hardly explains that."
    assert passed(blurred(seen)).verdict == PASS


def test_more_errors_that_chance_explains_are_a_pass_which_names_each_kind() -> None:
    seen = by_kind(payment=(slot(18, 1), slot(342, 1)), page=PAGES, report=(slot(3), slot(12)), none=(slot(0), slot(0)))
    judgement = passed(seen)
    assert judgement.verdict == PASS and judgement.gates[3].name == "kinds of requests"
    assert judgement.gates[3].sentence == (
        "canary: no kind of requests is worse than live's; failed are page 4 of 4,000, payment 1 of 18, report 0 of 3. "
        "Not compared, as live had too few: report."
    )


def test_kinds_that_nobody_asked_for_or_live_cannot_be_compared_with_are_no_proof() -> None:
    alone = judge(by_kind(payment=(slot(18), slot(0)), page=(slot(400), slot(0))), "green", "green", LIMITS, final=True)
    assert alone.verdict == PASS
    assert alone.gates[3].sentence == "canary: failed are page 0 of 400, payment 0 of 18; live had too few requests to compare them kind by kind."
    unasked = passed(by_kind(payment=(slot(0), slot(400)), page=(slot(0), slot(400))))
    assert set(verdicts(unasked).values()) == {INCONCLUSIVE}


def test_a_rare_kind_that_is_slow_is_caught() -> None:
    seen = by_kind(report=(slot(60, seconds=1.9), slot(500, seconds=0.3)), page=(slot(4000, seconds=0.05), slot(18_500, seconds=0.05)))
    assert stopped(seen) == "report: p95 1.9 s (60 requests) against 294 ms live; limit 588 ms. Chance aside, it is 1.9 s or more."
    assert not stopped(blurred(seen)) and passed(blurred(seen)).verdict == PASS
    few = replace(slot(30), histogram={bin_of(0.3): 22, bin_of(1.9): 8})
    unsure = passed(by_kind(report=(few, slot(500, seconds=0.3)), page=(slot(4000, seconds=0.05), slot(18_500, seconds=0.05))))
    assert (unsure.verdict, unsure.sentence) == (
        INCONCLUSIVE, "report: p95 1.9 s (30 requests) against 294 ms live; limit 588 ms. Chance hardly explains that."
    )  # fmt: skip


def test_another_mix_of_slow_and_quick_kinds_is_not_blamed() -> None:
    quick, slow = 0.05, 1.0
    seen = by_kind(report=(slot(500, seconds=slow), slot(500, seconds=slow)), page=(slot(500, seconds=quick), slot(18_500, seconds=quick)))
    assert not stopped(seen) and passed(seen).verdict == PASS
    assert "canary: p95 996 ms (1,000 requests) against 996 ms live with the same mix of requests; limit 2 s." in passed(seen).sentence
    assert stopped(blurred(seen)).startswith("canary: p95 996 ms (1,000 requests) against 51 ms live")


def test_another_mix_of_kinds_that_fail_more_and_less_is_not_blamed() -> None:
    seen = by_kind(api=(slot(900, 7), slot(10_000, 80)), page=(slot(100), slot(90_000, 90)))
    assert not stopped(seen) and passed(seen).verdict == PASS and "0.7 % live with the same mix of requests" in passed(seen).sentence
    assert passed(blurred(seen)).verdict != PASS


def test_live_above_the_limit_with_the_canary_s_mix_is_a_hold() -> None:
    seen = by_kind(api=(slot(900, 18), slot(1000, 20)), page=(slot(100), slot(18_000, 18)))
    assert not stopped(seen) and passed(seen).verdict == INCONCLUSIVE and "hold, do not blame the canary" in passed(seen).sentence
    assert stopped(blurred(seen))


def test_a_canary_that_looks_better_for_its_mix_is_caught() -> None:
    # Worse in each kind, better in all: Simpson's trap.
    seen = by_kind(api=(slot(100, 8), slot(9000, 180)), page=(slot(900, 5), slot(1000)))
    assert stopped(seen).endswith("As good as live it would have made 4.4 of 193 errors with its mix of requests; it made 13.")
    assert not stopped(blurred(seen))


def test_three_times_the_times_of_each_kind_are_caught_together() -> None:
    seen = by_kind(**{kind: (slot(49, seconds=3 * each), slot(900, seconds=each)) for kind, each in (("a", 0.03), ("b", 0.1), ("c", 0.4))})
    assert stopped(seen).endswith(
        "against 394 ms live with the same mix of requests; limit 788 ms. 100 % took more than 2 times as long as 95 % of live's of the same kind."
    )


def test_an_absolute_limit_speaks_of_all_requests() -> None:
    seen = by_kind(report=(slot(200, 9, seconds=5.0), slot(0)), page=(slot(4000, 4, seconds=0.05), slot(0)))
    assert not stopped(seen, "green") and judge(seen, "green", "green", LIMITS, final=True).verdict == PASS
    assert "report: 90 of 300 first attempts failed. 5 failures" in stopped(by_kind(report=(slot(300, 90), slot(0)), page=(slot(9000), slot(0))), "green")


def test_a_kind_that_fails_by_nature_is_not_blamed_for_it() -> None:
    assert not stopped(by_kind(payment=(slot(15, 5), slot(15, 2)), page=PAGES))
    assert stopped(by_kind(payment=(slot(15, 5), slot(0)), page=PAGES))


def test_an_outage_behind_both_slots_is_seen_before_live_is_known_kind_by_kind() -> None:
    seen = by_kind(**{kind: (slot(3, 1), slot(19, 6)) for kind in "abcdefgh"})
    assert not stopped(seen) and "against 31.6 % live; limit 1 %." in passed(seen).sentence
    assert stopped(by_kind(**{kind: (slot(3, 1), slot(19)) for kind in "abcdefgh"}))


@given(st.integers(0, 3000), st.integers(0, 100), st.integers(0, 60_000), st.integers(0, 100))
def test_one_kind_alone_is_judged_as_the_whole(requests: int, errors: int, live: int, live_errors: int) -> None:
    seen = by_kind(page=(slot(requests, min(errors, requests)), slot(live, min(live_errors, live))))
    assert alarm(seen, "green", "blue", LIMITS) == alarm(blurred(seen), "green", "blue", LIMITS)
    assert passed(seen) == passed(blurred(seen))


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(0, 400), st.integers(1, 9))
def test_live_with_the_canary_s_own_mix_is_live(mine: int, other: int, times: int) -> None:
    seen = by_kind(a=(slot(mine, seconds=0.3), slot(60 * times * mine, mine, seconds=0.3)), b=(slot(other), slot(60 * times * other, other)))
    for told, whole in zip(passed(seen).gates, passed(blurred(seen)).gates):
        # A kind of which live had next to nothing is left out.
        if min(mine, other) > 0 or other == mine == 0:
            assert told.sentence.replace(" with the same mix of requests", "") == whole.sentence


# --- Limits ---


@pytest.mark.parametrize(
    ("given_limits", "words"),
    [
        ({"error_rate": 1.5}, "error_rate is a share between 0 and 1, such as 0.01 for 1 %"),
        ({"error_rate": float("nan")}, "error_rate is a share"),
        ({"p95_seconds": 0}, "p95_seconds is a time above 0"),
        ({"p95_ratio": 0.5}, "p95_ratio is a factor of 1 or more"),
        ({"min_samples": 0, "sprt_alpha": 0.7}, "min_samples is a whole number of 1 or more, such as 50; sprt_alpha is a chance"),
        ({"min_samples": 2.5}, "min_samples is a whole number"),
        ({"min_samples": "50"}, "min_samples is a whole number"),
        ({"guard_errors": 30}, r"guard_errors \(30\) must not be larger than guard_requests \(20\)"),
        ({"error_rat": 0.1}, "have no error_rat. They are: error_rate, error_margin"),
    ],
)
def test_wrong_limits_are_refused_in_words(given_limits: dict[str, object], words: str) -> None:
    with pytest.raises(SluiceError, match=words):
        Limits.of(given_limits)


def test_limits_without_a_value_keep_their_default() -> None:
    assert Limits.of({"error_rate": None, "min_samples": 100}) == Limits(min_samples=100)
    assert Limits.of(None) == Limits.of({}) == Limits()


# --- What can be seen ---


def test_what_a_step_can_see_is_said_in_words() -> None:
    assert detectable_sentence(12, 0.05, 7200, LIMITS) == "5 % for 2 h at 12 requests/s detects an error rate of 0.94 % or more."
    assert detectable_sentence(0.1, 0.05, 600, LIMITS) == "5 % for 10 min at 0.1 requests/s detects nothing: some 3 requests are too few."
    assert detectable(0, 0.05, 600, LIMITS) is None


@settings(deadline=None)
@given(st.floats(0.5, 500), st.sampled_from([0.01, 0.05, 0.25, 0.5, 1.0]), st.floats(30, 7200))
def test_more_time_detects_as_much(rate: float, share: float, seconds: float) -> None:
    short, long = detectable(rate, share, seconds, LIMITS), detectable(rate, share, 4 * seconds, LIMITS)
    assert short is None or (long is not None and long <= short * 1.02)


@pytest.mark.parametrize(("rate", "share", "seconds"), [(50, 0.05, 60), (50, 0.25, 600), (5, 1.0, 120), (12, 0.05, 600)])
def test_what_is_called_detectable_is_detected(rate: float, share: float, seconds: float) -> None:
    least = detectable(rate, share, seconds, LIMITS)
    assert least is not None
    runs = [first_alarm(random.Random(seed), rate, share, least, LIMITS.error_rate / 4, seconds / 20, 20) for seed in range(120)]
    assert sum(run is not None for run in runs) >= 0.85 * len(runs)


# --- Whole rollouts, simulated ---


def binomial(rng: random.Random, count: int, chance: float) -> int:
    return sum(rng.random() < chance for _number in range(count))


def first_alarm(rng: random.Random, rate: float, share: float, canary: float, live: float, look: float, looks: int) -> float | None:
    """Return the second at which a canary with this error rate is stopped, if it is."""
    mine, other = Counter[str](), Counter[str]()
    for number in range(1, looks + 1):
        arrived = round(rate * look * number) - round(rate * look * (number - 1))
        to_canary = binomial(rng, arrived, share)
        mine.update(requests=to_canary, errors=binomial(rng, to_canary, canary))
        other.update(requests=arrived - to_canary, errors=binomial(rng, arrived - to_canary, live))
        if alarm(sample(SlotSample(**mine), SlotSample(**other)), "green", "blue", LIMITS):
            return look * number
    return None


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_identical_slots_are_left_alone_over_thirty_looks(share: float) -> None:
    rng = random.Random(20)
    stopped = [first_alarm(rng, 50, share, 0.01, 0.01, look=10, looks=30) for _run in range(300)]
    assert sum(run is not None for run in stopped) <= 6


def test_a_canary_ten_times_as_bad_is_caught() -> None:
    rng = random.Random(21)
    caught = [run for run in (first_alarm(rng, 50, 0.1, 0.1, 0.01, look=1, looks=120) for _run in range(300)) if run is not None]
    assert len(caught) >= 297 and median(caught) <= 15


@pytest.mark.parametrize(("share", "seconds"), [(0.05, 60), (0.1, 30), (0.25, 12)])
def test_five_percent_errors_are_caught_within_seconds(share: float, seconds: float) -> None:
    rng = random.Random(22)
    caught = [run for run in (first_alarm(rng, 50, share, 0.05, 0.0, look=0.5, looks=400) for _run in range(200)) if run is not None]
    assert len(caught) == 200 and median(caught) <= seconds


def test_a_dead_canary_is_caught_by_its_fifth_request() -> None:
    assert first_alarm(random.Random(23), 50, 0.05, 1.0, 0.0, look=0.25, looks=100) <= 5  # type: ignore[operator]


def lognormal(rng: random.Random, factor: float) -> Callable[[int], SlotSample]:
    def draw(count: int) -> SlotSample:
        return SlotSample(requests=count, histogram=dict(Counter(bin_of(factor * rng.lognormvariate(-2.5, 0.8)) for _number in range(count))))

    return draw


def p95_fails(seed: int, factor: float, count: int) -> bool:
    rng = random.Random(seed)
    return judged(lognormal(rng, factor)(count), lognormal(rng, 1.0)(4 * count)).gates[2].verdict == FAIL


def test_three_times_the_p95_is_caught_and_noise_is_not() -> None:
    # 1,500 requests are the first step, 5 % of 50 requests/s for 10 minutes.
    assert sum(p95_fails(seed, 3.0, 1500) for seed in range(100)) >= 99
    assert sum(p95_fails(seed, 3.0, 500) for seed in range(100)) >= 85
    assert sum(p95_fails(seed, 1.0, 60) for seed in range(300)) == 0
