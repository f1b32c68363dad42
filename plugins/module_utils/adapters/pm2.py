# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PM2, by its command line and, to look, by its socket: an explicit home, a clean environment, and JSON found behind whatever is printed before it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import pm2_socket
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import read_text
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.process import run
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError


@dataclass(frozen=True)
class Process:
    """One process as PM2 sees it; ``status`` alone proves nothing: a process that never listens is online too (M-020)."""

    name: str
    pid: int
    status: str
    restarts: int
    exit_code: int
    folder: str


class Pm2:
    """One PM2 daemon.

    :param command: how it is called, e.g. ``["/usr/bin/node", "/opt/pm2/bin/pm2"]``.
    :param home: ``PM2_HOME``, always explicit: any call without it starts a daemon in the caller's home.
    :param path: folders put before PATH, so that ``node`` is the one meant.
    """

    def __init__(self, command: Sequence[str], home: str, path: str = "") -> None:
        self._command = list(command)
        self._home = home
        self._known: list[Process] | None = None
        self._env = {"PM2_HOME": home, "PM2_DISABLE_VERSION_CHECK": "true", "PATH": os.pathsep.join(filter(None, (path, os.environ.get("PATH", os.defpath))))}

    def _run(self, *words: str, timeout: float = 60.0, ok: Sequence[int] = (0,)) -> str:
        return run([*self._command, *words], timeout=timeout, env=self._env, ok=ok).stdout

    def processes(self, again: bool = False) -> list[Process]:
        """Return every process of this daemon; none when there is no daemon.

        An answer holds until this object changes something, or ``again`` is set.
        """
        if self._known is None or again:
            self._known = self._list()
        return self._known

    def _list(self) -> list[Process]:
        try:
            entries = pm2_socket.call(self._home, "getMonitorData")
        except (FileNotFoundError, ConnectionRefusedError):
            return []  # no daemon, so no process: to look is no reason to start one
        except (OSError, ValueError):
            entries = self._listed()  # a daemon that speaks otherwise; its own command line knows how
        return [
            Process(
                entry["name"],
                int(entry.get("pid") or 0),
                entry["pm2_env"].get("status", ""),
                int(entry["pm2_env"].get("restart_time", 0)),
                int(entry["pm2_env"].get("exit_code") or 0),
                entry["pm2_env"].get("pm_cwd", ""),
            )
            for entry in entries
        ]

    def _listed(self) -> Any:
        out = self._run("jlist")
        # Without a daemon, or with another version of it, messages stand before the JSON.
        found = next((text for text in reversed(out.splitlines()) if text.startswith("[{") or text.strip() == "[]"), None)
        if found is None:
            raise SluiceError("PM2 did not list its processes as JSON.", "Run `pm2 jlist` with the same PM2_HOME and look.", stdout=out[-500:])
        return json.loads(found)

    def start(self, ecosystem: str) -> None:
        """Start what a process file names. The exit code says only that PM2 took the order."""
        self._known = None
        self._run("start", ecosystem, timeout=120.0)

    def delete(self, names: Sequence[str]) -> None:
        """End processes by name and forget them; names it does not know are no error."""
        if names:
            self._known = None
            self._run("delete", *names, timeout=60.0, ok=(0, 1))

    def save(self) -> None:
        """Write the list that comes back after a reboot; it holds environments, so only the daemon's user may read it, who need not be this one."""
        self._run("save", "--force")
        owner = os.stat(self._home)
        dump = os.path.join(self._home, "dump.pm2")
        for path in (dump, dump + ".bak"):
            if os.path.exists(path):
                os.chmod(path, 0o600)
                if os.geteuid() == 0:
                    os.chown(path, owner.st_uid, owner.st_gid)

    def saved_names(self) -> set[str]:
        """Return the names that come back after a reboot."""
        try:
            return {entry["name"] for entry in json.loads(read_text(os.path.join(self._home, "dump.pm2")) or "[]")}
        except (ValueError, KeyError, TypeError):
            return set()


def tail(path: str, lines: int = 12, start: int = 0) -> str:
    """Return the last lines of a log written since byte ``start``."""
    try:
        with open(path, "rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(start, stream.tell() - 16384))
            return "\n".join(stream.read().decode("utf-8", "replace").splitlines()[-lines:])
    except OSError:
        return ""


def size(path: str) -> int:
    """Return a file's size in bytes; 0 when it is not there."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0
