# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The restore drill: whether a restored copy holds what the manifest says was backed up."""

from __future__ import annotations

from collections.abc import Mapping

from ansible_collections.sluice.deploy.plugins.module_utils.core.backups import Manifest
from ansible_collections.sluice.deploy.plugins.module_utils.core.facts import Schema, TableFact
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, PASS, Gate

REMEDY = "Take a new backup under another release id; do not release on this one."
_SHOWN = 10


def check_tables(manifest: Manifest, seen: Mapping[str, int]) -> list[Gate]:
    """Compare rows: one failed gate for each table that differs."""
    gates = []
    for name in sorted({*manifest.tables, *seen}):
        wanted, found = manifest.tables.get(name), seen.get(name)
        if wanted != found:
            was, now = ("no such table" if rows is None else f"{rows} rows" for rows in (wanted, found))
            gates.append(_failed(f"{name}: {was} in the manifest, {now} in the restored copy.", now, was))
    return gates


def check_checksums(manifest: Manifest, seen: Mapping[str, TableFact]) -> list[Gate]:
    """Compare the rows' hashes of the tables that were hashed: one failed gate for each that differs."""
    return [
        _failed(f"{name}: as many rows as in the manifest, with another content.", seen[name].checksum or "none", wanted)
        for name, wanted in sorted(manifest.checksums.items())
        if name in seen and seen[name].rows == manifest.tables.get(name) and seen[name].checksum != wanted
    ]


def check_sequences(manifest: Manifest, seen: Mapping[str, int]) -> list[Gate]:
    """Compare sequences: each must be where it was while the dump ran, since a sequence knows no snapshot."""
    gates = []
    for name, (first, last) in sorted(manifest.sequences.items()):
        found = seen.get(name)
        if found is None or not min(first, last) <= found <= max(first, last):
            where = str(first) if first == last else f"from {min(first, last)} to {max(first, last)}"
            now = "no such sequence" if found is None else str(found)
            gates.append(_failed(f"{name}: the next value was {where} during the backup, and is {now} in the restored copy.", now, where))
    return gates


def check_rest(manifest: Manifest, large_objects: int, extensions: Mapping[str, str]) -> list[Gate]:
    """Compare large objects and extensions."""
    gates = []
    if large_objects != manifest.large_objects:
        gates.append(
            _failed(f"{manifest.large_objects} large objects were backed up, {large_objects} are in the restored copy.", large_objects, manifest.large_objects)
        )
    missing = sorted(set(manifest.extensions) - set(extensions))
    if missing:
        gates.append(
            _failed(
                f"Extensions are missing in the restored copy: {', '.join(missing)}.", ", ".join(sorted(extensions)), ", ".join(sorted(manifest.extensions))
            )
        )
    return gates


def check_schema(before: Schema, after: Schema) -> list[Gate]:
    """Compare schemas: an object that is gone or new fails. How PostgreSQL prints a definition may change with a restore, so that alone does not."""
    old, new = before.objects(), after.objects()
    odd = [f"{name} is missing" for name in sorted(set(old) - set(new))] + [f"{name} is new" for name in sorted(set(new) - set(old))]
    if not odd:
        return []
    more = f", and {len(odd) - _SHOWN} more" if len(odd) > _SHOWN else ""
    return [_failed(f"The schema of the restored copy differs: {'; '.join(odd[:_SHOWN])}{more}.", len(odd), 0)]


def passed(manifest: Manifest, seconds: float, before: Schema, after: Schema) -> Gate:
    """Return the gate of a drill in which nothing differed."""
    rows = sum(manifest.tables.values())
    sentence = (
        f"The backup was restored in {seconds:.1f} s; all {len(manifest.tables)} tables have the {rows} rows that were counted in the dump's own snapshot,"
        f" {len(manifest.checksums)} of them compared row by row"
    )
    old, new = before.objects(), after.objects()
    printed = sorted(name for name in old if name in new and old[name] != new[name])
    if printed:
        sentence += f"; {len(printed)} definitions read otherwise since the restore ({', '.join(printed[:_SHOWN])})"
    return Gate("drill", PASS, sentence + ".", value=round(seconds, 3), sample=rows)


def _failed(sentence: str, value: object, limit: object) -> Gate:
    return Gate("drill", FAIL, sentence, value=value, limit=limit, remedy=REMEDY)
