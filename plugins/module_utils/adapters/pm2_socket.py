# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asks PM2's daemon over its own socket, as PM2's command line does: milliseconds instead of the third of a second that Node needs to load that.

The socket speaks axon's request and reply: a message is one byte (version 1, number of parts), then each part behind its
length in four bytes; a part begins with ``j:`` when it is JSON and with ``s:`` when it is text. The last part of a request
is its id, and the last part of the answer is the same.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from typing import Any

_VERSION = 1 << 4
_ID = b"s:sluice:0"
_LARGEST = 64 << 20


def call(home: str, method: str, timeout: float = 10.0) -> Any:
    """Return what a method of the daemon answers.

    :param home: ``PM2_HOME``; the socket is ``rpc.sock`` in it.
    :param timeout: seconds that one read or write may take.
    :raises OSError: nobody listens there, or nobody answers in time.
    :raises ValueError: the answer is not what this protocol says, or tells of an error.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(timeout)
        stream.connect(os.path.join(home, "rpc.sock"))
        stream.sendall(_packed(b"j:" + json.dumps({"type": "call", "method": method, "args": [{}]}).encode(), _ID))
        meta = _read(stream, 1)[0]
        if meta & 0xF0 != _VERSION:
            raise ValueError(f"PM2's daemon answered in another protocol ({meta:#04x}).")
        parts = [_read(stream, struct.unpack(">I", _read(stream, 4))[0]) for _part in range(meta & 0x0F)]
    if not parts or parts[-1] != _ID or not parts[0].startswith(b"j:"):
        raise ValueError("PM2's daemon answered something else than JSON.")
    answer = json.loads(parts[0][2:])
    if not isinstance(answer, dict) or "error" in answer or not answer.get("args"):
        raise ValueError(f"PM2's daemon does not know {method}.")
    return answer["args"][0]


def _packed(*parts: bytes) -> bytes:
    return bytes([_VERSION | len(parts)]) + b"".join(struct.pack(">I", len(part)) + part for part in parts)


def _read(stream: socket.socket, count: int) -> bytes:
    if count > _LARGEST:
        raise ValueError(f"PM2's daemon announced {count} bytes.")
    read = bytearray()
    while len(read) < count:
        more = stream.recv(min(count - len(read), 1 << 16))
        if not more:
            raise ValueError("PM2's daemon hung up in the middle of an answer.")
        read += more
    return bytes(read)
