# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the commands cost beside a playbook with one task, taken in turn on this machine.

    .venv/bin/python benchmarks/commands.py

Prints one JSON object as its last line:

- ``canary_ratio``: canary.yml with a share, on one edge; goal 1.6.
- ``rollback_ratio``, ``rollback_safe_ratio``: rollback.yml whole, and until the last request to the slot it leaves; goals 1.8 and 1.4.
- ``release_ratio``, ``release_remote_runs``: release.yml with canary times at zero; goals 15 and 20.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.sandbox.demo import Load
from tests.sandbox.runner import run_playbook
from tests.sandbox.world import CHECKOUT, World

ROUNDS = 5
ZERO = {
    "canary_steps": [{"percent": percent, "min": 0, "max": 0, "then": "promote"} for percent in (5, 25, 50, 75, 100)],
    "canary_watch_seconds": 0,
    "canary_accept_blind": True,
}
HOLD = {"canary_steps": [{"percent": 5, "min": 0, "max": 0, "then": "hold"}, {"percent": 100, "min": 0, "max": 0, "then": "hold"}], "canary_accept_blind": True}
ONE_TASK = """---
- name: One task
  hosts: sandbox
  gather_facts: false
  tasks:
    - name: True
      ansible.builtin.command: "true"
"""


def timed(world: World, words: list[str], fine: tuple[int, ...] = (0,)) -> float:
    """Run a command to its end and return its seconds."""
    began = time.monotonic()
    done = subprocess.run(words, cwd=CHECKOUT, env=world.env(), capture_output=True, text=True, check=False)
    if done.returncode not in fine:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return time.monotonic() - began


def play(world: World, name: str, variables: dict[str, object]) -> list[str]:
    """Return the words of a playbook with these variables."""
    return world.playbook(name, "-e", json.dumps(variables))


def last_bad(world: World, slot: str) -> float:
    """Return when the slot's last request came, by the edge's log."""
    newest = 0.0
    for line in Path(world.facts["edge_log"]).read_text(encoding="utf-8").splitlines():
        seen = json.loads(line)
        if seen["slot"] == slot:
            newest = max(newest, seen["t"])
    return newest


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="sluice-bench-"))
    world = World(folder, tools=CHECKOUT / ".cache" / "tools")
    try:
        world.up()
        one = folder / "one.yml"
        one.write_text(ONE_TASK, encoding="utf-8")
        single = [play(world, "status", {})[0], "-i", str(CHECKOUT / "inventories/sandbox"), str(one)]
        timed(world, single)

        base, release = [], []
        for _round in range(3):
            base.append(timed(world, single))
            release.append(timed(world, play(world, "release", {"release_version": "v1.0.0", **ZERO})))
            timed(world, play(world, "rollback", {}))
        figures: dict[str, object] = {"release_ratio": statistics.median(release) / statistics.median(base)}

        timed(world, play(world, "release", {"release_version": "v1.0.0", **HOLD}), fine=(0, 2))
        base, canary = [], []
        for turn in range(ROUNDS):
            base.append(timed(world, single))
            canary.append(timed(world, play(world, "canary", {"canary_percent": 3 + turn % 2, "canary_force_reason": "benchmark"})))
        figures["canary_ratio"] = statistics.median(canary) / statistics.median(base)

        timed(world, play(world, "rollback", {}))
        base, whole, safe = [], [], []
        with Load(world):
            for _round in range(ROUNDS):
                timed(world, play(world, "release", {"release_version": "v1.0.0", **ZERO}))
                base.append(timed(world, single))
                began = time.time()
                whole.append(timed(world, play(world, "rollback", {})))
                time.sleep(0.5)
                safe.append(last_bad(world, "green") - began)
        figures["rollback_ratio"] = statistics.median(whole) / statistics.median(base)
        figures["rollback_safe_ratio"] = statistics.median(safe) / statistics.median(base)
        (folder / "runner").mkdir()
        counted = run_playbook(world, folder / "runner", "release", (), 0, {"release_version": "v1.0.0", **ZERO})
        figures["release_remote_runs"] = len(counted.remote_runs())
        figures["one_task_s"] = statistics.median(base)
        print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()}))
    finally:
        world.wipe()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
