# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of a host: this one's where they can be had, an invented root where not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import host_facts
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError


def test_a_slot_is_its_processes_and_their_children(tmp_path: Path) -> None:
    program = "import subprocess, sys; child = subprocess.Popen(['sleep', '60']); print(child.pid, flush=True); child.wait()"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        try:
            (tmp_path / "pids").mkdir()
            (tmp_path / "pids" / "shop-web-blue-0.pid").write_text(str(process.pid))
            (tmp_path / "pids" / "shop-web-green-1.pid").write_text("1")
            found = host_facts.Processes().of_pm2(str(tmp_path), ["shop-web-blue"])
            assert {each.pid for each in found} == {process.pid, child}
            assert all(each.memory > 0 and each.user == host_facts.user_of(os.geteuid()) and each.open_now for each in found)
        finally:
            os.kill(child, 9)
            process.wait()
    assert host_facts.Processes().of_pm2(str(tmp_path), ["shop-web-blue"]) == []


def test_daemons_are_known_by_their_title(tmp_path: Path) -> None:
    for pid, title in ((11, "PM2 v7.0.4: God Daemon (/srv/shop/.pm2)"), (12, "PM2 v6.0.0: God Daemon (/srv/other/.pm2)"), (13, "vim PM2 v7")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cmdline").write_text(title)
    found = host_facts.Processes(str(tmp_path)).daemons("/srv/shop/.pm2/")
    assert [(each.pid, each.version) for each in found] == [(11, "7.0.4")]


def test_a_daemon_whose_title_is_cut_off_is_known_by_its_pid_file(tmp_path: Path) -> None:
    home = tmp_path / "a-home-with-a-long-name"
    home.mkdir()
    (home / "pm2.pid").write_text("11")
    (tmp_path / "11").mkdir()
    (tmp_path / "11" / "cmdline").write_text(f"PM2 v7.0.4: God Daemon ({str(home)[:-4]}")
    assert [each.pid for each in host_facts.Processes(str(tmp_path)).daemons(str(home))] == [11]
    (home / "pm2.pid").write_text("12")
    assert host_facts.Processes(str(tmp_path)).daemons(str(home)) == []


def test_size_volume_and_clock_are_the_kernel_s(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(b"x" * 100_000)
    size, files = host_facts.tree(str(tmp_path))
    assert files == 2 and 100_000 <= size < 200_000
    number, volume = host_facts.volume(str(tmp_path / "not" / "there"))
    assert number == os.stat(tmp_path).st_dev and volume.path == str(tmp_path) and 0 < volume.free <= volume.total
    clock = host_facts.clock()
    assert clock is None or clock.error >= 0


def test_time_zone_and_reboot(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "run").mkdir()
    assert (host_facts.time_zone(str(tmp_path)), host_facts.reboot(str(tmp_path))) == ("", (None, []))
    (tmp_path / "etc/timezone").write_text("Europe/Berlin\n")
    (tmp_path / "etc/debian_version").write_text("12\n")
    assert (host_facts.time_zone(str(tmp_path)), host_facts.reboot(str(tmp_path))) == ("Europe/Berlin", (False, []))
    (tmp_path / "etc/localtime").symlink_to("/usr/share/zoneinfo/Asia/Tokyo")
    (tmp_path / "run/reboot-required").touch()
    (tmp_path / "run/reboot-required.pkgs").write_text("linux-image\nlibc6\nlinux-image\n")
    assert (host_facts.time_zone(str(tmp_path)), host_facts.reboot(str(tmp_path))) == ("Asia/Tokyo", (True, ["libc6", "linux-image"]))


def test_versions(tmp_path: Path) -> None:
    (tmp_path / "pm2/bin").mkdir(parents=True)
    (tmp_path / "pm2/bin/pm2").touch()
    (tmp_path / "pm2/package.json").write_text('{"name": "pm2", "version": "7.0.4"}')
    assert host_facts.version("pm2", ["node", str(tmp_path / "pm2/bin/pm2")]) == "7.0.4"
    assert host_facts.version("python", [sys.executable]).startswith("Python 3")
    with pytest.raises(SluiceError, match="no-such-node is not there"):
        host_facts.version("node", ["no-such-node"])
