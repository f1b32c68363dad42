# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job, for a person to watch: a release under load, a bad one, a rollback, and the account of each."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.sandbox.world import CHECKOUT, World

RATE = 150
NEXT = {
    "promoted": ("bin/demo bad", "bin/demo rollback", "bin/demo status", "bin/demo down"),
    "rolled_back": ("bin/demo status", "bin/demo", "bin/demo down"),
    "refused": ("bin/demo status", "bin/demo", "bin/demo down"),
    "failed": ("bin/demo status", "bin/demo", "bin/demo down"),
}


class Load:
    """Steady requests on the public port; every one that is lost is counted."""

    def __init__(self, world: World) -> None:
        self._out = world.folder / "load.json"
        self._out.unlink(missing_ok=True)
        script = CHECKOUT / "tests/sandbox/load.py"
        words = [sys.executable, str(script), "--url", world.url, "--rate", str(RATE), "--connections", "12", "--visitors", "400", "--out", str(self._out)]
        self._process = subprocess.Popen(words, env=world.env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> Load:
        deadline = time.monotonic() + 15
        while not self._out.exists() or not self.seen()["requests"]["total"]:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("The load generator did not get a single answer; bin/demo down and try again.")
            time.sleep(0.1)
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def seen(self) -> dict[str, Any]:
        """Return the counts so far."""
        counts: dict[str, Any] = json.loads(self._out.read_text(encoding="utf-8"))
        return counts


def say(text: str) -> None:
    """Print one line at once."""
    print(text, flush=True)


def play(world: World, name: str, *words: str) -> int:
    """Run a playbook before the operator's eyes and return its exit code."""
    shown = " ".join(("ansible-playbook -i inventories/sandbox", f"sluice.deploy.{name}", *words))
    say(f"\n$ {shown}")
    return subprocess.run(world.playbook(name, *words), cwd=CHECKOUT, env=world.env(), check=False).returncode


def account_of(world: World, since: int) -> dict[str, Any]:
    """Return the report of the release that the ledger's newest record belongs to; empty when nothing was recorded."""
    records = world.ledger()[since:]
    newest = next((record["release"] for record in reversed(records) if record.get("release")), "")
    path = Path(world.facts["ledger"], "reports", f"{newest}.json")
    return {**json.loads(path.read_text(encoding="utf-8")), "path": str(path)} if newest and path.exists() else {}


def under_load(world: World, command: str, name: str, *words: str) -> int:
    """Run a playbook under load, print the account, leave demo.json, and return the exit code of the demo."""
    before = len(world.ledger())
    say(f"\n{RATE} requests/s on {world.url}, POSTs included; every lost one is counted.")
    with Load(world) as load:
        time.sleep(1)
        rc = play(world, name, *words)
        time.sleep(1)
    counts = load.seen()["requests"]
    report = account_of(world, before)
    result = report.get("result", "refused") if report else "refused"
    done = {
        "command": command,
        "result": result,
        "release_id": report.get("release_id", ""),
        "live_slot": report.get("live_slot", ""),
        "live_version": report.get("live_version", ""),
        "requests": {"total": counts["total"], "failed": counts["failed"], "app_errors": counts["app_errors"], "by_slot": counts["by_slot"]},
        "phases": [{key: phase[key] for key in ("name", "seconds", "outcome")} for phase in report.get("phases", [])],
        "report": report.get("path", ""),
    }
    (world.folder / "demo.json").write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
    tell(done)
    expected = {"release": "promoted", "bad": "rolled_back", "rollback": "rolled_back"}[command]
    if counts["failed"]:
        say(f"\n{counts['failed']} requests were lost; it must be 0. See {world.folder / 'load.json'}.")
        return 1
    return 0 if result == expected and bool(rc) == (command == "bad") else 1


def tell(done: dict[str, Any]) -> None:
    """Print the account."""
    requests = done["requests"]
    say("\nThe account")
    for phase in done["phases"]:
        seconds = f"{phase['seconds']:6.1f} s" if phase["seconds"] is not None else "     cut"
        say(f"  {phase['name']:<10} {seconds}  {phase['outcome']}")
    say(
        f"  result     {done['result'].replace('_', ' ')}; {done['live_version'] or 'the live version'} serves"
        + (f" in {done['live_slot']}" if done["live_slot"] else "")
    )
    slots = ", ".join(f"{count:,} by {slot}" for slot, count in requests["by_slot"].items() if count)
    say(f"  requests   {requests['total']:,} in all, {slots}")
    say(f"  failed     {requests['failed']}" + (f"; the app itself answered {requests['app_errors']} with an error" if requests["app_errors"] else ""))
    if done["report"]:
        say(f"  report     {done['report']}")
    say("Try next:    " + "   ".join(NEXT[done["result"]]))


def main(command: str) -> int:
    """Run one command of bin/demo and return its exit code."""
    world = World(CHECKOUT / ".sandbox", say=lambda text: say(f"  {text}"))
    if command == "down":
        world.wipe()
        say("Everything has ended; the installed tools are kept in .sandbox/tools.")
        return 0
    if command == "status":
        if not world.exists:
            say("Nothing is up. bin/demo brings it up and releases v1.0.0.")
            return 0
        return play(world, "status")
    if command == "rollback":
        if not world.exists:
            say("Nothing is up, so there is nothing to take back. bin/demo brings it up and releases v1.0.0.")
            return 1
        world.up()
        return under_load(world, command, "rollback")
    if command == "release":
        say("Bringing up a fresh world in .sandbox/")
        world.wipe()
    elif not world.exists:
        say("Bringing up a world in .sandbox/")
    world.up()
    version = {"release": "v1.0.0", "bad": "v1.1.0-bad"}[command]
    return under_load(world, command, "release", "-e", f"release_version={version}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "release"))
