# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Database URLs in the spellings of libpq, SQLAlchemy and Node: read, shown without their password, pointed at another database."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.secret import MASK, Secret

_EXAMPLE = "Write it as postgresql://user:password@host:5432/database, with % @ / ? # in the password as %25 %40 %2F %3F %23."
_SHAPE = re.compile(r"(?P<scheme>postgres(?:ql)?(?:\+[a-z0-9_]+)?://)(?P<authority>[^/?]*)(?P<path>/[^?]*)?(?P<query>\?.*)?\Z", re.IGNORECASE | re.DOTALL)
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^:\[\]]*)(?::(?P<port>\d*))?\Z")

# Settings of libpq that may stand in a service file; what is not here (schema=, pgbouncer=, pool_size=) belongs to a driver.
_LIBPQ = frozenset(
    {
        "channel_binding",
        "client_encoding",
        "gssencmode",
        "gsslib",
        "hostaddr",
        "keepalives",
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "krbsrvname",
        "load_balance_hosts",
        "options",
        "require_auth",
        "requirepeer",
        "ssl_max_protocol_version",
        "ssl_min_protocol_version",
        "sslcert",
        "sslcertmode",
        "sslcompression",
        "sslcrl",
        "sslcrldir",
        "sslkey",
        "sslmode",
        "sslnegotiation",
        "sslpassword",
        "sslrootcert",
        "sslsni",
        "target_session_attrs",
        "tcp_user_timeout",
    }
)
# What Node's and asyncpg's spellings of TLS mean to libpq.
_SSL = {"true": "require", "1": "require", "no-verify": "require", "false": "disable", "0": "disable"}


@dataclass(frozen=True, repr=False)
class PgUrl:
    """A database URL, taken apart and decoded.

    :param text: the URL as it was given, with the password.
    :param host: name, address or socket folder; several are separated by commas; empty for libpq's default.
    :param options: what stood behind the question mark, without the parts above.
    """

    text: str
    user: str
    password: Secret
    host: str
    port: str
    database: str
    options: Mapping[str, str]

    def __repr__(self) -> str:
        return f"PgUrl({self.location()!r}, user={self.user!r}, password={MASK!r})"

    __str__ = __repr__

    def location(self) -> str:
        """Return server and database, for messages."""
        return f"{self.host or 'the local socket'}:{self.port or '5432'}/{self.database}"

    def secrets(self) -> tuple[str, ...]:
        """Return what must not be printed: the password in both spellings, and the URL."""
        clear = self.password.reveal()
        return tuple(secret for secret in (clear, quote(clear, safe=""), self.options.get("sslpassword", ""), self.text) if secret)


def parse(url: str) -> PgUrl:
    """Return a database URL taken apart.

    :raises SluiceError: it is no database URL, or one that drivers read differently; the message never shows it.
    """
    parts = _split(url)
    userinfo, _at, hosts = parts["authority"].rpartition("@")
    user, _colon, password = userinfo.partition(":")
    pairs = [_HOST.match(host) for host in hosts.split(",")]
    if not all(pairs):
        raise _refused("has a port that is no number, or a password with an unescaped / or ?")
    found = [pair for pair in pairs if pair]
    query = {_decoded(name): _decoded(value) for name, value in _query(parts["query"])}
    host = query.pop("host", "") or ",".join(_decoded(pair.group("host").strip("[]")) for pair in found)
    port = query.pop("port", "") or ",".join(pair.group("port") or "" for pair in found).strip(",")
    database = query.pop("dbname", "") or _decoded(parts["path"][1:])
    secret = Secret(query.pop("password", "") or _decoded(password))
    if not database:
        raise _refused("names no database")
    return PgUrl(url, query.pop("user", "") or _decoded(user), secret, host, port, database, query)


def with_database(url: str, name: str) -> str:
    """Return the URL with another database and every other byte as it was."""
    parts = _split(url)
    target = quote(name, safe="")
    # libpq lets ?dbname= win over the path, so it has to follow.
    query = re.sub(r"(?<=[?&])dbname=[^&]*", lambda _match: f"dbname={target}", parts["query"])
    return f"{parts['scheme']}{parts['authority']}/{target}{query}"


def libpq_settings(url: PgUrl) -> dict[str, str]:
    """Return the settings for a libpq service file, without the password."""
    ssl = url.options.get("sslmode", url.options.get("ssl", ""))
    settings = {"host": url.host, "port": url.port, "user": url.user, "dbname": url.database}
    settings.update({name: value for name, value in url.options.items() if name in _LIBPQ})
    settings["sslmode"] = _SSL.get(ssl.lower(), ssl)
    for name, value in settings.items():
        if value != value.strip():
            raise _refused(f"has spaces at an end of its {name}, which a service file of libpq cannot hold")
    return {name: value for name, value in settings.items() if value}


def _split(url: str) -> dict[str, str]:
    match = _SHAPE.match(url)
    if not match:
        raise _refused("does not begin with postgresql:// or postgres://")
    parts = {name: value or "" for name, value in match.groupdict().items()}
    if parts["authority"].count("@") > 1 or ("@" in parts["path"] and "@" not in parts["authority"]):
        raise _refused("has a password with an unescaped @ or /")
    if "#" in parts["path"] + parts["query"]:
        raise _refused("has an unescaped # behind its host")
    return parts


def _query(query: str) -> list[tuple[str, str]]:
    pairs = [pair.partition("=") for pair in query[1:].split("&") if pair]
    if not all(equals for _name, equals, _value in pairs):
        raise _refused("has something behind the question mark that is no name=value")
    return [(name, value) for name, _equals, value in pairs]


def _decoded(text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise _refused("has a % that is not followed by two hexadecimal digits")
    try:
        value = unquote(text, errors="strict")
    except UnicodeDecodeError as error:
        raise _refused("has percent-encoded bytes that are not UTF-8") from error
    # A line break would end the line in a service or password file, and begin one of the URL's own making.
    if re.search(r"[\x00-\x1f\x7f]", value):
        raise _refused("holds a control character")
    return value


def _refused(what: str) -> SluiceError:
    return SluiceError(f"The database URL {what}.", _EXAMPLE)
