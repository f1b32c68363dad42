# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every input of a run checked at once, before anything changes, against the roles' own argument specs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible import context
from ansible.errors import AnsibleUndefinedVariable
from ansible.module_utils.common.yaml import yaml_load
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars
from ansible_collections.sluice.deploy.plugins.module_utils.core import inputs
from ansible_collections.sluice.deploy.plugins.modules.inputs import ARGUMENTS, GROUPS

_ROLES = Path(__file__).resolve().parents[2] / "roles"


class ActionModule(ActionBase):
    """Reads the variables of the host it runs for; changes nothing."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        variables = task_vars or {}
        _validation, args = self.validate_argument_spec(argument_spec=ARGUMENTS)
        specs: dict[str, dict[str, Any]] = {}
        for path in sorted(_ROLES.glob("*/meta/argument_specs.yml")):
            specs.update(yaml_load(path.read_text(encoding="utf-8"))["argument_specs"]["main"].get("options", {}))
        prefixes = tuple(f"{path.name}_" for path in _ROLES.iterdir() if path.is_dir())
        given = set(load_extra_vars(self._loader)) if context.CLIARGS.get("extra_vars") else set()
        named = {name for name in variables if name.startswith(prefixes)}
        problems = inputs.unknown(given, named, specs)
        values = self._values(variables, named & set(specs))
        problems += inputs.wrong(values, specs)
        where = values.get("app_build_where", "target")
        if not problems and where not in ("target", "control", *variables.get("groups", {}).get("all", ())):
            problems.append(f"app_build_where must be target, control, or a host of the inventory, which has no host {where}. Example: app_build_where=control")
        problems += [
            f"{name} is not set. {specs[name]['description'][0] if isinstance(specs[name]['description'], list) else specs[name]['description']}"
            for name in args["required"]
            if values.get(name) in (None, "", [], {})
        ]
        problems += [
            f"The inventory has no host in the group {name}, where {GROUPS[name]}. One host may be in all. Example: {name}: {{hosts: {{web1.example.org: }}}}"
            for name in args["groups"]
            if not variables.get("groups", {}).get(name)
        ]
        if problems:
            return {
                **result,
                "failed": True,
                "changed": False,
                "problems": problems,
                "msg": "\n".join(["The input is not right; nothing was changed.", *(f"  - {problem}" for problem in problems)]),
            }
        return {**result, "changed": False, "checked": len(values)}

    def _values(self, variables: dict[str, Any], names: set[str]) -> dict[str, Any]:
        """Return what can be known of the variables now; what the run itself finds out later is not the operator's input."""
        values = {}
        for name in names:
            try:
                value = self._templar.template(variables[name])
            except AnsibleUndefinedVariable:
                continue
            if value is not None:
                values[name] = value
        return values
