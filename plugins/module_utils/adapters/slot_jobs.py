# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The workers of a slot: queues and schedules belong to one slot at a time."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import release_dir
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import make_folder
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.slot_host import Host
from ansible_collections.sluice.deploy.plugins.module_utils.core import slots
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.secret import scrub
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import PASS, Gate

# So long must a worker without a heartbeat run before it counts as working.
_SETTLE_SECONDS = 3.0


def owning(host: Host, check: bool) -> bool:
    """Let one slot's workers take the jobs: never both slots', and the other's again when these do not work."""
    held = {slot: release_dir.record(host.directory, slot) for slot in slots.SLOTS}
    if not host.workers:
        return False
    # In check mode nothing was started, which a real run would have done before.
    if not held[host.slot] and not check:
        raise SluiceError(f"{host.slot} holds no version whose workers could take the jobs.", "Start the slot first.")
    there = slots.other(host.slot)
    wanted = sum(service.instances for service in host.workers)
    idle = not host.running(there, host.workers)
    if idle and host.running(host.slot, host.workers) == wanted:
        host.actions.append(f"the workers of {host.slot} have the jobs already")
        return False
    host.actions.append(f"the workers of {host.slot} have the jobs now")
    if check:
        return True
    host.runtime.stop(there, host.workers)
    try:
        employ(host, host.slot, held[host.slot])
    except SluiceError as error:
        host.runtime.stop(host.slot, host.workers)
        if idle or not held[there]:
            raise
        raise SluiceError(f"{error.message} {back_to(host, there, held[there])}", error.remedy, **error.facts) from error
    return True


def employ(host: Host, slot: str, held: Mapping[str, Any]) -> None:
    """Start a slot's workers and see that they work: each runs without a restart, and touches its heartbeat when it has one."""
    folder = os.path.join(host.directory, "heartbeats")
    make_folder(folder)
    if host.params["user"]:
        shutil.chown(folder, host.params["user"])
    plan = replace(host.remembered(slot, held, host.environment()), services=host.workers, role="live", heartbeats=folder)
    beats = {service.name: (plan.heartbeat(service), service.heartbeat) for service in host.workers if service.heartbeat}
    for path, _seconds in beats.values():
        if os.path.exists(path):
            os.unlink(path)
    host.runtime.stop(slot, host.workers)
    host.runtime.start(plan)
    began, wanted = time.monotonic(), sum(service.instances for service in host.workers)
    limit = max((seconds for _path, seconds in beats.values()), default=_SETTLE_SECONDS)
    while True:
        waited = time.monotonic() - began
        running = host.running(slot, host.workers, again=True)
        silent = sorted(name for name, (path, _seconds) in beats.items() if not os.path.exists(path))
        dead = host.runtime.probe(slot, host.workers)
        if not dead and running == wanted and not silent and (beats or waited >= _SETTLE_SECONDS):
            break
        if dead or waited > limit:
            said = scrub(host.runtime.logs(slot), plan.env.values()).strip()
            why = dead or (f"{', '.join(silent)} did not touch its heartbeat within {limit:g} s" if silent else f"{running} of {wanted} processes run")
            heard = f" It last said:\n{said}" if said else ""
            raise SluiceError(f"The workers of {plan.version} do not work in {slot}: {why}.{heard}", "Mend the worker and release again.", log=said)
        time.sleep(0.2)
    host.gates.append(Gate("workers", PASS, f"{wanted} workers of {plan.version} took the jobs in {slot}, after {time.monotonic() - began:.1f} s"))


def back_to(host: Host, slot: str, held: Mapping[str, Any]) -> str:
    """Start the workers that had the jobs before, and say how that went."""
    try:
        employ(host, slot, held)
    except SluiceError as error:
        return f"Those of {slot} do not work any more either, so nobody has the jobs: {error.message}"
    return f"The workers of {slot} have the jobs again."
