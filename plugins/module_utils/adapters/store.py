# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger and the lease as files in one folder of the ledger host."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import locked, make_folder, read_text, sync_directory, write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.core import lease as leases
from ansible_collections.sluice.deploy.plugins.module_utils.core import ledger
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError


class Store:
    """``ledger.jsonl`` and ``lease.json`` of one app; every change happens under one lock and is synced to disk."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._ledger = os.path.join(folder, "ledger.jsonl")
        self._lease = os.path.join(folder, "lease.json")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one change."""
        make_folder(self.folder, 0o700)
        with locked(os.path.join(self.folder, ".lock")):
            yield

    def records(self) -> list[dict[str, Any]]:
        """Return every record; a broken chain is an error."""
        return ledger.parse(self._text())[0]

    def _text(self) -> str:
        """Return the ledger's bytes as text; a damaged byte stays a damaged character, so that the chain finds it."""
        try:
            with open(self._ledger, "rb") as stream:
                return stream.read().decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise SluiceError(
                f"The ledger {self._ledger} could not be read: {error.strerror}.", "Check the folder's owner and mode.", path=self._ledger
            ) from error

    def append(self, *drafts: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Seal and append records; they are on disk when this returns. Needs the lock."""
        records, torn = ledger.parse(self._text())
        try:
            with open(self._ledger, "r+b" if os.path.exists(self._ledger) else "w+b") as stream:
                os.fchmod(stream.fileno(), 0o600)
                end = stream.seek(0, os.SEEK_END)
                if torn:
                    end = stream.truncate(end - len(torn.encode("utf-8", "surrogateescape")))
                    stream.seek(end)
                for draft in drafts:
                    records.append(ledger.seal(draft, records[-1] if records else None))
                    stream.write(ledger.line(records[-1]).encode())
                stream.flush()
                os.fsync(stream.fileno())
            sync_directory(self.folder)
        except OSError as error:
            raise SluiceError(
                f"The ledger {self._ledger} could not be written: {error.strerror}.", "Free some space, or check the folder's owner.", path=self._ledger
            ) from error
        return records

    def lease(self) -> Optional[leases.Lease]:
        """Return who holds the app, or None."""
        try:
            return leases.from_dict(self._lease_data())
        except TypeError as error:
            raise self._damaged_lease() from error

    def _lease_data(self) -> dict[str, Any]:
        try:
            return dict(json.loads(read_text(self._lease) or "{}"))
        except (ValueError, TypeError) as error:
            raise self._damaged_lease() from error

    def _damaged_lease(self) -> SluiceError:
        return SluiceError(
            f"The lease {self._lease} is damaged: it cannot be read as one.", "Restore it from its copy; its fencing number must not go back.", path=self._lease
        )

    def last_fence(self) -> int:
        """Return the highest fencing number given so far."""
        return int(self._lease_data().get("fence", 0))

    def write_lease(self, lease: leases.Lease) -> None:
        """Put a lease on file. Needs the lock."""
        write_atomic(self._lease, json.dumps(lease.as_dict()) + "\n", 0o600)

    def free_lease(self) -> None:
        """Take the holder off the file; the fencing number stays, so that it never goes back. Needs the lock."""
        write_atomic(self._lease, json.dumps({"fence": self.last_fence()}) + "\n", 0o600)


def process_started(pid: int) -> int:
    """Return when a process of this host began, in clock ticks since boot; 0 when there is no such process or no /proc."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as stream:
            return int(stream.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
