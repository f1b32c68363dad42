# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates of an app as it is seen from outside: which questions there are, asked side by side, and who judges the answers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import dns, tls, web
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.together import judged, together, verdicts_of
from ansible_collections.sluice.deploy.plugins.module_utils.core import dns_rules, header_rules, net_rules, tls_rules
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Answer, Probe, Tls
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate

Jobs = dict[str, Callable[[], "list[Gate]"]]
_PROBE = "/?sluice=probe"  # a query shows whether a redirect keeps it
_AT_ONCE = 8
_LEAST = 0.2


@dataclass(frozen=True)
class Site:
    """Where requests go and how long they may take.

    :param places: ``host:port`` -> ``address:port`` to connect to instead.
    :param end: ``time.monotonic()`` at which all is over.
    """

    host: str
    port: int
    secure: bool
    places: dict[str, str]
    ca: str
    timeout: float
    end: float

    def place(self) -> tuple[str, int]:
        """Return address and port to connect to."""
        return _split(self.places.get(f"{self.host}:{self.port}", f"{self.host}:{self.port}"))

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Send one request as a stranger."""
        address, port = self.place()
        scheme, usual = ("https", 443) if self.secure else ("http", 80)
        host = self.host if self.port == usual else f"{self.host}:{self.port}"
        named = {"Host": host, "User-Agent": "sluice", **{name.replace("_", "-"): value for name, value in headers.items()}}
        probe = Probe("network", path, method, named, tls=Tls(self.ca, self.host))
        return web.ask(f"{scheme}://{f'[{address}]' if ':' in address else address}:{port}", probe, max(_LEAST, min(self.timeout, self.end - time.monotonic())))


def _split(text: str) -> tuple[str, int]:
    host, _colon, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise SluiceError(f"{text} is no address and port.", "Example: 192.0.2.10:443")
    return host.strip("[]"), int(port)


def tls_jobs(site: Site, params: dict[str, Any], http_port: int) -> Jobs:
    """Return what is asked of one host: its certificate, its versions, and plain HTTP."""

    def certificate() -> list[Gate]:
        served = tls.look(site.host, site.place(), site.timeout, site.ca)
        versions = tls.offers(site.host, site.place(), site.timeout) if served.chain else {}
        return tls_rules.judge(served, versions, time.time(), params["tls_min_days"], params["tls_warn_days"])

    def plain() -> list[Gate]:
        clear = replace(site, port=http_port, secure=False)
        return [net_rules.judge_redirect(site.host, _PROBE, clear.ask(_PROBE), site.port), net_rules.judge_home(site.host, site.ask("/"))]

    return {f"tls {site.host}": certificate, f"https redirect {site.host}": plain}


def page_jobs(site: Site, params: dict[str, Any]) -> Jobs:
    """Return what is asked of the pages."""

    def many(questions: dict[str, Callable[[], Answer]]) -> dict[str, Answer]:
        late = Answer(0, "", 0.0, error="there was no answer before the deadline")
        return {name: came if isinstance(came, Answer) else late for name, came in together(questions, site.end).items()}

    def headers() -> list[Gate]:
        answers = many({page["path"]: partial(site.ask, page["path"]) for page in params["pages"]})
        pages = [header_rules.Page(page["path"], page["kind"], answers[page["path"]], site.secure) for page in params["pages"]]
        return header_rules.judge_pages(pages, params["headers"], params["hsts_seconds"], params["open_cookies"])

    def strangers() -> list[Gate]:
        answers = many({entry["path"]: partial(site.ask, entry["path"]) for entry in params["protected"]})
        return [net_rules.judge_protected([(entry["path"], entry["statuses"], entry["login"], answers[entry["path"]]) for entry in params["protected"]])]

    def crossing() -> list[Gate]:
        preflight = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "content-type"}
        asked = [
            (path, method, origin)
            for path in params["cors_paths"]
            for origin in (*params["cors_origins"], *header_rules.foreign_origins(site.host))
            for method in ("GET", "OPTIONS")
        ]

        def cross(path: str, method: str, origin: str) -> Answer:
            return site.ask(path, method, Origin=origin, **(preflight if method == "OPTIONS" else {}))

        answers = many({" ".join(key): partial(cross, *key) for key in asked})
        return [header_rules.judge_cors([header_rules.Crossing(*key, answers[" ".join(key)]) for key in asked], params["cors_origins"])]

    def assets() -> list[Gate]:
        def twice(path: str) -> tuple[header_rules.Page, header_rules.Page]:
            first, second = (header_rules.Page(path, header_rules.ASSET, site.ask(path), site.secure) for _number in range(2))
            return first, second

        return [header_rules.judge_assets([twice(path) for path in params["assets"]], params["assets_seconds"], params["assets_cdn"])]

    jobs: Jobs = {"headers": headers, "anonymous access": strangers, "cors": crossing, "assets": assets}
    asked = {"headers": params["pages"], "anonymous access": params["protected"], "cors": params["cors_paths"], "assets": params["assets"]}
    return {name: job for name, job in jobs.items() if asked[name]}


def burst(site: Site, path: str, requests: int) -> list[Gate]:
    """Send a bounded burst, some at a time, until one is answered with 429."""
    answers: list[Answer] = []
    while len(answers) < requests and time.monotonic() < site.end and not any(answer.status == 429 for answer in answers):
        count = min(_AT_ONCE, requests - len(answers)) if answers else 1
        came = together({str(number): partial(site.ask, path) for number in range(count)}, site.end)
        fresh = [answer for answer in came.values() if isinstance(answer, Answer)]
        answers += fresh
        if len(fresh) < count or any(answer.error for answer in fresh):
            break
    return [net_rules.judge_burst(path, answers, requests)]


def name_jobs(params: dict[str, Any], end: float) -> Jobs:
    """Return what is asked of the domain name system."""
    if not params["dns"] and not params["mail"]:
        return {}
    wait: float = params["timeout"]
    jobs: Jobs = {}
    servers = dns.servers_of(params["resolvers"])

    def every(name: str, kind: str, asked: list[str], recursive: bool = True) -> list[dns_rules.Found]:
        jobs = {server: partial(dns.ask, name, kind, server, wait, recursive) for server in asked}
        return [_found(came, dns_rules.Found(server, name, kind, dns_rules.TIMEOUT)) for server, came in together(jobs, end).items()]

    def record(name: str, kind: str, values: list[str]) -> list[Gate]:
        wanted = dns_rules.Wanted(name, kind, tuple(values))
        gates = [dns_rules.judge_record(wanted, every(name, kind, servers))]
        if params["dns_ttl"]:
            own = dns.own_servers(name, servers[0], wait)
            gates.append(dns_rules.judge_ttl(name, kind, params["dns_ttl"], every(name, kind, own or servers[:1], not own)))
        return gates

    def mail(domain: str, spf: list[str], dkim: list[str], dmarc: str) -> list[Gate]:
        def text(name: str) -> dns_rules.Found:
            return dns.ask(name, "TXT", servers[0], wait)

        keys = together({selector: partial(text, f"{selector}._domainkey.{domain}") for selector in dkim}, end)
        late = dns_rules.Found(servers[0], domain, "TXT", dns_rules.TIMEOUT)
        return [
            dns_rules.judge_spf(domain, spf, text),
            *(dns_rules.judge_dkim(domain, selector, _found(came, late)) for selector, came in keys.items()),
            dns_rules.judge_dmarc(domain, dmarc, text(f"_dmarc.{domain}")),
        ]

    for entry in params["dns"]:
        jobs[f"dns {entry['type']} {entry['name']}"] = partial(record, entry["name"], entry["type"], entry["values"])
    for entry in params["mail"]:
        jobs[f"mail {entry['domain']}"] = partial(mail, entry["domain"], entry["spf"], entry["dkim"], entry["dmarc"])
    return jobs


def _found(came: Any, late: dns_rules.Found) -> dns_rules.Found:
    if isinstance(came, SluiceError):
        raise came
    return came if isinstance(came, dns_rules.Found) else late


def site_of(params: dict[str, Any], end: float) -> Site:
    """Return where the app is.

    :raises SluiceError: the address is none.
    """
    parts = urlsplit(params["url"])
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise SluiceError(f"url is {params['url']!r}, which is no address.", "Example: https://shop.example.org")
    secure = parts.scheme == "https"
    return Site(parts.hostname, port or (443 if secure else 80), secure, params["connect_to"], params["ca"], params["timeout"], end)


def judge_all(params: dict[str, Any]) -> list[Gate]:
    """Return every gate that is asked for. The burst comes last: it would slow the others down."""
    end = time.monotonic() + params["deadline"]
    jobs: Jobs = {}
    gates: list[Gate] = []
    site = site_of(params, end) if params["url"] else None
    if site:
        jobs.update(page_jobs(site, params))
        secure = [site] if site.secure else []
        for each in [*secure, *(replace(site, host=host, port=443, secure=True) for host in params["tls_hosts"])]:
            jobs.update(tls_jobs(each, params, params["http_port"]))
    try:
        jobs.update(name_jobs(params, end))
    except SluiceError as error:
        gates += verdicts_of("dns", error)
    if params["named_hosts"]:
        named = {str(place): net_rules.hosts_in(str(text)) for place, text in params["named_hosts"].items()}
        jobs["hosts"] = lambda: [net_rules.judge_hosts(named, params["domains"], list(named), params["hosts_allowed"])]
    if params["certificate"]:
        jobs["tls file"] = partial(certificate_file, **params["certificate"], timeout=params["timeout"])
    gates += judged(jobs, end)
    if site and params["burst"]:
        gates += judged({"rate limit": partial(burst, site, params["burst"]["path"], params["burst"]["requests"])}, end)
    return gates


def certificate_file(host: str, path: str, address: str, timeout: float) -> list[Gate]:
    """Compare what an edge serves with what lies on its disk."""
    lying = tls.first_in(path)
    try:
        served, error = tls.fingerprint(tls.shown(host, _split(address), timeout)[0]), ""
    except (OSError, IndexError) as caught:
        served, error = "", getattr(caught, "strerror", None) or str(caught)
    return [tls_rules.judge_file(host, served, lying, path, error)]
