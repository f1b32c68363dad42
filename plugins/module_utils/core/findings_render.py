# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Findings for machines: JSON, and JUnit for what runs a pipeline. Only sentences, never what was measured."""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.findings import OFF, Finding, Report
from ansible_collections.sluice.deploy.plugins.module_utils.core.smoke import Case, junit
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import PASS


def as_json(report: Report, at: str) -> str:
    """Return the report as one JSON object.

    :param at: when it was made, in UTC.
    """
    data = {
        "at": at,
        "passed": not report.stop,
        "summary": report.summary(),
        "notes": list(report.notes),
        "findings": [_plain(each) for each in report.findings],
    }
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _plain(each: Finding) -> dict[str, Any]:
    gate = each.gate
    told = {"gate": gate.name, "host": each.host, "area": each.area, "severity": each.severity, "verdict": gate.verdict, "stops": each.stops}
    return {**told, "sentence": gate.sentence, "remedy": gate.remedy}


def as_junit(report: Report) -> str:
    """Return the report as JUnit XML: a suite for each area; what stops is a failure, what is let pass is skipped with its sentence."""
    return junit([_case(each) for each in report.findings])


def _case(each: Finding) -> Case:
    gate = each.gate
    told = "" if gate.verdict == PASS and each.severity != OFF else f"{each.group}: {gate.sentence} {gate.remedy}".strip()
    return Case(each.area, f"{gate.name} ({each.host})", wrong=told if each.stops else "", skipped="" if each.stops else told)
