# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rollback that takes the database back as well: refused before anything moves, or done after the traffic went back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.conftest import QUICK, report
from tests.e2e.test_release import schema, served
from tests.sandbox.demo import Load
from tests.sandbox.runner import Run
from tests.sandbox.world import World

Play = Callable[..., Run]


@pytest.mark.timeout(400)
def test_the_database_goes_back_only_when_its_loss_is_agreed_to(world: World, play: Play) -> None:
    with Load(world):
        begun = play("release", release_version="v1.0.0", **QUICK)
    assert begun.rc == 0, begun.text
    release = report(world)["release_id"]
    migrated = schema(world)

    down = play("rollback", rollback_database="down")
    assert down.rc != 0
    assert "were not proven to go down without loss, so they are not run backwards" in down.flat

    refused = play("rollback", rollback_database="restore")
    assert refused.rc != 0
    assert f"restore_accept_loss: {release}" in refused.flat or f"restore_accept_loss={release}" in refused.flat
    assert (served(world)[0], schema(world)) == ("v1.0.0", migrated)

    done = play("rollback", rollback_database="restore", restore_accept_loss=release)
    assert done.rc == 0, done.text
    assert served(world)[0] == "v0.9.9"
    assert schema(world) != migrated and schema(world).startswith("1 ")
    last = next(record for record in reversed(world.ledger()) if record["event"] == "rollback")
    assert last["data"]["database"] == "restore" and last["data"]["restore"]["backup"] == release and last["data"]["restore"]["rows_lost"] > 0
    assert "The database was restored." in done.flat and "rows written since were lost" in done.flat
    assert report(world)["restores"][0]["kept"] == last["data"]["restore"]["kept"]


def test_a_release_that_migrated_nothing_leaves_nothing_to_take_back(world: World, play: Play) -> None:
    wrong = play("rollback", rollback_database="forwards")
    assert wrong.rc != 0
    assert "rollback_database" in wrong.flat and "leave, down, restore" in wrong.flat
