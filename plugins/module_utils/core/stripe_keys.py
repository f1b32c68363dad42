# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Stripe's keys and ids tell by their form alone: what they are, live or test, and the account where it is embedded.

The lengths and the account inside a key are nowhere promised by Stripe. So lengths are wide, and an account is told only where the form carries one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

SECRET, RESTRICTED, ORGANISATION, PUBLISHABLE = "secret", "restricted", "organisation", "publishable"
WEBHOOK, CLIENT_ID, PRICE, ACCOUNT = "webhook", "client-id", "price", "account"
LIVE, TEST = "live", "test"

# Organisation keys come before secret ones: their prefix is longer. Old ones say nothing of the mode.
_FORMS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (ORGANISATION, re.compile(r"sk_org_(?:(?P<mode>live|test)_)?(?P<body>[A-Za-z0-9]{10,247})")),
    (SECRET, re.compile(r"sk_(?P<mode>live|test)_(?P<body>[A-Za-z0-9]{10,247})")),
    (RESTRICTED, re.compile(r"rk_(?P<mode>live|test)_(?P<body>[A-Za-z0-9]{10,247})")),
    (PUBLISHABLE, re.compile(r"pk_(?P<mode>live|test)_(?P<body>[A-Za-z0-9]{10,247})")),
    (WEBHOOK, re.compile(r"whsec_(?P<body>[A-Za-z0-9+/=_-]{10,247})")),
    (CLIENT_ID, re.compile(r"ca_(?P<body>[A-Za-z0-9]{14,64})")),
    (PRICE, re.compile(r"price_(?P<body>[A-Za-z0-9]{14,64})")),
    (ACCOUNT, re.compile(r"acct_(?P<body>[A-Za-z0-9]{14,32})")),
)
_PREFIXES = (
    ("sk_org", ORGANISATION),
    ("sk_", SECRET),
    ("rk_", RESTRICTED),
    ("pk_", PUBLISHABLE),
    ("whsec_", WEBHOOK),
    ("ca_", CLIENT_ID),
    ("price_", PRICE),
    ("acct_", ACCOUNT),
)
_EMBEDDED = re.compile(r"51(?P<account>[A-Za-z0-9]{15})[A-Za-z0-9]{4,}")
_OBJECT = re.compile(r"[0-9][A-Za-z0-9]{5}(?P<tail>[A-Za-z0-9]{10})[A-Za-z0-9]{8}")
WORDS: Mapping[str, str] = {
    SECRET: "a secret key (sk_)",
    RESTRICTED: "a restricted key (rk_)",
    ORGANISATION: "an organisation's key (sk_org)",
    PUBLISHABLE: "a publishable key (pk_)",
    WEBHOOK: "a webhook's signing secret (whsec_)",
    CLIENT_ID: "a Connect client id (ca_)",
    PRICE: "a price id (price_)",
    ACCOUNT: "an account id (acct_)",
}


@dataclass(frozen=True)
class Key:
    """What one key or id is, without its text.

    :param what: one of ``WORDS``.
    :param mode: ``live`` or ``test``; empty where the form does not tell.
    :param account: account id such as ``acct_1...``, where the key embeds it; else empty.
    :param account_tail: last ten characters of the account id, where a price id carries them; else empty.
    """

    what: str
    mode: str = ""
    account: str = ""
    account_tail: str = ""


def read(text: str) -> Optional[Key]:
    """Return what a text is, or None when it has none of Stripe's forms."""
    for what, form in _FORMS:
        match = form.fullmatch(text)
        if match:
            parts = match.groupdict()
            body = parts["body"]
            embedded = _EMBEDDED.fullmatch(body) if what in (SECRET, RESTRICTED, PUBLISHABLE) else None
            carried = _OBJECT.fullmatch(body) if what == PRICE else None
            account = f"acct_1{embedded.group('account')}" if embedded else text if what == ACCOUNT else ""
            return Key(what, parts.get("mode") or "", account, carried.group("tail") if carried else "")
    return None


def looks_like(text: str) -> str:
    """Return what a text begins like (one of ``WORDS``), whatever follows; empty for nothing of Stripe's."""
    return next((what for prefix, what in _PREFIXES if text.startswith(prefix)), "")


def mode_of(text: str) -> str:
    """Return ``live`` or ``test`` for a text that begins like a key of that mode, whatever follows; else nothing."""
    match = re.match(r"(?:sk|rk|pk|sk_org)_(live|test)_", text)
    return match.group(1) if match else ""


def same_account(first: str, second: str) -> Optional[bool]:
    """Tell whether two keys belong to one account; None where a form does not carry it.

    A key against a price is told by ten characters of the account's id, so it is a hint and not a proof.
    """
    one, other = read(first), read(second)
    if not one or not other:
        return None
    if one.account and other.account:
        return one.account == other.account
    for key, priced in ((one, other), (other, one)):
        if key.account and priced.account_tail:
            return key.account[-10:] == priced.account_tail
    return None
