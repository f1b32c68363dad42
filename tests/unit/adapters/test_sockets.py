# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which connections wait for an answer is asked of the kernel, with real connections."""

from __future__ import annotations

import socket
import time

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import sockets


def becomes(ports: set[int], wanted: int) -> bool:
    """Tell whether so many connections are busy within two seconds."""
    deadline = time.monotonic() + 2
    while sockets.busy_on(ports) != wanted and time.monotonic() < deadline:
        time.sleep(0.02)
    return sockets.busy_on(ports) == wanted


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_connection_is_busy_from_its_request_to_its_answer(family: socket.AddressFamily, address: str) -> None:
    with socket.socket(family) as listener:
        try:
            listener.bind((address, 0))
        except OSError:
            pytest.skip(f"this host has no {address}")
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection((address, port)) as client, listener.accept()[0] as app:
            assert becomes({port}, 0)
            assert sockets.served_on({port}) == 1  # an idle one is still a connection
            client.sendall(b"request")
            assert app.recv(100) == b"request"
            time.sleep(0.3)
            assert sockets.busy_on({port}) == 1
            assert sockets.busy_on({port + 1}) == 0
            app.sendall(b"answer")
            assert client.recv(100) == b"answer"
            assert sockets.busy_on({port}) == 1  # more of the answer may come
            assert becomes({port}, 0)


def test_where_the_kernel_does_not_tell_every_connection_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_BY_FAMILY", 99)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            time.sleep(0.2)
            assert sockets.busy_on({port}) == sockets.served_on({port}) == 1
