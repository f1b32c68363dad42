# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A world of its own for each file of tests, and playbooks run through ansible-runner."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ansible_runner
import pytest

from tests.sandbox.demo import Load
from tests.sandbox.world import CHECKOUT, World

# Steps as short as they can be and still be judged: some hundred requests each.
QUICK = {
    "canary_steps": [
        {"percent": 25, "min": 1, "max": 5, "then": "rollback"},
        {"percent": 100, "min": 1, "max": 5, "then": "rollback"},
    ],
    "canary_watch_seconds": 1,
}


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
        """Return the modules that were sent somewhere, one entry for each time."""
        ours = ("inputs", "judge", "ledger")
        builtin = ("assert", "debug", "fail", "include_role", "include_tasks", "set_fact", "validate_argument_spec")
        names = [str(result["action"]).rpartition(".")[2] for result in self.results if not result["skipped"]]
        return [name for name in names if name not in (*ours, *builtin)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A production with v0.9.9 live on blue."""
    folder = tmp_path_factory.mktemp("world")
    made = World(folder, tools=CHECKOUT / ".cache" / "tools")
    try:
        made.up()
        yield made
    finally:
        made.wipe()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def load(world: World) -> Iterator[Load]:
    """Steady traffic for one test."""
    with Load(world) as running:
        yield running


@pytest.fixture
def play(world: World, tmp_path: Path) -> Callable[..., Run]:
    """Run one of the collection's playbooks and return what it left."""
    count = 0

    def runner(name: str, *words: str, verbosity: int = 0, **variables: Any) -> Run:
        nonlocal count
        count += 1
        data = tmp_path / f"run{count}"
        data.mkdir()
        done = ansible_runner.run(
            private_data_dir=str(data),
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
            if event["event"] in ("runner_on_ok", "runner_on_failed", "runner_on_skipped", "runner_on_unreachable"):
                about = event["event_data"]
                results.append(
                    {
                        "task": about.get("task"),
                        "action": about.get("resolved_action") or about["task_action"],
                        "skipped": event["event"] == "runner_on_skipped",
                        "res": about.get("res", {}),
                    }
                )
        return Run(done.rc, Path(done.config.artifact_dir, "stdout").read_text(encoding="utf-8"), results)

    return runner


def report(world: World, run: Run | None = None) -> dict[str, Any]:
    """Return the account of the newest release."""
    newest = next(record["release"] for record in reversed(world.ledger()) if record.get("release"))
    found: dict[str, Any] = json.loads(Path(world.facts["ledger"], "reports", f"{newest}.json").read_text(encoding="utf-8"))
    return found
