# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is made of a daemon that does not answer as PM2's does; the real one is met by every release of the e2e tests."""

from __future__ import annotations

import json
import socket
import struct
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import pm2_socket
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.pm2 import Pm2
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

LISTED = [{"name": "wallet-web-blue", "pid": 7, "pm2_env": {"status": "online", "restart_time": 2, "exit_code": 0, "pm_cwd": "/srv"}}]


@pytest.fixture
def home() -> Iterator[Path]:
    # Short: a socket's path has room for 107 bytes.
    with tempfile.TemporaryDirectory(prefix="pm2-") as folder:
        yield Path(folder)


def answering(home: Path, answer: bytes) -> threading.Thread:
    """Let a daemon give one answer and hang up."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(home / "rpc.sock"))
    server.listen()

    def serve() -> None:
        with server, server.accept()[0] as stream:
            stream.recv(1 << 16)
            stream.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


def packed(*parts: bytes, meta: int = 0x12) -> bytes:
    return bytes([meta]) + b"".join(struct.pack(">I", len(part)) + part for part in parts)


def command(home: Path, out: str) -> list[str]:
    """Return a command line in PM2's place that prints something."""
    script = home / "pm2.py"
    script.write_text(f"print({out!r})")
    return [sys.executable, str(script)]


def test_the_answer_comes_in_pieces_of_any_size(home: Path) -> None:
    big = [{**LISTED[0], "padding": "x" * 300_000}]
    answering(home, packed(b"j:" + json.dumps({"args": [big]}).encode(), b"s:sluice:0"))
    assert pm2_socket.call(str(home), "getMonitorData") == big


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "hung up"),
        (packed(b"j:{}", b"s:sluice:0")[:-3], "hung up"),
        (b"HTTP/1.1 400 Bad Request\r\n", "another protocol"),
        (packed(b"s:text", b"s:sluice:0"), "something else than JSON"),
        (packed(b'j:{"args":[[]]}', b"s:other:1"), "something else than JSON"),
        (packed(b'j:{"error":"method does not exist"}', b"s:sluice:0"), "does not know getMonitorData"),
        (packed(b'j:{"args":[]}', b"s:sluice:0"), "does not know getMonitorData"),
        (b"\x12\xff\xff\xff\xff", "announced"),
    ],
)
def test_another_answer_is_told_from_a_list(home: Path, answer: bytes, message: str) -> None:
    answering(home, answer)
    with pytest.raises(ValueError, match=message):
        pm2_socket.call(str(home), "getMonitorData")


def test_a_daemon_that_speaks_otherwise_is_asked_by_its_command_line(home: Path) -> None:
    answering(home, b"\x22")
    found = Pm2(command(home, "[PM2] In-memory PM2 is out-of-date\n" + json.dumps(LISTED)), str(home)).processes()
    assert [(process.name, process.pid, process.restarts) for process in found] == [("wallet-web-blue", 7, 2)]


def test_neither_way_is_a_clear_error(home: Path) -> None:
    answering(home, b"\x22")
    with pytest.raises(SluiceError, match="did not list its processes as JSON"):
        Pm2(command(home, "nothing"), str(home)).processes()


def test_no_daemon_has_no_processes_and_is_not_started(home: Path) -> None:
    assert Pm2(["/nowhere/pm2"], str(home)).processes() == []
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    dead.bind(str(home / "rpc.sock"))
    dead.close()
    assert Pm2(["/nowhere/pm2"], str(home)).processes() == []
