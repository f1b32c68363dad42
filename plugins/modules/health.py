#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The health gate: an address answers as it should, several times in a row, within a deadline."""

from __future__ import annotations

DOCUMENTATION = r"""
module: health
short_description: Wait until addresses answer as they should
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Asks each of O(urls) until it gave O(passes) good answers in a row, all within O(deadline).
    A redirect is no pass, nor is a version other than O(version)
    (catalogue M-072, M-077).
  - When it gives up it says what it saw last.
  - After that each of O(smoke) is sent once to the first URL; a reading request is tried once more before it counts.
attributes:
  check_mode:
    description: Only reads, so check mode is the same.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
options:
  urls:
    description: Base addresses, e.g. V(https://wallet.example.org).
    type: list
    elements: str
    required: true
  path:
    description: Path of the health probe.
    type: str
    default: /api/health
  version:
    description: Version the health answer must report; empty to not assert it.
    type: str
    default: ''
  version_key:
    description: Dotted path of the version in the health answer.
    type: str
    default: version
  headers:
    description: Headers sent with the health probe.
    type: dict
    default: {}
  closed:
    description:
      - With V(true) the answer must be the one of a site that is closed for maintenance, with V(false) any other.
      - The status and the version do not matter then.
    type: bool
  smoke:
    description: Further requests, each with C(name), C(method), C(path), C(headers), C(body), C(status), C(contains), C(json), C(writes).
      Those that write are left out.
    type: list
    elements: dict
    default: []
  deadline:
    description: Seconds for all addresses together.
    type: float
    default: 30
  passes:
    description: Good answers in a row.
    type: int
    default: 3
  interval:
    description: Seconds between two rounds.
    type: float
    default: 0.2
  timeout:
    description: Seconds for one answer.
    type: float
    default: 5
"""

EXAMPLES = r"""
- name: Wait until the public address serves v1.0.0
  sluice.deploy.health:
    urls: [https://wallet.example.org]
    version: v1.0.0
"""

RETURN = r"""
gates:
  description: The gate, with the number of answers asked for and seen.
  returned: success
  type: list
  elements: dict
seen:
  description: What each address said last, when the gate gave up.
  returned: failure
  type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import web
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Probe, probe_from
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import PASS, Gate

ARGUMENTS: dict[str, dict[str, Any]] = {
    "urls": {"type": "list", "elements": "str", "required": True},
    "path": {"type": "str", "default": "/api/health"},
    "version": {"type": "str", "default": ""},
    "version_key": {"type": "str", "default": "version", "no_log": False},
    "headers": {"type": "dict", "default": {}},
    "closed": {"type": "bool"},
    "smoke": {"type": "list", "elements": "dict", "default": []},
    "deadline": {"type": "float", "default": 30},
    "passes": {"type": "int", "default": 3, "no_log": False},
    "interval": {"type": "float", "default": 0.2},
    "timeout": {"type": "float", "default": 5},
}


def prove(params: dict[str, Any]) -> list[Gate]:
    """Wait for the addresses, send the smoke requests, and return the gates; what is not as it should be is a SluiceError."""
    probe = Probe("health", params["path"], headers=params["headers"], closed=params["closed"]).expecting(**{params["version_key"]: params["version"]})
    probes = [probe for probe in (probe_from(data, "app_smoke") for data in params["smoke"]) if not probe.writes]
    targets = {url: (url, probe) for url in params["urls"]}
    passes = params["passes"]
    streaks = web.wait_healthy(targets, passes=passes, deadline=params["deadline"], interval=params["interval"], timeout=params["timeout"])
    asked = sum(streak.asked for streak in streaks.values())
    version = f" as {params['version']}" if params["version"] else ""
    found = {None: f"healthy{version}", True: "closed for maintenance", False: "open"}[params["closed"]]
    said = f"{', '.join(targets)} {found}: {passes} good answers in a row, {asked} asked"
    gates = [Gate("health" if params["closed"] is None else "maintenance", PASS, said, value=passes, limit=passes, sample=asked)]
    first, count = params["urls"][0], len(probes)
    wrong = web.smoke(first, probes, params["timeout"])
    if wrong:
        raise SluiceError(f"{len(wrong)} of {count} smoke requests failed on {first}: {'; '.join(wrong)}.", wrong=wrong)
    if probes:
        gates.append(Gate("smoke", PASS, f"{count} smoke requests to {first} answered as they should", value=count, limit=count))
    return gates


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        gates = prove(module.params)
    except SluiceError as error:
        module.fail_json(msg=str(error), **error.details())
    module.exit_json(changed=False, actions=[], gates=[gate.as_dict() for gate in gates])


if __name__ == "__main__":
    main()
