# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The states of a release: the table is whole, and what is over stays over."""

from __future__ import annotations

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import states
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.ledger import Release, fold
from hypothesis import given
from hypothesis import strategies as st

EVENTS = sorted({row.event for row in states.TABLE})
KNOWN = ("", states.OPEN, states.HELD, *states.FINAL)
ENDS = {"refuse": "refused", "fail": "failed", "hold": "held", "promote": "promoted", "rollback": "rolled_back"}
PLAIN_DATA = {"version": "v1", "percent": 5, "manifest": {}, "digest": ""}


@pytest.mark.parametrize("row", states.TABLE, ids=lambda row: f"{row.state or 'none'}-{row.event}-{row.who}")
def test_each_row_of_the_table_is_what_move_says(row: states.Move) -> None:
    assert states.move(row.state, row.event) == row.next
    assert row.guard
    assert all(who.endswith(".yml") for who in row.who.split(", "))


def test_every_state_can_be_reached() -> None:
    reached = {""}
    while True:
        more = reached | {row.next for row in states.TABLE if row.state in reached}
        if more == reached:
            break
        reached = more
    assert reached == set(KNOWN)


def test_a_final_state_is_closed_but_for_the_way_back_from_promoted() -> None:
    assert [(row.state, row.event, row.next) for row in states.TABLE if row.state in states.FINAL] == [("promoted", "rollback", "rolled_back")]


def test_one_event_in_one_state_has_one_end() -> None:
    ends: dict[tuple[str, str], set[str]] = {}
    for row in states.TABLE:
        ends.setdefault((row.state, row.event), set()).add(row.next)
    assert all(len(found) == 1 for found in ends.values())


@pytest.mark.parametrize(
    ("state", "event", "words"),
    [
        ("", "promote", "A release that is not yet open cannot take the event promote. Allowed now: claim."),
        ("held", "refuse", "A release that is held cannot take the event refuse. Allowed now: claim, promote, rollback, share."),
        ("promoted", "promote", "A release that is promoted cannot take the event promote. Allowed now: rollback."),
        ("refused", "claim", "A release that is refused cannot take the event claim. It has ended; start a new release."),
        ("rolled_back", "rollback", "A release that is rolled_back cannot take the event rollback. It has ended; start a new release."),
    ],
)
def test_a_move_that_is_not_in_the_table_says_what_is_allowed(state: str, event: str, words: str) -> None:
    with pytest.raises(SluiceError) as caught:
        states.move(state, event)
    assert str(caught.value) == words


@given(st.sampled_from(KNOWN), st.sampled_from([*EVENTS, "dance"]))
def test_move_follows_the_table_or_refuses(state: str, event: str) -> None:
    rows = [row.next for row in states.TABLE if (row.state, row.event) == (state, event)]
    if rows:
        assert states.move(state, event) == rows[0]
    else:
        with pytest.raises(SluiceError, match=f"cannot take the event {event}"):
            states.move(state, event)


@given(st.lists(st.sampled_from(EVENTS), max_size=30))
def test_no_walk_through_the_table_opens_what_has_ended(events: list[str]) -> None:
    state = ""
    for event in events:
        before = state
        try:
            state = states.move(state, event)
        except SluiceError:
            continue
        if before in states.FINAL:
            assert (before, state) == (states.PROMOTED, states.ROLLED_BACK)


@pytest.mark.parametrize("row", [row for row in states.TABLE if row.state], ids=lambda row: f"{row.state}-{row.event}-{row.who}")
def test_the_ledger_folds_each_event_into_the_state_the_table_names(row: states.Move) -> None:
    events = {"open": ["claim"], "held": ["claim", "hold"], "promoted": ["claim", "promote"]}[row.state]
    records = [{"release": "r", "at": 1.0, "event": event, "phase": "start", "data": PLAIN_DATA} for event in [*events, row.event]]
    assert fold(records)[0].state == row.next


@pytest.mark.parametrize(("event", "state"), ENDS.items())
def test_a_release_is_open_until_it_ends(event: str, state: str) -> None:
    assert Release("r", "v1", state).is_open == (event == "hold")


def test_phases_are_counted_from_nought_and_end_worse_the_later_they_stop() -> None:
    assert [phase.number for phase in states.PHASES] == list(range(11))
    assert len(states.BY_NAME) == len(states.PHASES)
    order = [states.REFUSED, states.FAILED, states.ROLLED_BACK, states.PROMOTED]
    ranks = [order.index(phase.on_stop) for phase in states.PHASES]
    assert ranks == sorted(ranks)
    assert states.BY_NAME["migrate"].on_stop == states.FAILED
    assert states.BY_NAME["canary"].on_stop == states.ROLLED_BACK


def test_the_text_for_the_documentation_holds_every_phase_and_row() -> None:
    text = states.as_markdown()
    assert all(f"| {phase.number} | {phase.name} | {phase.title} | {phase.on_stop} |\n" in text for phase in states.PHASES)
    assert all(f"| {row.state or '(none)'} | {row.event} | {row.who} | {row.guard} | {row.next} |\n" in text for row in states.TABLE)
    assert text.endswith("|\n")
