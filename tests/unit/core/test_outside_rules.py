# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of DNS, TLS, headers and services that need no server to be tried."""

from __future__ import annotations

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import api_rules, dns_rules, header_rules, services_rules, tls_rules
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Answer
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import VERDICTS
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("names", "host", "covered"),
    [
        (["shop.io"], "shop.io", True),
        (["*.shop.io"], "api.shop.io", True),
        (["*.shop.io"], "shop.io", False),
        (["*.shop.io"], "a.b.shop.io", False),
        (["*.io"], "shop.io", False),
        (["SHOP.io"], "shop.IO.", True),
        (["192.0.2.1"], "192.0.2.1", True),
        (["*.0.2.1"], "192.0.2.1", False),
    ],
)
def test_the_names_of_a_certificate(names: list[str], host: str, covered: bool) -> None:
    assert tls_rules.covers(names, host) is covered


def test_the_days_are_those_of_the_certificate_that_ends_first() -> None:
    leaf = tls_rules.Certificate("CN=shop.io", "CN=middle", ("shop.io",), 0, 90 * 86400, "aa")
    middle = tls_rules.Certificate("CN=middle", "CN=root", (), 0, 5 * 86400, "bb")
    gates = {gate.name: gate for gate in tls_rules.judge(tls_rules.Served("shop.io", (leaf, middle)), {}, 1, 14, 30)}
    assert "the intermediate CN=middle" in gates["tls days shop.io"].sentence
    assert gates["tls days shop.io"].verdict == "fail"
    assert gates["tls protocols shop.io"].verdict == "inconclusive"


COOKIES = [
    ("session=x; Secure; HttpOnly; SameSite=Lax", True, []),
    ("session=x; httponly; samesite=STRICT; secure", True, []),
    ("session=x; HttpOnly; SameSite=Lax", False, []),
    ("session=x; HttpOnly; SameSite=None", False, ["no Secure"]),
    ("session=x", True, ["no Secure", "no HttpOnly", "no SameSite"]),
    ("__Host-s=x; Secure; HttpOnly; SameSite=Lax; Path=/; Domain=shop.io", True, ["browsers refuse it"]),
    ("open=x; Secure; SameSite=Lax", True, []),
]


@pytest.mark.parametrize(("header", "secure", "wrong"), COOKIES)
def test_the_flags_of_a_cookie(header: str, secure: bool, wrong: list[str]) -> None:
    found = header_rules.cookie_complaints(header, secure, ["open"])
    assert len(found) == len(wrong)
    assert all(text in found[place] for place, text in enumerate(wrong))


def headers(**values: str) -> header_rules.Page:
    fields = tuple((name.replace("_", "-"), value) for name, value in values.items())
    return header_rules.Page("/", "page", Answer(200, "", 0, dict(fields), fields=fields))


@pytest.mark.parametrize(
    ("page", "name", "verdict"),
    [
        (headers(Content_Security_Policy="default-src 'self'"), "Content-Security-Policy", "pass"),
        (headers(Content_Security_Policy="img-src 'self'"), "Content-Security-Policy", "fail"),
        (headers(Content_Security_Policy="script-src *"), "Content-Security-Policy", "fail"),
        (headers(Content_Security_Policy_Report_Only="default-src 'self'"), "Content-Security-Policy", "fail"),
        (headers(Content_Security_Policy="frame-ancestors 'none'"), "X-Frame-Options", "pass"),
        (headers(Content_Security_Policy="frame-ancestors *", X_Frame_Options="DENY"), "X-Frame-Options", "fail"),
        (headers(X_Frame_Options="sameorigin"), "X-Frame-Options", "pass"),
        (headers(X_Frame_Options="DENY", x_frame_options="SAMEORIGIN"), "X-Frame-Options", "fail"),
        (headers(Strict_Transport_Security="max-age=0"), "Strict-Transport-Security", "fail"),
        (headers(Strict_Transport_Security="includeSubDomains"), "Strict-Transport-Security", "fail"),
        (headers(X_Content_Type_Options="NoSniff"), "X-Content-Type-Options", "pass"),
        (headers(Referrer_Policy="no-referrer, strict-origin"), "Referrer-Policy", "pass"),
        (headers(Referrer_Policy=""), "Referrer-Policy", "fail"),
    ],
)
def test_a_header(page: header_rules.Page, name: str, verdict: str) -> None:
    found = {gate.name: gate.verdict for gate in header_rules.judge_pages([page], [name], 300)}
    assert found[f"header {name}"] == verdict


def test_spf_that_never_ends_does_end() -> None:
    def look(name: str) -> dns_rules.Found:
        number = int(name[1:].partition(".")[0])
        return dns_rules.Found("s", name, "TXT", "ok", (f"v=spf1 include:d{number + 1}.test -all",))

    gate = dns_rules.judge_spf("d0.test", [], look)
    assert gate.verdict == "fail" and "10 are allowed" in gate.sentence


def test_an_included_name_without_spf_breaks_it_and_a_silent_one_cannot_tell() -> None:
    found = {"a.test": ("ok", ("v=spf1 include:b.test redirect=c.test",)), "b.test": ("nxdomain", ()), "c.test": ("ok", ("v=spf1 -all",))}

    def look(name: str) -> dns_rules.Found:
        return dns_rules.Found("s", name, "TXT", *found[name])

    assert "b.test, which it includes, has 0 SPF records" in dns_rules.judge_spf("a.test", ["c.test"], look).sentence
    found["b.test"] = ("timeout", ())
    assert dns_rules.judge_spf("a.test", ["c.test"], look).verdict == "inconclusive"
    found["b.test"] = ("ok", ("v=spf1 -all",))
    assert dns_rules.judge_spf("a.test", ["c.test"], look).verdict == "pass"


@pytest.mark.parametrize(
    ("dsn", "verdict"),
    [
        (f"https://{'0a' * 16}@o1.ingest.sentry.io/1", "pass"),
        (f"https://{'0a' * 16}@o1.ingest.de.sentry.io/1", "pass"),
        (f"https://{'0a' * 16}@sentry.io/1", "pass"),
        (f"https://{'0a' * 16}@errors.shop.io:9000/sentry/1", "pass"),
        (f"http://{'0a' * 16}@errors.shop.io/1", "fail"),
        ("https://key@sentry.io/1", "fail"),
        (f"https://{'0a' * 16}@sentry.io/", "fail"),
        (f"https://{'0a' * 16}:{'0b' * 16}@sentry.io/1", "inconclusive"),
    ],
)
def test_a_dsn(dsn: str, verdict: str) -> None:
    gate = api_rules.judge_dsn(dsn)
    assert gate.verdict == verdict
    assert "0a0a" not in gate.sentence + gate.remedy


@given(st.integers(0, 999), st.booleans())
def test_every_status_has_a_verdict(status: int, broken: bool) -> None:
    gate = api_rules.classify("x", Answer(status, "", 0, error="timed out" if broken else ""), "a right")
    assert gate.verdict in VERDICTS
    assert (gate.verdict == "pass") == (not broken and 200 <= status < 300)


def test_credentials_go_nowhere_in_clear() -> None:
    service = api_rules.SERVICES["sendgrid"]
    assert api_rules.base_of(service, {}, "") == "https://api.sendgrid.com"
    assert api_rules.base_of(service, {}, "http://127.0.0.1:1/") == "http://127.0.0.1:1"
    with pytest.raises(SluiceError, match="without TLS"):
        api_rules.base_of(service, {}, "http://api.sendgrid.com")
    with pytest.raises(SluiceError, match="no address"):
        api_rules.base_of(api_rules.SERVICES["supabase_anon"], {"url": ""}, "")


@given(st.integers(0, 200), st.integers(0, 200))
def test_the_hit_ratio_is_that_of_the_window(hits: int, misses: int) -> None:
    gate = services_rules.judge_hits({"hits": 10**6, "misses": 7}, {"hits": 10**6 + hits, "misses": 7 + misses}, 0.5, 10, 5)
    if hits + misses < 10:
        assert gate.verdict == "inconclusive"
    else:
        assert gate.verdict == ("pass" if hits >= misses else "fail")


def test_a_server_that_was_restarted_between_two_looks_cannot_tell() -> None:
    assert services_rules.judge_hits({"hits": 900, "misses": 9}, {"hits": 3, "misses": 500}, 0.5, 10, 5).verdict == "inconclusive"


@pytest.mark.parametrize(("said", "verdict"), [("WRONGPASS bad s3cret", "fail"), ("LOADING Redis is loading", "inconclusive"), ("NOPERM user s3cret", "fail")])
def test_a_refusal_of_redis_shows_none_of_it(said: str, verdict: str) -> None:
    gate = services_rules.judge_refusal(said)
    assert gate.verdict == verdict and "s3cret" not in gate.sentence
