# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The states of a release and who may move them: one table, rendered into docs/states.md."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError


@dataclass(frozen=True)
class Phase:
    """One phase of a release: its number and name, and what it means for the release when it does not pass."""

    number: int
    name: str
    title: str
    on_stop: str


# The order of a release. ``on_stop`` is the state a release ends in when the phase stops it.
PHASES = (
    Phase(0, "claim", "Claim the app", "refused"),
    Phase(1, "preflight", "Prove the ground", "refused"),
    Phase(2, "prepare", "Prepare the idle slot", "refused"),
    Phase(3, "backup", "Back the database up", "refused"),
    Phase(4, "rehearse", "Rehearse the migration on a copy", "refused"),
    Phase(5, "migrate", "Migrate the database", "failed"),
    Phase(6, "start", "Start the idle slot", "failed"),
    Phase(7, "canary", "Let traffic in step by step", "rolled_back"),
    Phase(8, "promote", "Make the idle slot live", "rolled_back"),
    Phase(9, "watch", "Watch the new live slot", "rolled_back"),
    Phase(10, "close", "Close the release", "promoted"),
)
BY_NAME = {phase.name: phase for phase in PHASES}

OPEN, HELD, PROMOTED = "open", "held", "promoted"
REFUSED, FAILED, ROLLED_BACK = "refused", "failed", "rolled_back"
FINAL = (PROMOTED, REFUSED, FAILED, ROLLED_BACK)


@dataclass(frozen=True)
class Move:
    """One row of the table: in ``state``, ``event`` by ``who`` leads to ``next`` if ``guard`` holds."""

    state: str
    event: str
    who: str
    guard: str
    next: str


TABLE = (
    Move("", "claim", "release.yml", "the lease is free, expired, or its holder is gone; no other release is open", OPEN),
    Move(OPEN, "claim", "release.yml", "the same release id and an unchanged manifest: the run goes on where it was", OPEN),
    Move(OPEN, "begin", "release.yml", "every earlier phase is done", OPEN),
    Move(OPEN, "end", "release.yml", "every gate of the phase passed or was waived", OPEN),
    Move(OPEN, "refuse", "release.yml, rollback.yml", "phases 1 to 4 stopped it, or it was cut there: nothing real was touched", REFUSED),
    Move(OPEN, "fail", "release.yml", "phase 5 or 6 stopped it: the live slot never changed", FAILED),
    Move(OPEN, "hold", "release.yml, canary.yml", "the judge cannot tell and the step says hold, or the pace is stepwise", HELD),
    Move(OPEN, "share", "canary.yml", "as for a release that is held", OPEN),
    Move(HELD, "share", "canary.yml", "an increase passed its gates and skips no step, or a reason is given; a decrease always", HELD),
    Move(HELD, "claim", "release.yml", "the same release id: the canary goes on at the share it has", OPEN),
    Move(OPEN, "promote", "promote.yml", "the judge passes it, or a reason is given", PROMOTED),
    Move(HELD, "promote", "promote.yml", "the judge passes it, or a reason is given", PROMOTED),
    Move(OPEN, "promote", "release.yml", "the last step passed and the edge proves the new live slot", PROMOTED),
    Move(OPEN, "rollback", "release.yml, rollback.yml", "the previous slot answers", ROLLED_BACK),
    Move(HELD, "rollback", "rollback.yml", "the previous slot answers", ROLLED_BACK),
    Move(PROMOTED, "rollback", "release.yml, rollback.yml", "the previous slot answers, and the floor allows its version", ROLLED_BACK),
)


def move(state: str, event: str) -> str:
    """Return the state that follows.

    :raises SluiceError: the table has no such row; the message names the events that are allowed.
    """
    for row in TABLE:
        if row.state == state and row.event == event:
            return row.next
    allowed = sorted({row.event for row in TABLE if row.state == state})
    hint = f"Allowed now: {', '.join(allowed)}." if allowed else "It has ended; start a new release."
    raise SluiceError(f"A release that is {state or 'not yet open'} cannot take the event {event}.", hint)


def as_markdown() -> str:
    """Return the phases and the table of states as the text of docs/states.md."""
    lines = [
        "# States of a release",
        "",
        "Generated from `plugins/module_utils/core/states.py` by `bin/docs`.",
        "",
        "## Phases",
        "",
        "| phase | name | what it does | ends as, when it stops |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {phase.number} | {phase.name} | {phase.title} | {phase.on_stop} |" for phase in PHASES]
    lines += ["", "## Moves", "", "| state | event | by | guard | next |", "| --- | --- | --- | --- | --- |"]
    lines += [f"| {row.state or '(none)'} | {row.event} | {row.who} | {row.guard} | {row.next} |" for row in TABLE]
    return "\n".join(lines) + "\n"
