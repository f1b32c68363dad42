# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What provisioning refuses before it looks at a host; molecule/provision has the rest, on a bare one. Everything here is check mode: this is our machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.world import CHECKOUT

BIN = Path(sys.executable).parent


def play(folder: Path, *words: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run the playbook in check mode for two names of this machine; the app hosts' variables are theirs alone."""
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    children = {
        "edges": {"hosts": {"first": None}},
        "apphosts": {"hosts": {"second": None}, "vars": variables},
        "databases": {"hosts": {"first": None}},
    }
    known = {"app_name": "shop", "app_env_file": str(folder / "etc/env"), "app_directory": "/srv/sluice-nothing-here"}
    inventory = folder / "hosts.json"
    inventory.write_text(json.dumps({"all": {"hosts": {"first": host, "second": host}, "children": children, "vars": known}}))
    env = {**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "sluice.deploy.release", "ANSIBLE_NOCOLOR": "1"}
    env["ANSIBLE_LOCAL_TEMP"] = env["ANSIBLE_REMOTE_TEMP"] = str(folder / "tmp")
    argv = [str(BIN / "ansible-playbook"), "-i", str(inventory), "sluice.deploy.provision", "--check", *words]
    return subprocess.run(argv, env=env, cwd=CHECKOUT, capture_output=True, text=True, timeout=90, check=False)


def listing(*words: str) -> str:
    argv = [str(BIN / "ansible-playbook"), "-i", "localhost,", "sluice.deploy.provision", "--list-tasks", *words]
    env = {**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg")}
    return subprocess.run(argv, env=env, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"provision_node": "nvm"}, "provision_node must be one of distribution, nodesource, tarball, none, not 'nvm'. Example: provision_node=distribution"),
        ({"provision_user": "root"}, "provision_user is root, which must not run an app"),
        (
            {"provision_node": "tarball", "provision_node_version": "22.11.0", "provision_node_tarball": "node.tar.xz"},
            "provision_node is tarball, but provision_node_sha256 is not set",
        ),
        ({"provision_nodes": "tarball"}, "provision_nodes is no variable of this collection. Did you mean provision_node?"),
    ],
)
def test_one_host_s_bad_input_stops_all_before_any_is_looked_at(tmp_path: Path, asked: dict[str, Any], said: str) -> None:
    done = play(tmp_path, **asked)
    assert done.returncode != 0
    assert "FAIL        second: The input is not right; nothing was changed." in done.stdout
    assert said in done.stdout
    assert "first" not in done.stdout, "the other host went on"
    assert "Traceback" not in done.stdout + done.stderr


def test_an_archive_with_another_checksum_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "node.tar.gz"
    archive.write_bytes(b"not what was meant")
    asked = {"provision_node": "tarball", "provision_node_version": "22.11.0", "provision_node_tarball": str(archive)}
    done = play(tmp_path, "--tags", "logs", **asked, provision_node_sha256="0" * 64)
    assert done.returncode != 0
    assert f"has the SHA-256 {hashlib.sha256(archive.read_bytes()).hexdigest()}, not {'0' * 64}. Nothing was changed." in done.stdout


@pytest.mark.parametrize("tag", ["packages", "users", "nginx", "node", "pm2", "docker", "postgresql", "logs", "sudo", "hints"])
def test_every_area_has_a_tag_and_checks_the_input_first(tag: str) -> None:
    tasks = [line.strip() for line in listing("--tags", tag).splitlines() if "TAGS:" in line and "play #" not in line]
    assert any(task.startswith("Check the input") for task in tasks)
    own = [task for task in tasks if "TAGS: [always]" not in task]
    assert own
    assert all(f"{tag}" in task.partition("TAGS:")[2] for task in own)
