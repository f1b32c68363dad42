#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation of the check of a run's inputs; the work is done by the action plugin of this name."""

from __future__ import annotations

DOCUMENTATION = r"""
module: inputs
short_description: Check every input of a run at once, before anything changes
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Checks the variables of the host it runs for against the argument specifications of all roles of this collection,
    and fails with all that is wrong in one message. Each complaint names the variable, what is allowed, and often an example.
  - A variable that begins with a role's name and is no input of it is a complaint too, because it is most likely misspelt.
  - A variable that cannot be known yet, because it refers to one that the run itself finds out later, is not checked.
  - Tasks of this name run as an action plugin on the control node; nothing is sent anywhere.
attributes:
  check_mode:
    description: Nothing is ever changed, so check mode does the same.
    support: full
  diff_mode:
    description: Nothing is ever changed, so there is no difference to show.
    support: none
options:
  required:
    description: Names of inputs that must be given and not be empty.
    type: list
    elements: str
    default: []
  groups:
    description: Inventory groups that must have a host.
    type: list
    elements: str
    choices: [edges, apphosts, databases]
    default: []
"""

EXAMPLES = r"""
- name: Check every input
  sluice.deploy.inputs:
    required: [app_name, app_source, app_services, app_env_file, release_version]
    groups: [edges, apphosts, databases]
  run_once: true
"""

RETURN = r"""
checked:
  description: Number of inputs that were checked.
  returned: success
  type: int
problems:
  description: What is wrong, one sentence for each.
  returned: failure
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

# What each group of the inventory is for.
GROUPS = {"edges": "nginx runs", "apphosts": "the app's processes run", "databases": "pg_dump and psql run"}
# The action plugin of this name has the same arguments.
ARGUMENTS = {
    "required": {"type": "list", "elements": "str", "default": []},
    "groups": {"type": "list", "elements": "str", "choices": list(GROUPS), "default": []},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    module.fail_json(msg="sluice.deploy.inputs runs on the control node through its action plugin.")


if __name__ == "__main__":
    main()
