# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module metrics against what it reads: a JSON address, a Prometheus that scrapes, PostgreSQL, PM2 and this machine."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.database_health import METRICS

from tests.harness.checkout import cannot_run
from tests.sandbox.world import CHECKOUT, World, free_ports

TOKEN = "tok_3kd9_secret"


class Target:
    """A small server of numbers: JSON on /health/metrics, Prometheus's own format on /metrics, and answers that go wrong."""

    def __init__(self) -> None:
        self.queue_age: Any = 12.5
        self.old = time.time() - 60
        self.asked: list[str] = []
        target = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                target.asked.append(self.path)
                with suppress(OSError):
                    target.answer(self)

            def log_message(self, *_words: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Target:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        document = json.dumps({"queue": {"age_seconds": self.queue_age, "jobs": [31, 4]}})
        old = int(self.old * 1000)
        status, text = {
            "/health/metrics": (200, document),
            "/private": (200, document) if request.headers.get("Authorization") == f"Bearer {TOKEN}" else (401, "{}"),
            "/page": (200, "<h1>no JSON</h1>"),
            "/moved": (302, document),
            "/metrics": (200, f'queue_age 12.5\nrequests_total{{slot="blue"}} 90\nrequests_total{{slot="green"}} 10\nold_age 7 {old}\n'),
        }.get(request.path, (404, "{}"))
        request.send_response(status)
        request.send_header("Content-Type", "text/plain; version=0.0.4")
        request.end_headers()
        if request.path == "/drip":
            for _number in range(100):
                request.wfile.write(b" ")
                time.sleep(0.1)
        request.wfile.write(text.encode())


@pytest.fixture
def target() -> Iterator[Target]:
    with Target() as running:
        yield running


Read = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def read(world: World, tmp_path: Path) -> Read:
    """Run the module as Ansible does, and return its readings by metric; the whole answer is under the empty name."""
    namespace = tmp_path / "ansible_collections" / "sluice"
    namespace.mkdir(parents=True)
    (namespace / "deploy").symlink_to(CHECKOUT)
    facts = world.facts
    secrets = Path(facts["env_file"]).read_text(encoding="utf-8")
    env_file = tmp_path / "wallet.env"
    env_file.touch(mode=0o600)
    env_file.write_text(f"{secrets}METRICS_TOKEN={TOKEN}\n", encoding="utf-8")
    ports = {slot: facts["ports"][slot] for slot in ("blue", "green", "rehearsal")}

    def run(*sources: dict[str, Any], **more: Any) -> dict[str, dict[str, Any]]:
        arguments = {
            "app": "wallet",
            "slot": "blue",
            "services": [{"name": "web", "entry": "server.js", "instances": 2, "ports": ports}],
            "directory": facts["app"],
            "env_file": str(env_file),
            "client_directory": facts["postgres_clients"],
            "pm2_command": facts["pm2_command"],
            "pm2_home": facts["pm2_home"],
            "path": facts["path"],
            "sources": list(sources),
            **more,
        }
        done = subprocess.run(
            [sys.executable, "-m", "ansible_collections.sluice.deploy.plugins.modules.metrics"],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            env={**world.env(), "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.stdout.lstrip().startswith("{"), done.stderr
        assert done.stderr == ""
        for secret in (facts["password"], TOKEN):
            assert secret not in done.stdout.partition('"invocation"')[0]
        answer: dict[str, Any] = json.loads(done.stdout)
        assert answer["changed"] is False and not answer.get("failed"), answer
        assert abs(answer["now"] - time.time()) < 5
        return {"": answer, **{reading["metric"]: reading for reading in answer["readings"]}}

    return run


def web(target: Target, path: str = "/health/metrics", **keys: Any) -> dict[str, Any]:
    return {"metric": "custom:queue_age", "source": "http", "url": f"{target.url}{path}", "path": "queue.age_seconds", "unit": "s", **keys}


def sql(name: str, query: str, **keys: Any) -> dict[str, Any]:
    return {"metric": f"custom:{name}", "source": "sql", "query": query, **keys}


# JSON by HTTP --------------------------------------------------------------------------------------


def test_a_number_of_a_json_answer(read: Read, target: Target) -> None:
    found = read(web(target, samples_path="queue.jobs.0"))["custom:queue_age"]
    assert (found["value"], found["samples"], found["unit"], found["why"]) == (12.5, 31, "s", "")
    assert read(web(target, "/private", token_var="METRICS_TOKEN"))["custom:queue_age"]["value"] == 12.5


def test_the_port_of_the_slot_is_filled_in(read: Read, world: World) -> None:
    found = read({"metric": "custom:ms", "source": "http", "url": "http://127.0.0.1:{port}/api/health", "path": "checks.database.ms"}, slot="blue")
    assert found["custom:ms"]["value"] >= 0


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"path": "queue.age"}, "there is no queue.age in the answer; queue holds age_seconds, jobs"),
        ({"path": "queue.jobs"}, "queue.jobs is [31, 4], which is no number"),
        ({"url": "{url}/page"}, "/page answered with something that is no JSON"),
        ({"url": "{url}/moved"}, "/moved answered with status 302"),
        ({"url": "{url}/none"}, "/none answered with status 404"),
        ({"url": "{url}/private"}, "/private answered with status 401"),
        ({"url": "{url}/private", "token_var": "NOBODY"}, "wallet.env does not set NOBODY"),
        ({"url": "http://127.0.0.1:1/x"}, "no answer from 127.0.0.1:1: Connection refused"),
    ],
)
def test_an_answer_without_a_number_is_a_reading_with_the_reason(read: Read, target: Target, keys: dict[str, Any], why: str) -> None:
    found = read({**web(target), **keys, "url": keys.get("url", web(target)["url"]).replace("{url}", target.url)})["custom:queue_age"]
    assert found["value"] is None
    assert why in found["why"]


def test_a_source_that_is_late_holds_up_no_other(read: Read, target: Target) -> None:
    """It answers all the time and never ends, so no timeout of a single read would notice."""
    began = time.monotonic()
    found = read(web(target, "/drip", deadline=1), {**web(target), "metric": "custom:other"}, {"metric": "memory", "source": "host"})
    assert time.monotonic() - began < 8
    assert (found["custom:queue_age"]["value"], found["custom:queue_age"]["why"]) == (None, "there was no answer within 1 s")
    assert found["custom:other"]["value"] == 12.5
    assert 0 < found["memory"]["value"] < 1


# PostgreSQL ----------------------------------------------------------------------------------------


def test_numbers_of_the_database(read: Read, world: World) -> None:
    customers = int(world.psql("SELECT count(*) FROM customers"))
    found = read(
        sql("customers", "SELECT count(*) FROM customers;", samples_query="SELECT 7"),
        {"metric": "payment_success_rate", "source": "sql", "unit": "percent", "query": "SELECT 97.5", "samples_query": "SELECT count(*) FROM customers"},
        {"metric": "database_connections", "source": "host"},
        {"metric": "deadlocks", "source": "host"},
    )
    assert (found["custom:customers"]["value"], found["custom:customers"]["samples"]) == (customers, 7)
    assert (found["payment_success_rate"]["value"], found["payment_success_rate"]["samples"]) == (0.975, customers)
    assert 1 / 60 <= found["database_connections"]["value"] < 1
    assert found["deadlocks"]["value"] == 0


def test_the_database_s_longest_session_is_a_metric(read: Read, world: World) -> None:
    sources = [{"metric": metric, "source": "host"} for metric in ("idle_in_transaction", "longest_query", "longest_wait")]
    world.psql("CREATE ROLE stranger LOGIN PASSWORD 'x'")
    try:
        with ThreadPoolExecutor() as pool:
            busy = pool.submit(world.psql, "SELECT pg_sleep(5)")
            time.sleep(0.7)
            found = read(*sources)
            hidden = world.psql(f"SET ROLE stranger; SELECT coalesce(({METRICS['longest_query']})::text, 'nobody can tell')")
            busy.result()
    finally:
        world.psql("DROP ROLE stranger")
    assert 0.3 < found["longest_query"]["value"] < 5
    assert (found["idle_in_transaction"]["value"], found["longest_wait"]["value"]) == (0, 0)
    # The app's own sessions are hidden from the stranger.
    assert hidden == "nobody can tell"


def test_deadlocks_are_counted_from_the_first_look_on(read: Read, world: World) -> None:
    source = {"metric": "deadlocks", "source": "host"}
    before = read(source)[""]["counters"]

    def cross(first: int, second: int) -> None:
        with suppress(subprocess.CalledProcessError):
            lines = [f"SELECT 1 FROM customers WHERE id = {number} FOR UPDATE;" for number in (first, second)]
            world.psql(f"BEGIN; {lines[0]} SELECT pg_sleep(0.5); {lines[1]} COMMIT;")

    with ThreadPoolExecutor() as pool:
        list(pool.map(cross, (1, 2), (2, 1)))
    deadline = time.monotonic() + 60
    while read(source, previous=before)["deadlocks"]["value"] != 1 and time.monotonic() < deadline:
        time.sleep(0.2)
    after = read(source, previous=before)
    assert (after["deadlocks"]["value"], after[""]["counters"]) == (1, before)
    reset = read(source, previous={"deadlocks": 99})["deadlocks"]
    assert (reset["value"], reset["why"].partition(",")[0]) == (None, "the counter went back from 99 to 1")


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT nextval('transactions_id_seq')", "cannot execute nextval() in a read-only transaction"),
        ("SELECT count(*) FROM nowhere", 'relation "nowhere" does not exist'),
        ("SELECT 1 FROM pg_sleep(30)", "canceling statement due to statement timeout"),
        ("SELECT id FROM customers", "rows instead of one number"),
        ("SELECT 1 AS a, 2 AS b", "the query returned 2 columns instead of one number"),
        ("SELECT sum(id) FROM customers WHERE false", "the query is null, which is no number"),
        ("SELECT 'NaN'::numeric", "the query is NaN, which is no number"),
    ],
)
def test_a_query_without_a_number_changes_nothing_and_says_why(read: Read, world: World, query: str, why: str) -> None:
    sequence = world.psql("SELECT last_value FROM transactions_id_seq")
    found = read(sql("broken", query, deadline=1), sql("good", "SELECT 5"))
    assert found["custom:broken"]["value"] is None
    assert why in found["custom:broken"]["why"]
    assert found["custom:good"]["value"] == 5
    assert world.psql("SELECT last_value FROM transactions_id_seq") == sequence


def test_a_database_that_is_not_there_is_a_reading_too(read: Read, tmp_path: Path) -> None:
    env_file = tmp_path / "other.env"
    env_file.write_text("DATABASE_URL=postgresql://wallet:hunter22@127.0.0.1:1/wallet\n", encoding="utf-8")
    found = read(sql("one", "SELECT 1"), sql("two", "SELECT 2"), env_file=str(env_file))
    assert [found[name]["value"] for name in ("custom:one", "custom:two")] == [None, None]
    assert "There is no connection to PostgreSQL at 127.0.0.1:1" in found["custom:two"]["why"]
    assert "hunter22" not in json.dumps(found)


# PM2 and the machine -------------------------------------------------------------------------------


def test_restarts_of_the_slot_s_processes(read: Read, world: World) -> None:
    source = {"metric": "restarts", "source": "host"}
    assert read(source)["restarts"]["value"] == 0
    worker = next(entry for entry in world.pm2() if entry["name"] == "wallet-web-blue")
    os.kill(worker["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 60
    while read(source)["restarts"]["value"] != 1:
        assert time.monotonic() < deadline
    gone = read(source, slot="green")["restarts"]
    assert (gone["value"], gone["why"]) == (None, "pm2 knows no process wallet-web-green")


def test_processors_memory_and_disk(read: Read, world: World) -> None:
    sources = [{"metric": metric, "source": "host"} for metric in ("cpu", "memory", "disk")]
    first = read(*sources)
    assert all(0 <= first[metric]["value"] <= 1 for metric in ("cpu", "memory", "disk"))
    spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(1)
        busy = read(*sources, previous=first[""]["counters"])
    finally:
        spinning.kill()
        spinning.wait()
    assert busy["cpu"]["value"] >= 0.5 / (os.cpu_count() or 1)
    used = shutil.disk_usage(world.facts["app"])
    assert busy["disk"]["value"] == pytest.approx(used.used / (used.used + used.free), abs=0.02)
    nowhere = read(sources[2], directory="/nowhere/wallet")["disk"]
    assert nowhere["why"] == "the file system of /nowhere/wallet could not be read: No such file or directory"


def test_each_host_is_asked_only_for_what_it_can_tell(read: Read, target: Target) -> None:
    sources = (web(target), sql("one", "SELECT 1"), {"metric": "memory", "source": "host"})
    places = {"apphosts": ["app1", "app2"], "databases": ["db1"]}
    for host, metrics in (("app1", ["custom:queue_age", "memory"]), ("app2", ["memory"]), ("db1", ["custom:one"]), ("edge1", [])):
        assert [reading["metric"] for reading in read(*sources, host=host, **places)[""]["readings"]] == metrics


# Prometheus ----------------------------------------------------------------------------------------


class Prometheus:
    """A Prometheus of its own: its port, its folder, and one target that it scrapes each second."""

    def __init__(self, folder: Path, binary: str, target: Target) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        config = folder / "prometheus.yml"
        config.write_text(
            "global: {scrape_interval: 1s, scrape_timeout: 900ms}\n"
            f"scrape_configs: [{{job_name: wallet, static_configs: [{{targets: ['127.0.0.1:{target.port}']}}]}}]\n",
            encoding="utf-8",
        )
        words = [binary, f"--config.file={config}", f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]
        self.process = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def await_scrapes(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with suppress(OSError), urllib.request.urlopen(f"{self.url}/api/v1/query?query=count_over_time(queue_age[20s])>=2", timeout=2) as answer:
                if json.loads(answer.read())["data"]["result"]:
                    return
            assert self.process.poll() is None, "Prometheus ended by itself"
            time.sleep(0.2)
        raise AssertionError("Prometheus did not scrape its target twice within 30 s")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def prometheus(tmp_path: Path, target: Target) -> Iterator[Prometheus]:
    binary = shutil.which("prometheus", path=os.environ["PATH"] + ":/usr/bin")
    if not binary:
        cannot_run("Prometheus is not installed (apt-get install prometheus)")
    folder = tmp_path / "prometheus"
    folder.mkdir()
    running = Prometheus(folder, binary, target)
    try:
        running.await_scrapes()
        yield running
    finally:
        running.stop()


def test_numbers_of_a_real_prometheus_and_every_reason_for_none(read: Read, target: Target, prometheus: Prometheus) -> None:
    asked: dict[str, str | float] = {}
    sources: list[dict[str, Any]] = []
    cases: list[tuple[dict[str, Any], str | float]] = [
        ({"query": "queue_age", "unit": "s"}, 12.5),
        ({"query": 'sum(requests_total{slot="{slot}"}) / sum(requests_total)', "series": "requests_total"}, 0.9),
        ({"query": "queue_age", "samples_query": "sum(requests_total)"}, 12.5),
        ({"query": "no_such_series"}, "the query found no series"),
        ({"query": "requests_total"}, "the query found 2 series instead of one; join them, for example with sum(...)"),
        ({"query": "queue_age / 0 - queue_age / 0"}, "the query is nan, which says nothing"),
        ({"query": "queue_age / 0"}, "the query is inf, which says nothing"),
        ({"query": "rate(queue_age"}, "Prometheus refused the query: invalid parameter"),
        ({"query": "requests_total[1m]"}, "the query returned a matrix instead of one number"),
        ({"query": "queue_age", "samples_query": "no_such_series"}, "samples_query found no series"),
        # Prometheus still shows it, and nothing in its answer says how old it is.
        ({"query": "old_age", "max_age": 30}, "s old; 30 s are allowed"),
        ({"query": "sum(old_age)", "series": "old_age", "max_age": 30}, "s old; 30 s are allowed"),
        ({"query": "sum(old_age)", "series": "gone", "max_age": 30}, "the age of gone found no series"),
        ({"query": "old_age", "max_age": 200}, 7.0),
        ({"query": "queue_age", "url": target.url}, "/api/v1/query answered with status 404"),
        ({"query": "queue_age", "url": "http://127.0.0.1:1"}, "Connection refused"),
    ]
    for number, (keys, expected) in enumerate(cases):
        metric = f"custom:case{number}"
        asked[metric] = expected
        sources.append({"metric": metric, "source": "prometheus", "url": prometheus.url, **keys})
    found = read(*sources)
    for metric, expected in asked.items():
        seen = found[metric]
        assert (seen["value"] == pytest.approx(expected)) if isinstance(expected, float) else (seen["value"] is None and expected in seen["why"]), seen
    assert found["custom:case2"]["samples"] == 100


def test_a_target_that_is_gone_and_a_prometheus_that_hangs_are_no_good_news(read: Read, target: Target, prometheus: Prometheus) -> None:
    source = {"metric": "custom:queue_age", "source": "prometheus", "url": prometheus.url, "query": "queue_age", "deadline": 2}
    assert read(source)["custom:queue_age"]["value"] == 12.5
    target.server.shutdown()
    target.server.server_close()
    deadline = time.monotonic() + 60
    while (found := read(source)["custom:queue_age"]).get("why") != "the query found no series":
        assert time.monotonic() < deadline, found
    assert found["value"] is None
    prometheus.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert read(source)["custom:queue_age"]["value"] is None
    assert time.monotonic() - began < 30
