#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hygiene of a release's source, and the results of other tools about it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: hygiene
short_description: Judge the source of a version
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Looks through the files of a version for C(console.log), debugger statements, secrets and commented-out code, and reads the results of other tools.
  - A finding is told by its path, line and kind; what was found is never repeated.
attributes:
  check_mode:
    description: Only reads, so check mode is the same.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
options:
  source:
    description: Git repository, as a path or an address, or an archive or folder on this machine.
    type: str
  source_kind:
    description: What O(source) is.
    type: str
    choices: [git, archive, directory]
    default: git
  version:
    description: Tag, branch or commit of O(source).
    type: str
  allow:
    description: Findings that are meant; each with C(path) (with C(*) and C(?)), C(kind) and C(reason).
    type: list
    elements: dict
    default: []
  artefacts:
    description: Results of other tools, each with the path of a JUnit file, or of JSON from ESLint, flake8-json, gitleaks or detect-secrets.
    type: dict
    default: {}
  timeout:
    description: Seconds for git to fetch the version.
    type: float
    default: 120.0
"""

EXAMPLES = r"""
- name: Judge the source
  sluice.deploy.hygiene:
    source: /srv/git/wallet.git
    version: v1.0.0
    allow:
      - {path: 'scripts/*', kind: console.log, reason: scripts for the terminal}
"""

RETURN = r"""
gates:
  description: Every gate with its verdict and a sentence.
  returned: always
  type: list
  elements: dict
findings:
  description: All findings, the allowed ones too, with path, line and kind.
  returned: when O(source) is given
  type: list
  elements: dict
seconds:
  description: How long it took.
  returned: always
  type: float
"""

import time
from dataclasses import asdict
from typing import Optional

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import source_tree
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import read_text
from ansible_collections.sluice.deploy.plugins.module_utils.core import archives, hygiene, reports
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.gates import failed
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "str"},
            "source_kind": {"type": "str", "choices": list(archives.KINDS), "default": "git"},
            "version": {"type": "str"},
            "allow": {"type": "list", "elements": "dict", "default": []},
            "artefacts": {"type": "dict", "default": {}},
            "timeout": {"type": "float", "default": 120.0},
        },
        required_together=[("source", "version")],
        supports_check_mode=True,
    )
    params, began = module.params, time.monotonic()
    gates, more = [], {}
    with in_words(module):
        allowed = hygiene.allowed_from(params["allow"])
        if params["source"]:
            try:
                large: list[str] = []
                files = list(source_tree.texts_of(params["source_kind"], params["source"], params["version"], large, params["timeout"]))
                findings = [finding for path, text in files for finding in hygiene.scan(path, text)]
                gates += hygiene.judge(findings, allowed, len(files), large)
                more["findings"] = [asdict(finding) for finding in findings]
            except SluiceError as error:
                gates.append(failed("source hygiene", error.message, error.remedy))
        gates += [reports.judge(name, str(path), _text(str(path))) for name, path in params["artefacts"].items()]
    module.exit_json(changed=False, actions=[], gates=[gate.as_dict() for gate in gates], seconds=round(time.monotonic() - began, 3), **more)


def _text(path: str) -> Optional[str]:
    try:
        return read_text(path)
    except (UnicodeDecodeError, IsADirectoryError):
        return ""  # no report of any form


if __name__ == "__main__":
    main()
