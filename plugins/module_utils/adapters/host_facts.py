# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of a host before a release: file systems, processes of a slot, clock, versions, time zone and a pending reboot."""

from __future__ import annotations

import ctypes
import glob
import json
import os
import pwd
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from typing import Optional

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import read_text
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.process import run
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.host_rules import Clock, Daemon, Running, Volume, limit_of, memory_of

_UNSYNCHRONISED = 0x40
_DAEMON = re.compile(r"^PM2 v?(\S+): God Daemon(?: \(([^)]*)|)")
_HERE = (0, 1)


def tree(root: str) -> tuple[int, int]:
    """Return how many bytes on disk and how many files a folder holds; what goes away while it is counted is not counted."""
    size = files = 0
    for folder, names, others in os.walk(root):
        for name in (*names, *others):
            try:
                found = os.lstat(os.path.join(folder, name))
            except OSError:
                continue
            size, files = size + found.st_blocks * 512, files + 1
    return size, files


def volume(path: str) -> tuple[int, Volume]:
    """Return the file system a folder lies on, or will, and its number.

    :raises SluiceError: it cannot be read.
    """
    path = os.path.abspath(path)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    try:
        found = os.statvfs(path)
        number = os.stat(path).st_dev
    except OSError as error:
        raise SluiceError(f"The file system of {path} could not be read: {error.strerror}.", "Check the become user.") from error
    return number, Volume(path, found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize, found.f_files, found.f_favail)


class Processes:
    """The processes of this host.

    :param proc: where the kernel shows them.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc

    def of_pm2(self, home: str, names: Sequence[str]) -> list[Running]:
        """Return the running processes of some PM2 names, with those they started; PM2 is not asked, for that starts a daemon where none runs."""
        first = [int(read_text(path) or 0) for name in names for path in glob.glob(os.path.join(glob.escape(home), "pids", f"{glob.escape(name)}-*.pid"))]
        parents, wanted = dict(self._parents()), set(first)
        while True:
            more = {pid for pid, parent in parents.items() if parent in wanted} - wanted
            if not more:
                break
            wanted |= more
        return [found for found in map(self._running, sorted(wanted & set(parents))) if found]

    def daemons(self, home: str) -> list[Daemon]:
        """Return the PM2 daemons of a home: those whose title names it, and the one its pid file names, as a long path is cut off in a title."""
        noted = (read_text(os.path.join(home, "pm2.pid")) or "").strip()
        found = []
        for pid in self._pids():
            named = _DAEMON.match(self._read(pid, "cmdline").replace("\0", " "))
            if named and (str(pid) == noted or os.path.realpath((named.group(2) or "").rstrip()) == os.path.realpath(home)):
                found.append(Daemon(pid, self._user(pid), named.group(1)))
        return found

    def _running(self, pid: int) -> Optional[Running]:
        status, limits = self._read(pid, "status"), self._read(pid, "limits")
        if not status:
            return None
        try:
            held: Optional[int] = len(os.listdir(f"{self._proc}/{pid}/fd"))
        except OSError:
            held = None
        return Running(pid, memory_of(status), limit_of(limits), held, self._user(pid))

    def _pids(self) -> list[int]:
        return [int(name) for name in os.listdir(self._proc) if name.isdecimal()]

    def _parents(self) -> Iterator[tuple[int, int]]:
        for pid in self._pids():
            # The name of a program may hold spaces and brackets; the parent is the second word behind the last bracket.
            words = self._read(pid, "stat").rpartition(")")[2].split()
            if len(words) > 1 and words[0] != "Z":
                yield pid, int(words[1])

    def _user(self, pid: int) -> str:
        try:
            return user_of(os.stat(f"{self._proc}/{pid}").st_uid)
        except OSError:
            return ""

    def _read(self, pid: int, name: str) -> str:
        try:
            with open(f"{self._proc}/{pid}/{name}", encoding="utf-8", errors="replace") as stream:
                return stream.read()
        except OSError:
            return ""


def user_of(number: int) -> str:
    """Return a user's name, or the number of one that has none."""
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2), with room behind it for what later kernels add."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 400),
    ]


def clock() -> Optional[Clock]:
    """Return what the kernel says of its clock; None where it does not (a sandbox may forbid the question)."""
    asked = _Timex()
    try:
        # Without a mode nothing is set.
        said = ctypes.CDLL(None).adjtimex(ctypes.byref(asked))
    except (OSError, AttributeError):
        return None
    return None if said < 0 else Clock(not asked.status & _UNSYNCHRONISED, asked.maxerror / 1e6)


def time_zone(root: str = "/") -> str:
    """Return the name of the host's time zone; empty when nothing names it."""
    name = os.path.realpath(os.path.join(root, "etc/localtime")).partition("/zoneinfo/")[2]
    return name or (read_text(os.path.join(root, "etc/timezone")) or "").strip()


def reboot(root: str = "/") -> tuple[Optional[bool], list[str]]:
    """Return whether the host waits for a reboot and for which packages; None when nothing tells."""
    if os.path.exists(os.path.join(root, "run/reboot-required")):
        return True, sorted(set((read_text(os.path.join(root, "run/reboot-required.pkgs")) or "").split()))
    if os.path.exists(os.path.join(root, "etc/debian_version")):
        return False, []
    asked = shutil.which("needs-restarting") if root == "/" else None
    return (run([asked, "-r"], timeout=30, ok=_HERE).rc == 1 if asked else None), []


def version(name: str, command: Sequence[str], path: str = "") -> str:
    """Return what a program says of its version.

    :param path: folders that are looked through before PATH.
    :raises SluiceError: it is not there, or does not answer.
    """
    if name == "pm2":
        return _pm2(command, path)
    words = [*command, "-v" if name == "nginx" else "--version"]
    said = run([_found(words[0], path), *words[1:]], timeout=10)
    return said.stdout.strip() or said.stderr.strip()


def _pm2(command: Sequence[str], path: str) -> str:
    """Return the version that PM2's package names: asking PM2 itself would start a daemon."""
    folder = os.path.dirname(os.path.realpath(_found(command[-1], path)))
    while folder != os.path.dirname(folder):
        try:
            package = json.loads(read_text(os.path.join(folder, "package.json")) or "{}")
        except ValueError:
            package = {}
        if isinstance(package, dict) and package.get("name") == "pm2":
            return str(package.get("version", ""))
        folder = os.path.dirname(folder)
    return ""


def _found(program: str, path: str) -> str:
    found = shutil.which(program, path=os.pathsep.join(filter(None, (path, os.environ.get("PATH", os.defpath)))))
    if not found and not (os.path.isfile(program) and stat.S_ISREG(os.stat(program).st_mode)):
        raise SluiceError(f"{program} is not there.", "Install it, or give its path.")
    return found or program
