# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slots as processes of PM2: one process file a slot, deleted and started, never reloaded.

A reload of a broken version takes every worker down and still exits 0 (M-019).
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Sequence
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import make_folder, write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.pm2 import Pm2, size, tail
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.process import run
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.runtime import Runtime
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.slots import REHEARSAL, SLOTS, Plan, Process, Service, process_name


class Pm2Runtime(Runtime):
    """PM2's daemon of the app.

    :param command: how PM2 is called, as a list of words.
    :param home: ``PM2_HOME``; ``.pm2`` below the app's folder when empty.
    """

    def __init__(self, app: str, directory: str, services: Sequence[Service], path: str = "", command: Sequence[str] = ("pm2",), home: str = "") -> None:
        super().__init__(app, directory, services, path)
        self._pm2 = Pm2(command, home or os.path.join(directory, ".pm2"), path)
        self._logs = os.path.join(directory, "logs")
        self._names = {process_name(app, service.name, slot): (service.name, slot) for service in services for slot in (*SLOTS, REHEARSAL)}
        self._plan: Plan | None = None
        self._marks: dict[str, int] = {}

    def processes(self, again: bool = False) -> list[Process]:
        known = (process for process in self._pm2.processes(again) if process.name in self._names)
        return [Process(*self._names[process.name], process.status == "online", process.restarts, process.exit_code) for process in known]

    def start(self, plan: Plan) -> None:
        make_folder(self._logs)
        make_folder(os.path.join(self.directory, "slots"))
        path = self._file(plan.slot, plan.services)
        self._plan = plan
        self._marks = {name: size(self._error_log(name)) for name in self._of(plan.slot, plan.services)}
        write_atomic(path, json.dumps(ecosystem(self.app, plan, self._logs)), 0o600)
        self._pm2.start(path)

    def stop(self, slot: str, services: Sequence[Service]) -> None:
        known = {process.name for process in self._pm2.processes()}
        self._pm2.delete([name for name in self._of(slot, services) if name in known])
        for path in {self._file(slot, [service]) for service in services}:
            if os.path.exists(path):
                os.unlink(path)

    def logs(self, slot: str) -> str:
        said = "\n".join(filter(None, (tail(self._error_log(name), start=self._marks.get(name, 0)) for name in self._of(slot, self.services))))
        return said or self._last_words(slot)

    def kept(self, slot: str) -> bool:
        running = {process_name(self.app, process.service, slot) for process in self.of(slot, self.services)}
        return bool(running) and running == self._pm2.saved_names() & set(self._of(slot, self.services))

    def keep(self, slot: str) -> None:  # PM2 saves all that runs
        self._pm2.save()

    def _of(self, slot: str, services: Sequence[Service]) -> list[str]:
        return [process_name(self.app, service.name, slot) for service in services]

    def _file(self, slot: str, services: Sequence[Service]) -> str:
        """Return the process file of services of one kind."""
        return os.path.join(self.directory, "slots", f"{slot}.{services[0].kind}.ecosystem.json")

    def _error_log(self, name: str) -> str:
        return os.path.join(self._logs, f"{name}.err.log")

    def _last_words(self, slot: str) -> str:
        """Return what a process that ends by itself says on stderr; in cluster mode PM2 loses what is written right before the end."""
        plan = self._plan
        if plan is None or plan.slot != slot or not any(process.exit_code for process in self.of(slot, plan.services, again=True)):
            return ""
        service = plan.services[0]
        words = [*filter(None, (interpreter(plan, service) or "node",)), service.entry, *service.args]
        try:
            return run(words, timeout=5.0, env={**plan.environment(service), "PATH": self.path}, cwd=plan.folder, ok=range(256)).stderr[-2000:]
        except SluiceError:
            return ""


def interpreter(plan: Plan, service: Service) -> str:
    """Return the absolute program that runs a service's entry; empty for the runtime's own ``node``."""
    return posixpath.join(plan.folder, service.interpreter) if service.interpreter else ""


def ecosystem(app: str, plan: Plan, logs: str) -> dict[str, Any]:
    """Return PM2's process file for one slot, with absolute paths."""
    return {"apps": [_process(app, plan, service, posixpath.join(logs, process_name(app, service.name, plan.slot))) for service in plan.services]}


def _process(app: str, plan: Plan, service: Service, log: str) -> dict[str, Any]:
    program = interpreter(plan, service)
    return {
        "name": process_name(app, service.name, plan.slot),
        "cwd": plan.folder,
        "script": posixpath.join(plan.folder, service.entry),
        **({"args": list(service.args)} if service.args else {}),
        **({"interpreter": program} if program else {}),
        "exec_mode": "fork" if program else service.mode,
        "instances": service.instances,
        "env": plan.environment(service),
        # Only a Node process can tell PM2 that it is ready.
        "wait_ready": not program,
        "listen_timeout": 10000,
        "kill_timeout": 8000,
        "max_restarts": 3,
        "min_uptime": 2000,
        "merge_logs": True,
        "out_file": log + ".out.log",
        "error_file": log + ".err.log",
        "time": True,
    }
