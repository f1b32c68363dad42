# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ground a release stands on: every edge agrees who is live, and the live slot, which is the way back, really runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.slots import other
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, PASS, Gate


@dataclass(frozen=True)
class Ground:
    """Which slot is live and what it holds."""

    live: str = ""
    idle: str = ""
    live_version: str = ""
    percent: int = 0
    gates: list[Gate] = field(default_factory=list)


def survey(edges: Mapping[str, Mapping[str, Any]], hosts: Mapping[str, Mapping[str, Any]], expected: Mapping[str, Any], stopped: bool = False) -> Ground:
    """Join what the edges and the app hosts say.

    :param edges: edge -> its state ``{live, percent}``; empty where it has none yet.
    :param hosts: app host -> what its slots hold ``{blue: {version, online, wanted}, green: ...}``.
    :param expected: live slot and share that the ledger remembers of an open release; empty for a new one.
    :param stopped: whether that release has begun its short stop: the site may be closed then, and the slot before need not run.
    """
    unset = [name for name, state in edges.items() if not state.get("live")]
    if unset or not edges:
        where = ", ".join(unset) or "there is none"
        remedy = "Put the hosts in the inventory group edges and run provision.yml or the edge role once with edge_live set."
        return Ground(gates=[Gate("edge", FAIL, f"no edge state for this app: {where}", remedy=remedy)])
    seen = {(state["live"], state["percent"]) for state in edges.values()}
    if len(seen) > 1:
        told = "; ".join(f"{name}: {state['live']} live, {state['percent']} % to {other(state['live'])}" for name, state in sorted(edges.items()))
        return Ground(gates=[Gate("edge", FAIL, f"the edges do not agree: {told}", remedy="Bring them together with rollback.yml first.")])
    closed = sorted(name for name, state in edges.items() if state.get("maintenance"))
    if closed and not stopped:
        remedy = "Open it with maintenance.yml -e maintenance_state=off first: a closed site shows nothing of a new version."
        return Ground(gates=[Gate("maintenance", FAIL, f"the site is closed for maintenance on {', '.join(closed)}", remedy=remedy)])
    live, percent = seen.pop()
    if expected:
        return _resumed(live, percent, hosts, expected, stopped)
    gates = [
        Gate(
            "edge", PASS, f"{len(edges)} {'edge serves' if len(edges) == 1 else 'edges serve'} {live}, {percent} % go to {other(live)}", value=percent, limit=0
        )
    ]
    if percent:
        gates = [
            Gate("edge", FAIL, f"{percent} % of the traffic go to {other(live)} though no release is open", remedy="Take it back with rollback.yml first.")
        ]
    gates.append(_way_back(live, hosts))
    versions = {str(host.get(live, {}).get("version", "")) for host in hosts.values()}
    return Ground(live, other(live), versions.pop() if len(versions) == 1 else "", percent, gates)


def _resumed(live: str, percent: int, hosts: Mapping[str, Mapping[str, Any]], expected: Mapping[str, Any], stopped: bool) -> Ground:
    """A release that goes on keeps the slots it began with, whether it was cut before its promotion or behind it."""
    began, back = str(expected["live"]), str(expected["live_version"])
    sentence = f"the edges serve {live}, {percent} % go to {other(live)}; the release began with {began} live"
    target = _kept(began, hosts) if stopped else _way_back(began, hosts)
    return Ground(began, other(began), back, percent, [Gate("edge", PASS, sentence, value=percent), target])


def _way_back(live: str, hosts: Mapping[str, Mapping[str, Any]]) -> Gate:
    weak = [f"{name}: {_held(held.get(live, {}))}" for name, held in sorted(hosts.items()) if not _runs(held.get(live, {}))]
    if weak or not hosts:
        remedy = "Start the live version through the collection once: a release needs a slot it can go back to."
        return Gate("rollback target", FAIL, f"{live} is live but does not run as it should: {'; '.join(weak) or 'no app host is known'}", remedy=remedy)
    versions = sorted({str(held[live]["version"]) for held in hosts.values()})
    if len(versions) > 1:
        return Gate(
            "rollback target",
            FAIL,
            f"the app hosts hold different versions in {live}: {', '.join(versions)}",
            remedy="Bring the live slot to one version first.",
        )
    return Gate(
        "rollback target",
        PASS,
        f"{versions[0]} runs in {live} on {len(hosts)} app {'host' if len(hosts) == 1 else 'hosts'}; a rollback goes back to it",
        value=versions[0],
    )


def _kept(live: str, hosts: Mapping[str, Mapping[str, Any]]) -> Gate:
    """Judge a slot that was ended for the other one, and is started again when that fails."""
    versions = sorted({str(held.get(live, {}).get("version", "")) for held in hosts.values()})
    if len(versions) != 1 or not versions[0]:
        told = ", ".join(version or "nothing" for version in versions) or "no app host is known"
        return Gate("rollback target", FAIL, f"{live} cannot be started again: it holds {told}", remedy="See what slots/ holds on the app hosts.")
    return Gate("rollback target", PASS, f"{versions[0]} is kept in {live}; a rollback starts it again", value=versions[0])


def _runs(held: Mapping[str, Any]) -> bool:
    return bool(held.get("version")) and held.get("online", 0) == held.get("wanted", -1)


def _held(held: Mapping[str, Any]) -> str:
    if not held.get("version"):
        return "it holds no version"
    return f"{held.get('online', 0)} of {held.get('wanted', 0)} processes of {held['version']} are online"
