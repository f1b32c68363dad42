# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Python app released from images by compose, with Alembic in a container: a good version, the way back, and a bad one."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import QUICK, report
from tests.sandbox import engine
from tests.sandbox.demo import Load
from tests.sandbox.runner import Run, run_playbook
from tests.sandbox.till import Till
from tests.sandbox.world import CHECKOUT

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Till]:
    """A production with v0.9.0 of the till live on blue."""
    folder = tmp_path_factory.mktemp("till")
    made = Till(folder, tools=CHECKOUT / ".cache" / "tools")
    try:
        made.up()
        yield made
    finally:
        made.wipe()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def play(world: Till, tmp_path: Path) -> Callable[..., Run]:
    """Run one of the collection's playbooks on the till."""

    def runner(name: str, **variables: Any) -> Run:
        data = tmp_path / f"run-{name}-{time.monotonic_ns()}"
        data.mkdir()
        return run_playbook(world, data, name, (), 0, {**world.variables(), **variables})

    return runner


def seen(world: Till, path: str = "/api/v1/health") -> dict[str, Any]:
    """Return what the public sees."""
    with urllib.request.urlopen(f"{world.url}{path}", timeout=5) as reply:
        said: dict[str, Any] = json.load(reply)
    return said


def test_a_release_the_way_back_and_a_bad_one(world: Till, play: Callable[..., Run], load: Load) -> None:
    assert world.psql("SELECT version_num FROM alembic_version") == "0001"

    good = play("release", release_version="v1.0.0", **QUICK)
    assert good.rc == 0, good.text[-4000:]
    assert seen(world)["slot"] == "green" and seen(world)["version"] == "v1.0.0"
    assert world.psql("SELECT version_num FROM alembic_version") == "0002"
    parts = seen(world, "/api/v1/health/detailed")["components"]
    assert (parts["database"]["status"], parts["worker"]["status"]) == ("ok", "ok")
    assert (
        engine.docker("ps", "--format", '{{.Label "sluice.slot"}}', "--filter", f"label=sluice.app={world.app}", "--filter", "label=sluice.service=worker")
        == "green"
    )
    # The warm slot keeps running; the copy that was rehearsed on does not.
    slots = set(engine.docker("ps", "--format", '{{.Label "sluice.slot"}}', "--filter", f"label=sluice.app={world.app}").split())
    assert slots == {"blue", "green"}

    back = play("rollback")
    assert back.rc == 0, back.text[-3000:]
    assert (seen(world)["slot"], seen(world)["version"]) == ("blue", "v0.9.0")

    bad = play("release", release_version="v1.1.0-bad", **QUICK)
    assert bad.rc != 0
    assert report(world)["result"] == "rolled_back", bad.text[-4000:]
    assert seen(world)["version"] == "v0.9.0"

    counts = load.seen()["requests"]
    assert counts["total"] > 500 and counts["failed"] == 0, counts
