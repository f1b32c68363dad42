# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An inventory that lacks a group is refused by the group's name, before anything is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sandbox.world import CHECKOUT


@pytest.mark.parametrize(
    ("playbook", "missing"),
    [("release", "edges"), ("release", "apphosts"), ("release", "databases"), ("first", "edges"), ("preflight", "databases"), ("migrate", "apphosts")],
)
def test_a_group_without_a_host_is_named(tmp_path: Path, playbook: str, missing: str) -> None:
    known = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "app_name": "shop",
        "app_source": str(tmp_path / "git"),
        "app_env_file": str(tmp_path / "env"),
        "app_public_url": "http://127.0.0.1:1",
        "app_services": [{"name": "web", "entry": "server.js", "ports": {"blue": 3001, "green": 3002, "rehearsal": 3003}}],
        "release_ledger_directory": str(tmp_path / "ledger"),
    }
    groups = {name: {"hosts": {"one": None} if name != missing else {}} for name in ("edges", "apphosts", "databases")}
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"children": groups, "vars": known}}), encoding="utf-8")
    env = {**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    words = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(tmp_path / "hosts.json"), f"sluice.deploy.{playbook}", "-e", "release_version=v1"]
    done = subprocess.run(words, env=env, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)
    said = " ".join(done.stdout.split())
    assert done.returncode != 0
    assert f"The inventory has no host in the group {missing}, where " in said and "nothing was changed" in said, done.stdout
    assert not (tmp_path / "ledger").exists()
