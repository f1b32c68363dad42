#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every gate about the resources and programs of one host, side by side."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host
short_description: Judge whether a host has room for a release
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Compares disk, inodes and memory with what a release will need, and looks at processors, clock, versions, the PM2 daemon, open files, time zone,
    a pending reboot and draining workers. All gates run side by side.
  - Reads only; PM2 is never asked, because asking starts a daemon where none runs.
attributes:
  check_mode:
    description: Only reads, so check mode is the same.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
options:
  directory:
    description: Folder of the app, with its releases and logs.
    type: path
    required: true
  processes:
    description: Names that PM2 gives the processes of the live slot. Empty when nothing is live, or for a host without slots.
    type: list
    elements: str
    default: []
  beside:
    description: What a release starts beside the live slot, and memory is needed for. V(rehearsal) is one process of each service.
    type: str
    choices: [slot, rehearsal, nothing]
    default: slot
  pm2_home:
    description: C(PM2_HOME) of the app. Empty for a host without slots; then memory, open files and the daemon are not judged.
    type: path
    default: ''
  pm2_user:
    description: User that PM2 must run as. Empty for the one this runs as.
    type: str
    default: ''
  backup_directory:
    description: Folder that a backup will be written to. Empty for none.
    type: path
    default: ''
  app:
    description: The app whose last backup in O(backup_directory) tells how large the next one is.
    type: str
    default: ''
  drill:
    description: Whether the backup is restored into a copy on this host.
    type: bool
    default: false
  env_file:
    description: File with the database URL, which is asked for its size when there is no backup yet.
    type: path
  env_var:
    description: Variable of O(env_file) with the database URL.
    type: str
    default: DATABASE_URL
  client_directory:
    description: Folder of C(psql); found on PATH by default.
    type: path
  bytes:
    description: Bytes of C(release), C(logs) and C(backup) that are known better than by looking.
    type: dict
    default: {}
  commands:
    description: How each program is called whose version is judged, such as C(nginx), C(node), C(pm2), C(psql) or C(docker).
    type: dict
    default: {}
  minimum:
    description: Oldest version of each program of O(commands), over those the collection needs anyway (nginx 1.18, node 18, pm2 5, psql 12).
    type: dict
    default: {}
  path:
    description: Folders that are looked through before PATH.
    type: str
    default: ''
  nginx:
    description: How nginx is called, to count its draining workers. Empty for a host that is no edge.
    type: list
    elements: str
    default: []
  draining:
    description: Draining workers of nginx beyond which it warns.
    type: int
    default: 8
  open_files:
    description: Files that each process of the live slot must be allowed to open.
    type: int
    default: 4096
  clock_limit:
    description: Seconds by which the clock may be wrong.
    type: float
    default: 10.0
  now:
    description: Seconds since 1970 on the control node when this was sent.
    type: float
  time_zone:
    description: Time zone the host must be in, such as C(UTC). Empty to not judge it.
    type: str
    default: ''
  deadline:
    description: Seconds for all gates together; one that is not done by then cannot tell.
    type: float
    default: 30.0
"""

EXAMPLES = r"""
- name: Judge the app host
  sluice.deploy.host:
    directory: /srv/wallet
    processes: [wallet-web-blue]
    pm2_home: /srv/wallet/.pm2
    commands: {node: [node], pm2: [pm2]}
    now: "{{ now(utc=true).timestamp() }}"
"""

RETURN = r"""
gates:
  description: Every gate with its verdict and a sentence.
  returned: always
  type: list
  elements: dict
seconds:
  description: How long all gates took.
  returned: always
  type: float
"""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import backup_files, copies, host_facts, pg_facts, postgres, release_dir
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import read_text
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.host import kernel
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.nginx import Nginx
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.together import judged
from ansible_collections.sluice.deploy.plugins.module_utils.core import backups, host_rules
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words

_BYTES = ("release", "logs", "backup")


def disk_gates(params: dict[str, Any]) -> list[Gate]:
    directory, given = params["directory"], params["bytes"]
    number, volume = host_facts.volume(directory)
    volumes, needs = {number: volume}, []
    if params["pm2_home"]:
        last = next(iter(release_dir.folders(directory)), "")
        size, files = host_facts.tree(last) if last else (None, 0)
        grown = int(size * host_rules.BUILD_PEAK) if size is not None else None
        needs.append(host_rules.Need("release", number, given.get("release", grown), files))
        # Until the next one is pruned, both slots write as much as they have so far.
        needs.append(host_rules.Need("logs of both slots", number, given.get("logs", host_facts.tree(os.path.join(directory, "logs"))[0]), 4))
    if params["backup_directory"]:
        number, volume = host_facts.volume(params["backup_directory"])
        volumes.setdefault(number, volume)
        archive, tables = (given["backup"], given["backup"]) if "backup" in given else backup_bytes(params)
        needs.append(host_rules.Need("backup", number, archive, 8))
        if params["drill"]:
            needs.append(host_rules.Need("copy for the drill", number, tables))
    return host_rules.by_volume(needs, volumes)


def backup_bytes(params: dict[str, Any]) -> tuple[Optional[int], Optional[int]]:
    """Return the size of the next backup and of what it holds: as the last one, or as much as the tables when there is none."""
    place = copies.look_here(params["backup_directory"], params["app"])
    for last in sorted((copy for copy in place.copies or [] if copy.whole), key=lambda copy: copy.created)[-1:]:
        path = os.path.join(params["backup_directory"], place.files[last.release_id][0], backup_files.MANIFEST)
        manifest = backups.from_json(read_text(path) or "", path)
        return manifest.total_bytes(), sum(manifest.table_bytes.values())
    if not params["env_file"] or not os.path.isfile(params["env_file"]):
        return None, None
    url = postgres.read_url(params["env_file"], params["env_var"])
    with postgres.connect(url, "preflight", params["client_directory"]) as clients, clients.session(postgres.Deadline(10)) as session:
        held = sum(int(row["bytes"]) for row in pg_facts.tables(session))
    return held, held


def slot_gates(params: dict[str, Any]) -> list[Gate]:
    processes, home = host_facts.Processes(), params["pm2_home"]
    running = processes.of_pm2(home, params["processes"])
    try:
        installed = host_facts.version("pm2", params["commands"]["pm2"], params["path"]) if "pm2" in params["commands"] else ""
    except SluiceError:
        installed = ""  # the gate of its version says so
    user = params["pm2_user"] or host_facts.user_of(os.geteuid())
    alike = running
    if params["beside"] == "rehearsal":
        alike = [max(one, key=lambda process: process.memory) for name in params["processes"] if (one := processes.of_pm2(home, [name]))]
    return [
        host_rules.memory(kernel("meminfo"), alike, params["beside"]),
        host_rules.daemon(home, processes.daemons(home), running, user, installed),
        host_rules.open_files(running, params["open_files"]),
    ]


def version_gate(params: dict[str, Any], name: str) -> list[Gate]:
    minimum = str({**host_rules.MINIMUM, **params["minimum"]}.get(name, "0"))
    return [host_rules.version(name, host_facts.version(name, params["commands"][name], params["path"]), minimum)]


def draining_gate(params: dict[str, Any]) -> list[Gate]:
    nginx = Nginx(params["nginx"])
    master = nginx.test().pid
    seen = nginx.draining(master)
    return [host_rules.draining(master, seen.workers, seen.connections, params["draining"])]


def clock_gate(params: dict[str, Any], came: float) -> list[Gate]:
    return [host_rules.clock(host_facts.clock(), None if params["now"] is None else came - params["now"], params["clock_limit"])]


def main() -> None:
    came = time.time()
    names = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "processes": names,
            "beside": {"type": "str", "choices": ["slot", "rehearsal", "nothing"], "default": "slot"},
            "pm2_home": {"type": "path", "default": ""},
            "pm2_user": {"type": "str", "default": ""},
            "backup_directory": {"type": "path", "default": ""},
            "app": {"type": "str", "default": ""},
            "drill": {"type": "bool", "default": False},
            "env_file": {"type": "path"},
            "env_var": {"type": "str", "default": "DATABASE_URL"},
            "client_directory": {"type": "path"},
            "bytes": {"type": "dict", "default": {}},
            "commands": {"type": "dict", "default": {}},
            "minimum": {"type": "dict", "default": {}},
            "path": {"type": "str", "default": ""},
            "nginx": names,
            "draining": {"type": "int", "default": 8},
            "open_files": {"type": "int", "default": 4096},
            "clock_limit": {"type": "float", "default": 10.0},
            "now": {"type": "float"},
            "time_zone": {"type": "str", "default": ""},
            "deadline": {"type": "float", "default": 30.0},
        },
        supports_check_mode=True,
    )
    params, began = module.params, time.monotonic()
    with in_words(module):
        params["bytes"] = _sizes(params["bytes"])
    jobs: dict[str, Callable[[], list[Gate]]] = {"disk forecast": partial(disk_gates, params)}
    if params["pm2_home"]:
        jobs["live slot"] = partial(slot_gates, params)
    jobs["cpu"] = lambda: [host_rules.cpu(kernel("loadavg"), os.cpu_count() or 0)]
    jobs["clock"] = partial(clock_gate, params, came)
    jobs.update({f"version {name}": partial(version_gate, params, name) for name in params["commands"]})
    if params["time_zone"]:
        jobs["time zone"] = lambda: [host_rules.time_zone(host_facts.time_zone(), params["time_zone"])]
    jobs["pending reboot"] = lambda: [host_rules.reboot(*host_facts.reboot())]
    if params["nginx"]:
        jobs["draining workers"] = partial(draining_gate, params)
    # The session of the database handles signals, which only the first thread may.
    gates = judged(jobs, began + params["deadline"], here="disk forecast")
    module.exit_json(changed=False, actions=[], gates=[gate.as_dict() for gate in gates], seconds=round(time.monotonic() - began, 3))


def _sizes(given: dict[str, Any]) -> dict[str, int]:
    for name, size in given.items():
        if name not in _BYTES or not str(size).isdecimal():
            raise SluiceError(f"preflight_host_bytes: {name}: {size} is not understood.", "Allowed are release, logs and backup in bytes: {backup: 2000000000}")
    return {name: int(size) for name, size in given.items()}


if __name__ == "__main__":
    main()
