# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redis by its own protocol: a few questions on one connection, in clear or in TLS."""

from __future__ import annotations

import io
import time
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.web import Line
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Tls

_EXAMPLE = "Example: rediss://user:password@cache.example.org:6379/0"
_LONGEST = 1024 * 1024


class Refused(Exception):
    """Redis answered with an error; its first word names the kind (NOAUTH, WRONGPASS, LOADING)."""


@dataclass(frozen=True, repr=False)
class Place:
    """Where a Redis is and how to get in."""

    host: str
    port: int
    user: str
    password: str
    database: int
    secure: bool

    def secrets(self) -> list[str]:
        """Return what must not be printed."""
        return [self.password] if self.password else []


def place_of(url: str) -> Place:
    """Return a Redis URL taken apart.

    :raises SluiceError: it is none; the message never shows it.
    """
    try:
        parts = urlsplit(url)
        database = int(parts.path.strip("/") or 0)
        port = parts.port or 6379
    except ValueError as error:
        raise SluiceError("The Redis URL has a port or database that is no number.", _EXAMPLE) from error
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise SluiceError("The Redis URL does not begin with redis:// or rediss:// and a host.", _EXAMPLE)
    return Place(parts.hostname, port, unquote(parts.username or ""), unquote(parts.password or ""), database, parts.scheme == "rediss")


class Redis:
    """One connection. Use it with ``with``.

    :param seconds: all that is asked on it together ends by then.
    :param ca: file of the authorities that are trusted instead of the system's.
    """

    def __init__(self, place: Place, seconds: float, ca: str = "") -> None:
        self._line = Line(time.monotonic() + seconds)
        try:
            self._line.open(place.host, place.port)
            if place.secure:
                self._line.encrypt(Tls(ca=ca), place.host)
            self._reader = io.BufferedReader(self._line)
            if place.password:
                self.call("AUTH", *([place.user] if place.user else []), place.password)
            if place.database:
                self.call("SELECT", str(place.database))
        except BaseException:
            self._line.close()
            raise

    def __enter__(self) -> Redis:
        return self

    def __exit__(self, *_error: object) -> None:
        self._line.close()

    def call(self, *words: str) -> str:
        """Send one command and return its answer as text.

        :raises Refused: Redis said no.
        :raises OSError: the connection broke, or the time was over.
        """
        parts = [word.encode() for word in words]
        self._line.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
        head = self._reader.readline(_LONGEST)
        kind, text = head[:1], head[1:].rstrip(b"\r\n").decode("utf-8", "replace")
        if kind == b"-":
            raise Refused(text)
        if kind == b"$" and text.isdecimal() and int(text) <= _LONGEST:
            return self._reader.read(int(text) + 2)[:-2].decode("utf-8", "replace")
        if kind in (b"+", b":"):
            return text
        raise OSError("what answers does not speak Redis")

    def info(self, section: str) -> dict[str, str]:
        """Return one section of INFO."""
        pairs = (line.partition(":") for line in self.call("INFO", section).splitlines())
        return {name: value.strip() for name, mark, value in pairs if mark}
