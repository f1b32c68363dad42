# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Database URLs: every spelling is read, the password is never shown, and another database changes nothing else."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.pgurl import libpq_settings, parse, with_database
from hypothesis import given
from hypothesis import strategies as st

TEXTS = st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=("Cs",)), min_size=1, max_size=20)
PASSWORD = "p@ss/w:rd%25'$\\ ?#"


@given(user=TEXTS, password=TEXTS, database=TEXTS)
def test_every_character_survives_percent_encoding(user: str, password: str, database: str) -> None:
    url = parse(f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@db.example:6432/{quote(database, safe='')}")
    assert (url.user, url.password.reveal(), url.host, url.port, url.database) == (user, password, "db.example", "6432", database)


@given(
    scheme=st.sampled_from(["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg"]),
    authority=st.sampled_from(["", "localhost", "u@h", "u:p%40%2f@h:5432", "u:it's$@[::1]:6543", "u:p@a:1,b:2"]),
    query=st.sampled_from(["", "?", "?sslmode=require", "?host=/var/run/db&sslmode=disable", "?schema=public&a=%20+", "?dbname=x&sslmode=prefer"]),
    old=st.sampled_from(["app", "a%20b", "%C3%A9"]),
    new=TEXTS,
)
def test_another_database_changes_nothing_else(scheme: str, authority: str, query: str, old: str, new: str) -> None:
    url = f"{scheme}://{authority}/{old}{query}"
    moved = with_database(url, new)
    assert parse(moved).database == new
    name = quote(new, safe="")
    assert moved == f"{scheme}://{authority}/{name}{re.sub('dbname=x', lambda _m: f'dbname={name}', query)}"
    assert {**libpq_settings_of(moved), "dbname": ""} == {**libpq_settings_of(url), "dbname": ""}


def libpq_settings_of(url: str) -> dict[str, str]:
    return {key: value for key, value in libpq_settings(parse(with_database(url, "same"))).items() if key != "dbname"}


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("postgres://u:p@h:5432/d", {"host": "h", "port": "5432", "user": "u", "dbname": "d"}),
        ("postgresql+psycopg://u:p@h/d", {"host": "h", "user": "u", "dbname": "d"}),
        ("postgresql:///d?host=/var/run/postgresql", {"host": "/var/run/postgresql", "dbname": "d"}),
        ("postgresql://%2Fvar%2Frun:5433/d", {"host": "/var/run", "port": "5433", "dbname": "d"}),
        ("postgresql://u@/d?host=/run&port=5433", {"host": "/run", "port": "5433", "user": "u", "dbname": "d"}),
        ("postgresql://u:p@[2001:db8::1]:5432/d", {"host": "2001:db8::1", "port": "5432", "user": "u", "dbname": "d"}),
        ("postgresql://a:1,b:2/d?target_session_attrs=read-write", {"host": "a,b", "port": "1,2", "dbname": "d", "target_session_attrs": "read-write"}),
        (
            "postgres://u:p@h/d?sslmode=verify-full&sslrootcert=/etc/ca.pem",
            {"host": "h", "user": "u", "dbname": "d", "sslmode": "verify-full", "sslrootcert": "/etc/ca.pem"},
        ),
        ("postgres://u:p@h/d?ssl=true&schema=public&pgbouncer=true", {"host": "h", "user": "u", "dbname": "d", "sslmode": "require"}),
        ("postgres://u:p@h/d?sslmode=no-verify&application_name=x", {"host": "h", "user": "u", "dbname": "d", "sslmode": "require"}),
        ("postgres://h/d?user=u&password=p", {"host": "h", "user": "u", "dbname": "d"}),
    ],
)
def test_spellings(url: str, settings: dict[str, str]) -> None:
    assert libpq_settings(parse(url)) == settings


def test_the_password_is_shown_nowhere() -> None:
    url = parse(f"postgres://u:{quote(PASSWORD, safe='')}@h/d?sslpassword=hunter2")
    assert url.password.reveal() == PASSWORD
    for shown in (repr(url), str(url), f"{url}", url.location()):
        assert PASSWORD not in shown and quote(PASSWORD, safe="") not in shown and "hunter2" not in shown
    assert {PASSWORD, quote(PASSWORD, safe=""), "hunter2"} <= set(url.secrets())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hunter2",
        "mysql://u:hunter2@h/d",
        "postgres://u:hunter2@x@h/d",
        "postgres://u:hunter2/x@h/d",
        "postgres://u:123/hunter2@h/d",
        "postgres://u:123?hunter2@h/d",
        "postgres://u:hunter2?x@h/d",
        "postgres://u:hunter2%zz@h/d",
        "postgres://u:hunter2%@h/d",
        "postgres://u:hunter2%ff@h/d",
        "postgres://u:hunter2%0Ahost=evil@h/d",
        "postgres://u:hunter2@h/d%00",
        "postgres://u:hunter2@h",
        "postgres://u:hunter2@h/",
        "postgres://u:hunter2@h:port/d",
        "postgres://u:hunter2@h/d#x",
        "postgres://u:hunter2@h/d?sslmode",
    ],
)
def test_what_drivers_would_read_differently_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(SluiceError) as caught:
        parse(url)
    assert "hunter2" not in str(caught.value)


def test_what_a_service_file_cannot_hold_is_refused() -> None:
    with pytest.raises(SluiceError, match="spaces at an end of its dbname"):
        libpq_settings(parse("postgres://h/d%20"))
