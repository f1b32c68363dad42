# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates of a host and of a source where both are real: PM2, nginx, PostgreSQL and git, by the role's own tasks."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.e2e.servers import call, gates, verdicts
from tests.sandbox.world import World

SECRET = "sk_" + "live_51H8sKxh7Gk2Lq9Xw4Zt8Rb5"
PLAYBOOK = """
- hosts: edges:apphosts:databases
  gather_facts: false
  tasks:
    - {name: Know the app, ansible.builtin.import_role: {name: sluice.deploy.app, rolespec_validate: false}}
    - {name: Say what is live, ansible.builtin.set_fact: {__preflight_ground: {live: blue}}}
    - {name: Host, ansible.builtin.import_role: {name: sluice.deploy.preflight, tasks_from: system, rolespec_validate: false}}
    - {name: Source, ansible.builtin.import_role: {name: sluice.deploy.preflight, tasks_from: hygiene, rolespec_validate: false}}
    - name: Keep what was said
      ansible.builtin.copy:
        content: "{{ [__preflight_host, __preflight_hygiene] | map(attribute='gates') | flatten | to_json }}"
        dest: "{{ kept }}"
        mode: '0600'
"""


def test_the_role_judges_a_live_production(world: World, tmp_path: Path) -> None:
    (tmp_path / "play.yml").write_text(PLAYBOOK, encoding="utf-8")
    words = world.playbook("preflight", "-e", f"kept={tmp_path / 'gates.json'}", "-e", "release_version=v0.9.9")
    words[words.index("sluice.deploy.preflight")] = str(tmp_path / "play.yml")
    done = subprocess.run(words, env=world.env(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    found = gates({"gates": json.loads((tmp_path / "gates.json").read_text(encoding="utf-8"))})
    wanted = {"memory", "pm2 daemon", "open files", "version node", "version pm2", "version nginx", "version psql", "source secrets", "source debugger"}
    assert {name: found[name]["verdict"] for name in wanted} == dict.fromkeys(wanted, "pass"), found
    disk = next(gate for name, gate in found.items() if name.startswith("disk forecast"))
    assert disk["verdict"] == "pass" or disk["severity"] == "warn", disk
    assert all(part in disk["sentence"] for part in ("release ", "logs of both slots ", "backup ", "copy for the drill ")), disk
    assert {"cpu", "clock", "pending reboot", "draining workers"} <= set(found)
    stopping = [gate for gate in found.values() if gate["verdict"] != "pass" and gate.get("severity") != "warn"]
    assert stopping == []


def test_an_empty_host_cannot_tell_and_a_small_one_fails(tmp_path: Path) -> None:
    common: dict[str, Any] = {"directory": str(tmp_path), "pm2_home": str(tmp_path / "pm2"), "pm2_user": "app"}
    empty = call(tmp_path, "host", commands={"node": ["no-such-node"]}, **common)
    assert {name: verdict for name, verdict in verdicts(empty).items() if name in ("memory", "pm2 daemon", "open files", "version node")} == {
        "memory": "inconclusive",
        "pm2 daemon": "inconclusive",
        "open files": "inconclusive",
        "version node": "fail",
    }
    assert not (tmp_path / "pm2").exists(), "PM2 was asked, and has started a daemon"
    small = call(tmp_path, "host", bytes={"release": 10**18}, now=time.time() - 3600, **common)
    told = gates(small)
    assert told[f"disk forecast {tmp_path}"]["verdict"] == "fail"
    assert told["clock"]["verdict"] in ("fail", "inconclusive") and "s ahead of the control node" in told["clock"]["sentence"]
    wrong = call(tmp_path, "host", bytes={"swap": 1}, **common)
    assert "Allowed are release, logs and backup" in wrong["msg"]


def test_the_source_of_a_version_is_judged_and_no_secret_is_told(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()

    def git(*words: str) -> str:
        env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        return subprocess.run(["git", *who, *words], cwd=source, env=env, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "-q", "-b", "main")
    (source / "server.js").write_text("start();\n")
    git("add", ".")
    git("commit", "-qm", "one")
    git("tag", "v1")
    (source / "server.js").write_text(f"console.log('x');\nconst key = '{SECRET}';\n")
    git("commit", "-qam", "two")
    git("tag", "v2")
    good = call(tmp_path, "hygiene", source=str(source), version="v1")
    assert set(verdicts(good).values()) == {"pass"}
    # Over git's own protocol too, where nothing but the version is fetched.
    bad = call(tmp_path, "hygiene", source=f"file://{source}", version="v2", artefacts={"eslint": str(tmp_path / "none.json")})
    told = {name: (gate["verdict"], gate["sentence"]) for name, gate in gates(bad).items()}
    assert told["source console.log"] == ("fail", "server.js:1")
    assert told["source secrets"] == ("fail", "server.js:2 stripe key")
    assert told["source eslint"] == ("inconclusive", f"{tmp_path / 'none.json'} is not there")
    assert SECRET not in bad["said"]
    missing = call(tmp_path, "hygiene", source=str(source), version="v3")
    assert verdicts(missing) == {"source hygiene": "fail"}
