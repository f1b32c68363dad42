# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan can see is told beforehand, and the judge is tested on likes."""

from __future__ import annotations

import json
import random

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.limits import Limits
from ansible_collections.sluice.deploy.plugins.module_utils.core.power import HALVES, halves, power, self_test
from ansible_collections.sluice.deploy.plugins.module_utils.core.sample import Sample
from ansible_collections.sluice.deploy.plugins.module_utils.core.steps import Step

PLAN = [Step(0, 60, 60), Step(5, 600, 1800), Step(100, 300, 900)]
BLUE = "127.0.0.1:4101"


@pytest.mark.parametrize(
    ("plan", "rate", "accepted", "verdict", "said"),
    [
        (PLAN, 50.0, False, "pass", "5 % for 30 min at 50 requests/s detects an error rate of"),
        (PLAN, 0.0001, False, "fail", "detects nothing"),
        (PLAN, 0.0, False, "fail", "detects nothing"),
        (PLAN, None, False, "fail", "could not be measured"),
        ([Step(5, 0, 0), Step(100, 0, 0)], 50.0, False, "fail", "no step has time and visitors"),
        ([Step(0, 60, 60)], 50.0, False, "fail", "no step has time and visitors"),
        (PLAN, None, True, "waived", "could not be measured"),
    ],
)
def test_a_plan_that_can_detect_nothing_is_refused_unless_accepted(plan: list[Step], rate: float | None, accepted: bool, verdict: str, said: str) -> None:
    gate = power(plan, rate, Limits(), accepted)
    assert gate.verdict == verdict
    assert said in gate.sentence
    assert verdict == "pass" or "canary_accept_blind" in gate.remedy


def test_more_traffic_sees_smaller_faults() -> None:
    few, many = (power(PLAN, rate, Limits(), False).sentence for rate in (2.0, 200.0))
    assert few != many


def log(rate_of: dict[bool, float], lines: int = 4000, seed: int = 1) -> bytes:
    """Return lines of the edge's log; the error rate may depend on whether the visitor's number is odd."""
    pick = random.Random(seed)
    said = []
    for number in range(lines):
        visitor = pick.randrange(400)
        status = 500 if pick.random() < rate_of[visitor % 2 == 1] else 200
        line = {"t": 1000 + number / 100, "slot": "blue", "m": "GET", "u": "/", "st": status, "rt": 0.02, "ua": BLUE, "us": str(status)}
        said.append(json.dumps({**line, "ut": "0.02", "v": f"visitor-{visitor}", "id": "x"}, separators=(",", ":")))
    return ("\n".join(said) + "\n").encode()


def test_halves_share_no_visitor_and_lose_no_request() -> None:
    sample = halves(log({True: 0.0, False: 0.0}), [BLUE], ["/api/health"])
    one, other = (sample.slot(half) for half in HALVES)
    assert one.requests + other.requests == 4000
    assert one.clients + other.clients == 400
    assert min(one.requests, other.requests) > 1500


@pytest.mark.parametrize("seed", range(20))
def test_likes_do_not_differ(seed: int) -> None:
    assert self_test(halves(log({True: 0.01, False: 0.01}, seed=seed), [BLUE], []), Limits()).verdict == "pass"


def test_a_difference_between_likes_takes_the_trust_away_and_too_few_do_not_tell() -> None:
    block = log({True: 0.0, False: 0.0})
    sample = halves(block, [BLUE], [])
    broken = Sample(sample.since, sample.until, {**sample.slots, HALVES[0]: type(sample.slot(HALVES[0]))(requests=500, errors=100, histogram={1: 500})})
    gate = self_test(broken, Limits())
    assert gate.verdict == "fail"
    assert "two halves of the live slot's own traffic" in gate.sentence
    assert self_test(halves(log({True: 0.0, False: 0.0}, lines=60), [BLUE], []), Limits()).verdict == "inconclusive"
