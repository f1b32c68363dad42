# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Carries the files of a release from the control node to a host that has not got them; every other state goes straight to the module."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import given_source
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.release_dir import shown
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.plugin_utils.progress import telling
from ansible_collections.sluice.deploy.plugins.plugin_utils.transfer import carried

_MODULE = "sluice.deploy.slot"


class ActionModule(ActionBase):
    """A release from git that the host builds itself costs one call, as ever; one that comes from here costs a second call where it is missing.

    It does not say TRANSFERS_FILES: that would make a folder on the host for every call, and cost a round trip each time.
    """

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        package, kind = args.pop("package", None) or {}, str(args.get("source_kind") or "git")
        if args.get("state") != "prepared":
            return {**result, **self._execute_module(module_name=_MODULE, module_args=args, task_vars=task_vars)}
        what = f"    {(task_vars or {}).get('inventory_hostname')}: prepares {args.get('version')}{self._commands(args, package)}"
        with telling(lambda line: Display().display(line), what):
            if not package and kind == "git":
                return {**result, **self._execute_module(module_name=_MODULE, module_args=args, task_vars=task_vars)}
            try:
                told = {**args, "source": given_source.for_hosts(kind, str(args.get("source") or ""))}
                answer = self._execute_module(module_name=_MODULE, module_args={**told, "package": {"built": bool(package)}}, task_vars=task_vars)
                if not answer.get("wanted"):
                    return {**result, **answer}
                return {**result, **self._handed_over(args, told, dict(package), kind, task_vars or {})}
            except SluiceError as error:
                return {**result, "failed": True, "msg": str(error), **error.details()}
            except (AnsibleError, OSError) as error:
                return {**result, "failed": True, "msg": f"The files of {args.get('version')} could not be handed over: {error}"}

    def _handed_over(self, args: dict[str, Any], told: dict[str, Any], package: dict[str, Any], kind: str, variables: dict[str, Any]) -> dict[str, Any]:
        path, sha256 = str(package.get("path", "")), str(package.get("sha256", ""))
        if not package:
            words = (str(args.get(key) or "") for key in ("source", "source_sha256", "version", "commit", "build_directory"))
            given = given_source.archive_of(kind, *words)
            path, sha256 = given.path, given.sha256
        with carried(self, path, "release.tar") as copy:
            handed = {"path": copy, "sha256": sha256, "built": bool(package)}
            answer: dict[str, Any] = self._execute_module(module_name=_MODULE, module_args={**told, "package": handed}, task_vars=variables)
            return answer

    @staticmethod
    def _commands(args: dict[str, Any], package: Any) -> str:
        words = "; ".join(shown(command) for command in args.get("build") or [])
        return f" ({words})" if words and not package else ""
