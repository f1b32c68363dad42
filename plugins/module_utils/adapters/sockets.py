# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""TCP connections of this host, as the kernel lists them."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Collection, Iterator
from typing import Optional

_ESTABLISHED = b"01"
_LISTEN = b"0A"
# What the kernel is asked by netlink (linux/inet_diag.h): established TCP connections, each with its tcp_info.
_NETLINK_SOCK_DIAG, _BY_FAMILY, _DUMP, _DONE, _ERROR = 4, 20, 0x301, 3, 2
_INFO, _LAST_SENT, _LAST_RECEIVED = 2, 44, 52
# So many milliseconds after its last byte an answer is taken to be whole.
_QUIET_MS = 100


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


def busy_on(ports: Collection[int]) -> int:
    """Return how many connections to these TCP ports wait for an answer, or were still getting one a moment ago.

    A proxy keeps idle connections for seconds; waiting for those would be waiting for nothing. Where the kernel does not tell, all connections count.
    """
    try:
        return sum(_is_busy(*seen) for family in (socket.AF_INET, socket.AF_INET6) for seen in _connections(family, ports))
    except (OSError, struct.error):
        return served_on(ports)


def _is_busy(unsent: int, sent_ms: Optional[int], received_ms: Optional[int]) -> bool:
    """Tell whether the app owes an answer: bytes came in after the last that went out, or bytes are on their way."""
    if sent_ms is None or received_ms is None:
        return True
    return bool(unsent) or received_ms < sent_ms or sent_ms < _QUIET_MS


def _connections(family: int, ports: Collection[int]) -> Iterator[tuple[int, Optional[int], Optional[int]]]:
    """Yield for each connection the bytes not yet taken by the other side, and how many milliseconds ago bytes last went out and came in."""
    request = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 1 << (_INFO - 1), 0, 1 << 1) + bytes(48)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(2.0)
        kernel.send(struct.pack("=IHHII", 16 + len(request), _BY_FAMILY, _DUMP, 1, 0) + request)
        while True:
            data = kernel.recv(1 << 18)
            while len(data) >= 16:
                size, kind = struct.unpack_from("=IH", data)
                if kind == _DONE:
                    return
                if kind == _ERROR or size < 16:
                    raise OSError("the kernel does not list its connections")
                message, data = data[16:size], data[(size + 3) & ~3 :]
                if struct.unpack_from(">H", message, 4)[0] in ports:
                    yield (struct.unpack_from("=I", message, 60)[0], *_times(message[72:]))


def _times(attributes: bytes) -> tuple[Optional[int], Optional[int]]:
    while len(attributes) >= 4:
        size, kind = struct.unpack_from("=HH", attributes)
        if kind == _INFO and size >= 4 + _LAST_RECEIVED + 4:
            return struct.unpack_from("=I", attributes, 4 + _LAST_SENT)[0], struct.unpack_from("=I", attributes, 4 + _LAST_RECEIVED)[0]
        attributes = attributes[max((size + 3) & ~3, 4) :]
    return None, None


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
