# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whole releases of the wallet from an archive that is built on the control node: refused, broken, good, and taken back."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import QUICK, report
from tests.e2e.test_release import lease, served, snapshot
from tests.sandbox.runner import Run
from tests.sandbox.world import World

Play = Callable[..., Run]
# The canary is the matter of other tests, so nobody visits here, and nothing is judged.
UNSEEN = {**QUICK, "canary_steps": [{"percent": 100, "min": 0, "max": 0, "then": "promote"}], "canary_watch_seconds": 0}


@pytest.fixture
def given(world: World) -> dict[str, Any]:
    """Return what names an archive of v1.0.0, as a CI would make it."""
    path = world.folder / "ci" / "wallet-v1.0.0.tar.gz"
    if not path.exists():
        path.parent.mkdir()
        words = ["git", "-C", world.facts["repository"], "archive", "--prefix=wallet/", "--format=tar.gz", "-o", str(path), "v1.0.0"]
        subprocess.run(words, check=True, timeout=30)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "release_version": "v1.0.0",
        "app_source": str(path.parent / "wallet-{{ release_version }}.tar.gz"),
        "app_source_kind": "archive",
        "app_source_sha256": sha256,
        "app_build_where": "control",
        "app_build_directory": str(world.folder / "builds"),
        **UNSEEN,
    }


def test_another_archive_is_refused(world: World, play: Play, given: dict[str, Any]) -> None:
    before = snapshot(world)
    run = play("release", **{**given, "app_source_sha256": "0" * 64})
    assert run.rc != 0
    assert "It is another file than the one that was approved." in run.flat
    assert report(world)["result"] == "refused" and snapshot(world) == before


def test_check_mode_builds_nothing(world: World, play: Play, given: dict[str, Any]) -> None:
    before, records = snapshot(world), len(world.ledger())
    run = play("release", "--check", "--diff", **given)
    assert run.rc == 0, run.text
    assert "would build v1.0.0 on control" in run.flat and "share of green: 0 % -> 100 %" in run.flat
    assert snapshot(world) == before and len(world.ledger()) == records and not (world.folder / "builds").exists()


def test_a_build_that_fails_stops_the_release(world: World, play: Play, given: dict[str, Any]) -> None:
    before = snapshot(world)
    run = play("release", **{**given, "app_build": [["sh", "-c", "echo no such package >&2; exit 9"]]})
    assert run.rc != 0
    done = report(world)
    assert (done["result"], done["phases"][-1]["name"]) == ("refused", "prepare")
    assert "v1.0.0 was not built on control" in done["reason"] and "exit code 9: no such package" in done["reason"]
    assert snapshot(world) == before and "owner" not in lease(world)


def test_a_release_from_an_archive_is_like_any_other(world: World, play: Play, given: dict[str, Any]) -> None:
    run = play("release", **given)
    assert run.rc == 0, run.text
    done, commit = report(world), given["app_source_sha256"][:40]
    assert (done["result"], done["manifest"]["commit"]) == ("promoted", commit)
    assert served(world) == ("v1.0.0", "green")
    folder = Path(world.facts["app"], "releases", f"v1.0.0-{commit[:12]}")
    assert (folder / "node_modules").is_dir() and (folder / "migrations").is_dir()
    actions = next(phase["actions"] for phase in done["phases"] if phase["name"] == "prepare")
    assert [action for action in actions if action.startswith("control: on control: ran npm ci")], actions
    assert [action for action in actions if "unpacked v1.0.0" in action], actions


def test_after_a_rollback_it_is_there_already(world: World, play: Play, given: dict[str, Any]) -> None:
    """Nothing is built and nothing is handed over the second time."""
    assert play("rollback").rc == 0
    assert served(world) == ("v0.9.9", "blue")
    (folder,) = Path(world.facts["app"], "releases").glob("v1.0.0-*")
    packages = {path.name: path.stat().st_mtime_ns for path in (world.folder / "builds" / "packages").iterdir()}
    again = play("release", **given)
    assert again.rc == 0, again.text
    assert "v1.0.0 is built already" in again.flat and served(world) == ("v1.0.0", "green")
    assert {path.name: path.stat().st_mtime_ns for path in (world.folder / "builds" / "packages").iterdir()} == packages
    assert [name for name in os.listdir(folder.parent) if name.startswith("v1.0.0")] == [folder.name]
