# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""TCP connections of this host, as the kernel lists them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator

_ESTABLISHED = b"01"
_LISTEN = b"0A"


def _rows(pid: str) -> Iterator[list[bytes]]:
    for table in ("tcp", "tcp6"):
        try:
            with open(f"/proc/{pid}/net/{table}", "rb") as stream:
                rows = stream.read().splitlines()[1:]
        except OSError:
            continue  # the process has ended, or the host has no such protocol
        yield from (row.split() for row in rows)


def served_on(ports: Collection[int]) -> int:
    """Return how many established connections have one of these TCP ports as their local one."""
    return sum(1 for row in _rows("self") if row[3] == _ESTABLISHED and int(row[1].rpartition(b":")[2], 16) in ports)


def held_by(pid: int) -> int:
    """Return how many established connections a process holds."""
    try:
        held = {os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
    except OSError:
        return 0
    return sum(1 for row in _rows(str(pid)) if row[3] == _ESTABLISHED and f"socket:[{row[9].decode()}]" in held)


def listening() -> set[int]:
    """Return the TCP ports that something on this host listens on."""
    return {int(row[1].rpartition(b":")[2], 16) for row in _rows("self") if row[3] == _LISTEN}
