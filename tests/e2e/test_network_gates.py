# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates from outside against real servers: each passes where it should, fails for its own reason, and says so when it cannot tell."""

from __future__ import annotations

import base64
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import dns as dns_adapter
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.e2e.edges import binary_of
from tests.e2e.servers import Authority, Names, Silent, Web, call, context_of, gates, serving, verdicts
from tests.sandbox.world import free_ports

HOST = "shop.test"


def public_key(bits: int) -> str:
    key = rsa.generate_private_key(65537, bits).public_key()
    return base64.b64encode(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)).decode()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


# Names

ZONE = {
    (HOST, "A"): ["192.0.2.10"],
    (HOST, "NS"): ["ns.shop.test."],
    ("ns.shop.test", "A"): ["127.0.0.2"],
    ("www.shop.test", "CNAME"): [f"{HOST}."],
    (HOST, "TXT"): ["v=spf1 include:mail.test -all", "other=1"],
    ("mail.test", "TXT"): ["v=spf1 ip4:192.0.2.0/24 ~all"],
    ("_dmarc.shop.test", "TXT"): ["v=DMARC1; p=reject; rua=mailto:d@shop.test"],
}


@pytest.fixture
def names() -> Iterator[Names]:
    with serving(Names({**ZONE, ("s1._domainkey.shop.test", "TXT"): [f"v=DKIM1; k=rsa; p={public_key(2048)}"]})) as server:
        yield server


def asked(server: Names, **more: Any) -> dict[str, Any]:
    return {"resolvers": [server.address], "timeout": 1.0, "deadline": 8.0, **more}


def test_records_that_are_right_pass(names: Names, tmp_path: Path) -> None:
    result = call(
        tmp_path,
        "network",
        **asked(names),
        dns=[
            {"name": HOST, "values": ["192.0.2.10"]},
            {"name": "www.shop.test", "type": "CNAME", "values": [HOST]},
            {"name": HOST, "type": "TXT", "values": ["other=1"]},
        ],
        mail=[{"domain": HOST, "spf": ["mail.test"], "dkim": ["s1"]}],
    )
    assert set(verdicts(result).values()) == {"pass"}, result["gates"]
    assert len(result["gates"]) == 6


def test_records_that_are_wrong_fail_for_their_reason(names: Names, tmp_path: Path) -> None:
    names.records[("twice.test", "TXT")] = ["v=spf1 -all", "v=spf1 ~all"]
    names.records[("_dmarc.twice.test", "TXT")] = ["v=DMARC1; p=none"]
    names.records[("open.test", "TXT")] = ["v=spf1 " + " ".join(f"a:h{number}.test" for number in range(11)) + " ?all"]
    names.records[("short._domainkey.twice.test", "TXT")] = [f"v=DKIM1; p={public_key(1024)[:80]}"]
    names.records[("gone._domainkey.twice.test", "TXT")] = ["v=DKIM1; p="]
    result = call(
        tmp_path,
        "network",
        **asked(names),
        dns=[
            {"name": HOST, "values": ["192.0.2.99"]},
            {"name": "none.test", "values": ["192.0.2.10"]},
            {"name": HOST, "type": "AAAA", "values": ["2001:db8::1"]},
        ],
        mail=[{"domain": "twice.test", "dkim": ["short", "gone", "never"]}, {"domain": "open.test", "spf": ["sendgrid.net"]}],
    )
    said = {name: gate["sentence"] for name, gate in gates(result).items()}
    assert set(verdicts(result).values()) == {"fail"}, result["gates"]
    assert "192.0.2.10, expected 192.0.2.99" in said[f"dns A {HOST}"]
    assert "there is no such name" in said["dns A none.test"]
    assert "no record of this type" in said[f"dns AAAA {HOST}"]
    assert "2 SPF records" in said["spf twice.test"]
    for words in ("11 look-ups", "does not include sendgrid.net", "anybody may send"):
        assert words in said["spf open.test"]
    assert "the policy none, quarantine is wanted" in said["dmarc twice.test"]
    assert "0 DMARC records" in said["dmarc open.test"] or "no such name" in said["dmarc open.test"]
    assert "1024 bits" in said["dkim short.twice.test"]
    assert "revoked" in said["dkim gone.twice.test"]
    assert "no such name" in said["dkim never.twice.test"]


def test_a_server_that_fails_or_is_silent_proves_nothing(names: Names, tmp_path: Path) -> None:
    names.codes = {HOST: "SERVFAIL", "www.shop.test": "SILENT", "_dmarc.shop.test": "REFUSED"}
    records = [{"name": HOST, "values": ["192.0.2.10"]}, {"name": "www.shop.test", "values": ["192.0.2.1"]}]
    result = call(tmp_path, "network", **asked(names), dns=records, mail=[{"domain": HOST}])
    assert set(verdicts(result).values()) == {"inconclusive"}, result["gates"]
    said = {name: gate["sentence"] for name, gate in gates(result).items()}
    assert "SERVFAIL" in said[f"dns A {HOST}"]
    assert "no answer in time" in said["dns A www.shop.test"]


def test_resolvers_that_differ_are_told_apart(names: Names, tmp_path: Path) -> None:
    with serving(Names({**ZONE, (HOST, "A"): ["192.0.2.20"]})) as other:
        result = call(tmp_path, "network", **{**asked(names), "resolvers": [names.address, other.address]}, dns=[{"name": HOST, "values": ["192.0.2.10"]}])
    gate = gates(result)[f"dns A {HOST}"]
    assert gate["verdict"] == "fail"
    assert f"{other.address} says 192.0.2.20" in gate["sentence"]
    assert names.address not in gate["sentence"]


def test_the_ttl_is_asked_of_the_zones_own_servers(tmp_path: Path) -> None:
    cache = Names(ZONE, authoritative=False)
    cache.ttl = 7  # what is left of it
    own = Names(ZONE, address="127.0.0.2", port=cache.port)
    own.ttl = 3600
    params = asked(cache, dns=[{"name": HOST, "values": ["192.0.2.10"]}], dns_ttl=300)
    with serving(cache, own):
        gate = gates(call(tmp_path, "network", **params))[f"dns TTL {HOST}"]
        assert (gate["verdict"], gate["value"]) == ("fail", 3600)
        own.ttl = 60
        assert gates(call(tmp_path, "network", **params))[f"dns TTL {HOST}"]["verdict"] == "pass"
        cache.records.pop((HOST, "NS"))
        gate = gates(call(tmp_path, "network", **params))[f"dns TTL {HOST}"]
        assert gate["verdict"] == "inconclusive"
        assert "only a cache answered" in gate["sentence"]


def test_an_answer_too_long_for_udp_is_read(names: Names) -> None:
    names.records[("long.test", "TXT")] = ["x" * 180 + str(number) for number in range(40)]
    assert len(dns_adapter.ask("long.test", "TXT", names.address, 2).values) == 40


# TLS


def shown(tmp_path: Path, authority: Authority, certificate: Path, lowest: str = "TLSv1_2", highest: str = "TLSv1_3", **more: Any) -> dict[str, dict[str, Any]]:
    """Judge a server with this certificate; the plain side leads to it."""
    secure = Web(lambda _request: (200, [], "home"), context_of(certificate, lowest, highest))
    plain = Web(lambda request: (301, [("Location", f"https://{HOST}{request.path}")], ""))
    with serving(secure, plain):
        places = {f"{HOST}:443": f"127.0.0.1:{secure.port}", f"{HOST}:80": f"127.0.0.1:{plain.port}"}
        return gates(call(tmp_path, "network", url=f"https://{HOST}", connect_to=places, ca=str(authority.ca), timeout=2.0, **more))


def test_a_good_certificate_passes_every_gate(authority: Authority, tmp_path: Path) -> None:
    found = shown(tmp_path, authority, authority.issue("good", [HOST]))
    assert {name: gate["verdict"] for name, gate in found.items()} == dict.fromkeys(
        (f"tls chain {HOST}", f"tls name {HOST}", f"tls days {HOST}", f"tls protocols {HOST}", f"https redirect {HOST}", f"https loop {HOST}"), "pass"
    )


@pytest.mark.parametrize(
    ("gate", "verdict", "words", "kind"),
    [
        ("days", "fail", "expired", {"days": -3}),
        ("days", "fail", "14 are needed", {"days": 10}),
        ("days", "inconclusive", "a renewal is due below 30", {"days": 20}),
        ("name", "fail", "not for shop.test", {"names": ["shop.example"]}),
        ("chain", "fail", "the intermediate is missing", {"chain": False}),
        ("chain", "fail", "self-signed", {"self_signed": True}),
    ],
)
def test_a_bad_certificate_fails_one_gate(authority: Authority, tmp_path: Path, gate: str, verdict: str, words: str, kind: dict[str, Any]) -> None:
    certificate = authority.issue(f"bad-{tmp_path.name}", **{"names": [HOST], **kind})
    found = shown(tmp_path, authority, certificate)
    about = {name: each for name, each in found.items() if name.startswith("tls")}
    assert [name for name, each in about.items() if each["verdict"] != "pass"] == [f"tls {gate} {HOST}"], about
    assert about[f"tls {gate} {HOST}"]["verdict"] == verdict
    assert words in about[f"tls {gate} {HOST}"]["sentence"]


def test_old_protocols_are_found(authority: Authority, tmp_path: Path) -> None:
    certificate = authority.issue("old", [HOST])
    gate = shown(tmp_path, authority, certificate, "TLSv1", "TLSv1_2")[f"tls protocols {HOST}"]
    assert gate["verdict"] == "fail"
    assert "still speaks TLSv1;" in gate["sentence"] and "still speaks TLSv1.1" in gate["sentence"]
    gate = shown(tmp_path, authority, certificate, "TLSv1_2", "TLSv1_2")[f"tls protocols {HOST}"]
    assert (gate["verdict"], gate["severity"]) == ("inconclusive", "warn")
    assert shown(tmp_path, authority, certificate, "TLSv1_3", "TLSv1_3")[f"tls protocols {HOST}"]["verdict"] == "pass"


def test_no_handshake_cannot_tell(authority: Authority, tmp_path: Path) -> None:
    with serving(Silent()) as silent:
        places = {f"{HOST}:443": f"127.0.0.1:{silent.port}", f"{HOST}:80": f"127.0.0.1:{silent.port}"}
        asked_for = {"pages": [{"path": "/"}], "protected": [{"path": "/admin"}], "cors_paths": ["/api"], "assets": ["/a.js"], "burst": {"path": "/"}}
        result = call(tmp_path, "network", url=f"https://{HOST}", connect_to=places, timeout=0.5, deadline=4.0, **asked_for)
    assert set(verdicts(result).values()) == {"inconclusive"}, result["gates"]
    assert result["seconds"] < 20


def test_the_served_certificate_is_the_one_on_disk(authority: Authority, tmp_path: Path) -> None:
    served, lying = authority.issue("served", [HOST]), authority.issue("lying", [HOST])
    with serving(Web(lambda _request: (200, [], ""), context_of(served))) as web:
        address = f"127.0.0.1:{web.port}"
        same = call(tmp_path, "network", certificate={"host": HOST, "path": str(served), "address": address})
        other = call(tmp_path, "network", certificate={"host": HOST, "path": str(lying), "address": address})
        missing = call(tmp_path, "network", certificate={"host": HOST, "path": str(tmp_path / "none"), "address": address})
    silent = call(tmp_path, "network", certificate={"host": HOST, "path": str(served), "address": address})
    assert [verdicts(each) for each in (same, other, silent)] == [{f"tls file {HOST}": word} for word in ("pass", "fail", "inconclusive")]
    assert "Reload nginx" in gates(other)[f"tls file {HOST}"]["remedy"]
    assert "holds no certificate" in gates(missing)["tls file"]["sentence"]
    assert not any("PRIVATE" in each["said"] for each in (same, other, missing, silent))


# Pages, on a real nginx

SECURITY = """
add_header Strict-Transport-Security "max-age=31536000" always;
add_header Content-Security-Policy "default-src 'self'; frame-ancestors 'none'" always;
add_header X-Content-Type-Options nosniff always;
add_header Referrer-Policy strict-origin-when-cross-origin always;
"""
GOOD = f"""
server_tokens off;
{SECURITY}
location = / {{ {SECURITY} add_header Set-Cookie "session=s3cretvalue; Path=/; Secure; HttpOnly; SameSite=Lax" always; return 200 home; }}
location = /admin {{ return 302 /login?next=/admin; }}
location = /api/me {{ return 401; }}
location = /old {{ return 301 https://$host/new; }}
location = /app.0123.js {{ {SECURITY} add_header Cache-Control "public, max-age=31536000, immutable" always; add_header X-Cache HIT always; return 200 x; }}
location = /api/open {{
    {SECURITY}
    add_header Access-Control-Allow-Origin $allowed_origin always;
    add_header Vary Origin always;
    return 200 open;
}}
location = /limited {{ limit_req zone=probe burst=5 nodelay; limit_req_status 429; try_files /none =204; }}
location / {{ return 404; }}
"""
BAD = """
location = / {
    add_header Set-Cookie "session=s3cretvalue; Path=/";
    add_header X-XSS-Protection "1; mode=block";
    add_header X-Frame-Options "ALLOW-FROM https://other.test";
    add_header Strict-Transport-Security "max-age=60";
    add_header Referrer-Policy unsafe-url;
    add_header X-Powered-By Express;
    return 200 home;
}
location = /admin { return 200 everything; }
location = /api/me { return 404; }
location = /old { return 200 new; }
location = /app.0123.js { add_header Cache-Control no-store; return 200 x; }
location = /api/open {
    add_header Access-Control-Allow-Origin $http_origin always;
    add_header Access-Control-Allow-Credentials true always;
    return 200 open;
}
location / { return 404; }
"""
QUESTIONS: dict[str, Any] = {
    "url": f"https://{HOST}",
    "pages": [{"path": "/"}, {"path": "/none", "kind": "error"}, {"path": "/old", "kind": "redirect"}, {"path": "/app.0123.js", "kind": "asset"}],
    "protected": [{"path": "/admin", "login": "/login"}, {"path": "/api/me"}],
    "cors_paths": ["/api/open"],
    "cors_origins": ["https://app.shop.test"],
    "assets": ["/app.0123.js"],
    "assets_cdn": True,
    "burst": {"path": "/limited", "requests": 20},
}


class Nginx:
    """A real nginx with one TLS site and one plain one."""

    def __init__(self, folder: Path, certificate: Path, site: str, plain: str) -> None:
        self.secure, self.plain = free_ports(2)
        folder.mkdir()
        temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        config = folder / "nginx.conf"
        config.write_text(
            f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log; events {{ worker_connections 128; }}\n"
            f"http {{ {temporary} access_log off; limit_req_zone $binary_remote_addr zone=probe:1m rate=1r/s;\n"
            'map $http_origin $allowed_origin { default ""; "https://app.shop.test" $http_origin; }\n'
            f"server {{ listen 127.0.0.1:{self.secure} ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate};\n"
            f"ssl_protocols TLSv1.2 TLSv1.3; root {folder};\n{site} }}\n"
            f"server {{ listen 127.0.0.1:{self.plain}; {plain} }} }}\n",
            encoding="utf-8",
        )
        words = [binary_of("distribution"), "-p", str(folder), "-c", str(config), "-e", f"{folder}/error.log"]
        self._process = subprocess.Popen(words, stderr=subprocess.PIPE)
        for _attempt in range(200):
            if (folder / "pid").exists() and (folder / "pid").read_text():
                return
            assert self._process.poll() is None, self._process.communicate()[1]
            time.sleep(0.02)

    @property
    def places(self) -> dict[str, str]:
        """Where the host's ports really are."""
        return {f"{HOST}:443": f"127.0.0.1:{self.secure}", f"{HOST}:80": f"127.0.0.1:{self.plain}"}

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(timeout=10)
        if self._process.stderr:
            self._process.stderr.close()


def test_a_good_site_passes_every_gate(authority: Authority, tmp_path: Path) -> None:
    with serving(Nginx(tmp_path / "nginx", authority.issue("site", [HOST]), GOOD, "return 301 https://$host$request_uri;")) as nginx:
        result = call(tmp_path, "network", connect_to=nginx.places, ca=str(authority.ca), **QUESTIONS)
    assert {name: word for name, word in verdicts(result).items() if word != "pass"} == {}, result["gates"]
    assert {"pages", "cookies", "server tokens", "cors", "assets", "anonymous access", "rate limit", "header Referrer-Policy"} <= set(verdicts(result))
    assert gates(result)["cors"]["sample"] == 12


def test_a_bad_site_fails_every_gate_for_its_own_reason(authority: Authority, tmp_path: Path) -> None:
    with serving(Nginx(tmp_path / "nginx", authority.issue("site-bad", [HOST]), BAD, "return 302 https://$host/;")) as nginx:
        questions = {**QUESTIONS, "burst": {"path": "/", "requests": 20}, "protected": QUESTIONS["protected"][:1]}
        result = call(tmp_path, "network", connect_to=nginx.places, ca=str(authority.ca), **questions)
        unsure = call(tmp_path, "network", connect_to=nginx.places, ca=str(authority.ca), url=QUESTIONS["url"], protected=[{"path": "/api/me"}])
    said = {name: gate["sentence"] for name, gate in gates(result).items()}
    good = [name for name, word in verdicts(result).items() if word == "pass"]
    assert sorted(good) == sorted([*(f"tls {what} {HOST}" for what in ("chain", "name", "days", "protocols")), f"https loop {HOST}"]), result["gates"]
    assert verdicts(result)["obsolete headers"] == "warn"
    assert "/old answered with status 200, as redirect page" in said["pages"]
    assert "max-age 60" in said["header Strict-Transport-Security"] and "/none" in said["header Strict-Transport-Security"]
    assert "ALLOW-FROM" in said["header X-Frame-Options"]
    assert "is missing" in said["header Content-Security-Policy"]
    assert "unsafe-url" in said["header Referrer-Policy"]
    assert "nginx/" in said["server tokens"] and "Express" in said["server tokens"]
    for word in ("Secure", "HttpOnly", "SameSite"):
        assert f"the cookie session has no {word}" in said["cookies"]
    assert "/api/open: this foreign origin is let in, with credentials (https://sluice-foreign.example, " in said["cors"]
    assert "https://foreignshop.test, http://shop.test, null)" in said["cors"] and "Vary: Origin is missing" in said["cors"]
    assert "/admin answers a stranger with status 200" in said["anonymous access"]
    assert "no-store" in said["assets"] and "was no hit" in said["assets"]
    assert "let all 20 requests" in said["rate limit"]
    assert "302, which browsers do not remember" in said[f"https redirect {HOST}"]
    assert gates(unsure)["anonymous access"]["verdict"] == "inconclusive"
    assert "so it may not exist" in gates(unsure)["anonymous access"]["sentence"]
    assert "s3cretvalue" not in result["said"]


def test_the_typo_of_a_host_is_caught(tmp_path: Path) -> None:
    named = {"app_public_url": "https://bookedbarber.com", "api": "https://api.bookedbarber.com"}
    good = call(tmp_path, "network", named_hosts=named, domains=["bookedbarber.com"])
    assert verdicts(good) == {"hosts": "pass"}
    bad = call(tmp_path, "network", named_hosts={**named, "staging": "https://api-staging.bookedbarbe.com"}, domains=["bookedbarber.com"])
    assert gates(bad)["hosts"]["sentence"] == "staging: api-staging.bookedbarbe.com looks like bookedbarber.com, but is another domain"


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"url": "shop.test"}, "Example: https://shop.example.org"),
        ({"url": "https://shop.test", "pages": [{"path": "home"}]}, "'home' is no path"),
        ({"url": "https://shop.test", "burst": {"path": "/", "requests": 5000}}, "from 2 to 300 are allowed"),
        ({"url": "https://shop.test", "cors_origins": ["https://shop.test/"]}, "is no origin"),
        ({"protected": [{"path": "/admin"}]}, "url is missing"),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, params: dict[str, Any], words: str) -> None:
    result = call(tmp_path, "network", **params)
    assert result["failed"] and words in result["msg"]
