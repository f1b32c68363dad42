# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host must have: each rule where it passes, where it fails for its reason, and where it cannot tell."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import host_rules
from ansible_collections.sluice.deploy.plugins.module_utils.core.host_rules import MIB, Clock, Daemon, Need, Running, Volume
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate

MEMINFO = "MemTotal: 4096000 kB\nMemAvailable:   1024000 kB\n"
LIVE = Running(7, 400 * MIB, 65536, 40, "app")
HOME = "/srv/wallet/.pm2"


def said(gate: Gate) -> str:
    return gate.severity or gate.verdict


def volume(free: int, files: int = 1000, free_files: int = 900) -> Volume:
    return Volume("/srv", 1000 * MIB, free * MIB, files, free_files)


@pytest.mark.parametrize(
    ("free", "backup", "verdict", "words"),
    [
        (500, 100, "pass", "release 100 MiB + backup 100 MiB = 200 MiB; 500 MiB free in /srv"),
        (199, 100, "fail", "= 200 MiB; 199 MiB free"),
        (250, 100, "warn", "5 % would be left"),
        (500, None, "inconclusive", "not known: backup"),
        (99, None, "fail", "release 100 MiB = 100 MiB; 99 MiB free"),
    ],
)
def test_disk_is_compared_with_the_sum_of_its_parts(free: int, backup: Optional[int], verdict: str, words: str) -> None:
    needs = [Need("release", 1, 100 * MIB, 50), Need("backup", 1, None if backup is None else backup * MIB)]
    gate = host_rules.disk(volume(free), needs)[0]
    assert said(gate) == verdict and words in gate.sentence


def test_needs_count_where_they_are_written() -> None:
    needs = [Need("release", 1, 300 * MIB), Need("backup", 2, 300 * MIB)]
    gates = host_rules.by_volume(needs, {1: volume(400), 2: volume(200)})
    assert [said(gate) for gate in gates] == ["pass", "pass", "fail", "pass"]


@pytest.mark.parametrize(("files", "free", "verdict"), [(1000, 500, "pass"), (1000, 49, "fail"), (1000, 100, "warn"), (0, 0, "pass")])
def test_inodes(files: int, free: int, verdict: str) -> None:
    assert said(host_rules.disk(volume(500, files, free), [Need("release", 1, 1, 50)])[1]) == verdict


@pytest.mark.parametrize(
    ("meminfo", "running", "verdict"),
    [(MEMINFO, [LIVE, LIVE], "pass"), (MEMINFO, [LIVE] * 3, "fail"), (MEMINFO, [], "inconclusive"), ("MemFree: 1 kB", [LIVE], "inconclusive")],
)
def test_memory_must_hold_a_second_slot(meminfo: str, running: list[Running], verdict: str) -> None:
    assert host_rules.memory(meminfo, running).verdict == verdict


def test_busy_processors_warn() -> None:
    assert said(host_rules.cpu("0.1 1.5 0.1 1/2 3", 2)) == "pass"
    assert said(host_rules.cpu("0.1 1.7 0.1 1/2 3", 2)) == "warn"
    assert said(host_rules.cpu("", 2)) == "warn"


@pytest.mark.parametrize(
    ("kernel", "ahead", "verdict"),
    [
        (Clock(True, 0.02), 0.5, "pass"),
        (Clock(True, 16.0), 0.5, "fail"),
        (Clock(True, 0.02), 60.0, "warn"),
        (Clock(False, 16.0), 60.0, "fail"),
        (Clock(False, 16.0), -11.0, "fail"),
        (Clock(False, 16.0), 12.0, "warn"),
        (Clock(False, 16.0), 0.5, "warn"),
        (Clock(False, 16.0), None, "inconclusive"),
        (None, None, "inconclusive"),
    ],
)
def test_clock(kernel: Optional[Clock], ahead: Optional[float], verdict: str) -> None:
    assert said(host_rules.clock(kernel, ahead, 10.0)) == verdict


@pytest.mark.parametrize(
    ("found", "minimum", "verdict"),
    [("nginx version: nginx/1.22.1", "1.18", "pass"), ("v9.2", "18", "fail"), ("v18.0", "18", "pass"), ("1.9", "1.18", "fail"), ("?", "1", "inconclusive")],
)
def test_versions_are_numbers(found: str, minimum: str, verdict: str) -> None:
    assert host_rules.version("node", found, minimum).verdict == verdict


@pytest.mark.parametrize(
    ("daemons", "user", "verdict", "words"),
    [
        ([Daemon(3, "app", "7.0.4")], "app", "pass", "3 of app"),
        ([Daemon(3, "root", "7.0.4")], "app", "fail", "root should be app"),
        ([Daemon(3, "app", "7.0.4"), Daemon(4, "app", "7.0.4")], "app", "fail", "2 daemons"),
        ([Daemon(3, "app", "6.0.1")], "app", "warn", "is version 6.0.1, 7.0.4 is installed"),
        ([], "app", "inconclusive", f"no PM2 daemon runs for {HOME}"),
    ],
)
def test_one_daemon_of_the_right_user(daemons: list[Daemon], user: str, verdict: str, words: str) -> None:
    gate = host_rules.daemon(HOME, daemons, [LIVE], user, "7.0.4")
    assert said(gate) == verdict and words in gate.sentence


@pytest.mark.parametrize(
    ("running", "verdict"),
    [
        ([LIVE], "pass"),
        ([Running(7, 1, None, None, "app")], "pass"),
        ([LIVE, Running(8, 1, 1024, 40, "app")], "fail"),
        ([Running(7, 1, 65536, 60000, "app")], "warn"),
        ([], "inconclusive"),
    ],
)
def test_open_files(running: list[Running], verdict: str) -> None:
    assert said(host_rules.open_files(running, 4096)) == verdict


@pytest.mark.parametrize(
    ("found", "wanted", "verdict"),
    [("Etc/UTC", "UTC", "pass"), ("Europe/Berlin", "UTC", "fail"), ("", "UTC", "inconclusive"), ("Asia/Tokyo", "Asia/Tokyo", "pass")],
)
def test_time_zone(found: str, wanted: str, verdict: str) -> None:
    assert host_rules.time_zone(found, wanted).verdict == verdict


@pytest.mark.parametrize(
    ("gate", "verdict", "severity"),
    [
        (host_rules.reboot(False, []), "pass", ""),
        (host_rules.reboot(True, ["linux-image"]), "inconclusive", "warn"),
        (host_rules.reboot(None, []), "inconclusive", "warn"),
        (host_rules.draining(3, 2, 9, 8), "pass", ""),
        (host_rules.draining(3, 9, 9, 8), "inconclusive", "warn"),
        (host_rules.draining(None, 0, 0, 8), "inconclusive", "warn"),
    ],
)
def test_what_never_stops(gate: Gate, verdict: str, severity: Any) -> None:
    assert (gate.verdict, gate.severity) == (verdict, severity)
