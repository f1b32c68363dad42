# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module health as an operator calls it, against real servers: TLS, WebSocket, several hosts, a suite with a sign-in."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.e2e.test_slot import run as run_slot
from tests.sandbox.world import CHECKOUT, World

COMMAND = [sys.executable, "-m", "ansible_collections.sluice.deploy.plugins.modules.health"]
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
NAME = "wallet.example.org"


class App(ThreadingHTTPServer):
    """An app with a detailed health page, a sign-in, a guarded page and a WebSocket."""

    daemon_threads = True

    def __init__(self, version: str = "v1.0.0") -> None:
        super().__init__(("127.0.0.1", 0), Pages)
        self.version = version
        self.redis = "healthy"
        self.delay = 0.0
        self.admin_open = False
        self.socket_fault = ""
        self.asked: list[str] = []
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_words: object) -> None:
        """A client that hangs up, or refuses the certificate, is part of these tests."""


class Pages(BaseHTTPRequestHandler):
    server: App

    def handle_any(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(f"{self.command} {self.path}")
        time.sleep(self.server.delay)
        if self.path == "/ws":
            self.talk()
            return
        known = self.headers.get("Authorization") == "Bearer hush-hush-1"
        checks = {"database": {"status": "healthy"}, "redis": {"status": self.server.redis}}
        pages: dict[str, tuple[int, Any]] = {
            "/api/health": (200, {"version": self.server.version}),
            "/api/v1/health/detailed": (200, {"version": self.server.version, "checks": checks, "list": [{"up": True}]}),
            "/api/login": (200, {"session": {"token": "hush-hush-1"}}),
            "/api/wallet": (200 if known else 401, {"echo": self.headers.get("Authorization"), "host": self.headers.get("Host")}),
            "/admin": (200 if self.server.admin_open else 403, {"users": ["a", "b"]}),
            "/moved": (302, {}),
        }
        status, data = pages.get(self.path, (404, {}))
        text = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Set-Cookie", "sid=hush-cookie")
        self.send_header("Content-Length", str(len(text)))
        if status == 302:
            self.send_header("Location", "/login")
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = handle_any

    def talk(self) -> None:
        """Speak WebSocket: say something unasked, send a ping back, and end with the client."""
        fault = self.server.socket_fault
        accept = base64.b64encode(hashlib.sha1((self.headers["Sec-WebSocket-Key"] + GUID).encode()).digest()).decode()
        self.close_connection = True
        if fault == "refused":
            self.send_error(400)
            return
        self.send_response(101)
        if fault != "no upgrade":
            self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", "other" if fault == "wrong accept" else accept)
        self.end_headers()
        self.wfile.write(bytes([0x81, 5]) + b"hello" + bytes([0x82, 126]) + struct.pack("!H", 300) + b"x" * 300)
        while fault != "closed":
            head = self.rfile.read(2)
            if len(head) < 2:
                return
            assert head[1] & 0x80, "a client must mask what it sends"
            mask, data = self.rfile.read(4), self.rfile.read(head[1] & 0x7F)
            if head[0] & 0x0F == 8:
                return
            if fault != "silent":
                self.wfile.write(bytes([0x8A, len(data)]) + bytes(byte ^ mask[place % 4] for place, byte in enumerate(data)))

    def log_message(self, *_words: object) -> None:
        pass


def serve(app: App) -> Iterator[App]:
    with app:
        thread = threading.Thread(target=app.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield app
        app.shutdown()
        thread.join(5)


@pytest.fixture
def app() -> Iterator[App]:
    yield from serve(App())


@pytest.fixture
def other() -> Iterator[App]:
    yield from serve(App())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an authority and a certificate of ``wallet.example.org`` from it."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)

    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test Authority", "-days", "2")
    openssl("req", *curve, "-keyout", "site.key", "-out", "site.csr", "-subj", f"/CN={NAME}")
    (folder / "names").write_text(f"subjectAltName=DNS:{NAME}\n", encoding="utf-8")
    openssl("x509", "-req", "-in", "site.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "site.pem")
    return folder


@pytest.fixture
def secure(certificates: Path) -> Iterator[App]:
    site = App()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "site.pem", certificates / "site.key")
    site.socket = context.wrap_socket(site.socket, server_side=True)
    site.scheme = "https"
    yield from serve(site)


def run(check_mode: bool = False, **words: Any) -> dict[str, Any]:
    """Run the module as Ansible would, and return its result."""
    given = {"passes": 2, "deadline": 1, "interval": 0.02, **words, "_ansible_check_mode": check_mode}
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT / ".venv/collections")}
    done = subprocess.run(COMMAND, input=json.dumps({"ANSIBLE_MODULE_ARGS": given}), env=env, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def failure(**words: Any) -> str:
    result = run(**words)
    assert result.get("failed"), result
    return str(result["msg"])


DETAILED = {"path": "/api/v1/health/detailed", "components": {"path": "checks", "key": "status", "ok": ["ok", "healthy"]}}


def test_each_host_must_answer_with_the_version_and_well_components(app: App, other: App) -> None:
    words = {"urls": [app.url, other.url], "version": "v1.0.0", "json": {"list.0.up": True}, "max_seconds": 5, **DETAILED}
    result = run(**words)
    assert not result["changed"]
    assert result["gates"][0]["sentence"] == f"{app.url}, {other.url} healthy as v1.0.0: 2 good answers in a row, 4 asked"
    other.redis = "down"
    assert failure(**words) == (
        f"not healthy within 1 s; last seen: {other.url}/api/v1/health/detailed: component redis is 'down' instead of 'ok' or 'healthy'."
    )
    other.redis, other.version = "ok", "v0.9.9"
    assert "version is 'v0.9.9' instead of 'v1.0.0'" in failure(**words)


def test_all_hosts_are_waited_for_at_once(app: App) -> None:
    app.delay = 1
    began = time.monotonic()
    probes = [{"name": f"page {number}", "path": "/api/health"} for number in range(8)]
    assert not run(urls=[app.url], probes=probes, deadline=30).get("failed")
    assert time.monotonic() - began < 12
    app.delay = 0.3
    assert "the answer took 0.3" in failure(urls=[app.url], max_seconds=0.1)


def test_giving_up_leaves_the_evidence_and_no_credentials(app: App) -> None:
    result = run(urls=[app.url], path="/moved", headers={"Authorization": "Bearer hush-own"})
    assert result["msg"] == f"not healthy within 1 s; last seen: {app.url}/moved: status 302 to /login instead of 200: {{}}."
    answer = result["answers"][app.url]
    assert (answer["status"], answer["body"], answer["headers"]["Location"]) == (302, "{}", "/login")
    assert "hush" not in json.dumps({**result, "invocation": None})


def test_a_certificate_is_verified_by_authority_and_name(secure: App, certificates: Path) -> None:
    ca = str(certificates / "ca.pem")
    assert not run(urls=[secure.url], tls={"ca": ca, "server_name": NAME}, headers={"Host": NAME}, version="v1.0.0").get("failed")
    assert "its certificate is refused: unable to get local issuer certificate" in failure(urls=[secure.url], tls={"server_name": NAME})
    assert "its certificate is refused: IP address mismatch" in failure(urls=[secure.url], tls={"ca": ca})
    assert "the authorities in /nowhere.pem cannot be read" in failure(urls=[secure.url], tls={"ca": "/nowhere.pem"})
    assert not run(urls=[secure.url], tls={"verify": False}).get("failed")
    secure.asked.clear()
    assert "tls.verify: false is allowed for a loopback address only" in failure(urls=[f"https://{NAME}", secure.url], tls={"verify": False})
    assert secure.asked == []


def test_smoke_requests_use_the_same_host_and_tls(secure: App, certificates: Path) -> None:
    tls = {"ca": str(certificates / "ca.pem"), "server_name": NAME}
    smoke = [{"path": "/api/wallet", "status": 401, "json": {"host": NAME}}, {"websocket": "/ws", "ping": True}]
    assert not run(urls=[secure.url], tls=tls, headers={"Host": NAME}, smoke=smoke).get("failed")


def test_a_websocket_shakes_hands_and_sends_a_ping_back(app: App, secure: App) -> None:
    probes = [{"name": "live updates", "websocket": "/ws", "ping": True}]
    assert not run(urls=[app.url], probes=probes).get("failed")
    assert not run(urls=[secure.url], probes=probes, tls={"verify": False}).get("failed")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("refused", "status 400 instead of 101"),
        ("no upgrade", "the answer has status 101 but no Upgrade: websocket"),
        ("wrong accept", "Sec-WebSocket-Accept does not fit the key: whatever answered does not speak WebSocket"),
        ("closed", "the WebSocket was closed before the ping came back"),
        ("silent", "timed out"),
    ],
)
def test_a_websocket_that_is_none_is_told(app: App, fault: str, said: str) -> None:
    app.socket_fault = fault
    msg = failure(urls=[app.url], probes=[{"name": "live updates", "websocket": "/ws", "ping": True}], timeout=0.5)
    assert "last seen: live updates http://" in msg
    assert said in msg


def test_ports_and_commands_are_probes_too(app: App) -> None:
    port = app.server_address[1]
    probes = [{"name": "app", "tcp": f"127.0.0.1:{port}"}, {"name": "queue", "command": [sys.executable, "-c", "pass"], "timeout": 10}]
    assert run(probes=probes, deadline=20)["gates"][0]["sentence"].startswith("app, queue healthy: 2 good answers in a row")
    msg = failure(probes=[{"name": "queue", "command": ["sh", "-c", "echo no queue >&2; exit 4"]}, {"name": "slow", "command": ["sleep", "30"]}])
    assert "queue command sh: sh ended with exit code 4: no queue" in msg
    assert "slow command sleep: sleep did not end within" in msg


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({}, "There is nothing to ask: neither urls nor probes are given."),
        ({"smoke": [{"path": "/"}], "probes": [{"tcp": "127.0.0.1:1"}]}, "There are smoke requests, but no address to send them to."),
        ({"urls": ["wallet.example.org"]}, "'wallet.example.org' is no address to ask."),
        ({"urls": ["http://127.0.0.1:1"], "probes": [{"path": "/"}, {"path": "/"}]}, "probes[1]: / is there twice."),
        ({"urls": ["http://127.0.0.1:1"], "probes": [{"pth": "/"}]}, "probes[0] has the unknown key pth"),
        ({"urls": ["http://127.0.0.1:1"], "components": {"pth": "/"}}, "health: components needs a mapping of path, key and ok"),
        ({"urls": ["http://127.0.0.1:1"], "smoke": [{"path": "/", "method": "PUT"}]}, "app_smoke[0]: a PUT must say what it may change"),
        ({"urls": ["http://127.0.0.1:1"], "smoke_values": "/nowhere.env"}, "The file /nowhere.env with the values of the smoke requests is not there."),
    ],
)
def test_bad_input_is_named_at_once(words: dict[str, Any], said: str) -> None:
    began = time.monotonic()
    assert said in failure(**words, deadline=30)
    assert time.monotonic() - began < 25


@pytest.fixture
def suite(tmp_path: Path) -> dict[str, Any]:
    values = tmp_path / "smoke.env"
    values.write_text("PASSWORD=hush-password\n", encoding="utf-8")
    values.chmod(0o600)
    return {
        "smoke_values": str(values),
        "smoke_tenant": True,
        "junit": str(tmp_path / "results.xml"),
        "smoke": [
            {
                "name": "sign in",
                "method": "POST",
                "path": "/api/login",
                "body": {"password": "{PASSWORD}"},
                "effect": "test-tenant",
                "extract": {"token": "session.token"},
            },
            {"name": "own wallet", "path": "/api/wallet", "headers": {"Authorization": "Bearer {token}"}, "effect": "test-tenant"},
            {"name": "a stranger's wallet", "path": "/api/wallet", "status": [401, 403]},
            {"name": "a stranger's admin page", "path": "/admin", "status": [401, 403]},
            {"name": "pay", "method": "POST", "path": "/api/pay", "effect": "write"},
            {"name": "suite", "command": ["test", "-n", "{base}"], "effect": "read"},
        ],
    }


def test_a_suite_signs_in_and_leaves_out_what_writes(app: App, suite: dict[str, Any]) -> None:
    result = run(urls=[app.url], **suite)
    assert result["gates"][1] == {
        "name": "smoke",
        "verdict": "pass",
        "sentence": f"5 smoke requests to {app.url} answered as they should; left out: pay (POST /api/pay): it writes, so it goes to the rehearsal's copy only",
        "value": 5,
        "limit": 5,
    }
    root = ElementTree.parse(suite["junit"]).getroot()
    assert [(item.get("name"), item.get("tests"), item.get("failures"), item.get("skipped")) for item in root] == [
        ("health", "1", "0", "0"),
        ("smoke", "6", "0", "1"),
    ]
    sent = run(urls=[app.url], **{**suite, "smoke_tenant": False})["gates"][1]
    assert sent["value"] == 3
    assert "sign in (POST /api/login): it writes for a test tenant, and app_smoke_tenant is not true" in sent["sentence"]
    assert "POST /api/pay" not in app.asked
    assert app.asked.count("POST /api/login") == 1


def test_a_page_that_lets_strangers_in_fails_the_suite(app: App, suite: dict[str, Any]) -> None:
    app.admin_open = True
    suite["smoke"][1]["contains"] = "nothing"
    result = run(urls=[app.url], **suite)
    assert "2 of 5 smoke requests failed" in result["msg"]
    assert "a stranger's admin page (GET /admin): status 200 instead of 401 or 403" in result["msg"]
    root = ElementTree.parse(suite["junit"]).getroot()
    assert [case.get("name") for case in root.iter("testcase") if case.find("failure") is not None] == [
        "own wallet (GET /api/wallet)",
        "a stranger's admin page (GET /admin)",
    ]
    told = json.dumps(result) + Path(suite["junit"]).read_text(encoding="utf-8")
    assert "hush" not in told


def test_the_results_are_kept_when_the_address_is_not_healthy_but_not_in_check_mode(app: App, tmp_path: Path) -> None:
    path = tmp_path / "results.xml"
    assert not run(check_mode=True, urls=[app.url], junit=str(path)).get("failed")
    assert not path.exists()
    failure(urls=[app.url], version="v9", junit=str(path))
    (found,) = ElementTree.parse(path).getroot().iter("failure")
    assert found.get("message") == "version is 'v1.0.0' instead of 'v9'"


def test_the_control_node_asks_in_its_own_process(app: App, suite: dict[str, Any]) -> None:
    words = {"urls": [app.url], "passes": 2, "deadline": 5, **suite}
    command = [str(Path(sys.executable).with_name("ansible")), "localhost", "-c", "local", "-m", "sluice.deploy.health", "-a", json.dumps(words)]
    env = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / ".venv/collections"), "ANSIBLE_NOCOLOR": "true", "ANSIBLE_LOCALHOST_WARNING": "false"}
    done = subprocess.run(command, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 smoke requests" in done.stdout
    assert "hush" not in done.stdout + done.stderr
    assert Path(suite["junit"]).exists()


def test_a_slot_that_is_given_up_tells_what_it_saw(world: World) -> None:
    green = world.facts["ports"]["green"]
    run_slot(world, "prepared")
    ill = run_slot(world, "started", deadline=4, health={"components": {"path": "checks", "ok": ["never"]}})
    assert f"last seen: web http://127.0.0.1:{green}/api/health: component database is 'ok' instead of 'never'." in ill["msg"]
    assert ill["answers"]["web"]["status"] == 200
    assert green in ill["listening"]
    services = [{"name": "web", "entry": "pages.js", "ports": {slot: world.facts["ports"][slot] for slot in ("blue", "green", "rehearsal")}}]
    deaf = run_slot(world, "started", deadline=4, services=services)
    assert f" Nothing listens on port {green}." in deaf["msg"]
    assert green not in deaf["listening"]


def test_a_slot_is_sent_what_it_may_be_sent(world: World) -> None:
    payment = {"customer": 1, "amount_cents": 100, "reference": "tenant"}
    smoke = [
        {"name": "pay", "method": "POST", "path": "/api/wallet/recharge", "body": payment, "status": 201, "effect": "write"},
        {"name": "pay as a test", "method": "POST", "path": "/api/wallet/recharge", "body": payment, "status": 201, "effect": "test-tenant"},
        {"name": "release folder", "command": ["test", "-f", "server.js"], "effect": "read", "where": "slot"},
        {"name": "health", "path": "/api/health", "components": {"path": "checks"}},
    ]
    # The database is not migrated, so only the live version can take a payment.
    words = ["git", "-C", world.facts["repository"], "rev-parse", "v0.9.9^{commit}"]
    live = {"version": "v0.9.9", "commit": subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout.strip()}
    for tenant, count in ((False, 2), (True, 3)):
        run_slot(world, "stopped")
        result = run_slot(world, "started", smoke=smoke, smoke_tenant=tenant, **live)
        assert not result.get("failed"), result["msg"]
        gate = result["gates"][-1]
        assert (gate["name"], gate["value"]) == ("smoke", count), gate
        assert "pay (POST /api/wallet/recharge): it writes, so it goes to the rehearsal's copy only" in gate["sentence"]
        assert world.psql("SELECT count(*) FROM transactions WHERE reference = 'tenant'") == str(int(tenant))
