# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What copies of an app's backups lie in each place: the backup's own folder, and the destinations."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Optional

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.destination import Destination
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import read_text, sync_directory
from ansible_collections.sluice.deploy.plugins.module_utils.core import backups, retention, shipped
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.retention import Copy

MANIFEST = "manifest.json"
# Left by the drill beside the manifest it vouches for.
DRILL = "drill.json"
# The name of a folder that is being removed: no backup, whatever is still in it.
_GOING = ".removed"


@dataclass(frozen=True)
class Place:
    """What was seen in one place.

    :param copies: None when the place could not be read; ``trouble`` says why.
    :param trouble: sentences on what could not be read; what cannot be read is never removed.
    :param files: the files of each copy, by release id, in the order in which they are removed.
    :param left: what cut runs left.
    """

    name: str
    where: str
    copies: Optional[list[Copy]]
    trouble: list[str] = field(default_factory=list)
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)


def look(destination: Destination, app: str, now: datetime) -> Place:
    """Return what a destination holds; one that does not answer is a place that could not be read."""
    where = destination.where(app)
    try:
        entries, texts = destination.entries(app), destination.manifests(app)
    except (SluiceError, OSError) as error:
        return Place(destination.name, where, None, [str(error)])
    copies, trouble, files = [], [], {}
    read: dict[str, Optional[shipped.Shipped]] = {}
    for name, text in sorted(texts.items()):
        try:
            found = read[name] = shipped.from_json(text, name)
        except SluiceError as error:
            read[name] = None
            trouble.append(f"{where}: {error}")
            continue
        data = entries.get(found.data)
        whole = data is not None and data.bytes == found.bytes
        size = (data.bytes if data else 0) + len(text)
        copies.append(Copy(destination.name, found.release_id, shipped.moment(found.created), size, found.drilled, whole))
        files[found.release_id] = shipped.files_of(found)
    left = [
        name
        for name, entry in sorted(entries.items())
        if shipped.may_be_left(name) and not shipped.belongs(name, read) and retention.is_stray(entry.modified, now)
    ]
    return Place(destination.name, where, copies, trouble, files, left)


def look_here(directory: str, app: str) -> Place:
    """Return the backups in their own folder."""
    copies, trouble, files = [], [], {}
    names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
    for name in shipped.local_copies(app, names):
        path = os.path.join(directory, name, MANIFEST)
        try:
            text = read_text(path)
            if text is None:
                continue
            manifest = backups.from_json(text, path)
            if manifest.app != app or backups.folder_name(app, manifest.release_id) != name:
                continue
            created = shipped.moment(manifest.created)
        except (SluiceError, OSError, ValueError) as error:
            trouble.append(f"{shipped.LOCAL}: {error}")
            continue
        sizes = {each: _bytes(os.path.join(directory, name, each)) for each in manifest.files}
        whole = all(sizes[each] == fact.bytes for each, fact in manifest.files.items())
        copies.append(
            Copy(
                shipped.LOCAL,
                manifest.release_id,
                created,
                sum(max(size, 0) for size in sizes.values()) + len(text),
                drilled(os.path.join(directory, name), text),
                whole,
            )
        )
        files[manifest.release_id] = (name,)
    left = [name for name in names if re.match(rf"\.{re.escape(app)}-.*{re.escape(_GOING)}\Z", name)]
    return Place(shipped.LOCAL, f"{shipped.LOCAL} ({directory})", copies, trouble, files, left)


def drilled(folder: str, text: str) -> bool:
    """Tell whether the backup with this manifest was restored once and compared; a note of another backup proves nothing."""
    try:
        note = json.loads(read_text(os.path.join(folder, DRILL)) or "{}")
        return bool(note.get("manifest_sha256") == hashlib.sha256(text.encode()).hexdigest())
    except (ValueError, AttributeError):
        return False


def _bytes(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return -1


def remove_here(directory: str, names: Collection[str]) -> None:
    """Remove backups from their own folder; a cut removal leaves nothing that looks like a backup."""
    for name in names:
        going = name if name.endswith(_GOING) else f".{name}{_GOING}"
        if going != name:
            os.rename(os.path.join(directory, name), os.path.join(directory, going))
            sync_directory(directory)
        shutil.rmtree(os.path.join(directory, going))
