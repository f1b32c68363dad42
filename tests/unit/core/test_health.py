# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an answer must look like: each thing that is wrong is said in words, and only a row of good ones makes a service healthy."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import health
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Answer, Probe, Streak
from hypothesis import given
from hypothesis import strategies as st

EXAMPLE = "Example: {name: wallet page, path: /wallet/1, status: 200, contains: balance}"
BODY = '{"version": "v2", "checks": {"database": {"status": "ok"}}, "list": [{"id": 7}], "none": null}'


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"path": "/", "pth": 1}, "probe has the unknown key pth; allowed are name, method, path, headers, body, status, contains, json, writes."),
        ({}, "probe needs a path that begins with /, not ''."),
        ({"path": "health"}, "probe needs a path that begins with /, not 'health'."),
        ({"path": "/", "status": "ok"}, "probe: status must be a number such as 200, not 'ok'."),
        ({"path": "/", "status": None}, "probe: status must be a number such as 200, not None."),
    ],
)
def test_a_probe_of_the_wrong_shape_is_refused_with_an_example(data: dict[str, Any], words: str) -> None:
    with pytest.raises(SluiceError) as caught:
        health.probe_from(data, "probe")
    assert str(caught.value) == f"{words} {EXAMPLE}"


@pytest.mark.parametrize(
    ("data", "probe"),
    [
        ({"path": "/a"}, Probe("/a", "/a")),
        ({"path": "/a", "name": "page", "method": "post", "status": "201"}, Probe("page", "/a", "POST", status=201)),
        ({"path": "/a", "body": {"to": 2}}, Probe("/a", "/a", headers={"Content-Type": "application/json"}, body='{"to": 2}')),
        ({"path": "/a", "body": [1], "headers": {"Content-Type": "x"}}, Probe("/a", "/a", headers={"Content-Type": "x"}, body="[1]")),
        ({"path": "/a", "body": "text", "writes": True}, Probe("/a", "/a", body="text", writes=True)),
        ({"path": "/a", "contains": "x", "json": {"a.b": 1}}, Probe("/a", "/a", contains="x", json={"a.b": 1})),
    ],
)
def test_a_probe_is_made_from_a_mapping(data: dict[str, Any], probe: Probe) -> None:
    assert health.probe_from(data, "probe") == probe


@pytest.mark.parametrize(
    ("probe", "answer", "words"),
    [
        (Probe("p", "/"), Answer(200, "", 0.1), ""),
        (Probe("p", "/"), Answer(0, "", 0.1, error="no answer from host: timed out"), "no answer from host: timed out"),
        (Probe("p", "/"), Answer(503, "", 0.1), "status 503 instead of 200: empty body"),
        (Probe("p", "/"), Answer(302, " moved \n there ", 0.1), "status 302 instead of 200: moved there"),
        (Probe("p", "/", status=302), Answer(302, "", 0.1), ""),
        (Probe("p", "/"), Answer(500, "x" * 161, 0.1), f"status 500 instead of 200: {'x' * 160}..."),
        (Probe("p", "/"), Answer(500, "x" * 160, 0.1), f"status 500 instead of 200: {'x' * 160}"),
        (Probe("p", "/", contains="balance"), Answer(200, "your balance", 0.1), ""),
        (Probe("p", "/", contains="balance"), Answer(200, "nothing", 0.1), "the body does not hold 'balance': nothing"),
        (Probe("p", "/", json={"version": "v2"}), Answer(200, "<html>", 0.1), "the body is no JSON: <html>"),
        (Probe("p", "/", json={"version": "v2", "checks.database.status": "ok", "list.0.id": 7}), Answer(200, BODY, 0.1), ""),
        (Probe("p", "/", json={"version": "v3"}), Answer(200, BODY, 0.1), "version is 'v2' instead of 'v3'"),
        (Probe("p", "/", json={"version.deep": "v3"}), Answer(200, BODY, 0.1), "version.deep is None instead of 'v3'"),
        (Probe("p", "/", json={"list.1.id": 7}), Answer(200, BODY, 0.1), "list.1.id is None instead of 7"),
        (Probe("p", "/", json={"list.x": 7}), Answer(200, BODY, 0.1), "list.x is None instead of 7"),
        (Probe("p", "/", json={"checks.cache.status": "ok"}), Answer(200, BODY, 0.1), "checks.cache.status is None instead of 'ok'"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said(probe: Probe, answer: Answer, words: str) -> None:
    assert health.complaint(probe, answer) == words


def test_expecting_adds_what_is_known_and_leaves_the_rest() -> None:
    probe = Probe("p", "/", json={"status": "ok"}).expecting(version="v2", commit="", checks__database__status="ok")
    assert probe.json == {"status": "ok", "version": "v2", "checks.database.status": "ok"}


@given(st.text(), st.text())
def test_no_body_makes_the_judge_of_it_fail(body: str, path: str) -> None:
    assert health.complaint(Probe("p", "/", json={path: "never"}), Answer(200, body, 0.0))


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=20))
def test_healthy_means_the_last_answers_were_all_good(wanted: int, answers: list[bool]) -> None:
    streak = Streak(wanted)
    for good in answers:
        streak = streak.after("" if good else "bad")
    assert streak.healthy == (len(answers) >= wanted and all(answers[-wanted:]))
    assert streak.asked == len(answers)
    assert streak.last == (("" if answers[-1] else "bad") if answers else "it was not asked yet")
