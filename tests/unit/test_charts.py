# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The picture of a canary: made from ledger records alone, whole without any other file, and never in the way of a release."""

from __future__ import annotations

import re
import sys
from typing import Any
from xml.etree import ElementTree

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.histogram import bin_of
from ansible_collections.sluice.deploy.plugins.module_utils.core.sample import Sample, SlotSample
from ansible_collections.sluice.deploy.plugins.plugin_utils import charts

SVG = "{http://www.w3.org/2000/svg}"
BEGAN = 1000.0
REPORT = {
    "release_id": "v2-one",
    "result": "rolled_back",
    "manifest": {"live": "blue", "idle": "green", "version": "v2", "live_version": "v1"},
}


def slot(requests: int, errors: int, seconds: float) -> SlotSample:
    return SlotSample(requests=requests, errors=errors, histogram={bin_of(seconds): requests} if requests else {})


def record(event: str, after: float, phase: str = "canary", **data: Any) -> dict[str, Any]:
    return {"event": event, "at": BEGAN + after, "phase": phase, "data": data}


def verdict(after: float, percent: int, said: str, canary: SlotSample, live: SlotSample, error_rate: float = 0.01, p95: float = 0.5) -> dict[str, Any]:
    sample = Sample(since=BEGAN + after - 8, until=BEGAN + after - 0.2, slots={"blue": live, "green": canary})
    gates = [{"name": "sample", "limit": 30}, {"name": "error rate", "limit": error_rate}, {"name": "p95", "limit": p95}]
    return record("verdict", after, percent=percent, verdict=said, word="advance", elapsed=8.0, sample=sample.as_dict(), gates=gates)


def a_bad_one() -> list[dict[str, Any]]:
    return [
        record("begin", -1),
        record("share", 0, percent=5),
        verdict(10, 5, "pass", slot(60, 0, 0.02), slot(1100, 1, 0.015)),
        record("share", 10.1, percent=25),
        verdict(19, 25, "fail", slot(300, 18, 0.9), slot(900, 1, 0.015)),
    ]


def drawn(records: list[dict[str, Any]]) -> ElementTree.Element:
    pytest.importorskip("pygal")
    picture, told = charts.draw(REPORT, records)
    assert told == ""
    return ElementTree.fromstring(picture)


def words(picture: ElementTree.Element) -> list[str]:
    return [node.text or "" for node in picture.iter(f"{SVG}text")]


def hints(picture: ElementTree.Element) -> list[str]:
    """What a browser shows beside a dot."""
    return [node.text or "" for node in picture.iter(f"{SVG}title")]


def test_the_picture_names_metrics_slots_limits_and_steps() -> None:
    picture = drawn(a_bad_one())
    read = words(picture)
    assert "Canary of v2-one: rolled back" in read
    for metric in charts.METRICS:
        assert metric.title in read
    assert (read.count("live: blue, v1"), read.count("canary: green, v2"), read.count("limit")) == (3, 3, 2)
    assert read.count("10 s: 5 % pass") == read.count("19 s: 25 % fail") == 3


def test_each_dot_tells_its_value_and_its_time() -> None:
    told = hints(drawn(a_bad_one()))
    for value in ("canary: green, v2: 6 %, 19 s", "canary: green, v2: 300 requests, 19 s", "live: blue, v1: 1,100 requests, 2 s"):
        assert f"{value} after the canary began" in told
    times = [float(text.split(": ")[2].split()[0]) for text in told if text.startswith("canary") and " ms, 19 s" in text]
    assert times == [pytest.approx(900, rel=0.05)]


def test_slots_have_their_own_colours() -> None:
    style = "".join(node.text or "" for node in drawn(a_bad_one()).iter(f"{SVG}style"))
    assert {"#1f6fb4", "#2e9a4b", "#c62828"} <= set(re.findall(r"#[0-9a-f]{6}", style))


def test_the_picture_needs_no_other_file_and_runs_nothing() -> None:
    picture = drawn(a_bad_one())
    assert list(picture.iter(f"{SVG}script")) == []
    text = ElementTree.tostring(picture, encoding="unicode")
    assert re.findall(r"(?:href|src|@import|url\()[^>]*", text) == []


def test_the_same_release_has_the_same_picture() -> None:
    pytest.importorskip("pygal")
    assert charts.draw(REPORT, a_bad_one()) == charts.draw(REPORT, a_bad_one())


def test_what_a_verdict_does_not_know_is_left_out() -> None:
    """At 100 % live has no requests, an alarm speaks through one gate alone, and a step without visitors has no sample."""
    alone = verdict(30, 100, "pass", slot(500, 0, 0.0001), slot(0, 0, 0))
    alone["data"]["gates"] = [{"name": "error rate", "limit": 0.01}, {"name": "mine", "limit": "word"}]
    testers = record("verdict", 5, percent=0, verdict="inconclusive", elapsed=5, sample={}, gates=[])
    read = words(drawn([record("share", 0, percent=0), testers, alone]))
    assert read.count("5 s: 0 % inconclusive") == 3
    assert read.count("limit") == 1
    assert [text for text in read if text.startswith("live")] == []


def test_the_watch_is_told_apart_and_near_marks_share_a_label() -> None:
    fine = slot(500, 0, 0.01)
    whole, watch = verdict(86400, 100, "pass", fine, slot(0, 0, 0)), verdict(87000, 100, "pass", fine, slot(0, 0, 0))
    records = [record("share", 0, percent=100), whole, record("begin", 86401, "watch"), watch]
    assert "24.0 h: 100 % pass; watch pass" in words(drawn(records))


@pytest.mark.parametrize(
    "records",
    [
        [],
        [record("begin", 0), record("share", 0, percent=5)],
        [record("share", 0, percent=5), record("verdict", 3, percent=5, verdict="error", sample={}, gates=[])],
    ],
    ids=["nothing", "no verdict", "no requests"],
)
def test_without_a_judged_request_there_is_no_picture_and_no_word(records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    assert charts.draw(REPORT, records) == ("", "")
    monkeypatch.setitem(sys.modules, charts.PACKAGE, None)
    assert charts.draw(REPORT, records) == ("", "")


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, charts.PACKAGE, None)
    picture, told = charts.draw(REPORT, a_bad_one())
    assert picture == ""
    assert told == "No charts were drawn: the control node lacks the package pygal. Install it beside Ansible: python3 -m pip install pygal"


def test_a_picture_that_fails_is_a_sentence() -> None:
    """By then the release has ended; whatever the library or an old record does must not make it fail."""
    pytest.importorskip("pygal")
    picture, told = charts.draw({**REPORT, "manifest": {}}, a_bad_one())
    assert picture == ""
    assert told == "No charts were drawn: KeyError: 'live'. The account is whole without them."


@pytest.mark.parametrize(("seconds", "said"), [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2.0 h"), (86400, "24.0 h")])
def test_times_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert charts.duration(seconds) == said
