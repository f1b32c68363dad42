# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the text of Stripe's keys tells: one good environment, and each mistake by itself."""

from __future__ import annotations

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.stripe_rules import Names, check, read_key
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate

MINE, THEIRS = "ABCDEabcde12345", "ZYXWVzyxwv98765"
TAIL = "q" * 82
GOOD = {
    "STRIPE_SECRET_KEY": f"sk_live_51{MINE}{TAIL}",
    "STRIPE_PUBLISHABLE_KEY": f"pk_live_51{MINE}{TAIL}",
    "NEXT_PUBLIC_STRIPE_PUBLISHABLE_KEY": f"pk_live_51{MINE}{TAIL}",
    "STRIPE_WEBHOOK_SECRET": "whsec_" + "w" * 32,
    "STRIPE_CONNECT_CLIENT_ID": "ca_" + "C" * 32,
    "STRIPE_PRICE_ID": f"price_1Abcde{MINE[-10:]}12345678",
    "PORT": "3000",
}
NAMES = Names(
    "STRIPE_SECRET_KEY",
    ("STRIPE_PUBLISHABLE_KEY", "NEXT_PUBLIC_STRIPE_PUBLISHABLE_KEY"),
    ("STRIPE_WEBHOOK_SECRET",),
    "STRIPE_CONNECT_CLIENT_ID",
)


def gates(mode: str = "live", account: str = "", names: Names = NAMES, **changed: str) -> dict[str, Gate]:
    """Return the gates by name; no sentence may show a value."""
    values = {name: value for name, value in {**GOOD, **changed}.items() if value}
    found = check(values, names, mode, account)
    said = " ".join(f"{gate.sentence} {gate.remedy}" for gate in found)
    assert not [name for name, value in values.items() if len(value) > 12 and not value.startswith("acct_") and value in said]
    return {gate.name: gate for gate in found}


def test_keys_that_fit_one_another_pass() -> None:
    found = gates()
    assert {name: gate.verdict for name, gate in found.items()} == {
        "stripe variables": "pass",
        "stripe mode": "pass",
        "stripe one account": "pass",
        "stripe prices": "pass",
    }
    assert found["stripe one account"].value == f"acct_1{MINE}"
    assert gates(account=f"acct_1{MINE}")["stripe one account"].verdict == "pass"


@pytest.mark.parametrize("kind", ["rk_live_51", "sk_org_live_51", "sk_org_"])
def test_restricted_and_organisation_keys_are_keys(kind: str) -> None:
    assert gates(STRIPE_SECRET_KEY=f"{kind}{MINE}{TAIL}")["stripe variables"].verdict == "pass"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"STRIPE_SECRET_KEY": ""}, "STRIPE_SECRET_KEY is missing; it must hold a secret key, sk_live_..."),
        ({"STRIPE_SECRET_KEY": GOOD["STRIPE_PUBLISHABLE_KEY"]}, "STRIPE_SECRET_KEY holds a publishable key (pk_)"),
        ({"STRIPE_PUBLISHABLE_KEY": GOOD["STRIPE_SECRET_KEY"]}, "STRIPE_PUBLISHABLE_KEY holds a secret key (sk_)"),
        ({"STRIPE_WEBHOOK_SECRET": GOOD["STRIPE_SECRET_KEY"]}, "STRIPE_WEBHOOK_SECRET holds a secret key (sk_); it must hold a webhook's signing secret"),
        ({"STRIPE_WEBHOOK_SECRET": "secret-of-eleven"}, "STRIPE_WEBHOOK_SECRET holds 16 characters that are nothing of Stripe's"),
        ({"STRIPE_CONNECT_CLIENT_ID": "acct_1" + MINE}, "STRIPE_CONNECT_CLIENT_ID holds an account id"),
        ({"STRIPE_SECRET_KEY": f'"{GOOD["STRIPE_SECRET_KEY"]}"'}, "STRIPE_SECRET_KEY has quotes, spaces or a line break around"),
        ({"STRIPE_WEBHOOK_SECRET": GOOD["STRIPE_WEBHOOK_SECRET"] + "\n"}, "STRIPE_WEBHOOK_SECRET has quotes, spaces"),
        ({"VITE_STRIPE": GOOD["STRIPE_SECRET_KEY"]}, "VITE_STRIPE holds a secret key (sk_), and what begins with VITE_ is built into pages for everybody"),
        ({"NEXT_PUBLIC_HOOK": "whsec_" + "x" * 32}, "NEXT_PUBLIC_HOOK holds a webhook's signing secret (whsec_), and"),
        ({"STRIPE_PUBLISHABLE_KEY": "", "NEXT_PUBLIC_STRIPE_PUBLISHABLE_KEY": ""}, "none of STRIPE_PUBLISHABLE_KEY, NEXT_PUBLIC_"),
    ],
)
def test_what_stands_in_the_wrong_place_is_named(changed: dict[str, str], said: str) -> None:
    gate = gates(**changed)["stripe variables"]
    assert gate.verdict == "fail"
    assert said in gate.sentence
    assert gate.remedy


def test_all_mistakes_are_told_at_once() -> None:
    gate = gates(STRIPE_SECRET_KEY="", STRIPE_WEBHOOK_SECRET="nothing")["stripe variables"]
    assert gate.value == 2
    assert "STRIPE_SECRET_KEY" in gate.sentence
    assert "STRIPE_WEBHOOK_SECRET" in gate.sentence


def test_two_endpoints_have_two_secrets() -> None:
    names = Names("STRIPE_SECRET_KEY", webhooks=("STRIPE_WEBHOOK_SECRET", "STRIPE_CONNECT_WEBHOOK_SECRET"))
    gate = gates(names=names, STRIPE_CONNECT_WEBHOOK_SECRET=GOOD["STRIPE_WEBHOOK_SECRET"])["stripe variables"]
    assert "STRIPE_WEBHOOK_SECRET and STRIPE_CONNECT_WEBHOOK_SECRET hold the same signing secret" in gate.sentence
    assert gates(names=names, STRIPE_CONNECT_WEBHOOK_SECRET="whsec_" + "v" * 32)["stripe variables"].verdict == "pass"


def test_the_mode_is_that_of_the_environment() -> None:
    wrong = gates("test")["stripe mode"]
    assert wrong.verdict == "fail"
    assert "STRIPE_SECRET_KEY holds a secret key (sk_) of live mode" in wrong.sentence
    assert "tests would move real money" in wrong.sentence
    half = gates(NEXT_PUBLIC_STRIPE_PUBLISHABLE_KEY=f"pk_test_51{MINE}{TAIL}")["stripe mode"]
    assert half.value == 1
    assert "no payment would be real" in half.sentence
    # A key nobody named is judged as well.
    assert gates(LEGACY_KEY=f"rk_test_51{MINE}{TAIL}")["stripe mode"].verdict == "fail"


def test_a_mode_that_nothing_tells_is_unclear() -> None:
    gate = gates(STRIPE_SECRET_KEY="", STRIPE_PUBLISHABLE_KEY="", NEXT_PUBLIC_STRIPE_PUBLISHABLE_KEY="")["stripe mode"]
    assert gate.verdict == "inconclusive"


def test_keys_of_two_accounts_are_found() -> None:
    gate = gates(STRIPE_PUBLISHABLE_KEY=f"pk_live_51{THEIRS}{TAIL}")["stripe one account"]
    assert gate.verdict == "fail"
    assert f"STRIPE_PUBLISHABLE_KEY is of acct_1{THEIRS}" in gate.sentence
    other = gates(account=f"acct_1{THEIRS}")["stripe one account"]
    assert other.verdict == "fail"
    assert f"they must be of acct_1{THEIRS}" in other.sentence


def test_older_keys_tell_no_account() -> None:
    old = {name: f"{name_of}_live_51{MINE}abcdefg" for name, name_of in (("STRIPE_SECRET_KEY", "sk"), ("STRIPE_PUBLISHABLE_KEY", "pk"))}
    key = read_key(old["STRIPE_SECRET_KEY"])
    assert key
    assert key.account == ""
    gate = gates(**old, NEXT_PUBLIC_STRIPE_PUBLISHABLE_KEY="")["stripe one account"]
    assert (gate.verdict, gate.severity) == ("inconclusive", "warn")


def test_prices_of_another_account_are_a_warning() -> None:
    gate = gates(PLANS=f"price_1Abcde{THEIRS[-10:]}12345678,price_1Abcde{MINE[-10:]}12345678")["stripe prices"]
    assert (gate.verdict, gate.severity) == ("inconclusive", "warn")
    assert gate.sentence.startswith("PLANS names a price")
    assert "stripe prices" not in gates(STRIPE_PRICE_ID="price_of_the_old_form")
