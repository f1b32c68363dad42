# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A slot's names and files follow from the app and the colour, and nothing a slot needs is pruned."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import runtime_systemd
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.runtime_pm2 import ecosystem
from ansible_collections.sluice.deploy.plugins.module_utils.core import slots
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.slots import Plan, Service
from hypothesis import given
from hypothesis import strategies as st

PORTS = {"blue": 3001, "green": 3002, "rehearsal": 3003}
EXAMPLE = "Example: {name: web, entry: server.js, instances: 2, ports: {blue: 3001, green: 3002, rehearsal: 3003}}"
BAD_PORTS = "app_services: web needs three different ports, for blue, green, rehearsal."


@pytest.mark.parametrize("slot", slots.SLOTS)
def test_the_other_slot_is_the_other_one(slot: str) -> None:
    assert slots.other(slot) != slot
    assert slots.other(slots.other(slot)) == slot


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "Web"}, "app_services: the name 'Web' must be lower-case letters, digits and underscores."),
        ({"name": "we-b"}, "app_services: the name 'we-b' must be lower-case letters, digits and underscores."),
        ({"name": "web\n"}, "app_services: the name 'web\\n' must be lower-case letters, digits and underscores."),
        ({"name": ""}, "app_services: the name '' must be lower-case letters, digits and underscores."),
        ({"entry": ""}, "app_services: the entry of web must be a file of the release such as server.js, not ''."),
        ({"entry": "/bin/sh"}, "app_services: the entry of web must be a file of the release such as server.js, not '/bin/sh'."),
        ({"entry": "a/../../b.js"}, "app_services: the entry of web must be a file of the release such as server.js, not 'a/../../b.js'."),
        ({"entry": "npm"}, "app_services: the entry of web must be a file of the release such as server.js, not 'npm'."),
        ({"ports": None}, BAD_PORTS),
        ({"ports": {"blue": 3001, "green": 3002}}, BAD_PORTS),
        ({"ports": {**PORTS, "red": 3004}}, BAD_PORTS),
        ({"ports": {**PORTS, "green": 3001}}, BAD_PORTS),
        ({"ports": {**PORTS, "green": "3001"}}, BAD_PORTS),
        ({"ports": {**PORTS, "green": 0}}, BAD_PORTS),
        ({"ports": {**PORTS, "green": 65536}}, BAD_PORTS),
        ({"ports": {**PORTS, "green": "http"}}, BAD_PORTS),
        ({"ports": {**PORTS, "green": "²"}}, BAD_PORTS),
        ({"ports": {**PORTS, "green": True}}, BAD_PORTS),
    ],
)
def test_a_service_of_the_wrong_shape_is_refused_with_an_example(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SluiceError) as caught:
        slots.service_from({"name": "web", "entry": "server.js", "ports": PORTS, **change})
    assert str(caught.value) == f"{words} {EXAMPLE}"


def test_a_service_has_defaults() -> None:
    assert slots.service_from({"name": "web", "entry": "dist/server.js", "ports": {name: str(port) for name, port in PORTS.items()}}) == Service(
        "web", "dist/server.js", PORTS, 1, "cluster", "/api/health"
    )


def test_names_and_folders_follow_from_app_and_colour() -> None:
    assert slots.process_name("wallet", "web", "blue") == "wallet-web-blue"
    assert slots.release_folder("/srv/wallet", "v2", "0123456789abcdef") == "/srv/wallet/releases/v2-0123456789ab"


def test_the_process_file_has_absolute_paths_and_the_slots_own_port() -> None:
    service = Service("web", "dist/server.js", PORTS, 2)
    plan = Plan("green", "v2", "ab", "/srv/wallet/releases/v2-ab", {"PORT": "9", "KEY": "k"}, [service], "v2-1")
    (process,) = ecosystem("wallet", plan, "/var/log/wallet")["apps"]
    assert process["name"] == "wallet-web-green"
    assert process["cwd"] == "/srv/wallet/releases/v2-ab"
    assert process["script"] == "/srv/wallet/releases/v2-ab/dist/server.js"
    assert process["instances"] == 2
    assert process["env"] == {
        "PORT": "3002",
        "KEY": "k",
        "HOST": "127.0.0.1",
        "SLUICE_SLOT": "green",
        "SLUICE_ROLE": "canary",
        "SLUICE_RELEASE": "v2-1",
        "NODE_ENV": "production",
    }
    assert process["out_file"] == "/var/log/wallet/wallet-web-green.out.log"
    assert process["error_file"] == "/var/log/wallet/wallet-web-green.err.log"


def test_an_app_listens_where_its_edges_reach_it_and_a_rehearsal_on_the_loopback() -> None:
    service = Service("web", "a.js", PORTS)
    hosts = [Plan(slot, "v2", "ab", "/r", {"HOST": "::"}, [service], address="10.0.0.11").environment(service)["HOST"] for slot in ("blue", slots.REHEARSAL)]
    assert hosts == ["10.0.0.11", "127.0.0.1"]


@pytest.mark.parametrize(
    ("given", "address", "reached"),
    [("10.0.0.11", "10.0.0.11", "10.0.0.11"), ("0.0.0.0", "0.0.0.0", "127.0.0.1"), ("[fd00::b]", "fd00::b", "[fd00::b]"), ("::", "::", "[::1]")],
)
def test_an_address_is_asked_where_the_host_reaches_it(given: str, address: str, reached: str) -> None:
    assert (slots.address_from(given), slots.reached_at(slots.address_from(given))) == (address, reached)


def test_an_app_cannot_listen_on_a_name() -> None:
    with pytest.raises(SluiceError, match="'web1.example.org' is not an IP address that an app could listen on"):
        slots.address_from("web1.example.org")


def test_the_two_slots_share_no_name_port_or_log() -> None:
    services = [Service("web", "a.js", PORTS), Service("worker", "b.js", {"blue": 4001, "green": 4002, "rehearsal": 4003})]
    seen = [
        (process["name"], process["env"]["PORT"], process["out_file"], process["error_file"])
        for slot in slots.SLOTS
        for process in ecosystem("wallet", Plan(slot, "v2", "ab", "/r", {}, services, "r"), "/l")["apps"]
    ]
    assert len(seen) == 4
    assert all(len(set(column)) == 4 for column in zip(*seen))


NAMES = st.lists(st.sampled_from([f"v{number}" for number in range(9)]), unique=True)


@given(NAMES, NAMES, NAMES, st.integers(0, 5))
def test_what_is_pointed_to_or_among_the_newest_good_ones_stays(folders: list[str], good: list[str], protected: list[str], keep: int) -> None:
    gone = slots.prunable(folders, good, protected, keep)
    assert not set(gone) & (set(protected) | set(good[:keep]))
    assert set(folders) - set(gone) <= set(protected) | set(good[:keep])
    assert gone == [folder for folder in folders if folder in gone]


@pytest.mark.parametrize("change", [{"instances": "two"}, {"instances": 0}, {"instances": -1}, {"mode": "threads"}])
def test_instances_and_mode_are_checked(change: dict[str, object]) -> None:
    data = {"name": "web", "entry": "server.js", "ports": {"blue": 3001, "green": 3002, "rehearsal": 3003}, **change}
    with pytest.raises(SluiceError, match=r"web needs instances of 1 or more and the mode cluster or fork"):
        slots.service_from(data)


def test_a_worker_has_a_heartbeat_and_no_port() -> None:
    worker = slots.service_from({"name": "jobs", "kind": "worker", "entry": "worker.js", "heartbeat": 10, "instances": 2})
    assert (worker.ports, worker.mode, worker.heartbeat) == ({}, "fork", 10.0)
    env = Plan("blue", "v2", "ab", "/r", {}, [worker], "r", role="live", heartbeats="/srv/wallet/slots").environment(worker)
    assert (env["SLUICE_ROLE"], env["SLUICE_HEARTBEAT"], "PORT" in env) == ("live", "/srv/wallet/slots/blue.jobs.heartbeat", False)


@pytest.mark.parametrize(
    ("runtime", "change", "words"),
    [
        ("systemd", {"instances": 2}, "2 instances of web cannot share one port: only Node in PM2's mode cluster and a swarm's services can."),
        ("pm2", {"instances": 2, "interpreter": ".venv/bin/python"}, "2 instances of web cannot share one port"),
        ("pm2", {"instances": 2, "mode": "fork"}, "2 instances of web cannot share one port"),
        ("compose", {}, "web has the entry 'server.js', but its image knows what it runs."),
        ("docker", {"entry": "", "image_port": "http"}, "image_port of web must be the TCP port its container listens on, not 'http'."),
        ("pm2", {"args": "--fast"}, "args of web must be a list of words, not '--fast'."),
    ],
)
def test_what_a_runtime_cannot_do_is_refused(runtime: str, change: dict[str, Any], words: str) -> None:
    with pytest.raises(SluiceError) as caught:
        slots.service_from({"name": "web", "entry": "server.js", "ports": PORTS, **change}, runtime)
    assert words in str(caught.value)


def test_an_interpreter_runs_the_entry_from_the_release() -> None:
    service = slots.service_from({"name": "api", "entry": "manage.py", "interpreter": ".venv/bin/python", "args": ["serve", 1], "ports": PORTS})
    (process,) = ecosystem("pos", Plan("blue", "v2", "ab", "/srv/pos/releases/v2-ab", {}, [service]), "/l")["apps"]
    assert (process["interpreter"], process["script"]) == ("/srv/pos/releases/v2-ab/.venv/bin/python", "/srv/pos/releases/v2-ab/manage.py")
    assert (process["args"], process["exec_mode"], process["wait_ready"]) == (["serve", "1"], "fork", False)


def test_a_unit_holds_no_value_and_quotes_what_systemd_would_expand() -> None:
    service = slots.service_from({"name": "web", "entry": "server.js", "args": ["--rate=5%", "$HOME", 'a "b"'], "ports": PORTS}, "systemd")
    plan = Plan("green", "v2", "ab", "/srv/wallet/releases/v2-ab", {"KEY": "hush"}, [service])
    text = runtime_systemd.unit("wallet", plan, service, "/usr/bin/node", "/srv/wallet/slots/green.web.env", "wallet")
    assert "hush" not in text
    assert 'ExecStart="/usr/bin/node" "/srv/wallet/releases/v2-ab/server.js" "--rate=5%%" "$$HOME" "a \\"b\\""' in text
    assert runtime_systemd.env_file({"KEY": 'a"b$c`d\\e'}) == 'KEY="a\\"b\\$c\\`d\\\\e"\n'
