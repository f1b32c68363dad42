# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slots as projects of Docker compose: a rendered file over the operator's own, taken down and up, never recreated in place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.docker import handed_on
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import make_folder, write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.runtime_container import ContainerRuntime, Engine
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.slots import Plan, Service
from ansible_collections.sluice.deploy.plugins.module_utils.core.stacks import STOP_SECONDS, compose_text, reset_text, stack_name

_UP_SECONDS = 300.0


class ComposeRuntime(ContainerRuntime):
    """Projects of compose, one a slot.

    :param compose: how compose (version 2.24 or newer) is called, as a list of words.
    :param file: the operator's compose file below the release folder; empty for none.
    """

    def __init__(
        self, app: str, directory: str, services: Sequence[Service], path: str, engine: Engine, compose: Sequence[str] = ("docker", "compose"), file: str = ""
    ) -> None:
        super().__init__(app, directory, services, path, engine)
        self._command, self._own = list(compose), file

    def _start(self, plan: Plan) -> None:
        rendered, reset = self._file(plan.slot, "compose.json"), self._file(plan.slot, "compose.reset.yml")
        make_folder(os.path.join(self.directory, "slots"))
        # Web and workers of a slot are one project, started one after the other: the file always holds both, and only what is wanted is ordered.
        wanted = {service.name: service for service in [*self.services, *plan.services]}
        whole = replace(plan, services=list(wanted.values()))
        write_atomic(rendered, compose_text(self.app, whole, self._engine.network, self._engine.logging), 0o600)
        files = ["--file", rendered]
        if self._own:
            own = os.path.join(plan.folder, self._own)
            if not os.path.exists(own):
                raise SluiceError(f"The release has no {self._own}.", "Correct app_compose_file, or leave it empty.", path=own)
            write_atomic(reset, reset_text(whole), 0o600)
            files = ["--file", own, "--file", reset, "--file", rendered]
        # The developers' own .env must not decide what production runs.
        words = ["--env-file", os.devnull, "--project-directory", plan.folder, *files]
        env, secrets = handed_on(plan.env), tuple(plan.env.values())
        self._compose(plan.slot, *words, "config", "--quiet", env=env, secrets=secrets)
        up = ["up", "--detach", "--no-build", "--no-recreate"]
        self._compose(plan.slot, *words, *up, *(service.name for service in plan.services), env=env, secrets=secrets, timeout=_UP_SECONDS)

    def _clear(self, slot: str) -> None:
        if self._all(slot):
            # Volumes stay: what the operator's own services keep in them is not ours to lose.
            self._compose(slot, "down", "--timeout", str(STOP_SECONDS), "--remove-orphans", timeout=120)
        for kind in ("compose.json", "compose.reset.yml"):
            if os.path.exists(self._file(slot, kind)):
                os.unlink(self._file(slot, kind))

    def _all(self, slot: str) -> list[dict[str, Any]]:
        # Those of the operator's own services have no label of ours.
        return self._docker.containers(f"com.docker.compose.project={stack_name(self.app, slot)}")

    def _compose(self, slot: str, *words: str, **more: Any) -> None:
        self._docker.call([*self._command, "--project-name", stack_name(self.app, slot)], *words, **more)
