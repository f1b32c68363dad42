# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The schedule of backups: files that systemd and cron take, the same at the second run, and gone when they should be."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stores import CHECKOUT, program

# Words that a shell, cron or systemd would read as more than words.
COMMAND = ["/usr/bin/printf", "%s|", "100%", "$HOME", 'say "hi"', "back\\slash", "it's", "a b", "${x}", "%%"]


def play(tmp_path: Path, *words: str, systemd: bool, **variables: Any) -> tuple[int, dict[str, int], str]:
    """Run the entry point on this host against folders of the test; return code, counts, and output."""
    folders = {"units": tmp_path / "units", "cron": tmp_path / "cron"}
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    given = {
        "app_name": "wallet",
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "backup_schedule_user": "daemon",
        "backup_schedule_directory": str(tmp_path / "a folder"),
        "backup_schedule_command": COMMAND,
        "__backup_systemd_running": str(tmp_path) if systemd else str(tmp_path / "none"),
        "__backup_unit_folder": str(folders["units"]),
        "__backup_cron_folder": str(folders["cron"]),
        **variables,
    }
    (tmp_path / "a folder").mkdir(exist_ok=True)
    (tmp_path / "vars.json").write_text(json.dumps(given))
    ansible = str(Path(sys.executable).with_name("ansible-playbook"))
    argv = [ansible, "-i", "schedulers,", "-e", f"@{tmp_path / 'vars.json'}", *words, str(tmp_path / "play.yml")]
    (tmp_path / "play.yml").write_text(
        "- hosts: all\n  gather_facts: false\n  tasks:\n"
        "    - ansible.builtin.import_role: {name: sluice.deploy.backup, tasks_from: schedule, rolespec_validate: false}\n"
    )
    env = {**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_STDOUT_CALLBACK": "default"}
    done = subprocess.run(argv, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=120, check=False)
    counts = {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", done.stdout.rpartition("PLAY RECAP")[2])}
    return done.returncode, counts, " ".join((done.stdout + done.stderr).split())


def test_systemd_takes_the_timer(tmp_path: Path) -> None:
    """What systemd itself must be running for (reload, start) is left out here."""
    quiet = ("--skip-tags", "backup_timer", "--diff")
    units = tmp_path / "units"
    rc, counts, text = play(tmp_path, *quiet, "--check", systemd=True)
    assert rc == 0 and counts["changed"] == 1 and list(units.iterdir()) == [], text
    rc, counts, text = play(tmp_path, *quiet, systemd=True)
    assert rc == 0 and counts["changed"] == 1, text
    service = (units / "sluice-backup-wallet.service").read_text()
    assert "User=daemon\n" in service and f"WorkingDirectory={tmp_path / 'a folder'}\n" in service
    assert (units / "sluice-backup-wallet.timer").read_text().count("OnCalendar=*-*-* 02:15:00 UTC\n") == 1
    done = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", *sorted(units.iterdir())], capture_output=True, text=True, timeout=60, check=False
    )
    said = [line for line in done.stderr.splitlines() if "sluice-backup" in line]
    assert said == [], done.stderr
    line = next(line for line in service.splitlines() if line.startswith("ExecStart="))
    # As systemd.service(5) reads it: quotes, then specifiers, then variables.
    words = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line.removeprefix("ExecStart="))]
    assert words == COMMAND
    rc, counts, text = play(tmp_path, *quiet, systemd=True)
    assert rc == 0 and counts["changed"] == 0, text
    rc, counts, text = play(tmp_path, *quiet, systemd=True, backup_schedule_state="absent")
    assert rc == 0 and counts["changed"] == 1 and list(units.iterdir()) == [], text
    rc, _counts, text = play(tmp_path, *quiet, systemd=True, backup_schedule_calendar="every full moon")
    assert rc != 0 and "every full moon" in text and list(units.iterdir()) == []


def test_a_host_without_systemd_gets_a_line_of_cron(tmp_path: Path) -> None:
    rc, counts, text = play(tmp_path, "--check", "--diff", systemd=False)
    assert rc == 0 and counts["changed"] == 1 and list((tmp_path / "cron").iterdir()) == [], text
    rc, counts, text = play(tmp_path, systemd=False)
    assert rc == 0 and counts["changed"] == 1, text
    line = (tmp_path / "cron" / "sluice-backup-wallet").read_text().splitlines()[-1]
    assert line.startswith("15 2 * * * daemon ")
    # cron hands the shell what stands behind the account, with each \% as %.
    command = line.split(" daemon ", 1)[1].replace("\\%", "%").rpartition(" | logger ")[0]
    env = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=30, check=True, env=env)
    assert done.stdout == "".join(f"{word}|" for word in COMMAND[2:])
    rc, counts, text = play(tmp_path, systemd=False)
    assert rc == 0 and counts["changed"] == 0, text
    rc, counts, text = play(tmp_path, systemd=False, backup_schedule_state="absent")
    assert rc == 0 and counts["changed"] == 1 and list((tmp_path / "cron").iterdir()) == [], text


@pytest.mark.parametrize("wrong", [{"backup_schedule_command": []}, {"backup_schedule_command": ["ansible-playbook"]}, {"backup_schedule_user": ""}])
def test_a_schedule_of_nothing_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    rc, _counts, text = play(tmp_path, systemd=False, **wrong)
    assert rc != 0 and "A schedule needs backup_schedule_user" in text
    assert list((tmp_path / "cron").iterdir()) == []
