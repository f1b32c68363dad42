# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof of the webhook as values: what is signed, and what each row of answers means; real apps are asked in the end-to-end tests."""

from __future__ import annotations

import hashlib
import hmac
import json

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Answer
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate
from ansible_collections.sluice.deploy.plugins.module_utils.core.webhook import attempts, diagnosis, event, judge, sign

NOW = 1_800_000_000
SECRET = "whsec_1234567890abcdef"
ALL = ("wrong secret", "stale", "tampered", "unsigned")


def answer(status: int, headers: dict[str, str] | None = None, error: str = "") -> Answer:
    return Answer(status, "", 0.01, headers or {}, error)


def verdict(valid: int | Answer = 200, others: int | Answer = 400, **each: int) -> Gate:
    def made(given: int | Answer) -> Answer:
        return given if isinstance(given, Answer) else answer(given)

    answers = {"valid": made(valid), **{name: made(others) for name in ALL}, **{name.replace("_", " "): made(status) for name, status in each.items()}}
    return judge("webhook /hook", "STRIPE_WEBHOOK_SECRET", answers, "asked at http://127.0.0.1")


def test_the_signature_is_an_hmac_over_time_and_body() -> None:
    wanted = hmac.new(SECRET.encode(), b"1800000000.{}", hashlib.sha256).hexdigest()
    assert sign(SECRET, "{}", NOW) == f"t=1800000000,v1={wanted}"


def test_the_requests_differ_in_what_they_prove() -> None:
    made = {attempt.name: attempt for attempt in attempts(SECRET, event("r-1", "live", NOW), NOW)}
    assert set(made) == {"valid", *ALL}
    data = json.loads(made["valid"].body)
    assert data["livemode"] is True
    assert data["id"] == f"evt_sluice_probe_r-1_{NOW}"
    assert made["valid"].body.startswith('{\n  "id"')
    assert made["tampered"].body != made["valid"].body
    assert made["tampered"].headers["Stripe-Signature"] == made["valid"].headers["Stripe-Signature"]
    assert f"t={NOW - 600}," in made["stale"].headers["Stripe-Signature"]
    assert "Stripe-Signature" not in made["unsigned"].headers
    assert made["wrong secret"].headers["Stripe-Signature"] != made["valid"].headers["Stripe-Signature"]
    # Nothing writes these bytes again by chance, and the bytes of a rewriting app are told apart.
    assert len({made["valid"].body, json.dumps(data, indent=2, ensure_ascii=False), *(each.body for each in diagnosis(SECRET, data, NOW))}) == 4
    assert json.loads(event_of("test"))["livemode"] is False


def event_of(mode: str) -> str:
    return json.dumps(event("x", mode, NOW))


def test_an_app_that_verifies_passes() -> None:
    gate = verdict()
    assert (gate.verdict, gate.value) == ("pass", 5)
    assert verdict(others=403).verdict == "pass"


@pytest.mark.parametrize(
    ("gate", "result", "said"),
    [
        (verdict(others=200), "fail", "it verifies nothing, anybody can tell it that a payment was made"),
        (verdict(stale=200), "fail", "the app takes events that are signed 10 minutes ago"),
        (verdict(tampered=200, unsigned=204), "fail", "changed after it was signed, not signed"),
        (verdict(unsigned=500), "fail", "not signed is answered with 500, not with 400"),
        (verdict(400), "fail", "does not hold the secret in STRIPE_WEBHOOK_SECRET, but that of another endpoint or none"),
        (verdict(400, written_anew_by_JavaScript=200), "fail", "the app checks a body it has written anew by JavaScript"),
        (verdict(400, written_anew_by_Python=200), "fail", "written anew by Python"),
        (verdict(403, 403), "fail", "which a sign-in, CSRF or firewall rule says"),
        (verdict(500), "fail", "the app fails on a type it does not know"),
        (
            verdict(answer(301, {"Location": "https://wallet.test/hook?x=1"}), 301),
            "fail",
            "a redirect (301) to https://wallet.test/hook, and Stripe follows none",
        ),
        (verdict(404, 404), "fail", "nothing at this path (404)"),
        (verdict(405, 405), "fail", "takes no POST (405)"),
        (verdict(413, 413), "fail", "before the app sees it (413)"),
        (verdict(429, 429), "inconclusive", "rate limit"),
        (verdict(unsigned=429), "inconclusive", "an event that is not signed: a rate limit"),
        (verdict(answer(503, {"Sluice-Maintenance": "on"}), 503), "inconclusive", "closed for maintenance"),
        (verdict(502, 502), "inconclusive", "no slot that answers"),
        (verdict(answer(0, error="no answer from 127.0.0.1:1: Connection refused")), "inconclusive", "Connection refused"),
    ],
)
def test_each_row_of_answers_is_named_for_what_it_is(gate: Gate, result: str, said: str) -> None:
    assert gate.verdict == result, gate
    assert said in gate.sentence
    assert gate.remedy


def test_what_stands_in_the_way_is_told_once() -> None:
    assert verdict(404, 404).sentence.count("404") == 1
    # Both an open door and a wrong secret.
    both = verdict(400, unsigned=200)
    assert "does not hold" in both.sentence
    assert "takes events that are not signed" in both.sentence
