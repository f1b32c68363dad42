# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slots as units of systemd: one unit for each service in each slot, and nothing to install."""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import time
from collections.abc import Mapping, Sequence

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import make_folder, write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.process import run
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.runtime import Runtime
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.slots import REHEARSAL, SLOTS, Plan, Process, Service, process_name

UNITS = "/etc/systemd/system"
_SPECIAL = re.compile(r'["\\$`]')
_PROPERTIES = ("LoadState", "ActiveState", "NRestarts", "ExecMainStatus", "UnitFileState")


class SystemdRuntime(Runtime):
    """The system's own service manager; needs root.

    :param user: user the processes run as; empty for the one the module runs as.
    """

    def __init__(self, app: str, directory: str, services: Sequence[Service], path: str = "", user: str = "") -> None:
        super().__init__(app, directory, services, path)
        self._user = user
        self._known: list[Process] | None = None
        self._since: dict[str, float] = {}

    def processes(self, again: bool = False) -> list[Process]:
        if self._known is None or again:
            self._known = [
                Process(service, slot, shown["ActiveState"] == "active", int(shown["NRestarts"] or 0), int(shown["ExecMainStatus"] or 0))
                for (service, slot), shown in self._show().items()
                if shown["LoadState"] == "loaded"
            ]
        return self._known

    def start(self, plan: Plan) -> None:
        self._known = None
        make_folder(os.path.join(self.directory, "slots"))
        for service in plan.services:
            program = posixpath.join(plan.folder, service.interpreter) if service.interpreter else shutil.which("node", path=self.path)
            if not program:
                raise SluiceError(
                    f"There is no node on this host to run {service.entry} with.",
                    "Install Node, name its folder in slot_path, or set the service's interpreter.",
                )
            variables = {**plan.environment(service), "PATH": self.path}
            write_atomic(self._env_file(service, plan.slot), env_file(variables), 0o600)
            text = unit(self.app, plan, service, program, self._env_file(service, plan.slot), self._user)
            write_atomic(self._unit_file(service, plan.slot), text, 0o644)
        self._since[plan.slot] = time.time()
        self._systemctl("daemon-reload")
        names = [self._unit(service.name, plan.slot) for service in plan.services]
        self._systemctl("reset-failed", *names, ok=(0, 1))
        self._systemctl("start", "--no-block", *names)

    def stop(self, slot: str, services: Sequence[Service]) -> None:
        there = [service for service in services if os.path.exists(self._unit_file(service, slot))]
        if not there:
            return
        self._known = None
        names = [self._unit(service.name, slot) for service in there]
        self._systemctl("stop", *names, ok=(0, 5))
        self._systemctl("disable", *names, ok=(0, 1))
        for service in there:
            for path in (self._unit_file(service, slot), self._env_file(service, slot)):
                if os.path.exists(path):
                    os.unlink(path)
        self._systemctl("daemon-reload")
        self._systemctl("reset-failed", *names, ok=(0, 1))

    def logs(self, slot: str) -> str:
        units = [word for service in self.services for word in ("--unit", self._unit(service.name, slot))]
        since = ["--since", f"@{self._since[slot]:.0f}"] if slot in self._since else []
        return run(["journalctl", "--no-pager", "--output=cat", "--lines=24", *units, *since], timeout=30, ok=(0, 1)).stdout.strip()

    def kept(self, slot: str) -> bool:
        running, shown = {process.service for process in self.of(slot, self.services)}, self._show()
        return bool(running) and all(shown[service, slot]["UnitFileState"] == "enabled" for service in running)

    def keep(self, slot: str) -> None:
        running = {process.service for process in self.of(slot, self.services)}
        self._systemctl("enable", *(self._unit(service, slot) for service in sorted(running)))

    def _show(self) -> dict[tuple[str, str], dict[str, str]]:
        keys = [(service.name, slot) for service in self.services for slot in (*SLOTS, REHEARSAL)]
        out = self._systemctl("show", f"--property={','.join(_PROPERTIES)}", *(self._unit(service, slot) for service, slot in keys))
        blocks = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in out.strip().split("\n\n")]
        return {key: {name: block.get(name, "") for name in _PROPERTIES} for key, block in zip(keys, blocks)}

    def _systemctl(self, *words: str, ok: Sequence[int] = (0,)) -> str:
        return run(["systemctl", *words], timeout=60, ok=ok).stdout

    def _unit(self, service: str, slot: str) -> str:
        return process_name(self.app, service, slot) + ".service"

    def _unit_file(self, service: Service, slot: str) -> str:
        return os.path.join(UNITS, self._unit(service.name, slot))

    def _env_file(self, service: Service, slot: str) -> str:
        return os.path.join(self.directory, "slots", f"{slot}.{service.name}.env")


def env_file(variables: Mapping[str, str]) -> str:
    """Return variables as systemd.exec(5) reads an EnvironmentFile: quoted, so that every value is taken as it is."""
    return "".join(f'{name}="{_SPECIAL.sub(_escaped, value)}"\n' for name, value in sorted(variables.items()))


def _escaped(match: re.Match[str]) -> str:
    return "\\" + match.group()


def unit(app: str, plan: Plan, service: Service, program: str, variables: str, user: str) -> str:
    """Return the unit of one service in one slot. It names no secret: those are in the file ``variables``, mode 0600, read by systemd itself."""
    words = [program, posixpath.join(plan.folder, service.entry), *service.args]
    return "\n".join(
        [
            "[Unit]",
            f"Description={app} {service.name} {plan.version} ({plan.slot})",
            "After=network-online.target",
            "Wants=network-online.target",
            "StartLimitIntervalSec=60",
            "StartLimitBurst=4",
            "",
            "[Service]",
            "Type=exec",
            *([f"User={user}"] if user else []),
            f"WorkingDirectory={plan.folder}",
            f"EnvironmentFile={variables}",
            f"ExecStart={' '.join(map(_word, words))}",
            "Restart=on-failure",
            # Long enough that a version that ends at once is seen with its exit code.
            "RestartSec=2",
            "TimeoutStopSec=8",
            "NoNewPrivileges=yes",
            "PrivateTmp=yes",
            "",
            "[Install]",
            "WantedBy=multi-user.target",
            "",
        ]
    )


def _word(word: str) -> str:
    """Quote a word of ExecStart: systemd expands % and $ even in quotes."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'
