# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A slot on an app host: names, folders and the process file, all derived from the app and the colour."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

SLOTS = ("blue", "green")
REHEARSAL = "rehearsal"
_NAME = re.compile(r"^[a-z][a-z0-9_]{0,30}\Z")
_EXAMPLE = "Example: {name: web, entry: server.js, instances: 2, ports: {blue: 3001, green: 3002, rehearsal: 3003}}"


def other(slot: str) -> str:
    """Return the slot that is not this one."""
    return SLOTS[1 - SLOTS.index(slot)]


@dataclass(frozen=True)
class Service:
    """One process group of the app.

    :param entry: the real entry file below the release folder; a package script would hide the process from the runtime (M-019).
    :param instances: processes of it; more than one needs ``cluster``.
    :param ports: TCP port by slot, and one for the rehearsal.
    """

    name: str
    entry: str
    ports: Mapping[str, int]
    instances: int = 1
    mode: str = "cluster"
    health_path: str = "/api/health"


def service_from(data: Mapping[str, Any]) -> Service:
    """Return the service a mapping describes.

    :raises SluiceError: a name, entry or port is missing or has the wrong shape.
    """
    name, entry = str(data.get("name", "")), str(data.get("entry", ""))
    if not _NAME.match(name):
        raise SluiceError(f"app_services: the name {name!r} must be lower-case letters, digits and underscores.", _EXAMPLE)
    if not entry or entry.startswith("/") or ".." in entry.split("/") or entry in ("npm", "yarn", "pnpm"):
        raise SluiceError(f"app_services: the entry of {name} must be a file of the release such as server.js, not {entry!r}.", _EXAMPLE)
    ports = data.get("ports") or {}
    wanted = (*SLOTS, REHEARSAL)
    if (
        sorted(ports) != sorted(wanted)
        or not all(str(port).isdigit() and 0 < int(port) < 65536 for port in ports.values())
        or len(set(map(int, ports.values()))) != 3
    ):
        raise SluiceError(f"app_services: {name} needs three different ports, for {', '.join(wanted)}.", _EXAMPLE)
    instances, mode = str(data.get("instances", 1)), str(data.get("mode", "cluster"))
    if not instances.isdigit() or int(instances) < 1 or mode not in ("cluster", "fork"):
        raise SluiceError(f"app_services: {name} needs instances of 1 or more and the mode cluster or fork, not {instances!r} and {mode!r}.", _EXAMPLE)
    return Service(
        name,
        entry,
        {slot: int(port) for slot, port in ports.items()},
        int(instances),
        mode,
        str(data.get("health_path", "/api/health")),
    )


def process_name(app: str, service: str, slot: str) -> str:
    """Return the runtime's name of a service in a slot: ``wallet-web-blue``."""
    return f"{app}-{service}-{slot}"


def release_folder(directory: str, version: str, commit: str) -> str:
    """Return the absolute folder of one built version."""
    return posixpath.join(directory, "releases", f"{version}-{commit[:12]}")


def environment(env: Mapping[str, str], service: Service, slot: str, release: str) -> dict[str, str]:
    """Return the environment of one process: the operator's file, and what the slot adds to it."""
    return {**env, "HOST": "127.0.0.1", "PORT": str(service.ports[slot]), "SLUICE_SLOT": slot, "SLUICE_RELEASE": release, "NODE_ENV": "production"}


def ecosystem(app: str, slot: str, services: Sequence[Service], folder: str, env: Mapping[str, str], logs: str, release: str) -> dict[str, Any]:
    """Return PM2's process file for one slot.

    Paths are absolute: a path through ``current`` would change under a running process.
    """
    return {
        "apps": [
            {
                "name": process_name(app, service.name, slot),
                "cwd": folder,
                "script": posixpath.join(folder, service.entry),
                "exec_mode": service.mode,
                "instances": service.instances,
                "env": environment(env, service, slot, release),
                "wait_ready": True,
                "listen_timeout": 10000,
                "kill_timeout": 8000,
                "max_restarts": 3,
                "min_uptime": 2000,
                "merge_logs": True,
                "out_file": posixpath.join(logs, process_name(app, service.name, slot) + ".out.log"),
                "error_file": posixpath.join(logs, process_name(app, service.name, slot) + ".err.log"),
                "time": True,
            }
            for service in services
        ]
    }


def prunable(folders: Sequence[str], good: Sequence[str], protected: Sequence[str], keep: int) -> list[str]:
    """Return the release folders that may go.

    :param folders: what lies on disk.
    :param good: folders of releases that were promoted, the newest first; only these count as kept.
    :param protected: folders that a slot or the ledger points to; they stay whatever their age.
    :param keep: how many good ones stay beside the protected ones.
    """
    stay = set(protected) | set(good[:keep])
    return [folder for folder in folders if folder not in stay]
