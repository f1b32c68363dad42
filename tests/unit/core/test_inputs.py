# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each complaint names the variable, what is wrong, what is allowed, and an example."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import inputs

SPECS: dict[str, dict[str, Any]] = {
    "canary_percent": {"type": "int"},
    "canary_steps": {"type": "list", "elements": "dict"},
    "canary_limits": {"type": "dict"},
    "canary_watch_seconds": {"type": "float", "default": 600.0},
    "edge_split_key": {"type": "str", "choices": ["visitor", "request"], "default": "visitor"},
    "edge_adopt": {"type": "bool", "default": False},
    "release_version": {"type": "str"},
    "app_token": {"type": "str", "no_log": True},
}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("canary_percent", 101, "canary_percent must be from 0 to 100 %, not 101. Example: canary_percent=25"),
        ("canary_percent", "-5", "canary_percent must be from 0 to 100 %, not -5. Example: canary_percent=25"),
        ("canary_percent", "5.5", "canary_percent must be a whole number from 0 to 100 %, not '5.5'. Example: canary_percent=25"),
        ("canary_percent", True, "canary_percent must be a whole number from 0 to 100 %, not True. Example: canary_percent=25"),
        ("canary_watch_seconds", "soon", "canary_watch_seconds must be a number, not 'soon'. Example: canary_watch_seconds=600.0"),
        ("edge_split_key", "cookie", "edge_split_key must be one of visitor, request, not 'cookie'."),
        ("edge_adopt", "maybe", "edge_adopt must be true or false, not 'maybe'."),
        ("canary_limits", "strict", "canary_limits must be a mapping, not 'strict'."),
        ("canary_steps", 5, "canary_steps must be a list, not 5."),
        (
            "release_version",
            "v1; rm",
            "release_version may hold up to 63 letters, digits, dots",
        ),
        ("app_token", ["a"], "app_token must be text, not the given value."),
    ],
)
def test_a_wrong_value(name: str, value: object, said: str) -> None:
    (complaint,) = inputs.wrong({name: value}, SPECS)
    assert complaint.startswith(said)
    assert f"Example: {name}=" in complaint


def test_right_values_pass() -> None:
    right = {
        "canary_percent": "25",
        "canary_watch_seconds": "1.5",
        "edge_split_key": "request",
        "edge_adopt": "yes",
        "release_version": "v1.0.0-rc.1",
        "canary_limits": {},
    }
    assert inputs.wrong(right, SPECS) == []


def test_unknown_names_are_told_with_the_nearest_known() -> None:
    assert inputs.unknown(["canary_precent", "ansible_user"], ["edge_zzzzzzz"], SPECS) == [
        "canary_precent is no variable of this collection. Did you mean canary_percent?",
        "edge_zzzzzzz is no variable of this collection. See the tables in the roles' README files.",
    ]


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([{"percent": 50}, {"percent": 50}, {"percent": 100}], "step 2 has 50 %, but each step must be above the one before (50 %)"),
        ([{"percent": 5}], "must end at 100 %, not at 5 %"),
        ([], "must end at 100 %, not at 0 %"),
        ([{"percent": 100, "min": 60, "max": 30}], "step 1 has min 60 s and max 30 s"),
        ([{"percent": 100, "then": "pray"}], "step 1 says then: pray; allowed are hold, promote, rollback"),
        ([{"percent": "many"}], "percent, min and max of step 1 must be numbers"),
        ([{"percent": 100, "soak": 5}], "step 1 must be a mapping with percent"),
        (["5"], "step 1 must be a mapping with percent"),
    ],
)
def test_wrong_steps(steps: list[Any], said: str) -> None:
    complaints = inputs.wrong({"canary_steps": steps}, SPECS)
    assert any(said in complaint for complaint in complaints)
    assert all("Example: canary_steps:" in complaint for complaint in complaints)


def test_right_steps() -> None:
    assert inputs.steps([{"percent": 5, "min": 600, "max": 1800, "then": "hold"}, {"percent": "100"}]) == []
