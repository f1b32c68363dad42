# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All findings at once: the profile says how grave each is, a waiver needs a name and an end, and nothing that stops is ever lost."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from ansible_collections.sluice.deploy.plugins.module_utils.core import findings
from ansible_collections.sluice.deploy.plugins.module_utils.core.findings import NEVER, SEVERITIES, Report, of_results, problems, severity, waivers_from
from ansible_collections.sluice.deploy.plugins.module_utils.core.findings_render import as_json, as_junit
from ansible_collections.sluice.deploy.plugins.module_utils.core.inputs import wrong
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import VERDICTS, Gate
from ansible_collections.sluice.deploy.tests.harness.checkout import CHECKOUT
from hypothesis import given
from hypothesis import strategies as st

TODAY = date(2026, 11, 21)
WAIVER = {"gate": "disk", "who": "Jo", "why": "it is being enlarged", "until": "2026-11-21"}
FULL = Gate("disk", "fail", "1 MiB free", value=4242, limit=9999, remedy="Free some space.")


def weigh(*gates: Gate, severities: dict[str, Any] | None = None, waivers: list[dict[str, Any]] | None = None, today: date = TODAY) -> Report:
    return findings.report([("host", "app1", gate) for gate in gates], severities or {}, waivers_from(waivers or []), today)


def test_what_fails_or_cannot_tell_stops_and_each_is_named() -> None:
    report = weigh(FULL, Gate("ports", "pass", "free"), Gate("redis", "inconclusive", "no answer"), Gate("source", "error", "no right"))
    assert report.stop.splitlines() == ["app1: disk: 1 MiB free Free some space.", "app1: redis: no answer", "app1: source: no right"]
    assert report.summary() == "4 gates: 3 error, 1 passed; 3 of them stop."


@pytest.mark.parametrize(
    ("gate", "own", "level"),
    [
        ("disk", "", "error"),
        ("disk", "warn", "warning"),
        ("header CSP", "", "warning"),
        ("header HSTS", "warn", "critical"),
        ("header X-Old", "", "off"),
        ("cookies", "", "off"),
    ],
)
def test_the_closest_word_of_the_profile_counts(gate: str, own: str, level: str) -> None:
    # A bare off is false in YAML.
    profile = {"header *": "warning", "header HSTS": "critical", "header X-*": "off", "cookies": False}
    assert severity(gate, own, profile) == level


def test_a_warning_never_stops_and_the_profile_can_make_it_stop() -> None:
    late = Gate("tls days", "inconclusive", "20 days left", severity="warn")
    assert not weigh(late).stop
    assert weigh(late, severities={"tls days": "error"}).stop
    assert not weigh(FULL, severities={"disk": "warning"}).stop
    assert weigh(FULL, severities={"disk": "off"}).summary() == "1 gate: 1 off; nothing stops."


@pytest.mark.parametrize("verdict", ["fail", "inconclusive", "error"])
def test_a_waiver_holds_through_its_last_day_and_names_who_answers(verdict: str) -> None:
    report = weigh(Gate("disk", verdict, "1 MiB free."), waivers=[WAIVER])
    assert not report.stop and not report.notes
    gate = report.findings[0].gate
    assert (gate.verdict, gate.sentence) == ("waived", "1 MiB free. Waived by Jo until 2026-11-21: it is being enlarged")
    late = weigh(Gate("disk", verdict, "1 MiB free."), waivers=[WAIVER], today=TODAY + timedelta(days=1))
    assert "disk" in late.stop
    assert late.notes == ("The waiver of disk (Jo: it is being enlarged) ended on 2026-11-21 and counts no more; mend the gate.",)


@pytest.mark.parametrize(
    ("gates", "waiver", "said"),
    [
        ([Gate("disk", "pass", "room")], WAIVER, "is not needed: the gate passes. Remove it."),
        ([FULL], {**WAIVER, "gate": "disc"}, "is for a gate that was not asked; correct its name, or remove it."),
        ([FULL], {**WAIVER, "host": "app2"}, "on app2 (Jo: it is being enlarged) is for a gate that was not asked"),
    ],
)
def test_a_waiver_that_does_nothing_is_said(gates: list[Gate], waiver: dict[str, Any], said: str) -> None:
    report = weigh(*gates, waivers=[waiver])
    assert len(report.notes) == 1 and said in report.notes[0]
    assert bool(report.stop) == (gates == [FULL])


@pytest.mark.parametrize(
    ("severities", "waivers", "said"),
    [
        ({"disk": "grave"}, [], "preflight_severities: disk is 'grave'; allowed are critical, error, warning, off."),
        ({"database": "warning"}, [], "database is in preflight_never_waived and would be warning"),
        ({"stripe *": False}, [], "stripe key is in preflight_never_waived and would be off"),
        ({}, [{**WAIVER, "gate": "source"}], "waiver 1 is for source, which preflight_never_waived keeps from being waived by anybody."),
        ({}, [WAIVER, {**WAIVER, "who": " "}], "waiver 2 lacks who"),
        ({}, [{**WAIVER, "until": "soon"}], "until 'soon', which is no day such as 2027-01-31"),
        ({}, [{**WAIVER, "hosts": "a"}], "must be a mapping with gate, who, why, until and optionally host"),
        ({}, ["disk"], "must be a mapping"),
    ],
)
def test_a_wrong_profile_is_refused_with_what_is_allowed(severities: dict[str, Any], waivers: list[Any], said: str) -> None:
    assert said in " ".join(problems(severities, waivers))
    specs = {"preflight_severities": {"type": "dict"}, "preflight_waivers": {"type": "list"}}
    assert said in " ".join(wrong({"preflight_severities": severities, "preflight_waivers": waivers}, specs))


def test_a_right_profile_is_taken_as_yaml_reads_it() -> None:
    profile = yaml.safe_load("{waivers: [{gate: disk, who: Jo, why: soon, until: 2027-01-31}], severities: {cookies: off, 'header *': warning}}")
    assert problems(profile["severities"], profile["waivers"]) == []
    assert waivers_from(profile["waivers"])[0].until == date(2027, 1, 31)


def test_the_role_s_default_is_the_list_of_the_core() -> None:
    defaults = yaml.safe_load((CHECKOUT / "roles/preflight/defaults/main.yml").read_text(encoding="utf-8"))
    assert defaults["preflight_never_waived"] == list(NEVER)


def test_a_host_that_gave_no_answer_is_a_finding_nobody_can_waive() -> None:
    results = {"a": {"failed": True, "msg": "url is missing", "remedy": "Set it."}, "b": {"unreachable": True, "msg": "timed out"}, "c": {"gates": []}}
    report = findings.report(of_results("network", results), {}, (), TODAY)
    assert report.stop.splitlines() == [
        "a: host answers: network could not be asked: url is missing Set it.",
        "b: host answers: it cannot be reached: timed out Mend that, then run this again.",
    ]
    assert "host answers" in NEVER


def test_the_artefacts_hold_sentences_and_never_a_value() -> None:
    report = weigh(FULL, Gate("ports", "pass", "free"), Gate("dns", "fail", "a <b> & \x00 'c'"), waivers=[WAIVER])
    told = json.loads(as_json(report, "2026-11-21T00:00:00Z"))
    assert [(each["gate"], each["verdict"], each["stops"]) for each in told["findings"]] == [
        ("dns", "fail", True),
        ("disk", "waived", False),
        ("ports", "pass", False),
    ]
    assert not told["passed"]
    suite = ElementTree.fromstring(as_junit(report).partition("\n")[2]).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    assert not [number for number in ("4242", "9999") if number in as_json(report, "") + as_junit(report)]


GATES = st.builds(Gate, name=st.sampled_from("abcd"), verdict=st.sampled_from(VERDICTS), sentence=st.text(max_size=20), severity=st.sampled_from(["", "warn"]))
FOUND = st.lists(st.tuples(st.sampled_from(["host", "network"]), st.sampled_from(["h1", "h2"]), GATES), max_size=12)
PROFILE = st.dictionaries(st.sampled_from(["a", "b", "*"]), st.sampled_from(SEVERITIES), max_size=3)
WAIVERS = st.lists(st.fixed_dictionaries({**{key: st.just("x") for key in ("who", "why")}, "gate": st.sampled_from("abcd"), "until": st.dates().map(str)}))


@given(FOUND, PROFILE, WAIVERS)
def test_nothing_is_lost_and_the_order_of_the_answers_does_not_matter(found: Any, profile: dict[str, str], waivers: Any) -> None:
    report = findings.report(found, profile, waivers_from(waivers), TODAY)
    assert len(report.findings) == len(found) == sum(map(len, report.groups().values()))
    assert findings.report(found[::-1], profile, waivers_from(waivers), TODAY).stop == report.stop
    stopping = [each.stops for each in report.findings]
    assert stopping == sorted(stopping, reverse=True)
    assert bool(report.stop) == any(stopping)


@given(FOUND, PROFILE, WAIVERS)
def test_a_waiver_only_ever_touches_its_own_gate(found: Any, profile: dict[str, str], waivers: Any) -> None:
    waived = {waiver["gate"] for waiver in waivers}
    with_them = findings.report(found, profile, waivers_from(waivers), TODAY)
    without = findings.report(found, profile, (), TODAY)
    kept = [sum(each.stops for each in report.findings if each.gate.name not in waived) for report in (with_them, without)]
    assert kept[0] == kept[1]
    assert sum(each.stops for each in with_them.findings) <= sum(each.stops for each in without.findings)
