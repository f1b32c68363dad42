# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of backups in a folder of this host: another disk, or a mounted share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.destination import Deadline, Entry, Written
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import free_bytes, make_folder, sync_directory
from ansible_collections.sluice.deploy.plugins.module_utils.core.backups import check_room
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.shipped import MANIFEST

_BLOCK = 1 << 20


class PathDestination:
    """A folder below ``path`` for each app."""

    def __init__(self, given: Mapping[str, Any], deadline: Deadline) -> None:
        self.name: str = given["name"]
        self._path: str = given["path"]
        self._deadline = deadline

    def where(self, app: str) -> str:
        return f"{self.name} ({os.path.join(self._path, app)})"

    def _folder(self, app: str) -> str:
        # A folder that is made where a disk should be mounted fills the wrong disk.
        if not os.path.isdir(self._path):
            raise SluiceError(f"{self.name}: the folder {self._path} is not there.", "Mount the disk, or make the folder.", path=self._path)
        return os.path.join(self._path, app)

    def entries(self, app: str) -> dict[str, Entry]:
        found = {}
        with suppress(FileNotFoundError), os.scandir(self._folder(app)) as listing:
            for each in listing:
                facts = each.stat(follow_symlinks=False)
                found[each.name] = Entry(facts.st_size, datetime.fromtimestamp(facts.st_mtime, timezone.utc))
        return found

    def manifests(self, app: str, only: str = "") -> dict[str, str]:
        found = {}
        for name in self.entries(app):
            if name.endswith(MANIFEST) and not name.startswith(".") and only in ("", name):
                with open(os.path.join(self._folder(app), name), encoding="utf-8", errors="replace") as stream:
                    found[name] = stream.read()
        return found

    def write(self, app: str, name: str, blocks: Iterator[bytes], size: int) -> Written:
        folder = self._folder(app)
        check_room(size, free_bytes(folder), 0, folder)
        make_folder(folder, 0o700)
        temporary = os.path.join(folder, f".{name}.partial")
        digest, count = hashlib.sha256(), 0
        try:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
                for block in self._deadline.guard(blocks):
                    stream.write(block)
                    digest.update(block)
                    count += len(block)
                stream.flush()
                os.fsync(stream.fileno())
            wrong = self._compare(temporary, Written(count, digest.hexdigest()))
            if wrong:
                raise SluiceError(f"{self.where(app)}: {name} {wrong} when it was read back.", "Look after that disk; nothing was kept there.")
            os.rename(temporary, os.path.join(folder, name))
            sync_directory(folder)
        except OSError as error:
            raise SluiceError(f"{self.where(app)}: {name} could not be written: {error.strerror}. Nothing of it is left there.", path=folder) from error
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        return Written(count, digest.hexdigest())

    def _compare(self, path: str, wanted: Written) -> str:
        digest, count = hashlib.sha256(), 0
        try:
            with open(path, "rb") as stream:
                # What was just written would come from memory; the disk is asked instead.
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                while block := stream.read(_BLOCK):
                    self._deadline.left()
                    digest.update(block)
                    count += len(block)
        except FileNotFoundError:
            return "is missing"
        if count != wanted.bytes:
            return f"has {count} bytes instead of {wanted.bytes}"
        return "" if digest.hexdigest() == wanted.sha256 else "has another SHA-256 than what was shipped"

    def differs(self, app: str, name: str, wanted: Written) -> str:
        return self._compare(os.path.join(self._folder(app), name), wanted)

    @contextmanager
    def read(self, app: str, name: str) -> Iterator[Iterator[bytes]]:
        with open(os.path.join(self._folder(app), name), "rb") as stream:
            yield self._deadline.guard(iter(lambda: stream.read(_BLOCK), b""))

    def remove(self, app: str, names: Sequence[str]) -> None:
        folder = self._folder(app)
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))
        with suppress(FileNotFoundError):
            sync_directory(folder)

    def exposed(self, app: str, name: str) -> None:
        """Files and folders here are made for their owner alone."""
