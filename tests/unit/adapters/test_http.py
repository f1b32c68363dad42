# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Probes against real servers: no redirect, no retry, one deadline for all of an answer, and an answer even when there is none."""

from __future__ import annotations

import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import probes, sockets, web
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Probe, Streak, Tls, probe_from
from ansible_collections.sluice.deploy.plugins.module_utils.core.smoke import Case, Step, steps_from


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
            self.server.released.wait(50)
        if self.path == "/drip":
            self.drip()
            return
        if self.path == "/login":
            text = b'{"session": {"token": "hush-hush"}, "id": 7}'
        if self.path == "/echo":
            text = self.headers.get("Authorization", "").encode()
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

    def drip(self) -> None:
        """Answer a byte at a time, each long before a timeout of the socket would be over."""
        try:
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + b"x" * 500:
                self.wfile.write(bytes([byte]))
                if self.server.released.wait(0.02):
                    break
        except OSError:
            pass
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
    assert 0.1 <= late.seconds < 20


def test_an_answer_that_drips_has_one_deadline(server: Server) -> None:
    began = time.monotonic()
    answer = web.ask(server.base, probe("/drip"), 0.5)
    assert answer.error == f"no answer from {server.base[7:]}: timed out"
    assert 0.4 < time.monotonic() - began < 8


def test_a_name_nobody_has_is_told() -> None:
    began = time.monotonic()
    answer = web.ask("http://nobody.invalid:1", probe(), 2)
    assert answer.error.startswith("no answer from nobody.invalid:1: ")
    assert time.monotonic() - began < 8


def test_a_password_in_an_address_is_not_told(closed_port: int) -> None:
    assert "hush" not in web.ask(f"http://me:hush@127.0.0.1:{closed_port}", probe(), 2).error


@pytest.mark.parametrize(("base", "host"), [("http://127.0.0.1:{}", "127.0.0.1:{}"), ("http://localhost:{}", "localhost:{}")])
def test_the_host_header_is_the_address_s_unless_it_is_given(server: Server, base: str, host: str) -> None:
    port = server.server_address[1]
    web.ask(base.format(port), probe(), 5)
    web.ask(base.format(port), probe(headers={"Host": "wallet.example.org"}), 5)
    assert [asked[3]["Host"] for asked in server.asked] == [host.format(port), "wallet.example.org"]


@pytest.mark.parametrize("base", ["wallet.example.org", "ftp://wallet.example.org", "http://", ""])
def test_what_is_no_address_is_refused(base: str) -> None:
    with pytest.raises(SluiceError, match=re.escape(f"{base!r} is no address to ask. Example: https://wallet.example.org")):
        wait({"web": (base, probe())})


@pytest.mark.parametrize(
    ("base", "path", "headers", "words"),
    [
        ("http://host:port", "/", {}, "no answer from host:port: nonnumeric port"),
        ("", "/a b", {}, "URL can't contain control characters"),
        ("", "/caf\u00e9", {}, "codec can't encode character"),
        ("", "/", {"X": "a\r\nb"}, "the header X holds a character that HTTP cannot carry"),
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
    return probes.wait_healthy(targets, passes=passes, deadline=deadline, interval=0.01, timeout=1, **more)  # type: ignore[arg-type]


def test_waiting_ends_when_each_gave_its_good_answers_in_a_row(server: Server) -> None:
    server.broken = 3
    streaks = probes.wait_healthy({"web": (server.base, probe("/a"))}, passes=3, deadline=5, interval=0.01, timeout=1)
    assert (streaks["web"].asked, streaks["web"].passes) == (6, 3)


def test_a_deadline_says_what_was_seen_last_of_those_that_are_not_healthy(server: Server, closed_port: int) -> None:
    gone = f"http://127.0.0.1:{closed_port}"
    began = time.monotonic()
    with pytest.raises(SluiceError) as caught:
        wait({"good": (server.base, probe("/a")), "bad": (gone, probe("/b")), "odd": (server.base, probe("/c", json={"version": "v3"}))}, deadline=0.1)
    assert time.monotonic() - began < 20
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
    assert time.monotonic() - began < 20


def test_a_hanging_server_does_not_hold_the_wait(server: Server) -> None:
    began = time.monotonic()
    with pytest.raises(SluiceError, match=r"^the process is gone; last seen: web http://.*: it gave no answer yet\.$"):
        probes.wait_healthy({"web": (server.base, probe("/slow"))}, passes=1, deadline=60, interval=0.01, timeout=30, given_up=lambda: "the process is gone")
    assert time.monotonic() - began < 20


def test_all_are_asked_at_once_and_share_one_deadline(server: Server) -> None:
    began = time.monotonic()
    targets = {f"web{number}": (server.base, probe("/slow")) for number in range(20)}
    streaks, why = probes.observe(targets, passes=1, deadline=1, interval=0.01, timeout=30)
    assert why == "not healthy within 1 s"
    assert {streak.last for streak in streaks.values()} == {f"no answer from {server.base[7:]}: timed out"}
    assert 0.9 < time.monotonic() - began < 15


def test_the_last_answer_is_kept(server: Server) -> None:
    streaks, why = probes.observe({"web": (server.base, probe("/moved"))}, passes=1, deadline=0, interval=0.01, timeout=1)
    assert why
    assert streaks["web"].answer
    assert (streaks["web"].answer.status, streaks["web"].last) == (302, 'status 302 to /elsewhere instead of 200: {"version": "v2"}')
    assert isinstance(streaks["web"], Streak)


def test_a_port_takes_a_connection_or_not(server: Server, closed_port: int) -> None:
    assert probes.look("", probe_from({"tcp": f"127.0.0.1:{server.server_address[1]}"}, "p"), 2).error == ""
    refused = probes.look("", probe_from({"tcp": f"127.0.0.1:{closed_port}"}, "p"), 2)
    assert refused.error == f"no connection to 127.0.0.1:{closed_port}: Connection refused"


def test_listening_ports_are_known(server: Server, closed_port: int) -> None:
    ports = sockets.listening()
    assert server.server_address[1] in ports
    assert closed_port not in ports


def command(*words: str) -> Probe:
    return probe_from({"command": [*words]}, "p")


def test_a_command_must_end_with_0(tmp_path: Path) -> None:
    assert probes.look("", command(sys.executable, "-c", "print(1)"), 20).error == ""
    failed = probes.look("", command("sh", "-c", "echo not today >&2; exit 3"), 20)
    assert (failed.status, failed.error) == (3, "sh ended with exit code 3: not today")
    assert probes.look("", command("false"), 20).error == "false ended with exit code 1: it said nothing"
    assert probes.look("", command("/nowhere/x"), 20).error == "/nowhere/x could not be run: No such file or directory"
    assert probes.look("", command("pwd"), 20, str(tmp_path)).body.strip() == str(tmp_path)


def test_a_command_and_what_it_started_end_at_the_deadline(tmp_path: Path) -> None:
    began = time.monotonic()
    answer = probes.look("", command("sh", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; wait"), 0.5)
    assert answer.error == "sh did not end within 0.5 s and was killed"
    assert time.monotonic() - began < 20
    child = Path("/proc", (tmp_path / "pid").read_text(encoding="utf-8").strip(), "stat")
    while alive(child) and time.monotonic() - began < 10:
        time.sleep(0.01)  # a killed process may still have its last moment on the processor
    assert not alive(child)


def alive(stat: Path) -> bool:
    try:
        return stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_command_sees_nothing_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLERS_SECRET", "hush")
    assert "CALLERS_SECRET" not in probes.look("", command("env"), 20).body


def suite(*data: dict[str, Any]) -> list[Step]:
    return steps_from(list(data))


def send(server: Server, steps: list[Step], **more: Any) -> list[Case]:
    return probes.smoke(server.base, steps, more.pop("left_out", {}), timeout=5, **more)


@pytest.mark.parametrize(
    ("effect", "broken", "asked", "wrong"), [("read", 0, 1, 0), ("read", 1, 2, 0), ("read", 2, 2, 1), ("write", 0, 1, 0), ("test-tenant", 1, 1, 1)]
)
def test_a_request_that_reads_is_tried_twice_and_one_that_writes_once(server: Server, effect: str, broken: int, asked: int, wrong: int) -> None:
    server.broken = broken
    (case,) = send(server, suite({"name": "page", "method": "POST", "path": "/pay", "effect": effect}))
    assert len(server.asked) == asked
    assert (case.name, case.wrong) == ("page (POST /pay)", 'status 503 instead of 200: {"version": "v2"}' * wrong)


def test_every_request_is_sent_and_each_complaint_told(server: Server) -> None:
    cases = send(server, suite({"path": "/a", "contains": "balance"}, {"path": "/b"}, {"path": "/c"}, {"path": "/moved"}), left_out={2: "why not"}, tries=1)
    assert [asked[1] for asked in server.asked] == ["/a", "/b", "/moved"]
    assert [bool(case.wrong) for case in cases] == [True, False, False, True]
    assert [case.skipped for case in cases] == ["", "", "why not", ""]
    assert send(server, []) == []


LOGIN = {"name": "sign in", "path": "/login", "extract": {"token": "session.token", "id": "id"}}
ECHO = {"name": "echo", "path": "/echo", "headers": {"Authorization": "Bearer {token}"}}


def test_a_value_travels_and_is_never_told(server: Server) -> None:
    good, bad, page = send(server, suite(LOGIN, {**ECHO, "contains": "nothing"}, {"path": "/wallet/{id}"}))
    assert (good.wrong, page.wrong) == ("", "")
    assert bad.wrong == "the body does not hold 'nothing': ********"
    assert [(path, headers.get("Authorization")) for _method, path, _body, headers in server.asked] == [
        ("/login", None),
        ("/echo", "Bearer hush-hush"),
        ("/echo", "Bearer hush-hush"),
        ("/wallet/7", None),
    ]


def test_a_value_of_a_file_is_never_told(server: Server) -> None:
    steps = steps_from([{**ECHO, "headers": {"Authorization": "{KEY}"}, "contains": "nothing"}], ["KEY"])
    (case,) = probes.smoke(server.base, steps, {}, timeout=5, values={"KEY": "hush-hush"})
    assert case.wrong == "the body does not hold 'nothing': ********"


def test_what_follows_a_failed_sign_in_is_not_sent(server: Server) -> None:
    first, second = send(server, suite({**LOGIN, "extract": {"token": "session.nothing"}}, ECHO))
    assert first.wrong == "session.nothing is missing, so there is no token"
    assert second.wrong == "it was not sent, there is no token"
    assert {asked[1] for asked in server.asked} == {"/login"}


def test_the_file_with_values_must_be_private(tmp_path: Path) -> None:
    path = tmp_path / "smoke.env"
    assert probes.read_values(None) == {}
    with pytest.raises(SluiceError, match="with the values of the smoke requests is not there"):
        probes.read_values(str(path))
    path.write_text("KEY='a b'\n", encoding="utf-8")
    with pytest.raises(SluiceError, match=f"Others may read {path}.*Run chmod 600 {path}"):
        probes.read_values(str(path))
    os.chmod(path, 0o600)
    assert probes.read_values(str(path)) == {"KEY": "a b"}


def test_another_machine_s_certificate_is_verified_before_anything_is_sent() -> None:
    blind = probe(tls=Tls(verify=False))
    with pytest.raises(SluiceError, match="allowed for a loopback address only"):
        wait({"web": ("https://192.0.2.1", blind)})
    with pytest.raises(SluiceError, match="allowed for a loopback address only"):
        probes.smoke("https://192.0.2.1", [Step(blind)], {}, timeout=1)
