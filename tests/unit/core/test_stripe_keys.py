# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Stripe's keys tell by their form alone."""

from __future__ import annotations

from typing import Optional

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import stripe_keys
from ansible_collections.sluice.deploy.plugins.module_utils.core.stripe_keys import Key, looks_like, mode_of, read, same_account

ONE, OTHER = "N3wAcc0untAbCdE", "Zq8Other0untXyZ"
REST = "Qm7Zt4Rw9Xc2Lb8V"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f"sk_live_51{ONE}{REST}", Key("secret", "live", f"acct_1{ONE}")),
        (f"rk_test_51{ONE}{REST}", Key("restricted", "test", f"acct_1{ONE}")),
        (f"pk_live_51{ONE}{REST}", Key("publishable", "live", f"acct_1{ONE}")),
        ("sk_live_4eC39HqLyjWDarjtT1zdp7dc", Key("secret", "live")),
        (f"sk_org_live_{REST}", Key("organisation", "live")),
        (f"sk_org_{REST}", Key("organisation")),
        (f"whsec_{REST}", Key("webhook")),
        (f"ca_{REST}", Key("client-id")),
        (f"price_1AbCdE{ONE[-10:]}Lb8Vn5Kd", Key("price", account_tail=ONE[-10:])),
        ("price_legacyname1234", Key("price")),
        (f"acct_1{ONE}", Key("account", account=f"acct_1{ONE}")),
        ("sk_live_short", None),
        ("sk_live_with-dash-in-it", None),
        (f"sk_live_{REST}\n", None),
        ("mk_1AbCdEfGhIjKlMnOpQrS", None),
        ("", None),
    ],
)
def test_a_key_is_read_by_its_form(text: str, key: Optional[Key]) -> None:
    assert read(text) == key


@pytest.mark.parametrize(
    ("text", "what", "mode"),
    [
        ("sk_org_x", "organisation", ""),
        ("sk_test_", "secret", "test"),
        ("sk_org_live_", "organisation", "live"),
        ("pk_live_x", "publishable", "live"),
        ("x", "", ""),
    ],
)
def test_what_only_begins_like_a_key_is_told_too(text: str, what: str, mode: str) -> None:
    assert (looks_like(text), mode_of(text)) == (what, mode)


def test_accounts_are_compared_where_the_forms_carry_them() -> None:
    secret, price = f"sk_live_51{ONE}{REST}", f"price_1AbCdE{ONE[-10:]}Lb8Vn5Kd"
    assert same_account(secret, f"pk_live_51{ONE}xxxxyyyy") is True
    assert same_account(secret, f"pk_live_51{OTHER}xxxxyyyy") is False
    assert same_account(secret, f"acct_1{ONE}") is True
    assert same_account(secret, price) is True
    assert same_account(price, f"rk_live_51{OTHER}{REST}") is False
    for untold in ("pk_live_4eC39HqLyjWDarjtT1zdp7dc", f"whsec_{REST}", f"ca_{REST}", "nothing", ""):
        assert same_account(secret, untold) is None


def test_every_word_has_a_form() -> None:
    assert set(stripe_keys.WORDS) == {"secret", "restricted", "organisation", "publishable", "webhook", "client-id", "price", "account"}
