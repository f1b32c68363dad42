# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan can see at the traffic there is, told before the canary; and whether the judge can be trusted on that traffic."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core import judge
from ansible_collections.sluice.deploy.plugins.module_utils.core.sample import Sample, merge, parse
from ansible_collections.sluice.deploy.plugins.module_utils.core.steps import Step
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, INCONCLUSIVE, PASS, WAIVED, Gate

HALVES = ("one half", "the other half")
_BLIND = "Give the steps more time or larger shares, or go on all the same with -e canary_accept_blind=true."


def power(plan: Sequence[Step], rate: Optional[float], limits: judge.Limits, accept_blind: bool) -> Gate:
    """Say what each step can detect at the measured traffic; a plan that can detect nothing does not pass.

    :param rate: requests per second of all visitors; None when nobody could tell.
    :param accept_blind: go on with such a plan.
    """
    judged = [step for step in plan if step.percent > 0 and step.max > 0]
    seeing = [step for step in judged if rate and judge.detectable(rate, step.percent / 100, step.max, limits) is not None]
    if rate is None:
        seen = "how many requests there are could not be measured, so nobody can tell what the plan detects."
    elif not judged:
        seen = f"no step has time and visitors, so the plan detects nothing ({rate:.3g} requests/s)."
    else:
        shown = [*dict.fromkeys((judged[0], judged[-1]))]
        seen = " ".join(judge.detectable_sentence(rate, step.percent / 100, step.max, limits) for step in shown)
    if seeing:
        return Gate("power", PASS, seen, value=len(seeing), limit=len(judged))
    return Gate("power", WAIVED if accept_blind else FAIL, seen, value=0, limit=len(judged), remedy=_BLIND)


_VISITOR = re.compile(rb'"v":"([^"\\\\]*)"')


def halves(block: bytes, addresses: Sequence[str], ignore_paths: Sequence[str]) -> Sample:
    """Return the requests that came to some addresses as two samples in one, cut by the visitor: nobody is in both.

    :param block: whole lines of the edge's log.
    """
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for line in block.splitlines(keepends=True):
        found = _VISITOR.search(line)
        parts[zlib.crc32(found.group(1)) & 1 if found else 0].append(line)
    return merge([parse(b"".join(lines), dict.fromkeys(addresses, half), ignore_paths) for half, lines in zip(HALVES, parts)])


def self_test(sample: Sample, limits: judge.Limits) -> Gate:
    """Judge one half of the live slot's own traffic against the other: a difference between likes is the judge's fault, not a version's."""
    one, other = (sample.slot(half) for half in HALVES)
    alarm = judge.alarm(sample, HALVES[0], HALVES[1], limits) or judge.alarm(sample, HALVES[1], HALVES[0], limits)
    if alarm:
        remedy = "Look at what differs (few heavy visitors, an outage in the window); go on without canary_self_test when a person has decided."
        return Gate("self test", FAIL, f"the judge finds a difference between two halves of the live slot's own traffic: {alarm.sentence}", remedy=remedy)
    said = f"two halves of the live slot's own traffic, {one.requests:,} and {other.requests:,} requests"
    if min(one.requests, other.requests) < limits.min_samples:
        return Gate(
            "self test", INCONCLUSIVE, f"{said}, are too few to test the judge; {limits.min_samples:,} each are needed", remedy="Wait for more traffic."
        )
    return Gate("self test", PASS, f"{said}, do not differ", sample=one.requests + other.requests)
