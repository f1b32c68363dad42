# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What plain containers and compose share: both leave containers that carry the slot in their labels."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.docker import Docker
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.images import Images, recorded
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.runtime import Runtime
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.image_names import Wanted
from ansible_collections.sluice.deploy.plugins.module_utils.core.slots import Plan, Process, Service
from ansible_collections.sluice.deploy.plugins.module_utils.core.stacks import HOST_NETWORK, STOP_SECONDS

_RETURNS = ("unless-stopped", "always")


@dataclass(frozen=True)
class Engine:
    """How containers are run.

    :param command: how Docker's command line is called, as a list of words.
    :param network: network the containers join; ``host`` for the host's own, empty for the runtime's default.
    :param log_driver: driver that keeps what they say.
    :param image: where the image of a release comes from; None on a host that starts nothing.
    """

    command: Sequence[str] = ("docker",)
    network: str = ""
    log_driver: str = "local"
    image: Wanted | None = None

    @property
    def contained(self) -> bool:
        """Tell whether a container has a network of its own."""
        return self.network != HOST_NETWORK

    @property
    def log_options(self) -> dict[str, str]:
        """Return the driver's options: its files must not fill the disk."""
        return {"max-size": "10m", "max-file": "5"} if self.log_driver in ("local", "json-file") else {}

    @property
    def logging(self) -> dict[str, Any]:
        """Return the same as a section of a file."""
        return {"driver": self.log_driver, "options": self.log_options}


class ContainerRuntime(Runtime):
    """Containers of one engine.

    :param engine: how they are run.
    """

    def __init__(self, app: str, directory: str, services: Sequence[Service], path: str, engine: Engine) -> None:
        super().__init__(app, directory, services, path)
        self._engine = engine
        self._docker = Docker(engine.command, self.path)
        self._images = Images(self._docker, app, directory, engine.image)
        self._known: list[dict[str, Any]] | None = None

    def prepare(self, plan: Plan, check: bool = False) -> list[str]:
        return self._images.ensure(plan, check)

    def image(self, folder: str) -> str:
        return recorded(folder)

    def remove(self, folder: str) -> None:
        self._images.remove(folder)

    def start(self, plan: Plan) -> None:
        self._known = None
        if not plan.image:
            raise SluiceError(f"There is no image of {plan.version} on this host.", "Run the slot's prepared state first, with app_image set.")
        self._start(plan)

    def stop(self, slot: str, services: Sequence[Service]) -> None:
        self._known = None
        names = {service.name for service in services}
        there = self._held(slot)
        mine = [container for container in there if _label(container, "service") in names]
        if len(mine) < len(there):
            self._end(mine)
        else:
            self._clear(slot)
        self._known = None

    @abstractmethod
    def _start(self, plan: Plan) -> None:
        """Order the containers of a slot."""

    @abstractmethod
    def _clear(self, slot: str) -> None:
        """End and remove all that there is of a slot; nothing is no error."""

    def _end(self, containers: Sequence[Mapping[str, Any]]) -> None:
        """End and remove some containers."""
        names = [container["Id"] for container in containers]
        if names:
            self._docker.run("stop", "--time", str(STOP_SECONDS), *names, ok=(0, 1))
            self._docker.run("rm", "--force", *names, ok=(0, 1))

    def processes(self, again: bool = False) -> list[Process]:
        if self._known is None or again:
            self._known = self._docker.containers(f"sluice.app={self.app}")
        return [_process(container) for container in self._known]

    def probe(self, slot: str, services: Sequence[Service]) -> str:
        ended = super().probe(slot, services)
        if ended:
            return ended
        names = {service.name for service in services}
        sick = next((container for container in self._held(slot) if _label(container, "service") in names and _health(container) == "unhealthy"), None)
        if sick is None:
            return ""
        said = (sick["State"]["Health"].get("Log") or [{}])[-1].get("Output", "").strip()
        return f"{_label(sick, 'service')} is unhealthy by the image's own HEALTHCHECK: {said[-300:] or 'it said nothing'}"

    def logs(self, slot: str) -> str:
        return "\n".join(filter(None, (self._docker.logs(container["Id"]) for container in self._held(slot))))

    def kept(self, slot: str) -> bool:
        policies = [container["HostConfig"]["RestartPolicy"]["Name"] for container in self._all(slot)]
        return bool(policies) and all(policy in _RETURNS for policy in policies)

    def keep(self, slot: str) -> None:
        # Not earlier: a restarted container hides that its version ends by itself.
        names = [container["Id"] for container in self._all(slot)]
        if names:
            self._docker.run("update", "--restart", "unless-stopped", *names)
        self._known = None

    def _held(self, slot: str) -> list[dict[str, Any]]:
        self.processes()
        return [container for container in self._known or () if _label(container, "slot") == slot]

    def _all(self, slot: str) -> list[dict[str, Any]]:
        """Return the containers that end and come back with a slot."""
        return self._held(slot)

    def _file(self, slot: str, kind: str) -> str:
        return os.path.join(self.directory, "slots", f"{slot}.{kind}")


def _label(container: Mapping[str, Any], name: str) -> str:
    return str((container["Config"].get("Labels") or {}).get(f"sluice.{name}", ""))


def _health(container: Mapping[str, Any]) -> str:
    return str((container["State"].get("Health") or {}).get("Status", ""))


def _process(container: Mapping[str, Any]) -> Process:
    state = container["State"]
    # "running" is also true while it is being restarted.
    running = bool(state["Running"]) and not state["Restarting"] and _health(container) != "unhealthy"
    return Process(_label(container, "service"), _label(container, "slot"), running, int(container["RestartCount"]), int(state["ExitCode"]))
