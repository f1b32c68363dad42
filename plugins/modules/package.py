#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One version built once, and packed for every app host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: package
short_description: Build a version once and pack it for the app hosts
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Builds a version on the control node or on a build host, packs what was built into one archive, and has it on the control node in the end.
  - An archive that is there and whole is taken as it is, so a second run builds and moves nothing.
  - The action plugin of this name builds on the control node in its own process, and carries archives to a build host and back.
attributes:
  check_mode:
    description: Reports whether it would build, and changes nothing.
    support: full
  diff_mode:
    description: What changes is an archive, which has no difference to show.
    support: none
options:
  directory:
    description: Folder for the build, its caches and the archives, on the machine that builds and on the control node.
    type: path
    required: true
  where:
    description: V(control) to build on the control node, else the build host that the task is delegated to, for what is said.
    type: str
    default: control
  version:
    description: Version as people call it.
    type: str
    required: true
  commit:
    description: What is built, 40 hex digits.
    type: str
    required: true
  source:
    description: Git repository as the machine that builds reaches it, or an archive or folder on the control node.
    type: str
    required: true
  source_kind:
    description: What O(source) is.
    type: str
    choices: [git, archive, directory]
    default: git
  source_sha256:
    description: SHA-256 that an archive must have.
    type: str
    default: ''
  build:
    description: Commands that build the version, each a list of words, run in its folder one after the other.
    type: list
    elements: list
    default: []
  build_env:
    description: Environment of the build. No secrets.
    type: dict
    default: {}
  path:
    description: Folder put before PATH for the build.
    type: str
    default: ''
  archive:
    description: For the action plugin, the sources as an archive on the build host.
    type: dict
    suboptions:
      path:
        description: Where it lies; empty to only ask whether it is needed.
        type: str
        default: ''
      sha256:
        description: What its SHA-256 must be.
        type: str
        default: ''
"""

EXAMPLES = r"""
- name: Build it once
  sluice.deploy.package:
    directory: ~/.cache/sluice/wallet
    version: v1.0.0
    commit: 0f3c1a2b4d5e6f708192a3b4c5d6e7f8091a2b3c
    source: https://git.example.org/wallet.git
    build: [[npm, ci, --include=dev], [npm, run, build], [npm, prune, --omit=dev]]
  run_once: true
"""

RETURN = r"""
actions:
  description: What was done, in words.
  returned: always
  type: list
  elements: str
package:
  description: The archive, with C(path), C(sha256) and C(bytes). Empty strings and 0 in check mode while it is not built.
  returned: success
  type: dict
wanted:
  description: Whether the sources must be handed over first, in O(archive).
  returned: when they must
  type: bool
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import package
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import sha256_of
from ansible_collections.sluice.deploy.plugins.module_utils.core import archives
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words

# The action plugin of this name has the same arguments.
ARGUMENTS = {
    "directory": {"type": "path", "required": True},
    "where": {"type": "str", "default": "control"},
    "version": {"type": "str", "required": True},
    "commit": {"type": "str", "required": True},
    "source": {"type": "str", "required": True},
    "source_kind": {"type": "str", "choices": list(archives.KINDS), "default": "git"},
    "source_sha256": {"type": "str", "default": ""},
    "build": {"type": "list", "elements": "list", "default": []},
    "build_env": {"type": "dict", "default": {}},
    "path": {"type": "str", "default": ""},
    "archive": {"type": "dict", "options": {"path": {"type": "str", "default": ""}, "sha256": {"type": "str", "default": ""}}},
}


def built(params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Build on the build host, unless it is done or the sources are missing."""
    found = package.find(params["directory"], package.named(params))
    sources = params["archive"] or {"path": "", "sha256": ""}
    if found:
        return {"changed": False, "actions": [f"{params['version']} is built already: {found.path}"], "package": asdict(found)}
    if check:
        return {"changed": True, "actions": [f"would build {params['version']}"], "package": {"path": "", "sha256": "", "bytes": 0}}
    if params["source_kind"] != "git" and not sources["path"]:
        return {"changed": False, "actions": [], "wanted": True}
    if sources["path"] and sha256_of(sources["path"]) != sources["sha256"]:
        raise SluiceError("The sources did not arrive whole on the build host.", "Run it again.")
    made, actions = package.make(params, sources["path"])
    return {"changed": True, "actions": actions, "package": asdict(made)}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    with in_words(module):
        result = built(module.params, module.check_mode)
    module.exit_json(gates=[], **result)


if __name__ == "__main__":
    main()
