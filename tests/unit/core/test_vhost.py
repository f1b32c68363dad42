# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The text of a site: what is in it, what is refused, and that no value leaves its directive."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.vhost import RateLimit, Vhost, cors_lines, header_lines, render_vhost, vhost_from
from hypothesis import given
from hypothesis import strategies as st

OLD, NEW = (1, 22, 1), (1, 31, 3)
LEAST: dict[str, Any] = {"names": ["pay.example.com"], "certificate": "/etc/tls/pay.pem", "key": "/etc/tls/pay.key"}
FULL: dict[str, Any] = {
    **LEAST,
    "names": ["pay.example.com", "*.pay.example.com"],
    "address": "192.0.2.10",
    "acme_directory": "/var/www/acme",
    "csp": "default-src 'self'; frame-ancestors 'none'",
    "headers": {"X-Robots-Tag": "noindex"},
    "cors_origins": ["https://app.example.com"],
    "cors_credentials": True,
    "rate_limits": [{"name": "login", "path": "/login"}],
    "rate_exempt": ["/webhooks/"],
    "real_ip_from": ["10.0.0.0/8"],
    "access_log": "/var/log/nginx/pay.log",
}


def text_of(data: dict[str, Any], version: tuple[int, int, int] = OLD) -> str:
    """Return the rendered site."""
    return render_vhost("pay", "pay", vhost_from(data), "/etc/nginx/sluice/pay/config/server.conf", version)


def directives(text: str) -> list[tuple[int, list[str]]]:
    """Read the text as nginx does; return each directive with its depth and its words."""
    found: list[tuple[int, list[str]]] = []
    depth, words, at = 0, [], 0
    while at < len(text):
        sign = text[at]
        if sign in " \t\r\n":
            at += 1
        elif sign == "#":
            at = text.index("\n", at)
        elif sign in ";{}":
            if words or sign == "{":
                found.append((depth, words))
            depth, words, at = depth + {"{": 1, "}": -1, ";": 0}[sign], [], at + 1
        elif sign in "\"'":
            end = at + 1
            while text[end] != sign:
                end += 2 if text[end] == "\\" else 1
            assert text[end + 1] in " \t\r\n;{)", f"nginx wants a space or ; after {text[at : end + 1]}"
            words.append(re.sub(r"\\([\"'\\])", r"\1", text[at + 1 : end]))
            at = end + 1
        else:
            match = re.compile(r"(?:\\.|\$\{|[^\s;{\\])+", re.DOTALL).match(text, at)
            assert match
            words.append(match.group())
            at = match.end()
    assert (depth, words) == (0, [])
    return found


def servers(text: str) -> list[list[str]]:
    """Return the lines of each server."""
    return [[line.strip() for line in block.splitlines()] for block in re.findall(r"^server \{\n(.*?)^\}$", text, re.DOTALL | re.MULTILINE)]


def skeleton(text: str) -> list[tuple[int, str, int]]:
    """Return the shape of the configuration without its values and without the keys of its maps."""
    return [(depth, words[0] if words[0].isidentifier() else "", len(words)) for depth, words in directives(text)]


def test_the_least_site_is_a_secure_one() -> None:
    tls, plain, redirect, main = servers(text_of(LEAST))
    assert tls[:2] == ["listen 443 ssl http2 default_server;", "listen [::]:443 ssl http2 default_server;"]
    assert {"ssl_reject_handshake on;", "ssl_protocols TLSv1.2 TLSv1.3;", "return 444;"} < set(tls)
    assert plain == ["listen 80 default_server;", "listen [::]:80 default_server;", "server_name _;", "server_tokens off;", "access_log off;", "return 444;"]
    assert redirect[-1] == "location / { return 301 https://pay.example.com$request_uri; }"
    assert {"ssl_protocols TLSv1.2 TLSv1.3;", "server_tokens off;", "client_max_body_size 10m;", "ssl_session_tickets off;"} < set(main)
    assert main[-1] == "include /etc/nginx/sluice/pay/config/server.conf;"
    assert not [line for line in main if line.startswith(("limit_", "real_ip", "set_real_ip", "if")) or "Access-Control" in line or "Vary" in line]
    assert not re.search("Strict-Transport", "".join(redirect))


def test_http2_is_asked_for_as_the_version_wants_it() -> None:
    for version, listens, directive in (((1, 25, 0), "listen 443 ssl http2;", 0), ((1, 25, 1), "listen 443 ssl;", 2), (NEW, "listen 443 ssl;", 2)):
        text = text_of(LEAST, version)
        assert listens in servers(text)[-1]
        assert text.count("    http2 on;\n") == directive
        assert "http2" not in text_of({**LEAST, "http2": False}, version)


def test_an_nginx_that_cannot_reject_a_handshake_has_a_certificate_there() -> None:
    assert "ssl_certificate /etc/tls/pay.pem;" in servers(text_of(LEAST, (1, 19, 3)))[0]
    assert "ssl_certificate /etc/tls/pay.pem;" not in servers(text_of(LEAST, (1, 19, 4)))[0]


@pytest.mark.parametrize(
    ("data", "listens"),
    [
        ({}, {"443 ssl", "[::]:443 ssl", "80", "[::]:80"}),
        ({"ipv6": False}, {"443 ssl", "80"}),
        ({"address": "192.0.2.1", "https_port": 8443, "http_port": 0}, {"192.0.2.1:8443 ssl"}),
        ({"address": "2001:db8::1"}, {"[2001:db8::1]:443 ssl", "[2001:db8::1]:80"}),
        ({"tls": False, "certificate": "", "key": "", "http_port": 8080, "ipv6": False}, {"8080"}),
    ],
)
def test_where_it_listens(data: dict[str, Any], listens: set[str]) -> None:
    text = text_of({**LEAST, **data}, NEW)
    assert {" ".join(words[1:]) for _depth, words in directives(text) if words[0] == "listen"} == {
        f"{listen}{suffix}" for listen in listens for suffix in ("", " default_server")
    }
    assert "default_server" not in text_of({**LEAST, **data, "default_server": False})


def test_the_redirect_names_another_port() -> None:
    assert "return 301 https://pay.example.com:8443$request_uri;" in text_of({**LEAST, "https_port": 8443})


def test_header_lines_are_those_of_the_server() -> None:
    vhost = vhost_from(FULL)
    assert header_lines(vhost) == (
        'add_header Strict-Transport-Security "max-age=300" always;',
        'add_header X-Content-Type-Options "nosniff" always;',
        'add_header X-Frame-Options "SAMEORIGIN" always;',
        'add_header Referrer-Policy "strict-origin-when-cross-origin" always;',
        'add_header Permissions-Policy "camera=(), microphone=(), geolocation=()" always;',
        "add_header Content-Security-Policy \"default-src 'self'; frame-ancestors 'none'\" always;",
        'add_header X-Robots-Tag "noindex" always;',
    )
    main = servers(text_of(FULL))[-1]
    assert [line for line in main if line.startswith("add_header")] == [*header_lines(vhost), *cors_lines("pay", vhost)]
    assert len([line for line in main if line.startswith("proxy_hide_header")]) == len(header_lines(vhost)) + 5
    bare = replace(vhost, hsts_seconds=0, frame_options="", referrer_policy="", permissions_policy="", csp="", headers={"X-A": ""}, cors_origins=())
    assert (header_lines(bare), cors_lines("pay", bare)) == (('add_header X-Content-Type-Options "nosniff" always;',), ())
    assert 'add_header Strict-Transport-Security "max-age=1; includeSubDomains" always;' in header_lines(replace(vhost, hsts_seconds=1, hsts_subdomains=True))


def test_a_zone_has_another_name_for_other_parameters() -> None:
    limits = [RateLimit("a", "/"), RateLimit("b", "/"), RateLimit("a", "/x"), RateLimit("a", "/", "1r/s"), RateLimit("a", "/", burst=0)]
    sites = [replace(vhost_from(LEAST), rate_limits=(limit,)) for limit in limits]
    sites.append(replace(sites[0], rate_exempt=("/hook",)))
    zones = [re.findall(r"zone=(\w+)", render_vhost("pay", "pay", vhost, "/s", OLD)) for vhost in sites]
    assert [len(zone) for zone in zones] == [2] * 6
    assert all(made == used for made, used in zones)
    assert len({made for made, _used in zones}) == 6


def test_what_does_not_fit_in_a_cell_is_a_pattern() -> None:
    long = "a" * 40 + ".example.com"
    text = text_of({**LEAST, "names": ["pay.example.com", long, f"*.{long}"], "cors_origins": [f"https://{long}"]})
    pattern = long.replace(".", "\\.")
    assert f'server_name "pay.example.com" "~^{pattern}$" "~^.+\\.{pattern}$";' in text
    assert f'"~^https://{pattern}$" "https://{long}";' in text


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"name": "x"}, "site.name is 'x'; allowed is none of that name; there are names, certificate, key, "),
        ({"names": None}, "site.names is []; allowed is one or more host names, the first without *. For example: [pay.example.com, '*.pay.example.com']."),
        ({"names": "pay.example.com"}, "site.names is 'pay.example.com'; allowed is a list"),
        ({"names": ["*.example.com"]}, "site.names is ['*.example.com']; allowed is one or more host names, the first without *"),
        ({"names": ["a.example", "a.example"]}, "allowed is a list without doubles"),
        ({"names": ["a.example", "B.example"]}, "site.names[1] is 'B.example'; allowed is a host name in small letters"),
        ({"names": ["a.example", "~^x$"]}, "site.names[1]"),
        ({"names": [".".join(["a" * 60] * 5)]}, "site.names[0]"),
        ({"certificate": ""}, "site.certificate is ''; allowed is the path of a file on the edge with tls, and nothing without"),
        ({"key": None}, "site.key is ''"),
        ({"tls": False}, "site.certificate is '/etc/tls/pay.pem'"),
        ({"tls": "yes"}, "site.tls is 'yes'; allowed is true or false. For example: true."),
        ({"certificate": "/etc/../x"}, "site.certificate"),
        ({"certificate": "etc/x"}, "site.certificate"),
        ({"https_port": 0}, "site.https_port is 0; allowed is a port of its own from 1 to 65535"),
        ({"http_port": 443}, "site.https_port is 443; allowed is a port of its own"),
        ({"http_port": True}, "site.http_port is True"),
        ({"http_port": "80"}, "site.http_port is '80'; allowed is a port from 1 to 65535, or 0 for none"),
        ({"tls": False, "certificate": "", "key": "", "http_port": 0}, "site.http_port is 0"),
        ({"address": "localhost"}, "site.address is 'localhost'"),
        ({"address": "10.0.0.0/8"}, "site.address"),
        ({"address": "fe80::1%eth0"}, "site.address"),
        ({"acme_directory": "/a", "http_port": 0}, "site.acme_directory is '/a'; allowed is empty where there is no redirect"),
        ({"hsts_seconds": -1}, "site.hsts_seconds is -1"),
        ({"frame_options": "ALLOW"}, "site.frame_options is 'ALLOW'; allowed is SAMEORIGIN, DENY or empty"),
        ({"referrer_policy": "none"}, "site.referrer_policy"),
        ({"csp": "default-src $host"}, "site.csp is 'default-src $host'; allowed is up to 2000 visible ASCII characters, none of them a backslash or a dollar"),
        ({"csp": "a\nb"}, "site.csp"),
        ({"csp": "a" * 2001}, "site.csp"),
        ({"permissions_policy": "cam\\"}, "site.permissions_policy"),
        ({"headers": ["X-A"]}, "site.headers is ['X-A']"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "site.headers"),
        ({"headers": {"Set-Cookie": "1"}}, "site.headers is 'Set-Cookie'; allowed is names of letters, digits and -, none that is written elsewhere"),
        ({"headers": {"Access-Control-Allow-Origin": "*"}}, "site.headers is 'Access-Control-Allow-Origin'"),
        ({"headers": {"X A": "1"}}, "site.headers is 'X A'"),
        ({"headers": {"X-A": 1}}, "site.headers.X-A is 1"),
        ({"cors_origins": ["*"]}, "site.cors_origins[0] is '*'; allowed is an exact origin in small letters. For example: https://app.example.com."),
        ({"cors_origins": ["null"]}, "site.cors_origins[0]"),
        ({"cors_origins": ["https://a.example/"]}, "site.cors_origins[0]"),
        ({"cors_origins": ["https://a.example:65536"]}, "site.cors_origins[0]"),
        ({"cors_methods": ["*"]}, "site.cors_methods[0]"),
        ({"cors_headers": ["*"]}, "site.cors_headers[0]"),
        ({"rate_limits": "login"}, "site.rate_limits is 'login'; allowed is a list of limits"),
        ({"rate_limits": ["login"]}, "site.rate_limits[0] is 'login'; allowed is a mapping"),
        ({"rate_limits": [{"name": "a", "path": "/", "rates": 1}]}, "site.rate_limits[0].rates is 1; allowed is none of that name"),
        ({"rate_limits": [{"name": "a"}]}, "site.rate_limits[0].path is ''"),
        ({"rate_limits": [{"name": "a", "path": "/", "rate": "10"}]}, "site.rate_limits[0].rate is '10'; allowed is a number of requests in a second"),
        ({"rate_limits": [{"name": "a", "path": "/", "burst": -1}]}, "site.rate_limits[0].burst is -1"),
        ({"rate_limits": [{"name": "a", "path": "/", "key": "cookie"}]}, "site.rate_limits[0].key is 'cookie'; allowed is address"),
        (
            {"rate_limits": [{"name": "a", "path": "/"}, {"name": "a", "path": "/b"}]},
            "site.rate_limits is ['a', 'a']; allowed is limits with a name of its own each",
        ),
        ({"rate_exempt": ["hook"]}, "site.rate_exempt[0] is 'hook'"),
        ({"real_ip_from": ["0.0.0.0/0"]}, "site.real_ip_from[0] is '0.0.0.0/0'; allowed is a network, not the whole internet"),
        ({"real_ip_from": ["10.0.0.1/8"]}, "site.real_ip_from[0]"),
        ({"real_ip_header": "proxy_protocol"}, "site.real_ip_header"),
        ({"upload_limit": "10MB"}, "site.upload_limit is '10MB'"),
        ({"upload_limit": 10}, "site.upload_limit is 10"),
        ({"access_log": "syslog:server=x"}, "site.access_log"),
    ],
)
def test_wrong_values_are_named(data: dict[str, Any], said: str) -> None:
    with pytest.raises(SluiceError) as caught:
        vhost_from({**LEAST, **data})
    assert str(caught.value).startswith(said) or said in str(caught.value)


@pytest.mark.parametrize(
    ("app", "word", "include"), [("Pay", "pay", "/s"), ("pay\n", "pay", "/s"), ("pay", "pa-y", "/s"), ("pay", "pay", ""), ("pay", "pay", "/s;")]
)
def test_the_other_arguments_are_checked_as_well(app: str, word: str, include: str) -> None:
    with pytest.raises(SluiceError):
        render_vhost(app, word, vhost_from(LEAST), include, OLD)


def test_what_is_not_a_mapping_is_refused() -> None:
    with pytest.raises(SluiceError, match=r"^site is \['a'\]; allowed is a mapping"):
        vhost_from(["a"])  # type: ignore[arg-type]
    with pytest.raises(SluiceError, match=r"^site.rate_limits\[0\].name is None"):
        Vhost(("a.example",), "/c", "/k", rate_limits=({"name": "a"},))  # type: ignore[arg-type]


def test_a_site_survives_being_written_down() -> None:
    for data in (LEAST, FULL):
        vhost = vhost_from(data)
        assert vhost_from(json.loads(json.dumps(asdict(vhost)))) == vhost
        assert vhost_from({**dict.fromkeys(asdict(vhost)), **data}) == vhost


hostile = st.text(st.sampled_from("\"'\\;{}$#\n\r\t ~^*./:-_=()a1") | st.characters(), min_size=1, max_size=8)


@st.composite
def attacks(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """Return a site one of whose texts has something put into it, and the name of that value."""
    texts = {
        "upload_limit": "10m",
        "real_ip_header": "X-Real-IP",
        "frame_options": "DENY",
        "referrer_policy": "origin",
        "permissions_policy": "camera=()",
        **FULL,
    }
    key = draw(st.sampled_from(sorted(name for name, value in texts.items() if isinstance(value, (str, list, dict)))))
    bad = draw(hostile)

    def spoil(value: str) -> str:
        at = draw(st.integers(0, len(value)))
        return draw(st.sampled_from([bad, value[:at] + bad + value[at:]]))

    if key == "rate_limits":
        limit = {"name": "login", "path": "/login", "rate": "10r/s", "key": "address"}
        part = draw(st.sampled_from(sorted(limit)))
        return key, {**texts, key: [{**limit, part: spoil(limit[part])}]}
    if key == "headers":
        name, value = draw(st.sampled_from([(spoil("X-A"), "noindex"), ("X-A", spoil("noindex"))]))
        return key, {**texts, key: {name: value}}
    if isinstance(texts[key], list):
        return key, {**texts, key: [*texts[key][:-1], spoil(texts[key][-1])]}
    return key, {**texts, key: spoil(texts[key])}


@given(attacks(), st.sampled_from([(1, 18, 0), OLD, NEW]))
def test_no_value_leaves_its_directive(attack: tuple[str, dict[str, Any]], version: tuple[int, int, int]) -> None:
    key, data = attack
    try:
        text = text_of(data, version)
    except SluiceError as error:
        assert str(error).startswith(f"site.{key}")
        return
    assert skeleton(text) == skeleton(text_of(FULL, version))
    if key == "csp":
        assert ["add_header", "Content-Security-Policy", data["csp"], "always"] in [words for _depth, words in directives(text)]


@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=30).filter(
        lambda text: not set(text) & set("\\$") and text == text.strip()
    ).map(lambda text: f"x{text}")  # so that it is none of the values that stand there anyway
)
def test_what_is_visible_may_stand_in_a_header(value: str) -> None:
    text = text_of({**FULL, "csp": value, "permissions_policy": value, "headers": {"X-A": value}})
    assert [words[2] for _depth, words in directives(text) if words[0] == "add_header"].count(value) == 6
    assert skeleton(text) == skeleton(text_of(FULL))
