# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An image is pinned, comes from one place, and a slot's files say what compose and a swarm need."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.docker import env_file, handed_on
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.images import one_off
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.runtime_container import Engine
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.runtime_docker import run_words
from ansible_collections.sluice.deploy.plugins.module_utils.core import image_names, stacks
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.slots import Plan, service_from

DIGEST = "@sha256:" + "a" * 64
PORTS = {"blue": 3001, "green": 3002, "rehearsal": 3003}
LOG = {"driver": "local", "options": {}}


def plan(runtime: str = "compose", **service: Any) -> Plan:
    made = service_from({"name": "web", "ports": PORTS, **service}, runtime)
    return Plan("green", "v1.0.0", "c" * 40, "/srv/pos/releases/v1.0.0-cccccccccccc", {"PRICE": "$5 ${A}"}, [made], "r1", "sha256:" + "b" * 64)


@pytest.mark.parametrize(
    ("data", "how"),
    [
        ({"name": f"registry.example.org/pos{DIGEST}"}, "pull"),
        ({"archive": "/srv/pos.tar", "sha256": "a" * 64}, "load"),
        ({"build": "."}, "build"),
    ],
)
def test_an_image_comes_from_one_place(data: dict[str, str], how: str) -> None:
    wanted = image_names.wanted_from(data)
    assert wanted is not None and wanted.how == how
    assert image_names.wanted_from({}) is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"name": "pos:latest"}, "pos:latest names no digest"),
        ({"name": "pos@sha256:abc"}, "pos@sha256:abc names no digest"),
        ({"name": f"--privileged{DIGEST}"}, "names no digest"),
        ({"name": "", "build": ""}, "none is"),
        ({"name": f"pos{DIGEST}", "build": "."}, "app_image and app_image_build are set"),
        ({"archive": "/srv/pos.tar"}, "app_image_sha256 must hold the SHA-256"),
        ({"build": "/etc"}, "/etc must be a folder of the release"),
        ({"build": "a/../.."}, "a/../.. must be a folder of the release"),
        ({"name": f"pos{DIGEST}", "user": "ci"}, "app_image_user and app_image_password go together"),
    ],
)
def test_what_is_not_pinned_or_not_clear_is_refused(data: dict[str, str], words: str) -> None:
    with pytest.raises(SluiceError, match=".") as caught:
        image_names.wanted_from(data)
    assert words in str(caught.value)


def test_names_are_what_the_engine_takes() -> None:
    assert image_names.tag_of("pos", "v1.0.0+build/7", "0123456789abcdef") == "pos:v1.0.0-build-7-0123456789ab"
    assert image_names.registry_of(f"registry.example.org:5000/a/pos{DIGEST}") == ["registry.example.org:5000"]
    assert image_names.registry_of(f"library/pos{DIGEST}") == []


def test_an_env_file_takes_values_as_they_are_and_refuses_what_it_cannot_hold() -> None:
    assert env_file({"B": "a b # $c 'd'", "A": ""}) == "A=\nB=a b # $c 'd'\n"
    with pytest.raises(SluiceError) as caught:
        env_file({"KEY": "secret-begin\nsecret-end"})
    assert "KEY" in str(caught.value) and "secret" not in str(caught.value)


def test_an_app_s_variables_do_not_steer_the_command_line() -> None:
    assert handed_on({"DOCKER_HOST": "tcp://x", "PATH": "/x", "PATHS": "1", "COMPOSE_FILE": "x", "DATABASE_URL": "u"}) == {"PATHS": "1", "DATABASE_URL": "u"}


def test_a_one_off_container_gets_variables_by_name_alone() -> None:
    words = one_off(["docker"], "host", "sha256:1", ["DATABASE_URL"], ["alembic"])
    assert words == ["docker", "run", "--rm", "--init", "--pull", "never", "--network", "host", "--env", "DATABASE_URL", "sha256:1", "alembic"]


def test_a_project_publishes_on_the_loopback_and_keeps_dollar_signs() -> None:
    web = json.loads(stacks.compose_text("pos", plan(image_port=8000, args=["serve", "$X"]), "", LOG))["services"]["web"]
    assert web["ports"] == [{"target": 8000, "published": "3002", "host_ip": "127.0.0.1", "protocol": "tcp"}]
    assert (web["environment"]["PRICE"], web["environment"]["HOST"], web["environment"]["PORT"]) == ("$$5 $${A}", "0.0.0.0", "8000")
    assert (web["command"], web["pull_policy"], web["restart"]) == (["serve", "$$X"], "never", "no")
    assert stacks.reset_text(plan()) == "services:\n  web: {container_name: !reset null, ports: !reset []}\n"


def test_a_port_is_published_where_the_edges_reach_it() -> None:
    there = replace(plan(image_port=8000), address="10.0.0.11")
    assert json.loads(stacks.compose_text("pos", there, "", LOG))["services"]["web"]["ports"][0]["host_ip"] == "10.0.0.11"
    words = run_words("pos", there, there.services[0], Engine(), "/run/env")
    assert words[words.index("--publish") + 1] == "10.0.0.11:3002:8000"
    copy = replace(there, slot="rehearsal", address="fd00::b")
    assert "127.0.0.1:3003:8000" in run_words("pos", copy, copy.services[0], Engine(), "/run/env")
    assert "[fd00::b]:3002:8000" in run_words("pos", replace(copy, slot="green"), copy.services[0], Engine(), "/run/env")


def test_on_the_host_s_network_the_slot_s_own_port_is_listened_on() -> None:
    web = json.loads(stacks.compose_text("pos", plan(image_port=8000), "host", LOG))["services"]["web"]
    assert "ports" not in web and web["network_mode"] == "host"
    assert (web["environment"]["HOST"], web["environment"]["PORT"]) == ("127.0.0.1", "3002")


def test_a_stack_has_its_replicas_and_shares_a_port_by_the_mesh() -> None:
    one, three = (json.loads(stacks.stack_text("pos", plan("swarm", instances=count), "", LOG))["services"]["web"] for count in (1, 3))
    assert (one["deploy"]["replicas"], one["ports"][0]["mode"]) == (1, "host")
    assert (three["deploy"]["replicas"], three["ports"][0]["mode"]) == (3, "ingress")
    with pytest.raises(SluiceError, match="cannot share a port of the host's network"):
        stacks.stack_text("pos", plan("swarm", instances=3), "host", LOG)
