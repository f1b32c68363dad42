# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Steady visitors for the wallet: a fixed rate over keep-alive connections, no retries, and a count of everything that was lost.

The rate does not wait for the answers. A request that could not be begun within a second of its time, because every connection
was busy, is left out and counted as `behind`; it was never sent, so it is not lost.
"""
from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import json
import os
import random
import secrets
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

TIMEOUT_S = 10.0
LATEST_START_S = 1.0
WRITE_EVERY_S = 0.5
LOST_KEPT = 20
EDGE_FAILURES = (502, 503, 504)


class Lost(Exception):
    """A request that got no answer, with the reason."""


@dataclass(frozen=True)
class Answer:
    """The head of an answer: its status, and its headers in the order in which they came."""

    status: int
    headers: list[tuple[str, str]]

    def first(self, name: str) -> str:
        return next((value for header, value in self.headers if header == name), "")


@dataclass
class Account:
    """What was sent and what came back."""

    run: str
    started: float
    total: int = 0
    failed: int = 0
    app_errors: int = 0
    closed: int = 0
    closed_at: list[float] = field(default_factory=list)  # of the first and the last answer of a closed site
    behind: int = 0
    posts_sent: int = 0
    posts_accepted: int = 0
    by_slot: collections.Counter = field(default_factory=lambda: collections.Counter({"blue": 0, "green": 0, "unknown": 0}))
    by_status: collections.Counter = field(default_factory=collections.Counter)
    latency: collections.Counter = field(default_factory=collections.Counter)
    lost: list[dict] = field(default_factory=list)

    def answered(self, method: str, path: str, answer: Answer, ms: float) -> None:
        self.total += 1
        slot = answer.first("x-app-slot")
        self.by_slot[slot if slot in ("blue", "green") else "unknown"] += 1
        self.by_status[str(answer.status)] += 1
        self.latency[round(ms, 1) if ms < 100 else round(ms)] += 1
        if method == "POST" and answer.status == 201:
            self.posts_accepted += 1
        if answer.status == 503 and answer.first("sluice-maintenance"):
            self.closed += 1
            self.closed_at = [*self.closed_at[:1], time.time()]
        elif answer.status in EDGE_FAILURES:
            self._note_failure(method, path, f"status {answer.status}")
        elif answer.status >= 500:
            self.app_errors += 1

    def not_answered(self, method: str, path: str, reason: str) -> None:
        self.total += 1
        self.by_slot["unknown"] += 1
        self._note_failure(method, path, reason)

    def _note_failure(self, method: str, path: str, reason: str) -> None:
        self.failed += 1
        if len(self.lost) < LOST_KEPT:
            self.lost.append({"at": round(time.time(), 3), "method": method, "path": path, "reason": reason})

    def as_dict(self) -> dict:
        return {
            "requests": {
                "total": self.total, "failed": self.failed, "app_errors": self.app_errors, "behind": self.behind,
                "closed": self.closed, "closed_at": self.closed_at,
                "by_slot": dict(self.by_slot), "by_status": dict(sorted(self.by_status.items())),
            },
            "lost": self.lost,
            "posts": {"sent": self.posts_sent, "accepted": self.posts_accepted, "reference_prefix": f"load-{self.run}-"},
            "latency_ms": {"p50": self._percentile(0.50), "p95": self._percentile(0.95)},
            "started": self.started,
            "updated": round(time.time(), 3),
        }

    def _percentile(self, share: float) -> float | None:
        wanted = share * self.latency.total()
        seen = 0
        for ms in sorted(self.latency):
            seen += self.latency[ms]
            if seen >= wanted:
                return ms
        return None


class Connection:
    """One keep-alive connection, opened when it is needed."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes) -> Answer:
        """Send one request once.

        :raises Lost: it was not answered. A connection that the server closed while it was idle is reopened first and is no loss.
        """
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._open()
                self.writer.write(request)
                return await self._read_answer()
        except TimeoutError as error:
            self.close()
            raise Lost(f"no answer within {TIMEOUT_S:g} s") from error
        except asyncio.IncompleteReadError as error:
            self.close()
            raise Lost("the connection was closed before the answer was complete") from error
        except (OSError, ValueError, asyncio.LimitOverrunError) as error:
            self.close()
            raise Lost(f"{type(error).__name__}: {error}") from error

    def close(self) -> None:
        if self.writer:
            self.writer.close()
        self.reader = self.writer = None

    async def _open(self) -> None:
        if self.writer and (self.reader.at_eof() or self.reader.exception() or self.writer.is_closing()):
            self.close()
        if not self.writer:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)

    async def _read_answer(self) -> Answer:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head[:-4].split("\r\n")
        pairs = (line.partition(":") for line in lines)
        answer = Answer(int(status_line.split(" ", 2)[1]), [(name.lower(), value.strip()) for name, _colon, value in pairs])
        if answer.first("transfer-encoding").lower() == "chunked":
            await self._read_chunks()
        elif answer.first("content-length"):
            await self.reader.readexactly(int(answer.first("content-length")))
        elif answer.status not in (204, 304):
            await self.reader.read()
            self.close()
        if answer.first("connection").lower() == "close":
            self.close()
        return answer

    async def _read_chunks(self) -> None:
        while True:
            size = int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16)
            if size == 0:
                while await self.reader.readuntil(b"\r\n") != b"\r\n":
                    pass
                return
            await self.reader.readexactly(size + 2)


class Load:
    """The visitors, the connections, and the clock that drives them."""

    def __init__(self, options: argparse.Namespace) -> None:
        url = urlsplit(options.url)
        if url.scheme != "http" or not url.hostname:
            raise SystemExit(f"--url must read http://HOST:PORT, not {options.url!r}.")
        self.options = options
        self.host, self.port, self.authority = url.hostname, url.port or 80, url.netloc
        self.account = Account(run=secrets.token_hex(4), started=round(time.time(), 3))
        self.cookies: list[dict[str, str]] = [{} for _visitor in range(options.visitors)]
        self.due: asyncio.Queue[float | None] = asyncio.Queue()
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopped.set)
        if self.options.seconds:
            loop.call_later(self.options.seconds, self.stopped.set)
        reporter = asyncio.create_task(self._report())
        workers = [asyncio.create_task(self._work()) for _number in range(self.options.connections)]
        await self._tick()
        for _worker in workers:
            self.due.put_nowait(None)
        await asyncio.gather(*workers)
        reporter.cancel()
        self._write()

    async def _tick(self) -> None:
        """Put each request's time into the queue when it comes, at the rate and no other."""
        step = 1 / self.options.rate
        upcoming = time.monotonic()
        while not self.stopped.is_set():
            now = time.monotonic()
            while upcoming <= now:
                self.due.put_nowait(upcoming)
                upcoming += step
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopped.wait(), upcoming - now)

    async def _work(self) -> None:
        connection = Connection(self.host, self.port)
        while (due := await self.due.get()) is not None:
            if self.stopped.is_set():
                continue
            if time.monotonic() - due > LATEST_START_S:
                self.account.behind += 1
                continue
            await self._visit(connection, due)
        connection.close()

    async def _visit(self, connection: Connection, due: float) -> None:
        cookies = random.choice(self.cookies)
        method, path, body = self._pick()
        try:
            answer = await connection.ask(self._request(method, path, body, cookies))
        except Lost as loss:
            self.account.not_answered(method, path, str(loss))
            return
        self.account.answered(method, path, answer, (time.monotonic() - due) * 1000)
        keep_cookies(cookies, answer)

    def _pick(self) -> tuple[str, str, bytes]:
        dice = random.random()
        customer = random.randint(1, self.options.customers)
        if dice < 0.6:
            return "GET", "/", b""
        if dice < 0.8:
            return "GET", f"/wallet/{customer}", b""
        self.account.posts_sent += 1
        payment = {"customer": customer, "amount_cents": random.randint(1, 5000), "reference": f"load-{self.account.run}-{self.account.posts_sent}"}
        return "POST", "/api/wallet/recharge", json.dumps(payment).encode()

    def _request(self, method: str, path: str, body: bytes, cookies: dict[str, str]) -> bytes:
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.authority}", "User-Agent: sluice-load"]
        if cookies:
            lines.append("Cookie: " + "; ".join(f"{name}={value}" for name, value in cookies.items()))
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + body

    async def _report(self) -> None:
        while True:
            self._write()
            await asyncio.sleep(WRITE_EVERY_S)

    def _write(self) -> None:
        out = self.options.out
        unfinished = out.with_name(f".{out.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(self.account.as_dict(), indent=2) + "\n")
        unfinished.replace(out)


def keep_cookies(cookies: dict[str, str], answer: Answer) -> None:
    """Keep what the answer sets, and drop what it takes back with Max-Age=0."""
    for header, text in answer.headers:
        if header != "set-cookie":
            continue
        pair, *attributes = text.split(";")
        name, _equals, value = pair.strip().partition("=")
        if any(attribute.strip().lower() == "max-age=0" for attribute in attributes):
            cookies.pop(name, None)
        else:
            cookies[name] = value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="where the visitors go, such as http://127.0.0.1:8080")
    parser.add_argument("--rate", type=float, default=150, help="requests a second")
    parser.add_argument("--connections", type=int, default=12)
    parser.add_argument("--visitors", type=int, default=300, help="how many keep cookies of their own")
    parser.add_argument("--customers", type=int, default=1000, help="wallets 1 to this number are asked for")
    parser.add_argument("--seconds", type=float, help="end after this time; without it, on SIGTERM or SIGINT")
    parser.add_argument("--out", type=Path, required=True, help="the account, as JSON")
    options = parser.parse_args()
    for name in ("rate", "connections", "visitors", "customers"):
        if getattr(options, name) <= 0:
            parser.error(f"--{name} must be more than 0")

    async def start() -> None:
        await Load(options).run()

    asyncio.run(start())


if __name__ == "__main__":
    main()
