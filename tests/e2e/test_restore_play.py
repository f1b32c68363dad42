# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The operator's call of the restore: shown, refused, agreed to, done once, and taken back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_database import APP, CHECKOUT, RELEASE, Server, collections, server  # noqa: F401  # pylint: disable=unused-import
from tests.e2e.test_restore_swap import Shop, shop, spoil


@pytest.fixture
def site(server: Server, collections: Path, tmp_path: Path) -> Iterator[Shop]:  # noqa: F811
    yield from shop(server, collections, tmp_path, "played")


def play(site: Shop, *words: str) -> tuple[int, str]:
    variables = {
        "app_name": APP,
        "app_env_file": str(site.env),
        "app_directory": str(site.folder / "app"),
        "backup_directory": str(site.backups),
        "backup_client_directory": str(site.server.programs),
        "release_ledger_directory": str(site.folder / "ledger"),
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
    }
    inventory = site.folder / "hosts.json"
    inventory.write_text(json.dumps({"databases": {"hosts": {"here": {}}, "vars": variables}}))
    (site.folder / "app").mkdir(exist_ok=True)
    env = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(site.folder),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
        "ANSIBLE_LOCAL_TEMP": str(site.folder / "tmp"),
        "ANSIBLE_REMOTE_TEMP": str(site.folder / "tmp"),
        "ANSIBLE_NOCOLOR": "1",
        "TMPDIR": str(site.folder),
        "COLUMNS": "2000",
    }
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(inventory), "sluice.deploy.restore", *words]
    done = subprocess.run(command, env=env, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_the_playbook_shows_refuses_restores_once_and_goes_back(site: Shop) -> None:
    good = site.state()
    spoil(site)
    bad = site.state()
    wanted = ("-e", f"restore_backup={RELEASE}")
    rc, said = play(site, *wanted, "--check")
    assert rc and f"add -e restore_accept_loss={RELEASE}; nothing was changed" in said and "public.entry: 3 inserted, 2 updated, 1 deleted" in said, said
    assert site.state() == bad
    agreed = (*wanted, "-e", f"restore_accept_loss={RELEASE}")
    site.good("drill", state="absent")  # the playbook makes the copy when the release's is gone
    rc, said = play(site, *agreed)
    assert rc == 0 and site.state() == good, said
    rc, said = play(site, *agreed)
    assert rc == 0 and "is the restored copy of r1 since" in said and "would" not in said, said
    rc, said = play(site, "-e", "restore_state=swapped_back")
    assert rc == 0 and site.state() == bad, said
