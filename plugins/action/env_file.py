# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries an environment file from the control node to a host: decrypted where it is a vault, in a folder of its own that only its user reads."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.sluice.deploy.plugins.modules.env_file import ARGUMENTS

_MODULE = "sluice.deploy.env_file"


class ActionModule(ActionBase):
    """With ``state: present``, ``src`` lies on the control node; the module finds a copy beside itself."""

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _validation, args = self.validate_argument_spec(argument_spec=ARGUMENTS)
        args = {name: value for name, value in args.items() if value is not None}
        if args["state"] != "present":
            return {**result, **self._execute_module(module_name=_MODULE, module_args=args, task_vars=task_vars)}
        try:
            clear = self._loader.get_real_file(self._find_needle("files", args["src"]))
        except AnsibleError as error:
            return {**result, "failed": True, "msg": f"{args['src']} on the control node cannot be read: {error}"}
        folder = self._make_tmp_path()
        try:
            copy = self._transfer_file(clear, self._connection._shell.join_path(folder, "source.env"))
            self._fixup_perms2((folder, copy))
            args["src"] = copy
            return {**result, **self._execute_module(module_name=_MODULE, module_args=args, task_vars=task_vars)}
        finally:
            self._loader.cleanup_tmp_file(clear)
            self._remove_tmp_path(folder)
