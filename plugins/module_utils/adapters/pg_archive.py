# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An archive of pg_dump in directory format: written in parallel, listed, and read back to the last block."""

from __future__ import annotations

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import process
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.postgres import LIVE, Clients, Job
from ansible_collections.sluice.deploy.plugins.module_utils.core import backups
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError


def choose_compression(clients: Clients, wanted: str) -> str:
    """Return the compression: the one wanted, or the best the client has.

    :raises SluiceError: the client has none of them.
    """
    candidates = backups.compressions(wanted)
    for candidate in candidates:
        if clients.compresses(candidate.split(":")[0]):
            return candidate
    raise SluiceError(f"{clients.tool('pg_dump')} was built without {' or '.join(candidates)}.", "Use compression: auto.")


def start_dump(clients: Clients, archive: str, snapshot: str, jobs: int, compression: str, lock_wait: float) -> Job:
    """Start a dump of what a snapshot sees; it waits no longer than ``lock_wait`` seconds for a table's lock."""
    # Before version 16 there is gzip alone, and -Z takes its level.
    level = compression if clients.major("pg_dump") >= 16 else {"none": "0"}.get(compression, compression.partition(":")[2] or "1")
    return clients.start(
        "pg_dump",
        [
            "-Fd",
            f"-j{jobs}",
            f"-Z{level}",
            f"--snapshot={snapshot}",
            f"--lock-wait-timeout={max(1, int(lock_wait * 1000))}",
            "-f",
            archive,
            "-d",
            f"service={LIVE}",
        ],
    )


def start_decode(clients: Clients, archive: str) -> Job:
    """Start to read all of an archive; a listing reads the table of contents alone, and only this proves that every block can be unpacked."""
    return clients.start("pg_restore", ["-f", "/dev/null", archive])


def listing(clients: Clients, archive: str) -> backups.Listing:
    """Return what the table of contents says.

    :raises SluiceError: it cannot be read; with what pg_restore said.
    """
    done = process.run([clients.tool("pg_restore"), "--list", archive], timeout=120, ok=(0, 1))
    if done.rc:
        raise SluiceError(f"The table of contents of {archive} cannot be read: {done.stderr.strip()[-500:]}", "Take a new backup.", stderr=done.stderr)
    return backups.parse_listing(done.stdout)
