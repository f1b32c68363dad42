# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the generated files of an app depend on, apart from who serves: its services, its testers, its assets, its maintenance page."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.traffic import SLOTS, refuse
from ansible_collections.sluice.deploy.plugins.module_utils.core.vhost import Vhost, vhost_from

BUCKETS_SWITCH, WEIGHTS_SWITCH = "buckets", "weights"
SWITCHES = (BUCKETS_SWITCH, WEIGHTS_SWITCH)
SPLIT_KEYS = ("visitor", "request")

# Variables of nginx are looked up in a hash of small cells: a longer name would not fit on every machine.
_APP = re.compile(r"[a-z][a-z0-9_-]{0,29}")
_SERVICE = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_PATH = re.compile(r"/[A-Za-z0-9._/@+-]*")
_URL_PATH = re.compile(r"/(?:[A-Za-z0-9._~@+-]+/)*[A-Za-z0-9._~@+-]*")
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?):(?P<port>[0-9]{1,5})")
_LOOPBACK = re.compile(r"(127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\]|localhost)")
_SECRET = re.compile(r"[A-Za-z0-9_-]{16,32}")
# A word of nginx's configuration may hold 4,096 bytes, and a dollar sign in it begins a variable.
_PAGE_LIMIT = 3500
PAGE = "<!doctype html><title>Maintenance</title><h1>We will be back soon</h1><p>This site is being maintained. Please try again in a few minutes.</p>"


@dataclass(frozen=True)
class Service:
    """One service the public reaches.

    :param path: the beginning of the paths that go to it.
    :param health_path: path that every host of it must answer with 2xx before it gets more traffic; empty to only connect.
    :param slots: ``blue`` and ``green``, each with its hosts as ``host:port``.
    """

    name: str
    slots: Mapping[str, tuple[str, ...]]
    path: str = "/"
    health_path: str = ""


@dataclass(frozen=True)
class Maintenance:
    """Who and what is let through while the site is closed, and what all others get.

    :param addresses: networks of the operators.
    :param paths: beginnings of paths that stay open, e.g. the health probe and webhooks.
    :param retry_after: seconds a client is told to wait.
    """

    addresses: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    page: str = PAGE
    retry_after: int = 300


@dataclass(frozen=True)
class Site:
    """What the generated files of an app depend on.

    :param hosts_out: hosts that are left out of their slot, drained or dead.
    :param assets: beginnings of the paths of hashed assets: what one slot does not have is looked for in the other.
    :param tester_secret: what a tester shows in the header ``Sluice-Tester``; kept in a file of its own, mode 0600.
    :param tester_addresses: networks whose visitors are testers without it.
    :param vhost: the whole site; None when the operator's own site includes ``server.conf``.
    :param nginx: version of nginx the files are made for.
    """

    app: str
    directory: str
    services: tuple[Service, ...] = ()
    control: str = "127.0.0.1:8099"
    log: str = ""
    switch: str = BUCKETS_SWITCH
    split_key: str = "visitor"
    cookie_secure: bool = True
    hosts_out: tuple[str, ...] = ()
    assets: tuple[str, ...] = ()
    tester_secret: str = ""
    tester_addresses: tuple[str, ...] = ()
    maintenance: Maintenance = Maintenance()
    vhost: Optional[Vhost] = None
    nginx: tuple[int, int, int] = (1, 18, 0)

    @property
    def folder(self) -> str:
        """The folder that holds everything generated for the app."""
        return f"{self.directory.rstrip('/')}/{self.app}"

    @property
    def log_path(self) -> str:
        """The access log of the app's requests."""
        return self.log or f"/var/log/nginx/sluice_{self.app}.log"

    @property
    def word(self) -> str:
        """The app's name as nginx allows it in the name of a variable."""
        return self.app.replace("-", "_")

    @property
    def has_testers(self) -> bool:
        """Whether anybody can be a tester."""
        return bool(self.tester_secret or self.tester_addresses)

    def hosts(self, service: Service, slot: str) -> tuple[str, ...]:
        """Return the hosts of a slot that are in."""
        return tuple(host for host in service.slots[slot] if host not in self.hosts_out)

    def slots(self) -> dict[str, list[str]]:
        """Return the hosts of each slot, of all services, those that are out among them."""
        return {slot: [host for service in self.services for host in service.slots[slot]] for slot in SLOTS}


def check_app(app: str) -> str:
    """Return the app's name as it came, or refuse it."""
    if not _APP.fullmatch(app):
        raise refuse("app", app, "up to 30 small letters, digits, - and _, the first a letter", "wallet")
    return app


def check_path(variable: str, value: str) -> str:
    """Return an absolute path without characters that mean something to nginx, or refuse it."""
    if not _PATH.fullmatch(value) or ".." in value.split("/"):
        raise refuse(variable, value, "an absolute path of letters, digits and . _ / @ + -", "/etc/nginx/sluice")
    return value


def check_address(variable: str, value: Any) -> str:
    """Return a ``host:port`` as it came, or refuse it."""
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if not match or not 1 <= int(match.group("port")) <= 65535:
        raise refuse(variable, value, "host:port with a port from 1 to 65535", "127.0.0.1:4101")
    return str(value)


def _check_url_path(variable: str, value: Any, example: str) -> None:
    if not isinstance(value, str) or not _URL_PATH.fullmatch(value):
        raise refuse(variable, value, "the beginning of a path, with letters, digits and . _ ~ @ + -", example)


def _is_network(value: str) -> bool:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        return False
    return True


def _check_networks(variable: str, values: Sequence[str]) -> None:
    for place, value in enumerate(values):
        if not _is_network(value):
            raise refuse(f"{variable}[{place}]", value, "an address or a network", "192.0.2.0/24")


def _check_services(site: Site) -> None:
    seen: dict[str, str] = {}
    paths: dict[str, str] = {}
    if not site.services:
        raise refuse("services", [], "one service or more, each with its hosts in blue and green", "[{name: web, blue: ['127.0.0.1:4101'], green: [...]}]")
    for number, service in enumerate(site.services):
        place = f"services[{number}]"
        if not isinstance(service.name, str) or not _SERVICE.fullmatch(service.name):
            raise refuse(f"{place}.name", service.name, "small letters, digits, - and _, the first a letter", "web")
        _check_url_path(f"{place}.path", service.path, "/api/")
        if service.health_path:
            _check_url_path(f"{place}.health_path", service.health_path, "/api/health")
        for key, names in ((service.path, "path"), (f"{service.name} ", "name")):
            if key in paths:
                raise refuse(f"{place}.{names}", key.strip(), f"one of its own; {paths[key]} has the same", "/api/")
            paths[key] = place
        for slot in SLOTS:
            hosts = service.slots.get(slot, ())
            if not hosts:
                raise refuse(f"{place}.{slot}", list(hosts), "a list of one or more host:port", "['127.0.0.1:4101']")
            for position, host in enumerate(hosts):
                name = f"{place}.{slot}[{position}]"
                # In place only one slot runs at a time, so both may be the same hosts, all of them.
                if slot != SLOTS[0] and tuple(hosts) == tuple(service.slots[SLOTS[0]]):
                    continue
                if check_address(name, host) in seen:
                    raise refuse(name, host, f"an address of its own; {seen[host]} has the same one", "127.0.0.1:4102")
                seen[host] = name
            if not site.hosts(service, slot):
                raise refuse("hosts_out", list(site.hosts_out), f"hosts that leave {slot} of {service.name} at least one", f"['{hosts[0]}']")
    for number, host in enumerate(site.hosts_out):
        if host not in seen:
            raise refuse(f"hosts_out[{number}]", host, "a host of one of the slots", next(iter(seen)))


def check_site(site: Site) -> Site:
    """Return the site as it came, or refuse the first value of it that has the wrong shape."""
    check_app(site.app)
    check_path("directory", site.directory)
    check_path("log", site.log_path)
    check_address("control", site.control)
    if not _LOOPBACK.fullmatch(site.control.rpartition(":")[0]):
        raise refuse("control", site.control, "an address of the loopback interface", "127.0.0.1:8099")
    if site.switch not in SWITCHES:
        raise refuse("switch", site.switch, " or ".join(SWITCHES), "buckets")
    if site.split_key not in SPLIT_KEYS:
        raise refuse("split_key", site.split_key, " or ".join(SPLIT_KEYS), "visitor")
    _check_services(site)
    for number, path in enumerate(site.assets):
        _check_url_path(f"assets[{number}]", path, "/assets/")
    if site.tester_secret and not _SECRET.fullmatch(site.tester_secret):
        # The secret itself is not repeated in a message.
        raise refuse("tester_secret", "a word of the wrong shape", "16 to 32 letters, digits, - and _", "the output of `openssl rand -hex 16`")
    _check_networks("tester_addresses", site.tester_addresses)
    _check_networks("maintenance.addresses", site.maintenance.addresses)
    for number, path in enumerate(site.maintenance.paths):
        _check_url_path(f"maintenance.paths[{number}]", path, "/api/webhooks/")
    page = site.maintenance.page
    if len(page.encode()) > _PAGE_LIMIT or "$" in page:
        raise refuse("maintenance.page", f"{page[:40]}...", f"up to {_PAGE_LIMIT} bytes of HTML without a dollar sign", "<h1>Back soon</h1>")
    if not isinstance(site.maintenance.retry_after, int) or not 1 <= site.maintenance.retry_after <= 86400:
        raise refuse("maintenance.retry_after", site.maintenance.retry_after, "seconds from 1 to 86400", "300")
    return site


def _tuple(value: Any) -> tuple[str, ...]:
    return tuple(str(each) for each in value or ())


def _version(value: Sequence[int]) -> tuple[int, int, int]:
    first, second, third = (int(part) for part in value)
    return first, second, third


def service_from(data: Mapping[str, Any]) -> Service:
    """Return the service a mapping describes."""
    return Service(data["name"], {slot: _tuple(data[slot]) for slot in SLOTS}, data.get("path") or "/", data.get("health_path") or "")


def maintenance_from(data: Optional[Mapping[str, Any]]) -> Maintenance:
    """Return what a mapping says about the maintenance mode; what is missing keeps its default."""
    given = {key: value for key, value in (data or {}).items() if value is not None}
    unknown = sorted(set(given) - set(Maintenance.__dataclass_fields__))
    if unknown:
        raise SluiceError(f"maintenance has no {', '.join(unknown)}.", f"It has: {', '.join(Maintenance.__dataclass_fields__)}.", variable="maintenance")
    given.update({key: _tuple(given[key]) for key in ("addresses", "paths") if key in given})
    return Maintenance(**given)


def site_from(data: Mapping[str, Any]) -> Site:
    """Return the site that module parameters or the header comment describe, checked.

    :raises SluiceError: it names the first value of the wrong shape.
    """
    return check_site(
        Site(
            app=data["app"],
            directory=data["directory"],
            services=tuple(service_from(service) for service in data["services"]),
            control=data["control"],
            log=data.get("log") or "",
            switch=data["switch"],
            split_key=data["split_key"],
            cookie_secure=data["cookie_secure"],
            hosts_out=_tuple(data.get("hosts_out")),
            assets=_tuple(data.get("assets")),
            tester_secret=data.get("tester_secret") or "",
            tester_addresses=_tuple(data.get("tester_addresses")),
            maintenance=maintenance_from(data.get("maintenance")),
            vhost=vhost_from(data["vhost"]) if data.get("vhost") else None,
            nginx=_version(data["nginx"]),
        )
    )


def site_as_dict(site: Site) -> dict[str, Any]:
    """Return the site as a plain mapping for the header comment, without the testers' secret."""
    plain = asdict(site)
    plain["services"] = [{"name": each.name, "path": each.path, "health_path": each.health_path, **each.slots} for each in site.services]
    del plain["tester_secret"]
    return {**plain, "log": site.log_path}
