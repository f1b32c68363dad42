# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the domain name system must say of an app: its records, how long they are kept, and who may send its mail."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.sluice.deploy.plugins.module_utils.core.gates import comma, failed, passed, plural, told, unknown, warned
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate

OK, NXDOMAIN, NODATA, SERVFAIL, REFUSED, TIMEOUT, BROKEN = "ok", "nxdomain", "nodata", "servfail", "refused", "timeout", "broken"
# An answer that says "there is none" is an answer; the others say nothing about the record.
_ABSENT = (NXDOMAIN, NODATA)
_WORDS: Mapping[str, str] = {
    NXDOMAIN: "there is no such name",
    NODATA: "the name has no record of this type",
    SERVFAIL: "the server failed (SERVFAIL)",
    REFUSED: "the server refuses to answer",
    TIMEOUT: "there was no answer in time",
    BROKEN: "the answer cannot be read",
}
DMARC = ("none", "quarantine", "reject")
_SPF_LOOKUPS = 10  # RFC 7208, 4.6.4: more is an error for whoever receives a mail
_SPF_COSTS = ("include", "a", "mx", "ptr", "exists", "redirect")
_RSA_1024_BYTES = 162  # a public key of 1024 bits in DER; RFC 8301 forbids less
_RSA_2048_BYTES = 294


@dataclass(frozen=True)
class Found:
    """What one server said of one name.

    :param status: ``ok``, or why there are no values.
    :param ttl: seconds the answer may be kept; the most of all records on the way.
    :param authoritative: the server is one of the zone's own, so the TTL is the configured one and not what is left of it.
    """

    server: str
    name: str
    kind: str
    status: str
    values: tuple[str, ...] = ()
    ttl: int = 0
    authoritative: bool = False

    @property
    def words(self) -> str:
        """Return why there are no values, in words."""
        return _WORDS.get(self.status, self.status)


@dataclass(frozen=True)
class Wanted:
    """A record that must be there with exactly these values."""

    name: str
    kind: str
    values: tuple[str, ...]


def plain(kind: str, value: str) -> str:
    """Return a value as it is compared: names without their last dot and in small letters, addresses in one spelling."""
    if kind in ("A", "AAAA"):
        try:
            return str(ipaddress.ip_address(value))
        except ValueError:
            return value
    return value if kind == "TXT" else value.rstrip(".").lower()


def judge_record(wanted: Wanted, answers: Sequence[Found]) -> Gate:
    """Return the gate of one record over all servers that were asked (S0-079, S2-130, S4-056)."""
    name = f"dns {wanted.kind} {wanted.name}"
    expected = {plain(wanted.kind, value) for value in wanted.values}
    wrong, unsure = [], []
    for found in answers:
        seen = {plain(wanted.kind, value) for value in found.values}
        if found.status in _ABSENT:
            wrong.append(f"{found.server}: {found.words}")
        elif found.status != OK:
            unsure.append(f"{found.server}: {found.words}")
        elif wanted.kind == "TXT" and not expected <= seen:
            wrong.append(f"{found.server}: none of its {len(seen)} texts is the one expected")
        elif wanted.kind != "TXT" and seen != expected:
            wrong.append(f"{found.server} says {comma(sorted(seen))}, expected {comma(sorted(expected))}")
    return told(
        name,
        f"{plural(len(answers), 'server says', 'servers say')} {comma(sorted(expected))}",
        "Correct the record at the zone's provider, or the expected value; after a change wait for the TTL to pass.",
        wrong,
        unsure or ([] if answers else ["no server was asked"]),
        sample=len(answers),
    )


def judge_ttl(name: str, kind: str, limit: int, answers: Sequence[Found]) -> Gate:
    """Return whether a record is kept briefly enough for a switch (S2-130); only the zone's own servers tell the configured time."""
    gate = f"dns TTL {name}"
    good = [found for found in answers if found.status == OK]
    longest = max((found.ttl for found in good), default=0)
    remedy = f"Lower the TTL of {name} to {limit} s at the zone's provider, and wait the old TTL before the switch."
    if longest > limit:
        return failed(gate, f"{kind} {name} is kept for {longest} s; {limit} s are allowed before a switch", remedy, value=longest, limit=limit)
    if not good:
        words = {found.words for found in answers} or {"no server of the zone could be found"}
        return unknown(gate, f"the TTL of {name} is not known: {comma(sorted(words))}", limit=limit)
    if not any(found.authoritative for found in good):
        return unknown(
            gate,
            f"only a cache answered, with {longest} s left; the configured TTL can be longer",
            "Let this machine reach the zone's own name servers, or name one of them as resolver.",
            value=longest,
            limit=limit,
        )
    return passed(gate, f"{kind} {name} is kept for {longest} s, {limit} s are allowed", value=longest, limit=limit)


def judge_spf(domain: str, wanted: Sequence[str], look: Callable[[str], Found]) -> Gate:
    """Return the gate of a domain's SPF record (RFC 7208, S2-051): exactly one, it includes who sends, refuses the rest, and needs no more than ten look-ups.

    :param wanted: names that must be included, directly or further down, such as sendgrid.net.
    :param look: returns the TXT records of a name.
    """
    gate, found = f"spf {domain}", look(domain)
    if found.status not in (OK, *_ABSENT):
        return unknown(gate, f"TXT {domain}: {found.words}")
    records = _starting(found.values, "v=spf1")
    if len(records) != 1:
        sentence = f"{domain} has {len(records)} SPF records, there must be exactly one" if records else f"{domain} has no SPF record"
        return failed(gate, sentence, f"Write one TXT record at {domain}, such as: v=spf1 {_example(wanted)}-all", value=len(records), limit=1)
    included, lookups, problems, unsure, ending = _walk_spf(domain, records[0], look)
    wrong = list(problems)
    if lookups > _SPF_LOOKUPS:
        wrong.append(f"it needs {lookups} look-ups, {_SPF_LOOKUPS} are allowed, so receivers take it for broken")
    wrong += [f"it does not include {name}" for name in wanted if name.lower().rstrip(".") not in included]
    if ending not in ("-all", "~all"):
        wrong.append(f"it ends with {ending or 'nothing'}, so anybody may send as {domain}; -all or ~all is needed")
    return told(
        gate,
        f"one record, {plural(lookups, 'look-up')} of {_SPF_LOOKUPS}, ends with {ending}",
        f"Correct the TXT record of {domain}; remove senders that are no longer used.",
        [f"{domain}: {text}" for text in wrong],
        unsure,
        sample=lookups,
    )


def _example(wanted: Sequence[str]) -> str:
    return "".join(f"include:{name} " for name in wanted)


def _starting(values: Sequence[str], start: str) -> list[str]:
    return [value for value in values if value.lower() == start or value.lower().startswith((f"{start} ", f"{start};"))]


def _walk_spf(domain: str, record: str, look: Callable[[str], Found]) -> tuple[set[str], int, list[str], list[str], str]:
    included: set[str] = set()
    wrong, unsure = [], []
    lookups, ending = 0, ""
    todo = [(domain, record)]
    while todo and lookups <= 2 * _SPF_LOOKUPS:
        owner, text = todo.pop(0)
        for term in text.split()[1:]:
            bare = term.lstrip("+-~?").lower()
            word, _mark, target = bare.replace("=", ":", 1).partition(":")
            target = target.rstrip(".")
            if word == "all" and owner == domain:
                ending = term if term[0] in "+-~?" else f"+{term}"
            lookups += word.partition("/")[0] in _SPF_COSTS
            if word not in ("include", "redirect") or not target or "%" in target or target in included:
                continue
            included.add(target)
            found = look(target)
            records = _starting(found.values, "v=spf1")
            if found.status not in (OK, *_ABSENT):
                unsure.append(f"TXT {target}: {found.words}")
            elif len(records) != 1:
                wrong.append(f"{target}, which it includes, has {len(records)} SPF records")
            else:
                todo.append((domain if word == "redirect" and owner == domain else target, records[0]))
    return included, lookups, wrong, unsure, ending


def judge_dkim(domain: str, selector: str, found: Found) -> Gate:
    """Return the gate of one DKIM selector (RFC 6376, RFC 8301, S2-051): a public key that is there, not revoked and long enough."""
    gate = f"dkim {selector}.{domain}"
    where = f"{selector}._domainkey.{domain}"
    remedy = f"Copy the record that the mail provider shows for {where}, whole."
    if found.status in _ABSENT:
        return failed(gate, f"{where}: {found.words}", remedy)
    if found.status != OK:
        return unknown(gate, f"{where}: {found.words}")
    keys = [tags for tags in (_tags(value) for value in found.values) if "p" in tags]
    if len(keys) != 1:
        return failed(gate, f"{where} has {len(keys)} keys, there must be exactly one", remedy, value=len(keys), limit=1)
    key = re.sub(r"\s", "", keys[0]["p"])
    if not key:
        return failed(gate, f"{where} holds an empty key, so it is revoked", remedy)
    try:
        size = len(base64.b64decode(key, validate=True))
    except (binascii.Error, ValueError):
        return failed(gate, f"the key at {where} is no base64: it was cut off or wrongly joined", remedy)
    if keys[0].get("k", "rsa") == "rsa" and size < _RSA_1024_BYTES:
        return failed(gate, f"the key at {where} has {size} bytes, less than an RSA key of 1024 bits: it was cut off, or is too weak", remedy, value=size)
    if keys[0].get("k", "rsa") == "rsa" and size < _RSA_2048_BYTES:
        return warned(gate, f"the key at {where} is an RSA key of less than 2048 bits", "Let the mail provider make a new key of 2048 bits.", value=size)
    return passed(gate, f"{where} holds a key of {size} bytes", value=size)


def judge_dmarc(domain: str, least: str, found: Found) -> Gate:
    """Return the gate of a domain's DMARC record (RFC 7489, S2-051): exactly one, with a policy at least as strict as wanted."""
    gate = f"dmarc {domain}"
    remedy = f"Write one TXT record at _dmarc.{domain}, such as: v=DMARC1; p={least}; rua=mailto:dmarc@{domain}"
    if found.status not in (OK, *_ABSENT):
        return unknown(gate, f"_dmarc.{domain}: {found.words}")
    records = [_tags(value) for value in _starting(found.values, "v=dmarc1")]
    if len(records) != 1:
        return failed(gate, f"_dmarc.{domain} has {len(records)} DMARC records, there must be exactly one", remedy, value=len(records), limit=1)
    policy, share = records[0].get("p", "").lower(), records[0].get("pct", "100")
    if policy not in DMARC or DMARC.index(policy) < DMARC.index(least):
        return failed(gate, f"_dmarc.{domain} has the policy {policy or 'nothing'}, {least} is wanted", remedy, value=policy, limit=least)
    if share != "100":
        return warned(gate, f"_dmarc.{domain} has the policy {policy} for {share} % of the mails only", "Raise pct to 100, or leave it out.", value=policy)
    return passed(gate, f"_dmarc.{domain} has the policy {policy}", value=policy, limit=least)


def _tags(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split(";"))
    return {name.strip().lower(): value.strip() for name, mark, value in pairs if mark}
