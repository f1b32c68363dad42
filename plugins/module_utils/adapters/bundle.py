# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a built release that browsers load, looked through for what must not be there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence

from ansible_collections.sluice.deploy.plugins.module_utils.core.bundle import Scan

_CHUNK = 8 * 1024 * 1024
_OVERLAP = 64 * 1024  # longer than any spelling of a value, so that none is missed where two pieces meet


def scan(release: str, folders: Sequence[str], needles: Mapping[str, set[bytes]], patterns: Mapping[str, re.Pattern[bytes]]) -> Scan:
    """Look through every file below some folders of a release; links are not followed out of it."""
    found: dict[str, list[str]] = {}
    count = size = 0
    missing = tuple(folder for folder in folders if not os.path.isdir(os.path.join(release, folder)))
    for path in sorted({path for folder in folders for path in _files(os.path.join(release, folder))}):
        count += 1
        seen: set[str] = set()
        for piece, fresh in _pieces(path):
            size += fresh
            seen |= {name for name, texts in needles.items() if name not in seen and any(text in piece for text in texts)}
            seen |= {name for name, pattern in patterns.items() if name not in seen and pattern.search(piece)}
        for name in seen:
            found.setdefault(name, []).append(os.path.relpath(path, release))
    return Scan(count, size, {name: tuple(files) for name, files in found.items()}, missing)


def _files(folder: str) -> Iterator[str]:
    for root, _folders, names in os.walk(folder):
        yield from (path for path in (os.path.join(root, name) for name in names) if os.path.isfile(path))


def _pieces(path: str) -> Iterator[tuple[bytes, int]]:
    """Yield overlapping pieces, and how many bytes of each are new."""
    tail = b""
    with open(path, "rb") as stream:
        while True:
            fresh = stream.read(_CHUNK)
            if not fresh:
                return
            yield tail + fresh, len(fresh)
            tail = (tail + fresh)[-_OVERLAP:]
