# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The production of world.py with the Python app pos in it, as projects of compose on a real engine, migrated by Alembic."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from tests.sandbox import engine
from tests.sandbox.world import CHECKOUT, World


class Till(World):
    """A world whose app is started from images."""

    history = "tests/apps/pos/history.py"

    def __init__(self, folder: Path, tools: Path | None = None) -> None:
        super().__init__(folder, tools)
        # Names of an engine are shared by all who use it.
        self.app = f"pos{secrets.token_hex(3)}"
        self.compose: list[str] = []

    def up(self) -> None:
        engine.start_engine()
        engine.base_image()
        self.compose = engine.compose()
        super().up()

    def first(self) -> None:
        variables = {**self.variables(), "release_version": "v0.9.0", "app_smoke": [], "edge_nginx_running": "optional"}
        self._run(self.playbook("first", "-e", json.dumps(variables)), cwd=CHECKOUT)

    def wipe(self) -> None:
        super().wipe()
        engine.clean(self.app)

    def _install_pm2(self) -> None:
        """Do nothing: the engine runs everything."""

    def variables(self) -> dict[str, Any]:
        """Return what of the sandbox's inventory is another for this app."""
        ports = {slot: self.facts["ports"][slot] for slot in ("blue", "green", "rehearsal")}
        health = "/api/v1/health"
        return {
            "app_name": self.app,
            "app_runtime": "compose",
            "app_compose_file": "compose.yml",
            "app_image_build": ".",
            "app_build": [],
            "app_env": {"DATABASE_URL": {"kind": "postgres-url"}},
            "app_services": [
                {"name": "web", "ports": ports, "health_path": health},
                {"name": "worker", "kind": "worker", "heartbeat": 10, "args": ["python3", "app.py", "worker"]},
            ],
            "app_migrations": ".",
            "app_smoke": [
                {"name": "the till", "path": "/", "contains": "open"},
                {"name": "its parts", "path": "/api/v1/health/detailed", "contains": "database"},
                {"name": "a sale", "method": "POST", "path": "/api/v1/sales", "body": {"amount_cents": 100}, "status": 201, "effect": "write"},
            ],
            "migrate_tool": "alembic",
            "slot_compose_command": self.compose,
            # The database of this world listens on the loopback alone.
            "slot_docker_network": "host",
        }
