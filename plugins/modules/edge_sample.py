#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an edge saw of its slots: its own access log turned into counts, and an early return when the canary must stop."""

from __future__ import annotations

DOCUMENTATION = r"""
module: edge_sample
short_description: Count on an edge how each slot of an app answers
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Reads a window of the edge's access log and returns counts and a histogram of the request times for each slot.
    Only numbers leave the edge; no address, no path and no visitor's key does.
  - A request is charged to the slot that got its first attempt, also when a retry on the other slot saved the visitor.
    Requests the visitor gave up (status 499) are counted apart.
  - With O(watch) it goes on reading what is added, and returns at once when the canary must stop. RV(alarm) then says why.
  - Whether the canary may go on is not decided here. The samples of all edges are judged together on the control node.
  - The log must be unbuffered and in the format the edge renders, and be rotated by renaming. One rotated file, O(log) with C(.1) behind it, is read as well.
attributes:
  check_mode:
    description: Reads what is there and does not wait.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
options:
  log:
    description: Access log of the app on this edge. Its group (C(adm) on Debian) or root can read it.
    type: path
    required: true
  slots:
    description:
      - The hosts of each slot, each as C(address:port) as nginx writes it into the log. For a host name that is the address it resolves to.
      - Requests whose first attempt went elsewhere are counted as C(unowned) and judged for no slot.
    type: dict
    required: true
  routes:
    description:
      - Tells kinds of requests apart, so that a canary which is bad on a rare kind is seen. Each has C(name) and C(path), at most 8 of them.
      - A request is of the first kind whose path its own begins with. What fits none is of the kind that O(services) tells, or else C(other).
      - Several routes may have the same name. A path that begins with an earlier one is refused, as it would never be reached.
    type: list
    elements: dict
    default: []
  services:
    description: Hosts of each service, in whatever slot. Requests that fit none of O(routes) are then of the kind with the name of their service.
    type: dict
    default: {}
  since:
    description:
      - Beginning of the window, in seconds since the epoch by this edge's clock.
      - Take the moment of the last change of the share, and 0.15 s on top for the answers that were under way.
    type: float
    required: true
  watch:
    description: Seconds to go on from now. With 0 the log is read once.
    type: float
    default: 0
  poll:
    description: Seconds between two looks while it watches.
    type: float
    default: 0.25
  canary:
    description: The slot to be judged. Without it nothing ends the watch early.
    type: str
  live:
    description: The slot to compare with. The canary itself, or nothing, where the canary has all of the traffic.
    type: str
  halves_of:
    description:
      - A slot whose requests are cut into two halves by the visitor, for the judge's self test.
      - The sample then has the halves for slots, and nothing is watched.
    type: str
  ignore_paths:
    description: Paths of health probes, compared whole and without the query. They are counted as C(ignored).
    type: list
    elements: str
    default: [/api/health]
  limits:
    description: What the canary must keep to. Only what ends a step at once is used here.
    type: dict
    default: {}
    suboptions:
      error_rate:
        description: Largest share of first attempts that may fail, 0.01 when left out.
        type: float
      error_margin:
        description: How much larger than live's that share may be, 0.005 when left out.
        type: float
      p95_seconds:
        description: Largest 95th percentile of the request time, 2.0 when left out.
        type: float
      p95_ratio:
        description: Largest 95th percentile as a multiple of live's, 2.0 when left out.
        type: float
      p95_floor_seconds:
        description: A 95th percentile below this never fails by the ratio, 0.05 when left out.
        type: float
      min_samples:
        description: First attempts needed for a verdict, 50 when left out.
        type: int
      guard_errors:
        description: So many failures end a step at once, 5 when left out,
        type: int
      guard_requests:
        description: when they are among so many first attempts, 20 when left out.
        type: int
      sprt_ratio:
        description: The sequential test looks for a canary so many times as bad as live, 3.0 when left out.
        type: float
      sprt_alpha:
        description: Chance that this test stops a canary as good as live, 0.01 when left out.
        type: float
      sprt_beta:
        description: Chance that it overlooks one that is O(limits.sprt_ratio) times as bad, 0.1 when left out.
        type: float
"""

EXAMPLES = r"""
- name: Watch the canary for a minute, or until it must stop
  sluice.deploy.edge_sample:
    log: /var/log/nginx/sluice-wallet.log
    slots:
      blue: ['10.0.0.11:4002', '10.0.0.12:4002']
      green: ['10.0.0.11:4102', '10.0.0.12:4102']
    since: "{{ edge_result.changed_at + 0.15 }}"
    watch: 60
    canary: green
    live: blue
    routes:
      - {name: payment, path: /api/payments/}
      - {name: api, path: /api/}
  register: seen

- name: Count the last five minutes
  sluice.deploy.edge_sample:
    log: /var/log/nginx/sluice-wallet.log
    slots:
      blue: ['10.0.0.11:4002']
      green: ['10.0.0.11:4102']
    since: "{{ now(utc=true).timestamp() - 300 }}"
"""

RETURN = r"""
sample:
  description:
    - The window, and for each slot the requests, errors, statuses, distinct visitors and the histogram of the times.
    - Samples of several edges can be merged.
    - With O(routes) or O(services), C(strata) holds the same once more for each slot and kind of requests; else it is empty.
  returned: success
  type: dict
  sample:
    since: 1700000000.15
    until: 1700000060.2
    ignored: 60
    unowned: 0
    malformed: 0
    slots:
      green:
        requests: 301
        errors: 2
        shielded: 1
        aborted: 0
        statuses: {2xx: 300, 5xx: 1}
        clients: 57
        error_clients: 2
        histogram: {'51': 180, '52': 121}
        milliseconds: 3612
    strata: {}
alarm:
  description: The gate that ended the watch; null when nothing did.
  returned: success
  type: dict
  sample:
    name: error rate
    verdict: fail
    sentence: "canary: error rate 31.3 % (5 of 16 first attempts) against 0 % live; limit 1 %. 5 failures among 20 end a step at once."
gates:
  description: The same gate as a list, empty when there was none.
  returned: success
  type: list
  elements: dict
actions:
  description: Always empty, because nothing is changed.
  returned: success
  type: list
  elements: str
waited:
  description: Seconds it watched.
  returned: success
  type: float
  sample: 12.25
lines:
  description: Lines of the log that were read.
  returned: success
  type: int
  sample: 5230
until:
  description: End of the window, in seconds since the epoch by this edge's clock.
  returned: success
  type: float
  sample: 1700000060.2
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import access_log
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.judge import alarm
from ansible_collections.sluice.deploy.plugins.module_utils.core.limits import Limits
from ansible_collections.sluice.deploy.plugins.module_utils.core.power import halves
from ansible_collections.sluice.deploy.plugins.module_utils.core.sample import Tally, kinds_of, owners_of
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words

# A window may begin a little later than now: the share was changed this very moment.
CLOCK_SECONDS = 5.0


def run(params: Mapping[str, Any], watch: float) -> dict[str, Any]:
    """Read the window, then what is added, until the time is over or the canary must stop."""
    limits = Limits.of(params["limits"])
    tally = Tally(owners_of(params["slots"]), params["ignore_paths"], kinds_of(params["routes"], params["services"]))
    began, canary, gate = time.monotonic(), params["canary"], None
    wait_for(params["since"], watch)
    cursor = access_log.start(params["log"], params["since"])
    while True:
        until, left = time.time(), began + watch - time.monotonic()
        before = tally.lines
        cursor = access_log.advance(params["log"], cursor, tally.add)
        if canary and tally.lines > before:
            gate = alarm(tally.sample(), canary, params["live"], limits)
        if gate or left <= 0:
            break
        time.sleep(min(params["poll"], left))
    found = gate.as_dict() if gate else None
    return {
        "sample": replace(tally.sample(), since=params["since"], until=until).as_dict(),
        "alarm": found,
        "gates": [found] if found else [],
        "actions": [],
        "waited": round(time.monotonic() - began, 3),
        "lines": tally.lines,
        "until": until,
    }


def cut(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the two halves of a slot's own requests in the window."""
    until = time.time()
    block = b"".join(access_log.window(params["log"], params["since"], until))
    sample = halves(block, params["slots"][params["halves_of"]], params["ignore_paths"])
    return {"sample": sample.as_dict(), "alarm": None, "gates": [], "actions": [], "waited": 0.0, "lines": block.count(b"\n"), "until": until}


def wait_for(since: float, watch: float) -> None:
    """Wait for a window that begins in a moment; refuse one that this clock does not reach."""
    ahead = since - time.time()
    if ahead > max(watch, CLOCK_SECONDS):
        raise SluiceError(
            f"The window begins {ahead:.1f} s from now by this edge's clock, so nobody can tell how the slots answer.",
            "`since` must come from this edge's own clock; compare it with the clock of the host that set it.",
            since=since,
        )
    time.sleep(max(0.0, ahead))


def check(params: Mapping[str, Any]) -> None:
    """Refuse what cannot be meant, before anything is read."""
    for name in ("canary", "live", "halves_of"):
        if params[name] and params[name] not in params["slots"]:
            raise SluiceError(f"`{name}` is {params[name]!r}, which is none of the slots.", f"`slots` names {', '.join(params['slots']) or 'none'}.")
    if params["watch"] < 0 or params["poll"] <= 0:
        raise SluiceError("`watch` is a time of 0 or more and `poll` one above 0, both in seconds.", "For example watch: 60 and poll: 0.25.")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "log": {"type": "path", "required": True},
            "slots": {"type": "dict", "required": True},
            "routes": {"type": "list", "elements": "dict", "default": []},
            "services": {"type": "dict", "default": {}},
            "since": {"type": "float", "required": True},
            "watch": {"type": "float", "default": 0},
            "poll": {"type": "float", "default": 0.25},
            "canary": {"type": "str"},
            "live": {"type": "str"},
            "halves_of": {"type": "str"},
            "ignore_paths": {"type": "list", "elements": "str", "default": ["/api/health"]},
            "limits": {
                "type": "dict",
                "default": {},
                "options": {
                    "error_rate": {"type": "float"},
                    "error_margin": {"type": "float"},
                    "p95_seconds": {"type": "float"},
                    "p95_ratio": {"type": "float"},
                    "p95_floor_seconds": {"type": "float"},
                    "min_samples": {"type": "int"},
                    "guard_errors": {"type": "int"},
                    "guard_requests": {"type": "int"},
                    "sprt_ratio": {"type": "float"},
                    "sprt_alpha": {"type": "float"},
                    "sprt_beta": {"type": "float"},
                },
            },
        },
        supports_check_mode=True,
    )
    with in_words(module):
        check(module.params)
        result = cut(module.params) if module.params["halves_of"] else run(module.params, 0.0 if module.check_mode else module.params["watch"])
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
