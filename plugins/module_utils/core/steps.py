# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What follows from a verdict at a step: go on looking, take the next step, hold, or roll back; and when a step may be taken."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, PASS

CONTINUE, ADVANCE, HOLD, ROLLBACK = "continue", "advance", "hold", "rollback"


@dataclass(frozen=True)
class Step:
    """One share of the canary.

    :param percent: share of the public traffic.
    :param min: seconds it lasts at least.
    :param max: seconds after which ``then`` decides if the judge still cannot tell.
    :param then: ``hold``, ``promote`` (go on all the same) or ``rollback``.
    :param not_before: seconds since the release began before which it is not taken.
    """

    percent: int
    min: float
    max: float
    then: str = HOLD
    not_before: float = 0.0


def step_from(data: Mapping[str, Any]) -> Step:
    """Return the step a mapping describes; shapes were checked with the other inputs."""
    low = float(data.get("min", 0))
    return Step(int(data["percent"]), low, float(data.get("max", low)), str(data.get("then", HOLD)), float(data.get("not_before", 0)))


DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_CLOCK = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|24:00")
_WINDOW = "Example: canary_windows: [{days: [mon, tue, wed, thu], from: '09:00', to: '16:00'}]"


@dataclass(frozen=True)
class Window:
    """Days of the week (0 is Monday) and minutes of the day between which a larger share may be let in."""

    days: frozenset[int]
    begin: int
    end: int

    def holds(self, moment: datetime) -> bool:
        """Tell whether a moment lies inside."""
        return moment.weekday() in self.days and self.begin <= moment.hour * 60 + moment.minute < self.end


def window_from(data: Mapping[str, Any]) -> Window:
    """Return the window a mapping describes.

    :raises SluiceError: a day or a time has the wrong shape, or it ends before it begins.
    """
    unknown = sorted(set(data) - {"days", "from", "to"}) if isinstance(data, Mapping) else ["shape"]
    if unknown:
        raise SluiceError(f"canary_windows: {unknown[0]} is not known; a window has days, from and to.", _WINDOW)
    days, clocks = data.get("days", DAYS), [str(data.get("from", "00:00")), str(data.get("to", "24:00"))]
    if isinstance(days, str) or not days or set(days) - set(DAYS):
        raise SluiceError(f"canary_windows: days is {days!r}; allowed are {', '.join(DAYS)}.", _WINDOW)
    if not all(_CLOCK.fullmatch(clock) for clock in clocks) or clocks[0] >= clocks[1]:
        raise SluiceError(f"canary_windows: {clocks[0]} to {clocks[1]} is no time from 00:00 to 24:00 that ends after it begins.", _WINDOW)
    begin, end = (int(clock[:2]) * 60 + int(clock[3:]) for clock in clocks)
    return Window(frozenset(DAYS.index(day) for day in days), begin, end)


def due_at(following: Step, current: Optional[Step], began: float, share_at: float, now: float, windows: Sequence[Window], zone: tzinfo) -> float:
    """Return the moment from which the next step may be taken, in seconds since 1970; it may have passed.

    That is when the step that is there has had its minimum, the next one's ``not_before`` is over, and a window is open.

    :param current: the step of the present share; None where there is none.
    :param began: when the release began; ``share_at`` when the present share was set.
    :param zone: the time zone the windows are meant in.
    :raises SluiceError: no window opens within two weeks.
    """
    earliest = max(began + following.not_before, share_at + current.min if current else began)
    if not windows:
        return earliest
    # What was due is asked now; a minute is as fine as windows are.
    moment = max(earliest, now)
    for _minute in range(14 * 24 * 60):
        if any(window.holds(datetime.fromtimestamp(moment, zone)) for window in windows):
            return earliest if moment <= now else moment
        moment = (datetime.fromtimestamp(moment, zone).replace(second=0, microsecond=0) + timedelta(minutes=1)).timestamp()
    raise SluiceError("canary_windows: no window opens within two weeks.", _WINDOW)


@dataclass(frozen=True)
class Watch:
    """One part of the watch after a promotion.

    :param until: seconds after the promotion at which it ends.
    :param every: seconds between two looks in it.
    """

    until: float
    every: float


def watch_from(data: Any) -> Watch:
    """Return the part of a watch that a mapping describes.

    :raises SluiceError: it has the wrong shape.
    """
    example = "Example: canary_watch_phases: [{until: 3600, every: 300}, {until: 86400, every: 3600}]"
    if not isinstance(data, Mapping) or set(data) != {"until", "every"}:
        raise SluiceError("canary_watch_phases: each part is a mapping with until and every, in seconds.", example)
    try:
        until, every = float(data["until"]), float(data["every"])
    except (TypeError, ValueError) as error:
        raise SluiceError(f"canary_watch_phases: until and every must be numbers of seconds, not {data['until']!r} and {data['every']!r}.", example) from error
    if not 0 < every <= until <= 90 * 86400:
        raise SluiceError(f"canary_watch_phases: until {until:g} and every {every:g}; 0 < every <= until <= 90 days is allowed.", example)
    return Watch(until, every)


def next_look(parts: Sequence[Watch], promoted_at: float, watched_at: float, now: float) -> Optional[float]:
    """Return the seconds until the next look after a promotion, 0 or less when it is due; None when the watch is over.

    :param watched_at: when it was looked last; 0 for never.
    """
    last = max(promoted_at, watched_at)
    part = next((part for part in parts if last - promoted_at < part.until), None)
    return None if part is None else last + part.every - now


def step_of(steps: Sequence[Step], share: int) -> Optional[Step]:
    """Return the step whose share this is, or None when it was set by hand."""
    return next((step for step in steps if step.percent == share), None)


def decide(step: Step, verdict: str, elapsed: float) -> str:
    """Return what happens now.

    A failure ends the step at once; a pass counts only after the minimum time; what is still unclear at the maximum time is up to ``then``.
    """
    if verdict == FAIL:
        return ROLLBACK
    if elapsed < step.min:
        return CONTINUE
    if verdict == PASS:
        return ADVANCE
    if elapsed < step.max:
        return CONTINUE
    return {"hold": HOLD, "promote": ADVANCE, "rollback": ROLLBACK}[step.then]


def next_step(steps: Sequence[Step], share: int) -> Optional[Step]:
    """Return the first step above the present share, or None at the top."""
    return next((step for step in steps if step.percent > share), None)


def check_by_hand(steps: Sequence[Step], share: int, wanted: int, reason: str, wait: float = 0.0) -> None:
    """Refuse a share set by hand that skips a step, or comes before its time, without a reason; a decrease is always allowed.

    :param wait: seconds until the next step is due.
    :raises SluiceError: it names the next step, or when it is due.
    """
    following = next_step(steps, share)
    if wanted <= share or reason or following is None:
        return
    if wanted <= following.percent:
        if wait > 0:
            raise SluiceError(
                f"canary_percent={wanted} comes too early: {following.percent} % is due in {duration(wait)}.",
                "Wait, or give -e canary_force_reason='...'.",
                wait=wait,
            )
        return
    raise SluiceError(
        f"canary_percent={wanted} skips a step: the share is {share} %, the next step is {following.percent} %.",
        f"Use canary_percent={following.percent}, or give -e canary_force_reason='...'.",
    )


def duration(seconds: float) -> str:
    """Return a time in words: hours and minutes, or seconds where it is short."""
    minutes = int(-(-seconds // 60))
    if seconds < 120:
        return f"{-(-seconds // 1):.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
