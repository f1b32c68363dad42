# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Smoke requests as data: what is refused before anything is sent, what goes where, and what never gets into a message."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import health, smoke
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Answer, document_of
from ansible_collections.sluice.deploy.plugins.module_utils.core.smoke import COPY, PUBLIC, SLOT, Case
from hypothesis import given
from hypothesis import strategies as st

SIGN_IN = {"name": "sign in", "method": "POST", "path": "/login", "body": {"user": "smoke"}, "effect": "test-tenant", "extract": {"token": "session.token"}}
OWN = {"name": "own", "path": "/own", "headers": {"Authorization": "Bearer {token}"}, "effect": "test-tenant"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"path": "/"}, "app_smoke must be a list of requests, not a mapping."),
        (["/"], "app_smoke[0] must be a mapping, not '/'."),
        ([{"path": "/"}, {"path": "/", "writes": True}], "app_smoke[1] has the unknown key writes; allowed are name, method, path"),
        ([{"path": "/"}, {"path": "/", "writes": True}], "tls, timeout, effect, where, extract."),
        ([{"path": "/", "effect": "some"}], "app_smoke[0]: effect must be read, test-tenant or write, not 'some'."),
        ([{"path": "/", "method": "POST"}], "app_smoke[0]: a POST must say what it may change, as effect: read, test-tenant or write."),
        ([{"command": ["true"]}], "app_smoke[0]: a command must say what it may change, as effect: read, test-tenant or write."),
        ([{"path": "/", "where": "here"}], "app_smoke[0]: where must be slot or public, or left out for both, not 'here'."),
        ([{"path": "/", "extract": ["token"]}], "app_smoke[0]: extract must be a mapping of names to dotted paths, not a list."),
        ([{"path": "/", "extract": {"a b": "c"}}], "app_smoke[0]: extract must be a mapping of names to dotted paths, not a mapping."),
        ([{"tcp": "a:1", "extract": {"a": "c"}}], "app_smoke[0]: only an HTTP answer has values to extract."),
        ([OWN], "app_smoke[0] (own) uses {token}, which no request before it extracts."),
        ([OWN, SIGN_IN], "app_smoke[0] (own) uses {token}, which no request before it extracts."),
        ([{"path": "/", "body": "{token}", "method": "POST", "effect": "write"}, SIGN_IN], "app_smoke[0] (/) uses {token}, which no request"),
        ([SIGN_IN, {"path": "/{tokn}"}], "app_smoke[1] (/{tokn}) uses {tokn}, which no request before it extracts."),
        ([SIGN_IN, SIGN_IN], "app_smoke[1] (sign in) extracts token, but that name is taken."),
        ([SIGN_IN, {"path": "/{token}"}], "uses {token}, but sign in is not sent everywhere it is: it has effect test-tenant."),
        ([{**SIGN_IN, "where": "slot"}, OWN], "is not sent everywhere it is: it has effect test-tenant and where slot."),
        (
            [SIGN_IN, {"command": ["npm", "{token}"], "effect": "write"}],
            "app_smoke[1] (npm): a command may use {base} only; {token} would be seen in the list of processes.",
        ),
    ],
)
def test_a_suite_of_the_wrong_shape_is_refused_before_anything_is_sent(data: Any, words: str) -> None:
    with pytest.raises(SluiceError) as caught:
        smoke.steps_from(data)
    assert words in str(caught.value)


def test_values_of_a_file_are_known_and_one_that_was_not_read_yet_is_believed() -> None:
    data = [{**SIGN_IN, "headers": {"X-Key": "{KEY}"}}]
    assert smoke.steps_from(data, ["KEY"]) == smoke.steps_from(data, None)
    with pytest.raises(SluiceError, match=r"uses \{KEY\}"):
        smoke.steps_from(data)


def test_braces_that_are_no_value_stay_in_a_body() -> None:
    (step,) = smoke.steps_from([{"path": "/q", "method": "POST", "body": {"query": "{me{name}}"}, "effect": "read"}])
    assert smoke.filled(step, {}, "http://host").body == '{"query": "{me{name}}"}'


def test_values_are_put_into_path_headers_and_body() -> None:
    first = {"path": "/a", "extract": {"id": "id", "word": "word"}}
    second = {
        "path": "/a/{word}?n={id}",
        "method": "PUT",
        "headers": {"X-Id": "n{id}", "X-Word": "{word}"},
        "body": {"id": "{id}", "text": "<{id}>", "list": ["{word}", {"deep": "{id}", "n": 1}]},
        "effect": "read",
    }
    _first, step = smoke.steps_from([first, second])
    probe = smoke.filled(step, {"id": 7, "word": "a/b c"}, "http://host")
    assert probe.path == "/a/a%2Fb%20c?n=7"
    assert probe.headers == {"Content-Type": "application/json", "X-Id": "n7", "X-Word": "a/b c"}
    assert document_of(probe.body) == {"id": 7, "text": "<7>", "list": ["a/b c", {"deep": 7, "n": 1}]}


def test_a_command_is_given_the_address() -> None:
    (step,) = smoke.steps_from([{"command": ["npm", "run", "smoke", "--url={base}"], "effect": "read"}])
    assert smoke.filled(step, {}, "http://host:1").command == ("npm", "run", "smoke", "--url=http://host:1")


@pytest.mark.parametrize(
    ("more", "sent"),
    [
        ({"effect": "read"}, {(SLOT, False), (SLOT, True), (PUBLIC, False), (PUBLIC, True), (COPY, False), (COPY, True)}),
        ({"effect": "test-tenant"}, {(SLOT, True), (PUBLIC, True), (COPY, False), (COPY, True)}),
        ({"effect": "write"}, {(COPY, False), (COPY, True)}),
        ({"effect": "read", "where": "slot"}, {(SLOT, False), (SLOT, True), (COPY, False), (COPY, True)}),
        ({"effect": "read", "where": "public"}, {(PUBLIC, False), (PUBLIC, True)}),
        ({"effect": "write", "where": "public"}, set()),
    ],
)
def test_an_effect_decides_where_a_request_is_sent(more: dict[str, str], sent: set[tuple[str, bool]]) -> None:
    steps = smoke.steps_from([{"path": "/", **more}])
    places = {(place, tenant) for place in (SLOT, PUBLIC, COPY) for tenant in (False, True)}
    assert {(place, tenant) for place, tenant in places if not smoke.left_out(steps, place, tenant)} == sent


@given(st.lists(st.tuples(st.sampled_from(smoke.EFFECTS), st.sampled_from(["", SLOT, PUBLIC]), st.booleans()), max_size=6))
def test_a_request_that_is_sent_has_what_it_uses(made: list[tuple[str, str, bool]]) -> None:
    """Either the suite is refused, or wherever a request is sent, the one that it takes a value from was sent too."""
    data: list[dict[str, Any]] = []
    for number, (effect, where, uses) in enumerate(made):
        path = f"/{{v{number - 1}}}" if uses and number else "/"
        data.append({"path": path, "effect": effect, **({"where": where} if where else {}), "extract": {f"v{number}": "v"}})
    try:
        steps = smoke.steps_from(data)
    except SluiceError:
        return
    for place in (SLOT, PUBLIC, COPY):
        for tenant in (False, True):
            out = smoke.left_out(steps, place, tenant)
            assert not [number for number, (_effect, _where, uses) in enumerate(made) if number and uses and number not in out and number - 1 in out]


@pytest.mark.parametrize(
    ("body", "found", "wrong"),
    [
        ('{"session": {"token": "hush"}}', {"token": "hush"}, ""),
        ('{"session": {"token": 7}}', {"token": 7}, ""),
        ('{"session": {}}', {}, "session.token is missing, so there is no token"),
        ('{"session": {"token": null}}', {}, "session.token is empty, so there is no token"),
        ('{"session": {"token": ["hush"]}}', {}, "session.token is a list, so there is no token"),
        ("hush", {}, "the body is no JSON, so nothing can be extracted"),
    ],
)
def test_values_are_taken_out_of_an_answer(body: str, found: dict[str, Any], wrong: str) -> None:
    (step,) = smoke.steps_from([SIGN_IN])
    assert smoke.harvest(step, Answer(200, body, 0.1)) == (found, wrong)


@pytest.mark.parametrize("body", ['{"session": {"token": "hush-1"}}', "hush-1", '["hush-1"]'])
@pytest.mark.parametrize("more", [{"status": 201}, {"contains": "x"}, {"json": {"session.token": "x"}}, {"json": {"session": 1}}])
def test_an_answer_that_a_value_is_taken_out_of_is_not_shown(body: str, more: dict[str, Any]) -> None:
    (step,) = smoke.steps_from([{**SIGN_IN, **more}])
    words = health.complaint(step.probe, Answer(200, body, 0.1), bare=not step.extract)
    assert words
    assert "hush" not in words


def test_what_a_request_keeps_private_is_known() -> None:
    (step,) = smoke.steps_from([{**SIGN_IN, "headers": {"Cookie": "sid=1234"}, "body": {"user": "smoke", "deep": {"password": "pass word"}}}])
    secrets = smoke.secrets_of(step, {"token": "a/b", "id": 12345})
    assert {"a/b", "a%2Fb", "12345", "sid=1234", "pass word"} <= set(secrets)
    assert "smoke" not in secrets


def test_a_request_waits_for_its_value() -> None:
    steps = smoke.steps_from([SIGN_IN, OWN])
    assert smoke.waits_for(steps[1], {}, steps) == "token"
    assert smoke.waits_for(steps[1], {"token": "x"}, steps) == ""
    assert smoke.waits_for(steps[0], {}, steps) == ""


CASES = [Case("health", "http://host", 0.25), Case("smoke", "a\x00 page", 0.5, "status 500 <b>"), Case("smoke", "pay", skipped="it writes")]


def test_junit_counts_and_keeps_the_words() -> None:
    root = ElementTree.fromstring(smoke.junit(CASES))
    first, second = root
    assert first.attrib == {"name": "health", "tests": "1", "failures": "0", "errors": "0", "skipped": "0", "time": "0.250"}
    assert second.attrib == {"name": "smoke", "tests": "2", "failures": "1", "errors": "0", "skipped": "1", "time": "0.500"}
    assert second[0].attrib == {"classname": "smoke", "name": "a\ufffd page", "time": "0.500"}
    assert second[0][0].attrib == {"message": "status 500 <b>"}
    assert (second[1][0].tag, second[1][0].attrib) == ("skipped", {"message": "it writes"})


@given(st.text(), st.text())
def test_junit_is_always_xml(name: str, wrong: str) -> None:
    ElementTree.fromstring(smoke.junit([Case("smoke", name, wrong=wrong)]).encode())


def test_a_suite_says_what_it_did() -> None:
    assert smoke.sentence([CASES[0], CASES[2]], "green") == "1 smoke requests to green answered as they should; left out: pay: it writes"
    assert smoke.failure([CASES[0], CASES[2]], "green") is None
    error = smoke.failure(CASES[1:], "green")
    assert error
    assert str(error) == "1 of 1 smoke requests failed on green: a\x00 page: status 500 <b>."


@pytest.mark.parametrize(
    ("data", "label"),
    [
        ({"path": "/a", "name": "page"}, "page (GET /a)"),
        ({"path": "/a"}, "/a (GET /a)"),
        ({"tcp": "a:1", "name": "redis"}, "redis (tcp a:1)"),
        ({"command": ["npm"], "effect": "read"}, "npm (command)"),
        ({"websocket": "/ws", "name": "live"}, "live (/ws)"),
        ({"websocket": "/ws"}, "/ws"),
    ],
)
def test_a_request_is_named_as_it_was_written(data: dict[str, Any], label: str) -> None:
    (step,) = smoke.steps_from([data])
    assert step.label == label
