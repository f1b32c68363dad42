# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Environments compared without their values: fingerprints, exports of platforms, names."""

from __future__ import annotations

import json

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.env_compare import Prints, fingerprint, from_export, names_between, prints_from, take
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from hypothesis import given
from hypothesis import strategies as st

KEY = "0f" * 32
VALUES = st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,9}", fullmatch=True), st.text(st.characters(exclude_categories=("Cs",)), max_size=30), max_size=6)


@given(VALUES, st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
def test_a_fingerprint_knows_its_value_and_no_other(values: dict[str, str], other: str) -> None:
    prints = prints_from(json.loads(json.dumps(take(values, KEY).as_dict())), "x")
    assert prints is not None
    for name, value in values.items():
        assert prints.holds(name, value) is True
        assert prints.holds(name, other) is (other == value)
    assert prints.holds("never there", other) is None


def test_a_fingerprint_depends_on_key_and_name_and_shows_nothing() -> None:
    assert fingerprint(KEY, "A", "x") != fingerprint(KEY, "B", "x") != fingerprint("1f" * 32, "B", "x")
    assert fingerprint(KEY, "A", "Bx") != fingerprint(KEY, "AB", "x")
    assert KEY not in repr(take({"A": "x"}, KEY))


@pytest.mark.parametrize(
    "data", [{"A": "x"}, {"key": "zz", "fingerprints": {}}, {"key": KEY, "fingerprints": {"A": "hunter2"}}, {"key": "00", "fingerprints": {}}, [1]]
)
def test_what_holds_no_fingerprints_is_refused_without_being_shown(data: object) -> None:
    with pytest.raises(SluiceError, match="app_env_staging holds no fingerprints. Write them with fingerprint.yml") as caught:
        prints_from(data, "app_env_staging")
    assert "hunter2" not in str(caught.value) + str(caught.value.details())


def test_no_fingerprints_are_none() -> None:
    assert prints_from(None, "x") is None
    assert prints_from({"key": KEY, "fingerprints": {}}, "x") == Prints(KEY, {})


@pytest.mark.parametrize(
    "text",
    [
        "A=1\nB='x y'\n",
        '[{"envVar": {"key": "A", "value": "1"}, "cursor": "c"}, {"envVar": {"key": "B", "value": "x y"}, "cursor": "d"}]',
        '{"envs": [{"key": "A", "value": "1", "type": "encrypted", "target": ["production"]}, {"key": "B", "value": "x y", "type": "plain"}]}',
        '{"A": 1, "B": "x y"}',
    ],
    ids=["dotenv", "render", "vercel", "railway"],
)
def test_what_platforms_export_is_read(text: str) -> None:
    assert from_export(text) == {"A": "1", "B": "x y"}


@pytest.mark.parametrize("text", ['{"A": "hunter2"', '[{"key": "hunter2"}]', '{"A": {"secret": "hunter2"}}', '["hunter2"]', "hunter2"])
def test_what_is_no_export_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(SluiceError) as caught:
        from_export(text)
    assert "hunter2" not in str(caught.value) + str(caught.value.details())


def test_names_are_compared() -> None:
    assert names_between(["A", "B"], ["B", "C"]) == (["A"], ["C"])
