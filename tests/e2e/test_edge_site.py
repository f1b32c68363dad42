# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the edge does beside moving shares: testers, several hosts and services, assets, maintenance, the whole site, what drains."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import threading
import time
from collections import Counter
from typing import Any

import pytest

from tests.e2e.edges import Backend, Edge, free_port, lines

SECRET = "s3cret-of-the-testers"


def ask(edge: Edge, path: str = "/", method: str = "GET", body: str | None = None, **headers: str) -> tuple[int, str, dict[str, str]]:
    """Send one request on a new connection and return status, body and headers."""
    connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=10)
    connection.request(method, path, body=body, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, {name.lower(): value for name, value in answer.getheaders()}


# Testers


def test_testers_reach_either_slot_whatever_the_share_is(edge: Edge) -> None:
    edge.render(tester_secret=SECRET)
    assert ask(edge, Sluice_Tester=SECRET)[1] == "blue"  # no slot is tested yet
    assert edge.good(percent=0, testers=True)["changed"]
    assert edge.gets(30) == {"blue": 30}
    assert ask(edge, Sluice_Tester=SECRET)[1] == "green"
    assert ask(edge, Cookie=f"sluice_wallet_tester={SECRET}")[1] == "green"
    assert ask(edge, Sluice_Tester="another-secret-of-nobody")[1] == "blue"
    edge.good(percent=100)
    assert edge.gets(30) == {"green": 30}
    assert ask(edge, Sluice_Tester=f"{SECRET}/blue")[1] == "blue"
    assert ask(edge, Sluice_Tester=f"{SECRET}/green")[1] == "green"
    promoted = edge.good(live="green")
    assert promoted["after"]["testers"] is False
    assert ask(edge, Sluice_Tester=SECRET)[1] == "green"
    assert not edge.good(live="green", percent=0)["changed"]


def test_the_testers_header_reaches_no_app_and_their_requests_no_judge(edge: Edge) -> None:
    edge.render(tester_secret=SECRET, testers=True)
    edge.gets(7)
    assert ask(edge, Sluice_Tester=SECRET)[1] == "green"
    assert [name for name in edge.green.headers[-1] if "tester" in name.lower()] == []
    assert Counter(line["ua"] for line in lines(edge)) == {edge.blue.address: 7}
    apart = edge.folder / "wallet.testers.log"
    deadline = time.monotonic() + 3
    while not apart.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)  # nginx writes the line after the answer
    assert [json.loads(line)["ua"] for line in apart.read_text().splitlines()] == [edge.green.address]


def test_testers_by_address_go_to_the_slot_that_is_tested(edge: Edge) -> None:
    edge.render(tester_addresses=["127.0.0.0/8"])
    assert edge.gets(5) == {"blue": 5}
    edge.good(percent=0, testers=True)
    assert edge.gets(5) == {"green": 5}
    edge.good(testers=False)
    assert edge.gets(5) == {"blue": 5}


def test_what_testers_show_is_kept_from_everybody(edge: Edge) -> None:
    shown = json.dumps([edge.render(tester_secret=SECRET), edge.good(), edge.good(check=True, slots=edge.slots, assets=["/assets/"])])
    (edge.generated / "config" / "testers.conf").write_text("map changed;")
    shown += json.dumps(edge.bad(slots=edge.slots, tester_secret=SECRET))
    assert SECRET not in shown
    assert "testers.conf was changed" in shown
    holders = [path for path in edge.generated.rglob("*") if path.is_file() and not path.is_symlink() and SECRET in path.read_text()]
    assert holders == []
    edge.good(slots=edge.slots, tester_secret=SECRET, adopt=True)
    holders = [path for path in edge.generated.rglob("*") if path.is_file() and SECRET in path.read_text()]
    assert {path.name for path in holders} == {"testers.conf"}
    assert {path.stat().st_mode & 0o777 for path in holders} == {0o600}
    assert "nobody can be one" in edge.bad(slots=edge.slots, testers=True)["msg"]


# Several hosts, several services


def test_hosts_are_taken_out_and_put_back(edge: Edge) -> None:
    second = Backend("blue-2")
    slots = {**edge.slots, "blue": [edge.blue.address, second.address]}
    edge.good(slots=slots, live="blue", nginx_running="optional")
    edge.start()
    assert set(edge.gets(40)) == {"blue", "blue-2"}
    out = edge.good(slots=slots, hosts_out=[second.address])
    assert out["after"]["hosts_out"] == [second.address]
    assert edge.gets(40) == {"blue": 40}
    assert edge.good()["before"]["hosts_out"] == [second.address]
    assert not edge.good(slots=slots, hosts_out=[second.address])["changed"]
    assert "leave blue of web at least one" in edge.bad(slots=slots, hosts_out=[second.address, edge.blue.address])["msg"]
    second.healthy = False
    refused = edge.bad(slots=slots)
    assert f"blue does not answer on {second.address}" in refused["msg"]
    second.healthy = True
    assert edge.good(slots=slots)["changed"]
    assert set(edge.gets(40)) == {"blue", "blue-2"}
    second.stop()


@pytest.mark.parametrize("hosts", [(1, 2), (3, 2)])
def test_the_share_is_exact_however_many_hosts_a_slot_has(edge: Edge, hosts: tuple[int, int]) -> None:
    more = {slot: [Backend(slot) for _host in range(count)] for slot, count in zip(("blue", "green"), hosts)}
    slots = {slot: [backend.address for backend in backends] for slot, backends in more.items()}
    edge.good(slots=slots, live="blue", percent=25, split_key="request", nginx_running="optional")
    edge.start()
    served = edge.gets(400)
    # Weights in shared memory are exact; a draw of 400 lies within four standard deviations of 100.
    assert served["green"] == 100 if not edge.buckets else 65 <= served["green"] <= 135
    for backend in [each for backends in more.values() for each in backends]:
        backend.stop()


def test_services_move_together_each_to_its_own_hosts(edge: Edge) -> None:
    api = {slot: Backend(f"api-{slot}") for slot in ("blue", "green")}
    services = [
        {"name": "web", "health_path": "/health", **edge.slots},
        {"name": "api", "path": "/api/", "health_path": "/health", **{slot: [backend.address] for slot, backend in api.items()}},
    ]
    edge.good(services=services, live="blue", nginx_running="optional")
    edge.start()
    assert (ask(edge, "/")[1], ask(edge, "/api/x")[1]) == ("blue", "api-blue")
    api["green"].healthy = False
    assert f"green does not answer on {api['green'].address}" in edge.bad(percent=5)["msg"]
    api["green"].healthy = True
    edge.good(live="green")
    assert (ask(edge, "/")[1], ask(edge, "/api/x")[1]) == ("green", "api-green")
    assert edge.good()["slots"]["blue"] == [edge.blue.address, api["blue"].address]
    for backend in api.values():
        backend.stop()


# Keys


def test_another_salt_lets_others_in_first_and_nobody_falls_out(edge: Edge) -> None:
    edge.render()
    cookies = [f"sluice_wallet=visitor-{number}" for number in range(150)]

    def inside() -> set[str]:
        return {cookie for cookie in cookies if "green" in edge.gets(1, cookie)}

    found = []
    for salt in (1, 2):
        edge.good(percent=20, salt=salt)
        low = inside()
        assert edge.good(percent=40)["after"]["salt"] == salt
        assert low <= inside()
        assert 10 <= len(low) <= 55
        found.append(low)
        edge.good(percent=0)
    assert len(found[0] & found[1]) < min(map(len, found))


# Assets


class Versioned(Backend):
    """A backend that knows the assets of its own version alone."""

    def status_of(self, path: str) -> int:
        return 404 if path.startswith("/assets/") and not path.startswith(f"/assets/{self.name}-") else 200


def test_a_page_of_either_version_finds_its_assets(edge: Edge) -> None:
    blue, green = Versioned("blue"), Versioned("green")
    slots = {"blue": [blue.address], "green": [green.address]}
    for backend in (edge.blue, edge.green):
        backend.stop()
    edge.good(slots=slots, live="blue", percent=5, split_key="request", assets=["/assets/"], nginx_running="optional")
    edge.start()
    broken = pages = 0
    seen: Counter[str] = Counter()
    connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=10)
    for _page in range(200):
        connection.request("GET", "/")
        version = connection.getresponse().read().decode()
        seen[version] += 1
        statuses = []
        for number in range(20):
            connection.request("GET", f"/assets/{version}-{number:04x}.js")
            answer = connection.getresponse()
            answer.read()
            statuses.append(answer.status)
        pages += 1
        broken += set(statuses) != {200}
    connection.close()
    assert (broken, pages) == (0, 200)
    assert set(seen) == {"blue", "green"}
    assert ask(edge, "/assets/red-0001.js")[0] == 404
    # Without the other slot, what is not there is still not found rather than broken.
    green.stop()
    edge.good(percent=0)
    assert ask(edge, "/assets/red-0001.js")[0] == 404
    assert ask(edge, "/assets/blue-0001.js")[0] == 200
    blue.stop()


# Maintenance


def test_maintenance_closes_and_opens_without_a_reload(edge: Edge) -> None:
    mode = {"addresses": [], "paths": ["/health", "/hooks/"], "page": '<h1>Back "soon"</h1>', "retry_after": 120}
    edge.render(maintenance_mode=mode, tester_secret=SECRET)
    generation = edge.served()
    closed = edge.good(maintenance=True)
    assert closed["actions"] == ["maintenance on: the site is closed, no reload"]
    status, body, headers = ask(edge, "/shop?x=1")
    assert (status, body) == (503, '<h1>Back "soon"</h1>')
    assert (headers["retry-after"], headers["cache-control"], headers["sluice-maintenance"]) == ("120", "no-store", "on")
    assert ask(edge, "/pay", "POST", "x")[0] == 503
    assert edge.blue.posts == []
    assert [ask(edge, path)[0] for path in ("/health", "/hooks/stripe", "/healthy", "/hook")] == [200, 200, 200, 503]
    assert ask(edge, "/shop", Sluice_Tester=SECRET)[0] == 200
    assert edge.good()["before"]["maintenance"] is True
    assert not edge.good(maintenance=True)["changed"]
    assert "closed for maintenance" in edge.bad(percent=5)["msg"]
    assert edge.good(maintenance=False)["changed"]
    assert ask(edge, "/shop")[0] == 200
    assert edge.served() == generation
    # What the closed site answered is in no log that is judged.
    assert all(line["st"] == 200 for line in lines(edge))


def test_operators_are_let_through_a_closed_site(edge: Edge) -> None:
    edge.render(maintenance_mode={"addresses": ["127.0.0.1"]}, maintenance=True)
    assert ask(edge)[:2] == (200, "blue")
    edge.good(slots=edge.slots, maintenance_mode={"addresses": ["192.0.2.1"]})
    assert ask(edge)[0] == 503


def test_a_flag_that_nginx_does_not_look_at_is_taken_away_again(edge: Edge) -> None:
    edge.render()
    control = (edge.generated / "config" / "http.conf").read_text()
    (edge.generated / "config" / "http.conf").write_text(control.replace("set $wallet_closed on;", "set $wallet_closed off;"))
    subprocess.run([*edge.command, "-s", "reload"], check=True, timeout=10)
    time.sleep(0.3)
    refused = edge.bad(maintenance=True)
    assert "does not look at the flag" in refused["msg"]
    assert not (edge.generated / "maintenance").exists()


# The whole site


def test_a_whole_site_needs_one_include_line_that_the_module_writes(edge: Edge) -> None:
    edge.configure(included=False)
    edge.start()
    port = free_port()
    vhost = {"names": ["wallet.example.org"], "tls": False, "http_port": port, "address": "127.0.0.1"}
    hook = edge.operator / "sluice_wallet.conf"
    fault = edge.operator / "other.conf"
    fault.write_text("nonsense;\n")
    first: dict[str, Any] = {"slots": edge.slots, "live": "blue", "vhost": vhost, "include_file": str(hook)}
    assert 'unknown directive "nonsense"' in edge.bad(**first)["msg"]
    assert not hook.exists()
    fault.unlink()
    assert edge.good(**first)["changed"]
    assert hook.read_text().endswith(f"include {edge.generated}/config/http.conf;\n")
    assert not edge.good(**first)["changed"]
    edge.port = port
    status, body, headers = ask(edge, Host="wallet.example.org")
    assert (status, body) == (200, "blue")
    assert headers["x-content-type-options"] == "nosniff"
    edge.good(live="green")
    assert ask(edge, Host="wallet.example.org")[1] == "green"
    edge.good(maintenance=True)
    status, body, headers = ask(edge, Host="wallet.example.org")
    assert (status, headers["x-content-type-options"]) == (503, "nosniff")
    with pytest.raises((http.client.HTTPException, OSError)):
        ask(edge, Host="unknown.example.org")


# What drains


class Slow:
    """A host that answers when it is told to."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.answer = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _peer = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        if connection.recv(65536):
            self.answer.wait(60)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nslow")
        connection.close()

    def stop(self) -> None:
        self.listener.close()


def test_a_slow_request_outlives_every_change_and_old_workers_are_counted_and_bounded(edge: Edge) -> None:
    slow = Slow()
    edge.health_path = ""
    slots = {**edge.slots, "blue": [slow.address]}
    edge.good(slots=slots, live="blue", nginx_running="optional")
    edge.start()
    answers: list[tuple[int, str, dict[str, str]]] = []
    waiting = threading.Thread(target=lambda: answers.append(ask(edge)))
    waiting.start()
    time.sleep(0.3)
    edge.good(live="green")
    if edge.buckets:
        assert edge.good()["draining"] == {"workers": 0, "connections": 0}
    # A reload leaves the worker with the slow request behind, and the budget says how many of them there may be.
    edge.good(slots=slots, assets=["/a/"])
    draining = edge.good()["draining"]
    assert draining["workers"] == 1
    assert draining["connections"] >= 2
    refused = edge.bad(slots=slots, assets=["/b/"], reload_budget=1, reload_timeout=1)
    assert re.search(r"1 workers of nginx still drain \d+ connections", refused["msg"])
    assert "The old configuration is in place and serves." in refused["msg"]
    threading.Timer(1.0, slow.answer.set).start()
    waited = edge.good(slots=slots, assets=["/b/"], reload_budget=1, reload_timeout=20)
    assert waited["changed"]
    waiting.join(timeout=10)
    assert answers and answers[0][:2] == (200, "slow")
    slow.stop()


def test_several_edges_can_try_a_change_before_one_switches(edge: Edge) -> None:
    edge.render()
    before = edge.served(), edge.good()["before"]
    tried = edge.good(percent=5, prepare=True)
    assert (tried["changed"], tried["actions"], tried["gates"][0]["verdict"]) == (False, [], "pass")
    assert (edge.served(), edge.good()["before"]) == before
    (edge.operator / "fault.conf").write_text("nonsense;\n")
    if not edge.buckets:
        assert "nonsense" in edge.bad(percent=5, prepare=True)["msg"]
    edge.green.healthy = False
    assert "green does not answer" in edge.bad(percent=5, prepare=True)["msg"]
    assert (edge.served(), edge.good()["before"]) == before


def test_the_switch_itself_can_be_changed_under_a_canary(edge: Edge) -> None:
    edge.render(percent=100)
    other = "weights" if edge.buckets else "buckets"
    changed = edge.good(slots=edge.slots, switch=other)
    assert (changed["after"]["switch"], changed["after"]["percent"]) == (other, 100)
    assert edge.gets(20) == {"green": 20}
    back = edge.good(slots=edge.slots)
    assert (back["after"]["switch"], back["after"]["percent"]) == (edge.defaults["switch"], 100)
    assert edge.gets(20) == {"green": 20}
