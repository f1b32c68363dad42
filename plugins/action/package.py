# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds on the control node in its own process, or carries the sources to a build host and what was built back."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import given_source, package
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import make_folder, sha256_of
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.release_dir import shown
from ansible_collections.sluice.deploy.plugins.module_utils.core.archives import CONTROL
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.modules.package import ARGUMENTS
from ansible_collections.sluice.deploy.plugins.plugin_utils.progress import telling
from ansible_collections.sluice.deploy.plugins.plugin_utils.transfer import carried

_MODULE = "sluice.deploy.package"
_NOTHING = {"path": "", "sha256": "", "bytes": 0}


class ActionModule(ActionBase):
    """The archive is on the control node in the end, whoever built it; one that is there already is asked for nowhere else."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        _validation, given = self.validate_argument_spec(argument_spec=ARGUMENTS)
        # Plain JSON: a module takes no tagged values. And a folder of the operator's home is another one on the build host.
        args: dict[str, Any] = {**json.loads(json.dumps(given)), "directory": str(self._task.args["directory"])}
        here = os.path.expanduser(args["directory"])
        try:
            found = package.find(here, package.named(args))
            if found:
                return {**result, "changed": False, "actions": [f"{args['version']} is built already: {found.path}"], "gates": [], "package": asdict(found)}
            if self._task.check_mode:
                return {**result, "changed": True, "actions": [f"would build {args['version']} on {args['where']}"], "gates": [], "package": _NOTHING}
            return {**result, **(self._here(args, here) if args["where"] == CONTROL else self._there(args, here, task_vars or {}))}
        except SluiceError as error:
            return {**result, "failed": True, "msg": f"{args['version']} was not built on {args['where']}: {error}", **error.details()}
        except (AnsibleError, OSError) as error:
            return {**result, "failed": True, "msg": f"{args['version']} was not built on {args['where']}: {error}"}

    def _here(self, args: dict[str, Any], here: str) -> dict[str, Any]:
        sources = self._sources(args).path if args["source_kind"] != "git" else ""
        made, actions = package.make({**args, "directory": here}, sources, lambda what: Display().display(f"    control: now {what}"))
        return {"changed": True, "actions": [f"on control: {action}" for action in actions], "gates": [], "package": asdict(made)}

    def _there(self, args: dict[str, Any], here: str, variables: dict[str, Any]) -> dict[str, Any]:
        """Let the build host build, and fetch what it built."""
        what = f"    {args['where']}: builds {args['version']} ({'; '.join(shown(words) for words in args['build'])})"
        told = {**args, "source": given_source.for_hosts(args["source_kind"], args["source"])}
        with telling(lambda line: Display().display(line), what):
            answer = self._execute_module(module_name=_MODULE, module_args=told, task_vars=variables)
            if answer.get("wanted"):
                answer = self._with_sources(self._sources(args), told, variables)
        if answer.get("failed") or answer.get("unreachable"):
            return answer
        there = answer["package"]
        name = package.named(args)
        path = package.place(here, name)
        partial = f"{path}.{os.getpid()}.partial"
        try:
            self._connection.fetch_file(there["path"], partial)
            if sha256_of(partial) != there["sha256"]:
                raise SluiceError(f"{there['path']} did not arrive whole from {args['where']}.", "Run it again.")
            os.replace(partial, path)
        finally:
            if os.path.exists(partial):
                os.unlink(partial)
        kept = package.note(here, name, there["sha256"])
        package.prune(here)
        actions = [*(f"on {args['where']}: {action}" for action in answer["actions"]), f"fetched {kept.bytes / (1 << 20):,.1f} MiB from {args['where']}"]
        return {"changed": True, "actions": actions, "gates": [], "package": asdict(kept)}

    def _with_sources(self, sources: package.Packed, told: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        with carried(self, sources.path, "sources.tar") as copy:
            archive = {"path": copy, "sha256": sources.sha256}
            answer: dict[str, Any] = self._execute_module(module_name=_MODULE, module_args={**told, "archive": archive}, task_vars=variables)
            return answer

    @staticmethod
    def _sources(args: dict[str, Any]) -> package.Packed:
        make_folder(os.path.expanduser(args["directory"]))
        return given_source.archive_of(args["source_kind"], args["source"], args["source_sha256"], args["version"], args["commit"], args["directory"])
