# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Results of other tools as artefacts (S4-003 to S4-005): how many errors a report tells, whichever of the known forms it has."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Optional
from xml.etree import ElementTree

from ansible_collections.sluice.deploy.plugins.module_utils.core.gates import comma, failed, passed, plural, unknown
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate

_FORMS = "JUnit, or the JSON of ESLint, flake8-json, gitleaks or detect-secrets"


def judge(name: str, path: str, text: Optional[str]) -> Gate:
    """Judge one report; nothing of its contents but file names and counts is repeated.

    :param text: what the file holds; None when it is not there.
    """
    gate = f"source {name}"
    if text is None:
        return unknown(gate, f"{path} is not there", f"Let the build write it before the release: {_FORMS}.")
    try:
        found = _json(json.loads(text)) if text.lstrip()[:1] in ("{", "[") else _junit(text)
    except (ValueError, KeyError, TypeError, AttributeError, ElementTree.ParseError):
        found = None
    if found is None:
        return unknown(gate, f"{path} has no form that is known", f"Let the tool write {_FORMS}.")
    errors, sample = sum(found[0].values()), found[1]
    if errors:
        worst = sorted((where for where, count in found[0].items() if count), key=lambda where: -found[0][where])[:6]
        return failed(gate, f"{plural(errors, 'error')} in {comma(worst)}", f"Mend them and let {name} run again.", value=errors, limit=0, sample=sample)
    if sample == 0:
        return unknown(gate, f"{path} tells of nothing that was looked at", f"Let {name} run over the release's commit.")
    return passed(gate, "no error" + (f" in {plural(sample, 'result')}" if sample else ""), value=0, limit=0, sample=sample)


def _json(data: Any) -> Optional[tuple[Mapping[str, int], Optional[int]]]:
    """Return the errors by file, and how many results there are; None for a report that lists findings only."""
    if isinstance(data, dict) and isinstance(data.get("results"), dict):  # detect-secrets
        return {path: len(each) for path, each in data["results"].items()}, None
    if isinstance(data, dict):  # flake8-json
        return ({path: len(each) for path, each in data.items()}, None) if all(isinstance(each, list) for each in data.values()) else None
    if all("RuleID" in each for each in data):  # gitleaks; an empty list is its, or ESLint's over nothing
        counts: dict[str, int] = {}
        for each in data:
            counts[each["File"]] = counts.get(each["File"], 0) + 1
        return counts, (None if data else 0)
    return {each["filePath"]: int(each["errorCount"]) for each in data}, len(data)


def _junit(text: str) -> Optional[tuple[Mapping[str, int], Optional[int]]]:
    # A document type may define entities that grow without end.
    if re.search(r"<!(?:DOCTYPE|ENTITY)", text):
        return None
    root = ElementTree.fromstring(text)
    if root.tag not in ("testsuites", "testsuite"):
        return None
    cases = list(root.iter("testcase"))
    counts: dict[str, int] = {}
    for case in cases:
        where = case.get("file") or case.get("classname") or case.get("name") or "a test case"
        counts[where] = counts.get(where, 0) + sum(1 for each in case if each.tag in ("failure", "error"))
    return counts, len(cases)
