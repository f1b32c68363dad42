# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lease: the right to change an app, held by one run at a time, with an expiry and a fencing number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError


@dataclass(frozen=True)
class Lease:
    """Who holds the app.

    :param owner: user@host of the control node.
    :param pid: process of the run on that host; with ``started`` it tells a living run from a reused number.
    :param started: start time of that process in clock ticks since boot; 0 when unknown.
    :param reason: playbook and release id, in words.
    :param fence: number that grows with every holder; a module refuses a smaller one than it has seen.
    :param since: epoch seconds when it was taken.
    :param expires: epoch seconds after which anybody may take it over.
    """

    owner: str
    pid: int
    started: int
    reason: str
    fence: int
    since: float
    expires: float

    def as_dict(self) -> dict[str, Any]:
        """Return the lease as a plain mapping."""
        return asdict(self)


def from_dict(data: Optional[Mapping[str, Any]]) -> Optional[Lease]:
    """Return the lease a file held, or None when nobody held it."""
    return Lease(**data) if data and data.get("owner") else None


@dataclass(frozen=True)
class Grant:
    """The answer to a request: the new lease, and what the ledger has to remember of the old one."""

    lease: Lease
    note: str = ""


def utc(epoch: float) -> str:
    """Return a time as operators read it."""
    return datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def request(held: Optional[Lease], wanted: Lease, now: float, holder_alive: Optional[bool], last_fence: int, break_reason: str = "") -> Grant:
    """Decide whether a run gets the lease.

    :param held: lease on file.
    :param wanted: lease asked for; its fence is set here.
    :param holder_alive: whether the holder's process still runs; None when that cannot be told from here.
    :param last_fence: highest number given so far.
    :param break_reason: why a person takes a lease that another run still holds.
    :raises SluiceError: another run holds it; the message says who, since when, on what and until when.
    """
    granted = Lease(**{**wanted.as_dict(), "fence": last_fence + 1})
    if held is None:
        return Grant(granted)
    about = f"{held.owner} (process {held.pid}) for {held.reason} since {utc(held.since)}"
    if held.owner == wanted.owner and held.pid == wanted.pid and held.started == wanted.started:
        return Grant(granted)
    if holder_alive is False:
        return Grant(granted, f"taken over: it was held by {about}, and that process is gone")
    if now >= held.expires:
        return Grant(granted, f"taken over: it was held by {about}, and expired {utc(held.expires)}")
    if break_reason:
        return Grant(granted, f"broken by {wanted.owner}: it was held by {about}; reason given: {break_reason}")
    raise SluiceError(
        f"The app is being changed by {about}; the lease runs until {utc(held.expires)}.",
        "Wait for that run, or look with status.yml; -e release_lease_break_reason='...' takes the lease away, and the ledger will say who did.",
        holder=held.as_dict(),
    )
