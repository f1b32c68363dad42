#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger and the lease of an app on the ledger host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ledger
short_description: Claim an app, record what is done to it, and give it back
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - The ledger is an append-only file of JSON lines, each sealed with the hash of the line before and written with fsync.
    The lease is the right to change an app; it has an owner, a reason, an expiry and a fencing number that only grows.
  - Tasks of this name run as an action plugin. Where the ledger lies on the control node nothing is sent anywhere;
    elsewhere the plugin runs this module there with O(request) and O(run), which only the plugin sets.
  - A claim whose holder's process is gone, or whose lease has expired, is taken over, and the ledger says so.
attributes:
  check_mode:
    description: Nothing is claimed and nothing is written.
    support: full
  diff_mode:
    description: The ledger only grows; there is no difference to show.
    support: none
options:
  state:
    description:
      - V(read) returns the releases and the lease. V(claim) takes the lease and opens or resumes a release.
      - V(begin) and V(end) write intent and outcome of a phase; V(end) joins the registered results of all hosts and decides once.
      - V(record) appends events, V(renew) pushes the lease's expiry, V(close) writes the last event and frees the lease.
    type: str
    choices: [read, claim, begin, end, record, renew, close]
    default: read
  app:
    description: Name of the app.
    type: str
    required: true
  directory:
    description: Folder with C(ledger.jsonl) and C(lease.json).
    type: path
    required: true
  release_id:
    description: Id of the release.
    type: str
    default: ''
  version:
    description: Version to release; with O(state=claim) it opens a release, without it only the lease is taken.
    type: str
    default: ''
  reason:
    description: What the lease is for, in words.
    type: str
    default: ''
  break_reason:
    description: Why a lease is taken from a run that still holds it.
    type: str
    default: ''
  ttl:
    description: Seconds until the lease expires unless it is renewed.
    type: int
    default: 900
  phase:
    description: Name of the phase that begins or ends.
    type: str
    default: ''
  left_out:
    description: Why a phase that begins is left out, in words. It is recorded as done, with that reason, and nothing is done.
    type: str
    default: ''
  collect:
    description: Names of registered variables that hold the hosts' results of the phase.
    type: list
    elements: str
    default: []
  keep:
    description: Keys of those results that the ledger keeps.
    type: list
    elements: str
    default: []
  once:
    description: Names of registered variables that every host holds alike, because the task ran once.
    type: list
    elements: str
    default: []
  say:
    description: A sentence for the operator.
    type: str
    default: ''
  report:
    description: Folder on the control node that O(state=close) writes the account of the release to.
    type: path
    default: ''
  manifest:
    description: What the release is; its digest must not change while the release is open.
    type: dict
  events:
    description: Events to append, each with C(event), C(phase) and C(data).
    type: list
    elements: dict
    default: []
  event:
    description:
      - Last event of the release, with O(state=close); V(outcome) takes the one that follows from what stopped it.
      - V(restore) writes the result of M(sluice.deploy.restore), which is handed in as C(restore) in O(data), unless nothing was restored or the ledger
        has it already.
    type: str
    default: ''
  data:
    description: What the last event carries.
    type: dict
    default: {}
  request:
    description: What is asked of the ledger. Set by the action plugin alone.
    type: dict
  run:
    description: Who asks. Set by the action plugin alone.
    type: dict
"""

EXAMPLES = r"""
- name: Read who holds the app and which releases there were
  sluice.deploy.ledger:
    app: wallet
    directory: /var/lib/sluice/wallet
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
release:
  description: The release asked for, or the one that has not ended; empty when there is none.
  returned: when O(state) is not V(renew) and the ledger was read or written
  type: dict
releases:
  description: The last twenty releases, the oldest first.
  returned: when O(state) is not V(renew) and the ledger was read or written
  type: list
  elements: dict
needed_backups:
  description: Ids of the releases whose backups stay whatever the retention says; they are open, or promoted lately, or changed the database since.
  returned: when O(state) is not V(renew) and the ledger was read or written
  type: list
  elements: str
lease:
  description: Who holds the app; empty when nobody does.
  returned: when O(state) is not V(renew) and the ledger was read or written
  type: dict
fence:
  description: The highest fencing number given so far.
  returned: when O(state) is not V(renew) and the ledger was read or written
  type: int
stop:
  description: Why the release stops; empty when it goes on.
  returned: when O(state) is V(claim), V(begin) or V(end)
  type: str
stopped_in:
  description: Phase that stopped it; empty when it goes on.
  returned: when O(state) is V(claim), V(begin) or V(end)
  type: str
hold:
  description: Whether the release is held at its share instead of being taken back.
  returned: when O(state) is V(claim), V(begin) or V(end)
  type: bool
open:
  description: Whether the phase is to be done now.
  returned: when O(state) is V(claim), V(begin) or V(end)
  type: bool
restored:
  description: The restore that was written, in a sentence; empty when there was none.
  returned: when O(state=close), outside check mode
  type: str
undo_failed:
  description: Why what was begun could not be taken back; empty when it was.
  returned: when O(state=close), outside check mode
  type: str
report:
  description: Path of the account of the release.
  returned: when O(state=close) wrote one
  type: str
say:
  description: Sentences for the operator.
  returned: when there is something to say
  type: list
  elements: str
"""

import socket
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.store import Store
from ansible_collections.sluice.deploy.plugins.module_utils.desk import Desk
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words

# The action plugin of this name has the same arguments.
ARGUMENTS = {
    "state": {"type": "str", "choices": ["read", "claim", "begin", "end", "record", "renew", "close"], "default": "read"},
    "app": {"type": "str", "required": True},
    "directory": {"type": "path", "required": True},
    "release_id": {"type": "str", "default": ""},
    "version": {"type": "str", "default": ""},
    "reason": {"type": "str", "default": ""},
    "break_reason": {"type": "str", "default": ""},
    "ttl": {"type": "int", "default": 900},
    "phase": {"type": "str", "default": ""},
    "left_out": {"type": "str", "default": ""},
    "collect": {"type": "list", "elements": "str", "default": []},
    "keep": {"type": "list", "elements": "str", "default": []},
    "once": {"type": "list", "elements": "str", "default": []},
    "say": {"type": "str", "default": ""},
    "report": {"type": "path", "default": ""},
    "manifest": {"type": "dict"},
    "events": {"type": "list", "elements": "dict", "default": []},
    "event": {"type": "str", "default": ""},
    "data": {"type": "dict", "default": {}},
    "request": {"type": "dict"},
    "run": {"type": "dict"},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        supports_check_mode=True,
    )
    params = module.params
    if params["request"] is None or params["run"] is None:
        module.fail_json(msg="sluice.deploy.ledger runs through its action plugin; call it as a task.")
    with in_words(module):
        desk = Desk(Store(params["directory"]), params["app"], params["run"], socket.gethostname(), time.time())
        module.exit_json(**desk.answer(params["state"], params["request"]))


if __name__ == "__main__":
    main()
