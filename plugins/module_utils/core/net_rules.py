# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an address must do when it is asked from outside: lead to HTTPS, refuse strangers, slow a burst down, and be the app's own host."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from ansible_collections.sluice.deploy.plugins.module_utils.core.gates import comma, failed, passed, plural, told, unknown
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Answer
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate

BURST_MOST = 300  # a burst is a check, not an attack

# Names that stand in documents and templates (M-111); none of them is anybody's production.
_PLACEHOLDER = re.compile(
    r"[\[\]<>{}$]|(?:^|[.-])(?:your|my)[-_]?(?:org|api|app|domain|company|site|project)|yourdomain|changeme|placeholder|todo\b"
    r"|(?:^|\.)(?:example\.(?:com|org|net)|example|invalid|test)$",
    re.IGNORECASE,
)
_OTHER_STAGE = re.compile(r"(?:^|[.-])(?:staging|stage|stg|dev|test|qa|uat|preview|sandbox)\d*(?:[.-]|$)", re.IGNORECASE)
_LOCAL = re.compile(r"(?:^|\.)(?:localhost|local|internal|lan)$", re.IGNORECASE)
_WEB = re.compile(r"(?:https?|wss?)://[^\s,;\"']+", re.IGNORECASE)
_MAIL = re.compile(r"[^@\s<>,;]+@([A-Za-z0-9.\[\]-]+)")


def judge_redirect(host: str, asked: str, answer: Answer, port: int = 443) -> Gate:
    """Return whether plain HTTP leads to the same address with HTTPS and shows nothing by itself (S1-008).

    :param asked: path and query that were asked for.
    :param port: port of the HTTPS address; 443 need not be written.
    """
    name = f"https redirect {host}"
    remedy = f"Answer on port 80 of {host} with `return 301 https://$host$request_uri;` and nothing else."
    if answer.error:
        # A refusal is an answer: whoever types the name reaches nothing.
        if "refused" in answer.error.lower():
            return failed(name, f"nothing answers on the HTTP port of {host}: {answer.error}", remedy)
        return unknown(name, f"http://{host}: {answer.error}")
    if answer.status >= 500 or answer.status == 429:
        return unknown(name, f"http://{host}{asked} answered with status {answer.status}")
    if answer.status not in (301, 308):
        what = f"answers with status {answer.status}" + (", which browsers do not remember" if answer.status in (302, 303, 307) else " without TLS")
        return failed(name, f"http://{host}{asked} {what}; 301 or 308 is needed", remedy, value=answer.status, limit="301, 308")
    target = urlsplit({key.lower(): value for key, value in answer.headers.items()}.get("location", ""))
    place = target.path + (f"?{target.query}" if target.query else "")
    try:
        given = target.port or 443
    except ValueError:
        given = 0
    if target.scheme != "https" or (target.hostname or "") != host or given != port:
        shown = f"{target.scheme}://{target.netloc}" if target.scheme else "a relative address"
        return failed(name, f"http://{host} leads to {shown}, not to https://{host}", remedy, value=shown)
    if place != asked:
        return failed(name, f"http://{host}{asked} loses its path or query on the way: it leads to {place[:80]}", remedy, value=place[:80], limit=asked)
    return passed(name, f"http://{host} leads to https://{host} with status {answer.status}, path and query kept", value=answer.status)


def judge_home(host: str, answer: Answer) -> Gate:
    """Return whether the HTTPS address does not lead back to plain HTTP: both together are a loop."""
    name = f"https loop {host}"
    if answer.error:
        return unknown(name, f"https://{host}: {answer.error}")
    location = {key.lower(): value for key, value in answer.headers.items()}.get("location", "")
    if 300 <= answer.status < 400 and location.lower().startswith("http://"):
        remedy = "Let the app know it stands behind TLS (X-Forwarded-Proto), or correct the address it builds its redirects from."
        return failed(name, f"https://{host} leads back to plain HTTP", remedy, value=answer.status)
    return passed(name, f"https://{host} does not lead back to plain HTTP", value=answer.status)


def judge_protected(answers: Sequence[tuple[str, Sequence[int], str, Answer]]) -> Gate:
    """Return whether strangers are refused where they should be (S0-046, S3-171, S4-017).

    :param answers: path, statuses that refuse, where a page may lead to instead (empty for nowhere), and the answer.
    """
    wrong, unsure = [], []
    for path, statuses, login, answer in answers:
        location = urlsplit({key.lower(): value for key, value in answer.headers.items()}.get("location", "")).path
        if answer.error:
            unsure.append(f"{path}: {answer.error}")
        elif answer.status in statuses or (login and 300 <= answer.status < 400 and location == login):
            continue
        elif 200 <= answer.status < 300:
            wrong.append(f"{path} answers a stranger with status {answer.status}")
        elif 300 <= answer.status < 400:
            wrong.append(f"{path} leads a stranger to {location or 'nowhere'}, not to {login or 'a refusal'}")
        else:
            why = "so it may not exist" if answer.status == 404 else "which says nothing about who may see it"
            unsure.append(f"{path} answered with status {answer.status}, {why}")
    remedy = "Ask for a session before anything else on these routes; check the path when it answered 404."
    return told("anonymous access", f"a stranger is refused on {plural(len(answers), 'protected path')}", remedy, wrong, unsure, sample=len(answers))


def judge_burst(path: str, answers: Sequence[Answer], wanted: int) -> Gate:
    """Return whether a bounded burst was slowed down with 429 (S0-037, S1-010, S2-026, S4-016).

    :param answers: what came back, up to the first 429.
    :param wanted: requests the burst may have.
    """
    statuses = [answer.status for answer in answers if not answer.error]
    limited = statuses.count(429)
    if limited and len(statuses) > 1 and statuses[0] != 429:
        return passed("rate limit", f"{path} answered request {statuses.index(429) + 1} with 429", value=limited, sample=len(statuses))
    if limited:
        return unknown(
            "rate limit",
            f"{path} answered 429 to the very first request",
            "An earlier burst still counts: wait a minute and run it again.",
            sample=len(statuses),
        )
    if not statuses or len(statuses) < wanted:
        sentence = f"only {len(statuses)} of {wanted} requests to {path} were answered: {next((a.error for a in answers if a.error), 'the time was over')}"
        return unknown("rate limit", sentence, sample=len(statuses))
    if 503 in statuses:
        remedy = "Set limit_req_status 429; 503 tells clients that the site is down."
        return failed("rate limit", f"{path} answers a burst with 503 instead of 429", remedy, value=503, limit=429, sample=len(statuses))
    remedy = "Limit this path at the edge (rate_limits of the edge role's site), or raise the burst when the limit is meant to be higher."
    return failed("rate limit", f"{path} let all {len(statuses)} requests of a burst through", remedy, value=0, limit=1, sample=len(statuses))


# Hosts


def hosts_in(value: str) -> list[str]:
    """Return the hosts of web addresses and mail addresses in a value; a database or cache has a name of its own and is none of them."""
    found = []
    for match in _WEB.finditer(value):
        # What is no URL for the library may still be a placeholder such as https://[domain].
        netloc = re.split(r"[/?#]", match.group(0).partition("://")[2], maxsplit=1)[0].rpartition("@")[2]
        address = re.match(r"\[([0-9A-Fa-f.]*:[0-9A-Fa-f:.]*)\]", netloc)
        found.append(address.group(1) if address else netloc if netloc.startswith("[") else netloc.partition(":")[0])
    if not found and "://" not in value:
        found = [match.group(1) for match in _MAIL.finditer(value) if "." in match.group(1)]
    return [host.rstrip(".").lower() for host in found if host]


def judge_hosts(named: Mapping[str, Sequence[str]], domains: Sequence[str], own: Sequence[str] = (), allowed: Sequence[str] = ()) -> Gate:
    """Return whether every host that is configured is the app's own or a known service (M-110, M-111, S2-006, S3-095).

    :param named: where a host is named -> the hosts there.
    :param domains: the app's domains, such as bookedbarber.com.
    :param own: places that may name hosts of these domains only.
    :param allowed: foreign domains that are meant, even where they look like a slip of the pen.
    """
    wrong = [f"{place}: {text}" for place, hosts in sorted(named.items()) for host in hosts for text in _host_complaints(host, domains, place in own, allowed)]
    count = sum(len(hosts) for hosts in named.values())
    if not count:
        return unknown("hosts", "no address was found to look at", "Name the variables that hold addresses, or leave this gate out.")
    good = f"{plural(count, 'host')} in {plural(len(named), 'place')}: none is a placeholder or looks like {comma(domains)} without being it"
    return told(
        "hosts",
        good,
        "Correct the address where it is set; the app's domains are preflight_domains, foreign ones preflight_hosts_allowed.",
        wrong,
        sample=count,
    )


def _host_complaints(host: str, domains: Sequence[str], own: bool, allowed: Sequence[str]) -> Iterator[str]:
    if any(_inside(host, domain) for domain in allowed):
        return
    if _PLACEHOLDER.search(host) and not any(_inside(host, domain) for domain in domains):
        yield f"{host} is a placeholder"
    elif _LOCAL.search(host) or _private(host):
        yield f"{host} is not reachable for anybody else"
    elif any(_inside(host, domain) for domain in domains):
        rest = next((host[: -len(domain)] for domain in domains if _inside(host, domain)), "")
        if _OTHER_STAGE.search(rest):
            yield f"{host} looks like another stage than production"
    else:
        near = next((domain for domain in domains if looks_like(host, domain)), "")
        if near:
            yield f"{host} looks like {near}, but is another domain"
        elif own:
            yield f"{host} is outside {comma(domains)}"


def _inside(host: str, domain: str) -> bool:
    return host == domain.lower() or host.endswith(f".{domain.lower()}")


def _private(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return False


def looks_like(host: str, domain: str) -> bool:
    """Tell whether a host lies in a domain that is a slip of the pen away from the app's: a letter or two, or another ending."""
    domain = domain.lower()
    labels = host.split(".")
    count = domain.count(".") + 1
    tail, name = ".".join(labels[-count:]), domain.split(".")[0]
    slips = 2 if len(name) >= 8 else 1 if len(name) >= 4 else 0
    same_name = len(name) >= 4 and name in labels[:-1]
    return tail != domain and (same_name or 0 < distance(labels[-count] if len(labels) >= count else host, name) <= slips and tail != domain)


def distance(one: str, other: str) -> int:
    """Return how many letters must be put in, taken out, changed or swapped with their neighbour (optimal string alignment)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        last, row, older = row, [i], before
        for j, wanted in enumerate(other, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
        before = last
    return row[-1]
