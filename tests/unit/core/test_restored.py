# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore is written once, also when the run that did it was cut, and says what was lost and what nobody knows."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import restored
from ansible_collections.sluice.deploy.plugins.module_utils.core.ledger import fold

LOST = [{"table": "public.entry", "inserted": 3, "updated": 2, "deleted": 1, "how": "exact"}]
DONE = {"done": True, "changed": True, "release_id": "r1", "back": False, "kept": "shop_before_r1", "lost": LOST, "swap_ms": 41.5, "cut": 3, "diff": {}}
ENTRY = {"backup": "r1", "back": False, "kept": "shop_before_r1", "lost": LOST, "rows_lost": 6, "seconds": 12.3, "swap_ms": 41.5, "cut": 3}


def test_a_restore_is_kept_with_what_was_lost_and_how_long_it_took() -> None:
    assert restored.entry([], DONE, 12.345) == ENTRY


@pytest.mark.parametrize("result", [{}, {"failed": True, "msg": "no"}, {"skipped": True}, {**DONE, "done": False}, {"done": True, "actions": []}])
def test_what_restored_nothing_is_not_written(result: dict[str, Any]) -> None:
    assert restored.entry([], result, 1.0) is None


@pytest.mark.parametrize("record", [{"event": "restore", "data": ENTRY}, {"event": "rollback", "data": {"database": "restore", "restore": ENTRY}}])
def test_it_is_written_once_whoever_did_it(record: dict[str, Any]) -> None:
    records = [{"event": "takeover", "at": 1.0}, {"at": 2.0, "operator": "ann@control", **record}]
    assert restored.entry(records, DONE, 1.0) is None
    assert restored.entry(records, {**DONE, "kept": "shop_before_again"}, 1.0)


def test_what_a_cut_run_did_is_written_by_the_next_one_without_what_it_cannot_know() -> None:
    entry = restored.entry([], {"done": True, "changed": False, "release_id": "r1", "back": False, "kept": "k"}, 3.0)
    assert entry == {"backup": "r1", "back": False, "kept": "k", "lost": None, "rows_lost": None, "seconds": None}
    assert restored.words({"at": "noon", "operator": "ann", **entry}) == (
        "Before noon the database went back to the backup of r1, by a run that was cut before it could write what was lost; what was live then is kept as k."
    )


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        (LOST, "6 rows written since were lost (public.entry)"),
        ([], "nothing was lost"),
        ([{**LOST[0], "inserted": 0, "updated": 0, "deleted": 0, "how": "not known"}], "it is not known what was lost (public.entry)"),
        ([{**LOST[0], "table": f"t{number}"} for number in range(7)], "42 rows written since were lost (t0, t1, t2, t3, t4, ...)"),
    ],
)
def test_the_sentence_says_what_was_lost(lost: list[dict[str, Any]], words: str) -> None:
    entry = restored.entry([], {**DONE, "lost": lost, "back": True}, 2.0)
    assert entry
    said = restored.words({"at": "noon", "operator": "ann", **entry})
    assert said == f"At noon the restore of r1 was undone, by ann in 2.0 s; {words}. Kept as shop_before_r1."


def test_the_release_of_the_backup_tells_it_or_the_newest() -> None:
    releases = fold({"event": "claim", "at": 1.0, "release": name, "data": {}} for name in ("r1", "r2"))
    assert [restored.release_of(releases, name) for name in ("r1", "r2", "by-hand-1")] == ["r1", "r2", "r2"]
    assert restored.release_of([], "by-hand-1") == ""
