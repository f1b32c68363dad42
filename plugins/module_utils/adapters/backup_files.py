# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a backup on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress

from ansible_collections.sluice.deploy.plugins.module_utils.core import backups


def hash_files(folder: str, skip: Sequence[str] = ()) -> dict[str, backups.FileFact]:
    """Return size and SHA-256 of every file below a folder, by its path there."""
    seen = {}
    for base, _folders, names in os.walk(folder):
        for name in sorted(names):
            path = os.path.join(base, name)
            relative = os.path.relpath(path, folder)
            if relative not in skip:
                digest, count = hashlib.sha256(), 0
                with open(path, "rb") as stream:
                    while block := stream.read(1 << 20):
                        digest.update(block)
                        count += len(block)
                seen[relative] = backups.FileFact(count, digest.hexdigest())
    return seen


def folder_bytes(folder: str) -> int:
    """Return the size of all files below a folder; files may come and go meanwhile."""
    total = 0
    for base, _folders, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(base, name)).st_size
    return total
