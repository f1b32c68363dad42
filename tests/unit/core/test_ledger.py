# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger: no byte changes unseen, a torn tail does not count, and the records tell what became of each release."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import ledger
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from hypothesis import assume, given
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
DRAFTS = st.lists(st.dictionaries(st.sampled_from(["at", "app", "event", "data", "release"]), JSON, max_size=4), max_size=5)


def chain(drafts: list[dict[Any, Any]]) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for draft in drafts:
        records.append(ledger.seal(draft, records[-1] if records else None))
    return records


def written(drafts: list[dict[Any, Any]]) -> str:
    return "".join(ledger.line(record) for record in chain(drafts))


@given(DRAFTS)
def test_what_was_sealed_is_read_back(drafts: list[dict[str, Any]]) -> None:
    text = written(drafts)
    records, torn = ledger.parse(text)
    assert records == chain(drafts)
    assert torn == ""
    assert [record["seq"] for record in records] == list(range(1, len(drafts) + 1))
    assert text.isascii()


def test_keys_that_are_numbers_do_not_break_the_chain() -> None:
    drafts: list[dict[Any, Any]] = [{"data": {2: "two", 10: "ten"}}, {"data": {"a": 1, 3: (1, 2)}}]
    records, _torn = ledger.parse(written(drafts))
    assert [record["data"] for record in records] == [{"2": "two", "10": "ten"}, {"a": 1, "3": [1, 2]}]


def test_an_untouched_record_keeps_its_keys_in_the_caller() -> None:
    draft = {"event": "claim"}
    sealed = ledger.seal(draft, None)
    assert draft == {"event": "claim"}
    assert sealed["prev"] == ledger.GENESIS
    assert sealed["hash"] == ledger.digest({"event": "claim", "seq": 1, "prev": ledger.GENESIS})


@given(DRAFTS, st.data())
def test_a_torn_tail_is_dropped(drafts: list[dict[str, Any]], data: st.DataObject) -> None:
    text = written(drafts)
    assume(text)
    cut = data.draw(st.integers(0, len(text)))
    records, torn = ledger.parse(text[:cut])
    whole = text[:cut].count("\n")
    assert records == chain(drafts)[:whole]
    assert "".join(ledger.line(record) for record in records) + torn == text[:cut]


@given(DRAFTS, st.data())
def test_any_change_of_any_byte_is_found(drafts: list[dict[str, Any]], data: st.DataObject) -> None:
    raw = written(drafts).encode()
    assume(raw)
    # The last line's end is left out: without it the line is a torn tail, which never counted.
    place = data.draw(st.integers(0, len(raw) - 2))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != raw[place]))
    changed = (raw[:place] + bytes([byte]) + raw[place + 1 :]).decode("utf-8", "surrogateescape")
    number = raw.count(b"\n", 0, place) + 1
    with pytest.raises(SluiceError, match=rf"^Line {number} of the ledger ") as caught:
        ledger.parse(changed)
    assert caught.value.details()["line"] == number


def test_no_byte_of_a_line_can_be_another_one_that_reads_alike() -> None:
    # White space, escapes and number spellings that JSON takes for the same value.
    raw = written([{"event": "share", "at": 10.5, "data": {"percent": 5, "text": "a/b \u20ac"}}, {"event": "promote", "at": 2.0}]).encode()
    for place in range(len(raw) - 1):
        for byte in b' \t\r\n\0"\\0aAE}\xff':
            if byte != raw[place]:
                with pytest.raises(SluiceError, match=r"^Line [12] of the ledger "):
                    ledger.parse((raw[:place] + bytes([byte]) + raw[place + 1 :]).decode("utf-8", "surrogateescape"))


@pytest.mark.parametrize(("old", "new"), [('"at": 10', '"at": 1e1'), ('{"at"', '{ "at"'), ('"x"', '"\\u0078"'), ('{"at"', '{"at": 9, "at"'), ("}", "} ")])
def test_the_same_record_written_otherwise_is_found(old: str, new: str) -> None:
    text = written([{"at": 10, "event": "x"}])
    assert old in text
    with pytest.raises(SluiceError, match="Line 1 of the ledger was changed after it was written"):
        ledger.parse(text.replace(old, new, 1))


@given(DRAFTS.filter(lambda drafts: len(drafts) > 1), st.data())
def test_a_line_that_is_gone_doubled_or_out_of_its_place_is_found(drafts: list[dict[str, Any]], data: st.DataObject) -> None:
    lines = written(drafts).splitlines(True)
    place = data.draw(st.integers(0, len(lines) - 2))
    for changed in (lines[:place] + lines[place + 1 :], [*lines[: place + 1], *lines[place:]], [*lines[:place], lines[place + 1], lines[place]]):
        with pytest.raises(SluiceError, match="of the ledger"):
            ledger.parse("".join(changed))


@pytest.mark.parametrize("raw", ["", "{", "[1]", '"text"', "7", "null", "{}", '{"hash": "x"'])
def test_a_line_that_is_no_record_is_named(raw: str) -> None:
    with pytest.raises(SluiceError) as caught:
        ledger.parse(written([{"event": "claim"}]) + raw + "\n")
    assert str(caught.value) == "Line 2 of the ledger is no record. Restore the ledger from its copy; nobody edits it by hand."


def test_a_changed_line_is_named_with_what_to_do() -> None:
    text = written([{"event": "claim"}, {"event": "promote"}, {"event": "claim"}]).replace("promote", "premote")
    with pytest.raises(SluiceError) as caught:
        ledger.parse(text)
    assert str(caught.value) == (
        "Line 2 of the ledger was changed after it was written: its hash does not fit. Restore the ledger from its copy; nobody edits it by hand."
    )


@pytest.mark.parametrize("text", ["", '{"half'])
def test_an_empty_ledger_has_no_records(text: str) -> None:
    assert ledger.parse(text) == ([], text)


def event(name: str, release: str = "r1", at: float = 1.0, phase: str = "", **data: Any) -> dict[str, Any]:
    return {"release": release, "at": at, "event": name, "operator": "ann@control", "phase": phase, "data": data}


def story(release: str, version: str, live: str, live_version: str, *more: dict[str, Any], **manifest: Any) -> list[dict[str, Any]]:
    plan = {"live": live, "idle": "green" if live == "blue" else "blue", "live_version": live_version, **manifest}
    return [event("claim", release, version=version), event("plan", release, manifest=plan, digest="d"), *more]


def started(release: str) -> list[dict[str, Any]]:
    return [event("begin", release, phase="start"), event("end", release, phase="start")]


def promoted(release: str) -> list[dict[str, Any]]:
    return [*started(release), event("end", release, phase="promote"), event("promote", release)]


def test_a_release_is_told_by_its_records() -> None:
    records = story("r1", "v2", "blue", "v1")
    records += [
        event("begin", at=3.0, phase="start"),
        event("end", at=4.0, phase="start", actions=["started"]),
        event("share", at=5.0, percent=25),
        event("hold", at=6.0, reason="no traffic"),
    ]
    (release,) = ledger.fold([{"event": "takeover", "at": 0.0}, *records])
    assert release.as_dict() == {
        "id": "r1",
        "version": "v2",
        "state": "held",
        "opened": 1.0,
        "changed": 6.0,
        "operator": "ann@control",
        "manifest": {"live": "blue", "idle": "green", "live_version": "v1"},
        "plan_digest": "d",
        "begun": "start",
        "done": {"start": {"actions": ["started"]}},
        "reason": "no traffic",
        "live": "blue",
        "idle": "green",
        "share": 25,
        "share_at": 5.0,
        "promoted_at": 0.0,
        "watched_at": 0.0,
        "history": {},
        "stops": [],
    }


def test_a_held_release_that_is_claimed_again_is_open() -> None:
    records = [*story("r1", "v2", "blue", "v1"), event("hold", reason="wait"), event("claim", at=9.0, version="v2")]
    (release,) = ledger.fold(records)
    assert (release.state, release.opened, release.changed) == ("open", 1.0, 9.0)


def test_an_event_that_only_informs_changes_no_state() -> None:
    (release,) = ledger.fold([*story("r1", "v2", "blue", "v1"), event("verdict", at=7.0, verdict="pass")])
    assert (release.state, release.changed) == ("open", 7.0)


@pytest.mark.parametrize(
    ("phase", "is_untouched"), [("", True), ("preflight", True), ("rehearse", True), ("migrate", False), ("start", False), ("canary", False), ("close", False)]
)
def test_a_release_is_untouched_until_it_migrates(phase: str, is_untouched: bool) -> None:
    assert ledger.untouched(ledger.Release("r", "v1", begun=phase)) == is_untouched
    assert not ledger.untouched(ledger.Release("r", "v1", state="refused", begun=phase))


def test_the_unfinished_release_is_the_one_that_has_not_ended() -> None:
    ended, held = ledger.Release("a", "v1", "promoted"), ledger.Release("b", "v2", "held")
    assert ledger.unfinished([]) is None
    assert ledger.unfinished([ended]) is None
    assert ledger.unfinished([ended, held]) == held


def told(records: list[dict[str, Any]]) -> list[tuple[str, str, bool, str]]:
    return [(found.release, found.version, found.possible, found.why) for found in ledger.candidates(ledger.fold(records))]


FIRST = story("r1", "v2", "blue", "v1", *promoted("r1"))
MOVED = event("end", "r1", phase="rehearse", rehearsal={"floor_moves": True})
SECOND = story("r2", "v3", "green", "v2", *promoted("r2"))


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], []),
        ([event("claim", version="v2")], [("r1", "", True, "v2 was cut before it touched anything; it is only closed")]),
        (story("r1", "v2", "blue", "v1", *started("r1")), [("r1", "v1", True, "it is live; the share of v2 goes to 0")]),
        (FIRST, [("r1", "v1", True, "it was live before v2 and is kept in blue")]),
        (FIRST + SECOND, [("r2", "v2", True, "it was live before v3 and is kept in green"), ("r1", "v1", False, "a release after v2 has been live since")]),
        ([*FIRST, event("rollback")], [("r1", "v1", False, "v2 was taken back already")]),
        (
            FIRST + story("r2", "v3", "green", "v2", *started("r2"), event("rollback", "r2")),
            [("r1", "v1", False, "blue holds v3 now")],
        ),
        (
            FIRST + story("r2", "v3", "green", "v2", event("fail", "r2")),
            [("r1", "v1", False, "blue holds nothing now")],
        ),
        (FIRST + story("r2", "v3", "green", "v2", event("refuse", "r2")), [("r1", "v1", True, "it was live before v2 and is kept in blue")]),
        (story("r1", "v2", "blue", "v1", MOVED, *promoted("r1")), [("r1", "v1", False, "the migrations of v2 moved the floor knowingly")]),
        (story("r1", "v2", "blue", "v1", MOVED, *started("r1")), [("r1", "v1", True, "it is live; the share of v2 goes to 0")]),
        (story("r1", "v2", "blue", "v1", *promoted("r1"), floor="v2"), [("r1", "v1", False, "the migrations of v2 set the floor to v2")]),
    ],
)
def test_each_candidate_says_why_or_why_not(records: list[dict[str, Any]], expected: list[tuple[str, str, bool, str]]) -> None:
    assert told(records) == expected


def test_the_slots_hold_what_the_last_release_put_there() -> None:
    assert ledger.occupants(ledger.fold(FIRST)) == {"blue": "v1", "green": "v2"}
    assert ledger.occupants(ledger.fold(FIRST + SECOND)) == {"blue": "v3", "green": "v2"}


def test_a_candidate_is_a_plain_mapping() -> None:
    plain = {"release": "r", "version": "v1", "slot": "blue", "possible": True, "why": "why", "in_place": False}
    assert ledger.Candidate("r", "v1", "blue", True, "why").as_dict() == plain


def test_what_the_ladder_saw_outlives_the_run() -> None:
    seen = {"readings": [], "counters": {"app1": {"probes": {"count": 1, "since": 5.0}}}, "warned": []}
    records = [
        {"seq": 1, "at": 1.0, "event": "claim", "release": "r1", "data": {"version": "v1"}},
        {"seq": 2, "at": 2.0, "event": "verdict", "release": "r1", "phase": "canary", "data": {"verdict": "pass", "history": seen}},
        {"seq": 3, "at": 3.0, "event": "share", "release": "r1", "data": {"percent": 25}},
    ]
    (release,) = ledger.fold(records)
    assert (release.as_dict()["history"], release.share) == (seen, 25)


def chapter(release: str, *events: str, **data: Any) -> list[dict[str, Any]]:
    begun = [{"event": "claim", "at": 1.0, "release": release, "data": {"version": release}}]
    return begun + [{"event": event.split()[0], "at": 2.0, "release": release, "phase": event.partition(" ")[2], "data": data} for event in events]


def test_backups_that_a_release_may_need_are_named() -> None:
    records = [
        *chapter("one", "promote"),
        *chapter("two", "end migrate", "fail", applied=["0001"]),  # before the third last promoted one: forgotten
        *chapter("three", "promote"),
        *chapter("four", "promote"),
        *chapter("five", "promote", "rollback"),
        *chapter("six", "end promote", "rollback"),  # it was live
        *chapter("seven", "end migrate", "fail", applied=["0002"]),  # the database is not what it was
        *chapter("eight", "end migrate", "fail", applied=[]),
        *chapter("nine", "refuse"),
        *chapter("ten", "promote"),
        *chapter("eleven", "hold"),
    ]
    assert ledger.needed_backups(ledger.fold(records)) == ["three", "four", "five", "six", "seven", "ten", "eleven"]
    assert ledger.needed_backups(ledger.fold([*chapter("old"), *records]))[0] == "old"  # open
    assert ledger.needed_backups(ledger.fold(chapter("one", "promote"))) == ["one"] and ledger.needed_backups([]) == []
