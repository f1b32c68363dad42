# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a broken version keeps its share of the visitors: real releases in the sandbox, under load, by the edge's own log.

    .venv/bin/python benchmarks/broken_canary.py

Prints one JSON object as its last line:

- ``bad_s``: v1.1.0-bad, which fails 5 % of its requests; from its first bad answer to the last request it got; goal 15.
- ``dead_s``: the same for v1.5.0-dead, which fails every request; goal 5.
- ``bad_requests``, ``bad_errors``, ``dead_requests``, ``dead_errors``: what the canary got and what it failed.
- ``bad_result``, ``dead_result``: what became of the release.
- ``lost``: visitors' requests that got no answer at all, or an error of the edge's own.

The steps, limits and share are those of the sandbox's inventory, so this is what ``bin/demo bad`` does. A version that
is not taken back has no figure: ``null``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.sandbox.demo import Load, account_of
from tests.sandbox.world import CHECKOUT, World

VERSIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "bad": ("v1.1.0-bad", {}),
    # Its smoke would keep it from ever getting a visitor.
    "dead": ("v1.5.0-dead", {"app_smoke": []}),
}


def say(text: str) -> None:
    """Tell whoever waits what is being done."""
    print(text, file=sys.stderr, flush=True)


def attempts(world: World, slot: str, since: float) -> list[tuple[float, bool]]:
    """Return when each request of the slot ended, and whether the slot failed it; a retry that saved the visitor does not hide it."""
    host = f"127.0.0.1:{world.facts['ports'][slot]}"
    found = []
    for line in Path(world.facts["edge_log"]).read_text(encoding="utf-8").splitlines():
        seen = json.loads(line)
        if seen["t"] >= since and seen["ua"].split(", ")[0] == host:
            status = seen["us"].split(", ")[0]
            found.append((seen["t"], not status.isdigit() or int(status) >= 500))
    return found


def release(world: World, name: str, version: str, variables: dict[str, Any]) -> dict[str, Any]:
    """Release a broken version under load and return its figures."""
    say(f"{version} under load")
    before = len(world.ledger())
    with Load(world) as load:
        time.sleep(1)
        words = world.playbook("release", "-e", json.dumps({"release_version": version, **variables}))
        done = subprocess.run(words, cwd=CHECKOUT, env=world.env(), capture_output=True, text=True, check=False)
        time.sleep(1)
    report = account_of(world, before)
    shares = [record["at"] for record in world.ledger()[before:] if record["event"] == "share"]
    if not shares:
        raise SystemExit(f"{version} never got a visitor; the release ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    seen = attempts(world, report["manifest"]["idle"], shares[0])
    errors = [at for at, failed in seen if failed]
    taken_back = report["result"] == "rolled_back" and errors
    say(f"{report['result']}: {report['reason']}")
    return {
        f"{name}_s": round(seen[-1][0] - errors[0], 2) if taken_back else None,
        f"{name}_requests": len(seen),
        f"{name}_errors": len(errors),
        f"{name}_result": report["result"],
        "lost": load.seen()["requests"]["failed"],
    }


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="sluice-bench-"))
    world = World(folder, tools=CHECKOUT / ".cache" / "tools", say=say)
    figures: dict[str, Any] = {}
    try:
        world.up()
        for name, (version, variables) in VERSIONS.items():
            found = release(world, name, version, variables)
            figures = {**figures, **found, "lost": figures.get("lost", 0) + found["lost"]}
        print(json.dumps(figures))
    finally:
        world.wipe()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
