# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof of the webhook against real apps on Node and Python, by themselves and behind a real edge."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import stripe as library
from ansible_collections.sluice.deploy.plugins.module_utils.core.webhook import attempts, event

from tests.e2e.edges import Edge, binary_of, free_port
from tests.sandbox.world import CHECKOUT

APPS = CHECKOUT / "tests/apps"
COMMAND = [sys.executable, "-m", "ansible_collections.sluice.deploy.plugins.modules.webhook"]
SECRET = "whsec_of_this_endpoint_0123456789"
TESTERS = "s3cret-of-the-testers"

pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="node is not on this machine")


@contextlib.contextmanager
def node(tree: Path, **variables: str) -> Iterator[str]:
    """Run an app and return its address."""
    port = free_port()
    process = subprocess.Popen(
        ["node", "server.js"], cwd=tree, env={"PATH": os.environ["PATH"], "PORT": str(port), **variables}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        assert "listens" in process.stdout.readline()
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def hooks(behaviour: str, secret: str = SECRET) -> Iterator[str]:
    with node(APPS / "hooks", BEHAVIOUR=behaviour, SECRET=secret) as address:
        yield address


@pytest.fixture(scope="module")
def good() -> Iterator[str]:
    with hooks("good") as address:
        yield address


class Server(BaseHTTPRequestHandler):
    """An app or a proxy of a few lines: what it answers is decided by the path."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status, headers = 200, {}
        if self.path == "/slash":
            status, headers = 308, {"Location": "/slash/"}
        elif self.path == "/closed":
            status, headers = 503, {"Sluice-Maintenance": "on"}
        elif self.path == "/slow":
            time.sleep(10)
        elif self.path == "/rewritten":
            # What `await request.json()` and json.dumps come to.
            try:
                library.Webhook.construct_event(json.dumps(json.loads(body)), self.headers["Stripe-Signature"], SECRET)
            except (ValueError, library.SignatureVerificationError):
                status = 400
        elif self.path == "/library":
            try:
                library.Webhook.construct_event(body, self.headers["Stripe-Signature"], SECRET)
            except (ValueError, library.SignatureVerificationError):
                status = 400
        elif self.path[1:].isdigit():
            status = int(self.path[1:])
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_words: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as listening:
        listening.daemon_threads = True
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{listening.server_address[1]}"
        listening.shutdown()
        thread.join(5)


@dataclass
class Prober:
    """The module with an environment file."""

    path: Path

    def run(self, *addresses: str, **changed: Any) -> dict[str, Any]:
        words = {
            "urls": [f"http://{address}" for address in addresses],
            "webhooks": [{"path": "/hook"}],
            "env_file": str(self.path),
            "mode": "live",
            **changed,
        }
        env = {**os.environ, "PYTHONPATH": str(CHECKOUT / ".venv/collections")}
        done = subprocess.run(COMMAND, input=json.dumps({"ANSIBLE_MODULE_ARGS": words}), env=env, capture_output=True, text=True, timeout=60, check=False)
        said = done.stdout + done.stderr
        assert "Traceback" not in said, said
        assert SECRET not in said
        assert TESTERS not in said
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def gate(self, address: str, **changed: Any) -> tuple[str, str]:
        """Return verdict and sentence of one webhook."""
        result = self.run(address, **changed)
        assert not result.get("failed"), result
        (gate,) = result["gates"]
        assert gate["verdict"] == "pass" or gate["remedy"]
        return gate["verdict"], gate["sentence"]


@pytest.fixture
def prober(tmp_path: Path) -> Prober:
    path = tmp_path / "app.env"
    path.touch(mode=0o600)
    path.write_text(f"STRIPE_WEBHOOK_SECRET={SECRET}\n", encoding="utf-8")
    return Prober(path)


def test_an_app_that_verifies_passes(prober: Prober, good: str, server: str) -> None:
    verdict, sentence = prober.gate(good)
    assert verdict == "pass", sentence
    assert sentence.startswith("the app takes what is signed with STRIPE_WEBHOOK_SECRET and refuses what is signed with another secret, ")
    # Stripe's own library is the judge of what a signature is.
    assert prober.gate(server, webhooks=[{"path": "/library"}])[0] == "pass"


def test_the_wallet_passes(prober: Prober, tmp_path: Path) -> None:
    tree = tmp_path / "wallet"
    shutil.copytree(APPS / "wallet", tree, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run(["npm", "ci", "--omit=dev", "--no-audit", "--no-fund", "--prefer-offline"], cwd=tree, check=True, capture_output=True, timeout=120)
    with node(tree, DATABASE_URL="postgresql://nobody@127.0.0.1:1/none", STRIPE_WEBHOOK_SECRET=SECRET) as address:
        assert prober.gate(address, webhooks=[{"path": "/api/business/wallet/webhook"}])[0] == "pass"


@pytest.mark.parametrize(
    ("behaviour", "secret", "said"),
    [
        ("open", SECRET, "it verifies nothing, anybody can tell it that a payment was made"),
        ("parsed", SECRET, "the app checks a body it has written anew by JavaScript"),
        ("indented", SECRET, "the valid event is refused with 400"),
        ("timeless", SECRET, "the app takes events that are signed 10 minutes ago; asked at"),
        ("good", "whsec_of_another_endpoint_98765", "the app does not hold the secret in STRIPE_WEBHOOK_SECRET, but that of another endpoint or none"),
    ],
)
def test_an_app_that_gets_it_wrong_is_caught(prober: Prober, behaviour: str, secret: str, said: str) -> None:
    with hooks(behaviour, secret) as address:
        verdict, sentence = prober.gate(address)
    assert verdict == "fail"
    assert said in sentence


@pytest.mark.parametrize(
    ("path", "verdict", "said"),
    [
        ("/rewritten", "fail", "written anew by Python"),
        ("/slash", "fail", "a redirect (308) to /slash/, and Stripe follows none"),
        ("/404", "fail", "nothing at this path (404)"),
        ("/405", "fail", "takes no POST (405)"),
        ("/429", "inconclusive", "rate limit"),
        ("/503", "inconclusive", "no slot that answers"),
        ("/closed", "inconclusive", "closed for maintenance"),
        ("/slow", "inconclusive", "timed out"),
    ],
)
def test_what_stands_in_the_way_is_named_for_what_it_is(prober: Prober, server: str, path: str, verdict: str, said: str) -> None:
    found = prober.gate(server, webhooks=[{"path": path}], timeout=0.3)
    assert found[0] == verdict
    assert said in found[1]


def test_every_webhook_at_every_address_is_proven_side_by_side(prober: Prober, server: str, good: str) -> None:
    began = time.monotonic()
    result = prober.run(server, good, webhooks=[{"path": path} for path in ("/hook", "/slow", "/404")], timeout=5, deadline=1.5)
    assert time.monotonic() - began < 15
    assert [gate["verdict"] for gate in result["gates"]] == ["fail", "inconclusive", "fail", "pass", "fail", "fail"]


def test_what_is_missing_is_said(prober: Prober, good: str) -> None:
    verdict, sentence = prober.gate(good, webhooks=[{"path": "/hook", "secret_var": "STRIPE_CONNECT_WEBHOOK_SECRET"}])
    assert verdict == "fail"
    assert "STRIPE_CONNECT_WEBHOOK_SECRET is not set" in sentence
    assert "slot is missing" in prober.run(good, tester_secret=TESTERS)["msg"]
    assert "mark must be" in prober.run(good, mark="a b")["msg"]
    assert "is no address" in prober.run(good, urls=["wallet"])["msg"]
    assert "path must begin with /" in prober.run(good, webhooks=[{"path": "hook"}])["msg"]
    verdict, sentence = prober.gate(f"127.0.0.1:{free_port()}")
    assert (verdict, "Connection refused" in sentence) == ("inconclusive", True)


@pytest.mark.parametrize("switch", ["buckets", "weights"])
def test_the_idle_slot_is_asked_through_the_edge_before_any_visitor(prober: Prober, good: str, tmp_path: Path, switch: str) -> None:
    edge = Edge(tmp_path, binary_of("current"))
    edge.defaults["switch"] = switch
    try:
        edge.green.address, edge.health_path = good, "/api/health"
        edge.render(tester_secret=TESTERS)
        public = f"127.0.0.1:{edge.port}"
        tester = {"tester_secret": TESTERS, "slot": "green", "version": "v1.0.0"}
        verdict, sentence = prober.gate(public, **tester)
        assert verdict == "pass", sentence
        assert sentence.endswith("asked through the edge as a tester of green")
        assert edge.gets(20) == {"blue": 20}
        # The live slot takes everything; it was not asked before, and is now.
        assert edge.blue.posts == []
        assert prober.gate(public, tester_secret=TESTERS, slot="blue")[0] == "fail"
        assert edge.blue.posts
        # An edge that does not know the testers would show the live slot in the place of the new one.
        verdict, sentence = prober.gate(public, **{**tester, "tester_secret": "another-secret-of-nobody"})
        assert verdict == "inconclusive"
        assert "it is not v1.0.0 that answers" in sentence
    finally:
        edge.stop()
        for backend in (edge.blue, edge.green):
            backend.stop()


def test_stripes_own_library_takes_the_signature_and_refuses_the_others() -> None:
    now = int(time.time())
    made = {attempt.name: attempt for attempt in attempts(SECRET, event("x", "live", now), now)}
    read = library.Webhook.construct_event(made["valid"].body, made["valid"].headers["Stripe-Signature"], SECRET)
    assert (read.type, read.livemode) == ("sluice.probe", True)
    for name in ("wrong secret", "stale", "tampered", "unsigned"):
        with pytest.raises(library.SignatureVerificationError):
            library.Webhook.construct_event(made[name].body, made[name].headers.get("Stripe-Signature", ""), SECRET)
