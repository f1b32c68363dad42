# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rehearsal: what a run on a copy proves about the run on the real database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.backups import size
from ansible_collections.sluice.deploy.plugins.module_utils.core.facts import Schema, TableFact
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, PASS, Gate

NONE, DOWN, RESTORE = "none", "down", "restore"
SLOWER = 5.0
# Below this the clock says more about the machine's other work than about the migration.
NOTICED_S = 1.0


def expected_schema(live: Schema, before: Schema, after: Schema) -> Schema:
    """Return the schema the real database must have after the migration: what changed on the copy, changed there.

    A restored copy can spell a definition otherwise than the database it is of; what the migrations did not touch is taken from the real one.

    :param live: the real database before the migration.
    :param before: the copy before it.
    :param after: the copy after it.
    """
    objects, old, new = live.objects(), before.objects(), after.objects()
    for name in {*old, *new}:
        if old.get(name) != new.get(name):
            objects.pop(name, None)
            if name in new:
                objects[name] = new[name]
    return Schema("".join(f"{line}\n" for line in sorted(f"{name}: {definition}".rstrip() for name, definition in objects.items())))


def rows_differ(before: Mapping[str, TableFact], after: Mapping[str, TableFact]) -> list[str]:
    """Return in words which tables hold other rows."""
    words = []
    for name in sorted(set(before) | set(after)):
        was, now = before.get(name), after.get(name)
        if was is None or now is None:
            words.append(f"{name} is {'new' if was is None else 'gone'}")
        elif (was.rows, was.checksum) != (now.rows, now.checksum):
            words.append(f"{name} has other rows")
    return words


def reversible(
    due: Sequence[str], down_problem: str, schema_same: bool, rows_differ: Sequence[str], up_again_same: bool, drops: Sequence[str]
) -> tuple[str, str]:
    """Return how a release's migrations can be taken back, and the sentence why.

    ``none`` is a release that migrates nothing, so that there is nothing to take back. ``down`` needs up, down and up on the copy to have given the same
    schema and the same rows. Everything else needs ``restore``.

    :param down_problem: why nothing was taken back; empty when it was.
    :param drops: what the way back drops: rows the new version wrote there go with it.
    """
    if not due:
        return NONE, "Nothing is pending, so nothing has to be taken back."
    if down_problem:
        return RESTORE, f"Only a restore takes the migrations back: {down_problem}"
    if not schema_same:
        return RESTORE, "Only a restore takes the migrations back: after up and down the copy has another schema than before."
    if rows_differ:
        return RESTORE, f"Only a restore takes the migrations back: after up and down, {'; '.join(rows_differ[:5])}."
    if not up_again_same:
        return RESTORE, "Only a restore takes the migrations back: the second way up made another schema than the first."
    lost = f" What the new version writes is lost with it where the way back drops: {'; '.join(drops[:5])}." if drops else ""
    return DOWN, f"Up, down and up on the copy gave the same schema and the same rows.{lost}"


def forecast(steps: Sequence[Mapping[str, Any]], live_bytes: int, copy_bytes: int) -> float:
    """Return the seconds the real run will take: the copy has no bloat, so the real database may be larger.

    Waiting for locks is not in it: nobody uses the copy.
    """
    total = sum(float(step["seconds"]) for step in steps)
    return round(total * max(1.0, live_bytes / max(1, copy_bytes)), 3)


def judge_duration(steps: Sequence[Mapping[str, Any]], seconds: float, limit: float) -> Gate:
    """Judge whether the real run fits into its time."""
    if seconds > limit:
        slowest = max(steps, key=lambda step: float(step["seconds"]))
        return Gate(
            "duration",
            FAIL,
            f"The migrations would take about {seconds:.1f} s on the real database; the limit is {limit:g} s."
            f" The slowest is {slowest['name']} ({slowest['seconds']:.1f} s).",
            value=seconds,
            limit=limit,
            sample=len(steps),
            remedy="Split the slowest, or raise migrate_timeout.",
        )
    return Gate("duration", PASS, f"The migrations will take about {seconds:.2f} s on the real database.", value=seconds, limit=limit, sample=len(steps))


def judge_impact(locks: Sequence[Mapping[str, Any]], rewritten: Sequence[str], growth: int) -> Gate:
    """Tell what the migrations locked, rewrote and took; it stops nothing: the guards bound it."""
    strong = [lock for lock in locks if lock["mode"] == "AccessExclusiveLock"]
    held = ", ".join(f"{lock['table']} {lock['seconds']:.1f} s" for lock in strong[:5])
    locked = f"Locked against everybody: {held}." if strong else "Nothing was locked against everybody."
    rewrote = f" Rewritten: {', '.join(rewritten[:5])}." if rewritten else " No table was rewritten."
    return Gate(
        "impact", PASS, f"{locked}{rewrote} The database {'grew' if growth >= 0 else 'shrank'} by {size(abs(growth))}.", value=growth, sample=len(locks)
    )


def judge_before(expected: str, found: str) -> Gate:
    """Judge whether the real database still has the schema it had at the rehearsal."""
    if expected == found:
        return Gate("unchanged", PASS, "The real database has the schema it had at the rehearsal.", value=found[:16], limit=expected[:16])
    return Gate(
        "unchanged",
        FAIL,
        "The schema of the real database was changed since the rehearsal, past the migrations.",
        value=found[:16],
        limit=expected[:16],
        remedy="Find out who changed it, then release again: the rehearsal must see it.",
    )


def judge_fingerprint(expected: str, found: str) -> Gate:
    """Judge whether the real database now has the schema that the rehearsal ended with."""
    if expected == found:
        return Gate("fingerprint", PASS, "The real database has the schema that the rehearsal ended with.", value=found[:16], limit=expected[:16])
    return Gate(
        "fingerprint",
        FAIL,
        "The real database has another schema than the copy had after the rehearsal:"
        " something was changed past the migrations, or they do not always do the same.",
        value=found[:16],
        limit=expected[:16],
        remedy="Compare both schemas before anything is released on this one.",
    )


def slower(expected: float, seconds: float) -> str:
    """Return a warning when the real run took much longer than the rehearsal; empty when not."""
    if seconds < NOTICED_S or seconds <= SLOWER * expected:
        return ""
    return f"The migrations took {seconds:.1f} s, {seconds / max(expected, 0.001):.0f} times as long as in the rehearsal ({expected:.2f} s)."
