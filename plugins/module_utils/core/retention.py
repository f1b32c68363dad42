# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which copies of a backup stay, which may go and why, and whether the newest is fresh."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta, timezone

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, INCONCLUSIVE, PASS, Gate

# Two clocks of one system may differ by this much before a copy counts as dated in the future.
SKEW = timedelta(minutes=5)
# A file that belongs to no copy may be an upload that is going on; after this time it is one that was cut.
STRAY_AFTER = timedelta(days=1)


@dataclass(frozen=True)
class Policy:
    """Grandfather, father, son (catalogue S2-106): how many copies stay for each reason.

    ``last`` counts copies. The others count periods that have a copy, newest first, and keep the newest copy of each;
    days, months and years are those of UTC, weeks those of ISO 8601. A period without a copy uses nothing up, so a
    pause in the backups never makes older ones go.
    """

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0


@dataclass(frozen=True)
class Copy:
    """One copy of a backup in one place.

    :param created: when the snapshot was taken, with its time zone.
    :param bytes: what the copy takes there.
    :param drilled: it was restored once and compared with its manifest.
    :param whole: its files are there with the sizes that its manifest says.
    """

    place: str
    release_id: str
    created: datetime
    bytes: int
    drilled: bool = False
    whole: bool = True


@dataclass(frozen=True)
class Choice:
    """What becomes of a copy, and why."""

    copy: Copy
    keep: bool
    reason: str


_PERIODS: Mapping[str, Callable[[datetime], str]] = {
    "daily": lambda moment: moment.strftime("%Y-%m-%d"),
    "weekly": lambda moment: "{}-W{:02d}".format(*moment.isocalendar()[:2]),
    "monthly": lambda moment: moment.strftime("%Y-%m"),
    "yearly": lambda moment: moment.strftime("%Y"),
}


def policy(given: Mapping[str, int], place: str) -> Policy:
    """Return the policy of a place.

    :raises SluiceError: a number is negative, or none is above 0: that would keep nothing but the newest, which nobody means.
    """
    names = [each.name for each in fields(Policy)]
    try:
        wanted = Policy(**{name: int(number) for name, number in given.items()})
        numbers = [getattr(wanted, name) for name in names]
        if min(numbers) < 0 or not any(numbers):
            raise ValueError(numbers)
    except (TypeError, ValueError) as error:
        raise SluiceError(
            f"The retention of {place} is {dict(given)}: it is made of {', '.join(names)}; no number may be negative, and one must be above 0.",
            "Example: {last: 3, daily: 7, weekly: 5, monthly: 12, yearly: 2}",
        ) from error
    return wanted


def choose(copies: Iterable[Copy], rules: Policy, pinned: Collection[str], now: datetime, unshipped: Collection[str] = ()) -> list[Choice]:
    """Say of each copy in one place whether it stays; the newest comes first.

    Whatever the policy says, these stay: the newest, the newest that was drilled, those of releases that are ``pinned``
    (the ledger points to them), those that are nowhere else yet (``unshipped``), and those dated in the future, whose
    turn no clock can tell. A copy that is not whole is no backup: it takes no other's place, and goes unless it is pinned.

    :param now: with its time zone.
    """
    ordered = sorted(copies, key=lambda copy: (copy.created, copy.release_id), reverse=True)
    dated = [copy for copy in ordered if copy.whole and copy.created <= now + SKEW]
    reasons: dict[Copy, list[str]] = {copy: [] for copy in ordered}
    for copy in dated[:1]:
        reasons[copy].append("the newest")
    for copy in [copy for copy in dated if copy.drilled][:1]:
        reasons[copy].append("the newest that was restored and compared")
    for number, copy in enumerate(dated[: rules.last], 1):
        reasons[copy].append(f"last {number} of {rules.last}")
    for name, period in _PERIODS.items():
        for label, copy in _newest_of_each(dated, period, getattr(rules, name)):
            reasons[copy].append(f"{name} {label}")
    for copy in ordered:
        if copy.whole and copy.created > now + SKEW:
            reasons[copy].append("dated in the future, so its turn cannot be told")
        if copy.release_id in pinned:
            reasons[copy].append("the ledger points to its release")
        if copy.whole and copy.release_id in unshipped:
            reasons[copy].append("no destination has it yet")
    return [Choice(copy, bool(why), "; ".join(why) or _gone(copy)) for copy, why in reasons.items()]


def _newest_of_each(copies: Sequence[Copy], period: Callable[[datetime], str], count: int) -> list[tuple[str, Copy]]:
    """Return the newest copy of each of the newest ``count`` periods; the copies come newest first."""
    found: dict[str, Copy] = {}
    for copy in copies:
        found.setdefault(period(copy.created.astimezone(timezone.utc)), copy)
    return list(found.items())[:count]


def _gone(copy: Copy) -> str:
    return "no rule keeps it" if copy.whole else "its files are missing or cut short, so it is no backup"


def is_stray(modified: datetime, now: datetime) -> bool:
    """Tell whether a file that belongs to no copy is too old to be an upload that is going on."""
    return modified < now - STRAY_AFTER


def fresh(place: str, copies: Sequence[Copy] | None, max_age: int, now: datetime) -> Gate:
    """Judge the age of the newest copy in one place (catalogue S0-065, S0-082, S2-032).

    :param copies: None when the place could not be read.
    :param max_age: seconds.
    """
    if copies is None:
        return Gate("fresh", INCONCLUSIVE, f"{place} could not be read, so the age of its newest backup cannot be told.", limit=max_age)
    whole = [copy for copy in copies if copy.whole]
    if not whole:
        what = f"has {len(copies)} backups, and none of them is whole" if copies else "has no backup"
        return Gate("fresh", FAIL, f"{place} {what}.", limit=max_age, sample=len(copies), remedy="Run backup.yml.")
    newest = max(whole, key=lambda copy: copy.created)
    age = int((now - newest.created).total_seconds())
    if newest.created > now + SKEW:
        sentence = f"{place}: the newest backup ({newest.release_id}) is dated {words(-age)} in the future, so its age cannot be told."
        return Gate("fresh", INCONCLUSIVE, sentence, value=age, limit=max_age, remedy="Compare the clocks of this host and the database host.")
    sentence = f"{place}: the newest backup ({newest.release_id}) is {words(max(age, 0))} old, the limit is {words(max_age)}."
    late = age > max_age
    return Gate("fresh", FAIL if late else PASS, sentence, value=age, limit=max_age, sample=len(whole), remedy="Run backup.yml." if late else "")


def words(seconds: int) -> str:
    """Return a time in words, in the largest unit of which there are two."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f}".rstrip("0").rstrip(".") + f" {unit}"
    return f"{seconds} s"
