# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A place that copies of backups are shipped to: what each kind of place can do, and one way to open them all."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate


@dataclass(frozen=True)
class Entry:
    """A file of a place: its size, and when it was written there."""

    bytes: int
    modified: datetime


@dataclass(frozen=True)
class Written:
    """What was written and read back: size, SHA-256, and the storage's own checksum where it has one."""

    bytes: int
    sha256: str
    checksum: str = ""


class Deadline:
    """The end of the time a module has for everything it does."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        # What waits for a network or a disk does not look at clocks: the alarm goes off in the middle of it.
        signal.signal(signal.SIGALRM, lambda _number, _frame: self._over())
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def left(self) -> float:
        """Return the seconds that are left.

        :raises SluiceError: there are none.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            self._over()
        return left

    def _over(self) -> None:
        raise SluiceError(
            f"The work was not done within {self._seconds:g} s and was stopped.", "Raise timeout, or look what slows the way there.", timeout=self._seconds
        )

    def guard(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass blocks on until the time is over."""
        for block in blocks:
            self.left()
            yield block


class Destination(Protocol):
    """Files of one app in one place. Every method raises SluiceError with the place, what was tried and what came back."""

    name: str

    def where(self, app: str) -> str:
        """Return the place in words, without a secret."""

    def entries(self, app: str) -> dict[str, Entry]:
        """Return every file there by name, leftovers of cut uploads as well."""

    def manifests(self, app: str, only: str = "") -> dict[str, str]:
        """Return the text of each manifest by name, or of one where it is there."""

    def write(self, app: str, name: str, blocks: Iterator[bytes], size: int) -> Written:
        """Write a file under a temporary name, read it back, and only then give it its name.

        :param size: bytes to expect, roughly.
        :raises SluiceError: what lies there is not what was sent; nothing has the name then.
        """

    def differs(self, app: str, name: str, wanted: Written) -> str:
        """Return how the file there differs from what was written, in words; empty when it does not."""

    def read(self, app: str, name: str) -> AbstractContextManager[Iterator[bytes]]:
        """Yield the blocks of a file."""

    def remove(self, app: str, names: Sequence[str]) -> None:
        """Remove files in this order; one that is gone already is no error."""

    def exposed(self, app: str, name: str) -> Gate | None:
        """Judge whether a stranger can read the file; None where that cannot be asked."""


def open_destination(given: Mapping[str, Any], secrets: Mapping[str, str], deadline: Deadline) -> Destination:
    """Return a destination; nothing is asked of it yet.

    :param secrets: variables of the environment file.
    """
    # Each kind needs what the others do not: programs, or a library.
    # pylint: disable=import-outside-toplevel
    if given["kind"] == "path":
        from ansible_collections.sluice.deploy.plugins.module_utils.adapters.destination_path import PathDestination

        return PathDestination(given, deadline)
    if given["kind"] == "ssh":
        from ansible_collections.sluice.deploy.plugins.module_utils.adapters.destination_ssh import SshDestination

        return SshDestination(given, deadline)
    from ansible_collections.sluice.deploy.plugins.module_utils.adapters.destination_s3 import S3Destination

    return S3Destination(given, secrets, deadline)
