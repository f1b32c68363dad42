# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger: append-only lines, each sealed with the hash of the one before, and what they mean together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core import states
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

GENESIS = "0" * 64


def digest(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def seal(record: Mapping[str, Any], previous: Optional[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the record with its number, the hash of the line before and its own hash."""
    # Through JSON once: a key that is a number would sort otherwise when it is read back, and the hash would no longer fit.
    plain = json.loads(json.dumps(dict(record)))
    body = {**plain, "seq": previous["seq"] + 1 if previous else 1, "prev": previous["hash"] if previous else GENESIS}
    return {**body, "hash": digest(body)}


def line(record: Mapping[str, Any]) -> str:
    """Return the record as one line of the file, in ASCII: a writer that is killed never leaves half a character."""
    return json.dumps(record, sort_keys=True) + "\n"


def parse(text: str) -> tuple[list[dict[str, Any]], str]:
    """Return the records of a ledger and its torn tail.

    A last line without its end is what a killed writer leaves; it was never acknowledged, so it does not count.

    :raises SluiceError: the chain is broken; the message names the line.
    """
    body, _newline, torn = text.rpartition("\n")
    records: list[dict[str, Any]] = []
    for number, raw in enumerate(body.split("\n") if body else [], start=1):
        try:
            record = json.loads(raw)
            stated = record.pop("hash")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise SluiceError(
                f"Line {number} of the ledger is no record.", "Restore the ledger from its copy; nobody edits it by hand.", line=number
            ) from error
        before = records[-1] if records else None
        fits = digest(record) == stated and record.get("prev") == (before["hash"] if before else GENESIS) and record.get("seq") == number
        if not fits or line({**record, "hash": stated}) != raw + "\n":
            raise SluiceError(
                f"Line {number} of the ledger was changed after it was written: its hash does not fit.",
                "Restore the ledger from its copy; nobody edits it by hand.",
                line=number,
            )
        records.append({**record, "hash": stated})
    return records, torn


@dataclass(frozen=True)
class Release:
    """One release as its records tell it."""

    id: str
    version: str
    state: str = states.OPEN
    opened: float = 0.0
    changed: float = 0.0
    operator: str = ""
    manifest: Mapping[str, Any] = field(default_factory=dict)
    plan_digest: str = ""
    begun: str = ""
    done: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reason: str = ""
    share: int = 0
    share_at: float = 0.0
    promoted_at: float = 0.0
    watched_at: float = 0.0
    history: Mapping[str, Any] = field(default_factory=dict)
    # The times the site was closed for it: ``at``, and ``seconds``, None while it is closed.
    stops: Sequence[Mapping[str, Any]] = ()

    @property
    def in_place(self) -> bool:
        """Tell whether one slot ends before the other one starts."""
        return bool(self.manifest.get("in_place"))

    @property
    def live(self) -> str:
        """Slot that was live when the release began; empty before preflight."""
        return str(self.manifest.get("live", ""))

    @property
    def idle(self) -> str:
        """Slot the release starts in; empty before preflight."""
        return str(self.manifest.get("idle", ""))

    @property
    def is_open(self) -> bool:
        """Tell whether the release has not ended."""
        return self.state not in states.FINAL

    def as_dict(self) -> dict[str, Any]:
        """Return the release as a plain mapping for results and reports."""
        return {
            "id": self.id,
            "version": self.version,
            "state": self.state,
            "opened": self.opened,
            "changed": self.changed,
            "operator": self.operator,
            "manifest": dict(self.manifest),
            "plan_digest": self.plan_digest,
            "begun": self.begun,
            "done": {name: dict(data) for name, data in self.done.items()},
            "reason": self.reason,
            "live": self.live,
            "idle": self.idle,
            "share": self.share,
            "share_at": self.share_at,
            "promoted_at": self.promoted_at,
            "watched_at": self.watched_at,
            "history": dict(self.history),
            "stops": [dict(stop) for stop in self.stops],
        }


def release_from(data: Mapping[str, Any]) -> Release:
    """Return the release that ``as_dict`` described."""
    known = set(Release.__dataclass_fields__)
    return Release(**{key: value for key, value in data.items() if key in known})


def fold(records: Iterable[Mapping[str, Any]]) -> list[Release]:
    """Return the releases in the order they were opened, each in its present state."""
    releases: dict[str, Release] = {}
    for record in records:
        name = record.get("release", "")
        if not name:
            continue
        data: Mapping[str, Any] = record.get("data", {})
        event = record["event"]
        known = releases.get(name) or Release(id=name, version=str(data.get("version", "")), opened=record["at"], operator=record.get("operator", ""))
        # A restore by hand may come long after the end of the release it is counted to.
        releases[name] = known if event == "restore" else replace(_apply(known, event, record, data), changed=record["at"])
    return list(releases.values())


def _apply(release: Release, event: str, record: Mapping[str, Any], data: Mapping[str, Any]) -> Release:
    if data.get("history"):
        # What the ladder saw last, so that the next run goes on from there.
        release = replace(release, history=data["history"])
    if event == "claim":
        return replace(release, state=states.OPEN)
    if event == "plan":
        return replace(release, manifest=data["manifest"], plan_digest=data["digest"])
    if event == "begin":
        return replace(release, begun=str(record.get("phase", "")))
    if event == "end":
        return replace(release, done={**release.done, str(record["phase"]): data})
    if event == "share":
        return replace(release, share=int(data["percent"]), share_at=record["at"])
    if event == "watch":
        return replace(release, watched_at=record["at"])
    if event in ("closed", "opened"):
        return replace(release, stops=_stops(release.stops, event, record["at"]))
    if event in ("refuse", "fail", "hold", "promote", "rollback"):
        release = replace(release, promoted_at=record["at"]) if event == "promote" else release
        after = {"refuse": states.REFUSED, "fail": states.FAILED, "hold": states.HELD, "promote": states.PROMOTED, "rollback": states.ROLLED_BACK}[event]
        return replace(release, state=after, reason=str(data.get("reason", release.reason)))
    return release


def _stops(stops: Sequence[Mapping[str, Any]], event: str, at: float) -> tuple[Mapping[str, Any], ...]:
    """Return the stops after one more event; a run that goes on closes what is closed already."""
    closed = bool(stops) and stops[-1]["seconds"] is None
    if closed == (event == "closed"):
        return tuple(stops)
    return (*stops, {"at": at, "seconds": None}) if event == "closed" else (*stops[:-1], {**stops[-1], "seconds": round(at - stops[-1]["at"], 2)})


def went_further(release: Release) -> bool:
    """Tell whether a release once was past the phases that touch nothing real, wherever a later run of it stopped."""
    return bool(release.stops) or any(states.BY_NAME[phase].on_stop != states.REFUSED for phase in release.done)


def untouched(release: Release) -> bool:
    """Tell whether an open release was cut before it changed anything that serves or anything in the database."""
    return release.is_open and states.BY_NAME[release.begun or "claim"].on_stop == states.REFUSED and not went_further(release)


def unfinished(releases: Sequence[Release]) -> Optional[Release]:
    """Return the release that has not ended, or None."""
    return next((release for release in reversed(releases) if release.is_open), None)


def needed_backups(releases: Sequence[Release], promoted: int = 3) -> list[str]:
    """Return the releases whose backups no retention may take, the oldest first.

    They are those that are open, the last ones that are promoted, and of those since then what was live or has migrated: only a
    backup leads back from these.

    :param promoted: how many promoted ones.
    """
    last = [number for number, release in enumerate(releases) if release.state == states.PROMOTED][-promoted:]
    since = last[0] if len(last) == promoted else 0
    return [release.id for number, release in enumerate(releases) if release.is_open or (number >= since and _left_its_mark(release))]


def _left_its_mark(release: Release) -> bool:
    """Tell whether a release was live, now or before, or has migrated."""
    return bool(was_live(release) or release.promoted_at or release.done.get("migrate", {}).get("applied"))


@dataclass(frozen=True)
class Candidate:
    """A version the app might go back to, and why it can or cannot.

    :param in_place: whether it must be started again first, which closes the site for a moment.
    """

    release: str
    version: str
    slot: str
    possible: bool
    why: str
    in_place: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the candidate as a plain mapping."""
        return {
            "release": self.release,
            "version": self.version,
            "slot": self.slot,
            "possible": self.possible,
            "why": self.why,
            "in_place": self.in_place,
        }


def was_live(release: Release) -> bool:
    """Tell whether a release got as far as being the live slot."""
    return release.state == states.PROMOTED or "promote" in release.done


def occupants(releases: Sequence[Release]) -> dict[str, str]:
    """Return which version each slot holds, as the ledger remembers it."""
    held: dict[str, str] = {}
    for release in releases:
        if release.live:
            held[release.live] = str(release.manifest.get("live_version", ""))
        if "start" in release.done and (not release.in_place or was_live(release)):
            held[release.idle] = release.version
        elif release.state == states.FAILED:
            held.pop(release.idle, None)
    return held


def candidates(releases: Sequence[Release]) -> list[Candidate]:
    """List what the app could go back to, the newest release first, each with why or why not."""
    held = occupants(releases)
    found: list[Candidate] = []
    newest = True
    for release in reversed(releases):
        if release.is_open and not release.live:
            found.append(Candidate(release.id, "", "", True, f"{release.version} was cut before it touched anything; it is only closed"))
            continue
        if not release.live or not (release.is_open or was_live(release)):
            continue
        back = str(release.manifest.get("live_version", ""))
        why = _against(release, back, held, newest)
        newest = False
        stopped = release.in_place and (bool(release.stops) or was_live(release))
        found.append(Candidate(release.id, back, release.live, not why, why or _for(release, stopped), stopped))
    return found


def _for(release: Release, stopped: bool) -> str:
    """Return why a release can be taken back."""
    if stopped:
        return f"it is kept in {release.live} and is started again in a short stop"
    if was_live(release):
        return f"it was live before {release.version} and is kept in {release.live}"
    return f"it is live; the share of {release.version} goes to 0"


def _against(release: Release, back: str, held: Mapping[str, str], newest: bool) -> str:
    """Return why a release cannot be taken back; empty when it can."""
    if release.state == states.ROLLED_BACK:
        return f"{release.version} was taken back already"
    if not newest:
        return f"a release after {release.version} has been live since"
    if held.get(release.live) != back:
        return f"{release.live} holds {held.get(release.live) or 'nothing'} now"
    if was_live(release) and release.done.get("rehearse", {}).get("rehearsal", {}).get("floor_moves"):
        return f"the migrations of {release.version} moved the floor knowingly"
    if release.manifest.get("floor"):
        return f"the migrations of {release.version} set the floor to {release.manifest['floor']}"
    return ""
