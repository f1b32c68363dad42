#!/usr/bin/env python3
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The test hosts as an inventory: containers that boot systemd, reached by SSH at the address Docker gave them."""
from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path

NODES = ["sluice-edge1", "sluice-edge2", "sluice-app1", "sluice-app2", "sluice-db1"]  # with all that a release needs, whatever each is used for
BARE = ["sluice-bare1"]  # with nothing but Python and SSH
IMAGES = {
    **dict.fromkeys(NODES, os.environ.get("SLUICE_TEST_IMAGE") or "sluice-test:debian12"),
    **dict.fromkeys(BARE, os.environ.get("SLUICE_BARE_IMAGE") or "sluice-test-bare:debian12"),
}
CHECKOUT = Path(__file__).resolve().parents[2]
KEYS = CHECKOUT / ".cache" / "molecule"
# Two checkouts on one machine must not meet in each other's containers.
SUFFIX = hashlib.sha256(os.fsencode(CHECKOUT)).hexdigest()[:8]
NETWORK = f"sluice-{SUFFIX}"


def container(node: str) -> str:
    """Return the name of the node's container."""
    return f"{node}-{SUFFIX}"


def addresses() -> dict[str, str]:
    """Return the address of each container that runs, by its name; none where there is no engine yet."""
    template = "{{ .Name }} {{ range .NetworkSettings.Networks }}{{ .IPAddress }}{{ end }}"
    try:
        shown = subprocess.run(
            ["docker", "inspect", "--format", template, *map(container, IMAGES)], check=False, capture_output=True, text=True, timeout=30
        ).stdout
    except OSError:
        return {}
    rows = (line.lstrip("/").split() for line in shown.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 2}


def inventory() -> dict[str, object]:
    """Return what Ansible asks of an inventory program."""
    known = addresses()
    options = [f"UserKnownHostsFile={KEYS / 'known_hosts'}", "StrictHostKeyChecking=yes", f"IdentityFile={KEYS / 'id_ed25519'}", "IdentitiesOnly=yes"]
    hosts = {}
    for node, image in IMAGES.items():
        # Docker may give a container another address when it starts again; its key is known by its name.
        arguments = " ".join(f"-o {option}" for option in [*options, f"HostKeyAlias={node}"])
        reached = {"ansible_host": known.get(container(node), node), "ansible_ssh_common_args": arguments}
        hosts[node] = {**reached, "container": container(node), "image": image}
    shared = {"ansible_user": "ops", "container_network": NETWORK, "keys": str(KEYS)}
    return {"nodes": {"hosts": NODES, "vars": shared}, "bare": {"hosts": BARE, "vars": shared}, "_meta": {"hostvars": hosts}}


if __name__ == "__main__":
    print(json.dumps(inventory()))
