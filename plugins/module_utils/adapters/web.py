# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP as a probe sees it: one request on a new connection, no redirect followed, nothing retried, one deadline for all of it."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import os
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Optional
from urllib.parse import urlsplit

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import HTTP, WEBSOCKET, Answer, Probe, Tls, guard

_BODY_LIMIT = 1024 * 1024
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f]")
_WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455
_PING, _PONG, _CLOSE = 9, 10, 8


class Line(io.RawIOBase):
    """A connection whose reads and writes together end at one moment; a timeout of the socket alone begins again with each byte."""

    def __init__(self, end: float) -> None:
        super().__init__()
        self._end = end
        self._socket: Optional[socket.socket] = None

    def _left(self) -> float:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def open(self, host: str, port: int) -> None:
        """Connect to the first address of a host that answers."""
        failed: Optional[OSError] = None
        for family, kind, protocol, _canonical, address in resolve(host, port, self._left()):
            self._socket = socket.socket(family, kind, protocol)
            try:
                self._socket.settimeout(self._left())
                self._socket.connect(address)
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return
            except OSError as error:
                self._socket.close()
                failed = error
        raise failed or OSError(f"{host} has no address")

    def _ready(self) -> socket.socket:
        """Return the open socket, with what is left of the deadline as its time limit."""
        if self._socket is None:
            raise OSError("the connection is not open")
        self._socket.settimeout(self._left())
        return self._socket

    def encrypt(self, tls: Tls, host: str) -> None:
        """Speak TLS from here on."""
        self._socket = _context(tls.ca, tls.verify).wrap_socket(self._ready(), server_hostname=tls.server_name or host)

    def sendall(self, data: bytes) -> None:
        self._ready().sendall(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._ready().recv_into(buffer)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return what ``http.client`` reads an answer from."""
        return io.BufferedReader(self)

    def close(self) -> None:
        if self._socket:
            self._socket.close()
        super().close()


class _Secure(http.client.HTTPConnection):
    """A connection whose line is encrypted already."""

    default_port = 443


def resolve(host: str, port: int, timeout: float) -> list[Any]:
    """Return the addresses of a host; asking for a name has no timeout of its own, so it waits in a thread."""
    found: list[Any] = []
    failed: list[Exception] = []

    def look_up(flags: int = 0) -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags))
        except (OSError, ValueError) as error:
            failed.append(error)

    look_up(socket.AI_NUMERICHOST)
    if found:
        return found
    failed.clear()
    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(timeout)
    if failed:
        raise failed[0]
    if not found:
        raise TimeoutError("its name could not be resolved in time")
    return found


@lru_cache(maxsize=16)
def _context(ca: str, verify: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca or None)
    except OSError as error:
        raise OSError(f"the authorities in {ca} cannot be read") from error
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def ask(base: str, probe: Probe, timeout: float, headers: Mapping[str, str] | None = None) -> Answer:
    """Send one probe to ``base`` (``http://host:port`` or ``https://host``) and return its answer; a failed connection is an answer too."""
    return _exchange(base, probe, timeout, {"Connection": "close", **probe.headers, **(headers or {})}, ping=False)


def shake(base: str, probe: Probe, timeout: float) -> Answer:
    """Open a WebSocket at ``base`` and return the answer to the handshake; with ``probe.ping`` a ping must come back on it."""
    key = base64.b64encode(os.urandom(16)).decode()
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key}
    return _exchange(base, probe, timeout, {**probe.headers, **upgrade}, ping=probe.ping)


def _exchange(base: str, probe: Probe, timeout: float, headers: Mapping[str, str], ping: bool) -> Answer:
    started = time.monotonic()
    # Of an address that holds a user and a password, only what stands behind them is told.
    netloc = urlsplit(base).netloc.rpartition("@")[2]
    line = Line(started + timeout)
    try:
        parts, tls = urlsplit(base), probe.tls or Tls()
        secure = parts.scheme == "https"
        broken = next((name for name, value in headers.items() if _CONTROL.search(value)), None)
        if broken:
            raise ValueError(f"the header {broken} holds a character that HTTP cannot carry")
        connection = (_Secure if secure else http.client.HTTPConnection)(netloc)
        line.open(connection.host, connection.port)
        if secure:
            line.encrypt(tls, connection.host)
        connection.sock = line
        connection.request(probe.method, parts.path.rstrip("/") + probe.path, body=probe.body.encode() or None, headers=dict(headers))
        response = http.client.HTTPResponse(line, method=probe.method)  # type: ignore[arg-type]
        response.begin()
        answered = dict(response.getheaders())
        body = wrong = ""
        if "Sec-WebSocket-Key" in headers and response.status == 101:
            wrong = _handshake(headers["Sec-WebSocket-Key"], response) or (_ping(line, response.fp) if ping else "")
        else:
            body = response.read(_BODY_LIMIT).decode("utf-8", "replace")
        return Answer(response.status, body, time.monotonic() - started, answered, wrong, tuple(response.getheaders()))
    # A path or header that HTTP cannot carry is a ValueError.
    except (OSError, http.client.HTTPException, ValueError, struct.error) as error:
        return Answer(0, "", time.monotonic() - started, error=f"no answer from {netloc}: {_words(error)}")
    finally:
        line.close()


def check(base: str, probe: Probe) -> None:
    """Refuse an address that is none, and TLS options that would let anybody answer.

    :raises SluiceError: the address has no scheme or host, or the certificate of another machine would not be verified.
    """
    if probe.kind not in (HTTP, WEBSOCKET):
        return
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SluiceError(f"{base!r} is no address to ask.", "Example: https://wallet.example.org")
    if parts.scheme == "https":
        guard(base, parts.hostname, probe.tls)


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, http.client.IncompleteRead):
        return "the answer broke off"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _handshake(key: str, response: http.client.HTTPResponse) -> str:
    """Return what is wrong with a WebSocket handshake, in words."""
    accept = base64.b64encode(hashlib.sha1((key + _WEBSOCKET_GUID).encode(), usedforsecurity=False).digest()).decode()
    if (response.getheader("Upgrade") or "").lower() != "websocket":
        return "the answer has status 101 but no Upgrade: websocket"
    if response.getheader("Sec-WebSocket-Accept") != accept:
        return "Sec-WebSocket-Accept does not fit the key: whatever answered does not speak WebSocket"
    return ""


def _ping(line: Line, stream: Any) -> str:
    """Send a ping and read until it comes back; return what is wrong, in words. What else the server says is passed over."""
    sent = os.urandom(8)
    line.sendall(_frame(_PING, sent))
    received = 0
    while received < _BODY_LIMIT:
        head = stream.read(2)
        if len(head) < 2:
            return "the WebSocket was closed before the ping came back"
        length = head[1] & 0x7F
        if length > 125:
            size = "!H" if length == 126 else "!Q"
            length = struct.unpack(size, stream.read(struct.calcsize(size)))[0]
        received += length
        if received > _BODY_LIMIT:
            break
        data, opcode = stream.read(length), head[0] & 0x0F
        if opcode == _PONG and data == sent:
            line.sendall(_frame(_CLOSE, struct.pack("!H", 1000)))
            return ""
        if opcode == _CLOSE:
            return "the WebSocket was closed before the ping came back"
    return "the ping did not come back among the first MiB of answers"


def _frame(opcode: int, data: bytes) -> bytes:
    mask = os.urandom(4)
    return bytes([0x80 | opcode, 0x80 | len(data)]) + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))
