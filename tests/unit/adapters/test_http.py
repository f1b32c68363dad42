# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP as a probe sees it, against a real server: no redirect, no retry, and an answer even when there is none."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import web
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Probe


class Server(ThreadingHTTPServer):
    """Answers by path and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, str, dict[str, str]]] = []
        self.broken = 0
        self.released = threading.Event()

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        self.server.asked.append((self.command, self.path, body, dict(self.headers)))
        status, text = 200, b'{"version": "v2"}'
        if self.path == "/moved":
            status = 302
        if self.path == "/slow":
            self.server.released.wait(5)
        if self.path == "/large":
            text = b"x" * (2 * 1024 * 1024)
        if self.path == "/bytes":
            text = b"a\xffb"
        if self.server.broken:
            self.server.broken -= 1
            status = 503
        try:
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
        except OSError:
            self.close_connection = True

    do_GET = do_POST = handle_any

    def log_message(self, *_words: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.released.set()
        found.shutdown()
        thread.join(5)


@pytest.fixture
def closed_port() -> Iterator[int]:
    # Bound but not listening: nobody else can take it, and it refuses.
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def probe(path: str = "/", **more: object) -> Probe:
    return Probe("page", path, **more)  # type: ignore[arg-type]


def test_a_request_is_sent_as_the_probe_says(server: Server) -> None:
    answer = web.ask(f"{server.base}/app/", probe("/pay?a=b", method="POST", body="\u20ac 5", headers={"X-One": "1"}), 5, {"X-Two": "2"})
    assert (answer.status, answer.body, answer.error) == (200, '{"version": "v2"}', "")
    assert answer.headers["Location"] == "/elsewhere"
    assert 0 < answer.seconds < 5
    ((method, path, body, headers),) = server.asked
    assert (method, path, body) == ("POST", "/app/pay?a=b", "\u20ac 5")
    assert (headers["X-One"], headers["X-Two"], headers["Connection"]) == ("1", "2", "close")


def test_a_redirect_is_not_followed(server: Server) -> None:
    assert web.ask(server.base, probe("/moved"), 5).status == 302
    assert [asked[1] for asked in server.asked] == ["/moved"]


def test_a_body_is_read_to_its_limit_and_never_breaks(server: Server) -> None:
    assert len(web.ask(server.base, probe("/large"), 5).body) == 1024 * 1024
    assert web.ask(server.base, probe("/bytes"), 5).body == "a\ufffdb"


def test_no_answer_is_an_answer_that_says_why(server: Server, closed_port: int) -> None:
    refused = web.ask(f"http://127.0.0.1:{closed_port}", probe(), 5)
    assert (refused.status, refused.error) == (0, f"no answer from 127.0.0.1:{closed_port}: Connection refused")
    late = web.ask(server.base, probe("/slow"), 0.1)
    assert late.error == f"no answer from {server.base[7:]}: timed out"
    assert 0.1 <= late.seconds < 3


@pytest.mark.parametrize(
    ("base", "path", "headers", "words"),
    [
        ("http://host:port", "/", {}, "no answer from host:port: nonnumeric port"),
        ("", "/a b", {}, "URL can't contain control characters"),
        ("", "/caf\u00e9", {}, "codec can't encode character"),
        ("", "/", {"X": "a\r\nb"}, "Invalid header value"),
    ],
)
def test_what_http_cannot_carry_is_an_answer_too(server: Server, base: str, path: str, headers: dict[str, str], words: str) -> None:
    answer = web.ask(base or server.base, probe(path), 2, headers)
    assert answer.status == 0
    assert words in answer.error
    assert server.asked == []


def test_a_server_that_hangs_up_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            listening.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        answer = web.ask(f"http://127.0.0.1:{listening.getsockname()[1]}", probe(), 5)
        thread.join(5)
    assert answer.error.startswith("no answer from 127.0.0.1:")
    assert "closed connection without response" in answer.error or "Connection reset" in answer.error


def wait(targets: dict[str, tuple[str, Probe]], passes: int = 2, deadline: float = 5, **more: object) -> object:
    return web.wait_healthy(targets, passes=passes, deadline=deadline, interval=0.01, timeout=1, **more)  # type: ignore[arg-type]


def test_waiting_ends_when_each_gave_its_good_answers_in_a_row(server: Server) -> None:
    server.broken = 3
    streaks = web.wait_healthy({"web": (server.base, probe("/a"))}, passes=3, deadline=5, interval=0.01, timeout=1)
    assert (streaks["web"].asked, streaks["web"].passes) == (6, 3)


def test_a_deadline_says_what_was_seen_last_of_those_that_are_not_healthy(server: Server, closed_port: int) -> None:
    gone = f"http://127.0.0.1:{closed_port}"
    began = time.monotonic()
    with pytest.raises(SluiceError) as caught:
        wait({"good": (server.base, probe("/a")), "bad": (gone, probe("/b")), "odd": (server.base, probe("/c", json={"version": "v3"}))}, deadline=0.1)
    assert time.monotonic() - began < 3
    assert str(caught.value) == (
        f"not healthy within 0.1 s; last seen: bad {gone}/b: no answer from 127.0.0.1:{closed_port}: Connection refused; "
        f"odd {server.base}/c: version is 'v2' instead of 'v3'."
    )
    assert caught.value.details()["seen"]["good"] == ""


def test_good_but_not_often_enough_is_said(server: Server) -> None:
    with pytest.raises(SluiceError) as caught:
        wait({"web": (server.base, probe("/a"))}, passes=99, deadline=0)
    assert str(caught.value) == f"not healthy within 0 s; last seen: web {server.base}/a: good, but not often enough."


def test_a_process_that_is_gone_ends_the_wait_at_once(closed_port: int) -> None:
    began = time.monotonic()
    with pytest.raises(SluiceError, match=r"^the process is gone; last seen: web http://.*Connection refused\.$"):
        wait({"web": (f"http://127.0.0.1:{closed_port}", probe("/a"))}, deadline=60, given_up=lambda: "the process is gone")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("writes", "broken", "asked", "wrong"), [(False, 0, 1, 0), (False, 1, 2, 0), (False, 2, 2, 1), (True, 0, 1, 0), (True, 1, 1, 1)])
def test_a_probe_that_reads_is_tried_twice_and_one_that_writes_once(server: Server, writes: bool, broken: int, asked: int, wrong: int) -> None:
    server.broken = broken
    said = web.smoke(server.base, [probe("/pay", method="POST", writes=writes)], 5)
    assert len(server.asked) == asked
    assert said == ['page (POST /pay): status 503 instead of 200: {"version": "v2"}'] * wrong


def test_every_probe_is_asked_and_each_complaint_told(server: Server) -> None:
    said = web.smoke(server.base, [probe("/a", contains="balance"), probe("/b"), probe("/moved")], 5, 1)
    assert [asked[1] for asked in server.asked] == ["/a", "/b", "/moved"]
    assert [words.partition(": ")[0] for words in said] == ["page (GET /a)", "page (GET /moved)"]
    assert web.smoke(server.base, [], 5) == []
