# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Environment files: what both libraries read alike is read so, what is written is read back, what is malformed is named by its line."""

from __future__ import annotations

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.dotenv import parse, render
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from hypothesis import given
from hypothesis import strategies as st

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)))


@given(st.dictionaries(NAMES, VALUES))
def test_what_is_rendered_is_read_back(values: dict[str, str]) -> None:
    assert parse(render(values)) == values


@given(st.text(alphabet="AB='\"\\#` \n\r\t\ufeffé$", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        values = parse(text)
    except SluiceError as error:
        assert error.facts["line"] >= 1
    else:
        assert parse(render(values)) == values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("KEY=plain", "plain"),
        ("KEY=", ""),
        ("KEY=''", ""),
        ("  KEY = spaced out  ", "spaced out"),
        ("export KEY=exported", "exported"),
        ("KEY=value # comment", "value"),
        ("KEY= # comment", ""),
        ("KEY='a # b' # comment", "a # b"),
        ('KEY="a\\nb"', "a\nb"),
        ("KEY='a\\nb'", "a\\nb"),
        ('KEY="first\nsecond"', "first\nsecond"),
        ('KEY="say \\"hi\\""', 'say "hi"'),
        ("KEY=a=b==", "a=b=="),
        ("KEY=it's", "it's"),
        ("KEY=$OTHER ${OTHER}", "$OTHER ${OTHER}"),
        ("\ufeffKEY=bom", "bom"),
        ("# head\r\n\r\nKEY=crlf\r\n", "crlf"),
        ("KEY=first\nKEY=last\n", "last"),
    ],
)
def test_common_spellings(text: str, value: str) -> None:
    assert parse(text) == {"KEY": value}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("GOOD=1\nhunter2\n", 2),
        ("GOOD=1\n\n# note\nKEY='hunter2\n", 4),
        ('KEY="hunter2" more', 1),
        ("1KEY=hunter2", 1),
        ("KEY=hunter2#3", 1),
        ("KEY=#hunter2", 1),
        ("KEY=`hunter2`", 1),
        ('A="one\ntwo"\nKEY=hunter2\0', 3),
        ("=hunter2", 1),
    ],
)
def test_a_malformed_line_is_named_and_its_value_is_not(text: str, line: int) -> None:
    with pytest.raises(SluiceError, match=f"Line {line} of the environment file") as caught:
        parse(text)
    assert "hunter2" not in str(caught.value) + str(caught.value.details())


@pytest.mark.parametrize("values", [{"NO SPACE": "x"}, {"": "x"}, {"A=B": "x"}, {"KEY": "nul\0"}])
def test_what_cannot_be_written_is_refused(values: dict[str, str]) -> None:
    with pytest.raises(SluiceError):
        render(values)
