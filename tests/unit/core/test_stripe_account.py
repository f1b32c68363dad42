# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Stripe's answers mean, and when a question is asked again; whole conversations are in the tests with the stand-in."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.stripe_account import Endpoint, Reply, Wanted, endpoints_from, judge, pause
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate

NOW = 1_800_000_000
HOOK = "/api/wallet/webhook"
URL = f"https://wallet.test{HOOK}"
EVENTS = ("payment_intent.succeeded", "payment_intent.payment_failed")
WANTED = Wanted("live", "STRIPE_SECRET_KEY", public_url="https://wallet.test", endpoints=(Endpoint(HOOK, EVENTS),))
ACCOUNT = {"id": "acct_1", "charges_enabled": True, "payouts_enabled": True, "details_submitted": True, "requirements": {"currently_due": []}}
ADVICE = ["charge.refunded", "charge.dispute.created"]
ENDPOINT = {"url": URL, "status": "enabled", "livemode": True, "enabled_events": [*EVENTS, *ADVICE], "api_version": None}


def listing(*rows: dict[str, Any], has_more: bool = False) -> Reply:
    return Reply(200, {"object": "list", "data": list(rows), "has_more": has_more})


def verdicts(wanted: Wanted = WANTED, **changed: Reply) -> dict[str, Gate]:
    replies = {"balance": Reply(200, {"livemode": True}), "account": Reply(200, ACCOUNT), "endpoints": listing(ENDPOINT), "events": listing()}
    return {gate.name: gate for gate in judge({**replies, **changed}, wanted, NOW)}


def test_an_account_that_is_ready_passes() -> None:
    assert {gate.verdict for gate in verdicts().values()} == {"pass"}


@pytest.mark.parametrize(
    ("status", "headers", "tries", "wait"),
    [
        (200, {}, 1, None),
        (401, {}, 1, None),
        (403, {}, 1, None),
        (429, {}, 1, 0.25),
        (429, {}, 3, 1.0),
        (500, {}, 2, 0.5),
        (0, {}, 1, 0.25),
        (503, {}, 4, None),
        (429, {"retry-after": "2"}, 1, 2.0),
        (503, {"Retry-After": "Sat, 21 Nov 2026 10:00:00 GMT"}, 1, 0.25),
        (500, {"Stripe-Should-Retry": "false"}, 1, None),
        (409, {"stripe-should-retry": "true"}, 1, 0.25),
    ],
)
def test_a_question_is_asked_again_where_it_helps(status: int, headers: dict[str, str], tries: int, wait: Any) -> None:
    assert pause(status, headers, tries) == wait


@pytest.mark.parametrize(
    ("reply", "verdict", "severity", "said"),
    [
        (Reply(403, {"error": {"message": "... Having the 'rak_balance_read' permission would ..."}}), "inconclusive", "warn", "needs rak_balance_read (403)"),
        (Reply(403), "inconclusive", "warn", "needs Balance: read"),
        (Reply(429, tries=4), "inconclusive", "", "too many requests (429), asked 4 times"),
        (Reply(503), "inconclusive", "", "status 503"),
        (Reply(0, error="no answer from it: timed out"), "inconclusive", "", "timed out"),
        (Reply(404), "error", "", "status 404"),
        (Reply(200), "error", "", "no JSON"),
        (Reply(200, {"object": "balance"}), "error", "", "no livemode"),
        (Reply(200, {"livemode": False}), "fail", "", "test mode"),
    ],
)
def test_each_kind_of_answer_has_its_meaning(reply: Reply, verdict: str, severity: str, said: str) -> None:
    gate = verdicts(balance=reply)["stripe key"]
    assert (gate.verdict, gate.severity) == (verdict, severity)
    assert said in gate.sentence
    assert gate.remedy


def test_a_key_that_is_not_known_is_told_once() -> None:
    found = verdicts(events=Reply(401, {"error": {"message": "Invalid API Key provided: sk_live_abcd"}}))
    assert list(found) == ["stripe key"]
    assert "(401)" in found["stripe key"].sentence
    assert "abcd" not in str(found)


def test_what_an_account_lacks_is_named() -> None:
    lacking = {**ACCOUNT, "payouts_enabled": False, "requirements": {"disabled_reason": "listed", "past_due": ["a"], "currently_due": ["b", "a"]}}
    gate = verdicts(account=Reply(200, lacking))["stripe account"]
    assert gate.verdict == "fail"
    assert gate.sentence == "acct_1: it may not pay out; it is disabled (listed); Stripe asks for a, b"
    test = Wanted("test", "STRIPE_SECRET_KEY")
    assert verdicts(test, account=Reply(200, lacking))["stripe account"].severity == "warn"


def test_a_refusal_names_the_account_too() -> None:
    refusal = Reply(403, {"error": {"message": "... on account 'acct_1Other'. Having the 'rak_x_read' permission ..."}})
    gate = verdicts(Wanted("live", "STRIPE_SECRET_KEY", account="acct_1Mine"), account=refusal)["stripe account"]
    assert gate.verdict == "fail"
    assert "acct_1Other, not of acct_1Mine" in gate.sentence


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"status": "disabled"}, "is disabled"),
        ({"livemode": False}, "endpoint of test mode"),
        ({"enabled_events": [EVENTS[0]]}, "not told of payment_intent.payment_failed"),
        ({"url": URL + "/"}, "differs in scheme, port or a slash"),
        ({"url": URL.replace("https", "http")}, "differs in scheme"),
        ({"url": f"https://walet.test{HOOK}"}, "has that path on another host"),
        ({"url": "https://wallet.test/other"}, f"there is no endpoint {URL} among 1"),
    ],
)
def test_what_is_wrong_with_an_endpoint_is_named(changed: dict[str, Any], said: str) -> None:
    gate = verdicts(endpoints=listing({**ENDPOINT, **changed}))[f"stripe webhook {HOOK}"]
    assert gate.verdict == "fail"
    assert said in gate.sentence
    assert "STRIPE_WEBHOOK_SECRET" in gate.remedy


@pytest.mark.parametrize("url", ["https://WALLET.test/api/wallet/webhook", "https://wallet.test:443/api/wallet/webhook"])
def test_spellings_of_one_address_are_one(url: str) -> None:
    assert verdicts(endpoints=listing({**ENDPOINT, "url": url}))[f"stripe webhook {HOOK}"].verdict == "pass"


def test_an_endpoint_there_twice_fails_unless_one_is_off() -> None:
    assert "2 times" in verdicts(endpoints=listing(ENDPOINT, ENDPOINT))[f"stripe webhook {HOOK}"].sentence
    assert verdicts(endpoints=listing({**ENDPOINT, "status": "disabled"}, ENDPOINT))[f"stripe webhook {HOOK}"].verdict == "pass"


def test_every_event_is_a_star_and_missing_advice_is_a_warning() -> None:
    assert f"stripe webhook {HOOK} events" not in verdicts(endpoints=listing({**ENDPOINT, "enabled_events": ["*"]}))
    found = verdicts(endpoints=listing({**ENDPOINT, "enabled_events": list(EVENTS)}))
    assert found[f"stripe webhook {HOOK}"].verdict == "pass"
    assert found[f"stripe webhook {HOOK} events"].severity == "warn"


def test_a_pinned_version_must_be_that() -> None:
    wanted = Wanted("live", "K", public_url="https://wallet.test", endpoints=(Endpoint(HOOK, (), "2024-06-20"),))
    assert "of the account" in verdicts(wanted)[f"stripe webhook {HOOK}"].sentence
    assert verdicts(wanted, endpoints=listing({**ENDPOINT, "api_version": "2024-06-20"}))[f"stripe webhook {HOOK}"].verdict == "pass"


def test_undelivered_events_of_the_app_fail_and_others_do_not_count() -> None:
    rows = [{"type": EVENTS[0], "created": NOW - 7200}, {"type": "customer.created", "created": NOW - 9000}]
    gate = verdicts(events=listing(*rows))["stripe deliveries"]
    assert (gate.verdict, gate.value) == ("fail", 1)
    assert "the oldest 120 minutes ago: payment_intent.succeeded" in gate.sentence
    assert verdicts(events=listing(rows[1]))["stripe deliveries"].verdict == "pass"
    assert verdicts(events=listing(rows[1], has_more=True))["stripe deliveries"].verdict == "inconclusive"
    # Where another endpoint is told as well, it may be the one that fails.
    other = {**ENDPOINT, "url": "https://books.test/hook"}
    assert verdicts(events=listing(*rows), endpoints=listing(ENDPOINT, other))["stripe deliveries"].severity == "warn"


@pytest.mark.parametrize(
    ("reply", "verdict", "severity"),
    [
        (Reply(400, {"error": "invalid_redirect_uri"}), "fail", ""),
        (Reply(400, {"error": {"code": "invalid_redirect_uri"}}), "fail", ""),
        (Reply(401, {"error": "invalid_client"}), "fail", ""),
        (Reply(302), "inconclusive", "warn"),
        (Reply(200, {"error": "something_new"}), "inconclusive", "warn"),
        (Reply(0, error="timed out"), "inconclusive", "warn"),
    ],
)
def test_connect_is_believed_only_when_it_refuses(reply: Reply, verdict: str, severity: str) -> None:
    wanted = Wanted("live", "STRIPE_SECRET_KEY", public_url="https://wallet.test", redirect="/callback")
    gate = verdicts(wanted, redirect=reply)["stripe connect"]
    assert (gate.verdict, gate.severity) == (verdict, severity)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([{"path": HOOK, "url": "x"}], "unknown key url"),
        ([{"path": "hook"}], "path must begin with /"),
        ([{"path": HOOK, "events": "all"}], "events must be a list"),
        ([{"path": HOOK, "secret_var": "whsec_1/2"}], "the name of a variable, never its value"),
        ([{"path": HOOK, "secret_var": "whsec_1234567890"}], "never its value"),
        (["hook"], "webhooks[0] must be a mapping"),
    ],
)
def test_bad_endpoints_are_refused_by_name(given: Any, said: str) -> None:
    with pytest.raises(SluiceError, match=said.replace("[", r"\[")) as refused:
        endpoints_from(given)
    assert "Example" in refused.value.remedy
    assert "whsec_1" not in str(refused.value)
