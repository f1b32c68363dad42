# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What going back to a backup would throw away: rows inserted, updated and deleted since, per table, and how sure that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, PASS, WAIVED, Gate

EXACT = "exact"
NO_KEY = "exact, but there is no primary key: an update counts as one deleted and one inserted"
AT_MOST = "at most: too many rows differ to compare each"
COUNTERS = "by the server's counters, which also count what was rolled back"
COUNTS = "at least: by the number of rows alone, which shows no update"
UNKNOWN = "not known: the server's counters were set back since"
# More groups than this are not split, and more rows than this are not compared one by one.
GROUPS = 1 << 15
BATCH_ROWS, MOST_ROWS = 50_000, 1_000_000
_SHOWN = 12

Groups = Mapping[int, tuple[int, str]]


@dataclass(frozen=True)
class Loss:
    """Rows of one table that going back throws away, and how that was found out."""

    table: str
    inserted: int
    updated: int
    deleted: int
    how: str

    def total(self) -> int:
        """Return the rows of all three kinds."""
        return self.inserted + self.updated + self.deleted

    def words(self) -> str:
        """Return them in words."""
        parts = [f"{count} {kind}" for count, kind in ((self.inserted, "inserted"), (self.updated, "updated"), (self.deleted, "deleted")) if count]
        if not parts:
            return f"{self.table}: {self.how}"
        return f"{self.table}: {', '.join(parts)}" + ("" if self.how == EXACT else f" ({self.how})")


def compare_counts(before: Mapping[str, int], now: Mapping[str, int]) -> list[Loss]:
    """Return the least that was written, from the rows of each table alone."""
    found = []
    for table in sorted({*before, *now}):
        more = now.get(table, 0) - before.get(table, 0)
        if more:
            found.append(Loss(table, max(more, 0), 0, max(-more, 0), COUNTS if table in before and table in now else EXACT))
    return found


def compare_counters(table: str, before: Sequence[int], now: Sequence[int]) -> Loss:
    """Return what the server's counters of a table say; a crash of the server or a reset sets them back."""
    inserted, updated, deleted = (after - was for was, after in zip(before, now))
    return Loss(table, 0, 0, 0, UNKNOWN) if min(inserted, updated, deleted) < 0 else Loss(table, inserted, updated, deleted, COUNTERS)


def differing(backup: Groups, live: Groups) -> list[tuple[int, int]]:
    """Return the groups of rows that are not alike on both sides, each with how many rows both sides have in it."""
    keys = [key for key in {*backup, *live} if backup.get(key) != live.get(key)]
    return [(key, backup.get(key, (0, ""))[0] + live.get(key, (0, ""))[0]) for key in sorted(keys)]


def batches(groups: Sequence[tuple[int, int]]) -> list[list[int]] | None:
    """Return the groups in batches small enough to be compared in memory, or None when there are too many rows."""
    if sum(rows for _key, rows in groups) > MOST_ROWS:
        return None
    found: list[list[int]] = []
    room = 0
    for key, rows in groups:
        if not found or rows > room:
            found.append([])
            room = BATCH_ROWS
        found[-1].append(key)
        room -= rows
    return found


def at_most(table: str, backup: Groups, live: Groups) -> Loss:
    """Return bounds for a table in which more rows differ than are compared one by one."""
    groups = differing(backup, live)
    had, has = (sum(side.get(key, (0, ""))[0] for key, _rows in groups) for side in (backup, live))
    return Loss(table, max(has - had, 0), min(had, has), max(had - has, 0), AT_MOST)


def compare_rows(table: str, keyed: bool, backup: Iterable[str], live: Iterable[str]) -> Loss:
    """Compare rows one by one.

    :param keyed: whether the table has a primary key.
    :param backup: of each row the hash of its key and of itself, separated by a space.
    :param live: the same of the live table.
    """
    if not keyed:
        had, has = Counter(backup), Counter(live)
        return Loss(table, sum((has - had).values()), 0, sum((had - has).values()), NO_KEY)
    before = dict(line.split(" ") for line in backup)
    inserted = updated = 0
    for line in live:
        key, row = line.split(" ")
        was = before.pop(key, None)
        inserted += was is None
        updated += was is not None and was != row
    return Loss(table, inserted, updated, len(before), EXACT)


def add(first: Loss, second: Loss) -> Loss:
    """Return two parts of one table together."""
    return Loss(first.table, first.inserted + second.inserted, first.updated + second.updated, first.deleted + second.deleted, first.how)


def loss_gate(losses: Sequence[Loss], release_id: str, created: str, accepted: str, late: int = 0) -> Gate:
    """Say what a restore throws away, and whether somebody has agreed.

    :param accepted: the release id that the operator typed, or empty.
    :param late: rows written while we were counting, which are in no table's number.
    """
    total = sum(loss.total() for loss in losses) + late
    unknown = any(loss.how == UNKNOWN for loss in losses)
    if not total and not unknown:
        return Gate("restore_loss", PASS, f"Nothing was written since the backup {release_id} of {created}.", value=0, limit=0)
    shown = [loss.words() for loss in sorted(losses, key=lambda loss: -loss.total())]
    if len(shown) > _SHOWN:
        shown[_SHOWN:] = [f"and {len(shown) - _SHOWN} more tables"]
    if late:
        shown.append(f"{late} rows while this was prepared, by the server's counters")
    sentence = f"Going back to {release_id} of {created} throws away {'at least ' if unknown else ''}{total} rows written since: {'; '.join(shown)}."
    if accepted == release_id:
        return Gate("restore_loss", WAIVED, f"{sentence} Accepted as asked.", value=total, limit=0)
    wrong = f" restore_accept_loss is {accepted!r}, which is another release." if accepted else ""
    return Gate("restore_loss", FAIL, sentence + wrong, value=total, limit=0, remedy=f"To agree, add -e restore_accept_loss={release_id}; nothing was changed.")


def refuse_loss(gate: Gate, losses: Sequence[Loss], gates: Sequence[Gate]) -> None:
    """Stop when rows would be lost that nobody agreed to lose.

    :raises SluiceError: with the numbers of each table.
    """
    if gate.verdict == FAIL:
        raise SluiceError(gate.sentence, gate.remedy, lost=as_dicts(losses), gates=[one.as_dict() for one in (*gates, gate)])


def as_dicts(losses: Sequence[Loss]) -> list[dict[str, Any]]:
    """Return the losses as plain mappings."""
    return [asdict(loss) for loss in losses]
