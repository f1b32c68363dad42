# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a plan does, asks for and refuses, with each of the two switches."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.edge_plan import Reading, Wanted, plan
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.fence import admit
from ansible_collections.sluice.deploy.plugins.module_utils.core.render import Rendering, render
from ansible_collections.sluice.deploy.plugins.module_utils.core.site import Service, Site
from ansible_collections.sluice.deploy.plugins.module_utils.core.traffic import SLOTS, State, link_name
from hypothesis import given
from hypothesis import strategies as st

WEB = Service("web", {"blue": ("127.0.0.1:4101",), "green": ("127.0.0.1:4102",)}, "/", "/health")
SITE = Site("wallet", "/etc/nginx/sluice", (WEB,), tester_addresses=("192.0.2.7",))
WEIGHTS = replace(SITE, switch="weights")

slots = st.sampled_from(SLOTS)
percents = st.integers(0, 100)
states = st.builds(State, slots, percents, st.integers(0, 999), st.booleans())
sites = st.sampled_from([SITE, WEIGHTS])


def found(site: Site = SITE, state: State | None = None, generation: int = 1, **more: object) -> Reading:
    """Return the reading of an edge on which all is well."""
    state = state or State("blue")
    seen = Reading(render(site, generation, state), link_name(state), True, generation, generation)
    return replace(seen, **more)  # type: ignore[arg-type]


@given(sites, states, slots | st.none(), percents | st.none())
def test_a_plan_that_was_carried_out_leaves_nothing_to_do(site: Site, before: State, live: str | None, percent: int | None) -> None:
    first = plan(found(site, before), Wanted(site, live, percent))
    after = found(site, first.state, first.generation, **({"rendering": first.rendering} if first.rendering else {"rendering": render(site, 1, before)}))
    again = plan(after, Wanted(site, first.state.live, first.state.percent))
    assert not again.changed
    assert again.actions == ()


@given(states, states)
def test_buckets_need_no_reload_for_a_change_of_traffic(before: State, after: State) -> None:
    todo = plan(found(state=before), Wanted(SITE, after.live, after.percent, after.salt, after.testers))
    assert todo.rendering is None
    assert not todo.reload
    assert todo.changed == (before != after)


@given(states, states)
def test_weights_render_anew_for_each_change_and_only_then(before: State, after: State) -> None:
    todo = plan(found(WEIGHTS, before), Wanted(None, after.live, after.percent, after.salt, after.testers))
    assert (todo.rendering is not None) == todo.reload == todo.changed == (before != after)
    assert not todo.relink


@given(sites, states, states)
def test_both_switches_ask_the_same_hosts(site: Site, before: State, after: State) -> None:
    wanted = Wanted(None, after.live, after.percent, after.salt, after.testers)
    assert plan(found(site, before), wanted).probes == plan(found(SITE, before), wanted).probes


def test_promotion_is_one_link_and_begins_with_nothing_for_the_replaced_slot() -> None:
    todo = plan(found(state=State("blue", 75, testers=True)), Wanted(live="green"))
    assert (todo.state, todo.reload, todo.relink) == (State("green", 0), False, True)
    assert todo.actions == ("live slot: blue -> green; blue keeps 0 %, no reload",)


def test_a_first_rendering_needs_services_and_live() -> None:
    for wanted, variable in ((Wanted(None, "blue"), "services"), (Wanted(SITE), "live")):
        with pytest.raises(SluiceError) as error:
            plan(Reading(), wanted)
        assert error.value.facts["variable"] == variable
    todo = plan(Reading(), Wanted(SITE, "blue"))
    assert (todo.generation, todo.state, todo.reload, todo.relink) == (1, State("blue", 0), True, True)


def test_new_hosts_are_a_new_generation_above_every_one_used() -> None:
    other = replace(SITE, services=(replace(WEB, slots={"blue": ("127.0.0.1:4101", "127.0.0.1:4103"), "green": ("127.0.0.1:4102",)}),))
    todo = plan(found(highest=7), Wanted(other))
    assert todo.generation == 8
    assert todo.probes == (("blue", "127.0.0.1:4103", "/health"),)
    assert "127.0.0.1:4103" in todo.diff["after"]
    assert "127.0.0.1:4103" not in todo.diff["before"]


def test_a_host_that_comes_back_into_a_slot_that_serves_must_answer() -> None:
    two = replace(SITE, services=(replace(WEB, slots={"blue": ("127.0.0.1:1", "127.0.0.1:2"), "green": ("127.0.0.1:3",)}),))
    out = replace(two, hosts_out=("127.0.0.1:2",))
    assert plan(found(two), Wanted(out)).probes == ()
    assert plan(found(out), Wanted(two)).probes == (("blue", "127.0.0.1:2", "/health"),)


def test_testers_are_let_in_at_nothing_and_their_slot_must_answer() -> None:
    todo = plan(found(), Wanted(percent=0, testers=True))
    assert todo.state == State("blue", 0, testers=True)
    assert todo.probes == (("green", "127.0.0.1:4102", "/health"),)
    assert todo.actions == ("testers go to green; blue is live; blue 100 %, green 0 %; testers go to green, no reload",)


def test_testers_need_somebody_who_can_be_one() -> None:
    nobody = replace(SITE, tester_addresses=())
    with pytest.raises(SluiceError, match="nobody can be one"):
        plan(found(nobody), Wanted(testers=True))


def test_a_diff_of_a_share_shows_both_effective_shares() -> None:
    todo = plan(found(state=State("blue", 5)), Wanted(percent=25))
    assert todo.diff == {
        "before": "wallet: blue is live; blue 95 %, green 5 %\ntraffic -> .traffic/blue-green-005-000\n",
        "after": "wallet: blue is live; blue 75 %, green 25 %\ntraffic -> .traffic/blue-green-025-000\n",
    }
    weighted = plan(found(WEIGHTS, State("blue", 5)), Wanted(percent=25)).diff
    assert "server 127.0.0.1:4102 weight=5 " in weighted["before"]
    assert "server 127.0.0.1:4102 weight=25 " in weighted["after"]


def test_a_hand_edit_is_refused_with_its_difference_unless_adopted() -> None:
    pristine = render(SITE, 1, State("blue"))
    edited = Rendering(pristine.http.replace("keepalive 32", "keepalive 64"), pristine.server)
    with pytest.raises(SluiceError, match=r"\+    keepalive 64;"):
        plan(found(rendering=edited), Wanted(SITE))
    assert plan(found(rendering=edited), Wanted(SITE), adopt=True).generation == 2
    assert plan(found(rendering=edited), Wanted(percent=0)).rendering is None


def test_with_weights_a_hand_edit_stops_a_larger_share_but_no_way_back() -> None:
    pristine = render(WEIGHTS, 1, State("blue", 25))
    reading = found(WEIGHTS, State("blue", 25), rendering=Rendering(pristine.http.replace("keepalive 32", "keepalive 64"), pristine.server))
    with pytest.raises(SluiceError, match="changed by hand"):
        plan(reading, Wanted(percent=50))
    assert plan(reading, Wanted(percent=5)).rendering
    assert plan(reading, Wanted(live="green")).rendering


def test_another_switch_keeps_the_share() -> None:
    state = State("blue", 25, 417)
    there = plan(found(SITE, state), Wanted(WEIGHTS))
    assert (there.state, there.reload, there.relink) == (state, True, False)
    back = plan(found(WEIGHTS, state, link=link_name(State("green", 7))), Wanted(SITE))
    assert (back.state, back.reload, back.relink) == (state, True, True)


def test_a_closed_site_lets_no_canary_further_in_but_back() -> None:
    closed = found(state=State("blue", 25), maintenance=True)
    with pytest.raises(SluiceError, match="closed for maintenance"):
        plan(closed, Wanted(percent=50))
    assert plan(closed, Wanted(percent=5)).changed
    assert plan(closed, Wanted(live="green")).changed
    assert plan(closed, Wanted(percent=50, maintenance=False)).flag is False


@pytest.mark.parametrize(("was", "wanted", "flag"), [(False, True, True), (True, True, None), (True, False, False), (False, False, None), (True, None, None)])
def test_the_flag_is_set_once(was: bool, wanted: bool | None, flag: bool | None) -> None:
    todo = plan(found(maintenance=was), Wanted(maintenance=wanted))
    assert todo.flag is flag
    assert todo.changed == (flag is not None)


def test_files_that_nginx_does_not_serve_are_reloaded() -> None:
    assert plan(found(served=None), Wanted(SITE)).reload
    assert plan(found(generation=2, served=1), Wanted(SITE)).reload
    assert plan(found(cut=True), Wanted(SITE)).reload
    assert not plan(found(served=None), Wanted(SITE), required=False).changed


def test_without_the_traffic_folder_the_slot_live_at_rendering_serves() -> None:
    reading = found(state=State("green", 25), link=None)
    assert reading.state == State("green", 0)
    assert plan(reading, Wanted(live="green")).relink


@given(st.none() | st.integers(0, 99), st.integers(0, 99))
def test_a_lower_fencing_number_is_refused(seen: int | None, number: int) -> None:
    if seen is not None and number < seen:
        with pytest.raises(SluiceError, match="newer run"):
            admit(seen, number, "/x")
    else:
        assert admit(seen, number, "/x") == (number != seen)
