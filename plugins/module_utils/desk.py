# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run asks of the ledger: claim the app, say what begins and what came of it, renew, close.

Both front ends use it: the action plugin when the ledger lies on the control node, the module when it lies elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.store import Store, process_started
from ansible_collections.sluice.deploy.plugins.module_utils.core import lease as leases
from ansible_collections.sluice.deploy.plugins.module_utils.core import ledger, restored, states
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError


class Desk:
    """One run at the ledger of one app.

    :param store: the files.
    :param run: who asks: ``owner`` (user@host), ``pid``, ``started``.
    :param here: the host name of the ledger host's own processes, to tell whether a holder's process still runs.
    :param now: epoch seconds.
    """

    def __init__(self, store: Store, app: str, run: Mapping[str, Any], here: str, now: float) -> None:
        self.store, self.app, self.run, self.here, self.now = store, app, run, here, now

    def answer(self, state: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what is asked under the lock and return the release, the lease and what is to be said."""
        if state == "read":
            return self._reply(self.store.records(), request.get("release_id", ""))
        with self.store.lock():
            verb: Callable[[Mapping[str, Any]], dict[str, Any]] = {"claim": self._claim, "record": self._record, "renew": self._renew, "close": self._close}[
                state
            ]
            return verb(request)

    def _draft(self, event: str, release: str, phase: str = "", data: Mapping[str, Any] | None = None, fence: int = 0) -> dict[str, Any]:
        draft = {"at": round(self.now, 3), "app": self.app, "event": event, "operator": self.run["owner"], "fence": fence, "data": dict(data or {})}
        return {**draft, **({"release": release} if release else {}), **({"phase": phase} if phase else {})}

    def _reply(self, records: list[dict[str, Any]], release_id: str = "", note: str = "", changed: bool = False) -> dict[str, Any]:
        releases = ledger.fold(records)
        wanted = next((release for release in releases if release.id == release_id), None) if release_id else ledger.unfinished(releases)
        held = self.store.lease()
        return {
            "changed": changed,
            "note": note,
            "release": wanted.as_dict() if wanted else {},
            "releases": [release.as_dict() for release in releases[-20:]],
            "needed_backups": ledger.needed_backups(releases),
            "lease": {**held.as_dict(), "alive": self._alive(held)} if held else {},
            "fence": self.store.last_fence(),
            "lines": len(records),
        }

    def _alive(self, held: leases.Lease) -> bool | None:
        if held.owner.rpartition("@")[2] != self.here or not held.started:
            return None
        return process_started(held.pid) == held.started

    def _claim(self, request: Mapping[str, Any]) -> dict[str, Any]:
        held, records = self.store.lease(), self.store.records()
        release_id, version = request.get("release_id", ""), request.get("version", "")
        known, cut = self._known(ledger.fold(records), release_id, version) if version else (None, None)
        name = known.id if known else release_id or f"{version}-{datetime.fromtimestamp(self.now, timezone.utc):%Y%m%dT%H%M%SZ}"
        reason = f"{request['reason']} {name}" if version else request["reason"]
        wanted = leases.Lease(self.run["owner"], self.run["pid"], self.run["started"], reason, 0, self.now, self.now + request["ttl"])
        grant = leases.request(held, wanted, self.now, self._alive(held) if held else None, self.store.last_fence(), request.get("break_reason", ""))
        drafts = []
        if grant.note:
            drafts.append(self._draft("takeover", "", data={"note": grant.note}, fence=grant.lease.fence))
        if cut:
            drafts.append(
                self._draft("refuse", cut.id, data={"reason": "it was cut before it touched anything, and another release has begun"}, fence=grant.lease.fence)
            )
        if version:
            drafts.append(self._draft("claim", name, data={"version": version, "resumed": known is not None}, fence=grant.lease.fence))
        if request.get("check"):
            return self._reply([*records, *drafts], name if version else "", grant.note)
        self.store.write_lease(grant.lease)
        return self._reply(self.store.append(*drafts) if drafts else records, name if version else "", grant.note, True)

    def _known(self, releases: list[ledger.Release], release_id: str, version: str) -> tuple[ledger.Release | None, ledger.Release | None]:
        """Return the release to go on with, if it is one, and a cut one that the new release ends."""
        same = next((release for release in releases if release.id == release_id), None)
        if same and not same.is_open:
            raise SluiceError(f"The release {same.id} has ended: it was {same.state.replace('_', ' ')}.", "Leave release_id out to begin a new release.")
        if same and same.version != version:
            raise SluiceError(f"The release {same.id} is of {same.version}, not of {version}.", f"Go on with -e release_version={same.version}.")
        pending = ledger.unfinished(releases)
        if pending and not same and ledger.untouched(pending):
            return None, pending
        if pending and not same:
            hint = f"Go on with -e release_version={pending.version} -e release_id={pending.id}, or take it back with rollback.yml."
            raise SluiceError(f"The release {pending.id} has not ended (it is {pending.state}, last phase {pending.begun or 'claim'}).", hint)
        return same, None

    def _mine(self) -> leases.Lease:
        held = self.store.lease()
        if held is None or (held.owner, held.pid, held.started) != (self.run["owner"], self.run["pid"], self.run["started"]):
            by = f"{held.owner} holds it for {held.reason}" if held else "nobody holds it now"
            raise SluiceError(f"This run has lost the lease: {by}.", "Nothing more is changed from here. Look with status.yml.")
        return held

    def _renew(self, request: Mapping[str, Any]) -> dict[str, Any]:
        held = self._mine()
        self.store.write_lease(leases.Lease(**{**held.as_dict(), "expires": self.now + request["ttl"]}))
        return {"changed": False}

    def _record(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Append events of the release; each is ``{event, phase, data}``."""
        held = self._mine()
        drafts = [self._draft(event["event"], request["release_id"], event.get("phase", ""), event.get("data"), held.fence) for event in request["events"]]
        self.store.write_lease(leases.Lease(**{**held.as_dict(), "expires": self.now + request["ttl"]}))
        return self._reply(self.store.append(*drafts), request["release_id"], changed=True)

    def _close(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Write the last event, if there is one, and give the lease back."""
        held = self._mine()
        records, name, told = self.store.records(), request.get("release_id", ""), ""
        data, event = dict(request.get("data") or {}), request.get("event", "")
        if restored.EVENT in data:
            data[restored.EVENT] = restored.entry(records, data[restored.EVENT], self.now - held.since)
        if event == restored.EVENT and data[event]:
            name = restored.release_of(ledger.fold(records), data[event]["backup"])
            records = self.store.append(self._draft(event, name, data=data[event], fence=held.fence))
            told = restored.words(restored.restores_of(records)[-1])
        elif event and event != restored.EVENT:
            release = next((release for release in ledger.fold(records) if release.id == name), None)
            if release is None:
                raise SluiceError(f"The ledger knows no release {name!r}.", "Look with status.yml which ones there are.")
            states.move(release.state, event)
            records = self.store.append(self._draft(event, name, data=data, fence=held.fence))
        self.store.free_lease()
        reply = self._reply(records, name, changed=True)
        return {**reply, "restored": told, "records": [record for record in records if record.get("release") == name]}
