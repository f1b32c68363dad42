# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A slot on an app host: names, folders and the process file, all derived from the app and the colour."""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

SLOTS = ("blue", "green")
REHEARSAL = "rehearsal"
LOOPBACK = "127.0.0.1"
RUNTIMES = ("pm2", "systemd", "docker", "compose", "swarm")
KINDS = ("web", "worker")
# Runtimes whose slots are made of an image instead of the files of a release folder.
IMAGES = ("docker", "compose", "swarm")
_NAME = re.compile(r"^[a-z][a-z0-9_]{0,30}\Z")
_EXAMPLE = "Example: {name: web, entry: server.js, instances: 2, ports: {blue: 3001, green: 3002, rehearsal: 3003}}"


def other(slot: str) -> str:
    """Return the slot that is not this one."""
    return SLOTS[1 - SLOTS.index(slot)]


@dataclass(frozen=True)
class Service:
    """One process group of the app.

    :param entry: the real entry file below the release folder; a package script would hide the process from the runtime (M-019).
        Empty where an image knows what it runs.
    :param ports: TCP port by slot, and one for the rehearsal.
    :param instances: processes of it; more than one needs a runtime that lets them share the port.
    :param mode: PM2's ``cluster``, the default, or ``fork``, a worker's.
    :param interpreter: program that runs the entry, below the release folder (``.venv/bin/python``) or absolute; empty for Node.
    :param args: words after the entry; for an image, the command it is started with.
    :param image_port: the port it listens on inside its container; 0 for the same as outside.
    :param kind: ``web`` answers requests in both slots; a ``worker`` takes jobs from queues or schedules, so it runs in the live slot only
        and has no ports.
    :param heartbeat: seconds within which a worker must touch the file that SLUICE_HEARTBEAT names; 0 when it does not.
    """

    name: str
    entry: str
    ports: Mapping[str, int]
    instances: int = 1
    mode: str = "cluster"
    health_path: str = "/api/health"
    interpreter: str = ""
    args: tuple[str, ...] = ()
    image_port: int = 0
    kind: str = "web"
    heartbeat: float = 0.0


def service_from(data: Mapping[str, Any], runtime: str = "pm2", in_place: bool = False) -> Service:
    """Return the service a mapping describes.

    :param runtime: one of RUNTIMES; it decides whether there is an entry, and how many instances can share a port.
    :param in_place: whether only one slot runs at a time, so that both may have the same port, and there need be none for a rehearsal.
    :raises SluiceError: a name, entry or port is missing or has the wrong shape.
    """
    name, entry = str(data.get("name", "")), str(data.get("entry", ""))
    if not _NAME.match(name):
        raise SluiceError(f"app_services: the name {name!r} must be lower-case letters, digits and underscores.", _EXAMPLE)
    if runtime in IMAGES:
        if entry:
            raise SluiceError(
                f"app_services: {name} has the entry {entry!r}, but its image knows what it runs.", "Leave entry out; args replace the image's command."
            )
    elif not entry or entry.startswith("/") or ".." in entry.split("/") or entry in ("npm", "yarn", "pnpm"):
        raise SluiceError(f"app_services: the entry of {name} must be a file of the release such as server.js, not {entry!r}.", _EXAMPLE)
    kind, heartbeat = str(data.get("kind", "web")), data.get("heartbeat", 0)
    if kind not in KINDS or not isinstance(heartbeat, (int, float)) or heartbeat < 0 or (heartbeat and kind != "worker"):
        raise SluiceError(
            f"app_services: {name} is a {kind!r} with the heartbeat {heartbeat!r}; it must be web, or worker with a heartbeat of some seconds or 0.",
            "Example: {name: jobs, kind: worker, entry: worker.js, heartbeat: 10}",
        )
    instances, mode, interpreter = (
        str(data.get("instances", 1)),
        str(data.get("mode", "fork" if kind == "worker" else "cluster")),
        str(data.get("interpreter", "")),
    )
    if not instances.isdecimal() or int(instances) < 1 or mode not in ("cluster", "fork"):
        raise SluiceError(f"app_services: {name} needs instances of 1 or more and the mode cluster or fork, not {instances!r} and {mode!r}.", _EXAMPLE)
    shares = kind == "worker" or (runtime == "pm2" and mode == "cluster" and not interpreter) or runtime == "swarm"
    if int(instances) > 1 and not shares:
        raise SluiceError(
            f"app_services: {instances} instances of {name} cannot share one port: only Node in PM2's mode cluster and a swarm's services can.",
            "Set instances to 1 and let the program itself fork, as gunicorn --workers does.",
        )
    args = data.get("args") or []
    if not isinstance(args, (list, tuple)) or not all(isinstance(word, (str, int, float)) for word in args):
        raise SluiceError(f"app_services: args of {name} must be a list of words, not {args!r}.", "Example: {args: [-m, app.serve]}.")
    return Service(
        name,
        entry,
        {} if kind == "worker" else _ports(name, data.get("ports") or {}, in_place),
        int(instances),
        mode,
        str(data.get("health_path", "/api/health")),
        interpreter,
        tuple(map(str, args)),
        _image_port(name, data.get("image_port") or 0),
        kind,
        float(heartbeat),
    )


def _ports(name: str, ports: Mapping[str, Any], in_place: bool) -> dict[str, int]:
    if in_place:
        return _ports_of_one(name, ports)
    wanted = (*SLOTS, REHEARSAL)
    if set(ports) != {*wanted} or not _are_ports(ports.values()) or len(set(map(int, ports.values()))) != 3:
        raise SluiceError(f"app_services: {name} needs three different ports, for {', '.join(wanted)}.", _EXAMPLE)
    return {slot: int(port) for slot, port in ports.items()}


def _ports_of_one(name: str, ports: Mapping[str, Any]) -> dict[str, int]:
    """Return the ports of slots of which one runs at a time; a rehearsal runs beside it, so its port is another, or it is left out."""
    known = set(ports) in ({*SLOTS}, {*SLOTS, REHEARSAL}) and _are_ports(ports.values())
    if not known or int(ports.get(REHEARSAL, 0)) in {int(ports[slot]) for slot in SLOTS}:
        raise SluiceError(
            f"app_services: {name} needs ports for blue and green, which may be the same in place, and another one for rehearsal or none.",
            f"Example: {{name: {name}, entry: server.js, ports: {{blue: 3001, green: 3001, rehearsal: 3003}}}}",
        )
    return {slot: int(port) for slot, port in ports.items()}


def _are_ports(given: Iterable[Any]) -> bool:
    return all(str(port).isdecimal() and 0 < int(port) < 65536 for port in given)


def _image_port(name: str, port: Any) -> int:
    if not str(port).isdecimal() or int(port) > 65535:
        raise SluiceError(f"app_services: image_port of {name} must be the TCP port its container listens on, not {port!r}.", "Example: {image_port: 8000}.")
    return int(port)


def process_name(app: str, service: str, slot: str) -> str:
    """Return the runtime's name of a service in a slot: ``wallet-web-blue``."""
    return f"{app}-{service}-{slot}"


def release_folder(directory: str, version: str, commit: str) -> str:
    """Return the absolute folder of one built version."""
    return posixpath.join(directory, "releases", f"{version}-{commit[:12]}")


def address_from(text: str) -> str:
    """Return the address that services listen on.

    :raises SluiceError: it is a name. The host itself may take its own name for its loopback, as Debian's /etc/hosts does.
    """
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        raise SluiceError(
            f"app_listen: {text!r} is not an IP address that an app could listen on.",
            "Set app_address to an IP address of the app host, or app_listen to one, such as 10.0.0.11, or 0.0.0.0 for all of them.",
        ) from None


def reached_at(address: str) -> str:
    """Return where the host itself reaches what listens on an address, as a URL names it."""
    found = ipaddress.ip_address(address)
    if found.version == 6:
        return "[::1]" if found.is_unspecified else f"[{address}]"
    return LOOPBACK if found.is_unspecified else address


@dataclass(frozen=True)
class Plan:
    """What a runtime is told to start: one version in one slot.

    :param slot: ``blue``, ``green`` or ``rehearsal``.
    :param folder: absolute release folder. A path through ``current`` would change under a running process.
    :param env: the operator's variables, without what the slot adds to them; they hold secrets.
    :param services: what to start; a rehearsal starts one process of each.
    :param release: id of the release.
    :param image: image of a runtime that starts containers, by digest; empty for the others.
    :param role: ``canary``, ``live`` or ``rehearsal``: what the processes are when they are started.
    :param heartbeats: folder of the files that workers touch.
    :param address: what the slots' services listen on; a rehearsal is nobody's business but this host's.
    """

    slot: str
    version: str
    commit: str
    folder: str
    env: Mapping[str, str]
    services: Sequence[Service]
    release: str = ""
    image: str = ""
    role: str = "canary"
    heartbeats: str = ""
    address: str = LOOPBACK

    @property
    def host(self) -> str:
        """Address that the plan's services listen on, or are published on."""
        return LOOPBACK if self.slot == REHEARSAL else self.address

    def environment(self, service: Service, contained: bool = False) -> dict[str, str]:
        """Return the environment of one process: the operator's file, and what the slot adds to it.

        :param contained: whether it has a network of its own, whose port is published as the slot's on the host.
        """
        web = service.kind == "web"
        port = self.inside(service) if contained else service.ports.get(self.slot, 0)
        own = {"PORT": str(port)} if web else {"SLUICE_HEARTBEAT": self.heartbeat(service)}
        host = "0.0.0.0" if contained else self.host
        added = {"HOST": host, **own, "SLUICE_SLOT": self.slot, "SLUICE_ROLE": self.role, "SLUICE_RELEASE": self.release}
        return {**self.env, **added, "NODE_ENV": "production"}

    def inside(self, service: Service) -> int:
        """Return the port a service listens on inside its container; 0 for a worker."""
        return service.image_port or service.ports.get(self.slot, 0)

    def heartbeat(self, service: Service) -> str:
        """Return the file a worker touches while it works."""
        return posixpath.join(self.heartbeats, f"{self.slot}.{service.name}.heartbeat")


@dataclass(frozen=True)
class Process:
    """One process or container of a slot, as its runtime sees it.

    :param running: proves nothing: a process that never listens runs too (M-020).
    :param restarts: how often the runtime started it again since the slot was started.
    :param exit_code: of its last end; 0 while there was none.
    """

    service: str
    slot: str
    running: bool
    restarts: int = 0
    exit_code: int = 0


def prunable(folders: Sequence[str], good: Sequence[str], protected: Sequence[str], keep: int) -> list[str]:
    """Return the release folders that may go.

    :param folders: what lies on disk.
    :param good: folders of releases that were promoted, the newest first; only these count as kept.
    :param protected: folders that a slot or the ledger points to; they stay whatever their age.
    :param keep: how many good ones stay beside the protected ones.
    """
    stay = set(protected) | set(good[:keep])
    return [folder for folder in folders if folder not in stay]
