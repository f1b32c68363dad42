# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A world of its own for each file of tests, playbooks run through ansible-runner, and single edges."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.edges import Edge, binary_of
from tests.e2e.stores import Site, Ssh, Storage
from tests.sandbox.demo import Load
from tests.sandbox.runner import Run, run_playbook
from tests.sandbox.world import CHECKOUT, World

# Steps as short as they can be and still be judged: some hundred requests each.
QUICK = {
    "canary_steps": [
        {"percent": 25, "min": 1, "max": 5, "then": "rollback"},
        {"percent": 100, "min": 1, "max": 5, "then": "rollback"},
    ],
    "canary_watch_seconds": 1,
    # A machine that runs other tests as well is slow now and then; what a slow version is, its own test says.
    "canary_limits": {"p95_ratio": 50.0},
    # Some tests release without any visitor.
    "canary_accept_blind": True,
}


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
        return run_playbook(world, data, name, words, verbosity, variables)

    return runner


@pytest.fixture(params=["distribution", "current"])
def binary(request: pytest.FixtureRequest) -> str:
    """Return an nginx: the distribution's, and a current one."""
    return binary_of(request.param)


@pytest.fixture(params=["buckets", "weights"])
def edge(request: pytest.FixtureRequest, binary: str, tmp_path: Path) -> Iterator[Edge]:
    """Return an edge whose nginx does not run yet, with each of the two switches."""
    edge = Edge(tmp_path, binary)
    edge.defaults["switch"] = request.param
    try:
        yield edge
    finally:
        edge.end()


def report(world: World, run: Run | None = None) -> dict[str, Any]:
    """Return the account of the newest release."""
    newest = next(record["release"] for record in reversed(world.ledger()) if record.get("release"))
    found: dict[str, Any] = json.loads(Path(world.facts["ledger"], "reports", f"{newest}.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="session")
def backup_collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which modules find the checkout under the collection's name."""
    root = tmp_path_factory.mktemp("collections")
    (root / "ansible_collections" / "sluice").mkdir(parents=True)
    (root / "ansible_collections" / "sluice" / "deploy").symlink_to(CHECKOUT)
    return root


@pytest.fixture
def site(tmp_path: Path, backup_collections: Path) -> Site:
    """Return a host with backups."""
    return Site(tmp_path, backup_collections)


@pytest.fixture(scope="module")
def ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ssh]:
    """Run an SSH server."""
    running = Ssh(tmp_path_factory.mktemp("ssh"))
    yield running
    running.stop()


@pytest.fixture
def ssh(ssh_server: Ssh) -> Ssh:
    """Return the SSH server with an empty disk."""
    shutil.rmtree(ssh_server.disk)
    ssh_server.disk.mkdir()
    return ssh_server


@pytest.fixture(scope="module")
def storage_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """Run storage that speaks S3."""
    running = Storage(tmp_path_factory.mktemp("s3"))
    yield running
    running.stop()


@pytest.fixture
def storage(storage_server: Storage) -> Storage:
    """Return the storage with one empty bucket."""
    storage_server.empty()
    return storage_server
