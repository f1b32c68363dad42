# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One line for each phase, action and gate as it happens; with -v, Ansible's own output."""

from __future__ import annotations

DOCUMENTATION = r"""
name: release
type: stdout
short_description: One line for each phase, action and gate of a release
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Prints what an operator of a release wants to see as it happens, each phase with its gates, their values and limits.
  - With C(-v) it is Ansible's default output.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - Set as stdout in configuration, C(stdout_callback = sluice.deploy.release).
"""

import time
from typing import Any

from ansible import constants as C
from ansible.plugins.callback.default import CallbackModule as Default

_MARKS = {
    "pass": ("ok", C.COLOR_OK),
    "waived": ("waived", C.COLOR_WARN),
    "inconclusive": ("cannot tell", C.COLOR_WARN),
    "error": ("ERROR", C.COLOR_ERROR),
    "fail": ("FAIL", C.COLOR_ERROR),
}


class CallbackModule(Default):
    """Prints results that carry phases, actions and gates; everything else is silent unless it fails."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "sluice.deploy.release"

    def __init__(self) -> None:
        super().__init__()
        self._phase_began = 0.0

    @property
    def _usual(self) -> bool:
        return self._display.verbosity > 0

    def _line(self, text: str, color: str | None = None) -> None:
        for part in text.splitlines() or [""]:
            self._display.display(part, color=color)

    # What is printed for a result ------------------------------------------------

    def _show(self, host: str, data: dict[str, Any], diff: bool = True, later: bool = False) -> None:
        phase = data.get("phase")
        if isinstance(phase, dict):
            self._phase_began = time.monotonic()
            done = " (done before, passed over)" if data.get("passed_over") else ""
            self._line(f"{phase['number']:>2}  {phase['title']}{done}", C.COLOR_HIGHLIGHT)
        if "groups" in data:
            several = len({gate["host"] for gate in data["gates"]} - {"control"}) > 1
            for title, gates in data["groups"].items():
                self._line(f"    {title}: {len(gates)}", C.COLOR_HIGHLIGHT)
                self._gates(gates, several)
        for sentence in data.get("say", []):
            self._line(f"    {sentence}", C.COLOR_VERBOSE if data.get("quiet") else None)
        if data.get("ended"):
            word = "STOPPED" if data.get("stop") else "done"
            self._line(f"    {word} after {time.monotonic() - self._phase_began:.1f} s", C.COLOR_ERROR if data.get("stop") else C.COLOR_VERBOSE)
            return
        for action in data.get("actions", []):
            self._line(f"    {host}: {action}", C.COLOR_CHANGED if data.get("changed") else None)
        if "groups" not in data and not later:
            self._gates(data.get("gates", []))
        if diff and data.get("diff") and (difference := self._get_diff(data["diff"])):
            self._line(difference)

    def _gates(self, gates: list[dict[str, Any]], several: bool = False) -> None:
        for gate in gates:
            word, color = ("warning", C.COLOR_WARN) if gate.get("severity") == "warn" else _MARKS[gate["verdict"]]
            where = f" ({gate['host']})" if several else ""
            self._line(f"    {word:<11} {gate['name']}{where}: {gate['sentence']}", color)
            if gate.get("remedy") and gate["verdict"] != "pass":
                self._line(f"                {gate['remedy']}", color)

    # Ansible's events --------------------------------------------------------------

    def v2_playbook_on_play_start(self, play: Any) -> None:
        if self._usual:
            super().v2_playbook_on_play_start(play)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        if self._usual:
            super().v2_playbook_on_task_start(task, is_conditional)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        if self._usual:
            super().v2_playbook_on_include(included_file)

    def v2_runner_on_ok(self, result: Any) -> None:
        if self._usual:
            super().v2_runner_on_ok(result)
        else:
            self._show(_host(result), _words_of(result), self._wants_diff(result), _told_later(result))

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        if self._usual:
            super().v2_runner_on_failed(result, ignore_errors)
            return
        data = _data(result)
        self._show(_host(result), {**data, "actions": [], "ended": ""}, diff=False)
        self._line(f"    FAIL        {_host(result)}: {data.get('msg', 'it failed without a word')}", C.COLOR_ERROR)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        if self._usual:
            super().v2_runner_on_unreachable(result)
        else:
            self._line(f"    FAIL        {_host(result)} cannot be reached: {_data(result).get('msg', '')}", C.COLOR_ERROR)

    def v2_runner_on_skipped(self, result: Any) -> None:
        if self._usual:
            super().v2_runner_on_skipped(result)

    def v2_on_file_diff(self, result: Any) -> None:
        if self._usual:
            super().v2_on_file_diff(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        if self._usual:
            super().v2_runner_item_on_ok(result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        self.v2_runner_on_failed(result)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        if self._usual:
            super().v2_runner_item_on_skipped(result)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if self._usual:
            super().v2_playbook_on_stats(stats)

    @staticmethod
    def _wants_diff(result: Any) -> bool:
        task = getattr(result, "task", None) or result._task
        return bool(task.diff)


def _words_of(result: Any) -> dict[str, Any]:
    """Return a result; one of Ansible's own modules says nothing by itself, so its task's name is its action where provisioning wants it told."""
    task, data = getattr(result, "task", None) or result._task, _data(result)
    if not task.get_vars().get("__provision_told") or "actions" in data:
        return data
    if task.action == "ansible.builtin.debug":
        said = data.get("msg", [])
        return {**data, "say": [said] if isinstance(said, str) else said}
    return {**data, "actions": [task.name]} if data.get("changed") else data


def _told_later(result: Any) -> bool:
    """Tell whether the gates of a task are printed by a later one, all together."""
    task = getattr(result, "task", None) or result._task
    return bool(task.get_vars().get("__preflight_told_later"))


def _host(result: Any) -> str:
    host = getattr(result, "host", None) or result._host
    return str(host.get_name())


def _data(result: Any) -> dict[str, Any]:
    data = getattr(result, "result", None)
    return data if isinstance(data, dict) else dict(result._result)
