# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an edge saw in a window of its access log: counts and a histogram for each slot, small enough to travel.

A request is charged to the slot that got its *first* attempt, even where a retry on the other slot saved the visitor.
Where the operator tells kinds of requests apart, each slot is counted by kind as well.
Only numbers leave the edge: no address, no path and no visitor's key.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from itertools import compress
from operator import add, not_
from typing import Any, NamedTuple, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.histogram import bin_of

IGNORED_PATHS = ("/api/health",)
"""Requests of health probes: they say nothing about visitors."""


_CLIENT_CLOSED = 499
_UPGRADED = 101
_NO_ATTEMPT = ("", "-")
_NO_KEY = frozenset((b"", b"-"))
_FIRST = re.compile(r", | : ")  # a retry, and an internal redirect; an address has a ":" of its own, but never between spaces

# The inside of a JSON string; nginx (escape=json) writes a quotation mark in it as \", so nobody can forge a key.
_PLAIN = rb'[^"\\\n]*'
_TEXT = _PLAIN + rb"(?:\\." + _PLAIN + rb")*"
# nginx logs a path decoded and escapes little in it; what a route may hold stands there as it is.
_ROUTE = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*")
_KIND = re.compile(r"[a-z][a-z0-9_-]{0,30}")
_MOST_ROUTES = 8
OTHER = "other"
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
    :param milliseconds: the sum of the same times, exact, as nginx counts in milliseconds.
    """

    requests: int = 0
    errors: int = 0
    shielded: int = 0
    aborted: int = 0
    statuses: Mapping[str, int] = field(default_factory=dict)
    clients: int = 0
    error_clients: int = 0
    histogram: Mapping[int, int] = field(default_factory=dict)
    milliseconds: int = 0

    @property
    def error_rate(self) -> float:
        """The share of first attempts that failed; 0 when there was none."""
        return self.errors / self.requests if self.requests else 0.0

    @property
    def mean_seconds(self) -> Optional[float]:
        """The mean request time; None without requests."""
        count = sum(self.histogram.values())
        return self.milliseconds / 1000 / count if count else None


@dataclass(frozen=True)
class Sample:
    """What the slots did between ``since`` and ``until`` (seconds since the epoch; None when no line was seen).

    :param ignored: lines that were not judged: health probes, and requests that nginx answered without a slot.
    :param unowned: requests whose first attempt went to an address that belongs to no slot.
    :param malformed: lines that are not of the edge's log format.
    :param strata: each slot's requests once more, by kind; every kind that is told apart is named, also one that had no request.
    """

    since: Optional[float] = None
    until: Optional[float] = None
    slots: Mapping[str, SlotSample] = field(default_factory=dict)
    ignored: int = 0
    unowned: int = 0
    malformed: int = 0
    strata: Mapping[str, Mapping[str, SlotSample]] = field(default_factory=dict)

    def slot(self, name: Optional[str]) -> SlotSample:
        """Return one slot's part; an empty one when it is not in the sample."""
        return self.slots.get(name or "", SlotSample())

    def stratum(self, name: Optional[str], kind: str) -> SlotSample:
        """Return one slot's requests of a kind; an empty part when it has none."""
        return self.strata.get(name or "", {}).get(kind, SlotSample())

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds that are told apart, in the order of their names; none where nothing was said of kinds."""
        return tuple(sorted({kind for strata in self.strata.values() for kind in strata}))

    def as_dict(self) -> dict[str, Any]:
        """Return the sample as a plain mapping that survives JSON."""
        return {
            "since": self.since,
            "until": self.until,
            "ignored": self.ignored,
            "unowned": self.unowned,
            "malformed": self.malformed,
            "slots": {name: _slot_as_dict(slot) for name, slot in self.slots.items()},
            "strata": {name: {kind: _slot_as_dict(part) for kind, part in strata.items()} for name, strata in self.strata.items()},
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
            strata={name: {kind: _slot_from_dict(part) for kind, part in strata.items()} for name, strata in data.get("strata", {}).items()},
        )


def _slot_as_dict(slot: SlotSample) -> dict[str, Any]:
    plain = {item.name: getattr(slot, item.name) for item in fields(slot)}
    return {**plain, "statuses": dict(slot.statuses), "histogram": {str(number): count for number, count in sorted(slot.histogram.items())}}


def _slot_from_dict(data: Mapping[str, Any]) -> SlotSample:
    # JSON knows no whole numbers as keys.
    return SlotSample(**{**data, "statuses": dict(data["statuses"]), "histogram": {int(number): count for number, count in data["histogram"].items()}})


@dataclass(frozen=True)
class Kinds:
    """What kind a request is of: the first route its path begins with, or else the service that got it, or else ``other``.

    :param routes: pairs of a path's beginning and the kind's name.
    :param services: which service each upstream address belongs to.
    """

    routes: tuple[tuple[str, str], ...] = ()
    services: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """All kinds there are; none when neither routes nor services tell them apart."""
        told = (*(name for _path, name in self.routes), *self.services.values())
        return tuple(dict.fromkeys((*told, OTHER))) if told else ()

    def of(self, path: str, address: str) -> str:
        """Return a request's kind.

        :param path: the beginning of a route, as the line's expression found it; empty when there was none.
        """
        for known, name in self.routes:
            if known == path:
                return name
        return self.services.get(address, OTHER)


NO_KINDS = Kinds()


class _Attempt(NamedTuple):
    """What a line's route, status, time and first attempt mean."""

    slot: str
    kind: str
    failed: bool
    shielded: bool
    aborted: bool
    status_class: str
    bin: Optional[int]


class _Sort(NamedTuple):
    """What lines of the same text mean, and the exact time each of them took."""

    attempt: _Attempt
    milliseconds: int


class Tally:
    """Blocks of log lines poured together into one sample.

    The visitors' keys stay in here, so that a visitor who comes in two blocks is counted once.

    :param owners: which slot each upstream address belongs to.
    :param ignore_paths: request paths that are not judged; compared whole, without the query.
    :param kinds: how requests are told apart; without routes and services they are not.
    """

    def __init__(self, owners: Mapping[str, str], ignore_paths: Sequence[str] = IGNORED_PATHS, kinds: Kinds = NO_KINDS) -> None:
        self._owners, self._kinds = dict(owners), kinds
        self._slots = tuple(dict.fromkeys(self._owners.values()))
        self._line = _line_pattern(tuple(ignore_paths), tuple(path for path, _name in kinds.routes))
        self._sorts: dict[bytes, Optional[_Sort]] = {}
        self._pending: Counter[bytes] = Counter()  # what came since the last sample
        self._counts: Counter[_Attempt] = Counter()
        self._milliseconds: Counter[tuple[str, str]] = Counter()
        # One set for those who were served and one for those who met an error, by slot and kind; each sort of line points at its set.
        self._visitors: dict[tuple[str, str, bool], set[bytes]] = {
            (slot, kind, failed): set() for slot in self._slots for kind in (*kinds.names, OTHER) for failed in (False, True)
        }
        self._places = {audience: place for place, audience in enumerate(self._visitors)}
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
        slots, probes, *routes, attempts, clients = zip(*rows)
        if routes:
            attempts = tuple(map(add, routes[0], attempts))
        if any(probes):
            judged = list(map(not_, probes))
            self._ignored += len(judged) - sum(judged)
            slots, attempts, clients = (tuple(compress(column, judged)) for column in (slots, attempts, clients))
        self._count(slots, attempts, clients)

    def sample(self) -> Sample:
        """Return what was counted so far."""
        for text, count in self._pending.items():
            if text not in self._named:
                self._add(text, self._sorts[text], count)
        self._pending.clear()
        kinds = self._kinds.names
        strata = {slot: {kind: self._slot_sample(slot, [kind]) for kind in kinds} for slot in self._slots} if kinds else {}
        slots = {slot: self._slot_sample(slot, kinds or [OTHER]) for slot in self._slots}
        return Sample(self._since, self._until, slots, self._ignored, self._unowned, self._malformed, strata)

    def _count(self, slots: Sequence[bytes], attempts: Sequence[bytes], clients: Sequence[bytes]) -> None:
        """Count lines a whole sort at a time: Python touches each sort once, not each line."""
        self._pending.update(attempts)
        for text in set(attempts).difference(self._sorts):
            self._learn(text)
        visitors = list(self._visitors.values())
        for audience, client in set(zip(map(self._audiences.__getitem__, attempts), clients)):
            if audience >= 0:
                visitors[audience].add(client)
        if not self._named.isdisjoint(attempts):
            self._count_named(line for line in zip(slots, attempts, clients) if line[1] in self._named)

    def _count_named(self, lines: Iterable[tuple[bytes, bytes, bytes]]) -> None:
        """Count lines with an upstream's name for an address: no peer of it was alive, and the slot the line was meant for failed."""
        for slot, text, client in lines:
            meant = slot.decode("utf-8", "replace")
            sort = _read_sort(text, {_first_address(text): meant}, self._kinds) if meant in self._slots else None
            self._add(text, sort, 1)
            if sort:
                self._visitors[_audience(sort)].add(client)

    def _learn(self, text: bytes) -> None:
        sort = self._sorts[text] = _read_sort(text, self._owners, self._kinds)
        self._audiences[text] = self._places[_audience(sort)] if sort else -1
        if sort is None and _is_name(_first_address(text)):
            self._named.add(text)

    def _add(self, text: bytes, sort: Optional[_Sort], count: int) -> None:
        if sort is not None:
            attempt = sort.attempt
            self._counts[attempt] += count
            self._milliseconds[attempt.slot, attempt.kind] += sort.milliseconds * count
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

    def _slot_sample(self, slot: str, kinds: Sequence[str]) -> SlotSample:
        own = {attempt: count for attempt, count in self._counts.items() if attempt.slot == slot and attempt.kind in kinds}
        statuses: Counter[str] = Counter()
        histogram: Counter[int] = Counter()
        for attempt, count in own.items():
            statuses[attempt.status_class] += count
            if attempt.bin is not None:
                histogram[attempt.bin] += count
        served, unhappy = (set().union(*(self._visitors[slot, kind, failed] for kind in kinds)) - _NO_KEY for failed in (False, True))
        return SlotSample(
            requests=sum(count for attempt, count in own.items() if not attempt.aborted),
            errors=sum(count for attempt, count in own.items() if attempt.failed),
            shielded=sum(count for attempt, count in own.items() if attempt.shielded),
            aborted=sum(count for attempt, count in own.items() if attempt.aborted),
            statuses=dict(statuses),
            clients=len(unhappy | served),
            error_clients=len(unhappy),
            histogram=dict(histogram),
            milliseconds=sum(self._milliseconds[slot, kind] for kind in kinds),
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


def kinds_of(routes: Sequence[Any], services: Mapping[str, Any]) -> Kinds:
    """Return how requests are told apart.

    :param routes: mappings with the ``name`` of a kind and the ``path`` its requests begin with; the first that fits counts.
    :param services: the addresses of each service, in whatever slot.
    :raises SluiceError: a route is none, or can never be reached.
    """
    complaint = route_complaint(routes)
    if complaint:
        raise SluiceError(f"routes: {complaint}", f"Example: routes: {ROUTE_EXAMPLE}")
    owners = owners_of(services) if services else {}
    return Kinds(tuple((route["path"], route["name"]) for route in routes), owners)


ROUTE_EXAMPLE = "[{name: payment, path: /api/payments/}, {name: api, path: /api/}]"


def route_complaint(routes: Sequence[Any]) -> str:
    """Return what is wrong with the routes that tell kinds of requests apart; empty when nothing is."""
    before: list[str] = []
    for number, route in enumerate(routes, start=1):
        if not isinstance(route, Mapping) or set(route) != {"name", "path"}:
            return f"route {number} must be a mapping with name and path."
        name, path = str(route["name"]), str(route["path"])
        if not _KIND.fullmatch(name):
            return f"the name of route {number} may hold up to 31 lower-case letters, digits, dashes and underscores, beginning with a letter, not {name!r}."
        if not _ROUTE.fullmatch(path):
            return f"the path of route {number} begins with / and holds letters, digits and ._~!$&'()*+,;=:@/- only, not {path!r}."
        earlier = next((known for known in before if path.startswith(known)), None)
        if earlier is not None:
            return f"route {number} ({path}) is never reached, because {earlier} comes before it; the longer path goes first."
        before.append(path)
    return f"there are {len(before)} routes; {_MOST_ROUTES} are allowed." if len(before) > _MOST_ROUTES else ""


def parse(block: bytes, owners: Mapping[str, str], ignore_paths: Sequence[str] = IGNORED_PATHS, kinds: Kinds = NO_KINDS) -> Sample:
    """Return the sample of one block of whole log lines.

    :param owners: which slot each upstream address belongs to.
    :param kinds: how requests are told apart.
    """
    tally = Tally(owners, ignore_paths, kinds)
    tally.add(block)
    return tally.sample()


@lru_cache(maxsize=8)
def _line_pattern(ignore_paths: tuple[str, ...], routes: tuple[str, ...] = ()) -> re.Pattern[bytes]:
    """Return the expression of one line with these groups: slot, path when it is to be ignored, route if there are any, status up to first attempts, visitor.

    Status, time, addresses and their statuses stand together in a line and are cut out in one piece:
    lines of a service differ in little there, so each sort of line is read once and then only counted.
    Keys that are added at the end of the line do no harm.
    """
    probes = b"|".join(re.escape(path.encode()) for path in ignore_paths)
    # No route fits as well: an empty group.
    text = rb"(" + b"".join(re.escape(path.encode()) + b"|" for path in routes) + rb")" + _TEXT if routes else _TEXT
    path = rb"(?:(" + probes + rb")(?:\?" + _TEXT + rb')?(?=")|' + text + rb")" if probes else rb"()" + text
    keys = (
        rb'"t":\d+(?:\.\d+)?',
        rb'"slot":"(' + _PLAIN + rb')"',
        rb'"m":"' + _PLAIN + rb'"',
        rb'"u":"' + path + rb'"',
        rb'("st":\d+',
        rb'"rt":\d+(?:\.\d+)?',
        rb'"ua":"' + _PLAIN + rb'"',
        rb'"us":"' + _PLAIN + rb')"',
        rb'"ut":"' + _PLAIN + rb'"',
        rb'"v":"(' + _TEXT + rb')"',
    )
    return re.compile(rb"^\{" + b",".join(keys) + rb"[^\n]*\}$", re.MULTILINE)


def _first_address(text: bytes) -> str:
    return _first(text.partition(b'"ua":"')[2].partition(b'"')[0])


@lru_cache(maxsize=1024)
def _first(texts: bytes) -> str:
    """Return the first of what nginx lists for the attempts of a request."""
    return _FIRST.split(texts.decode("utf-8", "replace"), maxsplit=1)[0]


def _is_name(address: str) -> bool:
    return address not in _NO_ATTEMPT and ":" not in address


def _audience(sort: _Sort) -> tuple[str, str, bool]:
    return sort.attempt.slot, sort.attempt.kind, sort.attempt.failed


def _read_sort(text: bytes, owners: Mapping[str, str], kinds: Kinds) -> Optional[_Sort]:
    """Return what one sort of line means; None when no slot owns its first attempt."""
    route, _key, rest = text.partition(b'"st":')
    status, _key, rest = rest.partition(b',"rt":')
    seconds, _key, rest = rest.partition(b',"ua":"')
    addresses, _key, answers = rest.partition(b'","us":"')
    address = _first(addresses)
    slot = owners.get(address)
    if slot is None:
        return None
    number, milliseconds = _read_time(seconds)
    failed, shielded, aborted, status_class = _read_answer(int(status), _first(answers))
    if int(status) == _UPGRADED:  # a WebSocket's line comes when it is closed, and its time is how long it was open
        number, milliseconds = None, 0
    return _Sort(_Attempt(slot, kinds.of(route.decode(), address), failed, shielded, aborted, status_class, number), milliseconds)


@lru_cache(maxsize=16384)
def _read_time(seconds: bytes) -> tuple[Optional[int], int]:
    return bin_of(float(seconds)), round(1000 * float(seconds))


@lru_cache(maxsize=1024)
def _read_answer(status: int, answer: str) -> tuple[bool, bool, bool, str]:
    """Return whether a first attempt failed, was shielded and was given up, and the class of the final status."""
    refused = answer.isdecimal() and int(answer) >= 500
    aborted = status == _CLIENT_CLOSED and not refused
    failed = refused or (not aborted and not answer.isdecimal())
    return failed, failed and status < 500, aborted, f"{status // 100}xx"


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
        strata=_merge_strata([part.strata for part in parts]),
    )


def _merge_strata(parts: Sequence[Mapping[str, Mapping[str, SlotSample]]]) -> dict[str, dict[str, SlotSample]]:
    found: dict[str, dict[str, list[SlotSample]]] = {}
    for part in parts:
        for slot, strata in part.items():
            kinds = found.setdefault(slot, {})
            for kind, sample in strata.items():
                kinds.setdefault(kind, []).append(sample)
    return {slot: {kind: _merge_slots(samples) for kind, samples in sorted(strata.items())} for slot, strata in sorted(found.items())}


_SUMS = ("requests", "errors", "shielded", "aborted", "clients", "error_clients", "milliseconds")


def _merge_slots(parts: Sequence[SlotSample]) -> SlotSample:
    statuses: Counter[str] = Counter()
    histogram: Counter[int] = Counter()
    for part in parts:
        statuses.update(part.statuses)
        histogram.update(part.histogram)
    sums = {name: sum(getattr(part, name) for part in parts) for name in _SUMS}
    return SlotSample(**sums, statuses=dict(statuses), histogram=dict(histogram))


def _least(moments: Iterable[Optional[float]]) -> Optional[float]:
    return min((moment for moment in moments if moment is not None), default=None)


def _most(moments: Iterable[Optional[float]]) -> Optional[float]:
    return max((moment for moment in moments if moment is not None), default=None)
