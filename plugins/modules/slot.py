#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One slot of an app on one host: build, start, prove, stop, remember."""

from __future__ import annotations

DOCUMENTATION = r"""
module: slot
short_description: Build, start, prove, stop and remember one slot of an app
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - One call does one whole safe step on an app host, whatever runs its processes there.
  - The slot's processes carry the app, the service and the slot in their name, run from an absolute release folder on the slot's own ports,
    and are deleted and started, never reloaded (a reload of a broken version takes every worker down and still exits 0).
  - What PM2 calls online proves nothing, so a start ends only when every service answered its health probe several times in a row with the right version
    (catalogue M-019, M-020, M-077).
extends_documentation_fragment:
  - sluice.deploy.runtime
attributes:
  check_mode:
    description: Reports what would be done and changes nothing.
    support: full
  diff_mode:
    description: Shows what each slot holds before and after.
    support: full
options:
  state:
    description:
      - V(read) tells what each slot holds.
      - V(prepared) fetches O(commit) of O(source) and builds it; nothing is started.
      - V(started) starts O(commit) in O(slot) and waits until it is healthy and passes O(smoke).
      - V(rehearsed) starts what O(slot) holds once more on the rehearsal ports against the database O(database), sends O(smoke), and stops it again;
        and then the same with O(version), when it is named and built.
      - V(owning) ends the workers of the other slot and starts those of O(slot), which have the queues and schedules from then on. When they do not work,
        those of the other slot are started again, and the call fails. Services without a worker are left alone.
      - V(alone) ends the other slot, whose record stays, and starts O(slot) with O(version), or with what it holds where no version is named. When that does
        not become healthy or fails O(smoke), the other slot is started again, and the call fails. Workers of both slots are ended; V(owning) starts them.
      - V(stopped) ends the slot's processes and forgets them.
      - V(saved) makes the running processes of O(slot) the ones that come back after a reboot, and prunes old release folders.
      - V(absent) is V(stopped), where O(slot) is given, and puts the release folder of O(commit) aside unless a slot holds it.
    type: str
    choices: [read, prepared, started, rehearsed, alone, owning, stopped, saved, absent]
    default: read
  app:
    description: Name of the app.
    type: str
    required: true
  directory:
    description: Folder of the app on this host; holds C(releases/), C(slots/) and C(logs/).
    type: path
    required: true
  slot:
    description: Which slot. Required for all but O(state=read), O(state=prepared) and O(state=absent).
    type: str
    choices: [blue, green]
  services:
    description: The app's services, each with C(name), C(entry), C(ports) (C(blue), C(green), C(rehearsal)), C(instances), C(mode) and C(health_path).
    type: list
    elements: dict
    required: true
  in_place:
    description: Whether only one slot runs at a time, so that both may have the same ports, and there need be none for a rehearsal.
    type: bool
    default: false
  version:
    description: Version as people call it, e.g. V(v1.0.0). The health probe must report it.
    type: str
  commit:
    description: Commit that is built and started, 40 hex digits.
    type: str
  release:
    description: Id of the release, given to the processes as E(SLUICE_RELEASE).
    type: str
    default: ''
  source:
    description: Git repository that O(commit) is fetched from. Not used with O(package).
    type: str
  source_kind:
    description: For the action plugin, what O(source) is; an archive or a folder lies on the control node.
    type: str
    choices: [git, archive, directory]
    default: git
  source_sha256:
    description: For the action plugin, the SHA-256 that an archive must have.
    type: str
    default: ''
  build_directory:
    description: For the action plugin, the folder on the control node where a folder of sources is packed.
    type: str
    default: ''
  package:
    description: Archive with the files of O(commit), in place of O(source). The action plugin hands it over where it is wanted.
    type: dict
    suboptions:
      path:
        description: Where it lies on this host; empty to only ask whether it is needed.
        type: str
        default: ''
      sha256:
        description: What its SHA-256 must be.
        type: str
        default: ''
      built:
        description: Whether it was built before it was packed, so that O(build) is not run.
        type: bool
        default: false
  build:
    description: Commands that build a fetched version, each a list of words, run in the release folder.
    type: list
    elements: list
    default: []
  build_env:
    description: Environment of the build. No secrets; they belong in O(env_file).
    type: dict
    default: {}
  env_file:
    description: File with the environment of the processes, in dotenv form.
    type: path
  env:
    description: The schema of O(env_file); its server-only variables are what O(bundle) must not hold.
    type: dict
    default: {}
  env_keys:
    description: Whether keys are V(live) or V(test) ones; a test key in a O(bundle) for live ones is a finding.
    type: str
    choices: ['', live, test]
    default: ''
  bundle:
    description: Folders of a built release that browsers load. They are looked through for server-only values.
    type: list
    elements: str
    default: []
  env_var:
    description: Variable of O(env_file) with the database URL.
    type: str
    default: DATABASE_URL
  database:
    description: Name of the database that O(state=rehearsed) runs against instead of the real one.
    type: str
  health:
    description:
      - What the health answer of each service must hold beside status and version, with C(status), C(contains), C(json), C(components), C(max_seconds)
        and C(headers), as in M(sluice.deploy.health).
    type: dict
    default: {}
  smoke:
    description:
      - Requests and what their answers must look like, as in M(sluice.deploy.health). Those with the effect C(write) are sent only by O(state=rehearsed),
        those with the effect C(test-tenant) there, and with O(smoke_tenant) everywhere. Commands are run in the release folder.
    type: list
    elements: dict
    default: []
  smoke_tenant:
    description: Whether the system has a tenant for tests.
    type: bool
    default: false
  smoke_values:
    description: File in dotenv form, mode 0600, with values that O(smoke) uses as C({NAME}). Empty for none.
    type: path
  version_key:
    description: Dotted path of the version in the health answer; empty to not assert it.
    type: str
    default: version
  deadline:
    description: Seconds within which all services must be healthy.
    type: float
    default: 60
  passes:
    description: Good answers in a row that make a service healthy.
    type: int
    default: 3
  good:
    description: Commits of promoted releases, the newest first; used by O(state=saved).
    type: list
    elements: str
    default: []
  keep:
    description: How many good releases stay beside those that a slot holds.
    type: int
    default: 3
  keep_failed:
    description: How many release folders of failed releases stay in C(releases/.failed/), for whoever looks for the cause.
    type: int
    default: 1
  drain_timeout:
    description:
      - Seconds that processes which are replaced or stopped have to finish what they serve. They are ended earlier when no connection is left;
        what is left at the end is cut, and counted in RV(actions).
    type: float
    default: 30
  fence:
    description: Fencing number of the lease. A number lower than one seen before is refused.
    type: int
"""

EXAMPLES = r"""
- name: Start the idle slot
  sluice.deploy.slot:
    state: started
    app: wallet
    directory: /srv/wallet
    slot: green
    version: v1.0.0
    commit: 0f3c1a2b4d5e6f708192a3b4c5d6e7f8091a2b3c
    env_file: /etc/wallet/production.env
    services:
      - {name: web, entry: server.js, instances: 2, ports: {blue: 3001, green: 3002, rehearsal: 3003}}
"""

RETURN = r"""
actions:
  description: What was done, in words.
  returned: always
  type: list
  elements: str
wanted:
  description: Whether the files must be handed over first, in O(package).
  returned: when they must
  type: bool
gates:
  description: Gates that were judged, each with name, verdict, sentence, value, limit.
  returned: always
  type: list
  elements: dict
slots:
  description: What each slot holds after the call, by slot, with C(version), C(commit), C(folder) and C(online) (processes that run).
  returned: O(state=read) and O(state=started), and any state in diff mode
  type: dict
milliseconds:
  description: Time the step took on the host.
  returned: always
  type: int
"""

import json
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import runtimes
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import make_folder
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.slot_files import absent, prepared, saved
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.slot_host import Host
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.slot_jobs import owning
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.slot_processes import alone, started, stopped
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.slot_rehearsal import rehearsed
from ansible_collections.sluice.deploy.plugins.module_utils.core import archives, slots
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words

STATES = {
    "prepared": prepared,
    "started": started,
    "rehearsed": rehearsed,
    "alone": alone,
    "owning": owning,
    "stopped": stopped,
    "absent": absent,
    "saved": saved,
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["read", *STATES], "default": "read"},
            "app": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "slot": {"type": "str", "choices": list(slots.SLOTS)},
            "services": {"type": "list", "elements": "dict", "required": True},
            "in_place": {"type": "bool", "default": False},
            "version": {"type": "str"},
            "commit": {"type": "str"},
            "release": {"type": "str", "default": ""},
            "source": {"type": "str"},
            "source_kind": {"type": "str", "choices": list(archives.KINDS), "default": "git"},
            "source_sha256": {"type": "str", "default": ""},
            "build_directory": {"type": "str", "default": ""},
            "package": {
                "type": "dict",
                "options": {"path": {"type": "str", "default": ""}, "sha256": {"type": "str", "default": ""}, "built": {"type": "bool", "default": False}},
            },
            "build": {"type": "list", "elements": "list", "default": []},
            "build_env": {"type": "dict", "default": {}},
            "env_file": {"type": "path"},
            "env": {"type": "dict", "default": {}},
            "env_keys": {"type": "str", "choices": ["", "live", "test"], "default": ""},
            "bundle": {"type": "list", "elements": "str", "default": []},
            "env_var": {"type": "str", "default": "DATABASE_URL"},
            "database": {"type": "str"},
            "health": {"type": "dict", "default": {}},
            "smoke": {"type": "list", "elements": "dict", "default": []},
            "smoke_tenant": {"type": "bool", "default": False},
            "smoke_values": {"type": "path"},
            "version_key": {"type": "str", "default": "version", "no_log": False},
            "deadline": {"type": "float", "default": 60},
            "passes": {"type": "int", "default": 3, "no_log": False},
            **runtimes.ARGUMENTS,
            "good": {"type": "list", "elements": "str", "default": []},
            "keep": {"type": "int", "default": 3},
            "keep_failed": {"type": "int", "default": 1},
            "drain_timeout": {"type": "float", "default": 30},
            "fence": {"type": "int"},
        },
        required_if=[
            ("state", "prepared", ["version", "commit", "source"]),
            ("state", "started", ["slot", "version", "commit", "env_file"]),
            ("state", "rehearsed", ["slot", "env_file", "database"]),
            ("state", "alone", ["slot", "env_file"]),
            ("state", "owning", ["slot", "env_file"]),
            ("state", "stopped", ["slot"]),
            ("state", "saved", ["slot"]),
            ("state", "absent", ["version", "commit"]),
        ],
        supports_check_mode=True,
    )
    begun = time.monotonic()
    with in_words(module):
        host = Host(module.params)
        state = module.params["state"]
        shown = module._diff or state in ("read", "started")
        before = host.held() if module._diff else {}
        if state != "read" and module.params["fence"] is not None and not module.check_mode:
            make_folder(host.directory)
            host.claim()
        changed = STATES[state](host, module.check_mode) if state in STATES else False
        after = host.held() if shown else {}
    result = {
        "changed": changed,
        "actions": host.actions,
        "gates": [gate.as_dict() for gate in host.gates],
        **({"slots": after} if shown else {}),
        **({"wanted": True} if host.wanted else {}),
        "milliseconds": int((time.monotonic() - begun) * 1000),
    }
    if module._diff:
        result["diff"] = {"before": json.dumps(before, indent=2, sort_keys=True) + "\n", "after": json.dumps(after, indent=2, sort_keys=True) + "\n"}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
