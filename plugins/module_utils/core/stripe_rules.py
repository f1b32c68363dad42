# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Stripe's keys and ids tell without asking Stripe: whether they stand in the right place, are of one mode, and of one account."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, INCONCLUSIVE, PASS, Gate

LIVE, TEST = "live", "test"
SECRET, RESTRICTED, ORGANISATION, PUBLISHABLE, WEBHOOK, CLIENT = (
    "secret key",
    "restricted key",
    "organisation key",
    "publishable key",
    "webhook signing secret",
    "Connect client id",
)
_KEY = re.compile(r"(?P<kind>[srp]k)_(?P<organisation>org_)?(?P<mode>live|test)_(?P<body>[A-Za-z0-9]{10,247})")
_OTHERS = (
    (WEBHOOK, re.compile(r"whsec_[A-Za-z0-9+/=_-]{10,}")),
    (CLIENT, re.compile(r"ca_[A-Za-z0-9]{10,}")),
    ("account id", re.compile(r"acct_[A-Za-z0-9]{10,}")),
    ("price id", re.compile(r"price_[A-Za-z0-9]{10,}")),
)
_KINDS = {"sk": SECRET, "rk": RESTRICTED, "pk": PUBLISHABLE}
_LOOKS = {SECRET: "sk_{mode}_...", PUBLISHABLE: "pk_{mode}_...", WEBHOOK: "whsec_...", CLIENT: "ca_..."}
# Newer keys, about a hundred characters long, begin their body with 51 and what the account's id holds behind acct_1. Undocumented, so what does not
# look like that tells nothing; a short old key may begin with 51 by chance.
_EMBEDDED = re.compile(r"51(?P<account>[A-Za-z0-9]{15})[A-Za-z0-9]{40,}")
# The ids of prices carry the last ten characters of the account's id; undocumented as well.
_PRICE = re.compile(r"\bprice_[0-9][A-Za-z0-9]{5}(?P<account>[A-Za-z0-9]{10})[A-Za-z0-9]{8}\b")
_PUBLIC = ("NEXT_PUBLIC_", "VITE_", "REACT_APP_", "NUXT_PUBLIC_", "GATSBY_", "EXPO_PUBLIC_", "PUBLIC_")


@dataclass(frozen=True)
class Key:
    """What the text of a key tells.

    :param kind: one of the words of this file.
    :param mode: live or test; empty where the text does not tell.
    :param account: id of its account; empty where the text does not tell.
    """

    kind: str
    mode: str = ""
    account: str = ""


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


def warning(name: str, sentence: str, remedy: str) -> Gate:
    """Return a gate that lets a release pass and says what a person should look at."""
    return Gate(name, PASS, f"warning: {sentence}", value="warn", remedy=remedy)


def read_key(value: str) -> Key:
    """Return what a value is; its kind is empty when it is nothing of Stripe's."""
    found = _KEY.fullmatch(value)
    if not found:
        return Key(next((kind for kind, shape in _OTHERS if shape.fullmatch(value)), ""))
    embedded = _EMBEDDED.fullmatch(found.group("body"))
    kind = ORGANISATION if found.group("organisation") else _KINDS[found.group("kind")]
    return Key(kind, found.group("mode"), f"acct_1{embedded.group('account')}" if embedded and kind != ORGANISATION else "")


def check(values: Mapping[str, str], names: Names, mode: str, account: str = "") -> list[Gate]:
    """Return the gates that need no network (S0-033, S2-003..005, S2-015, S3-071..073, S3-079, S3-100..103; M-086). No value is shown.

    :param values: the environment of the app.
    :param mode: ``live`` or ``test``: what this environment must use.
    :param account: id of the account the keys must be of; empty to only compare them with one another.
    """
    # Quotes and spaces are a finding of their own; what stands between them is judged all the same.
    cleaned = {name: value.strip(" \t\r\n\ufeff\"'`") for name, value in values.items()}
    keys = {name: key for name, key in ((name, read_key(value)) for name, value in cleaned.items()) if key.kind}
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
        f"{name} holds a {key.kind}, and what begins with {_prefix(name)} is built into pages for everybody"
        for name, key in keys.items()
        if _prefix(name) and key.kind not in (PUBLISHABLE, CLIENT, "account id", "price id")
    ]
    shared = [name for name in names.webhooks if cleaned.get(name) and sum(cleaned.get(name) == cleaned.get(other) for other in names.webhooks) > 1]
    if shared:
        wrong.append(f"{' and '.join(shared)} hold the same signing secret, and each endpoint has one of its own")
    count = len(keys)
    if wrong:
        remedy = "Copy each from the dashboard again (Developers: API keys, Webhooks), without quotes, into the variable it belongs to."
        return Gate("stripe variables", FAIL, "; ".join(dict.fromkeys(wrong)), value=len(wrong), limit=0, sample=count, remedy=remedy)
    return Gate("stripe variables", PASS, f"{count} variables hold what they should of Stripe's", value=0, limit=0, sample=count)


def _prefix(name: str) -> str:
    return next((prefix for prefix in _PUBLIC if name.startswith(prefix)), "")


def _slots(cleaned: Mapping[str, str], keys: Mapping[str, Key], names: Names, mode: str) -> Iterator[str]:
    """Yield what is missing, or stands where something else belongs."""
    wanted = [
        (names.secret, SECRET),
        *((name, PUBLISHABLE) for name in names.publishable),
        *((name, WEBHOOK) for name in names.webhooks),
        (names.client, CLIENT),
    ]
    for name, kind in wanted:
        if not name or (kind == PUBLISHABLE and not cleaned.get(name)):
            continue
        found, looks = keys.get(name, Key("")).kind, _LOOKS[kind].format(mode=mode)
        if not cleaned.get(name):
            yield f"{name} is missing; it must hold a {kind}, {looks}"
        elif found != kind and not (kind == SECRET and found in (RESTRICTED, ORGANISATION)):
            held = f"a {found}" if found else f"{len(cleaned[name])} characters that are nothing of Stripe's"
            yield f"{name} holds {held}; it must hold a {kind}, {looks}"
    if names.publishable and not any(cleaned.get(name) for name in names.publishable):
        yield f"none of {', '.join(names.publishable)} is set; pages need a publishable key, pk_{mode}_..."


def _modes(keys: Mapping[str, Key], mode: str) -> Gate:
    told = {name: key for name, key in keys.items() if key.mode}
    wrong = [f"{name} holds a {key.kind} of {key.mode} mode" for name, key in told.items() if key.mode != mode]
    if wrong:
        costs = "no payment would be real" if mode == LIVE else "tests would move real money"
        remedy = f"Put the keys of {mode} mode there, or set preflight_stripe_mode to what this environment is for."
        return Gate("stripe mode", FAIL, f"{'; '.join(wrong)}: {costs}", value=len(wrong), limit=0, sample=len(told), remedy=remedy)
    if not told:
        return Gate("stripe mode", INCONCLUSIVE, "no variable holds a key that tells its mode", limit=mode, sample=0, remedy="Set the variables first.")
    return Gate("stripe mode", PASS, f"the keys of {', '.join(told)} are of {mode} mode", value=mode, limit=mode, sample=len(told))


def _accounts(keys: Mapping[str, Key], account: str) -> Gate:
    told = {name: key.account for name, key in keys.items() if key.account}
    expected = account or next(iter(told.values()), "")
    strangers = [f"{name} is of {found}" for name, found in told.items() if found != expected]
    if strangers:
        first = f"they must be of {account}" if account else f"{next(iter(told))} is of {expected}"
        remedy = "Take all keys from one account; pages and server would otherwise not know each other's payments."
        return Gate(
            "stripe one account", FAIL, f"the keys are of several accounts: {first}, {', '.join(strangers)}", limit=expected, sample=len(told), remedy=remedy
        )
    if len(told) < (1 if account else 2):
        return warning(
            "stripe one account", "the text of these keys does not tell whether they are of one account", "Compare the account ids in the dashboard."
        )
    return Gate("stripe one account", PASS, f"the keys of {', '.join(told)} are of {expected}", value=expected, limit=expected, sample=len(told))


def _prices(cleaned: Mapping[str, str], keys: Mapping[str, Key], account: str) -> Iterator[Gate]:
    """Yield a warning for the prices of another account: the rule behind it is observed, not documented."""
    expected = account or next((key.account for key in keys.values() if key.account), "")
    seen = [(name, found.group("account")) for name, value in cleaned.items() for found in _PRICE.finditer(value)]
    if not expected or not seen:
        return
    strangers = sorted({name for name, found in seen if found != expected[-10:]})
    if strangers:
        sentence = f"{', '.join(strangers)} {'names a price' if len(strangers) == 1 else 'name prices'} that seem to be of another account than {expected}"
        yield warning("stripe prices", sentence, "Open the price in the dashboard of that account; a checkout with a foreign price fails.")
    else:
        yield Gate("stripe prices", PASS, f"{len(seen)} price ids are of {expected}", value=len(seen), sample=len(seen))
