# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a slot's start costs beside the bare tool's own command, taken in turn on this machine until the same probe is good.

    .venv/bin/python benchmarks/runtimes.py

Prints one JSON object as its last line; a runtime that this machine cannot run has no figure (``null``):

- ``pm2_start_ratio``: the slot module's state started / ``pm2 start`` of the same process file; goal 1.3.
- ``compose_start_ratio``: the same / ``docker compose up --detach`` of the same file; goal 1.3.
- ``pm2_bare_s``, ``compose_bare_s``: the seconds below the line.

Both sides end when every service gave three good answers in a row with the right version. The slot's side is the whole
run of the module, its interpreter's start included; Ansible's own time to send it is not.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / ".venv/collections")]

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.runtime_pm2 import ecosystem
from ansible_collections.sluice.deploy.plugins.module_utils.core import dotenv, stacks
from ansible_collections.sluice.deploy.plugins.module_utils.core.slots import Plan, service_from

from tests.e2e import test_slot
from tests.sandbox import engine
from tests.sandbox.app_host import AppHost
from tests.sandbox.world import World

ROUNDS = 5
PASSES = 3


def healthy(url: str, version: str, deadline: float = 30.0) -> None:
    """Wait until the same probe is good that the slot module waits for."""
    row, end = 0, time.monotonic() + deadline
    while row < PASSES:
        if time.monotonic() > end:
            raise SystemExit(f"{url} is not healthy after {deadline:g} s")
        try:
            with urllib.request.urlopen(url, timeout=2) as reply:
                row = row + 1 if json.load(reply)["version"] == version else 0
        except (OSError, ValueError, KeyError):
            row = 0
        time.sleep(0.1)


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that something takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def quiet(words: list[str], env: dict[str, str] | None = None) -> None:
    """Run a command to its end."""
    subprocess.run(words, env=env, check=True, capture_output=True, timeout=120)


def in_turn(ours: Callable[[], object], ours_down: Callable[[], object], bare: Callable[[], object], bare_down: Callable[[], object]) -> tuple[float, float]:
    """Return the medians of both sides, taken A B A B."""
    slot, tool = [], []
    for _round in range(ROUNDS):
        slot.append(timed(ours))
        ours_down()
        tool.append(timed(bare))
        bare_down()
    return statistics.median(slot), statistics.median(tool)


def good(result: dict[str, Any]) -> None:
    """Stop at a step that failed."""
    if result.get("failed"):
        raise SystemExit(result["msg"])


def pm2(folder: Path) -> tuple[float, float]:
    """Take both sides of PM2: two workers of the wallet."""
    world = World(folder, tools=CHECKOUT / ".cache" / "tools")
    try:
        world.up()
        quick: dict[str, Any] = {"smoke": [], "drain_timeout": 0}
        good(test_slot.run(world, "prepared", **quick))
        good(test_slot.run(world, "stopped", **quick))
        given, facts = test_slot.arguments(world, "started", **quick), world.facts
        env = dotenv.parse(Path(facts["env_file"]).read_text(encoding="utf-8"))
        release = f"{facts['app']}/releases/v1.0.0-{given['commit'][:12]}"
        plan = Plan("green", "v1.0.0", given["commit"], release, env, [service_from(given["services"][0])])
        process_file = folder / "bare.json"
        process_file.write_text(json.dumps(ecosystem("wallet", plan, f"{facts['app']}/logs")), encoding="utf-8")
        surroundings = {**world.env(), "PM2_HOME": facts["pm2_home"], "PM2_DISABLE_VERSION_CHECK": "true"}
        health = f"http://127.0.0.1:{facts['ports']['green']}/api/health"

        def bare() -> None:
            quiet([*facts["pm2_command"], "start", str(process_file)], surroundings)
            healthy(health, "v1.0.0")

        return in_turn(
            lambda: good(test_slot.run(world, "started", **quick)),
            lambda: good(test_slot.run(world, "stopped", **quick)),
            bare,
            lambda: quiet([*facts["pm2_command"], "delete", "wallet-web-green"], surroundings),
        )
    finally:
        world.wipe()


def compose(folder: Path) -> tuple[float, float]:
    """Take both sides of compose: one container of the till."""
    engine.start_engine()
    engine.base_image()
    host = AppHost("compose", folder, engine.compose())
    try:
        quick: dict[str, Any] = {"smoke": [], "drain_timeout": 0}
        good(host.run("prepared", **quick))
        given = host.arguments("started", **quick)
        release = folder / "app" / "releases" / f"v1.0.0-{given['commit'][:12]}"
        image = json.loads((release / ".sluice-image.json").read_text(encoding="utf-8"))["image"]
        env = dotenv.parse(host.env.read_text(encoding="utf-8"))
        plan = Plan("green", "v1.0.0", given["commit"], str(release), env, [service_from(given["services"][0], "compose")], "", image)
        rendered = folder / "bare.json"
        rendered.write_text(stacks.compose_text(host.app, plan, "", {"driver": "local", "options": {}}), encoding="utf-8")
        words = [*host.compose, "--project-name", f"{host.app}-bare", "--file", str(rendered)]

        def bare() -> None:
            quiet([*words, "up", "--detach"])
            healthy(f"http://127.0.0.1:{host.ports['green']}/api/v1/health", "v1.0.0")

        return in_turn(
            lambda: good(host.run("started", **quick)), lambda: good(host.run("stopped", **quick)), bare, lambda: quiet([*words, "down", "--timeout", "8"])
        )
    finally:
        engine.clean(host.app)


def main() -> None:
    figures: dict[str, Any] = {}
    for name, take in (("pm2", pm2), ("compose", compose)):
        folder = Path(tempfile.mkdtemp(prefix="sluice-bench-"))
        try:
            slot, bare = take(folder)
            figures |= {f"{name}_start_ratio": round(slot / bare, 3), f"{name}_bare_s": round(bare, 3)}
        except pytest.skip.Exception as reason:
            print(reason, file=sys.stderr)
            figures[f"{name}_start_ratio"] = None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
