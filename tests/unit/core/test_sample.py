# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sample: each line is charged to the right slot, samples add up in any order, and no visitor's key leaves."""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.histogram import GROWTH, bin_of, quantile, value_at, value_of
from ansible_collections.sluice.deploy.plugins.module_utils.core.sample import (
    OTHER,
    Kinds,
    Sample,
    SlotSample,
    Tally,
    kinds_of,
    merge,
    owners_of,
    parse,
    route_complaint,
)
from hypothesis import given
from hypothesis import strategies as st

BLUE, GREEN = "127.0.0.1:4002", "127.0.0.1:4102"
OWNERS = {BLUE: "blue", GREEN: "green", "[::1]:4102": "green", "unix:/run/green.sock": "green"}


def line(
    t: float = 1700000000.123, slot: str = "green", u: str = "/api/x", st: int = 200, rt: float = 0.012, ua: str = GREEN, us: str = "200", v: str = "key"
) -> bytes:
    """A line as nginx writes it (escape=json)."""
    texts = {name: json.dumps(text) for name, text in (("slot", slot), ("u", u), ("ua", ua), ("us", us), ("v", v))}
    return (
        f'{{"t":{t:.3f},"slot":{texts["slot"]},"m":"GET","u":{texts["u"]},"st":{st:03d},"rt":{rt:.3f},'
        f'"ua":{texts["ua"]},"us":{texts["us"]},"ut":"0.011","v":{texts["v"]},"id":"0af3"}}\n'
    ).encode()


def of(*lines: bytes) -> Sample:
    return parse(b"".join(lines), OWNERS)


def counts(slot: SlotSample) -> tuple[int, int, int, int]:
    return slot.requests, slot.errors, slot.shielded, slot.aborted


@pytest.mark.parametrize(
    ("st", "ua", "us", "green", "blue"),
    [
        (200, GREEN, "200", (1, 0, 0, 0), (0, 0, 0, 0)),
        (404, GREEN, "404", (1, 0, 0, 0), (0, 0, 0, 0)),
        (500, GREEN, "500", (1, 1, 0, 0), (0, 0, 0, 0)),
        (200, f"{GREEN}, {BLUE}", "502, 200", (1, 1, 1, 0), (0, 0, 0, 0)),
        (502, f"{GREEN}, {BLUE}", "502, 502", (1, 1, 0, 0), (0, 0, 0, 0)),
        (200, f"{BLUE}, {GREEN}", "404, 200", (0, 0, 0, 0), (1, 0, 0, 0)),
        (500, f"{BLUE}, {GREEN}", "404, 500", (0, 0, 0, 0), (1, 0, 0, 0)),
        (200, f"{GREEN} : {BLUE}", "503 : 200", (1, 1, 1, 0), (0, 0, 0, 0)),
        (502, GREEN, "-", (1, 1, 0, 0), (0, 0, 0, 0)),
        (504, GREEN, "504", (1, 1, 0, 0), (0, 0, 0, 0)),
        (499, GREEN, "-", (0, 0, 0, 1), (0, 0, 0, 0)),
        (499, f"{GREEN}, {BLUE}", "502, -", (1, 1, 1, 0), (0, 0, 0, 0)),
        (200, "[::1]:4102", "200", (1, 0, 0, 0), (0, 0, 0, 0)),
        (500, "unix:/run/green.sock", "500", (1, 1, 0, 0), (0, 0, 0, 0)),
    ],
)
def test_the_slot_of_the_first_attempt_is_charged(st: int, ua: str, us: str, green: tuple[int, ...], blue: tuple[int, ...]) -> None:
    sample = of(line(st=st, ua=ua, us=us))
    assert (counts(sample.slot("green")), counts(sample.slot("blue"))) == (green, blue)
    assert (sample.ignored, sample.unowned, sample.malformed) == (0, 0, 0)


def test_without_a_living_peer_the_line_s_own_slot_has_failed() -> None:
    sample = of(line(st=502, ua="wallet_green", us="502", v="a"), line(st=502, slot="blue", ua="wallet_green", us="502"), line(v="b"))
    assert counts(sample.slot("green")) == (2, 1, 0, 0) and counts(sample.slot("blue")) == (1, 1, 0, 0)
    assert (sample.slot("green").clients, sample.slot("green").error_clients) == (2, 1)
    assert of(line(st=502, slot="", ua="wallet_green", us="502")).unowned == 1


@pytest.mark.parametrize("u", ["/api/health", "/api/health?full=1", '/api/health?q="x"'])
def test_probes_are_ignored(u: str) -> None:
    sample = of(line(u=u, st=503, us="503"), line())
    assert sample.ignored == 1 and counts(sample.slot("green")) == (1, 0, 0, 0)


@pytest.mark.parametrize("u", ["/api/healthy", "/x/api/health", "/api/health/detailed", "/?u=/api/health"])
def test_what_only_resembles_a_probe_is_not(u: str) -> None:
    assert of(line(u=u)).slot("green").requests == 1


def test_without_ignored_paths_every_path_counts() -> None:
    assert parse(line(u="/api/health"), OWNERS, ()).slot("green").requests == 1


@pytest.mark.parametrize("ua", ["", "-"])
def test_what_nginx_answered_itself_is_ignored(ua: str) -> None:
    sample = of(line(st=400, ua=ua, us=ua))
    assert sample.ignored == 1 and counts(sample.slot("green")) == (0, 0, 0, 0)


def test_an_address_of_no_slot_is_counted_apart() -> None:
    sample = of(line(ua="127.0.0.1:9"), line())
    assert sample.unowned == 1 and sample.slot("green").requests == 1


@pytest.mark.parametrize("junk", [b"\n", b"{}\n", b'127.0.0.1 - - "GET / HTTP/1.1" 200\n', line()[:-3] + b"\n", b'{"t":1.0,"slot":"green"\n' + b'"m":""}\n'])
def test_lines_of_another_format_are_counted(junk: bytes) -> None:
    sample = of(line(), junk, line())
    assert sample.malformed == junk.count(b"\n") and sample.slot("green").requests == 2


@given(st.text(max_size=80), st.text(max_size=40))
def test_a_visitor_cannot_write_the_log(u: str, v: str) -> None:
    u = f"/x{u}"
    forged = f'{u}","st":500,"rt":9.9,"ua":"{BLUE}","us":"500'
    sample = of(line(u=forged, v=v), line(u=u, v=f'{v}"}}\n{{'))
    assert counts(sample.slot("green")) == (2, 0, 0, 0) and counts(sample.slot("blue")) == (0, 0, 0, 0) and sample.malformed == 0


def test_keys_added_at_the_end_do_no_harm() -> None:
    assert of(line()[:-2] + b',"rc":"api"}\n').slot("green").requests == 1


def test_distinct_visitors_are_counted_once_over_blocks_and_those_without_a_key_not_at_all() -> None:
    tally = Tally(OWNERS)
    tally.add(line(v="a") + line(v="b") + line(v=""))
    tally.add(line(v="a", st=500, us="500") + line(v="c", st=500, us="500") + line(v="-", st=500, us="500"))
    green = tally.sample().slot("green")
    assert (green.requests, green.clients, green.error_clients, tally.lines) == (6, 3, 2, 6)


def test_statuses_and_times_hold_every_judged_line() -> None:
    green = of(line(rt=0), line(st=404, us="404"), line(st=499, us="-", rt=3), line(st=200, ua=f"{GREEN}, {BLUE}", us="502, 200")).slot("green")
    assert green.statuses == {"2xx": 2, "4xx": 2} and sum(green.histogram.values()) == 4 and green.histogram[0] == 1


def test_the_life_of_a_websocket_is_no_request_time() -> None:
    green = of(line(st=101, us="101", rt=3600), line(rt=0.1)).slot("green")
    assert (green.requests, green.statuses, sum(green.histogram.values())) == (2, {"1xx": 1, "2xx": 1}, 1)


def test_the_window_is_that_of_the_lines() -> None:
    sample = of(b"junk\n", line(t=1700000001.5), line(t=1700000002.25), line(t=1700000009.75), b"junk\n")
    assert (sample.since, sample.until) == (1700000001.5, 1700000009.75)
    assert (of().since, of(b"junk\n").until) == (None, None)


def test_no_visitor_address_or_path_leaves() -> None:
    text = json.dumps(of(line(v="SENTINEL-KEY", u="/SENTINEL-PATH"), line(v="SENTINEL-KEY", st=500, us="500"), line(ua="10.9.8.7:6")).as_dict())
    assert "SENTINEL" not in text and "10.9.8.7" not in text and GREEN not in text


NUMBERS = st.integers(0, 10**6)
SLOTS = st.builds(
    SlotSample,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.dictionaries(st.sampled_from(["2xx", "4xx", "5xx"]), NUMBERS),
    NUMBERS,
    NUMBERS,
    st.dictionaries(st.integers(0, 300), NUMBERS),
    NUMBERS,
)
STRATA = st.dictionaries(st.sampled_from(["blue", "green"]), st.dictionaries(st.sampled_from(["payment", "api"]), SLOTS))
MOMENTS = st.none() | st.floats(0, 2e9)
SAMPLES = st.builds(Sample, MOMENTS, MOMENTS, st.dictionaries(st.sampled_from(["blue", "green"]), SLOTS), NUMBERS, NUMBERS, NUMBERS, STRATA)


@given(SAMPLES, SAMPLES, SAMPLES)
def test_samples_add_up_in_any_order(a: Sample, b: Sample, c: Sample) -> None:
    assert merge([a, b]) == merge([b, a])
    assert merge([merge([a, b]), c]) == merge([a, merge([b, c])]) == merge([a, b, c])
    assert merge([a, Sample()]) == a


@given(SAMPLES)
def test_a_sample_travels_as_json(sample: Sample) -> None:
    assert Sample.from_dict(json.loads(json.dumps(sample.as_dict()))) == sample


@given(st.lists(st.tuples(st.sampled_from([200, 404, 499, 500]), st.floats(0, 60), st.sampled_from([GREEN, BLUE])), max_size=60), st.integers(0, 60))
def test_two_halves_of_a_log_give_the_same_counts_as_the_whole(rows: list[tuple[int, float, str]], cut: int) -> None:
    lines = [line(st=status, us=str(status), rt=rt, ua=ua, v="") for status, rt, ua in rows]
    assert merge([of(*lines[:cut]), of(*lines[cut:])]) == of(*lines)


# --- Kinds of requests ---


ROUTES = [{"name": "payment", "path": "/api/payments/"}, {"name": "payment", "path": "/pay"}, {"name": "api", "path": "/api/"}]
KINDS = kinds_of(ROUTES, {})


def told_apart(*lines: bytes, kinds: Kinds = KINDS) -> Sample:
    return parse(b"".join(lines), OWNERS, kinds=kinds)


@pytest.mark.parametrize(
    ("u", "kind"),
    [
        ("/api/payments/7", "payment"),
        ("/api/payments/", "payment"),
        ("/pay?x=1", "payment"),
        ("/api/payments", "api"),
        ("/api/health/detailed", "api"),
        ('/api/"quoted"', "api"),
        ("/x/api/", OTHER),
        ("/?u=/api/payments/", OTHER),
        ("/", OTHER),
        ("", OTHER),
    ],
)
def test_a_request_is_of_the_first_kind_its_path_begins_with(u: str, kind: str) -> None:
    sample = told_apart(line(u=u, st=500, us="500"))
    assert {name: part.errors for name, part in sample.strata["green"].items()} == {**dict.fromkeys(("payment", "api", OTHER), 0), kind: 1}
    assert sample.kinds == ("api", OTHER, "payment") and sample.stratum("blue", kind) == SlotSample() == sample.stratum("green", "none")


def test_what_fits_no_route_is_of_its_service() -> None:
    kinds = kinds_of(ROUTES, {"web": [BLUE, GREEN], "worker": ["unix:/run/green.sock"]})
    gone = line(u="/", st=502, ua="wallet_green", us="502")
    sample = told_apart(line(u="/pay"), line(u="/"), line(u="/", ua="unix:/run/green.sock"), gone, line(u="/pay", ua="wallet_green", us="502"), kinds=kinds)
    assert {kind: part.requests for kind, part in sample.strata["green"].items()} == {"payment": 2, "api": 0, "web": 1, "worker": 1, OTHER: 1}


def test_probes_are_ignored_whatever_their_route() -> None:
    sample = told_apart(line(u="/api/health"), line(u="/api/health?full=1"))
    assert sample.ignored == 2 and not any(part.requests for part in sample.strata["green"].values())


def test_without_routes_nothing_is_told_apart() -> None:
    assert of(line()).strata == {} == told_apart(line(), kinds=kinds_of([], {})).strata and of(line()).kinds == ()


def test_the_mean_is_exact() -> None:
    sample = told_apart(line(u="/pay", rt=0.25), line(u="/", rt=0.05), line(u="/", st=101, us="101", rt=3600))
    means = (sample.slot("green").mean_seconds, sample.stratum("green", "payment").mean_seconds, sample.slot("blue").mean_seconds)
    assert means == (0.15, 0.25, None) and merge([sample, sample]).slot("green").mean_seconds == 0.15


ADDRESSES = st.sampled_from([GREEN, BLUE, "wallet_green", "1.1.1.1:1", "-"])
PATHS = st.sampled_from(["/", "/pay", "/api/payments/1", "/api/x", "/api/health", "/assets/app.css"])
ROWS = st.lists(st.tuples(PATHS, st.sampled_from([200, 101, 404, 499, 500]), st.floats(0, 60), ADDRESSES))


@given(ROWS, st.integers(0, 30))
def test_the_kinds_add_up_to_the_slots(rows: list[tuple[str, int, float, str]], cut: int) -> None:
    lines = [line(u=u, st=status, us=str(status), rt=rt, ua=ua, v="") for u, status, rt, ua in rows]
    sample = told_apart(*lines)
    for slot in ("blue", "green"):
        parts = [Sample(slots={slot: part}) for part in sample.strata[slot].values()]
        assert merge(parts).slot(slot) == sample.slot(slot) == of(*lines).slot(slot)
    assert merge([told_apart(*lines[:cut]), told_apart(*lines[cut:])]) == sample


def test_a_visitor_of_two_kinds_is_one_visitor() -> None:
    sample = told_apart(line(u="/", v="a"), line(u="/pay", v="a", st=500, us="500"), line(u="/pay", v="b"))
    assert (sample.slot("green").clients, sample.stratum("green", "payment").clients, sample.stratum("green", OTHER).clients) == (2, 2, 1)


@pytest.mark.parametrize(
    ("routes", "words"),
    [
        (["/api/"], "route 1 must be a mapping with name and path."),
        ([{"name": "api"}], "route 1 must be a mapping with name and path."),
        ([{"name": "api", "path": "/api/", "paht": ""}], "route 1 must be a mapping with name and path."),
        ([{"name": "The API", "path": "/api/"}], "the name of route 1 may hold up to 31 lower-case letters"),
        ([{"name": "api", "path": "api/"}], "the path of route 1 begins with / and holds letters"),
        ([{"name": "api", "path": '/api/"x'}], "the path of route 1 begins with / and holds letters"),
        ([{"name": "api", "path": "/api?x"}], "the path of route 1 begins with / and holds letters"),
        ([ROUTES[2], ROUTES[0]], "route 2 (/api/payments/) is never reached, because /api/ comes before it; the longer path goes first."),
        ([{"name": f"r{number}", "path": f"/{number}"} for number in range(9)], "there are 9 routes; 8 are allowed."),
    ],
)
def test_routes_that_cannot_be_meant_are_refused(routes: list[object], words: str) -> None:
    assert route_complaint(routes).startswith(words)
    with pytest.raises(SluiceError) as refused:
        kinds_of(routes, {})
    assert words in str(refused.value) and "Example: routes: [{name: payment, path: /api/payments/}" in str(refused.value)


@given(st.lists(st.integers(0, 90_000), min_size=1, max_size=200), st.floats(0, 1))
def test_a_quantile_is_right_to_the_width_of_a_bin(milliseconds: list[int], share: float) -> None:
    times = sorted(number / 1000 for number in milliseconds)
    histogram = dict.fromkeys(map(bin_of, times), 0)
    for seconds in times:
        histogram[bin_of(seconds)] += 1
    true = times[max(1, math.ceil((share - 1e-9) * len(times))) - 1]
    found = quantile(histogram, share)
    assert found is not None and abs(found - true) <= (GROWTH - 1) * true


@given(st.floats(0.001, 1000))
def test_a_bin_is_no_wider_than_five_percent(seconds: float) -> None:
    assert 1 / GROWTH <= value_of(bin_of(seconds)) / seconds <= GROWTH and bin_of(seconds * GROWTH) - bin_of(seconds) in (1, 2)


def test_an_empty_histogram_has_no_quantile() -> None:
    assert quantile({}, 0.95) is None and value_at({3: 2}, 3) is None and value_at({3: 2}, 0) is None


@pytest.mark.parametrize(
    ("slots", "words"),
    [
        ({"blue": [BLUE], "green": [GREEN, BLUE]}, f"{BLUE} belongs to blue and to green"),
        ({"blue": [4002]}, "The slot blue has an address that is none: 4002"),
        ({"blue": ["app1"]}, "The slot blue has an address that is none: 'app1'"),
        ({"blue": []}, "No slot has an address"),
        ({}, "No slot has an address"),
    ],
)
def test_addresses_that_cannot_be_meant_are_refused(slots: dict[str, object], words: str) -> None:
    with pytest.raises(SluiceError, match=words.replace("(", r"\(")):
        owners_of(slots)


def steps_of(work: Callable[[], object]) -> int:
    """Return how many lines of Python a piece of work runs, each turn of a loop anew: the same number on any machine, however busy."""
    taken = 0

    def count(_frame: FrameType, _event: str, _value: object) -> Callable[..., Any]:
        nonlocal taken
        taken += 1
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(before)
    return taken


@pytest.mark.parametrize("kinds", [Kinds(), KINDS])
def test_a_line_more_costs_next_to_no_step_of_python(kinds: Kinds) -> None:
    # What is fast is that each sort of line is read once and the rest is counted by the interpreter; benchmarks/judge.py measures how fast.
    rng = random.Random(1)
    paths = ["/", "/api/health", "/api/x?id=1234567"]
    rows = [
        line(t=1700000000 + i / 1000, rt=rng.randrange(90) / 1000, ua=rng.choice([GREEN, BLUE]), u=rng.choice(paths), v=f"{i % 50:032x}") for i in range(24_000)
    ]
    parse(b"".join(rows), OWNERS, kinds=kinds)  # each sort of line was met once
    few, many = (steps_of(lambda count=count: parse(b"".join(rows[:count]), OWNERS, kinds=kinds)) for count in (8_000, 24_000))
    assert many - few < 1_000 < 16_000 <= steps_of(lambda: [len(row) for row in rows[8_000:]])
