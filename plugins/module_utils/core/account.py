# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The account of a release: its phases with their times, what was done, what each gate said, as data and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core import restored, restores, states
from ansible_collections.sluice.deploy.plugins.module_utils.core.lease import utc


def account(release: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the report of one release, made from its ledger records alone."""
    mine = [record for record in records if record.get("release") == release["id"]]
    phases: dict[str, dict[str, Any]] = {}
    for record in mine:
        name = record.get("phase", "")
        if record["event"] == "begin":
            phases[name] = {"name": name, "began": record["at"], "seconds": None, "outcome": "cut"}
        elif record["event"] in ("end", "stop") and name in phases:
            data = record.get("data", {})
            took = round(record["at"] - phases[name]["began"], 2)
            phases[name].update(seconds=took, outcome=_outcome(record["event"], data), reason=data.get("reason", ""))
            phases[name].update(actions=data.get("actions", []), gates=data.get("gates", []))
    return {
        "release_id": release["id"],
        "version": release["version"],
        "result": release["state"],
        "reason": release["reason"],
        "opened": utc(release["opened"]),
        "closed": utc(release["changed"]),
        "seconds": round(release["changed"] - release["opened"], 2),
        "operator": release["operator"],
        "manifest": release["manifest"],
        "plan_digest": release["plan_digest"],
        "live_slot": release["idle"] if release["state"] == states.PROMOTED else release["live"],
        "live_version": release["version"] if release["state"] == states.PROMOTED else release["manifest"].get("live_version", ""),
        "shares": [{"at": utc(record["at"]), "percent": record["data"]["percent"]} for record in mine if record["event"] == "share"],
        "verdicts": [record["data"] for record in mine if record["event"] == "verdict"],
        "stops": list(release.get("stops", ())),
        "restores": restored.restores_of(mine),
        "database": next((record["data"]["database"] for record in reversed(mine) if record["event"] == "rollback" and "database" in record["data"]), "leave"),
        "phases": list(phases.values()),
    }


def _outcome(event: str, data: Mapping[str, Any]) -> str:
    if event != "end":
        return "stopped"
    return "left out" if data.get("left_out") else "done"


def closed_for(stops: Sequence[Mapping[str, Any]]) -> str:
    """Return in a sentence how long visitors met a closed site; empty when they never did."""
    if not stops:
        return ""
    if stops[-1]["seconds"] is None:
        return f"The site is closed for it since {utc(stops[-1]['at'])}."
    each = " and ".join(f"{stop['seconds']:.1f} s" for stop in stops)
    return f"The site was closed for {each}."


def still_closed(release: Mapping[str, Any]) -> list[str]:
    """Return how a site that was left closed is opened; nothing where it is open."""
    stops = release.get("stops") or [{"seconds": 0}]
    if stops[-1]["seconds"] is not None:
        return []
    how = "rollback.yml starts the version before and opens it; maintenance.yml -e maintenance_state=off opens it as it is."
    return [f"The site is CLOSED since {utc(stops[-1]['at'])} for {release['id']}. {how}"]


def summary(report: Mapping[str, Any]) -> list[str]:
    """Return the last paragraph an operator reads."""
    before = "the slot before stays warm for a rollback"
    if report["manifest"].get("in_place"):
        before = f"{report['manifest']['live_version']} does not run, and a rollback starts it again in a short stop"
    words = {
        states.PROMOTED: f"{report['version']} is live in {report['live_slot']}; {before}.",
        states.HELD: f"{report['version']} is held at its present share; go on with canary.yml or promote.yml, or take it back with rollback.yml.",
        states.REFUSED: f"{report['version']} was refused before anything real was touched; {report['live_version'] or 'the live version'} serves as before.",
        states.FAILED: f"{report['version']} failed before it got any traffic; {report['live_version']} serves in {report['live_slot']} as before.",
        states.ROLLED_BACK: f"{report['version']} was taken back; all traffic is on {report['live_slot']} ({report['live_version']}). {_database(report)}",
    }
    lines = [f"{report['release_id']}: {words.get(report['result'], report['result'])}"]
    if report["reason"]:
        lines.append(f"Reason: {report['reason']}")
    lines += filter(None, [closed_for(report.get("stops", ()))])
    return lines + [restored.words(one) for one in report["restores"]]


def _database(report: Mapping[str, Any]) -> str:
    """Return what became of the database when a release was taken back, as far as the ledger knows."""
    if report["database"] == restores.LEAVE:
        return "The database was left as it is."
    if report["database"] == restores.DOWN:
        return "Its migrations were to go down; the run says what came of it."
    return "The database was restored." if report["restores"] else "The restore that was asked for did not come to its end; look with restore.yml --check."
