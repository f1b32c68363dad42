# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the benchmarks of the edge share: an nginx that stands for both slots, and a load that sends every request once and counts.

A request is failed when it is not answered with 200: refused, reset, closed without an answer, another status, or silent for ten seconds. It is never
sent again. Of each connection the next request is sent as soon as the last one is answered, so a connection that the edge closes without having said
``Connection: close`` costs a request.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.edges import Edge, binary_of
from tests.sandbox.world import free_ports, listening

SILENT_S = 10.0
VISITORS = 200
PAGE = "/page"
PAGE_BYTES = 16384
POST_EVERY = 4
_FORK = multiprocessing.get_context("fork")


def say(text: str) -> None:
    """Tell whoever waits what is being done."""
    print(text, file=sys.stderr, flush=True)


def binaries() -> dict[str, str]:
    """Return the current nginx under an empty suffix, and the distribution's under ``_old`` where there is one."""
    found = {"": binary_of("current")}
    with contextlib.suppress(pytest.skip.Exception):
        found["_old"] = binary_of("distribution")
    return found


# Hosts


@dataclass
class Host:
    """A slot's one host, as ``Edge`` wants it."""

    address: str

    def stop(self) -> None:
        """Leave it running: it ends with the nginx it is part of."""


class Hosts:
    """An nginx that answers for both slots, with a page or with five bytes, and writes down the id of every POST."""

    def __init__(self, folder: Path, binary: str) -> None:
        self.log, self._pid = folder / "posts.log", folder / "hosts.pid"
        folder.chmod(0o755)
        ports = free_ports(2)
        self.blue, self.green = (Host(f"127.0.0.1:{port}") for port in ports)
        temporary = "".join(f"    {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        servers = "".join(
            f"    server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ return 200 {slot}; }} location {PAGE} {{ alias {folder}/{slot}.html; }} }}\n"
            for port, slot in zip(ports, ("blue.", "green"))
        )
        for slot in ("blue.", "green"):
            (folder / f"{slot}.html").write_text("x" * (PAGE_BYTES - len(slot)) + slot, encoding="utf-8")
        user = "user root;\n" if os.geteuid() == 0 else ""
        (folder / "hosts.conf").write_text(
            f"{user}worker_processes 1;\npid {self._pid};\nerror_log {folder}/hosts.log;\nevents {{ worker_connections 2048; }}\n"
            f"http {{\n{temporary}    keepalive_requests 100000000;\n    log_format posts $http_x_post;\n"
            f"    access_log {self.log} posts buffer=64k flush=200ms if=$http_x_post;\n{servers}}}\n",
            encoding="utf-8",
        )
        subprocess.run([binary, "-p", str(folder), "-c", str(folder / "hosts.conf")], check=True, timeout=10, capture_output=True)
        deadline = time.monotonic() + 5
        while not all(map(listening, ports)) and time.monotonic() < deadline:
            time.sleep(0.01)

    def posts(self) -> Counter[str]:
        """Return how often each POST came, once what is buffered is written."""
        time.sleep(0.6)
        return Counter(self.log.read_text(encoding="utf-8").split())

    def stop(self) -> None:
        """End it by its own process id."""
        end(self._pid)


def end(pid_file: Path) -> None:
    """End an nginx by the process id it wrote down, and wait until it took the file away."""
    with contextlib.suppress(OSError, ValueError):
        os.kill(int(pid_file.read_text(encoding="utf-8")), 15)
    deadline = time.monotonic() + 10
    while pid_file.exists() and time.monotonic() < deadline:
        time.sleep(0.01)


@contextlib.contextmanager
def edge_of(folder: Path, name: str, binary: str, hosts: Hosts, switch: str) -> Iterator[Edge]:
    """Give an edge with blue live, in front of hosts that are no Python."""
    (folder / name).mkdir()
    edge = Edge(folder / name, binary)
    for backend in (edge.blue, edge.green):
        backend.stop()
    edge.blue, edge.green = hosts.blue, hosts.green
    edge.defaults["switch"] = switch
    try:
        edge.render()
        yield edge
    finally:
        edge.stop()
        shutil.rmtree(edge.folder, ignore_errors=True)


# Load


@dataclass
class Account:
    """What was sent and what came back.

    :param posts: POSTs that were answered with 200.
    :param reopened: connections that the edge closed in order, with ``Connection: close``.
    """

    requests: int = 0
    posts: int = 0
    reopened: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    slots: Counter[str] = field(default_factory=Counter)

    def add(self, other: Account) -> Account:
        """Return both together."""
        return Account(
            self.requests + other.requests, self.posts + other.posts, self.reopened + other.reopened, self.failed + other.failed, self.slots + other.slots
        )

    def __str__(self) -> str:
        failed = ", ".join(f"{number} {reason}" for reason, number in self.failed.items()) or "none"
        return f"{self.requests} requests, {self.posts} POSTs, by slot {dict(self.slots)}, {self.reopened} connections reopened; failed: {failed}"


class Load:
    """Processes that send requests until told to stop: to ``/``, a quarter of them POSTs, or GETs of the page.

    :param name: begins the id of every POST.
    """

    def __init__(self, name: str, port: int, processes: int = 2, connections: int = 16, path: str = "/") -> None:
        self._counts = _FORK.RawArray("Q", processes)
        self._over = _FORK.RawValue("b", 0)
        self._started = time.monotonic()
        self._ends: list[Any] = []
        self._workers = []
        for number in range(processes):
            ours, theirs = _FORK.Pipe(duplex=False)
            worker = _FORK.Process(target=_work, args=(f"{name}-{number}", path, port, connections, self._counts, number, self._over, theirs), daemon=True)
            worker.start()
            self._ends.append(ours)
            self._workers.append(worker)

    def reach(self, requests: int, seconds: float) -> bool:
        """Wait until so many requests were sent; False when that took more than ``seconds`` from the start."""
        while sum(self._counts) < requests:
            if time.monotonic() - self._started > seconds:
                return False
            time.sleep(0.002)
        return True

    def stop(self) -> Account:
        """Send nothing more, wait for the answers that are still out, and return the account."""
        self._over.value = 1
        total = Account()
        for receiver, worker in zip(self._ends, self._workers):
            if not receiver.poll(2 * SILENT_S):
                raise SystemExit("A process of the load did not end.")
            total = total.add(receiver.recv())
            worker.join()
        return total


def _work(name: str, path: str, port: int, connections: int, counts: Any, number: int, over: Any, result: Any) -> None:
    account, pick = Account(), select.epoll()
    head = f"{path} HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: load\r\nCookie: sluice_wallet={name}"
    heads = [f"{head}-{visitor}\r\n".encode() for visitor in range(VISITORS)]
    gets = [b"GET " + head + b"\r\n" for head in heads]
    posts = [b"POST " + head + b"Content-Length: 8\r\nX-Post: " for head in heads]
    label, pays = name.encode(), path != PAGE
    open_now: dict[int, list[Any]] = {}  # socket, what was received, whether a POST is out, since when

    def fail(place: int, reason: str) -> None:
        account.failed[reason] += 1
        close(place)

    def close(place: int) -> None:
        open_now.pop(place)[0].close()

    def begin() -> None:
        """Open a connection and send its first request; one that is refused costs that request."""
        try:
            made = socket.create_connection(("127.0.0.1", port), timeout=SILENT_S)
        except OSError as error:
            account.requests += 1
            account.failed[f"not connected: {error}"] += 1
            time.sleep(0.01)
            return
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.setblocking(False)
        open_now[made.fileno()] = [made, b"", False, 0.0]
        pick.register(made, select.EPOLLIN)
        send(made.fileno())

    def send(place: int) -> None:
        entry = open_now[place]
        account.requests = count = account.requests + 1
        counts[number] = count
        entry[1], entry[2], entry[3] = b"", pays and count % POST_EVERY == 0, time.monotonic()
        request = b"%s%s-%d\r\n\r\npay=1234" % (posts[count % VISITORS], label, count) if entry[2] else gets[count % VISITORS]
        try:
            entry[0].send(request)
        except OSError as error:
            fail(place, f"not sent: {type(error).__name__}")

    def receive(place: int) -> None:
        entry = open_now[place]
        try:
            data = entry[0].recv(65536)
        except OSError as error:
            fail(place, f"no answer: {type(error).__name__}")
            return
        if not data:
            fail(place, "no answer: closed")
            return
        data = entry[1] = entry[1] + data
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0:
            return
        length = data.find(b"Content-Length: ")
        if length < 0 or length > head_end:
            fail(place, "an answer without a length")
            return
        if len(data) < head_end + 4 + int(data[length + 16 : data.index(b"\r", length)]):
            return
        if data[9:12] != b"200":
            fail(place, f"status {data[9:12].decode()}")
            return
        account.slots[data[-5:].decode().strip(".")] += 1
        account.posts += entry[2]
        if data.find(b"Connection: close", 0, head_end) > 0:
            account.reopened += 1
            close(place)
        elif not over.value:
            send(place)
        else:
            close(place)

    looked = time.monotonic()
    while open_now or not over.value:
        while len(open_now) < connections and not over.value:
            begin()
        for place, _event in pick.poll(0.1):
            if place in open_now:
                receive(place)
        now = time.monotonic()
        if now - looked > 1:
            looked = now
            for place in [place for place, entry in open_now.items() if now - entry[3] > SILENT_S]:
                fail(place, "silent")
    result.send(account)
