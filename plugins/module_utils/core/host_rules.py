# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host must have for a second slot beside the live one: rules over what was read of it (C56; S3-177, S3-246 to S3-248, M-031)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.gates import comma, failed, listed, passed, plural, unknown, warned
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate
from ansible_collections.sluice.deploy.plugins.module_utils.core.words import percent

MIB = 1024 * 1024
FULL = 0.9  # S3-248: a file system above it is worth a look
BUSY = 0.8  # S3-246
BUILD_PEAK = 1.5  # a build leaves half as much again on its way, before what it needs only for itself is pruned
MEMORY_MARGIN = 1.25  # a fresh process takes more while it starts than the old one does now
SLOW_WAY = 45.0  # seconds that a module may take to a busy host, which look as if its clock were ahead
_NOTHING_RUNS = "nothing of the live slot runs on this host"
# Oldest versions whose behaviour the roles rely on; what is not named is not asked for.
MINIMUM = {"nginx": "1.18", "node": "18", "pm2": "5", "psql": "12"}
_INSTALL = {
    "nginx": "Install a newer nginx, or name the right one in edge_nginx_command.",
    "node": "Install a newer Node.js, or put its folder first in slot_path.",
    "pm2": "Install a newer PM2, or name the right one in slot_pm2_command.",
    "psql": "Install newer PostgreSQL clients, or name their folder in backup_client_directory.",
}


@dataclass(frozen=True)
class Need:
    """Something that a release will write.

    :param volume: number of the file system it lies on.
    :param size: bytes; None when nobody can tell.
    :param files: how many files it makes.
    """

    what: str
    volume: int
    size: Optional[int]
    files: int = 1


@dataclass(frozen=True)
class Volume:
    """A file system: a folder on it, and what an unprivileged user has there, in bytes and files. No files at all: it does not count them."""

    path: str
    total: int
    free: int
    files: int
    free_files: int


@dataclass(frozen=True)
class Running:
    """One process of the live slot: bytes of memory, the soft limit of open files (None: unlimited), open files (None: not ours to see), and its user."""

    pid: int
    memory: int
    open_limit: Optional[int]
    open_now: Optional[int]
    user: str


@dataclass(frozen=True)
class Clock:
    """What the kernel says of its clock: whether somebody keeps it, and by how many seconds it may be wrong at most."""

    kept: bool
    error: float


@dataclass(frozen=True)
class Daemon:
    """A PM2 daemon for the wanted home: its process, user and version."""

    pid: int
    user: str
    version: str


def disk(volume: Volume, needs: Sequence[Need]) -> list[Gate]:
    """Judge one file system against all that a release will write to it."""
    name, missing = f"disk forecast {volume.path}", [need.what for need in needs if need.size is None]
    wanted = sum(need.size or 0 for need in needs)
    parts = " + ".join(f"{need.what} {_mib(need.size)}" for need in needs if need.size is not None) or "nothing known"
    sentence = f"{parts} = {_mib(wanted)}; {_mib(volume.free)} free in {volume.path}"
    more = {"value": volume.free, "limit": wanted, "sample": len(needs)}
    if wanted > volume.free:
        said = failed(name, sentence, "Free some space, lower slot_keep, or move the folder to a larger file system.", **more)
    elif missing:
        said = unknown(name, f"{sentence}; not known: {comma(missing)}", "Give preflight_host_bytes for what is not known, e.g. {backup: 2000000000}.", **more)
    elif volume.total and 1 - (volume.free - wanted) / volume.total > FULL:
        left = percent(max(0.0, (volume.free - wanted) / volume.total))
        said = warned(name, f"{sentence}; {left} would be left", "Free some space soon.", **more)
    else:
        said = passed(name, sentence, **more)
    return [said, _inodes(volume, sum(need.files for need in needs))]


def _inodes(volume: Volume, wanted: int) -> Gate:
    name = f"inodes {volume.path}"
    if not volume.files:
        return passed(name, f"the file system of {volume.path} does not count files")
    sentence = f"{wanted:,} files to come; {volume.free_files:,} of {volume.files:,} free in {volume.path}"
    if wanted > volume.free_files:
        return failed(name, sentence, "Remove files nobody needs (old releases, caches, sessions).", value=volume.free_files, limit=wanted)
    if 1 - (volume.free_files - wanted) / volume.files > FULL:
        return warned(name, sentence, "Remove files nobody needs soon.", value=volume.free_files, limit=wanted)
    return passed(name, sentence, value=volume.free_files, limit=wanted)


def memory(meminfo: str, running: Sequence[Running], beside: str = "slot") -> Gate:
    """Judge whether what a release starts beside the live slot fits.

    :param running: the processes of the live slot that it has one more of.
    :param beside: ``slot``, a second one, as both run until the old one has drained; ``rehearsal``, one process of each service; or ``nothing``.
    """
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo, re.MULTILINE)
    if not found:
        return unknown("memory", "/proc/meminfo names no MemAvailable", "Use a kernel of 3.14 or newer.")
    available = int(found.group(1)) * 1024
    if beside == "nothing":
        return passed("memory", f"{_mib(available)} available; nothing runs beside the live slot", value=available)
    if not running:
        return unknown("memory", f"{_mib(available)} available; {_NOTHING_RUNS}, so nobody knows what a slot needs", "Start the live slot, then run it again.")
    held = sum(process.memory for process in running)
    wanted = int(held * MEMORY_MARGIN)
    processes = plural(len(running), "process", "processes")
    sentence = f"{_mib(available)} available; the live slot holds {_mib(held)} in {processes}, a second one needs {_mib(wanted)}"
    if beside == "rehearsal":
        sentence = f"{_mib(available)} available; {processes}, one of each service, {'holds' if len(running) == 1 else 'hold'} {_mib(held)}, "
        sentence += f"and the rehearsal beside them needs {_mib(wanted)}"
    if available < wanted:
        return failed("memory", sentence, "Give the host more memory, or lower instances in app_services.", value=available, limit=wanted, sample=len(running))
    return passed("memory", sentence, value=available, limit=wanted, sample=len(running))


def cpu(loadavg: str, processors: int) -> Gate:
    """Judge how busy the processors were in the last five minutes; a build under live traffic needs some of them (M-031)."""
    words = loadavg.split()
    if len(words) < 2 or not processors:
        return unknown("cpu", "/proc/loadavg could not be understood", severity="warn")
    share = float(words[1]) / processors
    sentence = f"load {words[1]} over five minutes on {plural(processors, 'processor')}: {percent(share)}"
    if share > BUSY:
        return warned("cpu", f"{sentence}; limit {percent(BUSY)}", "Wait for a quieter time, or build elsewhere.", value=round(share, 3), limit=BUSY)
    return passed("cpu", sentence, value=round(share, 3), limit=BUSY)


def clock(kernel: Optional[Clock], ahead: Optional[float], limit: float) -> Gate:
    """Judge the clock: signed webhooks and tokens are refused by a host that lives in another minute.

    :param ahead: seconds by which the host is ahead of the control node, the way there included.
    """
    remedy = "Start a time service (chrony, or `timedatectl set-ntp true`) and wait until it has set the clock."
    beside = "" if ahead is None else f"; {abs(ahead):.1f} s {'ahead of' if ahead >= 0 else 'behind'} the control node"
    if kernel is not None and kernel.kept:
        sentence = f"kept by a time service, wrong by {kernel.error:.3f} s at most{beside}"
        if kernel.error > limit:
            return failed("clock", sentence, remedy, value=kernel.error, limit=limit)
        if ahead is not None and abs(ahead) > limit:
            return warned("clock", sentence, "One of both clocks is wrong, or the way there is slow: look at the control node's.", value=ahead, limit=limit)
        return passed("clock", sentence, value=kernel.error, limit=limit)
    who = "the kernel does not say whether anybody keeps the clock" if kernel is None else "no time service keeps the clock as the kernel knows"
    if ahead is None:
        return unknown("clock", who, remedy)
    if limit < ahead <= limit + SLOW_WAY:
        return warned("clock", f"{who}{beside}; limit {limit:g} s", f"The way there may be as slow. If it is not: {remedy}", value=ahead, limit=limit)
    if abs(ahead) > limit:
        return failed("clock", f"{who}{beside}; limit {limit:g} s", remedy, value=ahead, limit=limit)
    # In a container the host outside may keep it; right now it is right.
    return warned("clock", f"{who}{beside}", remedy, value=ahead, limit=limit)


def version(name: str, found: str, minimum: str) -> Gate:
    """Judge a program's version; ``found`` is what it says of itself."""
    seen = re.search(r"\d+(?:\.\d+)*", found)
    gate, remedy = f"version {name}", _INSTALL.get(name, f"Install {name} {minimum} or newer.")
    if not seen:
        return unknown(gate, f"{name} does not tell its version", f"Run `{name} --version` and look.")
    sentence = f"{name} {seen.group(0)}; at least {minimum} is needed"
    if numbers(seen.group(0)) < numbers(minimum):
        return failed(gate, sentence, remedy, value=seen.group(0), limit=minimum)
    return passed(gate, sentence, value=seen.group(0), limit=minimum)


def numbers(text: str) -> tuple[int, ...]:
    """Return a version as numbers, so that 1.9 is older than 1.18; 18 and 18.0 are the same."""
    found = [int(word) for word in re.findall(r"\d+", text)]
    while found and not found[-1]:
        found.pop()
    return tuple(found)


def daemon(home: str, daemons: Sequence[Daemon], running: Sequence[Running], user: str, installed: str) -> Gate:
    """Judge that one PM2 daemon runs for the home, as the right user, of the version that is installed."""
    name = "pm2 daemon"
    if not daemons:
        return unknown(name, f"no PM2 daemon runs for {home}", f"Start the live slot as {user}; a first release starts the daemon by itself.")
    sentence = f"{comma(f'{each.pid} of {each.user}' for each in daemons)} for {home}"
    if len(daemons) > 1:
        return failed(name, f"{plural(len(daemons), 'daemon')}: {sentence}", "End the one that does not hold the live slot (`pm2 kill` with its PM2_HOME).")
    strange = sorted(({each.user for each in daemons} | {each.user for each in running}) - {user})
    if strange:
        return failed(name, f"{sentence}; {comma(strange)} should be {user}", f"Run `pm2 kill` as {strange[0]}, and start the slot as {user}.", limit=user)
    if installed and daemons[0].version and numbers(daemons[0].version) != numbers(installed):
        return warned(name, f"{sentence} is version {daemons[0].version}, {installed} is installed", "Run `pm2 update` in a quiet hour; it restarts the app.")
    return passed(name, f"{sentence}, version {daemons[0].version or 'not told'}", value=user, limit=user)


def open_files(running: Sequence[Running], minimum: int) -> Gate:
    """Judge the limit of open files of each process of the live slot; a socket is one, and at the limit visitors are refused."""
    name = "open files"
    if not running:
        return unknown(name, _NOTHING_RUNS, "Start the live slot, then run it again.")
    small = [f"process {each.pid} may open {each.open_limit:,}" for each in running if each.open_limit is not None and each.open_limit < minimum]
    if small:
        remedy = f"Raise it to {minimum} or more for the user of PM2 (LimitNOFILE of its unit, or limits.conf), and start the daemon anew."
        return failed(name, f"{listed(small)}; at least {minimum:,} are needed", remedy, value=len(small), limit=minimum, sample=len(running))
    full = [each for each in running if each.open_limit and each.open_now is not None and each.open_now > BUSY * each.open_limit]
    if full:
        held = [f"process {each.pid} holds {each.open_now:,} of {each.open_limit:,}" for each in full]
        return warned(name, listed(held), "Look for a leak (`ls /proc/PID/fd`), or raise the limit.", sample=len(running))
    least = min((each.open_limit for each in running if each.open_limit is not None), default=None)
    return passed(name, f"each process may open {'any number' if least is None else f'{least:,}'}", value=least, limit=minimum, sample=len(running))


def time_zone(found: str, wanted: str) -> Gate:
    """Judge the host's time zone; windows, cron and logs are read in it (S3-003, S3-031)."""
    if not found:
        return unknown("time zone", "neither /etc/localtime nor /etc/timezone names it", f"Run `timedatectl set-timezone {wanted}`.")
    if _zone(found) != _zone(wanted):
        return failed("time zone", f"{found}; {wanted} is wanted", f"Run `timedatectl set-timezone {wanted}` and restart cron.", value=found, limit=wanted)
    return passed("time zone", found, value=found, limit=wanted)


def _zone(name: str) -> str:
    return "UTC" if name.replace("Etc/", "") in ("UTC", "UCT", "Universal", "Zulu", "Greenwich", "GMT") else name


def reboot(pending: Optional[bool], packages: Sequence[str]) -> Gate:
    """Say whether the host waits for a reboot: one in the middle of a release would take the slot along. Never stops."""
    if pending is None:
        return unknown("pending reboot", "nothing on this host tells whether it waits for a reboot", "Install needs-restarting (dnf-utils).", severity="warn")
    if pending:
        why = f" for {comma(packages[:6])}" if packages else ""
        return warned("pending reboot", f"the host waits for a reboot{why}", "Reboot it in a quiet hour before or after the release.", value=len(packages))
    return passed("pending reboot", "the host waits for no reboot")


def draining(master: Optional[int], workers: int, connections: int, budget: int) -> Gate:
    """Say whether nginx has room for more reloads; each draining worker holds its memory until its last connection ends. Never stops."""
    if master is None:
        return unknown("draining workers", "nginx does not run", "Start nginx.", severity="warn")
    sentence = f"{plural(workers, 'worker')} still drain {plural(connections, 'connection')}; the budget is {budget}"
    if workers > budget:
        remedy = "Wait for their end, or set worker_shutdown_timeout (not below the longest request)."
        return warned("draining workers", sentence, remedy, value=workers, limit=budget)
    return passed("draining workers", sentence, value=workers, limit=budget)


def limit_of(limits: str) -> Optional[int]:
    """Return the soft limit of open files in the text of /proc/PID/limits; None for no limit."""
    found = re.search(r"^Max open files\s+(\d+|unlimited)", limits, re.MULTILINE)
    return int(found.group(1)) if found and found.group(1).isdecimal() else None


def memory_of(status: str) -> int:
    """Return the bytes of memory in the text of /proc/PID/status."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0


def by_volume(needs: Sequence[Need], volumes: Mapping[int, Volume]) -> list[Gate]:
    """Judge every file system that something will be written to."""
    return [gate for number, volume in volumes.items() for gate in disk(volume, [need for need in needs if need.volume == number])]


def _mib(size: Optional[int]) -> str:
    return f"{-(-(size or 0) // MIB):,} MiB"
