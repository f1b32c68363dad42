# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When a step may be taken: its time, the windows, and the plan of a whole day with the clock in the test's hand."""

from __future__ import annotations

from datetime import datetime, timezone
from zoneinfo import ZoneInfo

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import steps
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.steps import Step, Window, due_at, next_step, step_from, step_of, window_from
from hypothesis import given
from hypothesis import strategies as st

HOUR = 3600.0
# S3-212 to S3-229: two hours for the team alone, 5 % for two hours at least, then hours 6, 12, 18 and 24.
DAY = [
    step_from(step)
    for step in (
        {"percent": 0, "min": 2 * HOUR, "max": 2 * HOUR, "then": "promote"},
        {"percent": 5, "min": 2 * HOUR, "max": 4 * HOUR, "not_before": 2 * HOUR},
        {"percent": 25, "not_before": 6 * HOUR},
        {"percent": 50, "not_before": 12 * HOUR},
        {"percent": 75, "not_before": 18 * HOUR},
        {"percent": 100, "not_before": 24 * HOUR},
    )
]
MONDAY = datetime(2026, 11, 23, 8, 0, tzinfo=timezone.utc).timestamp()


def walk(plan: list[Step], every: float, until: float, windows: tuple[Window, ...] = (), late: float = 0.0) -> list[tuple[float, int]]:
    """Return when which share was set by a timer that asks ``every`` so many seconds."""
    share, share_at, now, taken = plan[0].percent, MONDAY, MONDAY + late, []
    while now <= MONDAY + until:
        following = next_step(plan, share)
        if following and due_at(following, step_of(plan, share), MONDAY, share_at, now, windows, timezone.utc) <= now:
            share, share_at = following.percent, now
            taken.append(((now - MONDAY) / HOUR, share))
        now += every
    return taken


def test_the_plan_of_a_day_is_walked_at_its_hours() -> None:
    assert walk(DAY, 600, 30 * HOUR) == [(2, 5), (6, 25), (12, 50), (18, 75), (24, 100)]


def test_a_timer_that_comes_late_still_gives_each_share_its_time() -> None:
    """The timer was down for 11 hours: 5 % keeps its two hours, and no step is passed over."""
    assert walk(DAY, HOUR, 30 * HOUR, late=11 * HOUR) == [(11, 5), (13, 25), (14, 50), (18, 75), (24, 100)]


def test_windows_put_a_step_off_to_the_next_opening() -> None:
    office = window_from({"days": ["mon", "tue"], "from": "09:00", "to": "16:00"})
    # Monday 08:00 is hour 0: hour 6 is 14:00, hour 12 is 20:00 and waits for Tuesday 09:00, which is hour 25.
    assert walk(DAY, 600, 40 * HOUR, (office,)) == [(2, 5), (6, 25), (25, 50), (25 + 1 / 6, 75), (25 + 2 / 6, 100)]


def test_windows_are_meant_in_their_own_time_zone() -> None:
    morning = window_from({"from": "09:00", "to": "10:00"})
    vienna = ZoneInfo("Europe/Vienna")
    at = due_at(Step(5, 0, 0), None, MONDAY, MONDAY, MONDAY, (morning,), vienna)
    assert at == MONDAY  # 08:00 UTC is 09:00 there
    later = due_at(Step(5, 0, 0), None, MONDAY, MONDAY, MONDAY + HOUR, (morning,), vienna)
    assert datetime.fromtimestamp(later, vienna).strftime("%a %H:%M") == "Tue 09:00"


@given(st.integers(0, 100), st.floats(0, 1e5), st.floats(0, 1e5), st.floats(0, 1e5))
def test_no_step_is_due_before_its_time_or_the_minimum_of_the_one_before(percent: int, low: float, not_before: float, share_at: float) -> None:
    at = due_at(Step(percent, 0, 0, not_before=not_before), Step(0, low, low), 0.0, share_at, 0.0, (), timezone.utc)
    assert at >= not_before
    assert at >= share_at + low


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"days": "mon"}, "days is 'mon'"),
        ({"days": ["monday"]}, "days is ['monday']"),
        ({"days": []}, "days is []"),
        ({"from": "9:00"}, "9:00 to 24:00"),
        ({"from": "17:00", "to": "09:00"}, "17:00 to 09:00"),
        ({"to": "25:00"}, "00:00 to 25:00"),
        ({"until": "09:00"}, "until is not known"),
    ],
)
def test_windows_of_the_wrong_shape_are_refused(data: dict[str, object], said: str) -> None:
    with pytest.raises(SluiceError) as error:
        window_from(data)
    assert said in error.value.message
    assert "Example:" in str(error.value)


def test_a_share_by_hand_before_its_time_needs_a_reason_and_a_smaller_one_does_not() -> None:
    with pytest.raises(SluiceError, match="is due in 1 h 20 min"):
        steps.check_by_hand(DAY, 5, 25, "", wait=80 * 60)
    steps.check_by_hand(DAY, 5, 25, "the board said so", wait=80 * 60)
    steps.check_by_hand(DAY, 25, 5, "", wait=80 * 60)
    steps.check_by_hand(DAY, 5, 5, "", wait=80 * 60)
    with pytest.raises(SluiceError, match="skips a step"):
        steps.check_by_hand(DAY, 5, 50, "")


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (119, "119 s"), (120, "2 min"), (3599, "1 h 0 min"), (80 * 60, "1 h 20 min")])
def test_times_in_words(seconds: float, words: str) -> None:
    assert steps.duration(seconds) == words


WATCH = [steps.watch_from({"until": HOUR, "every": 300}), steps.watch_from({"until": 24 * HOUR, "every": HOUR})]


def test_the_watch_looks_less_and_less_often_and_ends() -> None:
    now = watched = 0.0
    looks = []
    while now <= 30 * HOUR:
        wait = steps.next_look(WATCH, 0.0, watched, now)
        if wait is None:
            break
        if wait <= 0:
            looks.append(now)
            watched = now
        now += 60
    assert looks[:3] == [300, 600, 900]
    assert [later - sooner for sooner, later in zip(looks, looks[1:])].count(HOUR) == 23
    assert looks[-1] == 24 * HOUR


@pytest.mark.parametrize("data", [5, {}, {"until": 60}, {"until": 60, "every": "often"}, {"until": 60, "every": 0}, {"until": 60, "every": 61}])
def test_a_watch_of_the_wrong_shape_is_refused(data: object) -> None:
    with pytest.raises(SluiceError, match="canary_watch_phases"):
        steps.watch_from(data)
