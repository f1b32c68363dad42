# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore as the ledger remembers it: which backup, what was lost with it, how long it took, and where the database before is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.lease import utc
from ansible_collections.sluice.deploy.plugins.module_utils.core.ledger import Release

EVENT = "restore"


def entry(records: Iterable[Mapping[str, Any]], result: Mapping[str, Any], seconds: float) -> Optional[dict[str, Any]]:
    """Return what the ledger is to keep of a restore, or None when there was none or it is there already.

    A run that was cut after its swap wrote nothing; the next one finds the database in place, and writes it then. Each database that is
    moved aside has a name of its own, by which a restore is known.

    :param result: what the module ``restore`` returned.
    :param seconds: since the run took the lease.
    """
    kept = result.get("kept")
    if not result.get("done") or not kept or any(one["kept"] == kept for one in restores_of(records)):
        return None
    lost = result.get("lost")
    return {
        "backup": result["release_id"],
        "back": bool(result["back"]),
        "kept": kept,
        "lost": lost,
        "rows_lost": None if lost is None else sum(row["inserted"] + row["updated"] + row["deleted"] for row in lost),
        "seconds": None if lost is None else round(seconds, 1),
        **{key: result[key] for key in ("swap_ms", "held_ms", "cut") if key in result},
    }


def restores_of(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return every restore that the records tell, by hand or with a rollback, each with when and by whom."""
    found = []
    for record in records:
        data = record.get("data", {})
        told = data if record["event"] == EVENT else data.get(EVENT)
        if told:
            found.append({"at": utc(record["at"]), "operator": record.get("operator", ""), **told})
    return found


def release_of(releases: Sequence[Release], backup: str) -> str:
    """Return the release whose account tells of a restore: that of the backup, or for a backup by hand the newest; empty when there is none."""
    names = [release.id for release in releases]
    return backup if backup in names else next(reversed(names), "")


def words(one: Mapping[str, Any]) -> str:
    """Return a restore in a sentence.

    :param one: an element of ``restores_of``.
    """
    what = f"the restore of {one['backup']} was undone" if one["back"] else f"the database went back to the backup of {one['backup']}"
    if one["lost"] is None:
        return f"Before {one['at']} {what}, by a run that was cut before it could write what was lost; what was live then is kept as {one['kept']}."
    tables = ", ".join(row["table"] for row in one["lost"][:5]) + (", ..." if len(one["lost"]) > 5 else "")
    rows = f"{one['rows_lost']} rows written since were lost" if one["rows_lost"] else "it is not known what was lost" if tables else "nothing was lost"
    return f"At {one['at']} {what}, by {one['operator']} in {one['seconds']} s; {rows}{f' ({tables})' if tables else ''}. Kept as {one['kept']}."
