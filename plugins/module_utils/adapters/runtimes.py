# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which runtime a module's parameters mean: the one place that knows them all by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.runtime import Runtime
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.runtime_compose import ComposeRuntime
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.runtime_container import Engine
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.runtime_docker import DockerRuntime
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.runtime_pm2 import Pm2Runtime
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.runtime_swarm import SwarmRuntime
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.runtime_systemd import SystemdRuntime
from ansible_collections.sluice.deploy.plugins.module_utils.core.image_names import wanted_from
from ansible_collections.sluice.deploy.plugins.module_utils.core.slots import LOOPBACK, RUNTIMES, Service

# The options of a module that asks a runtime, as in the doc fragment C(runtime).
ARGUMENTS: dict[str, Any] = {
    "runtime": {"type": "str", "choices": list(RUNTIMES), "default": "pm2"},
    "pm2_command": {"type": "list", "elements": "str", "default": ["pm2"]},
    "pm2_home": {"type": "path"},
    "path": {"type": "str", "default": ""},
    "listen": {"type": "str", "default": LOOPBACK},
    "user": {"type": "str", "default": ""},
    "docker_command": {"type": "list", "elements": "str", "default": ["docker"]},
    "docker_network": {"type": "str", "default": ""},
    "docker_log_driver": {"type": "str", "default": "local"},
    "compose_command": {"type": "list", "elements": "str", "default": ["docker", "compose"]},
    "compose_file": {"type": "str", "default": ""},
    "image": {
        "type": "dict",
        "options": {
            "name": {"type": "str", "default": ""},
            "archive": {"type": "str", "default": ""},
            "sha256": {"type": "str", "default": ""},
            "build": {"type": "str", "default": ""},
            "user": {"type": "str", "default": ""},
            "password": {"type": "str", "default": "", "no_log": True},
        },
    },
}


def runtime_from(params: Mapping[str, Any], services: Sequence[Service]) -> Runtime:
    """Return the runtime of a module's parameters, which hold ARGUMENTS, ``app`` and ``directory``."""
    kind, app, directory, path = params["runtime"], params["app"], params["directory"], params["path"]
    if kind == "pm2":
        return Pm2Runtime(app, directory, services, path, params["pm2_command"], params["pm2_home"] or "")
    if kind == "systemd":
        return SystemdRuntime(app, directory, services, path, params["user"])
    engine = Engine(params["docker_command"], params["docker_network"], params["docker_log_driver"], wanted_from(params["image"] or {}))
    if kind == "compose":
        return ComposeRuntime(app, directory, services, path, engine, params["compose_command"], params["compose_file"])
    return {"docker": DockerRuntime, "swarm": SwarmRuntime}[kind](app, directory, services, path, engine)
