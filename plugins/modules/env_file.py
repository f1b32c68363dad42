#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment file of an app, put in place whole, or taken as fingerprints."""

from __future__ import annotations

DOCUMENTATION = r"""
module: env_file
short_description: Put an environment file in place, or write its fingerprints
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Puts a file in dotenv form in place by one rename, with mode 0600 and its owner from the first moment. What is malformed, and what Node and Python
    would read differently, is refused.
  - Or writes keyed fingerprints of an environment, so that another one can be compared with it without knowing a value.
  - No value is shown, in no result and no diff; only names.
attributes:
  check_mode:
    description: Reads both files and tells what would change.
    support: full
  diff_mode:
    description: Shows names, and which of them get another value.
    support: full
options:
  state:
    description:
      - V(present) puts the variables of O(src) in place as O(path).
      - V(fingerprinted) writes the fingerprints of O(src) to O(path).
    type: str
    choices: [present, fingerprinted]
    default: present
  path:
    description: File that is written.
    type: path
    required: true
  src:
    description:
      - With O(state=present) a file on the control node; it may be encrypted with C(ansible-vault).
      - With O(state=fingerprinted) a file on the host, in dotenv form or the JSON that Render, Railway or Vercel export.
    type: path
    required: true
  owner:
    description: User that owns O(path), with that user's first group. Default is who the module runs as.
    type: str
"""

EXAMPLES = r"""
- name: Put the environment in place
  sluice.deploy.env_file:
    src: secrets/production.env
    path: /etc/wallet/production.env
    owner: www-data

- name: Take staging's fingerprints
  sluice.deploy.env_file:
    state: fingerprinted
    src: /etc/wallet/staging.env
    path: /root/staging.fingerprints.json
"""

RETURN = r"""
actions:
  description: What was done, in sentences.
  returned: always
  type: list
  elements: str
gates:
  description: Always empty; what is wrong with a file is refused.
  returned: always
  type: list
  elements: dict
names:
  description: Names of the variables.
  returned: always
  type: list
  elements: str
"""

import json
import os
import secrets
import stat
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import env_file
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import read_text
from ansible_collections.sluice.deploy.plugins.module_utils.core import dotenv, env_compare
from ansible_collections.sluice.deploy.plugins.module_utils.core.dotenv_readers import differences
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError


def source(path: str) -> str:
    text = read_text(path)
    if text is None:
        raise SluiceError(f"{path} is not there.", "Name the file with the variables in src.", path=path)
    return text


def present(params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Put the file in place, or find that it is."""
    path, text = params["path"], source(params["src"])
    wanted = dotenv.parse(text)
    unlike = differences(text)
    if unlike:
        told = "; ".join(f"{name}: {said}" for name, said in unlike.items())
        raise SluiceError(f"Not every reader reads the file alike. {told}.", "Write those values in single quotes.")
    owner = env_file.owner_ids(params["owner"])
    before = read_text(path)
    held = dotenv.read(before or "")[0]
    added, removed = env_compare.names_between(wanted, held)
    other = [name for name in wanted if name in held and held[name] != wanted[name]]
    closed = before is not None and right(path, owner)
    changed = before != text or not closed
    parts = [f"{len(names)} {word}" for names, word in ((added, "added"), (other, "changed"), (removed, "removed")) if names]
    if before is not None and not closed:
        parts.append("mode or owner set")
    actions = [f"{'would put' if check else 'put'} {path} in place: {', '.join(parts) or 'spelled anew'}"] if changed else []
    if changed and not check:
        env_file.install(path, text, owner)
    after = [f"{name} (another value)" if name in other else name for name in wanted]
    diff = {"before_header": path, "after_header": path, "before": lines(held), "after": lines(after)}
    return {"changed": changed, "actions": actions, "names": list(wanted), "diff": diff}


def right(path: str, owner: Any) -> bool:
    about = os.lstat(path)
    return stat.S_ISREG(about.st_mode) and stat.S_IMODE(about.st_mode) == 0o600 and about.st_nlink == 1 and owner in (None, (about.st_uid, about.st_gid))


def lines(names: Any) -> str:
    return "".join(f"{name}\n" for name in names)


def fingerprinted(params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Write the fingerprints; the key of the file that is there is kept, so that a second run changes nothing."""
    values = env_compare.from_export(source(params["src"]))
    before = read_text(params["path"])
    prints = env_compare.prints_from(json.loads(before), params["path"]) if before else None
    text = json.dumps(env_compare.take(values, prints.key if prints else secrets.token_hex(32)).as_dict(), indent=2, sort_keys=True) + "\n"
    changed = text != before
    if changed and not check:
        env_file.install(params["path"], text, env_file.owner_ids(params["owner"]))
    word = "would write" if check else "wrote"
    actions = [f"{word} the fingerprints of {len(values)} variables to {params['path']}; hand it over like a secret"] if changed else []
    diff = {"before": lines(sorted(prints.of) if prints else ()), "after": lines(sorted(values))}
    return {"changed": changed, "actions": actions, "names": list(values), "diff": diff}


# The action plugin of this name has the same arguments.
ARGUMENTS = {
    "state": {"type": "str", "choices": ["present", "fingerprinted"], "default": "present"},
    "path": {"type": "path", "required": True},
    "src": {"type": "path", "required": True},
    "owner": {"type": "str"},
}


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    try:
        result = (present if module.params["state"] == "present" else fingerprinted)(module.params, module.check_mode)
    except SluiceError as error:
        module.fail_json(msg=str(error), **error.details())
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"{module.params['path']} could not be done: {type(error).__name__}: {getattr(error, 'strerror', None) or 'it cannot be read'}.")
    if not module._diff:
        del result["diff"]
    module.exit_json(gates=[], **result)


if __name__ == "__main__":
    main()
