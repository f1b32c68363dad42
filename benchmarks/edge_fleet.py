# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How much longer a change of share takes on several edges than on one, each with an nginx of its own, all of them on this machine.

    .venv/bin/python benchmarks/edge_fleet.py

Prints one JSON object as its last line:

- ``growth_10``, ``growth_5``: wall of a playbook that changes the share on 10 or 5 edges through the role ``edge`` / on 1, ``buckets``. In turns, medians;
  goal 3 at 10. ``wall_1_s``, ``wall_5_s`` and ``wall_10_s`` are the three. All edges share this machine's cores, real ones do not.
- ``growth_10_weights``, ``growth_5_weights``: the same with ``weights``, where every edge tries the change before one switches.
- ``growth_10_nothing``: the same for a playbook that runs one ``command: true`` on each edge: what Ansible itself costs on this machine.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.load import Hosts, binaries, edge_of, say
from tests.e2e.edges import Edge
from tests.sandbox.world import CHECKOUT, World

SIZES = (1, 5, 10)
SHARES = (5, 25, 50, 100, 0)
TURNS = 5
PLAYBOOKS = {
    "share": """---
- name: Change the share
  hosts: edges
  gather_facts: false
  tasks:
    - name: Know the app
      ansible.builtin.import_role:
        name: sluice.deploy.app
        rolespec_validate: false

    - name: Move the traffic
      ansible.builtin.include_role:
        name: sluice.deploy.edge
        rolespec_validate: false
      vars:
        edge_live: blue
        edge_percent: "{{ wanted_percent }}"
""",
    "nothing": """---
- name: One task
  hosts: edges
  gather_facts: false
  tasks:
    - name: True
      ansible.builtin.command: "true"
""",
}


class Fleet:
    """The edges, and the playbooks that are run on some of them."""

    def __init__(self, folder: Path, edges: list[Edge], switch: str) -> None:
        self.folder, self.edges, self.switch = folder, edges, switch
        self.world = World(folder)
        (folder / "tmp").mkdir(exist_ok=True)
        for name, text in PLAYBOOKS.items():
            (folder / f"{name}.yml").write_text(text, encoding="utf-8")
        for size in SIZES:
            (folder / f"inventory{size}.json").write_text(json.dumps(self.inventory(edges[:size])), encoding="utf-8")

    def inventory(self, edges: list[Edge]) -> dict[str, object]:
        """Return an inventory of these edges; JSON is YAML."""
        hosts = {
            f"edge{number}": {
                "edge_directory": str(edge.folder / "sluice"),
                "edge_control": edge.control,
                "edge_nginx_command": edge.command,
                "edge_log": str(edge.folder / "wallet.log"),
            }
            for number, edge in enumerate(edges)
        }
        ports = {slot: int(addresses[0].partition(":")[2]) for slot, addresses in edges[0].slots.items()}
        everywhere = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "app_name": "wallet",
            "app_services": [{"name": "web", "health_path": "/health", "ports": ports}],
            "edge_switch": self.switch,
            "edge_cookie_secure": False,
        }
        return {"all": {"vars": everywhere, "children": {"edges": {"hosts": hosts}, "apphosts": {"hosts": {"edge0": {}}}}}}

    def run(self, playbook: str, size: int, percent: int) -> float:
        """Run a playbook on so many edges and return its seconds."""
        command = str(Path(sys.executable).parent / "ansible-playbook")
        words = [command, "-i", str(self.folder / f"inventory{size}.json"), "-f", "10", str(self.folder / f"{playbook}.yml"), "-e", f"wanted_percent={percent}"]
        began = time.monotonic()
        done = subprocess.run(words, cwd=CHECKOUT, env=self.world.env(), capture_output=True, text=True, timeout=120, check=False)
        taken = time.monotonic() - began
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
        if playbook == "share":
            for edge in self.edges[:size]:
                self.expect(edge, percent)
        return taken

    def expect(self, edge: Edge, percent: int) -> None:
        """See that the edge really serves the share."""
        link, upstream = edge.generated / "traffic", (edge.generated / "config" / "http.conf").read_text(encoding="utf-8")
        found = link.readlink().name.split("-")[2] if self.switch == "buckets" else json.loads(upstream.splitlines()[1][len("# sluice: ") :])["percent"]
        if int(found) != percent:
            raise SystemExit(f"{edge.folder} has {found} % instead of {percent} %.")


def growth(fleet: Fleet, playbook: str, turns: int) -> dict[int, float]:
    """Return the median wall of a playbook for each size, in turns."""
    fleet.run(playbook, SIZES[-1], SHARES[-1])
    taken: dict[int, list[float]] = {size: [] for size in SIZES}
    for percent in itertools.islice(itertools.cycle(SHARES), turns):
        for size in SIZES:
            taken[size].append(fleet.run(playbook, size, percent))
    say("  " + ", ".join(f"{size}: {statistics.median(each):.2f} s ({min(each):.2f}-{max(each):.2f})" for size, each in taken.items()))
    return {size: statistics.median(each) for size, each in taken.items()}


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="sluice-bench-"))
    binary = binaries()[""]
    hosts = Hosts(folder, binary)
    figures: dict[str, float] = {}
    try:
        for switch, ending in (("buckets", ""), ("weights", "_weights")):
            say(f"A change of share on {SIZES} edges, {switch}")
            with contextlib.ExitStack() as stack:
                edges = [stack.enter_context(edge_of(folder, f"{switch}{number}", binary, hosts, switch)) for number in range(SIZES[-1])]
                fleet = Fleet(folder, edges, switch)
                walls = growth(fleet, "share", TURNS)
                figures |= {f"growth_{size}{ending}": walls[size] / walls[1] for size in reversed(SIZES[1:])}
                figures |= {f"wall_{size}{ending}_s": wall for size, wall in walls.items()}
                if switch == "buckets":
                    say(f"One `true` on {SIZES} edges")
                    walls = growth(fleet, "nothing", TURNS)
                    figures["growth_10_nothing"] = walls[10] / walls[1]
    finally:
        hosts.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({key: round(value, 3) for key, value in figures.items()}))


if __name__ == "__main__":
    main()
