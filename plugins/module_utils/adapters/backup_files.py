# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a backup on disk."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import read_text
from ansible_collections.sluice.deploy.plugins.module_utils.core import backups
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.facts import Schema
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate

ARCHIVE, MANIFEST, SCHEMA, GLOBALS = "archive", "manifest.json", "schema.txt", "globals.sql"
# Written by the drill, so it is no part of what the manifest vouches for.
DRILL = "drill.json"


def read_backup(folder: str) -> tuple[backups.Manifest, list[Gate], dict[str, float]]:
    """Return the manifest of a backup whose files are all as it says.

    :raises SluiceError: there is no manifest, it is damaged, or files differ from it; each is named.
    """
    started = time.monotonic()
    path = os.path.join(folder, MANIFEST)
    text = read_text(path)
    if text is None:
        raise SluiceError(f"{folder} holds no {MANIFEST}, so it is no backup that can be trusted.", "Take a new backup.", path=folder)
    manifest = backups.from_json(text, path)
    gates = backups.check_files(manifest, hash_files(folder, skip=(MANIFEST, DRILL)))
    backups.refuse_failed(gates, f"The backup {folder} is damaged")
    return manifest, gates, {"files": round(time.monotonic() - started, 3)}


def read_schema(folder: str) -> Schema:
    """Return the schema of the database that was backed up."""
    return Schema(read_text(os.path.join(folder, SCHEMA)) or "")


def manifest_sha256(folder: str) -> str:
    """Return the SHA-256 of a backup's manifest, which stands for all of the backup."""
    with open(os.path.join(folder, MANIFEST), "rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()


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
