# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a TLS address must show: a chain that is trusted, the right name, enough days, no old protocol, and the certificate that lies on disk."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.sluice.deploy.plugins.module_utils.core.gates import comma, failed, passed, told, unknown, warned
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate

ACCEPTED, REFUSED, UNKNOWN = "accepted", "refused", "unknown"
# Which versions must be spoken and which must not (S0-035: TLS 1.2 and newer only). TLS 1.3 is wanted, and its absence is no danger.
OLD, NEEDED, WANTED = ("TLSv1", "TLSv1.1"), "TLSv1.2", "TLSv1.3"
PROTOCOLS = (*OLD, NEEDED, WANTED)
DAY = 86400
_ISSUER_UNKNOWN, _SELF_SIGNED, _ROOT_UNKNOWN, _LEAF_UNVERIFIED = 20, 18, 19, 21  # OpenSSL's X509_V_ERR_*


@dataclass(frozen=True)
class Certificate:
    """One certificate: who it is for, who made it, and when it ends (seconds since 1970)."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: float
    not_after: float
    fingerprint: str


@dataclass(frozen=True)
class Served:
    """What an address showed in a handshake.

    :param chain: the certificates as they were sent, the server's own first.
    :param code: OpenSSL's number for why the chain is not trusted, its dates aside; 0 when it is.
    :param reason: the same in OpenSSL's words.
    :param error: why there was no handshake at all.
    """

    host: str
    chain: tuple[Certificate, ...] = ()
    code: int = 0
    reason: str = ""
    error: str = ""


def judge(served: Served, protocols: Mapping[str, str], now: float, min_days: int, warn_days: int) -> list[Gate]:
    """Return every gate of one TLS address (C24).

    :param min_days: fewer days left than this fail.
    :param warn_days: fewer days left than this warn.
    """
    if not served.chain:
        return [unknown(f"tls {what} {served.host}", f"there was no TLS handshake: {served.error or 'no certificate was sent'}") for what in _GATES]
    return [_chain(served), _name(served), _days(served, now, min_days, warn_days), judge_protocols(served.host, protocols)]


_GATES = ("chain", "name", "days", "protocols")


def _chain(served: Served) -> Gate:
    name, leaf = f"tls chain {served.host}", served.chain[0]
    if not served.code:
        return passed(name, f"the chain of {served.host} is trusted; it is from {served.chain[-1].issuer}", sample=len(served.chain))
    if served.code == _SELF_SIGNED or leaf.subject == leaf.issuer:
        return failed(name, f"{served.host} shows a self-signed certificate", "Get a certificate of an authority, such as Let's Encrypt.", sample=1)
    if served.code in (_ISSUER_UNKNOWN, _LEAF_UNVERIFIED) and len(served.chain) == 1:
        sentence = f"{served.host} sends its own certificate only, and nobody here knows its issuer {leaf.issuer}: the intermediate is missing"
        return failed(name, sentence, "Put the intermediate certificates behind the server's own in the same file (fullchain.pem), and reload.", sample=1)
    if served.code in (_ROOT_UNKNOWN, _ISSUER_UNKNOWN):
        sentence = f"{served.host} shows a chain that ends at {served.chain[-1].issuer}, which is not trusted here"
        return failed(name, sentence, "Use a public authority, or name its file as tls_ca.", sample=len(served.chain))
    return failed(name, f"the chain of {served.host} is refused: {served.reason}", "Install the whole chain of the authority.", sample=len(served.chain))


def _name(served: Served) -> Gate:
    name, names = f"tls name {served.host}", served.chain[0].names
    if covers(names, served.host):
        return passed(name, f"the certificate is for {served.host}", sample=len(names))
    shown = comma(names[:6]) or "no name at all"
    return failed(name, f"the certificate is for {shown}, not for {served.host}", f"Order a certificate that holds {served.host}, and reload the edge.")


def covers(names: Sequence[str], host: str) -> bool:
    """Tell whether one of a certificate's names is a host's; a star stands for one whole label (RFC 6125)."""
    try:
        address = ipaddress.ip_address(host)
        return any(name == str(address) for name in names)
    except ValueError:
        pass
    host = host.rstrip(".").lower()
    parent = host.partition(".")[2]
    return any(name.lower() == host or (name.startswith("*.") and "." in parent and name[2:].lower() == parent) for name in names)


def _days(served: Served, now: float, min_days: int, warn_days: int) -> Gate:
    name = f"tls days {served.host}"
    first = min(served.chain, key=lambda certificate: certificate.not_after)
    whose = "the certificate" if first is served.chain[0] else f"the intermediate {first.subject}"
    days = int((first.not_after - now) // DAY)
    remedy = "Renew it and reload the edge; look why the automatic renewal did not."
    late = next((certificate for certificate in served.chain if certificate.not_before > now), None)
    if late:
        return failed(name, f"{late.subject} is not valid yet", "Correct the clock of this machine, or wait.", value=days, limit=min_days)
    if first.not_after <= now:
        return failed(name, f"{whose} of {served.host} expired {max(0, -days - 1)} days ago", remedy, value=days, limit=min_days)
    sentence = f"{whose} of {served.host} is valid for another {days} days"
    if days < min_days:
        return failed(name, f"{sentence}; {min_days} are needed", remedy, value=days, limit=min_days)
    if days < warn_days:
        return warned(name, f"{sentence}; a renewal is due below {warn_days}", remedy, value=days, limit=warn_days)
    return passed(name, sentence, value=days, limit=min_days)


def judge_protocols(host: str, seen: Mapping[str, str]) -> Gate:
    """Return whether an address speaks the versions it should and no other."""
    name = f"tls protocols {host}"
    accepted = [version for version in PROTOCOLS if seen.get(version) == ACCEPTED]
    wrong = [f"{host} still speaks {version}" for version in OLD if version in accepted]
    # A server that speaks only the newest version is no worse for it.
    if seen.get(NEEDED) == REFUSED and WANTED not in accepted:
        wrong.append(f"{host} speaks neither {NEEDED} nor {WANTED}")
    unsure = [f"it is not known whether {host} speaks {version}" for version in PROTOCOLS if seen.get(version, UNKNOWN) == UNKNOWN]
    if not wrong and not unsure and WANTED not in accepted:
        return warned(name, f"{host} speaks {comma(accepted)}, not {WANTED}", f"Write ssl_protocols {NEEDED} {WANTED}; at http level of nginx.", value=accepted)
    remedy = f"Write ssl_protocols {NEEDED} {WANTED}; at http level of nginx, and reload."
    return told(name, f"{host} speaks {comma(accepted)} and nothing older", remedy, wrong, unsure)


def judge_file(host: str, served: str, lying: str, path: str, error: str = "") -> Gate:
    """Return whether the certificate that is served is the one that lies in a file (S4-055): a reload is easily forgotten.

    :param served: SHA-256 of the served certificate; empty when there was no handshake.
    :param lying: SHA-256 of the first certificate of the file.
    """
    name = f"tls file {host}"
    if not served:
        return unknown(name, f"there was no TLS handshake with {host}: {error}")
    if served != lying:
        sentence = f"{host} serves another certificate ({served[:16]}) than the one in {path} ({lying[:16]})"
        return failed(name, sentence, "Reload nginx; when it stays so, look which server block answers for this name.", value=served, limit=lying)
    return passed(name, f"{host} serves the certificate of {path}", value=served)
