# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Stripe's keys and ids tell without asking Stripe: whether they stand in the right place, are of one mode, and of one account."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.gates import failed, passed, unknown, warned
from ansible_collections.sluice.deploy.plugins.module_utils.core.stripe_keys import (
    ACCOUNT,
    CLIENT_ID,
    LIVE,
    ORGANISATION,
    PRICE,
    PUBLISHABLE,
    RESTRICTED,
    SECRET,
    WEBHOOK,
    WORDS,
    Key,
    read,
)
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate

_LOOKS = {
    SECRET: "a secret key, sk_{mode}_...",
    PUBLISHABLE: "a publishable key, pk_{mode}_...",
    WEBHOOK: "a webhook's signing secret, whsec_...",
    CLIENT_ID: "a Connect client id, ca_...",
}
_SERVER = (SECRET, RESTRICTED, ORGANISATION)
# The account is told by the newer keys alone, about a hundred characters long; an old one may begin its body with 51 by chance.
_NEWER = 60
_PRICES = re.compile(r"\bprice_[A-Za-z0-9]{14,64}\b")
_PUBLIC = ("NEXT_PUBLIC_", "VITE_", "REACT_APP_", "NUXT_PUBLIC_", "GATSBY_", "EXPO_PUBLIC_", "PUBLIC_")


@dataclass(frozen=True)
class Names:
    """Which variable of the environment holds what; a name that is empty is not looked for.

    :param publishable: each of them is looked at where it is set; one must be.
    :param webhooks: the signing secret of each endpoint.
    """

    secret: str
    publishable: tuple[str, ...] = ()
    webhooks: tuple[str, ...] = ()
    client: str = ""


def read_key(value: str) -> Optional[Key]:
    """Return what a value is of Stripe's, without an account where the key is too short to be sure of it."""
    key = read(value)
    return replace(key, account="") if key and key.what in (*_SERVER, PUBLISHABLE) and len(value) < _NEWER else key


def check(values: Mapping[str, str], names: Names, mode: str, account: str = "") -> list[Gate]:
    """Return the gates that need no network (S0-033, S2-003..005, S2-015, S3-071..073, S3-079, S3-100..103; M-086). No value is shown.

    :param values: the environment of the app.
    :param mode: ``live`` or ``test``: what this environment must use.
    :param account: id of the account the keys must be of; empty to only compare them with one another.
    """
    # Quotes and spaces are a finding of their own; what stands between them is judged all the same.
    cleaned = {name: value.strip(" \t\r\n\ufeff\"'`") for name, value in values.items()}
    keys = {name: key for name, key in ((name, read_key(value)) for name, value in cleaned.items()) if key}
    return [
        _variables(values, cleaned, keys, names, mode),
        _modes(keys, mode),
        _accounts(keys, account),
        *_prices(cleaned, keys, account),
    ]


def _variables(values: Mapping[str, str], cleaned: Mapping[str, str], keys: Mapping[str, Key], names: Names, mode: str) -> Gate:
    wrong = [f"{name} has quotes, spaces or a line break around what it holds" for name in keys if values[name] != cleaned[name]]
    wrong += list(_slots(cleaned, keys, names, mode))
    wrong += [
        f"{name} holds {WORDS[key.what]}, and what begins with {_prefix(name)} is built into pages for everybody"
        for name, key in keys.items()
        if _prefix(name) and key.what not in (PUBLISHABLE, CLIENT_ID, ACCOUNT, PRICE)
    ]
    shared = [name for name in names.webhooks if cleaned.get(name) and sum(cleaned.get(name) == cleaned.get(other) for other in names.webhooks) > 1]
    if shared:
        wrong.append(f"{' and '.join(shared)} hold the same signing secret, and each endpoint has one of its own")
    count = len(keys)
    if wrong:
        remedy = "Copy each from the dashboard again (Developers: API keys, Webhooks), without quotes, into the variable it belongs to."
        return failed("stripe variables", "; ".join(dict.fromkeys(wrong)), remedy, value=len(wrong), limit=0, sample=count)
    return passed("stripe variables", f"{count} variables hold what they should of Stripe's", value=0, limit=0, sample=count)


def _prefix(name: str) -> str:
    return next((prefix for prefix in _PUBLIC if name.startswith(prefix)), "")


def _slots(cleaned: Mapping[str, str], keys: Mapping[str, Key], names: Names, mode: str) -> Iterator[str]:
    """Yield what is missing, or stands where something else belongs."""
    wanted = [
        (names.secret, SECRET),
        *((name, PUBLISHABLE) for name in names.publishable),
        *((name, WEBHOOK) for name in names.webhooks),
        (names.client, CLIENT_ID),
    ]
    for name, kind in wanted:
        if not name or (kind == PUBLISHABLE and not cleaned.get(name)):
            continue
        found, looks = keys.get(name), _LOOKS[kind].format(mode=mode)
        if not cleaned.get(name):
            yield f"{name} is missing; it must hold {looks}"
        elif not found or found.what not in (_SERVER if kind == SECRET else (kind,)):
            held = WORDS[found.what] if found else f"{len(cleaned[name])} characters that are nothing of Stripe's"
            yield f"{name} holds {held}; it must hold {looks}"
    if names.publishable and not any(cleaned.get(name) for name in names.publishable):
        yield f"none of {', '.join(names.publishable)} is set; pages need a publishable key, pk_{mode}_..."


def _modes(keys: Mapping[str, Key], mode: str) -> Gate:
    told = {name: key for name, key in keys.items() if key.mode}
    wrong = [f"{name} holds {WORDS[key.what]} of {key.mode} mode" for name, key in told.items() if key.mode != mode]
    if wrong:
        costs = "no payment would be real" if mode == LIVE else "tests would move real money"
        remedy = f"Put the keys of {mode} mode there, or set preflight_stripe_mode to what this environment is for."
        return failed("stripe mode", f"{'; '.join(wrong)}: {costs}", remedy, value=len(wrong), limit=0, sample=len(told))
    if not told:
        return unknown("stripe mode", "no variable holds a key that tells its mode", "Set the variables first.", limit=mode, sample=0)
    return passed("stripe mode", f"the keys of {', '.join(told)} are of {mode} mode", value=mode, limit=mode, sample=len(told))


def _accounts(keys: Mapping[str, Key], account: str) -> Gate:
    told = {name: key.account for name, key in keys.items() if key.account}
    expected = account or next(iter(told.values()), "")
    strangers = [f"{name} is of {found}" for name, found in told.items() if found != expected]
    if strangers:
        first = f"they must be of {account}" if account else f"{next(iter(told))} is of {expected}"
        remedy = "Take all keys from one account; pages and server would otherwise not know each other's payments."
        sentence = f"the keys are of several accounts: {first}, {', '.join(strangers)}"
        return failed("stripe one account", sentence, remedy, limit=expected, sample=len(told))
    if len(told) < (1 if account else 2):
        return warned("stripe one account", "the text of these keys does not tell whether they are of one account", "Compare the account ids in the dashboard.")
    return passed("stripe one account", f"the keys of {', '.join(told)} are of {expected}", value=expected, limit=expected, sample=len(told))


def _prices(cleaned: Mapping[str, str], keys: Mapping[str, Key], account: str) -> Iterator[Gate]:
    """Yield a warning for the prices of another account: the rule behind it is observed, not documented."""
    expected = account or next((key.account for key in keys.values() if key.account), "")
    prices = [(name, read(text)) for name, value in cleaned.items() for text in _PRICES.findall(value)]
    seen = [(name, price.account_tail) for name, price in prices if price and price.account_tail]
    if not expected or not seen:
        return
    strangers = sorted({name for name, found in seen if found != expected[-10:]})
    if strangers:
        sentence = f"{', '.join(strangers)} {'names a price' if len(strangers) == 1 else 'name prices'} that seem to be of another account than {expected}"
        yield warned("stripe prices", sentence, "Open the price in the dashboard of that account; a checkout with a foreign price fails.")
    else:
        yield passed("stripe prices", f"{len(seen)} price ids are of {expected}", value=len(seen), sample=len(seen))
