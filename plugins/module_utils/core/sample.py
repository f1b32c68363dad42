# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an edge saw in a window of its access log: counts and a histogram for each slot, small enough to travel.

A request is charged to the slot that got its *first* attempt, even where a retry on the other slot saved the visitor.
Only numbers leave the edge: no address, no path and no visitor's key.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from itertools import compress
from operator import not_
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

IGNORED_PATHS = ("/api/health",)
"""Requests of health probes: they say nothing about visitors."""

# Bins of the histogram: bin 0 is below a millisecond (all that nginx can tell), bin n >= 1 covers FLOOR * GROWTH ** (n - 1) up to FLOOR * GROWTH ** n.
FLOOR_SECONDS = 0.001
GROWTH = 1.05

_CLIENT_CLOSED = 499
_UPGRADED = 101
_NO_ATTEMPT = ("", "-")
_NO_KEY = frozenset((b"", b"-"))
_FIRST = re.compile(r", | : ")  # a retry, and an internal redirect; an address has a ":" of its own, but never between spaces

# The inside of a JSON string; nginx (escape=json) writes a quotation mark in it as \", so nobody can forge a key.
_PLAIN = rb'[^"\\\n]*'
_TEXT = _PLAIN + rb"(?:\\." + _PLAIN + rb")*"
_ADDRESS = re.compile(r"[^\s,]+:\d+|unix:[^\s,]+")
_MOMENT = re.compile(rb'^\{"t":(\d+(?:\.\d+)?),', re.MULTILINE)


@dataclass(frozen=True)
class SlotSample:
    """What one slot did with the requests whose first attempt it got.

    :param requests: first attempts that came to an end; those given up by the visitor are in ``aborted`` instead.
    :param errors: first attempts that failed: a status of 500 or more, or no answer at all.
    :param shielded: errors the visitor did not see, because a retry answered below 500.
    :param aborted: requests the visitor gave up (499); no error of the slot, but many of them hint at slowness.
    :param statuses: final status classes (``2xx``), aborted requests among them.
    :param clients: distinct visitors; exact on one edge, an upper bound over several.
    :param error_clients: distinct visitors who met an error; counted in the same way.
    :param histogram: request times by bin, aborted requests among them: a request given up took at least that long. WebSockets are left out.
    """

    requests: int = 0
    errors: int = 0
    shielded: int = 0
    aborted: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)
    clients: int = 0
    error_clients: int = 0
    histogram: Mapping[int, int] = field(default_factory=dict)

    @property
    def error_rate(self) -> float:
        """The share of first attempts that failed; 0 when there was none."""
        return self.errors / self.requests if self.requests else 0.0


@dataclass(frozen=True)
class Sample:
    """What the slots did between ``since`` and ``until`` (seconds since the epoch; None when no line was seen).

    :param ignored: lines that were not judged: health probes, and requests that nginx answered without a slot.
    :param unowned: requests whose first attempt went to an address that belongs to no slot.
    :param malformed: lines that are not of the edge's log format.
    """

    since: Optional[float] = None
    until: Optional[float] = None
    slots: Mapping[str, SlotSample] = field(default_factory=dict)
    ignored: int = 0
    unowned: int = 0
    malformed: int = 0

    def slot(self, name: Optional[str]) -> SlotSample:
        """Return one slot's part; an empty one when it is not in the sample."""
        return self.slots.get(name or "", SlotSample())

    def as_dict(self) -> dict[str, Any]:
        """Return the sample as a plain mapping that survives JSON."""
        return {
            "since": self.since,
            "until": self.until,
            "ignored": self.ignored,
            "unowned": self.unowned,
            "malformed": self.malformed,
            "slots": {name: _slot_as_dict(slot) for name, slot in self.slots.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Sample:
        """Build the sample that ``as_dict`` described."""
        return cls(
            since=data.get("since"),
            until=data.get("until"),
            ignored=data.get("ignored", 0),
            unowned=data.get("unowned", 0),
            malformed=data.get("malformed", 0),
            slots={name: _slot_from_dict(slot) for name, slot in data.get("slots", {}).items()},
        )


def _slot_as_dict(slot: SlotSample) -> dict[str, Any]:
    plain = {item.name: getattr(slot, item.name) for item in fields(slot)}
    return {**plain, "statuses": dict(slot.statuses), "histogram": {str(number): count for number, count in sorted(slot.histogram.items())}}


def _slot_from_dict(data: Mapping[str, Any]) -> SlotSample:
    # JSON knows no whole numbers as keys.
    return SlotSample(**{**data, "statuses": dict(data["statuses"]), "histogram": {int(number): count for number, count in data["histogram"].items()}})


@dataclass(frozen=True)
class _Attempt:
    """What a line's status, time and first attempt mean."""

    slot: str
    failed: bool
    shielded: bool
    aborted: bool
    status_class: str
    bin: Optional[int]


class Tally:
    """Blocks of log lines poured together into one sample.

    The visitors' keys stay in here, so that a visitor who comes in two blocks is counted once.

    :param owners: which slot each upstream address belongs to.
    :param ignore_paths: request paths that are not judged; compared whole, without the query.
    """

    def __init__(self, owners: Mapping[str, str], ignore_paths: Sequence[str] = IGNORED_PATHS) -> None:
        self._owners = dict(owners)
        self._slots = tuple(dict.fromkeys(self._owners.values()))
        self._line = _line_pattern(tuple(ignore_paths))
        self._attempts: dict[bytes, Optional[_Attempt]] = {}
        self._counts: Counter[_Attempt] = Counter()
        # One set for those who were served and one for those who met an error, by slot; each kind of line points at its set.
        self._visitors: dict[tuple[str, bool], set[bytes]] = {(slot, failed): set() for slot in self._slots for failed in (False, True)}
        self._audiences: dict[bytes, int] = {}
        self._named: set[bytes] = set()
        self._since: Optional[float] = None
        self._until: Optional[float] = None
        self.lines = 0
        self._ignored = self._unowned = self._malformed = 0

    def add(self, block: bytes) -> None:
        """Count a block of whole lines."""
        rows = self._line.findall(block)
        lines = block.count(b"\n") + (not block.endswith(b"\n") and block != b"")
        self.lines += lines
        self._malformed += lines - len(rows)
        self._stretch(block)
        if not rows:
            return
        slots, probes, attempts, clients = zip(*rows)
        if any(probes):
            judged = list(map(not_, probes))
            self._ignored += len(judged) - sum(judged)
            slots, attempts, clients = (tuple(compress(column, judged)) for column in (slots, attempts, clients))
        self._count(slots, attempts, clients)

    def sample(self) -> Sample:
        """Return what was counted so far."""
        return Sample(self._since, self._until, {slot: self._slot_sample(slot) for slot in self._slots}, self._ignored, self._unowned, self._malformed)

    def _count(self, slots: Sequence[bytes], attempts: Sequence[bytes], clients: Sequence[bytes]) -> None:
        """Count lines a whole kind at a time: Python touches each kind once, not each line."""
        kinds = Counter(attempts)
        for text, count in kinds.items():
            if text not in self._attempts:
                self._learn(text)
            if text not in self._named:
                self._add(text, self._attempts[text], count)
        visitors = list(self._visitors.values())
        for audience, client in set(zip(map(self._audiences.__getitem__, attempts), clients)):
            if audience >= 0:
                visitors[audience].add(client)
        if not self._named.isdisjoint(kinds):
            self._count_named(line for line in zip(slots, attempts, clients) if line[1] in self._named)

    def _count_named(self, lines: Iterable[tuple[bytes, bytes, bytes]]) -> None:
        """Count lines with an upstream's name for an address: no peer of it was alive, and the slot the line was meant for failed."""
        for slot, text, client in lines:
            meant = slot.decode("utf-8", "replace")
            attempt = _read_attempt(text, {_first_address(text): meant}) if meant in self._slots else None
            self._add(text, attempt, 1)
            if attempt:
                self._visitors[attempt.slot, attempt.failed].add(client)

    def _learn(self, text: bytes) -> None:
        attempt = self._attempts[text] = _read_attempt(text, self._owners)
        self._audiences[text] = list(self._visitors).index((attempt.slot, attempt.failed)) if attempt else -1
        if attempt is None and _is_name(_first_address(text)):
            self._named.add(text)

    def _add(self, text: bytes, attempt: Optional[_Attempt], count: int) -> None:
        if attempt is not None:
            self._counts[attempt] += count
        elif _first_address(text) in _NO_ATTEMPT:
            self._ignored += count
        else:
            self._unowned += count

    def _stretch(self, block: bytes) -> None:
        """Widen the window by a block's first and last moment: nginx writes a line when its request ends, so lines are in order."""
        first = _MOMENT.search(block)
        if first is None:
            return
        last = _MOMENT.match(block, block.rfind(b'\n{"t":') + 1) or first
        self._since = _least([self._since, float(first.group(1))])
        self._until = _most([self._until, float(last.group(1))])

    def _slot_sample(self, slot: str) -> SlotSample:
        own = {attempt: count for attempt, count in self._counts.items() if attempt.slot == slot}
        statuses: Counter[str] = Counter()
        histogram: Counter[int] = Counter()
        for attempt, count in own.items():
            statuses[attempt.status_class] += count
            if attempt.bin is not None:
                histogram[attempt.bin] += count
        unhappy = self._visitors[slot, True] - _NO_KEY
        return SlotSample(
            requests=sum(count for attempt, count in own.items() if not attempt.aborted),
            errors=sum(count for attempt, count in own.items() if attempt.failed),
            shielded=sum(count for attempt, count in own.items() if attempt.shielded),
            aborted=sum(count for attempt, count in own.items() if attempt.aborted),
            statuses=dict(statuses),
            clients=len(unhappy | self._visitors[slot, False] - _NO_KEY),
            error_clients=len(unhappy),
            histogram=dict(histogram),
        )


def owners_of(slots: Mapping[str, Any]) -> dict[str, str]:
    """Return which slot each upstream address belongs to.

    :param slots: the addresses of each slot, ``host:port`` as nginx writes them into its log.
    :raises SluiceError: an address belongs to two slots, or is none.
    """
    owners: dict[str, str] = {}
    for slot, addresses in slots.items():
        for address in addresses if isinstance(addresses, (list, tuple)) else [addresses]:
            if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
                raise SluiceError(f"The slot {slot} has an address that is none: {address!r}.", "An address is host and port, such as 127.0.0.1:4102.")
            if owners.setdefault(address, slot) != slot:
                both = f"{owners[address]} and to {slot}"
                raise SluiceError(f"{address} belongs to {both}, so its requests can be charged to neither.", "Give each slot ports of its own.")
    if not owners:
        raise SluiceError("No slot has an address, so no request can be charged to one.", "Give each slot its hosts, such as green: ['127.0.0.1:4102'].")
    return owners


def parse(block: bytes, owners: Mapping[str, str], ignore_paths: Sequence[str] = IGNORED_PATHS) -> Sample:
    """Return the sample of one block of whole log lines.

    :param owners: which slot each upstream address belongs to.
    """
    tally = Tally(owners, ignore_paths)
    tally.add(block)
    return tally.sample()


@lru_cache(maxsize=8)
def _line_pattern(ignore_paths: tuple[str, ...]) -> re.Pattern[bytes]:
    """Return the expression of one line with four groups: slot, path when it is to be ignored, status up to first attempts, visitor.

    Status, time, addresses and their statuses stand together in a line and are cut out in one piece:
    lines of a service differ in little there, so each kind of line is read once and then only counted.
    Keys that are added at the end of the line do no harm.
    """
    probes = b"|".join(re.escape(path.encode()) for path in ignore_paths)
    path = rb"(?:(" + probes + rb")(?:\?" + _TEXT + rb')?(?=")|' + _TEXT + rb")" if probes else rb"()" + _TEXT
    keys = (
        rb'"t":\d+(?:\.\d+)?', rb'"slot":"(' + _PLAIN + rb')"', rb'"m":"' + _PLAIN + rb'"', rb'"u":"' + path + rb'"',
        rb'"st":(\d+', rb'"rt":\d+(?:\.\d+)?', rb'"ua":"' + _PLAIN + rb'"', rb'"us":"' + _PLAIN + rb')"',
        rb'"ut":"' + _PLAIN + rb'"', rb'"v":"(' + _TEXT + rb')"',
    )
    return re.compile(rb"^\{" + b",".join(keys) + rb"[^\n]*\}$", re.MULTILINE)


@lru_cache(maxsize=4096)
def _first_address(text: bytes) -> str:
    start = text.index(b'"ua":"') + 6
    return _FIRST.split(text[start : text.index(b'"', start)].decode("utf-8", "replace"), maxsplit=1)[0]


def _is_name(address: str) -> bool:
    return address not in _NO_ATTEMPT and ":" not in address


def _read_attempt(text: bytes, owners: Mapping[str, str]) -> Optional[_Attempt]:
    """Return what one kind of line means; None when no slot owns its first attempt."""
    slot = owners.get(_first_address(text))
    if slot is None:
        return None
    status_text, rest = text.split(b',"rt":', 1)
    seconds, rest = rest.split(b',"ua":"', 1)
    answer = _FIRST.split(rest.split(b'"us":"', 1)[1].decode("utf-8", "replace"), maxsplit=1)[0]
    status = int(status_text)
    refused = answer.isdigit() and int(answer) >= 500
    aborted = status == _CLIENT_CLOSED and not refused
    failed = refused or (not aborted and not answer.isdigit())
    # A WebSocket's line comes when it is closed, and its time is how long it was open.
    number = None if status == _UPGRADED else bin_of(float(seconds))
    return _Attempt(slot, failed, failed and status < 500, aborted, f"{status // 100}xx", number)


def merge(samples: Iterable[Sample]) -> Sample:
    """Return the samples as one, in whatever order they come: of several edges, or of windows that follow each other.

    Distinct visitors are added up. A visitor whom two edges served is then counted twice, so the merged figures
    are upper bounds; to know better, the visitors' keys would have to leave the edges.
    """
    parts = list(samples)
    names = sorted({name for part in parts for name in part.slots})
    return Sample(
        since=_least([part.since for part in parts]),
        until=_most([part.until for part in parts]),
        slots={name: _merge_slots([part.slots[name] for part in parts if name in part.slots]) for name in names},
        ignored=sum(part.ignored for part in parts),
        unowned=sum(part.unowned for part in parts),
        malformed=sum(part.malformed for part in parts),
    )


def _merge_slots(parts: Sequence[SlotSample]) -> SlotSample:
    statuses: Counter[str] = Counter()
    histogram: Counter[int] = Counter()
    for part in parts:
        statuses.update(part.statuses)
        histogram.update(part.histogram)
    sums = {name: sum(getattr(part, name) for part in parts) for name in ("requests", "errors", "shielded", "aborted", "clients", "error_clients")}
    return SlotSample(**sums, statuses=dict(statuses), histogram=dict(histogram))


def _least(moments: Iterable[Optional[float]]) -> Optional[float]:
    return min((moment for moment in moments if moment is not None), default=None)


def _most(moments: Iterable[Optional[float]]) -> Optional[float]:
    return max((moment for moment in moments if moment is not None), default=None)


def bin_of(seconds: float) -> int:
    """Return the histogram's bin of a time."""
    if seconds < FLOOR_SECONDS:
        return 0
    return 1 + math.floor(math.log(seconds / FLOOR_SECONDS) / math.log(GROWTH) + 1e-9)


def value_of(number: int) -> float:
    """Return the time a bin stands for: its geometric middle."""
    return 0.0 if number <= 0 else FLOOR_SECONDS * GROWTH ** (number - 0.5)


def value_at(histogram: Mapping[int, int], rank: int) -> Optional[float]:
    """Return the ``rank``-th smallest time, counted from 1; None when there are not so many."""
    if rank < 1:
        return None
    passed = 0
    for number in sorted(histogram):
        passed += histogram[number]
        if passed >= rank:
            return value_of(number)
    return None


def quantile(histogram: Mapping[int, int], share: float) -> Optional[float]:
    """Return the time below which ``share`` of the requests stayed, right to the width of a bin (5 %); None without requests."""
    total = sum(histogram.values())
    return value_at(histogram, max(1, math.ceil(share * total - 1e-9)))
