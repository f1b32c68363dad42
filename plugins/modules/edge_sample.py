#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an edge saw of each slot since the share last changed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: edge_sample
short_description: Count what each slot answered, from the edge's own log
version_added: 0.1.0
author: Contributors to the Sluice project
description:
  - Reads the window since O(since) of the app's access log, found by bisection, and keeps reading for O(watch) seconds.
    It returns early when what it saw is reason enough to end the step (see C(core/judge.py)).
  - Each request is charged to the slot whose host got its first attempt, even where a retry on the other slot saved the visitor (catalogue M-005, M-006).
  - Only counts leave the host, no address and no visitor's key.
attributes:
  check_mode:
    description: Only reads, so check mode is the same.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
options:
  log:
    description: The app's access log, as the M(sluice.deploy.edge) module renders it.
    type: path
    required: true
  slots:
    description: Hosts of each slot, each as C(address:port).
    type: dict
    required: true
  since:
    description: Start of the window, in seconds since 1970.
    type: float
    required: true
  watch:
    description: Seconds to keep reading.
    type: float
    default: 0
  poll:
    description: Seconds between two looks while watching.
    type: float
    default: 0.25
  canary:
    description: The slot that is judged.
    type: str
    required: true
  live:
    description: The slot it is compared with; the same as O(canary) when there is none.
    type: str
    required: true
  limits:
    description: Limits of the judge; all have a default.
    type: dict
    default: {}
  ignore_paths:
    description: Paths of health probes, which are nobody's requests.
    type: list
    elements: str
    default: [/api/health]
"""

EXAMPLES = r"""
- name: Read what the edge saw in the last minute
  sluice.deploy.edge_sample:
    log: /var/log/nginx/sluice_wallet.log
    slots: {blue: ["127.0.0.1:3001"], green: ["127.0.0.1:3002"]}
    since: "{{ now().timestamp() - 60 }}"
    canary: green
    live: blue
"""

RETURN = r"""
sample:
  description: Counts and a latency histogram of each slot, as C(core/sample.py) merges them.
  returned: success
  type: dict
alarm:
  description: The gate that ends the step at once; absent while there is no reason to.
  returned: when there is one
  type: dict
lines:
  description: Lines of the log that were read.
  returned: success
  type: int
until:
  description: End of the window, in seconds since 1970.
  returned: success
  type: float
waited:
  description: Seconds the module watched.
  returned: success
  type: float
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import access_log
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.judge import Limits, alarm
from ansible_collections.sluice.deploy.plugins.module_utils.core.sample import Tally


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "log": {"type": "path", "required": True},
            "slots": {"type": "dict", "required": True},
            "since": {"type": "float", "required": True},
            "watch": {"type": "float", "default": 0},
            "poll": {"type": "float", "default": 0.25},
            "canary": {"type": "str", "required": True},
            "live": {"type": "str", "required": True},
            "limits": {"type": "dict", "default": {}},
            "ignore_paths": {"type": "list", "elements": "str", "default": ["/api/health"]},
        },
        supports_check_mode=True,
    )
    params = module.params
    began = time.monotonic()
    try:
        limits = Limits.of(params["limits"])
        tally = Tally({host: slot for slot, hosts in params["slots"].items() for host in hosts}, params["ignore_paths"])
        live = params["live"] if params["live"] != params["canary"] else None
        cursor = access_log.start(params["log"], params["since"])
        while True:
            cursor = access_log.advance(params["log"], cursor, tally.add)
            sample = tally.sample()
            reason = alarm(sample, params["canary"], live, limits)
            left = params["watch"] - (time.monotonic() - began)
            if reason is not None or left <= 0:
                break
            time.sleep(min(params["poll"], left))
    except SluiceError as error:
        module.fail_json(msg=str(error), **error.details())
    result = {"changed": False, "sample": sample.as_dict(), "lines": tally.lines, "until": time.time(), "waited": round(time.monotonic() - began, 3)}
    if reason is not None:
        result["alarm"] = reason.as_dict()
    module.exit_json(**result)


if __name__ == "__main__":
    main()
