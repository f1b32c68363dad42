# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A release in place: what its inputs may be, and what its short stop means for the ledger, the ground, the edge and the account."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import account, ground, host_rules, inputs, ledger, slots
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.render import render
from ansible_collections.sluice.deploy.plugins.module_utils.core.site import WEIGHTS_SWITCH, Service, Site, check_site
from ansible_collections.sluice.deploy.plugins.module_utils.core.traffic import State
from hypothesis import given
from hypothesis import strategies as st

PLAN = {"live": "blue", "idle": "green", "live_version": "v1", "in_place": True}
SPECS: dict[str, dict[str, Any]] = {
    "app_in_place": {"type": "bool", "default": False},
    "canary_pace": {"choices": ["attended", "stepwise"], "default": "attended"},
    "canary_percent": {"type": "int"},
    "canary_self_test": {"type": "bool", "default": False},
    "canary_steps": {"type": "list", "default": [{"percent": 100}]},
    "canary_windows": {"type": "list", "default": []},
}


def records(*events: tuple[str, float, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of one release in place after its preflight."""
    begun = [("claim", 0.0, {"version": "v2"}), ("plan", 1.0, {"manifest": PLAN, "digest": "d"})]
    told: list[dict[str, Any]] = []
    for event, at, data in [*begun, *events]:
        told.append({"event": event, "at": at, "release": "r1", "phase": data.get("phase", ""), "data": data})
    return told


def release(*events: tuple[str, float, dict[str, Any]]) -> ledger.Release:
    return ledger.fold(records(*events))[0]


CLOSED, OPENED = ("closed", 10.0, {}), ("opened", 14.25, {})
LEFT_OUT = ("end", 5.0, {"phase": "start", "left_out": "why"})
PROMOTED = (("end", 15.0, {"phase": "promote"}), ("promote", 16.0, {}))


# Inputs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given_ports", [{"blue": 1, "green": 1}, {"blue": 1, "green": 1, "rehearsal": 2}, {"blue": 1, "green": 2, "rehearsal": 3}])
def test_slots_of_which_one_runs_may_share_a_port(given_ports: dict[str, int]) -> None:
    service = {"name": "web", "entry": "server.js", "ports": given_ports}
    assert slots.service_from(service, in_place=True).ports == given_ports
    if len(set(given_ports.values())) < 3:
        with pytest.raises(SluiceError, match="web needs three different ports"):
            slots.service_from(service)


@pytest.mark.parametrize("wrong", [{}, {"blue": 1}, {"blue": 1, "green": 1, "rehearsal": 1}, {"blue": 1, "green": 0}, {"blue": 1, "green": 1, "red": 2}])
def test_the_ports_of_an_app_in_place_have_a_shape_too(wrong: dict[str, int]) -> None:
    with pytest.raises(SluiceError, match="which may be the same in place"):
        slots.service_from({"name": "web", "entry": "server.js", "ports": wrong}, in_place=True)


def test_what_steers_a_canary_is_named_where_there_is_none() -> None:
    (complaint,) = inputs.wrong({"app_in_place": True, "canary_steps": [{"percent": 5}], "canary_pace": "stepwise"}, SPECS)
    assert complaint.startswith("canary_steps and canary_pace would steer a canary, but app_in_place: true leaves the canary out")
    assert "Take them out" in complaint


def test_defaults_and_no_steps_at_all_are_no_contradiction() -> None:
    assert inputs.wrong({"app_in_place": True, "canary_steps": [{"percent": 100}], "canary_pace": "attended", "canary_self_test": False}, SPECS) == []
    assert inputs.wrong({"app_in_place": "true", "canary_steps": []}, SPECS) == []
    assert inputs.wrong({"app_in_place": False, "canary_steps": []}, SPECS) != []


# Ledger ------------------------------------------------------------------------------------------


def test_a_stop_is_measured_and_a_run_that_goes_on_prolongs_it() -> None:
    assert list(release(CLOSED).stops) == [{"at": 10.0, "seconds": None}]
    assert list(release(CLOSED, ("closed", 12.0, {}), OPENED).stops) == [{"at": 10.0, "seconds": 4.25}]
    assert list(release(CLOSED, OPENED, ("closed", 20.0, {}), ("opened", 22.0, {})).stops)[1] == {"at": 20.0, "seconds": 2.0}
    assert list(release(OPENED).stops) == []
    assert ledger.release_from(release(CLOSED, OPENED).as_dict()).stops == [{"at": 10.0, "seconds": 4.25}]


@given(st.lists(st.sampled_from(["closed", "opened"]), max_size=8))
def test_at_most_the_last_stop_is_open(events: list[str]) -> None:
    stops = release(*((event, 10.0 + number, {}) for number, event in enumerate(events))).stops
    assert all(stop["seconds"] is not None for stop in stops[:-1])
    assert (bool(stops) and stops[-1]["seconds"] is None) == (events[-1:] == ["closed"])


def test_a_release_that_was_cut_in_its_stop_is_never_taken_for_untouched() -> None:
    again = ("begin", 20.0, {"phase": "preflight"})
    assert ledger.untouched(release(again))
    assert not ledger.untouched(release(CLOSED, again))
    assert not ledger.untouched(release(("end", 3.0, {"phase": "migrate"}), again))


@pytest.mark.parametrize(
    ("events", "why", "in_place"),
    [
        ((LEFT_OUT,), "it is live; the share of v2 goes to 0", False),
        ((LEFT_OUT, CLOSED), "it is kept in blue and is started again in a short stop", True),
        ((LEFT_OUT, CLOSED, OPENED, *PROMOTED), "it is kept in blue and is started again in a short stop", True),
    ],
)
def test_the_way_back_says_whether_it_needs_a_stop(events: tuple[Any, ...], why: str, in_place: bool) -> None:
    (found,) = ledger.candidates([release(*events)])
    assert (found.slot, found.possible, found.why, found.in_place) == ("blue", True, why, in_place)


def test_a_slot_holds_a_version_in_place_only_once_it_was_live() -> None:
    assert ledger.occupants([release(LEFT_OUT, CLOSED)]) == {"blue": "v1"}
    assert ledger.occupants([release(LEFT_OUT, CLOSED, OPENED, *PROMOTED)]) == {"blue": "v1", "green": "v2"}


# Account -----------------------------------------------------------------------------------------


def test_the_account_tells_how_long_the_site_was_closed() -> None:
    events = (("begin", 4.0, {"phase": "start"}), LEFT_OUT, CLOSED, OPENED, *PROMOTED)
    report = account.account(release(*events).as_dict(), records(*events))
    assert report["stops"] == [{"at": 10.0, "seconds": 4.25}]
    assert [phase["outcome"] for phase in report["phases"]] == ["left out"]
    assert account.summary(report) == [
        "r1: v2 is live in green; v1 does not run, and a rollback starts it again in a short stop.",
        "The site was closed for 4.2 s.",
    ]


def test_a_site_that_was_left_closed_is_told_with_the_way_to_open_it() -> None:
    assert account.still_closed({}) == account.still_closed(release(CLOSED, OPENED).as_dict()) == []
    (told,) = account.still_closed(release(CLOSED).as_dict())
    assert told.startswith("The site is CLOSED since 1970-01-01 00:00:10 UTC for r1. rollback.yml starts the version before and opens it;")
    assert "maintenance.yml -e maintenance_state=off" in told


# Ground ------------------------------------------------------------------------------------------

SHUT = {"e1": {"live": "blue", "percent": 0, "maintenance": True}}


def test_a_release_goes_on_where_it_closed_the_site_itself() -> None:
    hosts = {"a1": {"blue": {"version": "v1", "online": 0, "wanted": 2}}}
    assert ground.survey(SHUT, hosts, PLAN).gates[-1].name == "maintenance"
    seen = ground.survey(SHUT, hosts, PLAN, stopped=True)
    assert [gate.verdict for gate in seen.gates] == ["pass", "pass"]
    assert (seen.live, seen.idle, seen.gates[-1].sentence) == ("blue", "green", "v1 is kept in blue; a rollback starts it again")


@pytest.mark.parametrize(
    ("hosts", "holds"),
    [({}, "no app host is known"), ({"a1": {}}, "nothing"), ({"a1": {"blue": {"version": "v1"}}, "a2": {"blue": {"version": "v0"}}}, "v0, v1")],
)
def test_a_slot_that_cannot_be_started_again_is_no_way_back(hosts: dict[str, Any], holds: str) -> None:
    gate = ground.survey(SHUT, hosts, PLAN, stopped=True).gates[-1]
    assert (gate.verdict, gate.sentence) == ("fail", f"blue cannot be started again: it holds {holds}")


def test_memory_is_needed_for_what_runs_beside_the_live_slot() -> None:
    meminfo, process = "MemAvailable:    1024 kB", host_rules.Running(1, 900 * 1024, None, None, "app")
    assert host_rules.memory(meminfo, [process, process]).verdict == "fail"
    assert host_rules.memory(meminfo, [], "nothing").verdict == "pass"
    small = host_rules.Running(1, 100 * 1024, None, None, "app")
    gate = host_rules.memory(meminfo, [small], "rehearsal")
    assert gate.verdict == "pass" and "1 process, one of each service" in gate.sentence


# Edge --------------------------------------------------------------------------------------------


HOSTS = ("10.0.0.1:80", "10.0.0.2:80")


def site(switch: str, green: tuple[str, ...] = HOSTS) -> Site:
    return check_site(Site("shop", "/etc/nginx/sluice", (Service("web", {"blue": HOSTS, "green": green}),), switch=switch))


def test_both_slots_may_have_the_same_hosts_but_not_some_of_them() -> None:
    assert site("buckets")
    with pytest.raises(SluiceError, match="an address of its own"):
        site("buckets", ("10.0.0.1:80", "10.0.0.3:80"))


@pytest.mark.parametrize("live", ["blue", "green"])
def test_requests_to_shared_hosts_are_the_live_slot_s(live: str) -> None:
    text = render(site(WEIGHTS_SWITCH), 1, State(live)).http
    charged = text[text.index("map $upstream_addr") :].partition("}")[0]
    assert charged.count('"10.0.0.1:80"') == 1
    assert f'"10.0.0.1:80" {live};' in charged
