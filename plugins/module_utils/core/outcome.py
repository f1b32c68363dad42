# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One outcome from what many hosts answered: a phase passes only when every host that had to answer did, and every gate lets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import stops


@dataclass(frozen=True)
class Outcome:
    """What a phase came to.

    :param reason: why it stops the release, in words; empty when it passed.
    :param hold: whether the reason only asks to wait for a person, and nothing has to be taken back.
    :param actions: what was done, each with its host.
    :param gates: every gate of every host, with the key ``host``.
    """

    reason: str
    hold: bool = False
    actions: list[str] = field(default_factory=list)
    gates: list[dict[str, Any]] = field(default_factory=list)


def gather(results: Mapping[str, Mapping[str, Any]]) -> Outcome:
    """Join the results of one phase.

    :param results: ``host: result``; a skipped result does not count, a host that is missing was not asked.
    """
    reasons: list[str] = []
    # A result that says itself whether it stops has weighed its own gates.
    weighed: list[dict[str, Any]] = []
    actions: list[str] = []
    gates: list[dict[str, Any]] = []
    held: list[bool] = []
    for host, result in results.items():
        if result.get("skipped"):
            continue
        actions += [f"{host}: {action}" for action in result.get("actions", [])]
        # A judgement over many hosts names the host of each gate itself.
        named = [{"host": host, **gate} for gate in result.get("gates", [])]
        gates += named
        weighed += [] if "stop" in result else named
        if result.get("unreachable"):
            reasons.append(f"{host} cannot be reached: {result.get('msg', 'no reason given')}")
        elif result.get("failed"):
            reasons.append(f"{host}: {result.get('msg', 'it failed without a word')}")
        elif result.get("stop"):
            reasons.append(str(result["stop"]))
            held.append(bool(result.get("hold")))
    reasons += [
        f"{gate['host']}: {gate['name']}: {gate['sentence']}" + (f" {gate['remedy']}" if gate.get("remedy") else "")
        for gate in weighed
        if stops(gate["verdict"])
    ]
    return Outcome("\n".join(reasons), bool(held) and len(held) == len(reasons) and all(held), actions, gates)
