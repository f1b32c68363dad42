# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an answer must look like: each thing that is wrong is said in words, and only a row of good ones makes a service healthy."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import health
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Answer, Components, Probe, Streak, Tls
from hypothesis import given
from hypothesis import strategies as st

EXAMPLE = "Example: {name: wallet page, path: /wallet/1, status: 200, contains: balance}"
BODY = '{"version": "v2", "checks": {"database": {"status": "ok"}}, "list": [{"id": 7}], "none": null}'


KEYS = "name, method, path, headers, body, status, contains, json, components, max_seconds, tls, timeout"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"path": "/", "pth": 1}, f"probe has the unknown key pth; allowed are {KEYS}."),
        ({"path": "/", "tcp": "a:1"}, f"probe has the unknown key tcp; allowed are {KEYS}."),
        ({"tcp": "a:1", "json": {}}, "probe has the unknown key json; allowed are name, tcp, max_seconds, timeout."),
        ({}, "probe needs one of path, websocket, tcp, command."),
        ("/", "probe must be a mapping, not '/'."),
        ({"path": "health"}, "probe: path needs a path that begins with /, not 'health'."),
        ({"path": "/", "status": "ok"}, "probe: status needs a number such as 200, or a list such as [401, 403], not 'ok'."),
        ({"path": "/", "status": None}, "probe: status needs a number such as 200, or a list such as [401, 403], not None."),
        ({"path": "/", "status": []}, "probe: status needs a number such as 200, or a list such as [401, 403], not a list."),
        ({"path": "/", "status": True}, "probe: status needs a number such as 200, or a list such as [401, 403], not True."),
        ({"path": "/", "headers": "Authorization: Bearer hush"}, "probe: headers needs a mapping of names to texts, not a text."),
        ({"path": "/", "contains": 5}, "probe: contains needs a text, not 5."),
        ({"path": "/", "max_seconds": 0}, "probe: max_seconds needs a number of seconds such as 0.5, not 0."),
        ({"path": "/", "max_seconds": "soon"}, "probe: max_seconds needs a number of seconds such as 0.5, not 'soon'."),
        (
            {"path": "/", "components": {"paths": "checks"}},
            "probe: components needs a mapping of path, key and ok, such as {path: checks, key: status, ok: [ok, healthy]}, not a mapping.",
        ),
        (
            {"path": "/", "tls": {"verify": "no"}},
            "probe: tls needs a mapping of ca, server_name and verify, such as {server_name: wallet.example.org}, not a mapping.",
        ),
        ({"tcp": "host"}, "probe: tcp needs a host and a port such as 127.0.0.1:6379, not 'host'."),
        ({"tcp": "host:70000"}, "probe: tcp needs a host and a port such as 127.0.0.1:6379, not 'host:70000'."),
        ({"command": "npm test"}, "probe: command needs a list of words such as [npm, run, smoke], not 'npm test'."),
        ({"websocket": "/ws", "ping": "yes"}, "probe: ping needs true or false, not 'yes'."),
    ],
)
def test_a_probe_of_the_wrong_shape_is_refused_with_an_example(data: Any, words: str) -> None:
    with pytest.raises(SluiceError) as caught:
        health.probe_from(data, "probe")
    assert str(caught.value) == f"{words} {EXAMPLE}"


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("data", "probe"),
    [
        ({"path": "/a"}, Probe("/a", "/a")),
        ({"path": "/a", "name": "page", "method": "post", "status": "201"}, Probe("page", "/a", "POST", status=(201,))),
        ({"path": "/a", "status": [401, 403]}, Probe("/a", "/a", status=(401, 403))),
        ({"path": "/a", "body": {"to": 2}}, Probe("/a", "/a", headers=JSON, body='{"to": 2}')),
        ({"path": "/a", "body": [1], "headers": {"Content-Type": "x"}}, Probe("/a", "/a", headers={"Content-Type": "x"}, body="[1]")),
        ({"path": "/a", "contains": "x", "json": {"a.b": 1}}, Probe("/a", "/a", contains="x", json={"a.b": 1})),
        ({"path": "/a", "components": {"path": "checks"}}, Probe("/a", "/a", components=Components("checks"))),
        ({"path": "/a", "components": {"key": "up", "ok": [True]}}, Probe("/a", "/a", components=Components("", "up", (True,)))),
        ({"path": "/a", "tls": {"verify": False}, "max_seconds": "0.5"}, Probe("/a", "/a", tls=Tls(verify=False), max_seconds=0.5)),
        ({"websocket": "/ws", "ping": True}, Probe("/ws", "/ws", status=(101,), kind="websocket", ping=True)),
        ({"tcp": "[::1]:80", "timeout": 2}, Probe("[::1]:80", status=(), kind="tcp", address="[::1]:80", timeout=2.0)),
        ({"command": ["npm", "run", 5]}, Probe("npm", status=(), kind="command", command=("npm", "run", "5"))),
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
        (Probe("p", "/"), Answer(302, "", 0.1, {"Location": "/login?back=hush"}), "status 302 to /login instead of 200: empty body"),
        (Probe("p", "/", status=(302,)), Answer(302, "", 0.1), ""),
        (Probe("p", "/", status=(401, 403)), Answer(403, "", 0.1), ""),
        (Probe("p", "/", status=(401, 403)), Answer(200, "all wallets", 0.1), "status 200 instead of 401 or 403: all wallets"),
        (Probe("p", "/"), Answer(500, "x" * 161, 0.1), f"status 500 instead of 200: {'x' * 160}..."),
        (Probe("p", "/"), Answer(500, "x" * 160, 0.1), f"status 500 instead of 200: {'x' * 160}"),
        (Probe("p", "/"), Answer(500, "postgres://app:hush@db", 0.1), "status 500 instead of 200: postgres://app:********@db"),
        (Probe("p", "/", headers={"Authorization": "Bearer tok-1"}), Answer(400, "bad tok-1", 0.1), "status 400 instead of 200: bad ********"),
        (Probe("p", "/", max_seconds=0.5), Answer(200, "", 0.5), ""),
        (Probe("p", "/", max_seconds=0.5), Answer(200, "", 0.8124), "the answer took 0.812 s; the limit is 0.5 s"),
        (Probe("p", "/", contains="balance"), Answer(200, "your balance", 0.1), ""),
        (Probe("p", "/", contains="balance"), Answer(200, "nothing", 0.1), "the body does not hold 'balance': nothing"),
        (Probe("p", "/", json={"version": "v2"}), Answer(200, "<html>", 0.1), "the body is no JSON: <html>"),
        (Probe("p", "/", json={"version": "v2"}), Answer(200, "[" * 100000, 0.1), f"the body is no JSON: {'[' * 160}..."),
        (Probe("p", "/", json={"version": "v2", "checks.database.status": "ok", "list.0.id": 7}), Answer(200, BODY, 0.1), ""),
        (Probe("p", "/", json={"none": None}), Answer(200, BODY, 0.1), ""),
        (Probe("p", "/", json={"nothing": None}), Answer(200, BODY, 0.1), "nothing is missing; it should be None"),
        (Probe("p", "/", json={"version": "v3"}), Answer(200, BODY, 0.1), "version is 'v2' instead of 'v3'"),
        (Probe("p", "/", json={"version.deep": "v3"}), Answer(200, BODY, 0.1), "version.deep is missing; it should be 'v3'"),
        (Probe("p", "/", json={"list.1.id": 7}), Answer(200, BODY, 0.1), "list.1.id is missing; it should be 7"),
        (Probe("p", "/", json={"list.x": 7}), Answer(200, BODY, 0.1), "list.x is missing; it should be 7"),
        (Probe("p", "/", json={"list.0.id": True}), Answer(200, '{"list": [{"id": 1}]}', 0.1), "list.0.id is 1 instead of True"),
        (Probe("tcp", kind="tcp", status=()), Answer(0, "", 0.1), ""),
        (Probe("p", "/", closed=True), Answer(503, "", 0.1, {"Sluice-Maintenance": "on"}), ""),
        (Probe("p", "/", closed=True), Answer(503, "", 0.1), "status 503, open"),
        (Probe("p", "/", closed=False), Answer(503, "", 0.1, {"Sluice-Maintenance": "on"}), "status 503, still closed for maintenance"),
    ],
)
def test_what_is_wrong_with_an_answer_is_said(probe: Probe, answer: Answer, words: str) -> None:
    assert health.complaint(probe, answer) == words


DETAILED = """{"status": "degraded", "checks": {"database": {"status": "healthy", "ms": 2}, "redis": {"status": "down"}, "queue": "ok", "mail": {}},
               "list": [{"name": "web", "state": {"word": "ok"}}, {"state": {"word": "late"}}], "none": {}}"""
WELL = " instead of 'ok' or 'healthy'"


@pytest.mark.parametrize(
    ("components", "words"),
    [
        (Components("checks"), f"component redis is 'down', mail has no status{WELL}"),
        (Components("checks", ok=("ok", "healthy", "down")), "component mail has no status instead of 'ok' or 'healthy' or 'down'"),
        (Components("list", "state.word"), f"component 1 is 'late'{WELL}"),
        (Components("list.0", "word"), f"component name is 'web'{WELL}"),
        (Components("list", "state.word", ("ok", "late")), ""),
        (Components("none"), "none lists no components"),
        (Components("status"), "status lists no components"),
        (Components("nowhere"), "nowhere lists no components"),
    ],
)
def test_each_component_must_be_well_and_the_others_are_named(components: Components, words: str) -> None:
    assert health.complaint(Probe("p", "/", components=components), Answer(200, DETAILED, 0.1)) == words


def test_two_components_of_one_name_are_both_looked_at() -> None:
    body = '[{"name": "db", "status": "down"}, {"name": "db", "status": "ok"}]'
    assert health.complaint(Probe("p", "/", components=Components()), Answer(200, body, 0.1)) == f"component db is 'down'{WELL}"


def test_expecting_adds_what_is_known_and_leaves_the_rest() -> None:
    probe = Probe("p", "/", json={"status": "ok"}).expecting({"version": "v2", "commit": "", "": "v1", "checks.a__b": 1})
    assert probe.json == {"status": "ok", "version": "v2", "checks.a__b": 1}


def test_the_caller_s_headers_and_tls_are_used_where_the_probe_has_none() -> None:
    own, other = Tls(server_name="own"), Tls(server_name="other")
    probe = Probe("p", "/", headers={"A": "own"}).within({"A": "other", "B": "other"}, other)
    assert (probe.headers, probe.tls) == ({"A": "own", "B": "other"}, other)
    assert Probe("p", "/", tls=own).within({}, other).tls == own


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_a_certificate_of_this_host_need_not_be_verified(host: str) -> None:
    health.guard("https://base", host, Tls(verify=False))


@pytest.mark.parametrize("host", ["192.0.2.1", "wallet.example.org", "localhost.example.org", ""])
def test_a_certificate_of_another_host_is_always_verified(host: str) -> None:
    health.guard("https://base", host, Tls())
    health.guard("https://base", host, None)
    with pytest.raises(SluiceError, match="allowed for a loopback address only, not for https://base: anybody on the way could answer"):
        health.guard("https://base", host, Tls(verify=False))


def test_the_evidence_holds_no_credentials() -> None:
    probe = Probe("p", "/", headers={"Authorization": "Bearer tok-1", "X-Api-Key": "key-1"})
    headers = {"Server": "nginx", "Set-Cookie": "sid=hush", "Location": "/a?token=hush", "X-Echo": "tok-1", "X-Auth-Token": "hush"}
    seen = health.evidence(probe, Answer(302, "go key-1 " + "x" * 5000, 0.25, headers))
    assert seen["status"] == 302
    assert seen["headers"] == {"Server": "nginx", "Location": "/a", "X-Echo": "********"}
    assert seen["body"].startswith("go ******** xxx")
    assert len(seen["body"]) < 2100
    assert health.evidence(probe, Answer(0, "", 1.0, error="no answer")) == {"error": "no answer", "seconds": 1.0}


def test_giving_up_tells_what_each_said_and_cuts_the_list() -> None:
    base, probe = "http://host", Probe("health", "/api/health")
    targets = {f"web{number}": (base, probe) for number in range(10)} | {base: (base, probe), "good": (base, probe)}
    bad = Streak(2).after("status 500", Answer(500, "", 0.1))
    error = health.unhealthy("late", targets, {name: Streak(1).after("") if name == "good" else bad for name in targets})
    assert str(error).startswith("late; last seen: web0 http://host/api/health: status 500; web1 ")
    assert str(error).endswith("web7 http://host/api/health: status 500; and 3 more.")
    assert set(error.details()["answers"]) == set(targets) - {"good"}
    assert str(health.unhealthy("late", {base: (base, probe)}, {base: Streak(2)})) == "late; last seen: http://host/api/health: it gave no answer yet."


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
    assert streak.last == (("" if answers[-1] else "bad") if answers else "it gave no answer yet")
