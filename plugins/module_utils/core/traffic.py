# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which slot gets a request: shares, buckets, weights, and the state an edge is brought to.

The key of a request falls into one of 100 buckets. A salt puts the buckets into an order, and a share of p % for the idle
slot is the first p of them: nobody who was in falls out when the share grows, and with another salt others are first.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

SLOTS = ("blue", "green")
BUCKETS = 100
SALTS = 1000

_LINK = re.compile(r"\.traffic/(blue|green)-(blue|green)-(\d{3})-(\d{3})(-testers)?")


def refuse(variable: str, wrong: Any, allowed: str, example: str) -> SluiceError:
    """Return the error for a value of the wrong shape."""
    return SluiceError(
        f"{variable} is {wrong!r}; allowed is {allowed}.", f"For example: {example}.", variable=variable, wrong=wrong, allowed=allowed, example=example
    )


def idle_of(slot: str) -> str:
    """Return the other slot."""
    return SLOTS[1 - SLOTS.index(slot)]


def _whole(value: Any, highest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= highest


@dataclass(frozen=True)
class State:
    """Who serves.

    :param live: the live slot.
    :param percent: share of the idle slot in percent, 0 to 100.
    :param salt: which order the buckets have, 0 to 999; one for each release.
    :param testers: whether testers are sent to the idle slot.
    """

    live: str
    percent: int = 0
    salt: int = 0
    testers: bool = False

    def __post_init__(self) -> None:
        if self.live not in SLOTS:
            raise refuse("live", self.live, "blue or green", "blue")
        if not _whole(self.percent, 100):
            raise refuse("percent", self.percent, "a whole number from 0 to 100", "25")
        if not _whole(self.salt, SALTS - 1):
            raise refuse("salt", self.salt, f"a whole number from 0 to {SALTS - 1}", "417")

    @property
    def idle(self) -> str:
        """The slot that is not live."""
        return idle_of(self.live)

    def shares(self) -> dict[str, int]:
        """Return the share of each slot in percent."""
        shares = {self.live: 100 - self.percent, self.idle: self.percent}
        return {slot: shares[slot] for slot in SLOTS}

    def sentence(self) -> str:
        """Return the state in words."""
        shares = ", ".join(f"{slot} {share} %" for slot, share in self.shares().items())
        return f"{self.live} is live; {shares}" + (f"; testers go to {self.idle}" if self.testers else "")


def wanted_state(
    before: Optional[State], live: Optional[str] = None, percent: Optional[int] = None, salt: Optional[int] = None, testers: Optional[bool] = None
) -> State:
    """Return the state asked for; what is not said is kept.

    Another live slot begins with a share of 0 for the one it replaces, and without testers there: what they came to test is live.
    """
    if before is None and live is None:
        raise SluiceError(
            "The edge has no live slot yet, and live does not say which one it is.",
            "Give live: blue or live: green.",
            variable="live",
            allowed="blue or green",
            example="blue",
        )
    kept = before if before and live in (None, before.live) else State(str(live), 0, before.salt if before else 0)
    return State(
        kept.live,
        kept.percent if percent is None else percent,
        kept.salt if salt is None else salt,
        kept.testers if testers is None else testers,
    )


def gaining(before: Optional[State], after: State) -> tuple[str, ...]:
    """Return the slots that must prove that they answer: one that had nothing, one that becomes live, a canary that grows.

    A live slot that serves, and takes back a part of the rest, is not asked: giving a canary less is always allowed.
    """
    had = before.shares() if before else dict.fromkeys(SLOTS, 0)
    has = after.shares()
    becomes_live = before is not None and before.live != after.live
    let_in = after.testers and not (before and before.testers)
    return tuple(
        slot
        for slot in SLOTS
        if (has[slot] and ((becomes_live and slot == after.live) or (has[slot] > had[slot] and (had[slot] == 0 or slot == after.idle))))
        or (let_in and slot == after.idle)
    )


# Buckets: a folder holds one empty file for each bucket, whose name says the slot, and the link "traffic" points at such a folder.


def link_name(state: State) -> str:
    """Return the target of the link ``traffic`` in a state, as seen from the app's folder."""
    return f".traffic/{state.live}-{state.idle}-{state.percent:03d}-{state.salt:03d}{'-testers' if state.testers else ''}"


def parse_link(target: Optional[str]) -> Optional[State]:
    """Return the state a link target stands for, or None when it is no such target."""
    match = _LINK.fullmatch(target or "")
    if not match or match.group(1) == match.group(2) or int(match.group(3)) > 100:
        return None
    return State(match.group(1), int(match.group(3)), int(match.group(4)), bool(match.group(5)))


@lru_cache(maxsize=4)
def bucket_order(salt: int) -> tuple[int, ...]:
    """Return the buckets in the order in which the idle slot gets them."""
    return tuple(sorted(range(BUCKETS), key=lambda bucket: hashlib.sha256(f"{salt}:{bucket}".encode()).digest()))


def bucket_slots(state: State) -> tuple[str, ...]:
    """Return the slot of each bucket, by number."""
    let_in = frozenset(bucket_order(state.salt)[: state.percent])
    return tuple(state.idle if bucket in let_in else state.live for bucket in range(BUCKETS))


def file_names(state: State) -> frozenset[str]:
    """Return the names of the empty files that make a state."""
    special = {f"live.{state.live}"} | ({f"testers.{state.idle}"} if state.testers else set())
    return frozenset({f"{bucket}.{slot}" for bucket, slot in enumerate(bucket_slots(state))} | special)


def telling_buckets(state: State) -> dict[int, str]:
    """Return the buckets on both sides of the cut and at both ends of the order, with the slot each must be sent to."""
    slots, order = bucket_slots(state), bucket_order(state.salt)
    places = sorted({0, state.percent - 1, state.percent, BUCKETS - 1})
    return {order[place]: slots[order[place]] for place in places if 0 <= place < BUCKETS}


# Weights: one upstream holds the hosts of both slots.


def host_weights(percent: int, idle_hosts: int, live_hosts: int, keep_sum: bool) -> tuple[int, int]:
    """Return the whole-number weight of each idle and of each live host that gives the idle slot exactly ``percent`` %; 0 leaves it out.

    A share p with n idle and m live hosts is p m : (100 - p) n.

    :param keep_sum: keep the sum of all weights the same at every share, so that a hash of the visitor stays monotone.
    """
    idle, live = percent * live_hosts, (100 - percent) * idle_hosts
    divisor = math.gcd(idle_hosts, live_hosts) if keep_sum else math.gcd(idle, live)
    return idle // divisor, live // divisor
