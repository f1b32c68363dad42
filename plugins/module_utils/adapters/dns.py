# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The domain name system as one server tells it: a question, an answer, no cache of our own. Needs dnspython."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.dns_rules import BROKEN, NODATA, NXDOMAIN, OK, REFUSED, SERVFAIL, TIMEOUT, Found
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

_TRIES = 2  # a UDP packet may be lost
_PORT = 53


def library() -> Any:
    """Return dnspython.

    :raises SluiceError: it is not installed where this runs.
    """
    try:
        import dns.exception
        import dns.flags
        import dns.message
        import dns.name
        import dns.query
        import dns.rcode
        import dns.rdatatype
        import dns.resolver
    except ImportError as error:
        raise SluiceError("The gates of the domain name system need the Python package dnspython on the control node.", "pip install dnspython") from error
    return dns


def servers_of(given: Sequence[str]) -> list[str]:
    """Return the servers to ask, as ``address`` or ``address:port``; those of the system when none is given.

    :raises SluiceError: the system names none, or dnspython is missing.
    """
    dns = library()
    if given:
        return list(given)
    try:
        return [str(server) for server in dns.resolver.Resolver().nameservers]
    except dns.exception.DNSException as error:
        raise SluiceError("This machine has no resolver in /etc/resolv.conf.", "Name one in preflight_resolvers, such as 9.9.9.9.") from error


def _place(server: str) -> tuple[str, int]:
    if server.startswith("["):
        host, _bracket, port = server[1:].partition("]")
        return host, int(port.lstrip(":") or _PORT)
    if server.count(":") == 1:
        host, _colon, port = server.partition(":")
        return host, int(port)
    return server, _PORT


def ask(name: str, kind: str, server: str, timeout: float, recursive: bool = True) -> Found:
    """Ask one server for the records of a name and return what it said; no answer is an answer too.

    :param timeout: seconds for all tries together.
    """
    dns = library()
    end = time.monotonic() + timeout
    try:
        host, port = _place(server)
        query = dns.message.make_query(name, kind)
    except (dns.exception.DNSException, ValueError) as error:
        raise SluiceError(f"{kind} {name} cannot be asked of {server}: {error}.", "Example: 9.9.9.9, 127.0.0.1:5353 or [::1]:5353") from error
    if not recursive:
        query.flags &= ~dns.flags.RD
    for attempt in range(_TRIES):
        left = max(0.05, (end - time.monotonic()) / (_TRIES - attempt))
        found = _try(dns, query, (host, port), left, Found(server, name, kind, TIMEOUT))
        if found.status != TIMEOUT:
            break
    return found


def _try(dns: Any, query: Any, place: tuple[str, int], timeout: float, asked: Found) -> Found:
    try:
        answer, _tcp = dns.query.udp_with_fallback(query, place[0], timeout=timeout, port=place[1])
        return _read(dns, answer, asked)
    except dns.exception.Timeout:
        return asked
    except OSError:
        return replace(asked, status=REFUSED)
    except (dns.exception.DNSException, ValueError):
        return replace(asked, status=BROKEN)


def _read(dns: Any, answer: Any, asked: Found) -> Found:
    codes = {dns.rcode.NXDOMAIN: NXDOMAIN, dns.rcode.SERVFAIL: SERVFAIL, dns.rcode.REFUSED: REFUSED}
    authoritative = bool(answer.flags & dns.flags.AA)
    if answer.rcode() != dns.rcode.NOERROR:
        return replace(asked, status=codes.get(answer.rcode(), BROKEN), authoritative=authoritative)
    wanted = dns.rdatatype.from_text(asked.kind)
    values = [_text(asked.kind, record) for records in answer.answer if records.rdtype == wanted for record in records]
    # What leads to the records, a CNAME, is kept for a time of its own; a change is seen everywhere when the longest is over.
    ttls = [records.ttl for records in answer.answer]
    return replace(asked, status=OK if values else NODATA, values=tuple(values), ttl=max(ttls, default=0), authoritative=authoritative)


def _text(kind: str, record: Any) -> str:
    if kind == "TXT":
        return b"".join(record.strings).decode("utf-8", "replace")
    return str(record.to_text())


def own_servers(name: str, server: str, timeout: float) -> list[str]:
    """Return the servers of the zone that holds a name, as one resolver finds them: they tell the configured TTL, a cache tells what is left of it."""
    dns = library()
    port = _place(server)[1]
    zone = dns.name.from_text(name)
    while len(zone) > 1:
        found = ask(zone.to_text(), "NS", server, timeout)
        if found.status == OK:
            addresses = [ask(host, "A", server, timeout) for host in sorted(found.values)[:4]]
            return [f"{value}:{port}" for each in addresses for value in each.values]
        zone = zone.parent()
    return []
