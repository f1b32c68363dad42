# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The source's hygiene: what is found and what is not, and no secret in any sentence."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import hygiene, reports
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.hygiene import Finding

# In two halves, so that no scanner takes them for real ones here.
RANDOM = "h7Gk2Lq9" + "Xw4Zt8Rb5Vn3"
SECRETS = {
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "aws access key": "AKIA" + "Q3EGRTXJ7WMKLPZD",
    "stripe key": "sk_" + "live_51H8sKx" + RANDOM,
    "stripe webhook secret": "whsec_" + RANDOM + RANDOM,
    "github token": "ghp_" + RANDOM + RANDOM,
    "gitlab token": "glpat-" + RANDOM + "ab",
    "slack token": "xoxb-" + RANDOM,
    "sendgrid key": "SG." + RANDOM + "." + RANDOM + RANDOM,
    "resend key": "re_" + "8kQ2xLmP_" + RANDOM + "ab",
    "twilio key": "SK" + "8f3a91c2" * 4,
    "google key": "AIza" + RANDOM + RANDOM[:15],
    "npm token": "npm_" + (RANDOM + RANDOM)[:36],
    "pypi token": "pypi-" + "AgEI" + RANDOM * 3,
    "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9." + "eyJyb2xlIjoic2VydmljZV9yb2xlIn0." + RANDOM,
}


def kinds(path: str, text: str) -> list[tuple[int, str]]:
    return [(found.line, found.kind) for found in hygiene.scan(path, text)]


@pytest.mark.parametrize("kind", hygiene._KEYS)
def test_each_known_shape_is_found_and_never_repeated(kind: str) -> None:
    secret = SECRETS[kind]
    findings = list(hygiene.scan("src/a.ts", f"// one\nconst a = '{secret}';\n"))
    assert findings == [Finding("src/a.ts", 2, kind)]
    said = json.dumps([gate.as_dict() for gate in hygiene.judge(findings, [], 1, [])])
    assert f"src/a.ts:2 {kind}" in said and secret not in said and RANDOM not in said


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        ("a.ts", f"const apiKey = '{RANDOM}'", ["random value"]),
        (".env.production", f"SESSION_SECRET={RANDOM}", ["random value"]),
        ("a.py", "url = 'postgres://app:" + f"{RANDOM}@db.shop.io/x'", ["url with password"]),
        ("a.py", "url = 'postgres://app:app@localhost/x'", []),
        ("a.ts", "const apiKey = process.env.API_KEY_0123456789", []),
        ("a.ts", "const token = 'password-reset-token-2'", []),
        (".env.example", "SESSION_SECRET=change-me-1234567890abc", []),
        (".env.example", "STRIPE_KEY=sk_" + "test_xxxxxxxxxxxxxxxxxxxx", []),
        ("package-lock.json", f'"token": "{RANDOM}"', []),
        ("tests/a.ts", f"const apiKey = '{RANDOM}'", []),
    ],
)
def test_secrets_and_what_only_looks_like_one(path: str, text: str, found: list[str]) -> None:
    assert [kind for line, kind in kinds(path, text)] == found


def test_code_is_told_from_text() -> None:
    text = "/* console.log(1) */\nconst a = 'console.log(1)'; // console.log(2)\nconst r = /[\"']/;\nconsole.log(a)\ndebugger;\nconst t = `${a} debugger;`\n"
    assert kinds("src/a.js", text) == [(4, "console.log"), (5, "debugger")]
    assert kinds("src/a.test.js", text) == kinds("node_modules/a/a.js", text) == kinds("README.md", text) == []
    assert kinds("a.py", "# breakpoint()\nx = 'pdb.set_trace()'\nbreakpoint()\n") == [(3, "debugger")]


def test_blocks_of_code_in_comments() -> None:
    block = "// const a = 1;\n// if (a) {\n//   run(a);\n// }\n"
    assert kinds("a.ts", f"let b\n{block}") == [(2, "commented-out code")]
    assert kinds("a.ts", "// This explains why a is one,\n// and that b is two.\n// Nothing more.\n") == []
    assert kinds("a.ts", "/**\n * const a = 1;\n * run(a);\n * end(a);\n */\n") == []
    assert kinds("a.py", "# def a():\n#     b = 1\n#     return b\n") == [(1, "commented-out code")]
    gates = {gate.name: gate for gate in hygiene.judge(list(hygiene.scan("a.ts", block)), [], 1, [])}
    assert gates["source commented-out code"].severity == "warn"


def test_what_is_allowed_does_not_stop_and_is_counted() -> None:
    findings = [Finding("scripts/seed.ts", 1, "console.log"), Finding("src/a.ts", 2, "console.log")]
    allowed = hygiene.allowed_from([{"path": "scripts/*", "kind": "console.log", "reason": "for the terminal"}])
    assert hygiene.judge(findings, allowed, 2, [])[0].sentence == "src/a.ts:2 (1 allowed)"
    assert hygiene.judge(findings[:1], allowed, 2, [])[0].verdict == "pass"
    with pytest.raises(SluiceError, match="path, kind and reason"):
        hygiene.allowed_from([{"path": "*", "kind": "jwt"}])
    with pytest.raises(SluiceError, match="knows no kind"):
        hygiene.allowed_from([{"path": "*", "kind": "everything", "reason": "why not"}])


def test_what_was_not_read_is_no_pass() -> None:
    assert {gate.verdict for gate in hygiene.judge([], [], 0, [])} == {"inconclusive"}
    assert hygiene.judge([], [], 3, ["big.sql"])[2].verdict == "inconclusive"


JUNIT = '<testsuite><testcase classname="a.ts"/><testcase classname="b.ts"><failure message="TS2322"/></testcase></testsuite>'


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (None, "inconclusive"),
        ("", "inconclusive"),
        ("a.ts(1,1): something", "inconclusive"),
        (JUNIT, "fail"),
        (JUNIT.replace('<failure message="TS2322"/>', ""), "pass"),
        ("<testsuite/>", "inconclusive"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><testsuite/>', "inconclusive"),
        (json.dumps([{"filePath": "a.ts", "errorCount": 0, "warningCount": 3}]), "pass"),
        (json.dumps([{"filePath": "a.ts", "errorCount": 2}]), "fail"),
        ("[]", "inconclusive"),
        (json.dumps({"a.py": []}), "pass"),
        (json.dumps({"a.py": [{"code": "E501"}]}), "fail"),
        (json.dumps([{"RuleID": "aws", "File": "a.ts", "Secret": RANDOM}]), "fail"),
        (json.dumps({"results": {"a.py": [{"hashed_secret": RANDOM}]}}), "fail"),
        (json.dumps({"results": {}}), "pass"),
        (json.dumps({"some": "thing"}), "inconclusive"),
    ],
)
def test_reports_of_other_tools(text: Any, verdict: str) -> None:
    gate = reports.judge("eslint", "/ci/report", text)
    assert gate.verdict == verdict and RANDOM not in json.dumps(gate.as_dict())
