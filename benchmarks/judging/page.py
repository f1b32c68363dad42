# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of judges, and its place in docs/judging.md."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median
from typing import NamedTuple, Optional

JUDGES = ("naive", "Flagger", "Kayenta", "Sluice")
RUNS = 80
BEGIN, END = "<!-- table: begin, written by benchmarks/judge.py --write-docs -->", "<!-- table: end -->"


class Row(NamedTuple):
    """One kind of rollout: at which second each judge took the canary back, run by run, and in which share of the runs ours held it instead."""

    words: str
    bad: bool
    rollbacks: dict[str, list[Optional[float]]]
    held: float

    def back(self, judge: str) -> float:
        return fmean(at is not None for at in self.rollbacks[judge])

    def wrong(self, judge: str) -> float:
        """Return the share of false alarms, or of misses; a bad canary that is held for a person has not got through."""
        held = self.held if judge == "Sluice" else 0.0
        return max(0.0, round(1 - self.back(judge) - held, 6)) if self.bad else self.back(judge)


def table(rows: Sequence[Row]) -> str:
    """Return the judges' errors side by side."""
    lines = [f"| rollout | counted | {' | '.join(JUDGES)} | Sluice held |", "| --- | --- |" + " ---: |" * (len(JUDGES) + 1)]
    for row in rows:
        cells = [_cell(row, judge) for judge in JUDGES]
        lines.append(f"| {row.words} | {'misses' if row.bad else 'false alarms'} | {' | '.join(cells)} | {row.held:.0%} |")
    for bad, words in ((False, "all good canaries"), (True, "all bad canaries")):
        chosen = [row for row in rows if row.bad is bad]
        cells = [f"**{fmean(row.wrong(judge) for row in chosen):.0%}**" for judge in JUDGES]
        lines.append(f"| **{words}** | **{'misses' if bad else 'false alarms'}** | {' | '.join(cells)} | {fmean(row.held for row in chosen):.0%} |")
    return "\n".join(lines).replace("%", " %").replace("  %", " %")


def _cell(row: Row, judge: str) -> str:
    moments = [at for at in row.rollbacks[judge] if at is not None]
    return f"{row.wrong(judge):.0%}" + (f" ({median(moments):.0f} s)" if moments else "")


def refresh(page: str, new: str) -> str:
    """Return the page with a new table between its markers."""
    before, _begin, rest = page.partition(BEGIN)
    _old, _end, after = rest.partition(END)
    return f"{before}{BEGIN}\n{new}\n{END}{after}"
