# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an environment must hold: every variable that is wrong is named at once, and no value is ever shown."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import env
from ansible_collections.sluice.deploy.plugins.module_utils.core.env import Rule
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from hypothesis import given
from hypothesis import strategies as st

KEY = "A1" * 12
EXAMPLE = "Example: app_env: {DATABASE_URL: {kind: postgres-url}, SENTRY_DSN: {required: false}}"
KINDS = "any, boolean, integer, url, postgres-url, redis-url, hex, stripe-secret, stripe-publishable, stripe-webhook"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("any", "x"),
        ("any", "-----BEGIN KEY-----\nabc\n-----END KEY-----"),
        ("boolean", "true"),
        ("boolean", "0"),
        ("integer", "-12"),
        ("url", "https://pay.test/path?a=b"),
        ("url", "http://localhost:3000"),
        ("postgres-url", "postgresql://user:pw@db.test:5432/wallet"),
        ("postgres-url", "postgres://user@db/wallet"),
        ("postgres-url", "postgresql+psycopg://user@db/wallet"),
        ("redis-url", "rediss://cache.test:6379/0"),
        ("hex", "0123456789abcdefABCDEF"),
        ("stripe-secret", f"sk_live_{KEY}"),
        ("stripe-secret", f"rk_test_{KEY}"),
        ("stripe-publishable", f"pk_live_{KEY}"),
        ("stripe-webhook", f"whsec_{KEY}"),
    ],
)
def test_a_good_value_passes(kind: str, value: str) -> None:
    gate = env.judge([Rule("NAME", kind)], {"NAME": value}, "/srv/app.env")
    assert (gate.verdict, gate.sentence) == ("pass", "1 variables of /srv/app.env are as they should be")


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("any", "", "NAME is missing"),
        ("any", " x", "NAME has stray quotes or white space around its 2 characters"),
        ("any", "'x'", "NAME has stray quotes or white space around its 3 characters"),
        ("any", "change-me", "NAME still holds a placeholder"),
        ("any", "xxxx", "NAME still holds a placeholder"),
        ("any", "<secret>", "NAME still holds a placeholder"),
        ("url", "https://example.com/hook", "NAME still holds a placeholder"),
        ("boolean", "maybe", "NAME (5 characters) is not true or false"),
        ("integer", "12.5", "NAME (4 characters) is not a whole number"),
        ("integer", "twelve", "NAME (6 characters) is not a whole number"),
        ("url", "ftp://a", "NAME (7 characters) is not a URL such as https://example.org"),
        ("postgres-url", "mysql://a/b", "NAME (11 characters) is not a URL such as postgresql://user:password@host/database"),
        ("redis-url", "http://a", "NAME (8 characters) is not a URL such as redis://host:6379/0"),
        ("hex", "abc", "NAME (3 characters) is not at least 16 hexadecimal digits"),
        ("stripe-secret", f"pk_live_{KEY}", "NAME (32 characters) is not a key such as sk_live_... or rk_live_..."),
        ("stripe-publishable", f"sk_live_{KEY}", "NAME (32 characters) is not a key such as pk_live_..."),
        ("stripe-webhook", "whsec_", "NAME (6 characters) is not a secret such as whsec_..."),
    ],
)
def test_a_bad_value_is_named(kind: str, value: str, words: str) -> None:
    gate = env.judge([Rule("NAME", kind)], {"NAME": value}, "/srv/app.env")
    assert (gate.verdict, gate.sentence) == ("fail", f"/srv/app.env: {words}")
    assert gate.remedy == "Correct the file on the app host and run preflight again."


def test_a_variable_that_may_be_missing_is_judged_when_it_is_there() -> None:
    rule = Rule("PORT", "integer", required=False)
    assert env.judge([rule], {}, "f").verdict == "pass"
    assert env.judge([rule], {"PORT": "x"}, "f").verdict == "fail"


def test_every_failing_variable_is_named_at_once() -> None:
    gate = env.judge([Rule("A"), Rule("B"), Rule("C", "integer"), Rule("D")], {"B": "fine", "C": "x"}, "f")
    assert gate.sentence == "f: A is missing; C (1 characters) is not a whole number; D is missing"
    assert (gate.value, gate.limit, gate.sample) == (3, 0, 4)


@given(st.sampled_from(sorted(env.KINDS)), st.text("QZJ0123456789'\" <>-", min_size=12, max_size=40))
def test_no_value_is_shown(kind: str, value: str) -> None:
    gate = env.judge([Rule("NAME", kind)], {"NAME": value}, "f")
    assert value.strip("'\" ") not in gate.sentence or not value.strip("'\" ")
    assert value not in str(gate.as_dict())


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"A": {"kimd": "any"}}, "app_env: A has the unknown key kimd; allowed are kind and required."),
        ({"A": {"kind": "uuid"}}, f"app_env: A has the unknown kind 'uuid'; allowed are {KINDS}."),
    ],
)
def test_a_schema_nobody_knows_is_refused(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(SluiceError) as caught:
        env.rules_from(schema)
    assert str(caught.value) == f"{words} {EXAMPLE}"


def test_rules_have_defaults() -> None:
    assert env.rules_from({"A": None, "B": {"kind": "hex"}, "C": {"required": False}}) == [Rule("A"), Rule("B", "hex"), Rule("C", required=False)]
