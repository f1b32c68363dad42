# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a database holds, as data: rows and checksums of its tables, and its schema as text that can be compared."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Optional

# PostgreSQL prints a list of varchar literals in one way when it was written, and in another once it was restored.
_LITERAL_LIST = re.compile(r"\(ARRAY\[((?:'(?:[^']|'')*'::character varying(?:, )?)+)\]\)::text\[\]")
_LITERAL = re.compile(r"'(?:[^']|'')*'::character varying")
_INDENT = "\n    "


@dataclass(frozen=True)
class TableFact:
    """Rows of a table, its size on disk with TOAST, and the sum of the 64-bit hashes of its rows, None where it was not taken."""

    rows: int
    bytes: int
    checksum: Optional[str] = None


@dataclass(frozen=True)
class Schema:
    """A schema as text: one entry for each object, sorted, ``kind name: definition``, further lines of a definition indented by four spaces."""

    text: str

    @property
    def sha256(self) -> str:
        """Return the fingerprint of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def objects(self) -> dict[str, str]:
        """Return the definition of each object by its kind and name."""
        found = {}
        for entry in re.split(r"\n(?! )", self.text.rstrip("\n")) if self.text else []:
            name, _colon, definition = entry.partition(": ")
            found[name] = definition
        return found


def schema(rows: Iterable[Mapping[str, str]]) -> Schema:
    """Return the schema of catalogue rows with kind, name and definition, in whatever order they come."""
    lines = []
    for row in rows:
        # A colon or a line's end in a name must not look like the end of the name.
        name = f"{row['kind']} {row['name']}".replace("\n", "\\n").replace(": ", ":\\ ")
        lines.append(f"{name}: {normal(row['definition'])}".rstrip().replace("\n", _INDENT))
    return Schema("".join(f"{line}\n" for line in sorted(lines)))


def normal(definition: str) -> str:
    """Return a definition as PostgreSQL prints it after a restore."""
    return _LITERAL_LIST.sub(lambda match: "ARRAY[" + _LITERAL.sub(lambda literal: f"({literal.group()})::text", match.group(1)) + "]", definition)


def schema_changes(before: Schema, after: Schema) -> list[str]:
    """Return what differs, one readable line or block for each object: ``+`` came, ``-`` went, ``~`` is defined otherwise."""
    old, new = before.objects(), after.objects()
    changes = []
    for name in sorted({*old, *new}):
        if name not in new:
            changes.append(f"- {name}")
        elif name not in old:
            changes.append(f"+ {name}: {new[name]}")
        elif old[name] != new[name]:
            changes.append(f"~ {name}: {old[name]}\n    -> {new[name]}")
    return changes


def cheap_tables(sizes: Mapping[str, int], limit: int) -> list[str]:
    """Return the tables whose rows are to be hashed: the smallest first, as long as all of them together stay within the limit in bytes."""
    chosen, total = [], 0
    for name, size in sorted(sizes.items(), key=lambda item: (item[1], item[0])):
        total += size
        if total > limit:
            break
        chosen.append(name)
    return chosen
