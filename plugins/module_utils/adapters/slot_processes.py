# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The processes of a slot: started and proven, put in the place of the other slot's, ended."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import env_file, probes, release_dir, sockets
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import locked, make_folder
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.slot_host import Host
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.sockets import busy_on, served_on
from ansible_collections.sluice.deploy.plugins.module_utils.core import slots, smoke
from ansible_collections.sluice.deploy.plugins.module_utils.core.env_compare import take
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.ledger import digest
from ansible_collections.sluice.deploy.plugins.module_utils.core.secret import scrub
from ansible_collections.sluice.deploy.plugins.module_utils.core.slots import Plan
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import PASS, Gate

_PORT_SECONDS = 5.0


def started(host: Host, check: bool) -> bool:
    plan = host.plan(host.slot, host.environment())
    if runs(host, plan, entry(plan), release_dir.record(host.directory, plan.slot)):
        host.actions.append(f"{plan.slot} runs {plan.version} already and is healthy")
        host.gates.append(Gate("health", PASS, f"{plan.version} was healthy in {plan.slot} already"))
        return False
    host.actions.append(f"started {plan.version} in {plan.slot}")
    if check:
        return True
    if not release_dir.is_built(plan.folder):
        raise SluiceError(f"{plan.folder} is not built.", "Run the slot's prepared state first.")
    begun = time.monotonic()
    launch(host, plan)
    count, passes, took = sum(service.instances for service in host.web), host.params["passes"], time.monotonic() - begun
    host.gates.append(Gate("health", PASS, f"{plan.version} healthy in {plan.slot}: {count} processes, {passes} good answers in a row, after {took:.1f} s"))
    remember(host, plan, smoked=True)
    return True


def alone(host: Host, check: bool) -> bool:
    """Put one slot in the other's place; the other is started again when that fails."""
    if check:
        return exchanged(host, check)
    # The module of a run that was killed may still be at it: it comes to its end first, and goes back to nothing.
    make_folder(host.directory)
    with locked(os.path.join(host.directory, ".exchange.lock"), host.params["deadline"] + host.params["drain_timeout"]):
        host.claim()
        return exchanged(host, check)


def exchanged(host: Host, check: bool) -> bool:
    slot, there = host.slot, slots.other(host.slot)
    held = {name: release_dir.record(host.directory, name) for name in slots.SLOTS}
    env = host.environment()
    plan = host.plan(slot, env) if host.params["version"] else host.remembered(slot, held[slot], env)
    plan = replace(plan, role="live")
    known = host.runtime.of(there, host.services)
    rests = not any(process.running for process in known)
    wanted = entry(plan)
    if not host.params["version"]:
        del wanted["env"]  # the way back starts nothing anew because somebody changed the environment since
    if not known and runs(host, plan, wanted, held[slot]):
        host.actions.append(f"{slot} runs {plan.version} already, alone, and is healthy")
        return False
    host.actions.append(f"{plan.version} runs in {slot} now" + ("" if rests else f", in place of {held[there].get('version', 'nothing')} in {there}"))
    if check:
        return True
    if not release_dir.is_built(plan.folder):
        raise SluiceError(f"{plan.folder} is not built. Nothing was stopped.", "Run the slot's prepared state first.")
    begun = time.monotonic()
    if not rests:
        settle(host, there)
    if known:
        host.runtime.stop(there, host.services)
    if host.workers:
        host.runtime.stop(slot, host.workers)
    ended = time.monotonic()
    try:
        launch(host, plan)
        remember(host, plan, smoked=bool(host.params["version"]))
    except SluiceError as error:
        if rests or not held[there]:
            raise
        host.claim()
        raise SluiceError(f"{error.message} {again(host, there, held[there], env)}", "Correct the version and release again.", **error.facts) from error
    count, took = sum(service.instances for service in host.web), time.monotonic() - ended
    stop = "" if rests else f"; {there} ended in {ended - begun:.1f} s"
    host.gates.append(Gate("health", PASS, f"{plan.version} healthy in {slot}: {count} processes, started in {took:.1f} s{stop}"))
    return True


def stopped(host: Host, check: bool) -> bool:
    processes = host.runtime.of(host.slot, host.services)
    known = bool(release_dir.record(host.directory, host.slot))
    if not check:
        if any(process.running for process in processes):
            drain(host, host.slot)
        host.runtime.stop(host.slot, host.services)
        release_dir.forget(host.directory, host.slot)
    if processes or known:
        host.actions.append(f"stopped {host.slot}")
    return bool(processes or known)


def launch(host: Host, plan: Plan) -> None:
    """Start the services of a slot afresh and wait until they are healthy; end them again when they are not."""
    slot, runtime = plan.slot, host.runtime
    if host.running(slot, plan.services):
        drain(host, slot)
    runtime.stop(slot, plan.services)
    free(host, slot)
    wanted = sum(service.instances for service in plan.services)
    try:
        runtime.start(plan)
        probes.wait_healthy(
            host.targets(slot, plan.version),
            passes=host.params["passes"],
            deadline=host.params["deadline"],
            interval=0.1,
            timeout=2.0,
            given_up=lambda: runtime.probe(slot, plan.services),
        )
        online = host.running(slot, plan.services, again=True)
        restarts = sum(process.restarts for process in runtime.of(slot, plan.services))
        if online != wanted or restarts:
            raise SluiceError(f"{online} of {wanted} processes of {slot} are online, after {restarts} restarts.")
    except SluiceError as error:
        # What ended may run again by now: what was seen of it last counts as well.
        seen = [*runtime.of(slot, plan.services), *runtime.of(slot, plan.services, again=True)]
        exits = sorted({process.exit_code for process in seen if process.exit_code})
        said = scrub(runtime.logs(slot), plan.env.values()).strip()
        listening = sockets.listening()
        silent = [str(service.ports[slot]) for service in plan.services if service.ports[slot] not in listening]
        runtime.stop(slot, plan.services)
        code = f" Exit code {exits[0]}." if exits else ""
        deaf = f" Nothing listens on port {', '.join(silent)}." if silent else ""
        heard = f" It last said:\n{said}" if said else " It said nothing on stderr."
        raise SluiceError(
            f"{plan.version} did not become healthy in {slot}: {error.message}{deaf}{code}{heard}",
            "Nothing was switched; the processes were ended.",
            log=said,
            exit_codes=exits,
            listening=sorted(listening),
            answers=error.facts.get("answers", {}),
        ) from error


def runs(host: Host, plan: Plan, wanted: Mapping[str, str], held: Mapping[str, Any]) -> bool:
    """Tell whether a slot runs a plan already: its record says what is wanted, every process is there, and it answers."""
    if {key: held.get(key) for key in wanted} != wanted:
        return False
    whole = host.running(plan.slot, host.web) == sum(service.instances for service in host.web)
    return whole and host.answers(plan.slot, plan.version)


def entry(plan: Plan) -> dict[str, str]:
    """Return what a slot's record says of a plan; two that are the same need no second start."""
    named = {"version": plan.version, "commit": plan.commit, "folder": plan.folder, "env": digest(dict(plan.env))[:16]}
    return {**named, **({"image": plan.image} if plan.image else {})}


def remember(host: Host, plan: Plan, smoked: bool) -> None:
    """Write down that a plan was started, once it passes its smoke requests; end it when it does not."""
    try:
        if smoked:
            send_smoke(host, plan.slot, smoke.SLOT, plan.folder)
    except SluiceError:
        host.runtime.stop(plan.slot, plan.services)
        raise
    prints = dict(take(plan.env, env_file.fingerprint_key(host.directory)).of)
    release_dir.write_record(host.directory, plan.slot, {**entry(plan), "release": plan.release, "fingerprints": prints})


def again(host: Host, slot: str, held: Mapping[str, Any], env: Mapping[str, str]) -> str:
    """Start the slot that was ended for another one, and say how that went."""
    plan = replace(host.remembered(slot, held, env), role="live")
    try:
        launch(host, plan)
        remember(host, plan, smoked=False)
    except SluiceError as error:
        return f"{plan.version} could not be started again in {slot} either, so nothing serves: {error.message}"
    host.actions.append(f"{plan.version} runs in {slot} again")
    return f"{plan.version} runs in {slot} again."


def send_smoke(host: Host, slot: str, place: str, folder: str) -> None:
    base = host.url(slot, host.web[0])
    left_out = smoke.left_out(host.smoke, place, host.params["smoke_tenant"])
    cases = probes.smoke(base, host.smoke, left_out, timeout=5.0, values=host.values, cwd=folder)
    failure = smoke.failure(cases, base)
    if failure:
        raise failure
    count = len(cases) - len(left_out)
    host.gates.append(Gate("smoke", PASS, smoke.sentence(cases, slot), value=count, limit=count))


def free(host: Host, slot: str) -> None:
    """See that nobody else holds the slot's ports: a probe would take a stranger's answer for the app's (M-020)."""
    ports, began = {service.ports[slot] for service in host.web}, time.monotonic()
    while ports & sockets.listening():
        if time.monotonic() - began > _PORT_SECONDS:
            taken = ", ".join(map(str, sorted(ports & sockets.listening())))
            raise SluiceError(
                f"Port {taken} of {slot} is held by a process that is not the app's.",
                f"See whose it is (`ss -ltnp`) and end it, or give {slot} another port in app_services.",
            )
        time.sleep(0.05)


def drain(host: Host, slot: str) -> None:
    """Wait until nothing is connected to the slot's ports; nginx itself keeps an idle connection for some seconds."""
    began = time.monotonic()
    ended = _outlast(host, slot, "connections", served_on, pause=0.1)
    if ended:
        host.actions.append(f"{slot} drained {ended} connections in {time.monotonic() - began:.1f} s")


def settle(host: Host, slot: str) -> None:
    """Wait until the slot owes nobody an answer; the site is closed, so nothing new comes but probes."""
    _outlast(host, slot, "requests", busy_on, pause=0.05)


def _outlast(host: Host, slot: str, what: str, count: Callable[[Collection[int]], int], pause: float) -> int:
    """Wait until a count of the slot's ports is 0; return how many there were, or 0 when some were cut."""
    ports, began = {service.ports[slot] for service in host.web}, time.monotonic()
    at_first = left = count(ports)
    while left and time.monotonic() - began < host.params["drain_timeout"]:
        time.sleep(pause)
        left = count(ports)
    if left:
        host.actions.append(f"{slot} was ended after {host.params['drain_timeout']:g} s; {left} of {at_first} {what} were cut")
    return 0 if left else at_first
