# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator may set: every complaint names the variable, what is wrong, what is allowed, and an example."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import inputs
from hypothesis import given
from hypothesis import strategies as st

SPECS: dict[str, dict[str, Any]] = {
    "app_name": {},
    "app_services": {"type": "list"},
    "app_source_kind": {"choices": ["git", "archive", "directory"], "default": "git"},
    "app_source_sha256": {"default": ""},
    "app_env": {"type": "dict"},
    "backup_jobs": {"type": "int", "default": 2},
    "canary_pace": {"choices": ["attended", "stepwise"], "default": "attended"},
    "canary_percent": {"type": "int"},
    "canary_rate": {"type": "float"},
    "canary_routes": {"type": "list"},
    "canary_steps": {"type": "list"},
    "edge_adopt": {"type": "bool", "default": False},
    "edge_force": {"type": "bool"},
    "release_directory": {"type": "path", "default": "/srv/wallet"},
    "release_id": {"default": ""},
    "release_token": {"no_log": True, "choices": ["a", "b"]},
    "release_version": {"default": ""},
    "slot_deadline": {"type": "float", "default": 60.0},
}
VERSION_WORDS = "letters, digits, dots, dashes, plus signs and underscores only, beginning with a letter or digit"
STEPS = "Example: canary_steps: [{percent: 5, min: 600, max: 1800, then: hold}, {percent: 100, min: 300, max: 900, then: hold}]"
# A value of every shape: whatever is set, the answer is a complaint or none, never an exception.
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["percent", "min", "max", "then", "x"]), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("canary_percent", "abc", "canary_percent must be a whole number from 0 to 100 %, not 'abc'. Example: canary_percent=25"),
        ("canary_percent", 5.5, "canary_percent must be a whole number from 0 to 100 %, not 5.5. Example: canary_percent=25"),
        ("canary_percent", True, "canary_percent must be a whole number from 0 to 100 %, not True. Example: canary_percent=25"),
        ("canary_percent", None, "canary_percent must be a whole number from 0 to 100 %, not None. Example: canary_percent=25"),
        ("canary_percent", 101, "canary_percent must be from 0 to 100 %, not 101. Example: canary_percent=25"),
        ("canary_percent", "-5", "canary_percent must be from 0 to 100 %, not -5. Example: canary_percent=25"),
        ("backup_jobs", "many", "backup_jobs must be a whole number from 1 to 64 processes, not 'many'. Example: backup_jobs=2"),
        ("backup_jobs", 0, "backup_jobs must be from 1 to 64 processes, not 0. Example: backup_jobs=1"),
        ("slot_deadline", "soon", "slot_deadline must be a number, not 'soon'. Example: slot_deadline=60.0"),
        ("slot_deadline", 3601, "slot_deadline must be from 1 to 3600 s, not 3601. Example: slot_deadline=1"),
        ("canary_rate", [], "canary_rate must be a number, not []. Example: canary_rate=1.5"),
        ("edge_adopt", "perhaps", "edge_adopt must be true or false, not 'perhaps'. Example: edge_adopt=False"),
        ("edge_force", 2, "edge_force must be true or false, not 2. Example: edge_force=true"),
        ("app_services", "web", "app_services must be a list, not 'web'. Example: app_services=[one, two]"),
        ("app_env", ["A"], "app_env must be a mapping, not ['A']. Example: app_env={name: value}"),
        ("app_name", {"a": 1}, "app_name must be text, not {'a': 1}. Example: app_name=text"),
        ("release_directory", ["/a"], "release_directory must be text, not ['/a']. Example: release_directory=/srv/wallet"),
        ("canary_pace", "fast", "canary_pace must be one of attended, stepwise, not 'fast'. Example: canary_pace=attended"),
        ("release_token", "hunter2", "release_token must be one of a, b, not the given value. Example: release_token=a"),
        (
            "app_name",
            "Wallet",
            "app_name may hold up to 31 lower-case letters, digits and underscores only, beginning with a letter, not 'Wallet'. Example: app_name=wallet",
        ),
        ("release_version", "../x", f"release_version may hold up to 63 {VERSION_WORDS}, not '../x'. Example: release_version=v1.0.0"),
        ("release_version", "v1\n", f"release_version may hold up to 63 {VERSION_WORDS}, not 'v1\\n'. Example: release_version=v1.0.0"),
        ("release_id", "a b", f"release_id may hold up to 128 {VERSION_WORDS}, not 'a b'. Example: release_id=v1.0.0-20260102T030405Z"),
    ],
)
def test_a_complaint_says_what_is_allowed_with_an_example(name: str, value: Any, words: str) -> None:
    assert inputs.wrong({name: value}, SPECS) == [words]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("canary_percent", 0),
        ("canary_percent", "100"),
        ("canary_percent", " 25 "),
        ("slot_deadline", "1e2"),
        ("edge_force", "yes"),
        ("edge_force", "False"),
        ("canary_pace", "stepwise"),
        ("release_version", ""),
        ("release_version", "v1.0.0-rc.1+build_7"),
        ("release_id", None),
        ("app_services", ()),
        ("app_name", "wallet_2"),
    ],
)
def test_a_good_value_is_taken(name: str, value: Any) -> None:
    assert inputs.wrong({name: value}, SPECS) == []


@given(st.sampled_from(sorted(SPECS)), ANYTHING)
def test_every_complaint_names_the_variable_and_ends_with_an_example(name: str, value: Any) -> None:
    for complaint in inputs.wrong({name: value}, SPECS):
        said, found, example = complaint.partition(" Example: ")
        assert said.startswith(name)
        assert found
        assert example.startswith(name)
        assert any(word in said for word in (" must be ", " may hold ", " allowed", " must end ", "must be"))


@given(ANYTHING)
def test_a_secret_value_is_not_thrown_back(value: Any) -> None:
    complaints = inputs.wrong({"release_token": ["hunter2", value]}, SPECS)
    assert complaints == ["release_token must be text, not the given value. Example: release_token=text"]


def test_a_long_value_is_cut() -> None:
    complaints = inputs.wrong({"canary_pace": "x" * 200}, SPECS)
    assert complaints == [f"canary_pace must be one of attended, stepwise, not '{'x' * 56}.... Example: canary_pace=attended"]


def test_all_variables_that_are_wrong_are_said_at_once() -> None:
    complaints = inputs.wrong({"edge_force": "x", "backup_jobs": 99, "canary_percent": 5, "canary_steps": []}, SPECS)
    assert [complaint.split()[0] for complaint in complaints] == ["backup_jobs", "edge_force"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("canary_percant", "canary_percant is no variable of this collection. Did you mean canary_percent?"),
        ("relaese_version", "relaese_version is no variable of this collection. Did you mean release_version?"),
        ("zzz", "zzz is no variable of this collection. See the tables in the roles' README files."),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest(name: str, words: str) -> None:
    assert inputs.unknown([name], [], SPECS) == [words]
    assert inputs.unknown([], [name], SPECS) == [words]
    assert inputs.unknown([name, "app_name"], [name], SPECS) == [words]


def test_an_archive_must_be_named_with_its_checksum() -> None:
    assert inputs.wrong({"app_source_kind": "git", "app_source_sha256": ""}, SPECS) == []
    assert inputs.wrong({"app_source_kind": "archive", "app_source_sha256": "0" * 64}, SPECS) == []
    (missing,) = inputs.wrong({"app_source_kind": "archive", "app_source_sha256": ""}, SPECS)
    assert missing.startswith("app_source_sha256 must be the SHA-256 of the archive")
    for word in ("abc", "A" * 64, "0" * 63, "0" * 64 + " file.tar"):
        (complaint,) = inputs.wrong({"app_source_kind": "archive", "app_source_sha256": word}, SPECS)
        assert complaint.startswith("app_source_sha256 may hold 64 lower-case hex digits only, not ")


def test_names_of_ansible_and_our_own_private_ones_are_let_through() -> None:
    assert inputs.unknown(["ansible_user", "__release", "app_name"], ["ansible_host"], SPECS) == []


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([], ["canary_steps must end at 100 %, not at 0 %."]),
        ([5], ["canary_steps: step 1 must be a mapping with percent and optionally min, max, then, not_before."]),
        ([{"min": 5}], ["canary_steps: step 1 must be a mapping with percent and optionally min, max, then, not_before."]),
        ([{"percent": 5, "mim": 5}], ["canary_steps: step 1 must be a mapping with percent and optionally min, max, then, not_before."]),
        ([{"percent": "five"}], ["canary_steps: percent, min, max and not_before of step 1 must be numbers."]),
        ([{"percent": 5, "max": "long"}], ["canary_steps: percent, min, max and not_before of step 1 must be numbers."]),
        ([{"percent": 5, "min": None}], ["canary_steps: percent, min, max and not_before of step 1 must be numbers."]),
        ([{"percent": 50}, {"percent": 100}, {"percent": 100}], ["step 3 has 100 %, but each step must be above the one before (100 %) and at most 100."]),
        ([{"percent": -1}, {"percent": 100}], ["step 1 has -1 %, but each step must be above the one before (0 %) and at most 100."]),
        ([{"percent": 101}], ["step 1 has 101 %, but each step", "canary_steps must end at 100 %, not at 101 %."]),
        ([{"percent": 100, "min": 9, "max": 8}], ["step 1 has min 9 s and max 8 s; 0 <= min <= max is allowed."]),
        ([{"percent": 100, "min": -1}], ["step 1 has min -1 s and max -1 s; 0 <= min <= max is allowed."]),
        ([{"percent": 100, "min": float("nan")}], ["step 1 has min nan s and max nan s; 0 <= min <= max is allowed."]),
        ([{"percent": 100, "then": "wait"}], ["step 1 says then: wait; allowed are hold, promote, rollback."]),
    ],
)
def test_steps_that_cannot_be_walked_are_refused(steps: list[Any], words: list[str]) -> None:
    complaints = inputs.steps(steps)
    assert len(complaints) == len(words)
    for complaint, part in zip(complaints, words):
        assert part in complaint
        assert complaint.endswith(STEPS)
    assert inputs.wrong({"canary_steps": steps}, SPECS) == complaints


@pytest.mark.parametrize(
    ("routes", "words"),
    [
        ([5], "canary_routes: route 1 must be a mapping with name and path."),
        ([{"name": "api", "path": "api"}], "canary_routes: the path of route 1 begins with /"),
        ([{"name": "api", "path": "/api/"}, {"name": "pay", "path": "/api/pay"}], "canary_routes: route 2 (/api/pay) is never reached, because /api/ comes"),
    ],
)
def test_routes_that_tell_nothing_apart_are_refused(routes: list[Any], words: str) -> None:
    (complaint,) = inputs.wrong({"canary_routes": routes}, SPECS)
    assert complaint.startswith(words) and complaint.endswith("Example: canary_routes: [{name: payment, path: /api/payments/}, {name: api, path: /api/}]")
    assert inputs.wrong({"canary_routes": [{"name": "payment", "path": "/api/payments/"}, {"name": "api", "path": "/api/"}]}, SPECS) == []


@given(st.sets(st.integers(1, 99)), st.floats(0, 1e6), st.floats(0, 1e6), st.sampled_from(["hold", "promote", "rollback"]))
def test_steps_that_grow_to_100_are_taken(shares: set[int], low: float, more: float, then: str) -> None:
    assert inputs.steps([{"percent": share, "min": low, "max": low + more, "then": then} for share in [*sorted(shares), 100]]) == []
    assert inputs.steps([{"percent": str(share)} for share in [*sorted(shares), 100]]) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("canary_windows", [{"from": "9"}], "canary_windows: 9 to 24:00"),
        ("canary_watch_phases", [{"until": 60}], "canary_watch_phases: each part"),
    ],
)
def test_times_of_the_wrong_shape_are_refused(name: str, value: Any, said: str) -> None:
    (complaint,) = inputs.wrong({name: value}, {name: {"type": "list"}})
    assert said in complaint
    assert "Example:" in complaint


@pytest.mark.parametrize(
    ("smoke", "private", "said"),
    [
        ([{"name": "home", "path": "/"}], None, ""),
        ([{"name": "pay", "path": "/api/pay", "method": "POST"}], None, "effect"),
        ([{"name": "home", "path": "/{ID}"}], None, "ID"),
        ([{"name": "home", "path": "/{ID}"}], "/etc/wallet/smoke.env", ""),
        ([{"name": "home", "paht": "/"}], None, "paht"),
    ],
)
def test_smoke_requests_are_read_beforehand(smoke: list[dict[str, Any]], private: str | None, said: str) -> None:
    specs = {"app_smoke": {"type": "list", "elements": "dict"}, "app_smoke_values": {"type": "path"}}
    given = {"app_smoke": smoke, **({"app_smoke_values": private} if private else {})}
    complaints = inputs.wrong(given, specs)
    assert (len(complaints) == 1 and said in complaints[0]) if said else complaints == []
