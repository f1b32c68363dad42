# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks at a source that lies on the control node, or that only this node reaches; every other gate is the host's."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import given_source
from ansible_collections.sluice.deploy.plugins.module_utils.core.archives import TARGET
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, PASS, Gate

_MODULE = "sluice.deploy.preflight"


class ActionModule(ActionBase):
    """One call to the host, as without it."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result = super().run(tmp, task_vars)
        args = dict(self._task.args)
        kind, where = str(args.get("source_kind") or "git"), str(args.get("build_where") or TARGET)
        directory = str(args.pop("build_directory", ""))
        if not args.get("source") or (kind == "git" and where == TARGET):
            return {**result, **self._execute_module(module_name=_MODULE, module_args=args, task_vars=task_vars)}
        source, version = str(args.pop("source")), str(args.pop("version", ""))
        facts: dict[str, str] = {}
        try:
            facts["commit"], sentence, facts["source"] = given_source.identify(kind, source, str(args.get("source_sha256") or ""), version, directory)
            gate = Gate("source", PASS, sentence, value=facts["commit"])
        except SluiceError as error:
            gate = Gate("source", FAIL, error.message, remedy=error.remedy)
        answer = self._execute_module(module_name=_MODULE, module_args=args, task_vars=task_vars)
        if "gates" in answer:
            answer = {**answer, **facts, "gates": [gate.as_dict(), *answer["gates"]]}
        return {**result, **answer}
