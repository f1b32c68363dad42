# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The slot module on a real Docker engine: as plain containers, as projects of compose, and as stacks of a swarm of one."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.sandbox import engine
from tests.sandbox.app_host import SECRET, AppHost


@pytest.fixture(scope="module", params=["docker", "compose", "swarm"])
def till(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppHost]:
    """Return an app host with v1.0.0 prepared, for each of the runtimes."""
    engine.start_engine()
    engine.base_image()
    with ExitStack() as stack:
        if request.param == "swarm":
            stack.enter_context(engine.swarm())
        made = AppHost(request.param, tmp_path_factory.mktemp("till"), engine.compose())
        stack.callback(engine.clean, made.app)
        yield made
        for slot in ("blue", "green"):
            made.run("stopped", slot=slot)


def test_each_state_changes_once(till: AppHost) -> None:
    for state in ("prepared", "started", "saved"):
        would = till.run(state, {"check_mode": True, "diff": True})
        assert not would.get("failed"), would
        first = till.run(state, {"diff": True})
        assert not first.get("failed"), first["msg"]
        assert first["changed"] == would["changed"] == (state != "saved" or till.kind != "swarm"), (state, would, first)
        again = till.run(state)
        assert not again["changed"], (state, again["actions"])
    held = till.run("read")["slots"]["green"]
    assert (held["version"], held["online"], held["wanted"]) == ("v1.0.0", 1, 1)
    assert held["image"].startswith("sha256:")
    assert till.answer() == {"status": "ok", "version": "v1.0.0", "slot": "green"}


def test_a_container_is_what_it_should_be(till: AppHost) -> None:
    assert not till.run("prepared").get("failed")
    assert not till.run("started").get("failed")
    found = till.inspected()
    variables = dict(entry.partition("=")[::2] for entry in found["Config"]["Env"])
    assert (variables["TILL_SECRET"], variables["HOST"], variables["PORT"], variables["SLUICE_SLOT"]) == (SECRET, "0.0.0.0", "8000", "green")
    assert found["HostConfig"]["Init"] is True
    assert found["HostConfig"]["LogConfig"]["Type"] == "local"
    assert {key: value for key, value in found["Config"]["Labels"].items() if key in ("sluice.slot", "sluice.service")} == {
        "sluice.slot": "green",
        "sluice.service": "web",
    }
    if till.kind != "swarm":
        published = [entry["HostIp"] for entry in found["NetworkSettings"]["Ports"]["8000/tcp"]]
        assert published == ["127.0.0.1"]
    if till.kind == "docker":
        assert found["Name"] == f"/{till.app}-web-green"
    # What holds the secret is readable by nobody else, or gone.
    for path in (till.folder / "app" / "slots").iterdir():
        assert "NOT_A_VARIABLE" not in path.read_text(encoding="utf-8") or path.stat().st_mode & 0o077 == 0, path


def test_check_mode_starts_nothing(till: AppHost) -> None:
    till.run("prepared")
    till.run("stopped")
    assert till.run("started", {"check_mode": True})["changed"]
    assert till.running() == set()
    assert till.run("started")["changed"]
    assert till.run("stopped", {"check_mode": True})["changed"]
    assert till.running() == {"green"}
    assert till.run("stopped")["changed"]
    assert not till.run("stopped")["changed"]
    assert till.running() == set()


def test_it_comes_back_only_once_it_is_saved(till: AppHost) -> None:
    till.run("prepared")
    till.run("stopped")
    till.run("started")
    if till.kind == "swarm":  # it starts its services again by itself
        assert not till.run("saved")["changed"]
        return
    assert till.inspected()["HostConfig"]["RestartPolicy"]["Name"] == "no"
    assert till.run("saved")["changed"]
    assert till.inspected()["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"


def test_a_version_that_ends_is_told_with_its_last_words(till: AppHost) -> None:
    assert not till.run("prepared", version="v1.2.0-crash").get("failed")
    began = time.monotonic()
    result = till.run("started", version="v1.2.0-crash", slot="blue")
    assert result["failed"]
    assert "v1.2.0-crash did not become healthy in blue" in result["msg"]
    assert "no receipt printer answers" in result["msg"]
    assert "non-zero exit (1)" in result["msg"] if till.kind == "swarm" else "web ended with exit code 1" in result["msg"], result["msg"]
    assert result["exit_codes"] == [1]
    assert time.monotonic() - began < 50
    assert "blue" not in till.running()


def test_an_unhealthy_container_is_not_taken_for_a_good_one(till: AppHost) -> None:
    """Every probe of ours passes; the image's own HEALTHCHECK does not."""
    till.run("prepared", version="v1.3.0-sick")
    result = till.run("started", version="v1.3.0-sick", slot="blue", passes=300, deadline=40)
    assert result["failed"], result
    assert "unhealthy" in result["msg"], result["msg"]
    if till.kind != "swarm":
        assert "the drawer does not open" in result["msg"]
    assert "blue" not in till.running()


def test_a_port_that_is_taken_is_named(till: AppHost) -> None:
    till.run("prepared")
    with socket.create_server(("127.0.0.1", till.ports["blue"])):
        result = till.run("started", slot="blue")
    assert result["failed"]
    assert f"Port {till.ports['blue']} of blue is held by a process that is not the app's" in result["msg"]
    assert "blue" not in till.running()


def test_a_smoke_that_fails_ends_the_slot(till: AppHost) -> None:
    till.run("prepared")
    result = till.run("started", slot="blue", smoke=[{"name": "a page", "path": "/nowhere"}])
    assert "a page (GET /nowhere): status 404 instead of 200" in result["msg"]
    assert "blue" not in till.running()


@pytest.mark.parametrize("state", ["prepared", "started"])
def test_a_cut_step_can_be_run_again(till: AppHost, state: str) -> None:
    """Killed at several moments; the other slot never notices, and the next run puts things right."""
    till.run("prepared")
    till.run("stopped")
    till.run("started", slot="blue")
    till.run("absent")
    version = "v0.9.0"
    if state == "started":
        till.run("prepared", version=version)
    for after in (0.3, 0.6, 0.9, 1.3):
        process = till.popen(till.arguments(state, version=version))
        time.sleep(after)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert "blue" in till.running()
    result = till.run(state, version=version)
    assert not result.get("failed"), result
    if state == "started":
        assert till.answer()["version"] == "v0.9.0"
    assert till.answer("blue")["version"] == "v1.0.0"
    assert not till.run("absent", version=version).get("failed")
    till.run("stopped", slot="blue")


def test_the_image_of_a_release_goes_with_it_and_no_other(till: AppHost) -> None:
    till.run("prepared")
    till.run("started")
    assert not till.run("prepared", version="v0.9.0").get("failed")
    tags = set(engine.docker("images", "--format", "{{.Tag}}", till.app).split())
    old, new = (f"{version}-{till.commits[version][:12]}" for version in ("v0.9.0", "v1.0.0"))
    assert {old, new} <= tags
    assert till.run("absent", version="v0.9.0", slot="blue")["changed"]
    left = set(engine.docker("images", "--format", "{{.Tag}}", till.app).split())
    assert old not in left and new in left
    # The slot holds it, so it stays, whoever asks.
    assert "removed" not in " ".join(till.run("absent", slot="blue")["actions"])
    assert new in engine.docker("images", "--format", "{{.Tag}}", till.app).split()


def test_the_live_version_is_rehearsed_from_its_own_image(till: AppHost) -> None:
    till.run("prepared")
    till.run("started")
    till.env.write_text(till.env.read_text(encoding="utf-8").partition("DATABASE_URL")[0] + "DATABASE_URL=postgresql://pos@127.0.0.1/pos\n", encoding="utf-8")
    result = till.run("rehearsed", database="pos_copy")
    assert [gate["verdict"] for gate in result["gates"]] == ["pass"], result
    assert till.running() == {"green"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"image": {"name": "registry.example.org/pos:v1.0.0"}}, "registry.example.org/pos:v1.0.0 names no digest"),
        ({"image": {"name": "", "build": ""}}, "One of app_image, app_image_archive and app_image_build says where the image comes from; none is"),
        ({"image": {"build": "../.."}}, "../.. must be a folder of the release"),
        ({"image": {"archive": "/nowhere.tar", "sha256": "0" * 64}, "version": "v1.1.0-bad"}, "The image archive /nowhere.tar is not there"),
        ({"services": [{"name": "web", "entry": "app.py", "ports": {"blue": 1, "green": 2, "rehearsal": 3}}]}, "its image knows what it runs"),
    ],
)
def test_bad_input_is_named(till: AppHost, more: dict[str, Any], said: str) -> None:
    result = till.run("prepared", **more)
    assert result["failed"], result
    assert said in result["msg"]
