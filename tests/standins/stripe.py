# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for Stripe's API and the first page of Connect: accounts, keys with permissions, endpoints, events, and trouble on demand."""

from __future__ import annotations

import base64
import itertools
import json
import random
import string
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Optional
from urllib.parse import parse_qs, urlsplit

# What a restricted key must be allowed for each path.
PERMISSIONS = {
    "/v1/balance": "rak_balance_read",
    "/v1/account": "rak_accounts_kyc_basic_read",
    "/v1/webhook_endpoints": "rak_webhook_read",
    "/v1/events": "rak_event_read",
}
_TYPES = {401: "invalid_request_error", 403: "invalid_request_error", 429: "invalid_request_error"}
_chance = random.Random(7)


def letters(count: int) -> str:
    """Return so many letters and digits."""
    return "".join(_chance.choices(string.ascii_letters + string.digits, k=count))


@dataclass
class Key:
    """A key: whose it is, its mode, and what it may read (None for everything)."""

    account: str
    livemode: bool
    permissions: Optional[set[str]] = None


@dataclass
class Trouble:
    """An answer that is given instead of the real one."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0


class Stripe(ThreadingHTTPServer):
    """Everything is kept in plain attributes, which a test may change."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Pages)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.accounts: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, Key] = {}
        self.endpoints: list[tuple[str, dict[str, Any]]] = []
        self.events: list[tuple[str, bool, dict[str, Any]]] = []
        self.clients: dict[str, set[str]] = {}
        self.trouble: dict[str, list[Trouble]] = {}
        self.asked: Counter[str] = Counter()
        self.writes: list[str] = []
        self._number = itertools.count(1)

    def account(self, **changed: Any) -> str:
        """Open an account that may do everything, but for what is changed, and return its id."""
        name = f"acct_1{letters(15)}"
        nothing = {"alternatives": [], "current_deadline": None, "currently_due": [], "disabled_reason": None}
        self.accounts[name] = {
            "id": name,
            "object": "account",
            "charges_enabled": True,
            "country": "DE",
            "default_currency": "eur",
            "details_submitted": True,
            "email": "owner@wallet.test",
            "metadata": {},
            "payouts_enabled": True,
            "requirements": {**nothing, "errors": [], "eventually_due": [], "past_due": [], "pending_verification": []},
            "type": "standard",
            **changed,
        }
        return name

    def key(self, account: str, kind: str = "sk", mode: str = "live", permissions: Optional[set[str]] = None) -> str:
        """Make a key of the newer form, which embeds its account, and return its text."""
        text = f"{kind}_{mode}_51{account[6:]}{letters(82)}"
        if kind != "pk":
            self.keys[text] = Key(account, mode == "live", permissions)
        return text

    def endpoint(self, account: str, url: str, events: list[str], mode: str = "live", status: str = "enabled", api_version: Optional[str] = None) -> str:
        """Register a webhook endpoint and return its id."""
        name = f"we_1{letters(23)}"
        about = {
            "id": name,
            "object": "webhook_endpoint",
            "api_version": api_version,
            "application": None,
            "created": int(time.time()),
            "description": None,
            "enabled_events": events,
            "livemode": mode == "live",
            "metadata": {},
            "status": status,
            "url": url,
        }
        self.endpoints.append((account, about))
        return name

    def event(self, account: str, kind: str, *, delivered: bool, age: int = 3600, mode: str = "live") -> None:
        """Let something have happened so many seconds ago."""
        about = {
            "id": f"evt_1{letters(23)}",
            "object": "event",
            "api_version": "2024-06-20",
            "created": int(time.time()) - age,
            "data": {"object": {"id": f"pi_{next(self._number)}", "object": "payment_intent"}},
            "livemode": mode == "live",
            "pending_webhooks": 0 if delivered else 1,
            "request": {"id": None, "idempotency_key": None},
            "type": kind,
        }
        self.events.insert(0, (account, delivered, about))

    @contextmanager
    def running(self) -> Iterator[Stripe]:
        """Answer as long as the block lasts."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield self
        finally:
            self.shutdown()
            thread.join(5)
            self.server_close()

    def handle_error(self, *_words: object) -> None:
        """Somebody who gave up waiting is part of the tests."""


class _Pages(BaseHTTPRequestHandler):
    server: Stripe
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server.asked[path] += 1
        waiting = self.server.trouble.get(path, [])
        trouble = waiting.pop(0) if len(waiting) > 1 else waiting[0] if waiting else Trouble()
        time.sleep(trouble.delay)
        if trouble.status:
            self._refuse(trouble.status, "Something is wrong on purpose.", trouble.headers)
        elif path == "/oauth/authorize":
            self._connect()
        else:
            self._api(path)

    def do_POST(self) -> None:
        """Whatever writes is remembered, and refused: no gate may."""
        self.server.writes.append(f"{self.command} {self.path}")
        self._refuse(400, "This stand-in is for readers.")

    do_DELETE = do_PUT = do_PATCH = do_POST

    def _api(self, path: str) -> None:
        text = self._key()
        key = self.server.keys.get(text)
        if key is None:
            self._refuse(401, f"Invalid API Key provided: {text[:8]}{'*' * 20}{text[-4:]}")
            return
        needs = PERMISSIONS.get(path)
        if needs is None:
            self._refuse(404, f"Unrecognized request URL (GET: {path}).")
        elif key.permissions is not None and needs not in key.permissions:
            said = f"The provided key '{text[:8]}{'*' * 20}{text[-6:]}' does not have the required permissions for this endpoint on account '{key.account}'."
            self._refuse(403, f"{said} Having the '{needs}' permission would allow this request to continue.")
        else:
            self._answer(
                200, {"/v1/balance": self._balance, "/v1/account": self._account, "/v1/webhook_endpoints": self._endpoints}.get(path, self._events)(key)
            )

    def _key(self) -> str:
        kind, _space, value = self.headers.get("Authorization", "").partition(" ")
        return base64.b64decode(value).decode().rstrip(":") if kind == "Basic" else value

    def _balance(self, key: Key) -> dict[str, Any]:
        amount = [{"amount": 4200, "currency": "eur", "source_types": {"card": 4200}}]
        return {"object": "balance", "available": amount, "livemode": key.livemode, "pending": [{"amount": 0, "currency": "eur", "source_types": {"card": 0}}]}

    def _account(self, key: Key) -> dict[str, Any]:
        return self.server.accounts[key.account]

    def _endpoints(self, key: Key) -> dict[str, Any]:
        return self._list([about for account, about in self.server.endpoints if account == key.account and about["livemode"] is key.livemode])

    def _events(self, key: Key) -> dict[str, Any]:
        asked = self._asked()
        rows = [(delivered, about) for account, delivered, about in self.server.events if account == key.account and about["livemode"] is key.livemode]
        if "delivery_success" in asked:
            rows = [row for row in rows if row[0] is (asked["delivery_success"] == "true")]
        first, last = int(asked.get("created[gte]", 0)), int(asked.get("created[lt]", 2**40))
        return self._list([about for _delivered, about in rows if first <= about["created"] < last])

    def _asked(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}

    def _list(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        limit = int(self._asked().get("limit", 10))
        return {"object": "list", "data": rows[:limit], "has_more": len(rows) > limit, "url": urlsplit(self.path).path}

    def _connect(self) -> None:
        asked = self._asked()
        known = self.server.clients.get(asked.get("client_id", ""))
        if known is None:
            self._answer(400, {"error": "invalid_client", "error_description": "No such application"})
        elif asked.get("redirect_uri") not in known:
            said = f"Invalid redirect URI '{asked.get('redirect_uri')}'. Ensure this uri exactly matches one of the uris specified in your application settings"
            self._answer(400, {"error": "invalid_redirect_uri", "error_description": said})
        else:
            self._answer(302, {}, {"Location": "/login"})

    def _refuse(self, status: int, message: str, headers: Optional[dict[str, str]] = None) -> None:
        self._answer(status, {"error": {"message": message, "type": _TYPES.get(status, "api_error")}}, headers)

    def _answer(self, status: int, data: dict[str, Any], headers: Optional[dict[str, str]] = None) -> None:
        body = json.dumps(data, indent=2).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Request-Id": f"req_{letters(14)}",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        pass
