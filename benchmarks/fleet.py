# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a release costs on several hosts beside one of each, over real SSH, with the build prepared and canary times at zero.

    .venv/bin/python benchmarks/fleet.py

Needs Docker: the hosts are those of the Molecule scenarios, and all of them share this machine's cores, which real ones do not. Prints one JSON object as
its last line:

- ``fleet_ratio``: wall of release.yml on 2 edges, 2 app hosts and a database host / on 1 edge, 1 app host and the same database host, taken in turns,
  medians; goal 1.6. ``wall_2_2_s`` and ``wall_1_1_s`` are the two.
- ``runs_per_host``: modules that one release sends to the host that gets the most, with the ledger on the control node; goal 30. ``runs`` has each host.
"""

from __future__ import annotations

import collections
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ansible_runner

from tests.sandbox.runner import HERE

CHECKOUT = Path(__file__).resolve().parents[1]
TURNS = 3
BIN = Path(sys.executable).parent
STATE = CHECKOUT / ".cache" / "molecule" / "state"
MOLECULE = {
    "MOLECULE_GLOB": "molecule/*/molecule.yml",
    "MOLECULE_EPHEMERAL_DIRECTORY": str(STATE),
    "ANSIBLE_HOME": str(CHECKOUT / ".cache" / "molecule" / "ansible"),
    "ANSIBLE_SSH_CONTROL_PATH_DIR": f"/tmp/sluice-ssh-{os.getuid()}",
    "NO_COLOR": "1",
}
SIZES = {"1_1": ("sluice-edge1", "sluice-app1"), "2_2": ("sluice-edge1:sluice-edge2", "sluice-app1:sluice-app2")}
ZERO = {
    "canary_steps": [{"percent": percent, "min": 0, "max": 0, "then": "promote"} for percent in (5, 25, 50, 75, 100)],
    "canary_watch_seconds": 0,
}


def say(text: str) -> None:
    """Tell how far it is; only the last line is for programs."""
    print(text, file=sys.stderr, flush=True)


def environment() -> dict[str, str]:
    """Return the environment of Molecule, and of a playbook of ours."""
    return {**os.environ, **MOLECULE, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg")}


def run(*words: str) -> float:
    """Run a command to its end and return its seconds."""
    began = time.monotonic()
    done = subprocess.run(words, cwd=CHECKOUT, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
    return time.monotonic() - began


class Fleet:
    """The hosts in two inventories, and the playbooks that run on them."""

    def __init__(self, folder: Path) -> None:
        self.variables: dict[str, Any] = {
            # Where it lies by default: what is written down costs no module then.
            "release_ledger_host": "localhost",
            "release_ledger_directory": str(folder / "ledger"),
            "release_report_directory": str(folder / "reports"),
            "canary_accept_blind": True,
        }
        self.inventories = {}
        for size, (edges, apphosts) in SIZES.items():
            roles = {"edges": edges, "apphosts": apphosts, "databases": "sluice-db1"}
            groups = {role: {"hosts": dict.fromkeys(names.split(":"), {})} for role, names in roles.items()}
            (folder / size).mkdir()
            (folder / size / "hosts.yml").write_text(json.dumps({**groups, "localhost": {"hosts": {}}}), encoding="utf-8")
            (folder / size / "group_vars").symlink_to(CHECKOUT / "molecule/release/inventory/group_vars")
            self.inventories[size] = [str(CHECKOUT / "molecule/inventory"), str(folder / size)]

    def play(self, size: str, name: str, **variables: Any) -> float:
        """Run one of the collection's playbooks and return its seconds."""
        inventories = [word for path in self.inventories[size] for word in ("-i", path)]
        return run(str(BIN / "ansible-playbook"), *inventories, f"sluice.deploy.{name}", "-e", json.dumps({**self.variables, **variables}))

    def counted(self, folder: Path, size: str, name: str, **variables: Any) -> collections.Counter[str]:
        """Run a playbook and return how many modules each host was sent."""
        done = ansible_runner.run(
            private_data_dir=str(folder),
            project_dir=str(CHECKOUT),
            playbook=f"sluice.deploy.{name}",
            inventory=self.inventories[size],
            extravars={**self.variables, **variables},
            envvars=environment(),
            quiet=True,
        )
        if done.rc:
            raise SystemExit(f"{name} ended with {done.rc}:\n{done.stdout.read()[-4000:]}")
        ended = [event["event_data"] for event in done.events if event["event"] in ("runner_on_ok", "runner_on_failed")]
        return collections.Counter(about["host"] for about in ended if str(about.get("resolved_action") or about["task_action"]).rpartition(".")[2] not in HERE)


def measure(folder: Path) -> dict[str, Any]:
    """Return the figures; the hosts have the first version live."""
    fleet = Fleet(folder)
    say("The first release, which builds")
    fleet.play("2_2", "release", release_version="v1.0.0", **ZERO)
    fleet.play("2_2", "rollback")
    walls: dict[str, list[float]] = {size: [] for size in SIZES}
    for _turn in range(TURNS):
        for size, taken in walls.items():
            # Each edge knows only the app hosts that are there.
            fleet.play(size, "edge")
            taken.append(fleet.play(size, "release", release_version="v1.0.0", **ZERO))
            fleet.play(size, "rollback")
            say(f"{size}: {taken[-1]:.1f} s")
    (folder / "runner").mkdir()
    fleet.play("2_2", "edge")
    runs = fleet.counted(folder / "runner", "2_2", "release", release_version="v1.0.0", **ZERO)
    wall = {size: statistics.median(taken) for size, taken in walls.items()}
    return {
        "fleet_ratio": round(wall["2_2"] / wall["1_1"], 3),
        "wall_2_2_s": round(wall["2_2"], 1),
        "wall_1_1_s": round(wall["1_1"], 1),
        "runs_per_host": max(runs.values()),
        "runs": dict(sorted(runs.items())),
    }


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="sluice-bench-"))
    harness = CHECKOUT / "tests/harness"
    run(str(harness / "engine.sh"))
    for kind, name in (("full", "SLUICE_TEST_IMAGE"), ("bare", "SLUICE_BARE_IMAGE")):
        made = subprocess.run([str(harness / "image.sh"), kind], capture_output=True, text=True, check=True, timeout=1200)
        os.environ[name] = made.stdout.strip()
    try:
        say("The hosts, and the first version")
        run("molecule", "reset", "-s", "default")
        run("molecule", "destroy", "-s", "default")
        run("molecule", "create", "-s", "default")
        run("molecule", "reset", "-s", "release")
        run("molecule", "prepare", "-s", "release")
        print(json.dumps(measure(folder)))
    finally:
        run("molecule", "destroy", "-s", "default")
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
