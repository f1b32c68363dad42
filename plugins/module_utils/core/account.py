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
            phases[name].update(seconds=took, outcome="done" if record["event"] == "end" else "stopped", reason=data.get("reason", ""))
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
        "restores": restored.restores_of(mine),
        "database": next((record["data"]["database"] for record in reversed(mine) if record["event"] == "rollback" and "database" in record["data"]), "leave"),
        "phases": list(phases.values()),
    }


def summary(report: Mapping[str, Any]) -> list[str]:
    """Return the last paragraph an operator reads."""
    words = {
        states.PROMOTED: f"{report['version']} is live in {report['live_slot']}; the slot before stays warm for a rollback.",
        states.HELD: f"{report['version']} is held at its present share; go on with canary.yml or promote.yml, or take it back with rollback.yml.",
        states.REFUSED: f"{report['version']} was refused before anything real was touched; {report['live_version'] or 'the live version'} serves as before.",
        states.FAILED: f"{report['version']} failed before it got any traffic; {report['live_version']} serves in {report['live_slot']} as before.",
        states.ROLLED_BACK: f"{report['version']} was taken back; all traffic is on {report['live_slot']} ({report['live_version']}). {_database(report)}",
    }
    lines = [f"{report['release_id']}: {words.get(report['result'], report['result'])}"]
    if report["reason"]:
        lines.append(f"Reason: {report['reason']}")
    return lines + [restored.words(one) for one in report["restores"]]


def _database(report: Mapping[str, Any]) -> str:
    """Return what became of the database when a release was taken back, as far as the ledger knows."""
    if report["database"] == restores.LEAVE:
        return "The database was left as it is."
    if report["database"] == restores.DOWN:
        return "Its migrations were to go down; the run says what came of it."
    return "The database was restored." if report["restores"] else "The restore that was asked for did not come to its end; look with restore.yml --check."
