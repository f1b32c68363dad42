# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slots as stacks of a Docker swarm: one stack a slot, removed and deployed, never updated in place."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Sequence
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import make_folder, write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.runtime_container import ContainerRuntime
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.slots import REHEARSAL, SLOTS, Plan, Process, Service
from ansible_collections.sluice.deploy.plugins.module_utils.core.stacks import stack_name, stack_text

_GONE_SECONDS = 60.0
_ENDED = ("Complete", "Failed", "Rejected")
_NO_ERROR = "by itself, or by the swarm because its HEALTHCHECK says it is unhealthy"
_EXIT = re.compile(r"non-zero exit \((\d+)\)")


class SwarmRuntime(ContainerRuntime):
    """Stacks of the swarm that this host manages."""

    def _start(self, plan: Plan) -> None:
        if self._docker.run("info", "--format", "{{.Swarm.ControlAvailable}}").stdout.strip() != "true":
            raise SluiceError("This host manages no swarm.", "Make it a manager (`docker swarm init` or `join`), or set app_runtime to compose or docker.")
        path = self._file(plan.slot, "stack.json")
        make_folder(os.path.join(self.directory, "slots"))
        write_atomic(path, stack_text(self.app, plan, self._engine.network, self._engine.logging), 0o600)
        try:
            with self._images.signed_in() as words:
                deploy = ["stack", "deploy", "--resolve-image", "never", *(["--with-registry-auth"] if words else []), "--compose-file", path]
                self._docker.run(*words, *deploy, *self._detached(), stack_name(self.app, plan.slot), secrets=tuple(plan.env.values()), timeout=120)
        finally:
            # The swarm has taken the values over.
            os.unlink(path)

    def stop(self, slot: str, services: Sequence[Service]) -> None:
        self._known = None
        stack = stack_name(self.app, slot)
        if not self._docker.installed or not self._left(slot, []):
            return
        known = set(self._docker.run("service", "ls", "--format", "{{.Name}}", *_filter(slot, self.app), ok=(0, 1)).stdout.split())
        mine = {f"{stack}_{service.name}" for service in services} & known
        if known - mine:
            if mine:
                self._docker.run("service", "rm", *sorted(mine))
                self._gone(slot, sorted(mine))
        else:
            self._docker.run("stack", "rm", stack, ok=(0, 1), timeout=120)
            self._gone(slot, [])

    def _gone(self, slot: str, services: Sequence[str]) -> None:
        deadline = time.monotonic() + _GONE_SECONDS
        while left := self._left(slot, services):
            if time.monotonic() > deadline:
                raise SluiceError(f"{', '.join(left)} of {slot} was still there {_GONE_SECONDS:g} s after it was removed.", "See `docker ps -a`.")
            time.sleep(0.2)

    def _clear(self, slot: str) -> None:
        self.stop(slot, self.services)

    def processes(self, again: bool = False) -> list[Process]:
        if self._known is None or again:
            self._known = [task for slot in (*SLOTS, REHEARSAL) for task in self._tasks(slot)]
        return [process for slot in (*SLOTS, REHEARSAL) for process in _processes(slot, [task for task in self._known if task["slot"] == slot])]

    def probe(self, slot: str, services: Sequence[Service]) -> str:
        # A container that is unhealthy is ended by the swarm itself, so it counts as a restart.
        self.processes(again=True)
        names = {service.name for service in services}
        mine = [task for task in self._known or () if task["slot"] == slot and task["service"] in names]
        ended = next((task for task in mine if task["ended"]), None)
        return f"{ended['service']} ended: {ended['Error'] or _NO_ERROR}" if ended else ""

    def logs(self, slot: str) -> str:
        services = sorted({task["service"] for task in self._tasks(slot)})
        said = [self._docker.run("service", "logs", "--raw", "--tail", "24", f"{stack_name(self.app, slot)}_{name}", ok=(0, 1)) for name in services]
        return "\n".join(filter(None, (result.stderr.strip() or result.stdout.strip() for result in said)))

    def kept(self, slot: str) -> bool:
        return True

    def keep(self, slot: str) -> None:
        """Do nothing: a swarm starts its services again by itself."""

    def _tasks(self, slot: str) -> list[dict[str, Any]]:
        """Return the tasks of a slot's stack, those that ended included."""
        if not self._docker.installed:
            return []
        stack = stack_name(self.app, slot)
        # It ends with 1 when there is no such stack, or no swarm.
        said = self._docker.run("stack", "ps", "--no-trunc", "--format", "{{json .}}", stack, ok=(0, 1)).stdout
        return [_task(json.loads(line), stack, slot) for line in said.splitlines()]

    def _left(self, slot: str, services: Sequence[str]) -> list[str]:
        """Return what is left of some services, or of the whole stack when none is named."""
        mine = _filter(slot, self.app)
        containers = self._docker.run("ps", "--all", "--format", "{{.Names}}", *mine).stdout.split()
        named = self._docker.run("service", "ls", "--format", "{{.Name}}", *mine, ok=(0, 1)).stdout.split()
        if services:
            return [name for name in (*named, *containers) if name in services or name.startswith(tuple(f"{service}." for service in services))]
        return [*named, *containers, *self._docker.run("network", "ls", "--format", "{{.Name}}", *mine).stdout.split()]

    def _detached(self) -> list[str]:
        """Return the flag that newer command lines want said; older ones do not know it, and do so anyway."""
        major = self._docker.run("version", "--format", "{{.Client.Version}}").stdout.split(".")[0]
        return ["--detach=true"] if major.isdecimal() and int(major) >= 26 else []


def _filter(slot: str, app: str) -> list[str]:
    return ["--filter", f"label=com.docker.stack.namespace={stack_name(app, slot)}"]


def _task(shown: dict[str, Any], stack: str, slot: str) -> dict[str, Any]:
    name = shown["Name"].rpartition(".")[0][len(stack) + 1 :]
    # It is "starting" until the image's HEALTHCHECK has passed once.
    state = shown["CurrentState"]
    return {**shown, "slot": slot, "service": name, "running": state.startswith(("Running", "Starting")), "ended": state.startswith(_ENDED)}


def _processes(slot: str, tasks: list[dict[str, Any]]) -> list[Process]:
    """Return a process for each place of a service: the task that holds it now, and how many ended there before."""
    found = []
    for name in sorted({task["Name"] for task in tasks}):
        mine = [task for task in tasks if task["Name"] == name]
        failed = [task for task in mine if task["ended"]]
        code = _EXIT.search(failed[0]["Error"]) if failed else None
        restarts = len(failed) - (0 if any(task["running"] for task in mine) else 1)
        found.append(Process(mine[0]["service"], slot, any(task["running"] for task in mine), max(0, restarts), int(code.group(1)) if code else 0))
    return found
