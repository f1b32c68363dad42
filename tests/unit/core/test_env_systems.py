# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The schemas of the five systems: a whole good environment passes, and each rule of each variable refuses a bad one for its own reason."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.sluice.deploy.plugins.module_utils.core import env
from ansible_collections.sluice.deploy.plugins.module_utils.core.dotenv import render
from ansible_collections.sluice.deploy.plugins.module_utils.core.env import Around
from ansible_collections.sluice.deploy.plugins.module_utils.core.env_compare import take
from ansible_collections.sluice.deploy.plugins.module_utils.core.env_schema import Rule, rules_from

INVENTORIES = Path(__file__).parents[3] / "inventories"
DOMAIN = "vehicleservice.test"
ACCOUNT = "51N3wAcc0untAbCdE"
HEX = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
OTHER_HEX = "4e07408562bedb8b60ce05c1decfe3ad16b72230967de01f640b7e4729b49fce"
FINGERPRINT_KEY = "5a" * 32


def token(**claims: Any) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({"alg": "HS256"}, claims)]
    return ".".join([*parts, "c2lnbmF0dXJl"])


def encoded(text: str) -> str:
    return base64.b64encode(bytes.fromhex(text)).decode()


STRIPE = {
    "STRIPE_SECRET_KEY": f"sk_live_{ACCOUNT}Qm7Zt4Rw9Xc2Lb8Vn5Kd3Hs6",
    "STRIPE_PUBLISHABLE_KEY": f"pk_live_{ACCOUNT}Hs6Kd3Vn5Lb8Xc2Rw9Zt4Qm7",
    "STRIPE_WEBHOOK_SECRET": "whsec_Qm7Zt4Rw9Xc2Lb8Vn5Kd3Hs6Pq",
}
GOOGLE = {"GOOGLE_CLIENT_ID": "407408718192-abc123def456.apps.googleusercontent.com", "GOOGLE_CLIENT_SECRET": "GOCSPX-kT9w2Xq7Lb8Vn5Kd3Hs6Qm7Z"}
SENDGRID = {"SENDGRID_API_KEY": "SG.kT9w2Xq7Lb8Vn5Kd3Hs6Qm.Rw9Xc2Lb8Vn5Kd3Hs6Qm7Zt4Rw9Xc2Lb8Vn5Kd3Hs6Q"}
DATABASE = {"DATABASE_URL": "postgresql://app:kT9w2Xq7Lb8Vn5Kd3Hs6Qm7Zt4@db.vehicleservice.test:5432/postgres"}
GOOD: dict[str, dict[str, str]] = {
    "bookedbarber_release": {name: STRIPE[name] for name in ("STRIPE_SECRET_KEY", "STRIPE_PUBLISHABLE_KEY")} | GOOGLE,
    "bookedbarber_v2": {name: STRIPE[name] for name in ("STRIPE_SECRET_KEY", "STRIPE_PUBLISHABLE_KEY")}
    | {**GOOGLE, **SENDGRID, **DATABASE, "API_URL": "https://api.bookedbarber.com"},
    "sixfb_backend_v2": {
        **STRIPE,
        **GOOGLE,
        **SENDGRID,
        **DATABASE,
        "SECRET_KEY": HEX,
        "JWT_SECRET_KEY": OTHER_HEX,
        "ALLOWED_ORIGINS": "https://bookedbarber.com,https://app.bookedbarber.com",
        "ENVIRONMENT": "production",
        "DEBUG": "False",
        "TWILIO_ACCOUNT_SID": f"AC{HEX[:32]}",
        "TWILIO_AUTH_TOKEN": OTHER_HEX[:32],
        "REDIS_URL": "rediss://:pw@cache.bookedbarber.com:6379/0",
        "SENTRY_DSN": f"https://{HEX[:32]}@o447951.ingest.sentry.io/4505",
        "NEXT_PUBLIC_API_URL": "https://api.bookedbarber.com",
        "NEXT_PUBLIC_STRIPE_PUBLISHABLE_KEY": STRIPE["STRIPE_PUBLISHABLE_KEY"],
        "NEXT_PUBLIC_DEMO_MODE": "false",
        "NODE_ENV": "production",
    },
    "vehicleservice": {
        "NODE_ENV": "production",
        "NEXT_PUBLIC_SITE_URL": f"https://{DOMAIN}",
        "NEXT_PUBLIC_SUPABASE_URL": "https://abcdefghijklmnopqrst.supabase.co",
        "NEXT_PUBLIC_SUPABASE_ANON_KEY": token(role="anon", ref="abcdefghijklmnopqrst"),
        "SUPABASE_SERVICE_ROLE_KEY": token(role="service_role", ref="abcdefghijklmnopqrst"),
        **DATABASE,
        "NEXT_PUBLIC_STRIPE_PUBLISHABLE_KEY": STRIPE["STRIPE_PUBLISHABLE_KEY"],
        "STRIPE_SECRET_KEY": STRIPE["STRIPE_SECRET_KEY"],
        "STRIPE_CONNECT_CLIENT_ID": "ca_Qm7Zt4Rw9Xc2Lb8Vn5Kd3Hs6PqTwUyVb",
        "STRIPE_WEBHOOK_SECRET": STRIPE["STRIPE_WEBHOOK_SECRET"],
        "ENCRYPTION_KEY": encoded(HEX),
        "STATE_SECRET": OTHER_HEX,
        "RESEND_API_KEY": "re_kT9w2Xq7_Lb8Vn5Kd3Hs6Qm7Zt4Rw9Xc2",
        "NEXT_PUBLIC_FROM_EMAIL": f"noreply@{DOMAIN}",
        "DEFAULT_WALLET_BALANCE": "0",
        "AUTO_RECHARGE_ENABLED": "false",
        "AUTO_RECHARGE_THRESHOLD": "100",
        "AUTO_RECHARGE_AMOUNT": "1000",
        "ENABLE_CUSTOM_DOMAINS": "true",
        "ENABLE_AUTO_RECHARGE": "true",
        "ENABLE_MULTI_CURRENCY": "true",
        "LOG_LEVEL": "warn",
        "ENABLE_PERFORMANCE_MONITORING": "true",
        "SENTRY_DSN": f"https://{HEX[:32]}@sentry.io/4505",
        "SENTRY_ENVIRONMENT": "production",
        "RATE_LIMIT_REQUESTS_PER_MINUTE": "100",
        "RATE_LIMIT_BURST": "200",
    },
    "fynlo_pos": {
        **SENDGRID,
        **DATABASE,
        "REDIS_URL": "redis://cache.fynlo.test:6379",
        "SECRET_KEY": HEX,
        "JWT_SECRET_KEY": OTHER_HEX,
        "STRIPE_SECRET_KEY": STRIPE["STRIPE_SECRET_KEY"],
        "SUMUP_API_KEY": "sup_sk_Qm7Zt4Rw9Xc2Lb8Vn5Kd3Hs6",
    },
}
# Of each kind what somebody really puts there by mistake, and what is said of it.
BAD: dict[str, list[tuple[str, str]]] = {
    "free": [("your-value-here", "still is a placeholder")],
    "secret": [("hunter2hunter2", "is shorter than"), ("a1" * 40, "bits of chance"), ("change-me-" * 8, "still is a placeholder")],
    "boolean": [("TODO", "")],
    "integer": [("ten", "")],
    "https-url": [("http://api.bookedbarber.com", ""), ("https://your-api-domain.com", ""), ("https://[production-domain]", "")],
    "origins": [("*", "is a wildcard"), ("http://bookedbarber.com", "does not begin with https://"), ("https://localhost:3000", "this machine itself")],
    "postgres-url": [("mysql://u:p@h/d", "does not begin with postgresql://"), ("postgresql://u:[password]@h:5432/d", "still is a placeholder")],
    "redis-url": [("http://cache:6379", "does not begin with redis://")],
    "hex": [("not hexadecimal at all", "is not an even number of hexadecimal digits"), ("00" * 16, "bits of chance")],
    "base64": [(encoded(HEX)[:40], "exactly 32"), ("*" * 44, "cannot be decoded"), (encoded("00" * 32), "bits of chance")],
    "jwt": [("eyJ[production-anon-key]", ""), ("sb_secret_kT9w2Xq7Lb8Vn5", "is not three parts")],
    "email": [("noreply@[production-domain]", ""), ("noreply", "is not an address")],
    "dsn": [("https://[production-sentry-dsn]@sentry.io/[project]", "still is a placeholder"), ("https://sentry.io/4505", "is not a DSN")],
    "stripe-secret": [
        (STRIPE["STRIPE_SECRET_KEY"].replace("live", "test"), "is a test key where a live key is wanted"),
        (STRIPE["STRIPE_PUBLISHABLE_KEY"], "is a publishable key (pk_) in the slot of"),
        ("sk_live_[production-secret-key]", "still is a placeholder"),
    ],
    "stripe-publishable": [
        (STRIPE["STRIPE_PUBLISHABLE_KEY"].replace("live", "test"), "is a test key where a live key is wanted"),
        (STRIPE["STRIPE_SECRET_KEY"], "is a secret key (sk_) in the slot of"),
        (STRIPE["STRIPE_PUBLISHABLE_KEY"].replace(ACCOUNT, "51Zq8Other0untXyZ"), "another Stripe account"),
    ],
    "stripe-webhook": [(STRIPE["STRIPE_SECRET_KEY"], "is a secret key (sk_) in the slot of"), ("whsec_", "has not the form of")],
    "stripe-client-id": [("acct_1N3wAcc0untAbCdE", "is an account id (acct_) in the slot of")],
}
BY_NAME: dict[str, list[tuple[str, str]]] = {
    "GOOGLE_CLIENT_ID": [("407408718192-abc123def456", "does not fit an id such as")],
    "GOOGLE_CLIENT_SECRET": [("too-short", "does not fit 24 or more")],
    "SENDGRID_API_KEY": [("xkeysib-kT9w2Xq7Lb8Vn5Kd3Hs6Qm", "does not fit a key such as SG.")],
    "TWILIO_ACCOUNT_SID": [(f"SK{HEX[:32]}", "does not fit AC and 32")],
    "RESEND_API_KEY": [("SG.kT9w2Xq7Lb8Vn5Kd3Hs6Qm", "does not fit a key such as re_")],
    "SUMUP_API_KEY": [("sup_pk_Qm7Zt4Rw9Xc2Lb8Vn5Kd3Hs6", "does not fit a key such as sup_sk_")],
    "NEXT_PUBLIC_FROM_EMAIL": [(f"info@{DOMAIN}", "begins with noreply@"), ("noreply@gmail.test", f"a host outside {DOMAIN}")],
    "NEXT_PUBLIC_SITE_URL": [("https://vehicleservice.tes", f"a host outside {DOMAIN}")],
    "NEXT_PUBLIC_API_URL": [("https://api-staging.bookedbarbe.com", "a host outside bookedbarber.com")],
    "ALLOWED_ORIGINS": [("https://bookedbarber.com,https://bookedbarbe.com", "a host outside bookedbarber.com")],
    "NEXT_PUBLIC_SUPABASE_URL": [("https://supabase.vehicleservice.test", "does not fit a URL such as")],
    "API_URL": [("https://api-staging.bookedbarber.com", "is not https://api.bookedbarber.com")],
    "STATE_SECRET": [(OTHER_HEX[:32], "is shorter than 64 characters")],
    "TWILIO_AUTH_TOKEN": [(OTHER_HEX, "holds 32 bytes where exactly 16 are wanted")],
}


def schema_of(system: str) -> dict[str, Any]:
    text = (INVENTORIES / system / "group_vars/all/env.yml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text.replace("{{ vehicleservice_domain }}", DOMAIN))["app_env"]
    return found


RULES = {system: rules_from(schema_of(system)) for system in GOOD}
STAGING = take({"SOMETHING": "else"}, FINGERPRINT_KEY)


def told(system: str, values: dict[str, str], **around: Any) -> dict[str, str]:
    given = {"mode": "live", "staging": STAGING, "now": 1_800_000_000.0, **around}
    gates = env.judge(RULES[system], render(values), "f", Around(**given))
    return {gate.name.replace("environment ", ""): gate.sentence for gate in gates if gate.verdict != "pass"}


def cases(key: str) -> list[Any]:
    """Return system and rule for every variable whose rule has a key."""
    return [pytest.param(system, rule, id=f"{system}-{rule.name}") for system, rules in RULES.items() for rule in rules if getattr(rule, key)]


def bad_values() -> list[Any]:
    found = []
    for system, rules in RULES.items():
        for rule in rules:
            if rule.forbidden:
                continue
            if rule.value is not None:
                tries = [("staging" if isinstance(rule.value, str) and not rule.value.isdigit() else "7", "is not ")] + BY_NAME.get(rule.name, [])
            else:
                tries = BAD[rule.kind] + BY_NAME.get(rule.name, [])
            found += [pytest.param(system, rule, bad, words, id=f"{system}-{rule.name}-{number}") for number, (bad, words) in enumerate(tries)]
    return found


def test_the_schemas_are_those_of_the_inventories() -> None:
    assert {path.name for path in INVENTORIES.iterdir()} == {*GOOD, "sandbox"}


@pytest.mark.parametrize("system", GOOD)
def test_a_whole_good_environment_passes(system: str) -> None:
    assert told(system, GOOD[system]) == {}
    assert set(GOOD[system]) == {rule.name for rule in RULES[system] if not rule.forbidden}


@pytest.mark.parametrize(("system", "rule", "bad", "words"), bad_values())
def test_a_bad_value_is_refused_for_its_reason(system: str, rule: Rule, bad: str, words: str) -> None:
    found = told(system, {**GOOD[system], rule.name: bad})
    assert words in found[rule.name]
    assert rule.row in found[rule.name].rpartition("(")[2]
    assert bad not in str(found) or bad in ("7", "staging", "*", "ten", "noreply", "whsec_", "TODO")


@pytest.mark.parametrize(("system", "rule"), cases("row"))
def test_every_variable_must_be_there_or_may_be_missing(system: str, rule: Rule) -> None:
    values = {name: value for name, value in GOOD[system].items() if name != rule.name and name not in rule.together}
    if rule.forbidden:
        assert "it must not be in this file" in told(system, {**values, rule.name: "x"})[rule.name]
        return
    found = told(system, values)
    assert (rule.name in found and "it is missing" in found[rule.name]) == rule.required
    assert "it is empty" in told(system, {**values, rule.name: ""})[rule.name] if rule.required else True


@pytest.mark.parametrize(("system", "rule"), cases("together"))
def test_what_belongs_together_is_there_together(system: str, rule: Rule) -> None:
    values = {name: value for name, value in GOOD[system].items() if name != rule.name}
    assert "both are there, or none" in told(system, values)[rule.name]


@pytest.mark.parametrize(("system", "rule"), cases("not_staging"))
def test_staging_s_value_is_refused(system: str, rule: Rule) -> None:
    staging = take({rule.name: GOOD[system][rule.name]}, FINGERPRINT_KEY)
    assert "it is the same as in staging" in told(system, GOOD[system], staging=staging)[rule.name]


@pytest.mark.parametrize(("system", "rule"), cases("stable"))
def test_what_is_stable_must_not_change(system: str, rule: Rule) -> None:
    live = take(GOOD[system], FINGERPRINT_KEY)
    assert told(system, GOOD[system], live=live, has_live=True) == {}
    other = encoded(OTHER_HEX) if rule.kind == "base64" else HEX
    assert "it is not the one the live version was started with" in told(system, {**GOOD[system], rule.name: other}, live=live, has_live=True)[rule.name]


@pytest.mark.parametrize(("system", "rule"), cases("differs"))
def test_what_must_differ_differs(system: str, rule: Rule) -> None:
    other = rule.differs[0]
    assert f"it is the same as {other}" in told(system, {**GOOD[system], rule.name: GOOD[system][other]})[rule.name]


@pytest.mark.parametrize(("system", "rule"), cases("equals"))
def test_what_must_be_equal_is_equal(system: str, rule: Rule) -> None:
    other = GOOD[system][rule.name].replace("Hs6", "Hs7")
    assert f"it is not the same as {rule.equals}" in told(system, {**GOOD[system], rule.name: other})[rule.name]


@pytest.mark.parametrize(("system", "rule"), cases("project_of"))
def test_tokens_are_of_the_same_project(system: str, rule: Rule) -> None:
    other = token(role=rule.role, ref="zzzzzzzzzzzzzzzzzzzz")
    assert "its claim ref is not the project of" in told(system, {**GOOD[system], rule.name: other})[rule.name]
    swapped = token(role="anon" if rule.role == "service_role" else "service_role", ref="abcdefghijklmnopqrst")
    assert f"does not carry the role {rule.role}" in told(system, {**GOOD[system], rule.name: swapped})[rule.name]


@pytest.mark.parametrize(("system", "rule"), cases("min_password"))
def test_a_short_password_is_refused(system: str, rule: Rule) -> None:
    short = "postgresql://postgres:kT9w2Xq7%25%40Lb8@db.vehicleservice.test:5432/postgres"
    assert "has a password of 13 characters where 24 are wanted" in told(system, {**GOOD[system], rule.name: short})[rule.name]


@pytest.mark.parametrize(("system", "rule"), cases("server_only"))
def test_what_is_for_the_server_only_is_in_no_public_variable(system: str, rule: Rule) -> None:
    found = told(system, {**GOOD[system], "NEXT_PUBLIC_LEAK": GOOD[system][rule.name]})
    assert f"it holds the value of {rule.name}" in found["NEXT_PUBLIC_LEAK"]


@pytest.mark.parametrize("system", GOOD)
def test_everything_that_is_wrong_is_told_at_once(system: str) -> None:
    wrong = {rule.name: "change-me" for rule in RULES[system] if not rule.forbidden}
    assert set(told(system, wrong)) >= set(wrong) - {rule.name for rule in RULES[system] if rule.value == "change-me"}
