# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The health gate from where it is asked: in the control node's own process when the probes start there, else as a module."""

from __future__ import annotations

import json
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.modules.health import ARGUMENTS, prove


class ActionModule(ActionBase):
    """Sends no module for a probe from the control node: an answer costs milliseconds."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        _validation, args = self.validate_argument_spec(argument_spec=ARGUMENTS)
        plain = json.loads(json.dumps(args))
        if self._connection.transport != "local":
            result: dict[str, Any] = self._execute_module(module_name="sluice.deploy.health", module_args=plain, task_vars=task_vars)
            return result
        try:
            gates = prove(plain, keep=not self._task.check_mode)
        except SluiceError as error:
            raise AnsibleActionFail(str(error), result=error.details()) from error
        return {"changed": False, "actions": [], "gates": [gate.as_dict() for gate in gates]}
