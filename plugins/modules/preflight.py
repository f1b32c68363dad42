#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every gate of one host before a release, all at once."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Judge whether a host is ready for a release
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Runs the gates whose options are given and returns all their verdicts together; one failing gate does not hide the next.
  - Reads only. Values of the environment are never shown, only the names of variables and the length of what they hold.
attributes:
  check_mode:
    description: Only reads, so check mode is the same.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
options:
  source:
    description: Git repository that O(version) must be a tag, branch or commit of, or an archive or folder on the control node.
    type: str
  source_kind:
    description: What O(source) is. All but a git repository is looked at by the action plugin, on the control node.
    type: str
    choices: [git, archive, directory]
    default: git
  source_sha256:
    description: SHA-256 that an archive must have.
    type: str
    default: ''
  build_where:
    description: Where the version is built. With all but V(target) this host need not reach O(source), so the action plugin asks it on the control node.
    type: str
    default: target
  build_directory:
    description: Folder on the control node in which the action plugin keeps an archive that it fetched.
    type: path
    default: ''
  version:
    description: Version to release.
    type: str
  env_file:
    description: File with the environment of the processes. It must exist, be a plain file of mode 0600 or stricter, and satisfy O(env).
    type: path
  env:
    description: The schema; for each variable its kind and the further rules that C(app_env) of the role app describes.
    type: dict
    default: {}
  env_keys:
    description: Whether keys must be V(live) or V(test) ones. Empty to not judge it.
    type: str
    choices: ['', live, test]
    default: ''
  env_owner:
    description: User that must own O(env_file). Empty to not judge it.
    type: str
    default: ''
  env_template:
    description: Text of a template such as C(.env.example) whose names O(env_file) must hold, no more and no less. Empty for none.
    type: str
    default: ''
  env_staging:
    description: Fingerprints of staging's environment, as M(sluice.deploy.env_file) writes them.
    type: dict
  env_platform:
    description: Fingerprints of the environment that a platform holds; names and values must be those of O(env_file).
    type: dict
  live:
    description: Slot that is live. Variables that are C(stable) must have the value it was started with.
    type: str
    default: ''
  env_var:
    description: Variable of O(env_file) with the database URL.
    type: str
    default: DATABASE_URL
  directory:
    description: Folder that needs O(min_free_bytes).
    type: path
  min_free_bytes:
    description: Bytes that must be free in O(directory).
    type: int
    default: 0
  ports:
    description: TCP ports on 127.0.0.1 that nobody may listen on.
    type: list
    elements: int
    default: []
  database:
    description: Whether the database of O(env_file) must answer and its clients be new enough.
    type: bool
    default: false
  client_directory:
    description: Folder of C(psql) and C(pg_dump); found on PATH by default.
    type: path
"""

EXAMPLES = r"""
- name: Judge the app host
  sluice.deploy.preflight:
    source: /srv/git/wallet.git
    version: v1.0.0
    env_file: /etc/wallet/production.env
    env: {DATABASE_URL: {kind: postgres-url}}
    ports: [3002, 3003]
"""

RETURN = r"""
gates:
  description: Every gate with its verdict and a sentence.
  returned: always
  type: list
  elements: dict
commit:
  description: Commit that O(version) stands for, 40 hex digits; for an archive or a folder, the first 40 of the SHA-256 of its content.
  returned: when O(source) is given and the version is known
  type: str
env_fingerprint:
  description: First 16 hex digits of the SHA-256 of the parsed environment.
  returned: when O(env_file) could be read
  type: str
"""

import os
import socket
import time
from collections.abc import Callable
from typing import Any, Union

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import env_file, git, pg_facts, postgres, release_dir
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import free_bytes, read_text
from ansible_collections.sluice.deploy.plugins.module_utils.core import archives, dotenv, env, env_place
from ansible_collections.sluice.deploy.plugins.module_utils.core.env_compare import Prints, prints_from
from ansible_collections.sluice.deploy.plugins.module_utils.core.env_schema import rules_from
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.ledger import digest
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import ERROR, FAIL, PASS, Gate

MIB = 1024 * 1024
Judge = Callable[[dict[str, Any], dict[str, Any]], Union[Gate, list[Gate]]]


def source_gate(params: dict[str, Any], facts: dict[str, Any]) -> Gate:
    facts["commit"] = git.resolve(params["source"], params["version"])
    return Gate("source", PASS, f"{params['version']} is commit {facts['commit'][:12]}", value=facts["commit"])


def file_gate(params: dict[str, Any], facts: dict[str, Any]) -> Gate:
    return env_place.judge(env_file.look(params["env_file"]), params["env_owner"])


def env_gates(params: dict[str, Any], facts: dict[str, Any]) -> list[Gate]:
    text = read_text(params["env_file"]) or ""
    facts["env_fingerprint"] = digest(dotenv.read(text)[0])[:16]
    around = env.Around(
        params["env_keys"],
        time.time(),
        prints_from(params["env_staging"], "app_env_staging"),
        prints_from(params["env_platform"], "app_env_platform"),
        live_prints(params),
        bool(params["live"]),
        params["env_template"],
    )
    return env.judge(rules_from(params["env"]), text, params["env_file"], around)


def live_prints(params: dict[str, Any]) -> Union[Prints, None]:
    """Return the fingerprints of what the live slot was started with, where its start noted them."""
    if not params["live"] or not params["directory"]:
        return None
    noted = release_dir.record(params["directory"], params["live"]).get("fingerprints")
    key = env_file.held_key(params["directory"])
    return Prints(key, noted) if noted and key else None


def disk_gate(params: dict[str, Any], facts: dict[str, Any]) -> Gate:
    free, limit = free_bytes(params["directory"]), params["min_free_bytes"]
    enough = free >= limit
    sentence = f"{free // MIB:,} MiB free in {params['directory']}, {limit // MIB:,} MiB needed"
    return Gate("disk", PASS if enough else FAIL, sentence, value=free, limit=limit, remedy="" if enough else "Free some space, or move the folder.")


def ports_gate(params: dict[str, Any], facts: dict[str, Any]) -> Gate:
    taken = []
    for port in params["ports"]:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                taken.append(str(port))
    if taken:
        words = f"port {', '.join(taken)} is" if len(taken) == 1 else f"ports {', '.join(taken)} are"
        return Gate(
            "ports",
            FAIL,
            f"{words} taken by another process",
            value=taken,
            remedy="End that process (`ss -ltnp` names it), or give the service another port in app_services.",
        )
    return Gate("ports", PASS, f"ports {', '.join(map(str, params['ports']))} are free", value=params["ports"])


def database_gate(params: dict[str, Any], facts: dict[str, Any]) -> Gate:
    url = postgres.read_url(params["env_file"], params["env_var"])
    with postgres.connect(url, "preflight", params["client_directory"]) as clients, clients.session(postgres.Deadline(10)) as session:
        server, client, held = pg_facts.server(session), clients.major("pg_dump"), sum(int(row["bytes"]) for row in pg_facts.tables(session))
    sentence = f"PostgreSQL {server['version']} answers with {held // MIB:,} MiB of tables; the clients are of version {client}"
    if client < int(server["major"]):
        return Gate("database", FAIL, sentence, value=client, limit=server["major"], remedy="Install the clients of the server's version or a newer one.")
    if server["standby"]:
        return Gate("database", FAIL, f"{sentence}; it is a standby and takes no migration", remedy=f"Point {params['env_var']} at the primary.")
    return Gate("database", PASS, sentence, value=client, limit=server["major"])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "str"},
            "source_kind": {"type": "str", "choices": list(archives.KINDS), "default": "git"},
            "source_sha256": {"type": "str", "default": ""},
            "build_where": {"type": "str", "default": archives.TARGET},
            "build_directory": {"type": "path", "default": ""},
            "version": {"type": "str"},
            "env_file": {"type": "path"},
            "env": {"type": "dict", "default": {}},
            "env_keys": {"type": "str", "choices": ["", "live", "test"], "default": ""},
            "env_owner": {"type": "str", "default": ""},
            "env_template": {"type": "str", "default": ""},
            "env_staging": {"type": "dict", "no_log": True},
            "env_platform": {"type": "dict", "no_log": True},
            "live": {"type": "str", "default": ""},
            "env_var": {"type": "str", "default": "DATABASE_URL"},
            "directory": {"type": "path"},
            "min_free_bytes": {"type": "int", "default": 0},
            "ports": {"type": "list", "elements": "int", "default": []},
            "database": {"type": "bool", "default": False},
            "client_directory": {"type": "path"},
        },
        required_together=[("source", "version")],
        supports_check_mode=True,
    )
    params = module.params
    readable = bool(params["env_file"]) and os.path.isfile(params["env_file"])
    wanted: list[tuple[str, bool, Judge]] = [
        ("source", bool(params["source"]), source_gate),
        ("environment file", bool(params["env_file"]), file_gate),
        ("environment", readable, env_gates),
        ("disk", bool(params["directory"]), disk_gate),
        ("ports", bool(params["ports"]), ports_gate),
        ("database", params["database"] and readable, database_gate),
    ]
    facts: dict[str, Any] = {}
    gates = [gate for name, asked, judge in wanted if asked for gate in _asked(name, params, facts, judge)]
    module.exit_json(changed=False, actions=[], gates=[gate.as_dict() for gate in gates], **facts)


def _asked(name: str, params: dict[str, Any], facts: dict[str, Any], judge: Judge) -> list[Gate]:
    """Return a gate's answer; what it could not find out is a verdict of its own, so that the next gate still runs."""
    try:
        said = judge(params, facts)
        return said if isinstance(said, list) else [said]
    except SluiceError as error:
        return [Gate(name, FAIL, error.message, remedy=error.remedy)]
    except OSError as error:
        return [Gate(name, ERROR, f"it could not be found out: {error.strerror}", remedy="Check the become user and the file's mode.")]


if __name__ == "__main__":
    main()
