# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the judge catches, how soon, and how often it is wrong, on simulated rollouts; and what it costs.

    .venv/bin/python benchmarks/judge.py [--write-docs]

Prints the table of docs/judging.md (and writes it there with ``--write-docs``), then one JSON object as its last line:

- ``false_rollback``: identical slots with 1 % errors at 50 requests/s, 1,000 runs of 30 looks, one every 10 s, a quarter of them each at 5, 10, 25 and
  50 % share: the share of runs that are rolled back; goal 0.02.
- ``caught_10x``, ``median_s_10x``: error rate 1 % -> 10 % at 10 % share and 50 requests/s, a look every 2 s, 1,000 runs: the share that is rolled back
  within 2 minutes, and the median of the seconds from the first request until then; goals 0.99 and 15.
- ``caught_2x``: 1 % -> 2 % at 50 requests/s under steps of 5, 25 and 50 %, 10 minutes each, a look every 5 s: the share of runs that are *rolled back
  before the 50 % step begins*; a hold does not count; goal 0.80. ``caught_2x_by_end`` counts until the 50 % step ends.
- ``caught_p95_3x``: three times the p95 under the same steps, counted in the same way; goal 0.95.
- ``log_lines_per_s``: reading the edge's log, best of five, by CPU time; goal 400,000. ``log_lines_per_s_routes`` tells kinds of requests apart by
  three routes; goal four fifths of the other.
- ``judge_ms``: reading, merging and judging the samples of 10 edges, median; goal 50.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.conftest import CHECKOUT  # gives the checkout its collection's name

# isort: split
from ansible_collections.sluice.deploy.benchmarks.judging import ours, page, rivals
from ansible_collections.sluice.deploy.benchmarks.judging.ours import CANARY, LIMITS, LIVE, Outcome
from ansible_collections.sluice.deploy.benchmarks.judging.traces import STEADY, TWO_KINDS, Behaviour, Scenario, draw
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.access_log import BLOCK_BYTES
from ansible_collections.sluice.deploy.plugins.module_utils.core import judge
from ansible_collections.sluice.deploy.plugins.module_utils.core.sample import Sample, Tally, kinds_of, merge

DOCS = CHECKOUT / "docs" / "judging.md"
BEFORE_50, END = 1200, 1800

ONE, TWO, TEN = Behaviour(0.01), Behaviour(0.02), Behaviour(0.1)
TWICE = Scenario("errors 1 % -> 2 %", True, TWO, ONE)
TEN_TIMES = Scenario("errors 1 % -> 10 %", True, TEN, ONE)
SLOW = Scenario("three times the p95", True, Behaviour(times=STEADY.slower(3)))
SCENARIOS = (
    Scenario("alike, 0.2 % errors", False, Behaviour()),
    Scenario("alike, 1 % errors", False, ONE, ONE),
    Scenario("alike, 0.5 % errors, 1 request/s", False, Behaviour(0.005), Behaviour(0.005), rate=1),
    Scenario("alike, p95 between two kinds of pages", False, Behaviour(times=TWO_KINDS), Behaviour(times=TWO_KINDS)),
    Scenario("alike, 30 % errors on both for 3 minutes", False, Behaviour(), outage=(700, 880, 0.3)),
    Scenario("errors 0.2 % -> 0.8 %", True, Behaviour(0.008)),
    Scenario("errors 0.2 % -> 5 %, 1 request/s", True, Behaviour(0.05), rate=1),
    TWICE,
    TEN_TIMES,
    Scenario("every request fails, 1 request/s", True, Behaviour(1.0), rate=1),
    SLOW,
    Scenario("no request reaches the canary", True, None),
)


def runs(scenario: Scenario, count: int, look: int, first_seed: int) -> Iterator[Outcome]:
    """Yield what our judge makes of so many rollouts."""
    for seed in range(first_seed, first_seed + count):
        yield ours.watch(draw(scenario, seed), look)


def figures(scale: float) -> dict[str, float]:
    """Return the figures of the simulation."""
    alike = [Scenario("", False, ONE, ONE, steps=((share, 300),)) for share in (5, 10, 25, 50)]
    each = round(250 * scale)
    wrong = [outcome.rollback is not None for number, scenario in enumerate(alike) for outcome in runs(scenario, each, 10, 10_000 + 1_000 * number)]
    ten = [outcome.rollback for outcome in runs(replace(TEN_TIMES, steps=((10, 120),)), round(1000 * scale), 2, 20_000)]
    two = [outcome.rollback for outcome in runs(TWICE, round(400 * scale), 5, 30_000)]
    slow = [outcome.rollback for outcome in runs(SLOW, round(400 * scale), 5, 40_000)]
    return {
        "false_rollback": statistics.fmean(wrong),
        "caught_10x": share_until(ten, 120),
        "median_s_10x": median_seconds(ten),
        "caught_2x": share_until(two, BEFORE_50),
        "caught_2x_by_end": share_until(two, END),
        "median_s_2x": median_seconds(two),
        "caught_p95_3x": share_until(slow, BEFORE_50),
        "median_s_p95_3x": median_seconds(slow),
    }


def share_until(moments: list[float | None], end: float) -> float:
    return statistics.fmean(at is not None and at <= end for at in moments)


def median_seconds(moments: list[float | None]) -> float:
    return statistics.median([at for at in moments if at is not None] or [-1.0])


def compare(scenario: Scenario, count: int) -> page.Row:
    """Show the same rollouts to every judge."""
    found: dict[str, list[float | None]] = {name: [] for name in page.JUDGES}
    held = 0
    for seed in range(count):
        rollout = draw(scenario, 50_000 + seed)
        outcome = ours.watch(rollout, 10)
        found["naive"].append(rivals.naive(rollout, 10))
        found["Flagger"].append(rivals.flagger(rollout))
        found["Kayenta"].append(rivals.kayenta(rollout))
        found["Sluice"].append(outcome.rollback)
        held += outcome.hold is not None and outcome.rollback is None
    return page.Row(scenario.words, scenario.bad, found, held / count)


def log_lines() -> tuple[bytes, int]:
    """Return log lines as an edge writes them: two slots, pages with queries, health probes, 1 % failures of which half are shielded by a retry."""
    rng = random.Random(1)
    blue, green = "127.0.0.1:4002", "127.0.0.1:4102"
    paths = ["/", "/wallet?tab=cards", "/api/health", "/api/v1/orders/7f3a?expand=items%2Cpayments", "/assets/app.4c1d.css"]
    lines = []
    for number in range(200_000):
        slot, address = ("green", green) if rng.random() < 0.1 else ("blue", blue)
        chance = rng.random()
        status, answers = (200, "200") if chance > 0.01 else (500, "500") if chance > 0.005 else (200, "502, 200")
        addresses = f"{address}, {blue}" if ", " in answers else address
        seconds = rng.lognormvariate(-2.5, 0.8)
        lines.append(
            f'{{"t":{1_700_000_000 + number / 1000:.3f},"slot":"{slot}","m":"GET","u":"{rng.choice(paths)}","st":{status},"rt":{seconds:.3f},'
            f'"ua":"{addresses}","us":"{answers}","ut":"{seconds:.3f}","v":"{rng.randrange(20_000):032x}","id":"{number:032x}"}}\n'
        )
    return "".join(lines).encode(), len(lines)


ROUTES = ({"name": "order", "path": "/api/v1/orders/"}, {"name": "api", "path": "/api/"}, {"name": "asset", "path": "/assets/"})


def log_lines_per_s(routes: Sequence[dict[str, str]] = ()) -> float:
    """Return how fast the log is read in blocks, as the edge reads it."""
    text, count = log_lines()
    lines, each = text.splitlines(keepends=True), BLOCK_BYTES * count // len(text)
    blocks = [b"".join(lines[begin : begin + each]) for begin in range(0, count, each)]

    def read() -> None:
        tally = Tally({"127.0.0.1:4002": "blue", "127.0.0.1:4102": "green"}, kinds=kinds_of(routes, {}))
        for block in blocks:
            tally.add(block)
        tally.sample()

    return count / best(read, 5)


def judge_ms() -> float:
    """Return the milliseconds from what 10 edges sent to a verdict."""
    scenario = Scenario("", False, ONE, ONE, rate=50, steps=((10, 300),))
    sent = []
    for seed in range(10):
        mine, other = ours.Pool(), ours.Pool()
        for second in draw(scenario, seed)[0]:
            mine.add(second.canary)
            other.add(second.live)
        sent.append(json.dumps(Sample(0.0, 300.0, {CANARY: mine.sample(), LIVE: other.sample()}).as_dict()))

    def once() -> None:
        sample = merge([Sample.from_dict(json.loads(text)) for text in sent])
        judge.alarm(sample, CANARY, LIVE, LIMITS)
        judge.judge(sample, CANARY, LIVE, LIMITS, final=True)

    return 1000 * statistics.median(timed(once) for _again in range(51))


def best(work: Callable[[], object], rounds: int) -> float:
    return min(timed(work, time.process_time) for _again in range(rounds))


def timed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    began = clock()
    work()
    return clock() - began


def main() -> None:
    parser = argparse.ArgumentParser(description="What the judge catches, how soon, and how often it is wrong.")
    parser.add_argument("--write-docs", action="store_true", help="write the table to docs/judging.md")
    parser.add_argument("--scale", type=float, default=1.0, help="how many runs, as a multiple of the usual number")
    given = parser.parse_args()
    count = max(1, round(page.RUNS * given.scale))
    table = page.table([compare(scenario, count) for scenario in SCENARIOS])
    print(table)
    if given.write_docs:
        DOCS.write_text(page.refresh(DOCS.read_text(encoding="utf-8"), table), encoding="utf-8")
    found = {**figures(given.scale), "log_lines_per_s": round(log_lines_per_s(), -3), "judge_ms": judge_ms()}
    found["log_lines_per_s_routes"] = round(log_lines_per_s(ROUTES), -3)
    print(json.dumps({key: round(value, 4) for key, value in found.items()}))


if __name__ == "__main__":
    main()
