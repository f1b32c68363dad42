# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an environment must hold before it may take real money: one rule per kind of value, never a value in a message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, PASS, Gate

# kind -> (pattern of a whole value, what it looks like in words)
KINDS: Mapping[str, tuple[str, str]] = {
    "any": (r"(?s:.+)", "anything but empty"),
    "boolean": (r"true|false|1|0|yes|no", "true or false"),
    "integer": (r"[+-]?\d+", "a whole number"),
    "url": (r"https?://[^\s/]+\.?[^\s]*", "a URL such as https://example.org"),
    "postgres-url": (r"postgres(ql)?(\+\w+)?://\S+", "a URL such as postgresql://user:password@host/database"),
    "redis-url": (r"rediss?://\S+", "a URL such as redis://host:6379/0"),
    "hex": (r"[0-9a-fA-F]{16,}", "at least 16 hexadecimal digits"),
    "stripe-secret": (r"[sr]k_(live|test)_[A-Za-z0-9]{10,247}", "a key such as sk_live_... or rk_live_..."),
    "stripe-publishable": (r"pk_(live|test)_[A-Za-z0-9]{10,247}", "a key such as pk_live_..."),
    "stripe-webhook": (r"whsec_[A-Za-z0-9+/=]{10,}", "a secret such as whsec_..."),
}
_PLACEHOLDER = re.compile(r"change[-_ ]?me|your[-_ ]|placeholder|example\.(com|org)|^x{3,}$|<[^>]+>|\[[^\]]+\]", re.IGNORECASE)
_EXAMPLE = "Example: app_env: {DATABASE_URL: {kind: postgres-url}, SENTRY_DSN: {required: false}}"


@dataclass(frozen=True)
class Rule:
    """What one variable must be."""

    name: str
    kind: str = "any"
    required: bool = True


def rules_from(schema: Mapping[str, Any]) -> list[Rule]:
    """Return the rules a schema describes.

    :raises SluiceError: a kind or key is unknown.
    """
    rules = []
    for name, given in schema.items():
        data = given or {}
        unknown = sorted(set(data) - {"kind", "required"})
        if unknown:
            raise SluiceError(f"app_env: {name} has the unknown key {unknown[0]}; allowed are kind and required.", _EXAMPLE)
        if data.get("kind", "any") not in KINDS:
            raise SluiceError(f"app_env: {name} has the unknown kind {data['kind']!r}; allowed are {', '.join(KINDS)}.", _EXAMPLE)
        rules.append(Rule(str(name), str(data.get("kind", "any")), bool(data.get("required", True))))
    return rules


def _wrong(rule: Rule, values: Mapping[str, str]) -> str:
    value = values.get(rule.name, "")
    if not value:
        return f"{rule.name} is missing" if rule.required else ""
    pattern, looks = KINDS[rule.kind]
    if value != value.strip() or value[:1] in "'\"":
        return f"{rule.name} has stray quotes or white space around its {len(value)} characters"
    if _PLACEHOLDER.search(value):
        return f"{rule.name} still holds a placeholder"
    if not re.fullmatch(pattern, value):
        return f"{rule.name} ({len(value)} characters) is not {looks}"
    return ""


def judge(rules: list[Rule], values: Mapping[str, str], path: str) -> Gate:
    """Return one gate over all rules; every failing variable is named at once, no value is shown."""
    wrong = [sentence for sentence in (_wrong(rule, values) for rule in rules) if sentence]
    if wrong:
        return Gate(
            "environment",
            FAIL,
            f"{path}: {'; '.join(wrong)}",
            value=len(wrong),
            limit=0,
            sample=len(rules),
            remedy="Correct the file on the app host and run preflight again.",
        )
    return Gate("environment", PASS, f"{len(rules)} variables of {path} are as they should be", value=0, limit=0, sample=len(rules))
