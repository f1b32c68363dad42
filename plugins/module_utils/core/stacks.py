# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that compose and a swarm are told a slot by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.slots import Plan, Service

HOST_NETWORK = "host"
STOP_SECONDS = 8


def stack_name(app: str, slot: str) -> str:
    """Return the project of compose, or the stack of a swarm: ``wallet-blue``."""
    return f"{app}-{slot}"


def labels(app: str, plan: Plan, service: Service) -> dict[str, str]:
    """Return what a container is known by."""
    return {"sluice.app": app, "sluice.slot": plan.slot, "sluice.service": service.name, "sluice.release": plan.release, "sluice.version": plan.version}


def reset_text(plan: Plan) -> str:
    """Return the file that takes an operator's own ports and container names away: two slots could not have them at once."""
    lines = [f"  {service.name}: {{container_name: !reset null, ports: !reset []}}" for service in plan.services]
    return "\n".join(["services:", *lines, ""])


def compose_text(app: str, plan: Plan, network: str, log: Mapping[str, Any]) -> str:
    """Return the file for compose, which is YAML, of which JSON is a part.

    :param network: network of the host that the containers join; ``host`` for the host's own, empty for one of the project.
    :param log: the logging section.
    """
    contained = network != HOST_NETWORK
    services: dict[str, Any] = {}
    for service in plan.services:
        published = [
            {"target": plan.inside(service), "published": str(port), "host_ip": plan.host, "protocol": "tcp"} for port in [service.ports.get(plan.slot)] if port
        ]
        outside = {"ports": published, "extra_hosts": ["host.docker.internal:host-gateway"]} if contained else {"network_mode": HOST_NETWORK}
        services[service.name] = {
            **_common(app, plan, service, contained),
            "pull_policy": "never",
            "restart": "no",
            "scale": service.instances,
            "logging": dict(log),
            **outside,
        }
    joined = {"networks": {"default": {"name": network, "external": True}}} if network and contained else {}
    return json.dumps({"services": services, **joined}, indent=1)


def stack_text(app: str, plan: Plan, network: str, log: Mapping[str, Any]) -> str:
    """Return the file for ``docker stack deploy``.

    A port is published by the node itself where one instance serves it, and by the swarm's mesh where several share it.

    :raises SluiceError: several instances would listen on one port of the host's own network.
    """
    contained = network != HOST_NETWORK
    services: dict[str, Any] = {}
    for service in plan.services:
        if service.instances > 1 and not contained and service.ports:
            raise SluiceError(
                f"app_services: {service.instances} instances of {service.name} cannot share a port of the host's network.",
                "Set instances to 1, or slot_docker_network to an overlay network.",
            )
        mode = "ingress" if service.instances > 1 else "host"
        published = [{"target": plan.inside(service), "published": port, "protocol": "tcp", "mode": mode} for port in [service.ports.get(plan.slot)] if port]
        services[service.name] = {
            **_common(app, plan, service, contained),
            "logging": dict(log),
            "deploy": {
                "replicas": service.instances,
                "restart_policy": {"condition": "any", "delay": "1s"},
                "labels": {"sluice.app": app, "sluice.slot": plan.slot},
            },
            **({"ports": published} if contained else {}),
            **({"networks": ["given"]} if network else {}),
        }
    joined = {"networks": {"given": {"name": network, "external": True}}} if network else {}
    return json.dumps({"version": "3.8", "services": services, **joined}, indent=1)


def _common(app: str, plan: Plan, service: Service, contained: bool) -> dict[str, Any]:
    return {
        "image": plan.image,
        "labels": labels(app, plan, service),
        "init": True,
        "environment": {name: _escaped(value) for name, value in sorted(plan.environment(service, contained).items())},
        "stop_grace_period": f"{STOP_SECONDS}s",
        **({"volumes": [{"type": "bind", "source": plan.heartbeats, "target": plan.heartbeats}]} if service.kind == "worker" and plan.heartbeats else {}),
        **({"command": [_escaped(word) for word in service.args]} if service.args else {}),
    }


def _escaped(text: str) -> str:
    """Keep a dollar sign from being taken for a variable."""
    return text.replace("$", "$$")
