# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks run through ansible-runner, with every result of every task."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ansible_runner

from tests.sandbox.world import CHECKOUT, World

# What stays on the control node: our own action plugins, and Ansible's that send nothing.
HERE = ("health", "inputs", "judge", "ledger", "assert", "debug", "fail", "include_role", "include_tasks", "set_fact", "validate_argument_spec")
_ENDS = ("runner_on_ok", "runner_on_failed", "runner_on_skipped", "runner_on_unreachable")


@dataclass
class Run:
    """What a playbook left: exit code, what it printed, and every result of every task."""

    rc: int
    text: str
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def flat(self) -> str:
        """What was printed, on one line, so that a message can be looked for whatever its width."""
        return " ".join(self.text.split())

    def remote_runs(self) -> list[str]:
        """Return the modules that were sent to a host, one entry for each time."""
        names = [result["action"].rpartition(".")[2] for result in self.results if not result["skipped"]]
        return [name for name in names if name not in HERE]


def run_playbook(world: World, folder: Path, name: str, words: tuple[str, ...], verbosity: int, variables: dict[str, Any]) -> Run:
    """Run one of the collection's playbooks against a world.

    :param folder: empty folder for ansible-runner's own files.
    """
    done = ansible_runner.run(
        private_data_dir=str(folder),
        project_dir=str(CHECKOUT),
        playbook=f"sluice.deploy.{name}",
        inventory=str(CHECKOUT / "inventories" / "sandbox"),
        extravars=variables,
        cmdline=" ".join(words) or None,
        envvars={**world.env(), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_STDOUT_CALLBACK": "sluice.deploy.release"},
        verbosity=verbosity or None,
        quiet=True,
    )
    results = []
    for event in done.events:
        if event["event"] in _ENDS:
            about = event["event_data"]
            skipped = event["event"] == "runner_on_skipped"
            results.append({"task": about.get("task"), "action": str(about.get("resolved_action") or about["task_action"]), "skipped": skipped})
    return Run(done.rc, Path(done.config.artifact_dir, "stdout").read_text(encoding="utf-8"), results)
