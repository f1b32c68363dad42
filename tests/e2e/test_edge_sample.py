# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module edge_sample as Ansible starts it, beside a log that is written meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
SLOTS = {"blue": ["127.0.0.1:4002"], "green": ["127.0.0.1:4102", "127.0.0.1:4103"]}


class Edge:
    """Writes an access log as nginx does: a file that stays open over a rename until it is told to reopen."""

    def __init__(self, log: Path) -> None:
        self.log, self.green_status, self.green, self.blue = log, 200, 0, 0
        self._lock, self._over = threading.Lock(), threading.Event()
        self._stream = log.open("ab", buffering=0)
        self._thread = threading.Thread(target=self._serve)

    def request(self, slot: str, status: int = 200, path: str = "/api/x") -> None:
        address = SLOTS[slot][-1]
        retried = status >= 500 and slot == "green"
        seen = (f"{address}, {SLOTS['blue'][0]}", f"{status}, 200", 200) if retried else (address, str(status), status)
        with self._lock:
            self._stream.write(
                f'{{"t":{time.time():.3f},"slot":"{slot}","m":"GET","u":"{path}","st":{seen[2]},"rt":0.012,'
                f'"ua":"{seen[0]}","us":"{seen[1]}","ut":"0.011","v":"v{self.green % 7}","id":"a{self.blue}"}}\n'.encode()
            )
            self.green += slot == "green"
            self.blue += slot == "blue"

    def rename(self) -> None:
        os.replace(self.log, f"{self.log}.1")

    def reopen(self) -> None:
        with self._lock:
            self._stream.close()
            self._stream = self.log.open("ab", buffering=0)

    def _serve(self) -> None:
        while not self._over.wait(0.005):
            self.request("blue")
            self.request("green", self.green_status)

    def __enter__(self) -> Edge:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._thread.join()
        self._stream.close()


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A collections path in which the checkout stands under its name."""
    root = tmp_path_factory.mktemp("collections")
    namespace = root / "ansible_collections" / "sluice"
    namespace.mkdir(parents=True)
    (namespace / "deploy").symlink_to(CHECKOUT)
    return root


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Edge]:
    with Edge(tmp_path / "access.log") as running:
        yield running


def call(collections: Path, log: Path, **params: Any) -> dict[str, Any]:
    """Run the module as Ansible does, and return its answer."""
    arguments = {"log": str(log), "slots": SLOTS, "canary": "green", "live": "blue", **params}
    done = subprocess.run(
        [sys.executable, "-m", "ansible_collections.sluice.deploy.plugins.modules.edge_sample"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        env={"PYTHONPATH": str(collections), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.lstrip().startswith("{"), done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == bool(answer.get("failed"))
    return answer


def test_a_healthy_canary_is_watched_to_the_end(collections: Path, edge: Edge) -> None:
    answer = call(collections, edge.log, since=time.time(), watch=2)
    green = answer["sample"]["slots"]["green"]
    assert (answer["alarm"], answer["gates"], answer["changed"], answer["actions"]) == (None, [], False, [])
    assert 2 <= answer["waited"] < 3.5 and green["requests"] > 100 and green["errors"] == 0
    assert answer["lines"] == green["requests"] + answer["sample"]["slots"]["blue"]["requests"]
    assert answer["until"] == answer["sample"]["until"] and (green["clients"], answer["sample"]["malformed"]) == (7, 0)


def test_it_returns_at_once_when_errors_start(collections: Path, edge: Edge) -> None:
    broken: list[float] = []

    def breaks() -> None:
        broken.append(time.time())
        edge.green_status = 502

    timer = threading.Timer(2.0, breaks)
    timer.start()
    answer = call(collections, edge.log, since=time.time(), watch=30)
    timer.join()
    assert answer["until"] - broken[0] < 1.5 and answer["waited"] < 10
    assert answer["alarm"]["verdict"] == "fail" and answer["alarm"] == answer["gates"][0]
    assert "first attempts) against 0 % live; limit 1 %." in answer["alarm"]["sentence"]
    # A retry on the live slot answered every one of them, and still they are seen.
    green = answer["sample"]["slots"]["green"]
    assert green["errors"] == green["shielded"] >= 5 and green["statuses"] == {"2xx": green["requests"]}


def test_a_rotation_in_the_middle_loses_nothing(collections: Path, edge: Edge) -> None:
    time.sleep(0.3)
    edge.rename()
    time.sleep(0.2)
    edge.reopen()
    first = edge.green
    began = time.time() + 0.05
    time.sleep(0.1)
    timers = [threading.Timer(1.0, edge.rename), threading.Timer(1.3, edge.reopen)]
    for timer in timers:
        timer.start()
    answer = call(collections, edge.log, since=began, watch=2.5)
    for timer in timers:
        timer.join()
    after = call(collections, edge.log, since=began)["sample"]
    whole = (Path(f"{edge.log}.1").read_text() + edge.log.read_text()).splitlines()
    seen = [row for row in map(json.loads, whole) if began <= row["t"] <= answer["until"] and row["slot"] == "green"]
    # The last lines may fall between the clock's reading and the file's.
    assert abs(answer["sample"]["slots"]["green"]["requests"] - len(seen)) <= 10 and len(seen) > 150
    assert answer["sample"]["malformed"] == 0 and after["slots"]["green"]["requests"] >= answer["sample"]["slots"]["green"]["requests"]
    assert first < edge.green


def test_only_the_window_counts_and_probes_do_not(collections: Path, tmp_path: Path) -> None:
    edge = Edge(tmp_path / "access.log")
    for _number in range(30):
        edge.request("green", 500)
    time.sleep(0.01)
    since = time.time()
    time.sleep(0.01)
    for _number in range(10):
        edge.request("green")
        edge.request("green", path="/api/health")
    answer = call(collections, edge.log, since=since)
    assert answer["sample"]["slots"]["green"]["requests"] == 10 and answer["sample"]["ignored"] == 10 and answer["alarm"] is None
    assert call(collections, edge.log, since=since - 60)["alarm"]["verdict"] == "fail"
    assert call(collections, edge.log, since=since - 60, canary="green", live="green")["alarm"]["verdict"] == "fail"


def test_a_rare_kind_of_request_that_fails_is_named_among_many_that_do_not(collections: Path, tmp_path: Path) -> None:
    edge = Edge(tmp_path / "access.log")
    since = time.time() - 1
    for number in range(500):
        edge.request("blue", path="/api/payments/1" if number % 10 == 0 else "/")
        edge.request("green", path="/api/x" if number % 2 else "/")
    for _number in range(6):
        edge.request("green", 502, path="/api/payments/1")
    routes = [{"name": "payment", "path": "/api/payments/"}, {"name": "api", "path": "/api/"}]
    assert call(collections, edge.log, since=since)["alarm"] is None
    answer = call(collections, edge.log, since=since, routes=routes, services={"web": [*SLOTS["blue"], *SLOTS["green"]]})
    assert answer["alarm"]["sentence"] == "payment: 6 of 6 first attempts failed against 0 % live. 5 failures among 20 end a step at once."
    strata = answer["sample"]["strata"]
    assert {kind: (part["requests"], part["errors"]) for kind, part in strata["green"].items()} == {
        "payment": (6, 6), "api": (250, 0), "web": (250, 0), "other": (0, 0),
    }  # fmt: skip
    assert {kind: part["requests"] for kind, part in strata["blue"].items()} == {"payment": 50, "api": 0, "web": 450, "other": 0}
    assert answer["sample"]["slots"]["green"]["milliseconds"] == 12 * 506


def test_check_mode_reads_and_does_not_wait(collections: Path, edge: Edge) -> None:
    time.sleep(0.2)
    answer = call(collections, edge.log, since=time.time() - 1, watch=30, _ansible_check_mode=True)
    assert answer["waited"] < 2 and answer["lines"] > 0 and not answer["changed"]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"log": "nowhere.log"}, "is not there, so nobody can tell how the slots answer. nginx makes it when it loads"),
        ({"canary": "purple"}, "`canary` is 'purple', which is none of the slots. `slots` names blue, green."),
        ({"slots": {"blue": ["127.0.0.1:1"], "green": ["127.0.0.1:1"]}}, "127.0.0.1:1 belongs to blue and to green"),
        ({"limits": {"error_rate": 5}}, "error_rate is a share between 0 and 1, such as 0.01 for 1 %"),
        ({"limits": {"error_rat": 0.1}}, "error_rat"),
        ({"routes": [{"name": "api", "path": "api"}]}, "routes: the path of route 1 begins with /"),
        ({"services": {"web": ["app1"]}}, "'app1'"),
        ({"since": 4e9}, "s from now by this edge's clock, so nobody can tell"),
        ({"watch": -1}, "`watch` is a time of 0 or more"),
    ],
)
def test_what_cannot_be_told_is_a_failure_in_words(collections: Path, tmp_path: Path, params: dict[str, Any], words: str) -> None:
    (tmp_path / "access.log").write_bytes(b"")
    given = {"since": time.time(), **params}
    log = tmp_path / given.pop("log", "access.log")
    answer = call(collections, log, **given)
    assert answer["failed"] and words in answer["msg"] and "sample" not in answer
