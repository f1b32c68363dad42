# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates of Stripe as an operator calls them, against a stand-in that is held against Stripe's own description and library."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import stripe as library
from ansible_collections.sluice.deploy.plugins.module_utils.core.stripe_account import questions

from tests.sandbox.world import CHECKOUT
from tests.standins.stripe import PERMISSIONS, Stripe, Trouble

COMMAND = [sys.executable, "-m", "ansible_collections.sluice.deploy.plugins.modules.stripe"]
DESCRIPTION = json.loads((CHECKOUT / "tests/standins/stripe_openapi.json").read_text(encoding="utf-8"))
PUBLIC = "https://wallet.test"
HOOK, CALLBACK = "/api/business/wallet/webhook", "/api/business/stripe/callback"
EVENTS = ["payment_intent.succeeded", "payment_intent.payment_failed", "payment_method.attached", "payment_method.detached"]
ADVISED = ["charge.refunded", "charge.dispute.created"]
CLIENT = "ca_" + "C" * 32


@pytest.fixture
def stripe() -> Iterator[Stripe]:
    with Stripe().running() as standin:
        yield standin


class Shop:
    """An app with everything in order at Stripe, and its environment file."""

    def __init__(self, stripe: Stripe, folder: Path, mode: str = "live") -> None:
        self.stripe, self.mode = stripe, mode
        self.path = folder / "shop.env"
        self.account = stripe.account()
        self.values = {
            "STRIPE_SECRET_KEY": stripe.key(self.account, "sk", mode),
            "STRIPE_PUBLISHABLE_KEY": stripe.key(self.account, "pk", mode),
            "STRIPE_WEBHOOK_SECRET": "whsec_" + "w" * 32,
            "STRIPE_CONNECT_CLIENT_ID": CLIENT,
        }
        stripe.endpoint(self.account, PUBLIC + HOOK, [*EVENTS, *ADVISED], mode)
        stripe.event(self.account, EVENTS[0], delivered=True, mode=mode)
        stripe.clients[CLIENT] = {PUBLIC + CALLBACK}

    def judge(self, **changed: Any) -> dict[str, Any]:
        """Run the module and return its result; no value of the environment is in it, nor was anything written at Stripe's."""
        self.path.touch(mode=0o600)
        self.path.write_text("".join(f"{name}='{value}'\n" for name, value in self.values.items()), encoding="utf-8")
        words = {
            "env_file": str(self.path),
            "mode": self.mode,
            "public_url": PUBLIC,
            "webhooks": [{"path": HOOK, "events": EVENTS}],
            "client_id_var": "STRIPE_CONNECT_CLIENT_ID",
            "redirect_path": CALLBACK,
            "api_base": self.stripe.url,
            "connect_base": self.stripe.url,
            **changed,
        }
        env = {**os.environ, "PYTHONPATH": str(CHECKOUT / ".venv/collections")}
        done = subprocess.run(COMMAND, input=json.dumps({"ANSIBLE_MODULE_ARGS": words}), env=env, capture_output=True, text=True, timeout=60, check=False)
        assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
        assert not [name for name, value in self.values.items() if value in done.stdout + done.stderr]
        assert self.stripe.writes == []
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def gates(self, **changed: Any) -> dict[str, dict[str, Any]]:
        result = self.judge(**changed)
        assert not result.get("failed"), result
        assert not result["changed"]
        return {gate["name"]: gate for gate in result["gates"]}

    def bad(self, **changed: Any) -> dict[str, str]:
        """Return the sentences of the gates that neither pass nor only warn."""
        return {name: gate["sentence"] for name, gate in self.gates(**changed).items() if gate["verdict"] != "pass" and gate.get("severity") != "warn"}


@pytest.fixture
def shop(stripe: Stripe, tmp_path: Path) -> Shop:
    return Shop(stripe, tmp_path)


def test_a_shop_in_order_passes_every_gate(shop: Shop) -> None:
    gates = shop.gates(account=shop.account)
    assert {name: gate["verdict"] for name, gate in gates.items()} == {
        "stripe variables": "pass",
        "stripe mode": "pass",
        "stripe one account": "pass",
        "stripe key": "pass",
        "stripe account": "pass",
        f"stripe webhook {HOOK}": "pass",
        "stripe deliveries": "pass",
        # A redirect address that is registered cannot be told from one that is not looked at.
        "stripe connect": "inconclusive",
    }
    assert gates["stripe connect"]["severity"] == "warn"
    assert gates["stripe account"]["value"] == shop.account
    assert set(shop.stripe.asked.values()) == {1}


def test_test_mode_is_asked_for_as_such(stripe: Stripe, tmp_path: Path) -> None:
    shop = Shop(stripe, tmp_path, "test")
    stripe.accounts[shop.account]["charges_enabled"] = False
    assert shop.bad() == {}
    shop.mode = "live"
    assert set(shop.bad()) == {"stripe mode", "stripe key", "stripe account", f"stripe webhook {HOOK}"}


def test_everything_wrong_is_told_in_one_run(shop: Shop) -> None:
    stripe = shop.stripe
    stripe.accounts[shop.account].update(payouts_enabled=False)
    stripe.accounts[shop.account]["requirements"]["currently_due"] = ["external_account"]
    stripe.endpoints[0][1].update(status="disabled", enabled_events=EVENTS[:3])
    stripe.event(shop.account, EVENTS[0], delivered=False, age=7200)
    stripe.event(shop.account, EVENTS[1], delivered=False, age=60)
    stripe.clients[CLIENT] = {"https://wallet.test/elsewhere"}
    shop.values["STRIPE_PUBLISHABLE_KEY"] = stripe.key(stripe.account(), "pk")
    bad = shop.bad()
    assert set(bad) == {"stripe one account", "stripe account", f"stripe webhook {HOOK}", "stripe deliveries", "stripe connect"}
    assert bad["stripe account"].endswith("it may not pay out; Stripe asks for external_account")
    assert bad[f"stripe webhook {HOOK}"] == f"{PUBLIC}{HOOK} is disabled; it is not told of {EVENTS[3]}"
    assert bad["stripe deliveries"].startswith(f"1 events were not delivered, the oldest 120 minutes ago: {EVENTS[0]}")
    assert shop.gates(max_undelivered=1)["stripe deliveries"]["verdict"] == "pass"


def test_a_key_that_was_rolled_fails_once(shop: Shop) -> None:
    shop.stripe.keys.clear()
    gates = shop.gates()
    assert gates["stripe key"]["verdict"] == "fail"
    assert "(401)" in gates["stripe key"]["sentence"]
    assert "stripe account" not in gates


def test_a_restricted_key_says_what_it_lacks_and_does_not_stop(shop: Shop) -> None:
    shop.values["STRIPE_SECRET_KEY"] = shop.stripe.key(shop.account, "rk", permissions={PERMISSIONS["/v1/balance"]})
    gates = shop.gates(account=shop.account)
    warned = {name: gate["sentence"] for name, gate in gates.items() if gate.get("severity") == "warn" and name != "stripe connect"}
    assert set(warned) == {"stripe account", "stripe webhook endpoints", "stripe deliveries"}
    for name, path in (("stripe account", "/v1/account"), ("stripe webhook endpoints", "/v1/webhook_endpoints"), ("stripe deliveries", "/v1/events")):
        assert f"needs {PERMISSIONS[path]} (403)" in warned[name]
    # The refusal names the account, so a foreign one is found all the same.
    foreign = shop.stripe.account()
    assert "not of" in shop.bad(account=foreign)["stripe account"]


def test_trouble_that_passes_is_waited_for(shop: Shop) -> None:
    shop.stripe.trouble = {
        "/v1/balance": [Trouble(429, {"Retry-After": "1"}), Trouble()],
        "/v1/account": [Trouble(500), Trouble(503), Trouble()],
    }
    began = time.monotonic()
    assert shop.bad() == {}
    assert time.monotonic() - began >= 1
    assert shop.stripe.asked["/v1/balance"] == 2
    assert shop.stripe.asked["/v1/account"] == 3


def test_trouble_that_stays_is_unclear_within_the_deadline(shop: Shop) -> None:
    shop.stripe.trouble = {
        "/v1/balance": [Trouble(429, {"Retry-After": "3600"})],
        "/v1/account": [Trouble(delay=5)],
        "/v1/webhook_endpoints": [Trouble(503, {"Stripe-Should-Retry": "false"})],
        "/v1/events": [Trouble(500)],
    }
    began = time.monotonic()
    gates = shop.gates(deadline=1.5, timeout=0.4)
    assert time.monotonic() - began < 20
    for name in ("stripe key", "stripe account", "stripe webhook endpoints", "stripe deliveries"):
        assert gates[name]["verdict"] == "inconclusive", gates[name]
        assert "severity" not in gates[name]
    assert "too many requests (429), asked 1 times" in gates["stripe key"]["sentence"]
    assert "timed out" in gates["stripe account"]["sentence"]
    assert shop.stripe.asked["/v1/webhook_endpoints"] == 1
    assert shop.stripe.asked["/v1/events"] > 1


def test_questions_are_asked_side_by_side(shop: Shop) -> None:
    shop.stripe.trouble = {path: [Trouble(delay=2)] for path in PERMISSIONS}
    began = time.monotonic()
    assert shop.bad() == {}
    assert time.monotonic() - began < 7, "four answers of two seconds came one after the other"


def test_offline_nothing_is_asked(shop: Shop) -> None:
    assert set(shop.gates(online=False)) == {"stripe variables", "stripe mode", "stripe one account"}
    shop.values["STRIPE_SECRET_KEY"] = shop.values["STRIPE_PUBLISHABLE_KEY"]
    assert shop.bad()["stripe key"].startswith("Stripe was not asked")
    assert shop.stripe.asked == {}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"api_base": "http://api.stripe.test"}, "api_base: http://api.stripe.test is not encrypted, and the key would be sent in clear."),
        ({"api_base": "api.stripe.test"}, "is no address"),
        ({"public_url": ""}, "public_url is missing"),
        ({"webhooks": [{"path": "hook"}]}, "webhooks[0]: path must begin with /."),
        ({"env_file": "/nowhere/shop.env"}, "/nowhere/shop.env is not there."),
    ],
)
def test_bad_input_is_refused_before_anything_is_asked(shop: Shop, changed: dict[str, Any], said: str) -> None:
    result = shop.judge(**changed)
    assert result.get("failed")
    assert said in result["msg"]
    assert shop.stripe.asked == {}


def test_a_secret_in_the_place_of_its_name_is_refused_and_not_shown(shop: Shop) -> None:
    result = shop.judge(webhooks=[{"path": HOOK, "secret_var": "STRIPE_HOOK"}])
    assert "STRIPE_HOOK is missing" in json.dumps(result)
    words = {"env_file": str(shop.path), "mode": "live", "client_id_var": "whsec_0123456789"}
    done = subprocess.run(
        COMMAND,
        input=json.dumps({"ANSIBLE_MODULE_ARGS": words}),
        env={**os.environ, "PYTHONPATH": str(CHECKOUT / ".venv/collections")},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert json.loads(done.stdout)["msg"].startswith("client_id_var must be the name of a variable, never its value.")


# The stand-in itself: its answers have the shapes Stripe describes, and Stripe's own library reads them.


def valid(path: str, code: str, answer: dict[str, Any]) -> None:
    jsonschema.Draft4Validator({**DESCRIPTION["paths"][path]["answers"][code], "$defs": DESCRIPTION["$defs"]}).validate(answer)


def ask(shop: Shop, path: str, query: str = "") -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"{shop.stripe.url}{path}{query}", headers={"Authorization": f"Bearer {shop.values['STRIPE_SECRET_KEY']}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("path", sorted(PERMISSIONS))
def test_the_stand_in_answers_in_the_shapes_of_stripes_description(shop: Shop, path: str) -> None:
    shop.stripe.event(shop.account, EVENTS[0], delivered=False)
    status, answer = ask(shop, path)
    assert status == 200
    valid(path, "200", answer)
    shop.values["STRIPE_SECRET_KEY"] = shop.stripe.key(shop.account, "rk", permissions=set())
    for wanted in (403, 429):
        status, answer = ask(shop, path)
        assert status == wanted
        valid(path, "default", answer)
        shop.stripe.trouble[path] = [Trouble(429)]
    with pytest.raises(jsonschema.ValidationError):
        valid(path, "200", {**answer, "object": "something else"})


def test_the_module_asks_only_what_stripe_describes() -> None:
    for question in questions(1_800_000_000, 24).values():
        path, _mark, query = question.partition("?")
        names = {word.partition("=")[0].partition("%5B")[0] for word in query.split("&") if word}
        assert names <= set(DESCRIPTION["paths"][path]["parameters"]), question


def test_stripes_own_library_reads_the_stand_in(shop: Shop) -> None:
    shop.stripe.event(shop.account, EVENTS[1], delivered=False)
    client = library.StripeClient(shop.values["STRIPE_SECRET_KEY"], base_addresses={"api": shop.stripe.url}, max_network_retries=0)
    assert client.v1.balance.retrieve().livemode is True
    assert client.v1.accounts.retrieve_current().id == shop.account
    (endpoint,) = client.v1.webhook_endpoints.list().data
    assert (endpoint.status, endpoint.url) == ("enabled", PUBLIC + HOOK)
    assert [event.type for event in client.v1.events.list({"delivery_success": False}).data] == [EVENTS[1]]
    assert len(client.v1.events.list().data) == 2
    shop.stripe.trouble["/v1/balance"] = [Trouble(429)]
    with pytest.raises(library.RateLimitError):
        client.v1.balance.retrieve()
    shop.stripe.trouble.clear()
    limited = library.StripeClient(shop.stripe.key(shop.account, "rk", permissions=set()), base_addresses={"api": shop.stripe.url})
    with pytest.raises(library.PermissionError, match="rak_event_read"):
        limited.v1.events.list()
    with pytest.raises(library.AuthenticationError):
        library.StripeClient("sk_live_unknown", base_addresses={"api": shop.stripe.url}).v1.balance.retrieve()
