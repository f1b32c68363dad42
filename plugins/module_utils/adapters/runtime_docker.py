# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slots as plain containers: one for each service in each slot, removed and run, never restarted in place."""

from __future__ import annotations

import os

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.docker import env_file
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import make_folder, write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.runtime_container import ContainerRuntime, Engine
from ansible_collections.sluice.deploy.plugins.module_utils.core.slots import Plan, Service, process_name
from ansible_collections.sluice.deploy.plugins.module_utils.core.stacks import STOP_SECONDS, labels


class DockerRuntime(ContainerRuntime):
    """Containers that Docker's own command line runs."""

    def _start(self, plan: Plan) -> None:
        files = {service.name: env_file(plan.environment(service, self._engine.contained)) for service in plan.services}
        make_folder(os.path.join(self.directory, "slots"))
        for service in plan.services:
            path = self._file(plan.slot, f"{service.name}.env")
            write_atomic(path, files[service.name], 0o600)
            try:
                for number in range(1, service.instances + 1):
                    self._docker.run(*run_words(self.app, plan, service, self._engine, path, number), secrets=tuple(plan.env.values()))
            finally:
                # The engine has taken the values over, and keeps them for a restart.
                os.unlink(path)

    def _clear(self, slot: str) -> None:
        # Also one that a cut run left half made.
        self._end(self._held(slot))


def run_words(app: str, plan: Plan, service: Service, engine: Engine, variables: str, number: int = 1) -> list[str]:
    """Return the words of ``docker run``. They name no secret: those are in the file ``variables``.

    :param number: which instance of a worker; others have one.
    """
    name = process_name(app, service.name, plan.slot) + (f"-{number}" if number > 1 else "")
    network = ["--network", engine.network] if engine.network else []
    outside = f"[{plan.host}]" if ":" in plan.host else plan.host
    published = [word for port in [service.ports.get(plan.slot)] if port for word in ("--publish", f"{outside}:{port}:{plan.inside(service)}")]
    reached = [*published, "--add-host", "host.docker.internal:host-gateway"] if engine.contained else []
    shared = ["--mount", f"type=bind,source={plan.heartbeats},target={plan.heartbeats}"] if service.kind == "worker" else []
    logged = [word for key, value in engine.log_options.items() for word in ("--log-opt", f"{key}={value}")]
    labelled = [word for key, value in labels(app, plan, service).items() for word in ("--label", f"{key}={value}")]
    return [
        "run",
        "--detach",
        "--pull=never",
        "--init",
        *("--name", name),
        *("--env-file", variables),
        *("--stop-timeout", str(STOP_SECONDS)),
        *("--log-driver", engine.log_driver),
        *logged,
        *network,
        *reached,
        *shared,
        *labelled,
        plan.image,
        *service.args,
    ]
