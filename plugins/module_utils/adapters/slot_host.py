# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the states of a slot share: the app's shape, its folders and its runtime on this host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import probes, release_dir
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.fence import claim
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import read_text
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.runtimes import runtime_from
from ansible_collections.sluice.deploy.plugins.module_utils.core import dotenv, slots, smoke
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Probe, probe_from
from ansible_collections.sluice.deploy.plugins.module_utils.core.slots import Plan
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate


class Host:
    """One host of the app, as the parameters of the module describe it."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.app: str = params["app"]
        self.directory: str = params["directory"]
        self.slot: str = params["slot"] or ""
        self.services = [slots.service_from(service, params["runtime"], params["in_place"]) for service in params["services"]]
        self.web = [service for service in self.services if service.kind == "web"]
        self.workers = [service for service in self.services if service.kind == "worker"]
        self.runtime = runtime_from(params, self.services)
        self.address = slots.address_from(params["listen"])
        sends = params["state"] in ("started", "rehearsed", "alone")
        self.values = probes.read_values(params["smoke_values"]) if sends else {}
        self.smoke = smoke.steps_from(params["smoke"], self.values if sends or not params["smoke_values"] else None)
        self.probes = {service.name: probe_from({"name": "health", **params["health"], "path": service.health_path}, "app_health") for service in self.web}
        self.actions: list[str] = []
        self.gates: list[Gate] = []
        # Whether the files of the release must be handed over first.
        self.wanted = False

    def held(self) -> dict[str, dict[str, Any]]:
        """Return what each slot holds and how many of its processes run."""
        return {
            slot: {
                **{key: value for key, value in release_dir.record(self.directory, slot).items() if key != "fingerprints"},
                "online": self.running(slot, self.web),
                "wanted": sum(service.instances for service in self.web),
                **({"workers": self.running(slot, self.workers)} if self.workers else {}),
            }
            for slot in slots.SLOTS
        }

    def running(self, slot: str, services: Sequence[slots.Service], again: bool = False) -> int:
        return sum(process.running for process in self.runtime.of(slot, services, again))

    def plan(self, slot: str, env: Mapping[str, str] | None = None) -> Plan:
        """Return what the parameters say is to run."""
        version, commit = self.params["version"], self.params["commit"]
        folder = slots.release_folder(self.directory, version, commit)
        role = "rehearsal" if slot == slots.REHEARSAL else "canary"
        return Plan(slot, version, commit, folder, env or {}, self.web, self.params["release"], self.runtime.image(folder), role, address=self.address)

    def url(self, slot: str, service: slots.Service) -> str:
        return f"http://{slots.reached_at(slots.LOOPBACK if slot == slots.REHEARSAL else self.address)}:{service.ports[slot]}"

    def claim(self) -> None:
        """Refuse to go on once a newer run was here."""
        if self.params["fence"] is not None:
            claim(self.directory, self.params["fence"])

    def remembered(self, slot: str, held: Mapping[str, Any], env: Mapping[str, str]) -> Plan:
        """Return what a record says was started."""
        if not held:
            raise SluiceError(f"{slot} holds no version that could be started.", "Name one: version and commit.")
        image = held.get("image", "")
        return Plan(slot, held["version"], held["commit"], held["folder"], env, self.web, held.get("release", ""), image, address=self.address)

    def environment(self) -> dict[str, str]:
        path = self.params["env_file"]
        text = read_text(path)
        if text is None:
            raise SluiceError(f"The environment file {path} is not there.", "Set app_env_file to the file with the app's variables, mode 0600.")
        return dotenv.parse(text)

    def targets(self, slot: str, version: str) -> dict[str, tuple[str, Probe]]:
        asserted = {self.params["version_key"]: version}
        return {service.name: (self.url(slot, service), self.probes[service.name].expecting(asserted)) for service in self.web}

    def answers(self, slot: str, version: str) -> bool:
        """Tell whether each service of a slot answers as it should, now."""
        targets = self.targets(slot, version)
        return not probes.observe(targets, passes=1, deadline=2.0, interval=0.1, timeout=2.0)[1]
