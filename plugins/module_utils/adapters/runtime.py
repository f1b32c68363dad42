# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every runtime can do: the one contract that a slot is started, proven and ended by, whatever runs its processes."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence

from ansible_collections.sluice.deploy.plugins.module_utils.core.slots import Plan, Process, Service


class Runtime(ABC):
    """One app's processes on one host.

    :param app: name of the app; with service and slot it is in the name of everything a runtime makes.
    :param directory: the app's folder, with ``releases/``, ``slots/`` and ``logs/``.
    :param services: the app's services.
    :param path: folder put before PATH, so that ``node`` is the one meant; empty for none.

    Every method raises SluiceError when the runtime cannot be asked or refuses.
    """

    def __init__(self, app: str, directory: str, services: Sequence[Service], path: str = "") -> None:
        self.app = app
        self.directory = directory
        self.services = list(services)
        self.path = os.pathsep.join(filter(None, (path, os.environ.get("PATH", os.defpath))))

    def prepare(self, plan: Plan, check: bool = False) -> list[str]:
        """Have what a start needs beside the release folder, such as an image; return what was done, in words.

        Called with the release built, before anything of it runs; does nothing the second time.
        """
        return []

    def image(self, folder: str) -> str:
        """Return the image that the release in ``folder`` is started from; empty for a runtime that starts its files."""
        return ""

    @abstractmethod
    def start(self, plan: Plan) -> None:
        """Order the services of a plan, none of which runs. Returns when the order is taken, which proves nothing."""

    @abstractmethod
    def processes(self, again: bool = False) -> list[Process]:
        """List the app's processes on this host, of all slots, those that ended included.

        An answer holds until this object changes something, or ``again`` is set: asking can take long.
        """

    def of(self, slot: str, services: Sequence[Service], again: bool = False) -> list[Process]:
        """List the processes of some services in one slot."""
        names = {service.name for service in services}
        return [process for process in self.processes(again) if process.slot == slot and process.service in names]

    def probe(self, slot: str, services: Sequence[Service]) -> str:
        """Say why services that were started cannot become healthy any more; empty while they still may."""
        mine = self.of(slot, services, again=True)
        broken = next((process for process in mine if process.restarts or (process.exit_code and not process.running)), None)
        return f"{broken.service} ended with exit code {broken.exit_code} and was restarted {broken.restarts} times" if broken else ""

    @abstractmethod
    def logs(self, slot: str) -> str:
        """Return the last lines that a slot's processes said on stderr since they were started."""

    @abstractmethod
    def stop(self, slot: str, services: Sequence[Service]) -> None:
        """End processes of a slot, gracefully at first, and forget them. What does not run is no error."""

    @abstractmethod
    def kept(self, slot: str) -> bool:
        """Tell whether the processes that run in the slot come back after a reboot, and no others of it."""

    @abstractmethod
    def keep(self, slot: str) -> None:
        """Let what runs in the slot come back after a reboot."""

    def remove(self, folder: str) -> None:  # noqa: B027
        """Take away what ``prepare`` made for the release in ``folder``; the folder itself is not the runtime's."""
