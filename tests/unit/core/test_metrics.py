# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources of metrics: what is wrong with one is said in words, an answer without a number is no good one, and each host's readings stay its own."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import yaml
from ansible_collections.sluice.deploy.plugins.module_utils.core import inputs, ladder, metrics
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.ladder import CONTINUE, HOLD, ROLLBACK, WARN, Climb, Reading, climb, limit_from, recent
from ansible_collections.sluice.deploy.plugins.module_utils.core.metrics import (
    APP,
    DATABASE,
    FIRST_APP,
    Source,
    busy_share,
    combined,
    complaints,
    dotted,
    filled,
    instant,
    look,
    number,
    of_requests,
    reading_of,
    single,
    source_from,
    sources_of,
    used_memory,
)
from ansible_collections.sluice.deploy.plugins.module_utils.core.sample import Sample, SlotSample, bin_of
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import ERROR, FAIL, INCONCLUSIVE, PASS
from hypothesis import given
from hypothesis import strategies as st

NOW = 100_000.0
QUEUE = {"metric": "custom:queue_age", "source": "http", "url": "http://127.0.0.1:{port}/health/metrics", "path": "queue.age_seconds", "unit": "s"}
P95 = {"metric": "p95", "source": "prometheus", "url": "http://10.0.0.9:9090", "query": "job:p95{slot='{slot}'}", "unit": "milliseconds"}
STUCK = {"metric": "custom:stuck", "source": "sql", "query": "SELECT count(*) FROM orders WHERE stuck;"}
CPU = {"metric": "cpu", "source": "host"}


def rung(metric: str, value: float, action: str = ROLLBACK, **more: Any) -> dict[str, Any]:
    return {"metric": metric, "op": ">", "value": value, "action": action, **{key.rstrip("_"): each for key, each in more.items()}}


# --- What is wrong with a source ---


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("cpu", "a source must be a mapping with metric, source and the keys of its kind, not 'cpu'."),
        ({**CPU, "source": "statsd"}, "source is 'statsd'; allowed are http, prometheus, sql, host."),
        ({**CPU, "source": ["host"]}, "source is ['host']; allowed are"),
        ({**CPU, "url": "http://x"}, "the key url is unknown; allowed for host are metric, source, deadline."),
        ({**CPU, "metric": "cpus"}, "metric: There is no metric 'cpus'. Did you mean cpu?"),
        (
            {**CPU, "metric": "p95"},
            "metric is p95, which no host tells of itself; allowed are restarts, cpu, memory, disk, database_connections, deadlocks,"
            " idle_in_transaction, longest_query, longest_wait.",
        ),
        ({**QUEUE, "path": ""}, "path must be text and is ''."),
        ({"source": "sql"}, "metric must be text and is None."),
        ({**QUEUE, "url": "127.0.0.1/x"}, "url is '127.0.0.1/x'; allowed is an address that begins with http:// or https://."),
        ({**QUEUE, "url": "http://me:hunter2@host/x"}, "url holds a user or a password; allowed is token_var"),
        ({**QUEUE, "unit": "two words"}, "unit is 'two words'; allowed is a short word without spaces"),
        ({**QUEUE, "deadline": 0}, "deadline is 0; allowed is a number of seconds from 0.1 to 30."),
        ({**QUEUE, "each": "yes"}, "each is 'yes'; allowed are true and false."),
        ({**QUEUE, "token_var": "Bearer abc"}, "token_var is 'Bearer abc'; allowed is the name of a variable"),
        ({**P95, "unit": None}, "unit is None, but p95 is a matter of seconds; allowed for what its source returns are seconds, milliseconds."),
        ({**P95, "unit": "percent"}, "unit is 'percent', but p95 is a matter of seconds"),
        ({**P95, "max_age": "5m"}, "max_age is '5m'; allowed is a number of seconds from 1 to 3600."),
        ({**STUCK, "query": "SELECT 1; COMMIT"}, "query holds ; or a backslash; allowed is one SELECT without them."),
        ({**STUCK, "samples_query": "SELECT 1\n\\! id"}, "samples_query holds ; or a backslash"),
    ],
)
def test_a_wrong_source_is_refused_in_words(data: Any, words: str) -> None:
    with pytest.raises(SluiceError) as refused:
        source_from(data, "canary_metrics: source 2")
    assert str(refused.value).startswith(f"canary_metrics: source 2: {words}")
    assert " Example: {metric: " in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_every_example_is_a_right_one() -> None:
    for kind, example in metrics.EXAMPLES.items():
        assert source_from(yaml.safe_load(example)).kind == kind


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.dictionaries(st.sampled_from([*QUEUE, *P95, "max_age"]), inner)))
def test_whatever_is_given_is_a_source_or_a_sentence(data: Any) -> None:
    assert len(complaints([], [data])) == 1


def test_a_ladder_and_its_sources_fit_together() -> None:
    assert complaints([rung("custom:queue_age", 300), rung("cpu", 0.9), rung("error_rate", 0.05)], [QUEUE, CPU]) == []
    unread = complaints([rung("custom:queue_age", 300), rung("error_rate", 0.05), rung("disk", 0.9)], [])
    assert [text.partition(";")[0] for text in unread] == [
        "canary_ladder: limit 1 looks at custom:queue_age, which nothing reads",
        "canary_ladder: limit 3 looks at disk, which nothing reads",
    ]
    assert unread[1].endswith("Example: canary_metrics: [{metric: disk, source: host}]")
    assert complaints([rung("cpu", 0.9)], [CPU, CPU])[0].startswith("canary_metrics: source 2 reads cpu once more;")
    assert complaints([rung("cpu", 0.9)], [CPU, QUEUE])[0].startswith("canary_metrics reads custom:queue_age, but no limit looks at it;")
    uncounted = complaints([rung("p95", 2.0)], [P95])
    assert uncounted[0].startswith("canary_ladder: limit 1 needs 50 samples of p95, which its source does not count; allowed is a source with samples_query.")
    assert complaints([rung("p95", 2.0)], [{**P95, "samples_query": "sum(n)"}]) == []


def test_inputs_name_every_wrong_limit_and_source_at_once() -> None:
    specs: dict[str, Any] = {"canary_ladder": {"type": "list"}, "canary_metrics": {"type": "list"}}
    found = inputs.wrong({"canary_ladder": [rung("error_rate", 5), rung("cpu", 0.9)], "canary_metrics": [{**CPU, "every": 5}]}, specs)
    assert [text.partition(" Example: ")[0] for text in found] == [
        "canary_ladder: limit 1: value of error_rate is 5; allowed is a share from 0 to 1; write 0.05 for 5 %.",
        "canary_metrics: source 1: the key every is unknown; allowed for host are metric, source, deadline.",
    ]
    assert all(" Example: canary_" in text for text in found)


# --- Who reads what ---


def test_each_source_has_its_place() -> None:
    sources = [source_from(each) for each in (QUEUE, {**QUEUE, "each": True}, P95, STUCK, CPU, {**CPU, "metric": "deadlocks"})]
    assert [source.place for source in sources] == [FIRST_APP, APP, FIRST_APP, DATABASE, APP, DATABASE]
    asked = {host: sources_of(sources, host, ["app1", "app2"], ["db1", "db2"]) for host in ("edge1", "app1", "app2", "db1", "db2")}
    assert {host: [sources.index(source) for source in each] for host, each in asked.items()} == {
        "edge1": [],
        "app1": [0, 1, 2, 4],
        "app2": [1, 4],
        "db1": [3, 5],
        "db2": [],
    }
    assert len(sources_of(sources, "one", ["one"], ["one"])) == len(sources)


def test_slot_and_ports_are_filled_in() -> None:
    ports = {"web": 4101, "api": 5101}
    assert filled(source_from(QUEUE), "green", ports).url == "http://127.0.0.1:4101/health/metrics"
    assert filled(source_from({**QUEUE, "url": "http://h:{port.api}/"}), "green", ports).url == "http://h:5101/"
    assert filled(source_from({**P95, "query": 'x{slot="{slot}"}'}), "green", ports).query == 'x{slot="green"}'


# --- What an answer means ---


def test_a_number_is_found_at_its_path() -> None:
    document = {"queue": {"age_seconds": 12, "jobs": [3, 4]}, "ok": True}
    assert dotted(document, "queue.age_seconds") == 12
    assert dotted(document, "queue.jobs.1") == 4
    for path, words in [
        ("queue.age", "there is no queue.age in the answer; queue holds age_seconds, jobs"),
        ("queue.jobs.2", "there is no queue.jobs.2 in the answer; queue.jobs holds list"),
        ("ok.x", "there is no ok.x in the answer; ok holds bool"),
        ("x", "there is no x in the answer; it holds queue, ok"),
    ]:
        with pytest.raises(SluiceError, match=words):
            dotted(document, path)


@pytest.mark.parametrize("value", [None, True, "12", [], math.nan, math.inf])
def test_what_is_no_finite_number_is_none(value: Any) -> None:
    with pytest.raises(SluiceError, match="x is "):
        number(value, "x")


def answer(kind: str, result: Any) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": kind, "result": result}}


def test_one_series_is_one_number() -> None:
    assert instant(answer("vector", [{"metric": {}, "value": [17.5, "0.25"]}]), "the query") == (0.25, 17.5)
    assert instant(answer("scalar", [17.5, "3"]), "the query") == (3.0, 17.5)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (answer("vector", []), "the query found no series"),
        (answer("vector", [{"value": [1, "1"]}] * 3), "the query found 3 series instead of one; join them"),
        (answer("vector", [{"value": [1, "NaN"]}]), "the query is nan, which says nothing"),
        (answer("vector", [{"value": [1, "+Inf"]}]), "the query is inf, which says nothing"),
        (answer("vector", [{"histogram": [1, {}]}]), "the query is nan"),
        (answer("matrix", []), "the query returned a matrix instead of one number"),
        ({"status": "error", "error": "parse error at char 3"}, "Prometheus refused the query: parse error at char 3"),
        ({"status": "ok"}, "what answered the query is no Prometheus"),
        ([], "what answered the query is no Prometheus"),
    ],
)
def test_an_answer_of_prometheus_without_a_number_says_why(document: Any, words: str) -> None:
    with pytest.raises(SluiceError) as refused:
        instant(document, "the query")
    assert str(refused.value).startswith(words)


def test_one_row_of_one_column_is_one_number() -> None:
    assert single([{"count": 3}], "the query") == 3.0
    for rows, words in (([], "0 rows"), ([{"a": 1}, {"a": 2}], "2 rows"), ([{"a": 1, "b": 2}], "2 columns"), ([{"a": None}], "null, which is no number")):
        with pytest.raises(SluiceError, match=words):
            single(rows, "the query")


def test_units_are_turned_and_misfits_seen() -> None:
    milliseconds = source_from({**P95, "samples_query": "n"})
    assert reading_of(milliseconds, NOW, 250.0, 80.4, {})[0] == Reading("p95", NOW, 0.25, 80)
    percent = source_from({**P95, "metric": "error_rate", "unit": "percent"})
    assert reading_of(percent, NOW, 5.0, 80, {})[0].value == pytest.approx(0.05)
    share = source_from({**P95, "metric": "error_rate", "unit": "share"})
    assert reading_of(share, NOW, 5.0, 80, {})[0] == Reading("error_rate", NOW, None, 80, "5 came back, but error_rate is a share from 0 to 1")


def test_a_counter_is_read_from_the_first_look_on() -> None:
    deadlocks = source_from({**CPU, "metric": "deadlocks"})
    first, counters = reading_of(deadlocks, NOW, 7, 0, {"cpu": [1, 2]})
    assert (first.value, counters) == (0.0, {"cpu": [1, 2], "deadlocks": 7})
    assert reading_of(deadlocks, NOW, 9, 0, counters)[0].value == 2.0
    back, kept = reading_of(deadlocks, NOW, 1, 0, counters)
    assert (back.value, back.why, kept) == (None, "the counter went back from 7 to 1, so nobody knows how much it grew", counters)


def test_processors_and_memory() -> None:
    share, ticks = busy_share("cpu  100 0 50 800 50 0 0 0 7 7\ncpu0 1 2", ())
    assert (share, ticks) == (None, [150.0, 1000.0])
    assert busy_share("cpu  190 0 50 810 50 0 0 0 9 9\n", ticks) == (0.9, [240.0, 1100.0])
    assert busy_share("cpu  100 0 50 800 50 0 0 0 7 7\n", ticks)[0] is None
    assert used_memory("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:   250 kB\n") == 0.75


def test_a_slot_s_own_requests() -> None:
    histogram = {bin_of(0.010): 90, bin_of(1.0): 10}
    sample = Sample(slots={"green": SlotSample(requests=98, errors=3, histogram=histogram)})
    found = {reading.metric: reading for reading in of_requests(sample, "green", NOW)}
    assert (found["error_rate"].value, found["error_rate"].samples) == (3 / 98, 98)
    assert [found[name].value for name in ("p50", "p95", "p99")] == pytest.approx([0.01, 1.0, 1.0], rel=0.05)
    assert found["mean"].value == pytest.approx(0.109, rel=0.05)
    assert sorted(found) == sorted(metrics.OF_REQUESTS)
    nobody = climb([limit_from(rung("p95", 1.0, min_samples=0))], of_requests(Sample(), "green", NOW), NOW)
    assert (nobody.verdict, nobody.gates[0].sentence) == (INCONCLUSIVE, "p95 rests on no sample; 1 samples are needed to tell p95 > 1 s: rollback.")


# --- One look after the other ---


def result(now: float, **values: float | None) -> dict[str, Any]:
    taken = [{"metric": metric, "at": now - 1, "value": value, "samples": 0, "why": "" if value is not None else "refused"} for metric, value in values.items()]
    return {"readings": taken, "counters": {"cpu": [1, now]}, "now": now}


class Looks:
    """Looks that follow each other, with a history that went through JSON as it does between two tasks."""

    def __init__(self, limits: list[dict[str, Any]], sources: list[dict[str, Any]]) -> None:
        self.limits, self.sources = [limit_from(limit) for limit in limits], [source_from(source) for source in sources]
        self.history: dict[str, Any] = {}
        self.now = NOW

    def __call__(self, results: dict[str, dict[str, Any]], requests: list[Reading] | None = None, unasked: tuple[str, ...] = ()) -> metrics.Look:
        self.now += 5
        placed = {host: sources_of(self.sources, host, ["app1", "app2"], ["db1"]) for host in results}
        found = look(self.limits, self.sources, requests or [], results, placed, self.history, self.now, unasked)
        self.history = json.loads(json.dumps(found.history))
        return found


def test_one_host_s_trouble_is_not_hidden_by_the_other() -> None:
    looks = Looks([rung("cpu", 0.9, for_=10)], [CPU])
    # The hosts' clocks are far off, and that does not matter.
    for count in range(3):
        found = looks({"app1": result(5.0 * count, cpu=0.97), "app2": result(9e9 + 5 * count, cpu=0.2)})
        assert found.climb.action == (ROLLBACK if count == 2 else CONTINUE)
    assert found.climb.sentence == "cpu on app1 is 97 %, for 10 s now; cpu > 90 % for 10 s: rollback."
    assert looks.history["counters"] == {"app1": {"cpu": [1, 10.0]}, "app2": {"cpu": [1, 9e9 + 10]}}


def test_a_host_that_cannot_be_asked_holds_after_four_looks() -> None:
    looks = Looks([rung("cpu", 0.9), rung("deadlocks", 0)], [CPU, {**CPU, "metric": "deadlocks"}])
    fine = {"app1": result(1, cpu=0.1), "db1": result(1, deadlocks=0)}
    assert looks(fine).climb.verdict == PASS
    for count in range(4):
        found = looks({**fine, "app1": {"unreachable": True, "msg": "no route"}})
        assert (found.climb.action, found.climb.verdict, found.held) == (HOLD if count == 3 else CONTINUE, ERROR, count == 3)
    assert found.climb.sentence == "cpu on app1 could not be read 4 times in a row: no route."
    assert looks.history["counters"]["app1"] == {"cpu": [1, 1]}
    assert looks(fine).climb.verdict == PASS


def test_a_metric_with_a_source_is_not_taken_from_the_log() -> None:
    own = [Reading("p95", NOW, 9.0, 500), Reading("error_rate", NOW, 0.001, 500)]
    looks = Looks([rung("p95", 2.0), rung("error_rate", 0.05)], [{**P95, "samples_query": "n"}])
    told = {"readings": [{"metric": "p95", "at": 1, "value": 0.5, "samples": 70, "why": ""}], "now": 1}
    assert looks({"app1": told}, own).climb.gates[0].sentence.startswith("p95 on app1 is 0.5 s (70 samples)")


def test_a_warning_is_said_once_and_stops_nothing() -> None:
    looks = Looks([rung("cpu", 0.5, WARN), rung("cpu", 0.9)], [CPU])
    said = [looks({"app1": result(count, cpu=value)}) for count, value in enumerate((0.6, 0.7, 0.1, 0.6))]
    assert [bool(each.warnings) for each in said] == [True, False, False, True]
    assert said[0].warnings == ("cpu on app1 is 60 %; cpu > 50 %: warn.",)
    assert {each.climb.verdict for each in said} == {PASS}


def test_what_was_not_asked_is_no_failure_and_not_forgotten() -> None:
    looks = Looks([rung("cpu", 0.9, for_=10)], [CPU])
    assert looks({}, unasked=("cpu",)).climb == Climb((), CONTINUE, "")
    looks({"app1": result(1, cpu=0.95)})
    looks({}, unasked=("cpu",))
    assert looks({"app1": result(2, cpu=0.95)}).climb.action == ROLLBACK
    assert Looks([rung("cpu", 0.9)], [CPU])({}).held


LIMITS = st.lists(
    st.builds(
        lambda value, lasting, samples, action: limit_from(rung("error_rate", value, action, for_=lasting, min_samples=samples)),
        st.floats(0.01, 0.99),
        st.sampled_from([0, 30, 180, 600]),
        st.sampled_from([0, 50]),
        st.sampled_from(ladder.ACTIONS),
    ),
    min_size=1,
    max_size=4,
)
VALUES = st.one_of(st.none(), st.sampled_from([0.0, 0.02, 0.5, 0.995]))
ROWS = st.lists(st.tuples(VALUES, st.sampled_from([0, 10, 200]), st.integers(1, 8)), min_size=1, max_size=12)


@given(LIMITS, ROWS)
def test_the_short_history_decides_as_the_whole_one(limits: list[ladder.Limit], rows: list[tuple[float | None, int, int]]) -> None:
    whole: list[Reading] = []
    short: list[Reading] = []
    now = NOW
    for value, samples, times in rows:
        for _number in range(times):
            now += 15
            whole.append(Reading("error_rate", now, value, samples))
            short = recent(limits, [*short, whole[-1]])
            full, brief = climb(limits, whole, now), climb(limits, short, now)
            assert (full.action, [gate.verdict for gate in full.gates]) == (brief.action, [gate.verdict for gate in brief.gates])


def test_hours_of_looks_stay_a_handful() -> None:
    limits = [limit_from(rung("error_rate", 0.5, for_=1800))]
    kept: list[Reading] = []
    for count in range(2000):
        kept = recent(limits, [*kept, Reading("error_rate", NOW + 5 * count, 0.9 if count > 900 else 0.001, 500)])
    assert len(kept) < 20


# --- Judge and ladder together ---


@pytest.mark.parametrize(
    ("judged", "climbed", "verdict", "sentence"),
    [
        ((PASS, "good."), Climb((), CONTINUE, ""), PASS, "good."),
        ((PASS, "good."), Climb((), WARN, "warm.", PASS), PASS, "good."),
        ((PASS, "good."), Climb((), ROLLBACK, "queue.", FAIL), FAIL, "queue."),
        ((FAIL, "errors."), Climb((), ROLLBACK, "queue.", FAIL), FAIL, "errors. queue."),
        ((FAIL, "errors."), Climb((), HOLD, "queue.", INCONCLUSIVE), FAIL, "errors."),
        ((PASS, "good."), Climb((), HOLD, "queue.", INCONCLUSIVE), INCONCLUSIVE, "queue."),
        ((PASS, "good."), Climb((), HOLD, "queue.", PASS), INCONCLUSIVE, "queue."),
        ((PASS, "good."), Climb((), CONTINUE, "", INCONCLUSIVE, "few."), INCONCLUSIVE, "few."),
        ((INCONCLUSIVE, "few requests."), Climb((), CONTINUE, "", INCONCLUSIVE, "few jobs."), INCONCLUSIVE, "few requests. few jobs."),
        ((INCONCLUSIVE, "few requests."), Climb((), CONTINUE, "", ERROR, "unread."), ERROR, "unread."),
        ((INCONCLUSIVE, "few requests."), Climb((), CONTINUE, "", PASS), INCONCLUSIVE, "few requests."),
    ],
)
def test_the_worse_of_judge_and_ladder_decides(judged: tuple[str, str], climbed: Climb, verdict: str, sentence: str) -> None:
    assert combined(*judged, climbed) == (verdict, sentence)


def test_a_source_is_a_value() -> None:
    assert source_from(STUCK) == Source("custom:stuck", "sql", query="SELECT count(*) FROM orders WHERE stuck")
