# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts, redirects and bursts by their rules alone."""

from __future__ import annotations

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import net_rules
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Answer
from hypothesis import given
from hypothesis import strategies as st

LETTERS = st.text("abc.", max_size=8)


@given(LETTERS, LETTERS)
def test_the_distance_is_one_both_ways(left: str, right: str) -> None:
    steps = net_rules.distance(left, right)
    assert steps == net_rules.distance(right, left)
    assert (steps == 0) == (left == right)
    assert abs(len(left) - len(right)) <= steps <= max(len(left), len(right))


@given(st.text("abcdefgh", min_size=9, max_size=12), st.integers(0, 8), st.sampled_from(["", "z", "zz"]))
def test_one_letter_gone_added_or_changed_is_a_slip(name: str, place: int, put: str) -> None:
    slip = name[:place] + put + name[place + 1 :]
    assert net_rules.looks_like(f"api.{slip}.com", f"{name}.com") == (slip != name)
    assert not net_rules.looks_like(f"api.{name}.com", f"{name}.com")


@pytest.mark.parametrize(
    "host", ["bookedbarbe.com", "api-staging.bookedbarbe.com", "bookedbarbre.com", "bookedbarber.co", "bookedbarber.com.evil.net", "bookedbarber.net"]
)
def test_what_looks_like_the_domain_is_caught(host: str) -> None:
    assert net_rules.judge_hosts({"API_URL": [host]}, ["bookedbarber.com"]).verdict == "fail"


@pytest.mark.parametrize("host", ["bookedbarber.com", "api.bookedbarber.com", "o1.ingest.sentry.io", "api.stripe.com", "latest.bookedbarber.com"])
def test_the_domain_itself_and_others_pass(host: str) -> None:
    assert net_rules.judge_hosts({"API_URL": [host]}, ["bookedbarber.com"]).verdict == "pass"


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("your-api-domain.com", "placeholder"),
        ("production.yourdomain.com", "placeholder"),
        ("[production-domain]", "placeholder"),
        ("api.example.com", "placeholder"),
        ("localhost", "not reachable"),
        ("10.0.0.7", "not reachable"),
        ("staging.shop.io", "another stage"),
        ("api-staging.shop.io", "another stage"),
    ],
)
def test_hosts_that_are_nobodys_production(host: str, words: str) -> None:
    assert words in net_rules.judge_hosts({"URL": [host]}, ["shop.io"]).sentence


def test_a_short_name_forgives_no_slip_and_a_foreign_domain_can_be_meant() -> None:
    assert net_rules.judge_hosts({"URL": ["abd.io"]}, ["abc.io"]).verdict == "pass"
    assert net_rules.judge_hosts({"URL": ["shops.io"]}, ["shop.io"]).verdict == "fail"
    assert net_rules.judge_hosts({"URL": ["cdn.shops.io"]}, ["shop.io"], allowed=["shops.io"]).verdict == "pass"


@pytest.mark.parametrize(
    ("value", "hosts"),
    [
        ("https://user:pw@api.shop.io:8443/x?y=https://other.io/z", ["api.shop.io"]),
        ("https://a.io, wss://b.io/path", ["a.io", "b.io"]),
        ("Shop <noreply@shop.io>", ["shop.io"]),
        ("https://[::1]:3000/", ["::1"]),
        ("https://[domain]/", ["[domain]"]),
        ("postgresql://app:pw@db.internal/shop", []),
        ("p@ssword", []),
        ("https://", []),
    ],
)
def test_hosts_are_found_in_values(value: str, hosts: list[str]) -> None:
    assert net_rules.hosts_in(value) == hosts


@pytest.mark.parametrize(
    ("status", "location", "verdict"),
    [
        (301, "https://shop.io/a?b=1", "pass"),
        (308, "https://shop.io:443/a?b=1", "pass"),
        (302, "https://shop.io/a?b=1", "fail"),
        (301, "https://shop.io/", "fail"),
        (301, "https://shop.io:8443/a?b=1", "fail"),
        (301, "https://evil.io/a?b=1", "fail"),
        (301, "http://shop.io/a?b=1", "fail"),
        (301, "/a?b=1", "fail"),
        (301, "https://shop.io:x/a?b=1", "fail"),
        (200, "", "fail"),
        (503, "", "inconclusive"),
    ],
)
def test_a_redirect_keeps_everything(status: int, location: str, verdict: str) -> None:
    answer = Answer(status, "", 0.0, {"Location": location} if location else {})
    assert net_rules.judge_redirect("shop.io", "/a?b=1", answer).verdict == verdict


def test_nobody_on_the_plain_port_fails_and_silence_cannot_tell() -> None:
    assert net_rules.judge_redirect("shop.io", "/", Answer(0, "", 0, error="no answer from shop.io: Connection refused")).verdict == "fail"
    assert net_rules.judge_redirect("shop.io", "/", Answer(0, "", 0, error="no answer from shop.io: timed out")).verdict == "inconclusive"


def test_a_page_that_leads_back_to_http_is_a_loop() -> None:
    assert net_rules.judge_home("shop.io", Answer(302, "", 0, {"Location": "http://shop.io/"})).verdict == "fail"
    assert net_rules.judge_home("shop.io", Answer(302, "", 0, {"Location": "https://shop.io/login"})).verdict == "pass"


@pytest.mark.parametrize(
    ("statuses", "verdict"),
    [([200, 200, 429], "pass"), ([200] * 9 + [503], "fail"), ([200] * 10, "fail"), ([429], "inconclusive"), ([200, 0], "inconclusive"), ([], "inconclusive")],
)
def test_a_burst(statuses: list[int], verdict: str) -> None:
    answers = [Answer(status, "", 0, error="" if status else "timed out") for status in statuses]
    assert net_rules.judge_burst("/", answers, 10).verdict == verdict


@pytest.mark.parametrize(
    ("status", "location", "verdict"),
    [(401, "", "pass"), (302, "/login?next=/x", "pass"), (302, "/elsewhere", "fail"), (200, "", "fail"), (404, "", "inconclusive"), (500, "", "inconclusive")],
)
def test_a_stranger(status: int, location: str, verdict: str) -> None:
    answer = Answer(status, "", 0, {"location": location})
    assert net_rules.judge_protected([("/x", [401, 403], "/login", answer)]).verdict == verdict
