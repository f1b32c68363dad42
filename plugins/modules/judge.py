#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation of the fleet's one judge; the work is done by the action plugin of this name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: judge
short_description: Join what every host measured and decide once
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Takes the results that the hosts of the play registered, joins them, and decides for the whole fleet.
  - Tasks of this name run as an action plugin on the control node; nothing is sent anywhere and nothing is changed. Run it once for a play.
attributes:
  check_mode:
    description: With O(about=canary) nothing is judged, and the step passes with a gate that says so. Otherwise check mode does the same.
    support: full
  diff_mode:
    description: Nothing is ever changed, so there is no difference to show.
    support: none
options:
  about:
    description:
      - What is to be decided.
      - V(ground) tells from O(edges) and O(slots) who is live and whether there is a way back.
      - V(canary) judges one look at O(step) from O(edges) and O(samples), and climbs O(ladder) with what O(readings) holds.
      - V(by_hand) refuses a share set by hand that belongs to no release, or skips a step of O(steps) without O(reason).
      - V(share) fails unless the judge passes the share that is there, by O(samples), or O(reason) is given.
      - V(edges) tells what became of each of several edges, and fails when one of them failed. Run it on each of them.
      - V(way_back) finds the version that O(releases) can go back to, and fails when there is none, or when the database cannot go back as O(database) says.
      - V(after) tells from O(releases) and O(watch) whether the promoted release is due for another look; V(watch) judges that look by O(samples).
      - V(findings) weighs every gate in O(results) by O(severities) and O(waivers), and tells all of them at once.
      - V(fleet) says in lines what the edges, the slots, the lease and the releases do now.
    type: str
    choices: [ground, canary, by_hand, share, edges, way_back, fleet, after, watch, findings]
    required: true
  edges:
    description: Name of the registered variable that holds each host's result of M(sluice.deploy.edge).
    type: str
    default: __edge_result
  slots:
    description: Name of the registered variable that holds each host's result of M(sluice.deploy.slot).
    type: str
    default: __slot_result
  samples:
    description: Name of the registered variable that holds each host's result of M(sluice.deploy.edge_sample).
    type: str
    default: __canary_sample
  release:
    description: The release as M(sluice.deploy.ledger) returns it; empty when there is none.
    type: dict
    default: {}
  releases:
    description: The past releases as M(sluice.deploy.ledger) returns them, the oldest first.
    type: list
    elements: dict
    default: []
  step:
    description: The step that is judged, with C(percent), C(min) and C(max) in seconds, and C(then), one of V(hold), V(promote), V(rollback).
    type: dict
    default: {}
  steps:
    description: All steps of the canary, each like O(step).
    type: list
    elements: dict
    default: []
  limits:
    description: Limits of the judge that differ from its own, e.g. C(error_rate), C(p95_seconds), C(p95_ratio), C(min_samples).
    type: dict
    default: {}
  ladder:
    description: Absolute limits, each with C(metric), C(op), C(value), C(for), C(min_samples) and C(action), one of V(warn), V(hold), V(rollback).
    type: list
    elements: dict
    default: []
  sources:
    description: Where the metrics of O(ladder) are read, as M(sluice.deploy.metrics) takes them.
    type: list
    elements: dict
    default: []
  readings:
    description: Name of the registered variable that holds each host's result of M(sluice.deploy.metrics).
    type: str
    default: __canary_metrics
  history:
    description: The RV(history) of the look before; empty at the first look.
    type: dict
    default: {}
  canary:
    description: Slot that is judged.
    type: str
    default: ''
  live:
    description: Slot that it is compared with. Empty, or the same as O(canary), compares it with nothing.
    type: str
    default: ''
  percent:
    description: Share wanted by hand. Left out, it is the next of O(steps).
    type: int
  pace:
    description: With V(stepwise) a step below 100 % that passed ends in a planned hold.
    type: str
    choices: [attended, stepwise]
    default: attended
  watch:
    description: Parts of the watch after a promotion, each with C(until) (seconds after it) and C(every) (seconds between two looks).
    type: list
    elements: dict
    default: []
  windows:
    description: Times between which a larger share may be let in, each with C(days) (V(mon) to V(sun)), C(from) and C(to), e.g. V(09:00). None is always.
    type: list
    elements: dict
    default: []
  timezone:
    description: Time zone of O(windows), a name of the time zone database.
    type: str
    default: UTC
  self_test:
    description: With O(about=ground), judge the two halves in O(samples) against each other; they must not differ.
    type: bool
    default: false
  accept_blind:
    description: Go on with a plan whose steps can detect nothing at the traffic there is.
    type: bool
    default: false
  database:
    description: What becomes of the database when a release is taken back.
    type: str
    choices: [leave, down, restore]
    default: leave
  reason:
    description: Why a step is skipped, or a share is raised that the judge does not pass.
    type: str
    default: ''
  results:
    description: What was asked -> name of the registered variable with the gates.
    type: dict
    default: {}
  once:
    description: Keys of O(results) that one host asked for all.
    type: list
    elements: str
    default: []
  severities:
    description: Name of a gate, or a pattern with C(*) -> V(critical), V(error), V(warning) or V(off). An exact name counts more than a pattern.
    type: dict
    default: {}
  waivers:
    description: Gates that are passed over, each with C(gate), C(who), C(why), C(until) (the last day, in UTC) and optionally C(host).
    type: list
    elements: dict
    default: []
  never_waived:
    description: Gates that no waiver passes over and no severity turns down.
    type: list
    elements: str
    default: [source, rollback target, database, stripe variables, stripe mode, stripe one account, stripe key, host answers]
  report:
    description: Folder on the control node for C(preflight.json) and C(preflight.junit.xml), mode 0600. Empty writes none.
    type: path
    default: ''
"""

EXAMPLES = r"""
- name: Agree on the live slot and the way back
  sluice.deploy.judge:
    about: ground
  run_once: true
  register: ground

- name: Judge the step
  sluice.deploy.judge:
    about: canary
    step: {percent: 25, min: 600, max: 1800, then: hold}
    limits: {error_rate: 0.005}
    canary: green
    live: blue
  run_once: true
  register: canary

- name: Tell all findings at once
  sluice.deploy.judge:
    about: findings
    results: {network: __preflight_network}
    once: [network]
    severities: {'dmarc *': warning}
    waivers: [{gate: tls days shop.example.org, who: Jo Doe, why: the renewal is ordered, until: 2027-01-31}]
  run_once: true
  register: findings
"""

RETURN = r"""
gates:
  description: What was judged, each with its verdict, a sentence, and the numbers behind it.
  returned: when O(about) is V(ground), V(canary), V(share) or V(findings)
  type: list
  elements: dict
live:
  description: Slot that serves the public.
  returned: when O(about=ground)
  type: str
idle:
  description: The other slot.
  returned: when O(about=ground)
  type: str
live_version:
  description: Version in the live slot.
  returned: when O(about=ground)
  type: str
idle_online:
  description: Whether processes run in the idle slot.
  returned: when O(about=ground)
  type: bool
percent:
  description: Share of the idle slot now with O(about=ground), share to set with O(about=by_hand).
  returned: when O(about) is V(ground) or V(by_hand)
  type: int
share:
  description: Share the release has now.
  returned: when O(about=by_hand)
  type: int
judged:
  description: Whether the share that is there must be judged before it is raised.
  returned: when O(about=by_hand)
  type: bool
word:
  description: What follows from the verdict, one of V(continue), V(advance), V(hold), V(rollback).
  returned: when O(about=canary)
  type: str
verdict:
  description: The verdict itself.
  returned: when O(about) is V(canary) or V(share)
  type: str
sentence:
  description: The verdict in words.
  returned: when O(about=canary)
  type: str
stop:
  description: Why the release does not go on by itself; empty when it does.
  returned: when O(about) is V(canary) or V(findings)
  type: str
groups:
  description: The RV(gates) by how grave they are, the gravest first.
  returned: when O(about=findings)
  type: dict
hold:
  description: Whether the share is held.
  returned: when O(about=canary) and the hosts could be read
  type: bool
planned:
  description: Whether that is because of O(pace=stepwise).
  returned: when O(about=canary) and the hosts could be read
  type: bool
elapsed:
  description: Seconds since the edges changed the share.
  returned: when O(about=canary) and the hosts could be read
  type: float
wait:
  description: Seconds until a further look can change the outcome for the time alone.
  returned: when O(about=canary) and the hosts could be read
  type: float
history:
  description: What the ladder needs to know at the next look, with C(readings), C(counters) by host, and C(warned).
  returned: when O(about=canary) and the hosts could be read
  type: dict
sample:
  description: What all edges answered, joined; empty when nothing was judged.
  returned: when O(about=canary) and the hosts could be read
  type: dict
target:
  description: The version to go back to, its slot, and why that is possible. An empty slot means that no traffic needs to move.
  returned: when O(about=way_back)
  type: dict
database:
  description: How the database goes back, with C(way), and for it C(backup) (the path of the release's own), C(down_to), and C(migrations) (the folder of the
    version taken back).
  returned: when O(about=way_back)
  type: dict
event:
  description: Event that the ledger is to write, V(rollback) or V(refuse).
  returned: when O(about=way_back)
  type: str
candidates:
  description: All that was considered, possible or not.
  returned: when O(about=way_back)
  type: list
  elements: dict
say:
  description: Sentences for the operator.
  returned: when O(about) is V(canary), V(way_back), V(fleet) or V(findings)
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.core.findings import NEVER

# The action plugin of this name has the same arguments.
ARGUMENTS = {
    "about": {"type": "str", "choices": ["ground", "canary", "by_hand", "share", "edges", "way_back", "fleet", "after", "watch", "findings"], "required": True},
    "edges": {"type": "str", "default": "__edge_result"},
    "slots": {"type": "str", "default": "__slot_result"},
    "samples": {"type": "str", "default": "__canary_sample"},
    "release": {"type": "dict", "default": {}},
    "releases": {"type": "list", "elements": "dict", "default": []},
    "step": {"type": "dict", "default": {}},
    "steps": {"type": "list", "elements": "dict", "default": []},
    "limits": {"type": "dict", "default": {}},
    "ladder": {"type": "list", "elements": "dict", "default": []},
    "sources": {"type": "list", "elements": "dict", "default": []},
    "readings": {"type": "str", "default": "__canary_metrics"},
    "history": {"type": "dict", "default": {}},
    "canary": {"type": "str", "default": ""},
    "live": {"type": "str", "default": ""},
    "percent": {"type": "int"},
    "pace": {"type": "str", "choices": ["attended", "stepwise"], "default": "attended"},
    "watch": {"type": "list", "elements": "dict", "default": []},
    "windows": {"type": "list", "elements": "dict", "default": []},
    "timezone": {"type": "str", "default": "UTC"},
    "self_test": {"type": "bool", "default": False},
    "accept_blind": {"type": "bool", "default": False},
    "database": {"type": "str", "choices": ["leave", "down", "restore"], "default": "leave"},
    "reason": {"type": "str", "default": ""},
    "results": {"type": "dict", "default": {}},
    "once": {"type": "list", "elements": "str", "default": []},
    "severities": {"type": "dict", "default": {}},
    "waivers": {"type": "list", "elements": "dict", "default": []},
    "never_waived": {"type": "list", "elements": "str", "default": list(NEVER)},
    "report": {"type": "path", "default": ""},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
    )
    module.fail_json(msg="sluice.deploy.judge runs on the control node through its action plugin.")


if __name__ == "__main__":
    main()
