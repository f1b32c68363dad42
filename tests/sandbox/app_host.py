# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An app host with the app pos, on which the slot module is run by hand."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from tests.apps.pos.history import build
from tests.sandbox import engine
from tests.sandbox.world import free_ports

COMMAND = [sys.executable, "-m", "ansible_collections.sluice.deploy.plugins.modules.slot"]
SECRET = "pa$HOME-${NOT_A_VARIABLE}-$$-%d-=="


class AppHost:
    """One app host with the app pos.

    :param kind: the runtime.
    """

    def __init__(self, kind: str, folder: Path, compose: list[str]) -> None:
        self.kind, self.folder, self.compose = kind, folder, compose
        self.app = f"pos{secrets.token_hex(3)}"
        self.ports = dict(zip(("blue", "green", "rehearsal"), free_ports(3)))
        self.repository = folder / "pos.git"
        self.commits = build(self.repository)
        self.env = folder / "pos.env"
        self.env.write_text(f"TILL_SECRET={SECRET}\n", encoding="utf-8")

    def arguments(self, state: str, **more: Any) -> dict[str, Any]:
        version = more.get("version", "v1.0.0")
        base = {
            "state": state,
            "app": self.app,
            "directory": str(self.folder / "app"),
            "slot": "green",
            "services": [{"name": "web", "ports": self.ports, "image_port": 8000, "health_path": "/api/v1/health"}],
            "version": version,
            "commit": self.commits[version],
            "source": str(self.repository),
            "env_file": str(self.env),
            "smoke": [{"path": "/", "contains": "open"}],
            "runtime": self.kind,
            "compose_command": self.compose,
            "image": {"build": "."},
            "deadline": 15,
            "drain_timeout": 2,
        }
        return {**base, **more}

    def popen(self, words: dict[str, Any], **flags: bool) -> subprocess.Popen[str]:
        given = {"ANSIBLE_MODULE_ARGS": {**words, **{f"_ansible_{name}": value for name, value in flags.items()}}}
        process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=engine.environment(), start_new_session=True
        )
        assert process.stdin
        process.stdin.write(json.dumps(given))
        process.stdin.close()
        process.stdin = None
        return process

    def run(self, state: str, flags: dict[str, bool] | None = None, **more: Any) -> dict[str, Any]:
        process = self.popen(self.arguments(state, **more), **(flags or {}))
        out, err = process.communicate(timeout=140)
        assert "Traceback" not in out + err, out + err
        assert SECRET not in out + err and "NOT_A_VARIABLE" not in out + err
        result: dict[str, Any] = json.loads(out)
        return result

    def running(self) -> set[str]:
        """Return the slots of which a container runs, past our own code."""
        return set(engine.docker("ps", "--format", '{{.Label "sluice.slot"}}', "--filter", f"label=sluice.app={self.app}").split())

    def inspected(self, slot: str = "green") -> dict[str, Any]:
        names = engine.docker("ps", "--quiet", "--filter", f"label=sluice.app={self.app}", "--filter", f"label=sluice.slot={slot}").split()
        found: dict[str, Any] = json.loads(engine.docker("inspect", names[0]))[0]
        return found

    def answer(self, slot: str = "green") -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[slot]}/api/v1/health", timeout=5) as reply:
            said: dict[str, Any] = json.load(reply)
        return said
