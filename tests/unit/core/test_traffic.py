# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The laws of shares and buckets, the shape of the rendered files, and what a plan does and refuses."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.fence import admit
from ansible_collections.sluice.deploy.plugins.module_utils.core.traffic import (
    BUCKETS,
    SLOTS,
    Reading,
    Rendering,
    Site,
    State,
    bucket_slots,
    check_site,
    file_names,
    gaining,
    hand_edit,
    idle_of,
    include_lines,
    link_name,
    parse_header,
    parse_link,
    plan,
    render,
    telling_buckets,
    wanted_state,
)
from hypothesis import given
from hypothesis import strategies as st

SITE = Site("wallet", "/etc/nginx/sluice", {"blue": ("127.0.0.1:4101",), "green": ("127.0.0.1:4102",)})

slots = st.sampled_from(SLOTS)
percents = st.integers(0, 100)
states = st.builds(State, slots, percents)
addresses = st.integers(1, 65535).map(lambda port: f"127.0.0.1:{port}") | st.from_regex(r"\A[a-z][a-z0-9-]{0,10}[a-z]\.internal:80\Z")
sites = st.builds(
    lambda app, hosts, cut, key, secure: Site(
        app, "/etc/nginx/sluice", {"blue": tuple(hosts[:cut]), "green": tuple(hosts[cut:])}, "127.0.0.1:8099", "/var/log/a.log", key, secure
    ),
    st.from_regex(r"\A[a-z][a-z0-9_-]{0,29}\Z"),
    st.lists(addresses, min_size=4, max_size=6, unique=True),
    st.integers(1, 3),
    st.sampled_from(["visitor", "request"]),
    st.booleans(),
)


def found(site: Site = SITE, state: State | None = None, generation: int = 1, **more: object) -> Reading:
    """Return the reading of an edge on which all is well."""
    state = state or State("blue")
    seen = Reading(render(site, generation, state.live), link_name(state), True, generation, generation)
    return replace(seen, **more)  # type: ignore[arg-type]


# Shares and buckets


@given(slots, percents, percents)
def test_nobody_who_was_in_falls_out_when_the_share_grows(live: str, one: int, two: int) -> None:
    low, high = sorted((one, two))
    inside = {bucket for bucket, slot in enumerate(bucket_slots(State(live, low))) if slot != live}
    assert inside <= {bucket for bucket, slot in enumerate(bucket_slots(State(live, high))) if slot != live}


@given(states)
def test_shares_are_exact(state: State) -> None:
    served = bucket_slots(state)
    assert len(served) == BUCKETS
    assert {slot: served.count(slot) for slot in SLOTS} == state.shares()
    assert sum(state.shares().values()) == 100


@given(slots)
def test_nothing_and_everything_are_exact(live: str) -> None:
    assert set(bucket_slots(State(live, 0))) == {live}
    assert set(bucket_slots(State(live, 100))) == {idle_of(live)}


@given(states)
def test_link_name_round_trip(state: State) -> None:
    assert parse_link(link_name(state)) == state


@pytest.mark.parametrize(
    "target", [None, "", ".traffic/blue-blue-005", ".traffic/blue-green-101", ".traffic/blue-green-5", "/x/.traffic/blue-green-005", ".traffic/blue-green-005/"]
)
def test_other_link_targets_mean_nothing(target: str | None) -> None:
    assert parse_link(target) is None


@given(states)
def test_a_folder_names_every_bucket_once_and_the_live_slot(state: State) -> None:
    names = file_names(state)
    assert len(names) == BUCKETS + 1
    assert f"live.{state.live}" in names
    assert {f"{bucket}.{slot}" for bucket, slot in enumerate(bucket_slots(state))} < names


@given(states)
def test_the_buckets_asked_lie_on_both_sides_of_the_cut(state: State) -> None:
    asked = telling_buckets(state)
    assert {0, BUCKETS - 1} <= set(asked)
    assert set(asked.values()) == {slot for slot, share in state.shares().items() if share}


@pytest.mark.parametrize("percent", [-1, 101, True, 5.5, "5", None])
def test_other_shares_are_refused(percent: object) -> None:
    with pytest.raises(SluiceError) as error:
        State("blue", percent)  # type: ignore[arg-type]
    assert error.value.facts == {"variable": "percent", "wrong": percent, "allowed": "a whole number from 0 to 100", "example": "25"}


# Rendering


@given(sites, st.integers(1, 10**6), slots)
def test_header_round_trip(site: Site, generation: int, live: str) -> None:
    rendering = render(check_site(site), generation, live)
    header = parse_header(rendering.http)
    assert header is not None
    assert (header.site, header.generation, header.live) == (site, generation, live)
    assert render(header.site, header.generation, header.live) == rendering
    assert hand_edit(rendering) == ""


@given(sites, st.data())
def test_any_edit_by_hand_is_found(site: Site, data: st.DataObject) -> None:
    rendering = render(site, 3, "blue")
    name = data.draw(st.sampled_from(["http", "server"]))
    text = getattr(rendering, name)
    place = data.draw(st.integers(0, len(text) - 1))
    edited = text[:place] + data.draw(st.sampled_from(["#", " ", "x", "\n"])) + text[place + 1 :]
    changed = replace(rendering, **{name: edited})
    assert bool(hand_edit(changed)) == (changed != rendering)


@given(sites)
def test_every_name_in_the_files_is_the_apps_own(site: Site) -> None:
    text = render(site, 1, "green").http
    assert set(re.findall(r"^upstream (\S+)", text, re.MULTILINE)) == {f"{site.word}_{slot}{end}" for slot in SLOTS for end in ("", "_canary")}
    assert "non_idempotent" not in text


def test_the_live_slot_stands_behind_the_canary() -> None:
    text = render(SITE, 1, "blue").http
    assert "    server 127.0.0.1:4102 max_fails=0;\n    server 127.0.0.1:4101 max_fails=0 backup;\n" in text
    assert text.count("backup") == 2


def test_a_canary_of_several_hosts_has_tries_left_for_the_live_slot() -> None:
    many = replace(SITE, slots={"blue": ("127.0.0.1:1",), "green": ("127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4")})
    assert "proxy_next_upstream_tries 4;" in render(many, 1, "blue").server
    assert "proxy_next_upstream_tries 2;" in render(SITE, 1, "blue").server


def test_the_cookie_is_secure_when_asked_and_missing_for_requests() -> None:
    assert "HttpOnly; SameSite=Lax; Secure" in render(SITE, 1, "blue").http
    assert "Secure" not in render(replace(SITE, cookie_secure=False), 1, "blue").http
    assert "Set-Cookie" not in render(replace(SITE, split_key="request"), 1, "blue").server


# Shapes


@pytest.mark.parametrize(
    ("change", "variable"),
    [
        ({"app": "Wallet"}, "app"),
        ({"app": "w" * 31}, "app"),
        ({"app": "wallet;"}, "app"),
        ({"directory": "etc/nginx"}, "directory"),
        ({"directory": "/etc/ng inx"}, "directory"),
        ({"directory": "/etc/nginx/../x"}, "directory"),
        ({"log": "/var/log/x.log; evil"}, "log"),
        ({"control": "0.0.0.0:8099"}, "control"),
        ({"control": "8099"}, "control"),
        ({"split_key": "address"}, "split_key"),
        ({"slots": {"blue": ["127.0.0.1:1"]}}, "slots"),
        ({"slots": {"blue": ["127.0.0.1:1"], "green": []}}, "slots.green"),
        ({"slots": {"blue": ["127.0.0.1:1"], "green": "127.0.0.1:2"}}, "slots.green"),
        ({"slots": {"blue": ["127.0.0.1:1"], "green": ["127.0.0.1"]}}, "slots.green[0]"),
        ({"slots": {"blue": ["127.0.0.1:1"], "green": ["127.0.0.1:65536"]}}, "slots.green[0]"),
        ({"slots": {"blue": ["127.0.0.1:1"], "green": ["127.0.0.1:2 weight=5"]}}, "slots.green[0]"),
        ({"slots": {"blue": ["127.0.0.1:1"], "green": ["127.0.0.1:2", "127.0.0.1:1"]}}, "slots.green[1]"),
    ],
)
def test_wrong_shapes_are_refused_by_name(change: dict[str, object], variable: str) -> None:
    with pytest.raises(SluiceError) as error:
        check_site(replace(SITE, **change))  # type: ignore[arg-type]
    assert error.value.facts["variable"] == variable
    assert {"wrong", "allowed", "example"} <= set(error.value.facts)


# Plans


@given(states, slots | st.none(), percents | st.none())
def test_a_plan_that_was_carried_out_leaves_nothing_to_do(before: State, live: str | None, percent: int | None) -> None:
    first = plan(found(state=before), SITE, live, percent)
    again = plan(found(state=first.state, rendering=render(SITE, 1, before.live)), SITE, first.state.live, first.state.percent)
    assert not again.changed
    assert again.actions == ()


@given(states, states)
def test_no_change_of_traffic_needs_a_reload(before: State, after: State) -> None:
    todo = plan(found(state=before), SITE, after.live, after.percent)
    assert todo.rendering is None
    assert not todo.reload
    assert todo.changed == (before != after)


@given(slots, st.integers(0, 99), percents)
def test_giving_a_canary_less_asks_no_host(live: str, had: int, percent: int) -> None:
    assert plan(found(state=State(live, had)), None, None, min(percent, had)).probes == ()


@given(states, states)
def test_a_slot_that_had_nothing_must_answer_first(before: State, after: State) -> None:
    for slot in SLOTS:
        if not before.shares()[slot] and after.shares()[slot]:
            assert slot in gaining(before, after)
    if before.live != after.live and after.percent < 100:
        assert after.live in gaining(before, after)


def test_promotion_is_one_link_and_begins_with_nothing_for_the_replaced_slot() -> None:
    todo = plan(found(state=State("blue", 75)), None, "green", None)
    assert (todo.state, todo.reload, todo.relink) == (State("green", 0), False, True)
    assert todo.actions == ("live slot: blue -> green; blue keeps 0 %, no reload",)


def test_a_first_rendering_needs_slots_and_live() -> None:
    for site, live, variable in ((None, "blue", "slots"), (SITE, None, "live")):
        with pytest.raises(SluiceError) as error:
            plan(Reading(), site, live, None)
        assert error.value.facts["variable"] == variable
    todo = plan(Reading(), SITE, "blue", None)
    assert (todo.generation, todo.state, todo.reload, todo.relink) == (1, State("blue", 0), True, True)


def test_new_hosts_are_a_new_generation_above_every_one_used() -> None:
    other = replace(SITE, slots={"blue": ("127.0.0.1:4101", "127.0.0.1:4103"), "green": ("127.0.0.1:4102",)})
    todo = plan(found(highest=7), other, None, None)
    assert todo.generation == 8
    assert todo.probes == (("blue", "127.0.0.1:4103"),)
    assert "127.0.0.1:4103" in todo.diff["after"]
    assert "127.0.0.1:4103" not in todo.diff["before"]


def test_a_diff_of_a_share_shows_both_effective_shares() -> None:
    todo = plan(found(state=State("blue", 5)), None, None, 25)
    assert todo.diff == {
        "before": "wallet: blue is live; blue 95 %, green 5 %\ntraffic -> .traffic/blue-green-005\n",
        "after": "wallet: blue is live; blue 75 %, green 25 %\ntraffic -> .traffic/blue-green-025\n",
    }


def test_a_hand_edit_is_refused_with_its_difference_unless_adopted() -> None:
    pristine = render(SITE, 1, "blue")
    edited = Rendering(pristine.http.replace("keepalive 32", "keepalive 64"), pristine.server)
    with pytest.raises(SluiceError, match=r"\+    keepalive 64;"):
        plan(found(rendering=edited), SITE, None, None)
    assert plan(found(rendering=edited), SITE, None, None, adopt=True).generation == 2
    assert plan(found(rendering=edited), None, None, 0).rendering is None


def test_files_that_nginx_does_not_serve_are_reloaded() -> None:
    assert plan(found(served=None), SITE, None, None).reload
    assert plan(found(generation=2, served=1), SITE, None, None).reload
    assert plan(found(cut=True), SITE, None, None).reload
    assert not plan(found(served=None), SITE, None, None, required=False).changed


def test_without_the_traffic_folder_the_slot_live_at_rendering_serves() -> None:
    reading = found(state=State("green", 25), link=None)
    assert reading.state == State("green", 0)
    assert plan(reading, None, None, None).relink


@given(states, slots | st.none(), percents | st.none())
def test_what_is_not_said_is_kept(before: State, live: str | None, percent: int | None) -> None:
    after = wanted_state(before, live, percent)
    assert after.live == (live or before.live)
    if percent is not None:
        assert after.percent == percent
    elif after.live == before.live:
        assert after.percent == before.percent
    else:
        assert after.percent == 0


def test_the_include_lines_name_both_files() -> None:
    assert include_lines(SITE) == ("include /etc/nginx/sluice/wallet/config/http.conf;", "include /etc/nginx/sluice/wallet/config/server.conf;")


@given(st.none() | st.integers(0, 99), st.integers(0, 99))
def test_a_lower_fencing_number_is_refused(seen: int | None, number: int) -> None:
    if seen is not None and number < seen:
        with pytest.raises(SluiceError, match="newer run"):
            admit(seen, number, "/x")
    else:
        assert admit(seen, number, "/x") == (number != seen)
