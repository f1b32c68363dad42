# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets show themselves as stars, and leave no text they were scrubbed from."""

from __future__ import annotations

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.secret import MASK, Secret, scrub
from hypothesis import given
from hypothesis import strategies as st

WORDS = st.text("abc", min_size=4, max_size=8)


@given(st.text(min_size=1))
def test_a_secret_is_printed_as_stars(value: str) -> None:
    secret = Secret(value)
    assert {str(secret), repr(secret), f"{secret}", f"{[secret]}"[1:-1], "%s" % secret} == {MASK}  # noqa: UP031
    assert secret.reveal() == value


def test_an_empty_secret_is_false_and_there_is_no_other_way_in() -> None:
    assert not Secret("")
    assert Secret("x")
    assert not hasattr(Secret("x"), "__dict__")


@pytest.mark.parametrize(
    ("text", "secrets", "shown"),
    [
        ("nothing here", ["hunter2"], "nothing here"),
        ("--token hunter2 --x", ["hunter2"], f"--token {MASK} --x"),
        ("hunter2hunter2", ["hunter2"], MASK * 2),
        ("hunter22", ["hunter2", "hunter22"], MASK),
        ("hunter22", ["hunter22", "hunter2"], MASK),
        ("a cat sat", ["cat", ""], "a cat sat"),
        ("postgresql://ann:hunter2@db/wallet", [], f"postgresql://ann:{MASK}@db/wallet"),
        ("see redis://:hunter2@cache:6379/0 and HTTP://a:b@c", [], f"see redis://:{MASK}@cache:6379/0 and HTTP://a:{MASK}@c"),
        ("postgresql+psycopg://ann:p:w@db/x", [], f"postgresql+psycopg://ann:{MASK}@db/x"),
        ("postgresql://ann@db:5432/wallet", [], "postgresql://ann@db:5432/wallet"),
        ("https://pay.test/a:b", [], "https://pay.test/a:b"),
        ("mail ann@pay.test at 10:30", [], "mail ann@pay.test at 10:30"),
    ],
)
def test_secrets_and_passwords_in_urls_become_stars(text: str, secrets: list[str], shown: str) -> None:
    assert scrub(text, secrets) == shown


@given(st.text("abc xyz:/@", max_size=60), st.lists(WORDS, max_size=4))
def test_no_secret_is_left(text: str, secrets: list[str]) -> None:
    shown = scrub(text + "".join(secrets) + text, secrets)
    assert not [secret for secret in secrets if secret in shown]


@given(st.text(), st.lists(WORDS))
def test_scrubbing_twice_changes_nothing_more(text: str, secrets: list[str]) -> None:
    assert scrub(scrub(text, secrets), secrets) == scrub(text, secrets)


@given(st.text("abcXYZ019!$%&*+.:", min_size=1, max_size=20))
def test_the_password_of_a_url_never_shows(password: str) -> None:
    assert scrub(f"at postgresql://ann:{password}@db/wallet it broke") == f"at postgresql://ann:{MASK}@db/wallet it broke"
