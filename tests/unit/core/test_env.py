# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an environment must hold: every variable that is wrong is a gate of its own, and no value is ever shown."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import env
from ansible_collections.sluice.deploy.plugins.module_utils.core.dotenv import render
from ansible_collections.sluice.deploy.plugins.module_utils.core.env import Around
from ansible_collections.sluice.deploy.plugins.module_utils.core.env_compare import take
from ansible_collections.sluice.deploy.plugins.module_utils.core.env_kinds import KINDS, chance, is_placeholder
from ansible_collections.sluice.deploy.plugins.module_utils.core.env_schema import EXAMPLE, Rule, complaints, rules_from
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate
from hypothesis import given
from hypothesis import strategies as st

KEY = "Qm7Zt4Rw9Xc2Lb8Vn5Kd3Hs6"
HEX = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
BYTES = base64.b64encode(bytes.fromhex(HEX)).decode()
NOW = 1_800_000_000.0


def token(**claims: Any) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in ({"alg": "HS256"}, claims)]
    return ".".join([*parts, "c2lnbmF0dXJl"])


def judged(schema: dict[str, Any], values: dict[str, str], **around: Any) -> list[Gate]:
    return env.judge(rules_from(schema), render(values), "/srv/app.env", Around(now=NOW, **around))


def said(schema: dict[str, Any], values: dict[str, str], **around: Any) -> dict[str, str]:
    """Return what is told of each variable that is not right."""
    return {gate.name.replace("environment ", ""): gate.sentence for gate in judged(schema, values, **around) if gate.verdict != "pass"}


GOOD = [
    ("free", "x"),
    ("free", "-----BEGIN KEY-----\nabc\n-----END KEY-----"),
    ("free", "[1, 2]"),
    ("secret", HEX),
    ("secret", "aP<x>9$kq2[Tz]u7Wm!4Lr8^Bn6@Yd3#"),
    ("boolean", "true"),
    ("boolean", "False"),
    ("boolean", "0"),
    ("integer", "-12"),
    ("url", "https://pay.test/path?a=b"),
    ("url", "http://localhost:3000"),
    ("https-url", "https://[2001:db8::1]:8443/"),
    ("origins", "https://shop.test, https://www.shop.test:8443"),
    ("origins", '["https://shop.test"]'),
    ("postgres-url", "postgresql://user:pw@db.test:5432/wallet"),
    ("postgres-url", "postgres://user@db/wallet"),
    ("postgres-url", "postgresql+psycopg://user@db/wallet"),
    ("redis-url", "rediss://:pw@cache.test:6379/0"),
    ("hex", "0123f9a7cE5b8d64"),
    ("base64", BYTES),
    ("base64", BYTES.replace("+", "-").replace("/", "_")),
    ("jwt", token(role="anon", exp=NOW + 60)),
    ("email", "noreply@mail.shop.test"),
    ("dsn", f"https://{HEX[:32]}@o447951.ingest.sentry.io/4505"),
    ("dsn", f"https://{HEX[:32]}@o1.ingest.de.sentry.io/4505"),
    ("dsn", f"https://{HEX[:32]}@errors.shop.test:8443/base/7"),
    ("stripe-secret", f"sk_live_{KEY}"),
    ("stripe-secret", f"rk_test_{KEY}"),
    ("stripe-publishable", f"pk_live_{KEY}"),
    ("stripe-webhook", f"whsec_{KEY}"),
    ("stripe-client-id", f"ca_{KEY}"),
    ("stripe-price", f"price_1{KEY[:23]}"),
]
STRAY, HOLDER = "has stray quotes or white space around it", "still is a placeholder"
BAD = [
    ("free", " x", STRAY),
    ("free", "'x'", STRAY),
    ("free", '"x', STRAY),
    ("free", "\ufeffx", STRAY),
    ("free", "change-me", HOLDER),
    ("free", "your-key-here", HOLDER),
    ("free", "xxxx", HOLDER),
    ("free", "<the secret>", HOLDER),
    ("free", "[production-domain]", HOLDER),
    ("free", "TODO", HOLDER),
    ("free", "${OTHER}", HOLDER),
    ("url", "https://example.com/hook", HOLDER),
    ("https-url", "https://your-api-domain.com", HOLDER),
    ("stripe-secret", "sk_live_...", HOLDER),
    ("boolean", "maybe", "is not true or false"),
    ("integer", "12.5", "is not a whole number"),
    ("integer", "twelve", "is not a whole number"),
    ("url", "ftp://a", "does not begin with https:// or http://"),
    ("url", "https://", "has no host that could be one"),
    ("url", "https://a:99999", "has a port or an address that is none"),
    ("url", "https://a.test/b c", "holds white space or a backslash"),
    ("https-url", "http://shop.test", "does not begin with https://"),
    ("https-url", "https://me:pw@shop.test", "holds a user or a password"),
    ("origins", "https://shop.test,*", "origin 2 is a wildcard"),
    ("origins", "http://shop.test", "origin 1 does not begin with https://"),
    ("origins", "https://shop.test/", "origin 1 has more than scheme, host and port"),
    ("origins", "https://shop.test,https://localhost:3000", "origin 2 is this machine itself"),
    ("postgres-url", "mysql://a/b", "does not begin with postgresql:// or postgres://"),
    ("postgres-url", "postgresql://u:p@h", "names no database"),
    ("postgres-url", "postgresql://u:p@ss@h/d", "has a password with an unescaped @ or /"),
    ("redis-url", "http://a", "does not begin with redis:// or rediss://"),
    ("redis-url", "redis://a/b", "has a database that is no number"),
    ("hex", "abc", "is not an even number of hexadecimal digits"),
    ("hex", "0a1b", "holds 2 bytes where at least 8 are wanted"),
    ("hex", "ab" * 16, "bits of chance where"),
    ("secret", "short", "is shorter than 32 characters"),
    ("secret", "a" * 40, "holds about 0 bits of chance where 64 are wanted"),
    ("secret", "0123456789" * 4, "bits of chance where 64 are wanted"),
    ("secret", "password" * 5, "bits of chance where 64 are wanted"),
    ("secret", "my-secret-key-for-production-2024-00", HOLDER),
    ("base64", "not base64!", "cannot be decoded as base64"),
    ("jwt", "eyJhbGciOi.x", "is not three parts with readable claims"),
    ("jwt", "eyJhbGciOi.eyJyb2xl.x", "is not three parts with readable claims"),
    ("jwt", token(exp=NOW - 1), "is a token that has expired"),
    ("email", "billing@local", "is not an address such as noreply@shop.test"),
    ("email", "Shop <noreply@shop.test>", "is not an address such as noreply@shop.test"),
    ("dsn", "https://sentry.io/4505", "is not a DSN such as"),
    ("dsn", f"https://{HEX[:32]}@o1.ingest.sentry.io/project", "is not a DSN such as"),
    ("stripe-secret", f"pk_live_{KEY}", "is a publishable key (pk_) in the slot of a secret key (sk_) or a restricted key (rk_)"),
    ("stripe-secret", f"sk_org_live_{KEY}", "is an organisation's key (sk_org) in the slot of a secret key (sk_) or a restricted key (rk_)"),
    ("stripe-secret", "sk_live_", "has not the form of a secret key (sk_) or a restricted key (rk_)"),
    ("stripe-publishable", f"sk_live_{KEY}", "is a secret key (sk_) in the slot of a publishable key (pk_)"),
    ("stripe-webhook", "whsec_", "has not the form of a webhook's signing secret (whsec_)"),
    ("stripe-webhook", f"sk_live_{KEY}", "is a secret key (sk_) in the slot of a webhook's signing secret (whsec_)"),
    ("stripe-client-id", "ca-1", "has not the form of a Connect client id (ca_)"),
    ("stripe-price", "prod_1", "has not the form of a price id (price_)"),
]


def test_every_kind_has_good_and_bad_values() -> None:
    plain = set(KINDS) - {"enum"}
    assert {kind for kind, _value in GOOD} == plain
    assert {kind for kind, _value, _words in BAD} == plain


@pytest.mark.parametrize(("kind", "value"), GOOD)
def test_a_good_value_passes(kind: str, value: str) -> None:
    assert env.faults(Rule("NAME", kind, min_length=32 if kind == "secret" else 0), value, Around(now=NOW)) == []


@pytest.mark.parametrize(("kind", "value", "words"), BAD)
def test_a_bad_value_is_named_without_being_shown(kind: str, value: str, words: str) -> None:
    found = "; ".join(env.faults(Rule("NAME", kind, min_length=32 if kind == "secret" else 0), value, Around(now=NOW)))
    assert words in found
    assert value.strip("'\" \ufeff") not in found or len(value) < 12


URL = {"kind": "https-url"}
PRODUCTION = f"postgresql://app:{KEY}@db.shop.test/shop"


@pytest.mark.parametrize(
    ("schema", "good", "bad", "words"),
    [
        ({"A": {"value": "production"}}, {"A": "production"}, {"A": "Production"}, "is not production"),
        ({"A": {"kind": "boolean", "value": False}}, {"A": "False"}, {"A": "1"}, "is not false"),
        ({"A": {"kind": "boolean", "value": "false"}}, {"A": "false"}, {"A": "0"}, "is not false"),
        ({"A": {"pattern": "re_[a-z]+", "looks": "re_ and letters"}}, {"A": "re_x"}, {"A": "rex"}, "does not fit re_ and letters"),
        ({"A": {"min_length": 3}}, {"A": "abc"}, {"A": "ab"}, "is shorter than 3 characters"),
        ({"A": {"entropy": 20}}, {"A": "kT9w2Xq7"}, {"A": "kkkkkkkk"}, "holds about 0 bits of chance where 20 are wanted"),
        ({"A": {"kind": "base64", "bytes": 32}}, {"A": BYTES}, {"A": BYTES[4:]}, "holds 29 bytes where exactly 32 are wanted"),
        ({"A": {"kind": "hex", "bytes": 32}}, {"A": HEX}, {"A": HEX[2:]}, "holds 31 bytes where exactly 32 are wanted"),
        ({"A": {"kind": "postgres-url", "min_password": 24}}, {"A": PRODUCTION}, {"A": "postgresql://a:b%40c@h/d"}, "a password of 3 characters where 24"),
        ({"A": {"kind": "enum", "choices": ["warn", "error"]}}, {"A": "warn"}, {"A": "debug"}, "is none of warn, error"),
        ({"A": {"kind": "jwt", "role": "anon"}}, {"A": token(role="anon")}, {"A": token(role="service_role")}, "does not carry the role anon"),
        ({"A": {"kind": "stripe-secret", "mode": "live"}}, {"A": f"rk_live_{KEY}"}, {"A": f"sk_test_{KEY}"}, "is a test key where a live key is wanted"),
        ({"A": {"kind": "stripe-secret", "keys": ["secret"]}}, {"A": f"sk_live_{KEY}"}, {"A": f"rk_live_{KEY}"}, "a restricted key (rk_) in the slot of"),
        ({"A": {"kind": "stripe-secret", "keys": ["organisation"]}}, {"A": f"sk_org_live_{KEY}"}, {"A": f"sk_live_{KEY}"}, "in the slot of an organisation's"),
        ({"A": {**URL, "domain": "shop.test"}}, {"A": "https://api.shop.test"}, {"A": "https://api.shop.tes"}, "names a host outside shop.test"),
        ({"A": {**URL, "domain": "shop.test"}}, {"A": "https://shop.test."}, {"A": "https://evilshop.test"}, "names a host outside shop.test"),
        ({"A": {"kind": "email", "domain": "shop.test"}}, {"A": "a@shop.test"}, {"A": "a@gmail.test"}, "names a host outside shop.test"),
        ({"A": {"kind": "origins", "domain": "shop.test"}}, {"A": "https://a.shop.test"}, {"A": "https://a.shop.test,https://b.test"}, "outside shop.test"),
        ({"A": {"kind": "postgres-url", "remote": True}}, {"A": PRODUCTION}, {"A": "postgresql://u:p@127.0.0.1/d"}, "names this machine itself"),
        ({"A": {}, "B": {"equals": "A"}}, {"A": "x", "B": "x"}, {"A": "x", "B": "y"}, "it is not the same as A"),
        ({"A": {}, "B": {"differs": ["A"]}}, {"A": "x", "B": "y"}, {"A": "x", "B": "x"}, "it is the same as A"),
        ({"A": {}, "B": {"forbidden": True}}, {"A": "x"}, {"A": "x", "B": "x"}, "it must not be in this file"),
        ({"A": {}, "B": {"required": False}}, {"A": "x"}, {}, "it is missing"),
        ({"A": {}}, {"A": "x"}, {"A": ""}, "it is empty"),
        (
            {"A": {"required": False, "together": ["B"]}, "B": {"required": False, "together": ["A"]}},
            {},
            {"A": "x"},
            "it is missing while A is set: both are there, or none",
        ),
        (
            {"U": {"kind": "url"}, "A": {"kind": "jwt", "project_of": "U"}},
            {"U": "https://abc.supabase.co", "A": token(ref="abc")},
            {"U": "https://abc.supabase.co", "A": token(ref="xyz")},
            "its claim ref is not the project of U",
        ),
        (
            {"S": {"kind": "stripe-secret"}, "P": {"kind": "stripe-publishable"}},
            {"S": f"sk_live_51{KEY}", "P": f"pk_live_51{KEY}"},
            {"S": f"sk_live_51{KEY}", "P": f"pk_live_51{KEY[::-1]}"},
            "it belongs to another Stripe account than S",
        ),
        ({"S": {"kind": "secret"}}, {"S": HEX}, {"S": HEX, "VITE_X": HEX}, "it holds the value of S, which is for the server only"),
        ({"A": {}}, {"A": "x"}, {"A": "x", "NEXT_PUBLIC_X": f"sk_live_{KEY}"}, "it holds a secret key (sk_), and its name gives it to every browser"),
        ({"A": {}}, {"A": "x"}, {"A": "x", "REACT_APP_X": token(role="service_role")}, "a token with the role service_role"),
    ],
)
def test_each_rule_passes_and_fails_for_its_reason(schema: dict[str, Any], good: dict[str, str], bad: dict[str, str], words: str) -> None:
    assert said(schema, good) == {}
    told = said(schema, bad)
    assert len(told) == 1
    assert words in next(iter(told.values()))


def test_every_variable_that_is_wrong_is_a_gate_with_reason_row_and_remedy() -> None:
    schema = {"A": {"row": "S1-001", "why": "Nothing works without it"}, "B": {}, "C": {"kind": "integer"}, "D": {"kind": "hex"}}
    gates = {gate.name: gate for gate in judged(schema, {"B": "fine", "C": "x", "D": "zz"})}
    assert list(gates) == ["environment A", "environment C", "environment D", "environment"]
    assert gates["environment A"].sentence == "it is missing. Nothing works without it (S1-001)"
    assert gates["environment C"].remedy == "Set it to a whole number in the environment file."
    assert gates["environment D"].remedy == "Make one with `openssl rand -hex 32` and put it into the environment file."
    assert (gates["environment"].verdict, gates["environment"].sentence) == ("pass", "1 of 4 variables of /srv/app.env are as they should be")


def test_a_test_key_is_found_in_any_variable() -> None:
    assert "is a test key where a live key is wanted" in said({}, {"ANYTHING": f"rk_test_{KEY}"}, mode="live")["ANYTHING"]
    assert "is a live key where a test key is wanted" in said({}, {"ANYTHING": f"sk_live_{KEY}"}, mode="test")["ANYTHING"]
    assert said({}, {"ANYTHING": f"sk_live_{KEY}"}, mode="live") == {}


def test_staging_s_value_is_known_by_its_fingerprint() -> None:
    schema = {"A": {"kind": "hex", "not_staging": True}}
    staging = take({"A": HEX}, "ab" * 32)
    assert "it is the same as in staging" in said(schema, {"A": HEX}, staging=staging)["A"]
    assert said(schema, {"A": HEX[::-1]}, staging=staging) == {}
    gate = next(gate for gate in judged(schema, {"A": HEX}) if gate.verdict != "pass")
    assert (gate.name, gate.verdict) == ("environment of staging", "inconclusive")


def test_a_stable_value_is_that_of_the_live_version() -> None:
    schema = {"A": {"kind": "base64", "stable": True}}
    live = take({"A": BYTES}, "ab" * 32)
    assert said(schema, {"A": BYTES}, live=live, has_live=True) == {}
    told = said(schema, {"A": BYTES[::-1].strip("=")}, live=live, has_live=True)["A"]
    assert "it is not the one the live version was started with" in told
    assert said(schema, {"A": BYTES}) == {}, "without a live version there is nothing it could differ from"
    gate = next(gate for gate in judged(schema, {"A": BYTES}, has_live=True) if gate.verdict != "pass")
    assert (gate.name, gate.verdict) == ("environment of the live version", "inconclusive")


def test_template_and_platform_have_the_same_names() -> None:
    template = "A=\nB=changeme\nC=x\n"
    told = said({}, {"A": "1", "B": "2", "C": "x"}, template=template)
    assert told == {}
    told = said({}, {"A": "1", "B": "changeme", "D": "x"}, template=template)
    assert told["C"].startswith("the template has it and the file has not")
    assert told["D"].startswith("the file has it and the template has not")
    assert "it still has the template's value" in told["B"]
    platform = take({"A": "1", "B": "2", "C": "3"}, "ab" * 32)
    assert said({}, {"A": "1", "B": "2", "C": "3"}, platform=platform) == {}
    told = said({}, {"A": "1", "B": "x", "D": "4"}, platform=platform)
    assert {name: words.partition(" (")[0] for name, words in told.items()} == {
        "B": "the platform has another value",
        "C": "the platform has it and the file has not",
        "D": "the platform does not have it",
    }


def test_the_spelling_of_the_file_is_judged_too() -> None:
    text = "A=1\nA=2\nhunter2\nB=\"a\\tb\"\nC='x'\nD='a $HOME b'\nE=x#y\n"
    told = {gate.name: gate.sentence for gate in env.judge([], text, "f", Around()) if gate.verdict != "pass"}
    assert list(told) == ["environment line 3", "environment line 7", "environment A", "environment B", "environment D"]
    assert "it stands on lines 1, 2" in told["environment A"]
    assert "node 20 --env-file does not see it; dotenv of npm reads 4 characters; python-dotenv reads 3 characters" in told["environment B"]
    assert "hunter2" not in str(told)


@given(st.sampled_from(sorted(set(KINDS) - {"enum"})), st.text("QZJ0123456789'\" <>-#$\\\n", min_size=12, max_size=40))
def test_no_value_is_shown(kind: str, value: str) -> None:
    around = Around("live", NOW, take({"NAME": value}, "ab" * 32), take({"NAME": "x"}, "ab" * 32), take({"NAME": "y"}, "ab" * 32), True, "OTHER=\n")
    for rule in (Rule("NAME", kind, not_staging=True, stable=True, min_length=99, server_only=True), Rule("NAME", kind, pattern="x", forbidden=True)):
        for text in (render({"NAME": value, "VITE_X": value}), f"NAME={value}\nVITE_X='{value}"):
            gates = env.judge([rule], text, "f", around)
            shown = json.dumps([gate.as_dict() for gate in gates])
            assert json.dumps(value)[1:-1] not in shown
            assert value.strip("'\" ") not in shown or not value.strip("'\" ")


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"kimd": "free"}, "has the unknown key kimd (did you mean kind?); allowed are kind, required,"),
        ({"kind": "uuid"}, f"has the unknown kind 'uuid'; allowed are {', '.join(KINDS)}"),
        ("free", "must be a mapping of keys such as kind and required, not str"),
        ({"required": "yes"}, "has required: yes, which must be true or false"),
        ({"min_length": 0}, "has min_length: 0, which must be a whole number from 1"),
        ({"kind": "enum"}, "is an enum without choices"),
        ({"choices": ["a"]}, "has choices, which kind free does not have; it belongs to enum"),
        ({"kind": "hex", "role": "anon"}, "has role, which kind hex does not have; it belongs to jwt"),
        ({"pattern": "("}, "has a pattern that is no regular expression"),
        ({"kind": "stripe-secret", "mode": "prod"}, "has the mode 'prod'; allowed are live and test"),
        ({"kind": "stripe-secret", "keys": ["public"]}, "allows 'public' in keys; allowed are secret, restricted and organisation"),
        ({"kind": "stripe-secret", "server_only": False}, "such a value never belongs into a browser"),
        ({"equals": "NAME"}, "names itself in equals"),
        ({"differs": ["NONE"]}, "names NONE in differs, which the schema does not hold"),
        ({"equals": "OTHER", "differs": ["OTHER"]}, "must equal OTHER and differ from it"),
        ({"value": True}, "has value: true without quotes and is no boolean"),
        ({"kind": "secret", "value": "x"}, "has its value in the schema, where everybody reads it"),
        ({"kind": "integer", "value": "ten"}, "has a value that is not a whole number, as its kind integer wants"),
        ({"value": "a", "pattern": "b"}, "has a value that its own pattern refuses"),
        ({"value": "a", "min_length": 2}, "has a value shorter than its own min_length"),
        ({"forbidden": True, "required": True}, "is forbidden and has required as well"),
    ],
)
def test_a_schema_that_makes_no_sense_is_refused(given_: Any, words: str) -> None:
    found = complaints({"OTHER": {}, "NAME": given_})
    assert len(found) == 1
    assert found[0].startswith("app_env: NAME ") and words in found[0]


@pytest.mark.parametrize("given_", [{"kind": "stripe-secret"}, {"kind": "hex"}, {"server_only": True}, {"kind": "jwt", "role": "service_role"}])
def test_a_secret_with_a_public_name_is_refused(given_: dict[str, Any]) -> None:
    assert "begins with NEXT_PUBLIC_, which gives it to every browser" in complaints({"NEXT_PUBLIC_X": given_})[0]


def test_every_complaint_of_a_schema_is_told_at_once() -> None:
    with pytest.raises(SluiceError) as caught:
        rules_from({"A": {"kind": "x"}, "B": {"kimd": "y"}, "1C": {}})
    assert [line.split()[1] for line in str(caught.value).splitlines()] == ["A", "B", "1C"]
    assert str(caught.value).endswith(EXAMPLE)


def test_rules_have_defaults() -> None:
    assert rules_from({"A": None, "C": {"required": False}}) == [Rule("A"), Rule("C", required=False)]
    assert rules_from({"B": {"kind": "hex"}, "D": {"kind": "secret"}}) == [
        Rule("B", "hex", server_only=True),
        Rule("D", "secret", min_length=32, server_only=True),
    ]


@given(st.binary(min_size=16, max_size=64))
def test_random_secrets_are_no_placeholders(raw: bytes) -> None:
    """Neither hex nor base64 of anything looks like a template's text."""
    assert not is_placeholder(raw.hex())


@given(st.text("ab12", max_size=60), st.integers(2, 5))
def test_repetition_adds_no_chance(text: str, times: int) -> None:
    assert chance(text * times) == chance(text * (times + 1)) <= 2 * len(text)
