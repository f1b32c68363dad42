# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates of what an app leans on, against real servers and stand-ins of the APIs; and no secret in anything they say."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.e2e import test_database
from tests.e2e.servers import Authority, Cache, Mail, Silent, Web, call, context_of, gates, serving, verdicts
from tests.e2e.test_database import PASSWORD, Server

server = test_database.server  # the fixture
SENTINEL = "sEnTiNeL-{}-0123456789abcdef"
USER, SECRET = "postman", SENTINEL.format("mail")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def env_of(folder: Path, **values: str) -> str:
    path = folder / "app.env"
    path.write_text("".join(f"{name}='{value}'\n" for name, value in values.items()), encoding="utf-8")
    path.chmod(0o600)
    return str(path)


# PostgreSQL


@pytest.fixture(scope="module")
def database(server: Server) -> Iterator[Server]:
    server.sql(f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD.replace(chr(39), chr(39) * 2)}'")
    server.sql("CREATE DATABASE leaning OWNER app")
    server.sql("CREATE TABLE public.open (id int); CREATE TABLE public.ruled (id int); ALTER TABLE ruled ENABLE ROW LEVEL SECURITY;"
               "CREATE POLICY everyone ON ruled USING (true)", "leaning")  # fmt: skip
    yield server


def pg(database: Server, tmp_path: Path, user: str = "app", **wanted: Any) -> dict[str, Any]:
    env = env_of(tmp_path, DATABASE_URL=database.url("leaning", user).replace("'", "%27"))
    result = call(tmp_path, "services", env_file=env, client_directory=str(database.programs), postgres=wanted, timeout=2.0, deadline=8.0)
    assert PASSWORD not in result["said"] and quote(PASSWORD, safe="") not in result["said"]
    return result


def test_a_database_that_fits_passes(database: Server, tmp_path: Path) -> None:
    result = pg(database, tmp_path, extensions=["plpgsql"], pool_size=5, processes=2, reserved=4)
    assert verdicts(result) == {"postgres role": "pass", "postgres extensions": "pass", "postgres pool": "pass", "postgres row security": "pass"}
    assert "2 slots x 1 host x 2 processes x 5 + 4 reserved = 24 connections; 27 are let in" in gates(result)["postgres pool"]["sentence"]


def test_a_database_that_does_not_fit_fails_for_its_reasons(database: Server, tmp_path: Path) -> None:
    database.sql("CREATE TABLE public.closed (id int); ALTER TABLE closed ENABLE ROW LEVEL SECURITY", "leaning")
    try:
        result = pg(database, tmp_path, "postgres", extensions=["no_such", "plpgsql"], pool_size=10, processes=4)
        exposed = pg(database, tmp_path, exposed=True)
    finally:
        database.sql("DROP TABLE public.closed", "leaning")
    said = {name: gate["sentence"] for name, gate in gates(result).items()}
    assert set(verdicts(result).values()) == {"fail"}
    assert "is a superuser" in said["postgres role"]
    assert "no_such is not installed" in said["postgres extensions"]
    assert "= 85 connections; 27 are let in" in said["postgres pool"]
    assert "public.closed" in said["postgres row security"]
    assert "public.open" in gates(exposed)["postgres row security"]["sentence"]


def test_a_role_s_own_limit_counts_and_more_rights_warn(database: Server, tmp_path: Path) -> None:
    database.sql("ALTER ROLE app CONNECTION LIMIT 8 BYPASSRLS")
    try:
        result = pg(database, tmp_path, pool_size=4)
        meant = pg(database, tmp_path, role_may=["bypassrls"])
    finally:
        database.sql("ALTER ROLE app CONNECTION LIMIT -1 NOBYPASSRLS")
    assert gates(result)["postgres pool"]["limit"] == 8
    assert (verdicts(result)["postgres pool"], verdicts(result)["postgres role"]) == ("fail", "warn")
    assert verdicts(meant)["postgres role"] == "pass"


def test_a_database_that_is_silent_cannot_tell_and_a_wrong_password_fails(database: Server, tmp_path: Path) -> None:
    with serving(Silent()) as silent:
        env = env_of(tmp_path, DATABASE_URL=f"postgresql://app:{SENTINEL.format('pg')}@127.0.0.1:{silent.port}/shop")
        quiet = call(tmp_path, "services", env_file=env, client_directory=str(database.programs), postgres={}, deadline=2.0)
    env = env_of(tmp_path, DATABASE_URL=f"postgresql://app:{SENTINEL.format('pg')}@127.0.0.1:{database.port}/leaning")
    wrong = call(tmp_path, "services", env_file=env, client_directory=str(database.programs), postgres={})
    assert verdicts(quiet) == {"postgres": "inconclusive"}
    assert verdicts(wrong) == {"postgres": "fail"}
    assert "password authentication failed" in gates(wrong)["postgres"]["sentence"]
    assert "sEnTiNeL" not in quiet["said"] + wrong["said"]


# Redis


def test_redis_answers_over_tls_and_its_hits_are_counted_anew(authority: Authority, tmp_path: Path) -> None:
    certificate = authority.issue("redis", ["127.0.0.1"])
    with serving(Cache(tmp_path, SENTINEL.format("redis"), certificate, authority.ca)) as cache:
        env = env_of(tmp_path, REDIS_URL=cache.url)
        wanted = {"ca": str(authority.ca), "window": 1.0, "min_samples": 20, "hit_ratio": 0.5}
        quiet = call(tmp_path, "services", env_file=env, redis=wanted)
        good, bad = (_under_load(cache, authority, tmp_path, env, wanted, key) for key in ("there", "gone"))
        untrusted = call(tmp_path, "services", env_file=env, redis={})
    assert verdicts(quiet) == {"redis": "pass", "redis hit ratio": "inconclusive"}
    assert "over TLS" in gates(quiet)["redis"]["sentence"]
    assert verdicts(good)["redis hit ratio"] == "pass"
    assert gates(bad)["redis hit ratio"]["verdict"] == "fail" and gates(bad)["redis hit ratio"]["value"] < 0.5
    assert verdicts(untrusted) == {"redis": "fail"} and "certificate is refused" in gates(untrusted)["redis"]["sentence"]
    assert "sEnTiNeL" not in quiet["said"] + good["said"] + bad["said"] + untrusted["said"]


def _under_load(cache: Cache, authority: Authority, folder: Path, env: str, wanted: dict[str, Any], key: str) -> dict[str, Any]:
    from ansible_collections.sluice.deploy.plugins.module_utils.adapters.redis import Redis, place_of

    over = threading.Event()

    def ask() -> None:
        with Redis(place_of(cache.url), 30, str(authority.ca)) as connection:
            connection.call("SET", "there", "1")
            while not over.wait(0.005):
                if key == "there":
                    connection.call("GET", key)
                else:
                    connection.call("EXISTS", key)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        return call(folder, "services", env_file=env, redis=wanted)
    finally:
        over.set()
        thread.join()


def test_redis_that_refuses_and_redis_that_is_silent(tmp_path: Path) -> None:
    with serving(Cache(tmp_path, SENTINEL.format("redis"))) as cache:
        good = call(tmp_path, "services", env_file=env_of(tmp_path, REDIS_URL=cache.url), redis={})
        wrong = call(tmp_path, "services", env_file=env_of(tmp_path, REDIS_URL=cache.url.replace("redis-", "other-")), redis={})
        none = call(tmp_path, "services", env_file=env_of(tmp_path, REDIS_URL=f"redis://127.0.0.1:{cache.port}"), redis={})
    gone = call(tmp_path, "services", env_file=env_of(tmp_path, REDIS_URL=cache.url), redis={})
    with serving(Silent()) as silent:
        quiet = call(tmp_path, "services", env_file=env_of(tmp_path, REDIS_URL=f"redis://127.0.0.1:{silent.port}"), redis={}, timeout=0.5)
    assert [verdicts(each)["redis"] for each in (good, wrong, none, gone, quiet)] == ["pass", "fail", "fail", "fail", "inconclusive"]
    said = [gates(each)["redis"]["sentence"] for each in (wrong, none, gone)]
    assert "refuses the password" in said[0] and "wants a password" in said[1] and "nothing listens" in said[2]
    assert "sEnTiNeL" not in good["said"] + wrong["said"] + gone["said"]


# Mail


def mailed(tmp_path: Path, port: int, ca: Path | None = None, password: str = SECRET, **wanted: Any) -> dict[str, Any]:
    env = env_of(tmp_path, SMTP_HOST="127.0.0.1", SMTP_PORT=str(port), SMTP_USER=USER, SMTP_PASSWORD=password)
    result = call(tmp_path, "services", env_file=env, smtp={"ca": str(ca or ""), **wanted}, timeout=1.0)
    assert "sEnTiNeL" not in result["said"]
    return result


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_a_mail_server_takes_the_password_and_gets_no_mail(authority: Authority, tmp_path: Path, tls: str) -> None:
    context = context_of(authority.issue(f"mail-{tls}", ["127.0.0.1"]))
    with serving(Mail(USER, SECRET, context, implicit=tls == "implicit")) as post:
        good = mailed(tmp_path, post.port, authority.ca, tls=tls)
        wrong = mailed(tmp_path, post.port, authority.ca, password=SENTINEL.format("wrong"), tls=tls)
        untrusted = mailed(tmp_path, post.port, tls=tls)
        assert post.mails == []
    assert verdicts(good) == {"smtp": "pass", "smtp tls": "pass", "smtp login": "pass"}
    assert verdicts(wrong) == {"smtp": "pass", "smtp tls": "pass", "smtp login": "fail"}
    assert "fail" in verdicts(untrusted).values()
    assert "certificate is refused" in json.dumps(untrusted["gates"])


def test_a_mail_server_without_tls_never_sees_the_password(tmp_path: Path) -> None:
    with serving(Mail(USER, SECRET)) as post:
        clear = mailed(tmp_path, post.port)
    gone = mailed(tmp_path, post.port)
    with serving(Silent()) as silent:
        quiet = mailed(tmp_path, silent.port)
    assert verdicts(clear) == {"smtp": "pass", "smtp tls": "fail", "smtp login": "inconclusive"}
    assert "does not offer STARTTLS" in gates(clear)["smtp tls"]["sentence"]
    assert (verdicts(gone), verdicts(quiet)) == ({"smtp": "fail"}, {"smtp": "inconclusive"})


# Services over HTTP


def jwt(role: str, ref: str = "abcd") -> str:
    parts = ({"alg": "HS256"}, {"role": role, "ref": ref, "iss": "supabase"})
    return ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts) + ".sEnTiNeLsEnTiNeL"


SID = "AC" + "0a" * 16
ENV = {
    "SENDGRID_API_KEY": "SG." + SENTINEL.format("sendgrid"),
    "RESEND_API_KEY": "re_" + SENTINEL.format("resend"),
    "NEXT_PUBLIC_FROM_EMAIL": "noreply@shop.test",
    "TWILIO_ACCOUNT_SID": SID,
    "TWILIO_AUTH_TOKEN": SENTINEL.format("twilio"),
    "GOOGLE_CLIENT_ID": SENTINEL.format("id") + ".apps.googleusercontent.com",
    "GOOGLE_CLIENT_SECRET": SENTINEL.format("google"),
    "NEXT_PUBLIC_SUPABASE_ANON_KEY": jwt("anon"),
    "SUPABASE_SERVICE_ROLE_KEY": jwt("service_role"),
    "SENTRY_DSN": f"https://{'0f' * 16}@o1.ingest.de.sentry.io/42",
}
# What each service answers to a request that is rightly made, by the paths and headers its documentation gives.
PATHS = {
    "sendgrid": ("GET", "/v3/scopes", "Authorization", f"Bearer {ENV['SENDGRID_API_KEY']}"),
    "resend": ("GET", "/domains", "Authorization", f"Bearer {ENV['RESEND_API_KEY']}"),
    "twilio": ("GET", f"/2010-04-01/Accounts/{SID}.json", "Authorization", "Basic " + base64.b64encode(f"{SID}:{ENV['TWILIO_AUTH_TOKEN']}".encode()).decode()),
    "google": ("POST", "/token", "Content-Type", "application/x-www-form-urlencoded"),
    "supabase_anon": ("GET", "/auth/v1/settings", "apikey", ENV["NEXT_PUBLIC_SUPABASE_ANON_KEY"]),
    "supabase_service": ("GET", "/auth/v1/settings", "apikey", ENV["SUPABASE_SERVICE_ROLE_KEY"]),
    "sentry_event": ("POST", "/api/42/envelope/", "X-Sentry-Auth", f"Sentry sentry_version=7, sentry_client=sluice/1, sentry_key={'0f' * 16}"),
}
GOOD: dict[str, tuple[int, Any]] = {
    "sendgrid": (200, {"scopes": ["mail.send", "alerts.read"]}),
    "resend": (200, {"data": [{"name": "shop.test", "status": "verified"}]}),
    "twilio": (200, {"status": "active", "type": "Full"}),
    "google": (400, {"error": "invalid_grant", "error_description": "Malformed auth code."}),
    "supabase_anon": (200, {"external": {}}),
    "supabase_service": (200, {"external": {}}),
    "sentry_event": (200, {"id": "00"}),
}
WARN = "warn"
CASES = [
    ("sendgrid", 401, {}, "fail", "does not know the key"),
    ("sendgrid", 200, {"scopes": ["alerts.read"]}, "fail", "not send mails"),
    ("sendgrid", 403, {}, WARN, "the key needs"),
    ("resend", 403, {"name": "invalid_api_key"}, "fail", "does not know the key"),
    ("resend", 401, {"name": "restricted_api_key"}, WARN, "needs Full access"),
    ("resend", 200, {"data": [{"name": "shop.test", "status": "pending"}]}, "fail", "has not verified"),
    ("twilio", 401, {"code": 20003}, "fail", "does not know the key"),
    ("twilio", 403, {"code": 20008}, "fail", "test credentials"),
    ("twilio", 403, {"code": 20003}, WARN, "not a restricted API key"),
    ("twilio", 200, {"status": "suspended"}, "fail", "suspended, not active"),
    ("twilio", 200, {"status": "active", "type": "Trial"}, "fail", "is a trial"),
    ("google", 401, {"error": "invalid_client"}, "fail", "does not take client id and secret"),
    ("google", 403, {"error": "org_internal"}, WARN, "cannot be checked"),
    ("supabase_anon", 401, {"message": "Invalid API key"}, "fail", "does not know the key"),
    ("supabase_anon", 403, {}, WARN, "the role anon"),
    ("supabase_service", 540, {}, "fail", "paused"),
    ("sentry_event", 403, {}, "fail", "takes no event"),
    *((name, 404, {}, "inconclusive", "not expected") for name in GOOD if name != "sentry_event"),
    *((name, 503, {}, "inconclusive", "says nothing about the key") for name in GOOD),
    *((name, 429, {}, "inconclusive", "says nothing about the key") for name in GOOD),
]


def test_each_service_that_knows_the_key_passes_and_each_other_answer_means_what_it_means(tmp_path: Path) -> None:
    answers: dict[str, tuple[int, Any]] = {}

    def answer(request: Any) -> tuple[int, list[tuple[str, str]], str]:
        # Each stand-in has its own first part of the path, and answers only what its API would.
        name, _slash, path = request.path[1:].partition("/")
        method, wanted, header, value = PATHS[name]
        if (request.command, f"/{path}", request.headers[header]) != (method, wanted, value) or not request.headers["User-Agent"]:
            return 418, [], "{}"
        status, said = answers[name]
        # Waiting longer than the deadline would change nothing, so nobody waits.
        return status, [("Retry-After", "60")] if status == 429 else [], json.dumps({**said, "echo": value})

    with serving(Web(answer)) as web:
        env = env_of(tmp_path, NEXT_PUBLIC_SUPABASE_URL=web.url, **ENV)
        apis = {name: {"base": f"{web.url}/{name}"} for name in GOOD}
        answers.update(GOOD)
        good = call(tmp_path, "services", env_file=env, apis=apis, sentry_var="SENTRY_DSN")
        assert set(verdicts(good).values()) == {"pass"}, good["gates"]
        assert len(good["gates"]) == len(GOOD) + 1
        said = good["said"]
        # As many rounds as the longest list of one service's answers.
        rounds = [[case for case in CASES if case[0] == name] for name in GOOD]
        for number in range(max(map(len, rounds))):
            cases = [each[number] for each in rounds if len(each) > number]
            answers.update({name: (status, body) for name, status, body, _verdict, _words in cases})
            result = call(tmp_path, "services", env_file=env, apis={case[0]: apis[case[0]] for case in cases}, deadline=4.0)
            found = gates(result)
            for name, status, body, verdict, words in cases:
                gate = found[{"supabase_anon": "supabase anon", "supabase_service": "supabase service_role", "sentry_event": "sentry"}.get(name, name)]
                assert (gate.get("severity") or gate["verdict"], words in gate["sentence"]) == (verdict, True), (name, status, body, gate)
            said += result["said"]
    for value in (*ENV.values(), SENTINEL[:8], "0f0f0f0f"):
        assert value in ("noreply@shop.test",) or value not in said, value
    asked = [path for _method, path, _headers, _body in web.requests]
    assert asked.count("/sentry_event/api/42/envelope/") == 1 + len(rounds[-1]), "an event was sent twice"


def test_a_busy_service_is_asked_again(tmp_path: Path) -> None:
    answers = [(503, []), (429, [("Retry-After", "0")]), (200, [])]
    with serving(Web(lambda _request: (*answers.pop(0), '{"scopes": ["mail.send"]}'))) as web:
        result = call(tmp_path, "services", env_file=env_of(tmp_path, **ENV), apis={"sendgrid": {"base": web.url}})
    assert verdicts(result) == {"sendgrid": "pass"}
    assert answers == []


def test_silent_services_cost_one_wait_together(tmp_path: Path) -> None:
    with serving(Silent()) as silent:
        url = f"http://127.0.0.1:{silent.port}"
        places = {"REDIS_URL": f"redis://127.0.0.1:{silent.port}", "SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(silent.port)}
        env = env_of(tmp_path, NEXT_PUBLIC_SUPABASE_URL=url, **places, **ENV)
        began = time.monotonic()
        result = call(tmp_path, "services", env_file=env, apis={name: {"base": url} for name in GOOD}, redis={}, smtp={}, timeout=1.0, deadline=1.5)
        took = time.monotonic() - began
    assert set(verdicts(result).values()) == {"inconclusive"}, result["gates"]
    assert len(result["gates"]) == len(GOOD) + 2
    assert result["seconds"] < 3 and took < 8
    assert "sEnTiNeL" not in result["said"]


def test_supabase_keys_in_each_others_place_or_of_another_project(tmp_path: Path) -> None:
    with serving(Web(lambda _request: (200, [], "{}"))) as web:
        swapped = {
            "NEXT_PUBLIC_SUPABASE_ANON_KEY": jwt("service_role"),
            "NEXT_PUBLIC_SUPABASE_URL": "https://abcd.supabase.co",
            "SUPABASE_SERVICE_ROLE_KEY": jwt("service_role", "other"),
        }
        apis = {name: {"base": web.url} for name in ("supabase_anon", "supabase_service")}
        result = call(tmp_path, "services", env_file=env_of(tmp_path, **swapped), apis=apis)
    said = {name: gate["sentence"] for name, gate in gates(result).items()}
    assert set(verdicts(result).values()) == {"fail"}
    assert "is of the role service_role, not anon" in said["supabase anon"]
    assert "is of another project than abcd.supabase.co" in said["supabase service_role"]


# Hosts, and bad input


def test_addresses_of_the_environment_are_the_apps_own(tmp_path: Path) -> None:
    good = {
        "API_URL": "https://api.bookedbarber.com/v1",
        "ALLOWED_ORIGINS": "https://bookedbarber.com,https://www.bookedbarber.com",
        "NEXT_PUBLIC_FROM_EMAIL": "Shop <noreply@bookedbarber.com>",
        "SENTRY_DSN": ENV["SENTRY_DSN"],
        "DATABASE_URL": f"postgresql://app:{SENTINEL.format('db')}@localhost/shop",
    }
    wanted = {"domains": ["bookedbarber.com"], "hosts_own": ["API_URL", "ALLOWED_ORIGINS", "NEXT_PUBLIC_FROM_EMAIL"]}
    bad = {**good, "API_URL": "https://api-staging.bookedbarbe.com", "SITE": "https://[production-domain]/x", "ALLOWED_ORIGINS": "https://other.shop"}
    right, wrong = (call(tmp_path, "services", env_file=env_of(tmp_path, **values), **wanted) for values in (good, bad))
    empty = call(tmp_path, "services", env_file=env_of(tmp_path, PORT="3000"), **wanted)
    assert (verdicts(right), verdicts(wrong), verdicts(empty)) == ({"hosts": "pass"}, {"hosts": "fail"}, {"hosts": "inconclusive"})
    sentence = gates(wrong)["hosts"]["sentence"]
    assert "API_URL: api-staging.bookedbarbe.com looks like bookedbarber.com, but is another domain" in sentence
    assert "SITE: [production-domain] is a placeholder" in sentence
    assert "ALLOWED_ORIGINS: other.shop is outside bookedbarber.com" in sentence
    assert "sEnTiNeL" not in right["said"] + wrong["said"]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"apis": {"mailgun": {}}}, "apis knows no mailgun; there are sendgrid"),
        ({"apis": {"sendgrid": {"url": "x"}}}, "unknown key url; allowed are variables, base and ca"),
        ({"env_file": "none"}, "is not there"),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, params: dict[str, Any], words: str) -> None:
    result = call(tmp_path, "services", **{"env_file": env_of(tmp_path, **ENV), **params})
    assert result["failed"] and words in result["msg"]


def test_what_is_set_wrongly_is_the_fault_of_its_own_gate(tmp_path: Path) -> None:
    env = env_of(tmp_path, SENTRY_DSN="https://nonsense", REDIS_URL="http://x", **{name: ENV[name] for name in ("RESEND_API_KEY", "TWILIO_AUTH_TOKEN")})
    apis = {"sendgrid": {}, "resend": {"base": "http://192.0.2.1"}, "twilio": {"variables": {"user": "X"}}}
    result = call(tmp_path, "services", env_file=env, apis=apis, sentry_var="SENTRY_DSN", redis={}, smtp={})
    said = {name: gate["sentence"] for name, gate in gates(result).items()}
    assert set(verdicts(result).values()) == {"fail"}
    assert "does not set SENDGRID_API_KEY" in said["sendgrid"]
    assert "without TLS, which shows the key" in said["resend"]
    assert "no variable for user" in said["twilio"]
    assert "is no DSN" in said["sentry dsn"]
    assert "does not begin with redis://" in said["redis"]
    assert "mail server's name is not set" in said["smtp"]
