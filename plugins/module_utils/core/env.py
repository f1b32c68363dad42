# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an environment must hold before it may take real money: every variable that is wrong is a gate of its own, and no value is in any sentence."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Optional
from urllib.parse import urlsplit

from ansible_collections.sluice.deploy.plugins.module_utils.core import dotenv, stripe_keys
from ansible_collections.sluice.deploy.plugins.module_utils.core.dotenv_readers import differences
from ansible_collections.sluice.deploy.plugins.module_utils.core.env_compare import Prints, names_between
from ansible_collections.sluice.deploy.plugins.module_utils.core.env_kinds import KINDS, chance, claims, hosts_of, is_local, is_placeholder, truth
from ansible_collections.sluice.deploy.plugins.module_utils.core.env_schema import Rule, is_public
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, INCONCLUSIVE, PASS, Gate

_BITS = 64  # of chance that a random value of 32 characters and more shows; shorter ones 2 bits a character
_CORRECT = "Correct it in the environment file and run preflight again."


@dataclass(frozen=True)
class Around:
    """What an environment is compared with.

    :param mode: ``live`` or ``test`` for every key of Stripe's; empty to not judge it.
    :param now: seconds since the epoch, for tokens that expire.
    :param staging: fingerprints of staging.
    :param platform: fingerprints of what the platform holds.
    :param live: fingerprints of what the live version was started with; ``has_live`` tells whether there is one.
    :param template: text of a template such as ``.env.example``; empty for none.
    """

    mode: str = ""
    now: float = 0.0
    staging: Optional[Prints] = None
    platform: Optional[Prints] = None
    live: Optional[Prints] = None
    has_live: bool = False
    template: str = ""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one variable, and why it matters."""

    name: str
    what: str
    why: str = ""
    remedy: str = ""
    row: str = ""


def judge(rules: Iterable[Rule], text: str, path: str, around: Around) -> list[Gate]:
    """Return the gates of an environment file: one for each variable that is wrong, and one for the others together."""
    values, problems, twice = dotenv.read(text)
    known = {rule.name: rule for rule in rules}
    found = [
        Finding(f"line {error.facts['line']}", error.message.replace("of the environment file ", ""), "Whoever reads the file reads on at will", error.remedy)
        for error in problems
    ]
    found += spelled(text, twice, values)
    if text or known:
        found += missing(known.values(), values)
    for name, value in values.items():
        rule = known.get(name, Rule(name))
        said = [f"the value ({len(value)} characters) {part}" for part in faults(rule, value, around)] if value else []
        found += [Finding(name, part, rule.why or KINDS_WHY.get(rule.kind, ""), rule_remedy(rule), rule.row) for part in said]
    found += related(known.values(), values, around) + exposed(known.values(), values) + compared(values, around, path)
    gates = [_gate(name, [each for each in found if each.name == name]) for name in dict.fromkeys(each.name for each in found)]
    gates += _untold(known.values(), values, around)
    wrong = {gate.name for gate in gates}
    names = known or values
    good = [name for name in names if f"environment {name}" not in wrong]
    if good or not gates:
        sentence = f"{len(good)} of {len(names)} variables of {path} are as they should be"
        gates.append(Gate("environment", PASS, sentence, value=len(good), limit=len(names), sample=len(names)))
    return gates


KINDS_WHY: Mapping[str, str] = {
    "stripe-secret": "Charges fail or reach no real card",
    "stripe-publishable": "The payment form cannot speak to Stripe",
    "stripe-webhook": "Stripe's events are refused, and payments stay unconfirmed",
    "secret": "Who guesses it can sign and read in the app's name",
    "hex": "Who guesses it can sign and read in the app's name",
    "base64": "What is encrypted with it can be read, or not at all",
    "postgres-url": "The app does not find its database",
}


def rule_remedy(rule: Rule) -> str:
    """Return how a variable is mended."""
    size = rule.bytes or max(32, (rule.min_length + 1) // 2)
    if rule.kind in ("secret", "hex") and not rule.stable:
        return f"Make one with `openssl rand -hex {size}` and put it into the environment file."
    if rule.kind == "base64" and not rule.stable:
        return f"Make one with `openssl rand -base64 {size}` and put it into the environment file."
    return f"Set it to {rule.looks or KINDS[rule.kind].looks} in the environment file." if rule.value is None else f"Set it to {_told(rule.value)}."


def _told(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def faults(rule: Rule, value: str, around: Around) -> list[str]:
    """Return how one value is wrong, each as the end of a sentence."""
    if rule.forbidden:
        return []
    if value != value.strip() or value[:1] in "'\"`" or "\ufeff" in value:
        return ["has stray quotes or white space around it"]
    if rule.value is not None:
        return [] if _is(rule.value, value) else [f"is not {_told(rule.value)}"]
    if is_placeholder(value) and not rule.choices:
        return ["still is a placeholder"]
    wrong = KINDS[rule.kind].wrong(value, rule)
    if wrong:
        return [f"is not {KINDS[rule.kind].looks}" if wrong == "is not so" else wrong]
    found = [f"does not fit {rule.looks or rule.pattern}"] if rule.pattern and not re.fullmatch(rule.pattern, value, re.DOTALL) else []
    if len(value) < rule.min_length:
        found.append(f"is shorter than {rule.min_length} characters")
    if rule.entropy or KINDS[rule.kind].secret:
        bits, wanted = chance(value), rule.entropy or min(_BITS, 2 * len(value))
        if bits < wanted:
            found.append(f"holds about {bits} bits of chance where {wanted} are wanted")
    if rule.domain or rule.remote:
        found += _places(rule, value)
    mode, wanted_mode = stripe_keys.mode_of(value), rule.mode or around.mode
    if mode and wanted_mode and mode != wanted_mode:
        found.append(f"is a {mode} key where a {wanted_mode} key is wanted")
    if rule.kind == "jwt" and float(claims(value).get("exp") or around.now + 1) <= around.now:
        found.append("is a token that has expired")
    return found


def _is(wanted: Any, value: str) -> bool:
    return truth(value) is wanted if isinstance(wanted, bool) else value == wanted


def _places(rule: Rule, value: str) -> list[str]:
    found = []
    for host in hosts_of(rule.kind, value):
        if rule.domain and host != rule.domain and not host.endswith(f".{rule.domain}"):
            found.append(f"names a host outside {rule.domain}")
        if rule.remote and is_local(host):
            found.append("names this machine itself")
    return list(dict.fromkeys(found))


def spelled(text: str, twice: Mapping[str, list[int]], values: Mapping[str, str]) -> list[Finding]:
    """Return what the readers of the file do not read alike, and what is there twice."""
    found = [
        Finding(
            name,
            f"it stands on lines {', '.join(map(str, lines))}",
            "Some readers take the first, some the last",
            "Keep one of them.",
        )
        for name, lines in twice.items()
    ]
    return found + [
        Finding(name, f"it is not read alike: {said}", "The app may run with another value than the one that was judged", "Write the value in single quotes.")
        for name, said in differences(text).items()
        if name in values
    ]


def missing(rules: Iterable[Rule], values: Mapping[str, str]) -> list[Finding]:
    """Return what must be there and is not, and what is there without what belongs to it."""
    found = []
    for rule in rules:
        if rule.forbidden:
            if rule.name in values:
                found.append(Finding(rule.name, "it must not be in this file", rule.why, "Take it out.", rule.row))
            continue
        partners = [name for name in rule.together if values.get(name)]
        if not values.get(rule.name) and (rule.required or partners):
            what = "is empty" if rule.name in values else "is missing"
            because = "" if rule.required else f"while {', '.join(partners)} is set: both are there, or none"
            found.append(Finding(rule.name, f"it {what} {because}".rstrip(), rule.why, rule_remedy(rule), rule.row))
    return found


def related(rules: Iterable[Rule], values: Mapping[str, str], around: Around) -> list[Finding]:
    """Return where variables do not fit one another, staging, or the live version."""
    found = []
    for rule in rules:
        value = values.get(rule.name, "")
        if not value:
            continue
        said: list[tuple[str, str]] = []
        if rule.equals and values.get(rule.equals) != value:
            said.append((f"it is not the same as {rule.equals}", f"Give it the value of {rule.equals}."))
        same = [name for name in rule.differs if values.get(name) == value]
        said += [(f"it is the same as {other}, so whoever learns one has both", rule_remedy(rule)) for other in same]
        if rule.project_of and values.get(rule.project_of) and not _same_project(value, values[rule.project_of]):
            said.append((f"its claim ref is not the project of {rule.project_of}", "Take both from the same project."))
        if rule.not_staging and around.staging and around.staging.holds(rule.name, value):
            said.append(("it is the same as in staging, so whoever reads staging has production", rule_remedy(rule)))
        if rule.stable and around.live and around.live.holds(rule.name, value) is False:
            said.append(
                (
                    "it is not the one the live version was started with, so what was stored with that one can no longer be read",
                    "Put the value of the live version back; to change it, encrypt the stored data anew first.",
                )
            )
        found += [Finding(rule.name, what, rule.why, remedy, rule.row) for what, remedy in said]
    return found + _accounts(rules, values)


def _same_project(token: str, url: str) -> bool:
    try:
        return str(claims(token).get("ref", "")) == (urlsplit(url).hostname or "").partition(".")[0]
    except (ValueError, UnicodeDecodeError):
        return True  # no token at all is told by its kind


def _accounts(rules: Iterable[Rule], values: Mapping[str, str]) -> list[Finding]:
    """Return keys and prices of another Stripe account than the secret key's (M-086)."""
    held = {rule.name: rule for rule in rules if rule.kind.startswith("stripe-") and values.get(rule.name)}
    secret = next((name for name, rule in held.items() if rule.kind == "stripe-secret"), "")
    return [
        Finding(
            name,
            f"it belongs to another Stripe account than {secret}, as far as their forms tell",
            "The payment is begun in one account and confirmed in the other",
            "Take both from the same account.",
            rule.row,
        )
        for name, rule in held.items()
        if secret and name != secret and stripe_keys.same_account(values[secret], values[name]) is False
    ]


def exposed(rules: Iterable[Rule], values: Mapping[str, str]) -> list[Finding]:
    """Return public variables that hold what must never reach a browser."""
    why, remedy = "Everybody who opens the page has it", "Take it out, and change that secret: it may have been published."
    never = {values[rule.name]: rule for rule in rules if rule.server_only and len(values.get(rule.name, "")) >= 8}
    found = []
    for name, value in values.items():
        if not is_public(name):
            continue
        key = stripe_keys.looks_like(value)
        if value in never:
            found.append(Finding(name, f"it holds the value of {never[value].name}, which is for the server only", why, remedy, never[value].row))
        elif key in (stripe_keys.SECRET, stripe_keys.RESTRICTED, stripe_keys.ORGANISATION, stripe_keys.WEBHOOK):
            found.append(Finding(name, f"it holds {stripe_keys.WORDS[key]}, and its name gives it to every browser", why, remedy, "S2-015"))
        elif _role(value) == "service_role":
            found.append(Finding(name, "it holds a token with the role service_role, and its name gives it to every browser", why, remedy, "S3-086"))
    return found


def _role(value: str) -> str:
    try:
        return str(claims(value).get("role", ""))
    except (ValueError, UnicodeDecodeError):
        return ""


def compared(values: Mapping[str, str], around: Around, path: str) -> list[Finding]:
    """Return where the environment is not the template's or the platform's."""
    found = []
    if around.template:
        template, _problems, _twice = dotenv.read(around.template)
        lacking, extra = names_between(template, values)
        found += [Finding(name, "the template has it and the file has not", "", "Add it, or take it out of the template.", "S1-006") for name in lacking]
        found += [Finding(name, "the file has it and the template has not", "", "Add its name to the template, or take it out.", "S1-006") for name in extra]
        same = [name for name, value in template.items() if is_placeholder(value) and values.get(name) == value]
        found += [Finding(name, "it still has the template's value", "", _CORRECT, "S2-018") for name in same]
    if around.platform:
        lacking, extra = names_between(values, around.platform.of)
        found += [Finding(name, "the platform does not have it", "", "Set it there, or take it out of the file.", "S1-021") for name in lacking]
        found += [Finding(name, "the platform has it and the file has not", "", f"Add it to {path}, or remove it there.", "S1-021") for name in extra]
        other = [name for name, value in values.items() if around.platform.holds(name, value) is False]
        found += [Finding(name, "the platform has another value", "", "Bring both to one value.", "S1-021") for name in other]
    return found


def _untold(rules: Iterable[Rule], values: Mapping[str, str], around: Around) -> list[Gate]:
    """Return what cannot be told because there is nothing to compare with."""
    gates = []
    apart = [rule.name for rule in rules if rule.not_staging and values.get(rule.name)]
    if apart and not around.staging:
        remedy = "Run fingerprint.yml on staging and name its file in app_env_staging."
        sentence = f"{', '.join(apart)} cannot be told from staging's: no fingerprints are given"
        gates.append(Gate("environment of staging", INCONCLUSIVE, sentence, remedy=remedy))
    kept = [rule.name for rule in rules if rule.stable and values.get(rule.name)]
    unknown = [name for name in kept if not around.live or name not in around.live.of]
    if unknown and around.has_live:
        sentence = f"whether {', '.join(unknown)} changed cannot be told: the live version's start noted no fingerprints"
        remedy = "Compare by hand with what the live version runs with, and start that version once more through the collection."
        gates.append(Gate("environment of the live version", INCONCLUSIVE, sentence, remedy=remedy))
    return gates


def _gate(name: str, found: list[Finding]) -> Gate:
    rows = ", ".join(dict.fromkeys(each.row for each in found if each.row))
    whys = ". ".join(dict.fromkeys(each.why.rstrip(".") for each in found if each.why))
    sentence = "; ".join(dict.fromkeys(each.what for each in found)).rstrip(".")
    remedies = " ".join(dict.fromkeys(each.remedy for each in found if each.remedy)) or _CORRECT
    return Gate(f"environment {name}", FAIL, f"{sentence}{f'. {whys}' if whys else ''}{f' ({rows})' if rows else ''}", remedy=remedies)
