# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A version against the migrated copy of the database, before anything real is migrated."""

from __future__ import annotations

from dataclasses import replace

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import release_dir
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.slot_host import Host
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.slot_processes import launch, send_smoke
from ansible_collections.sluice.deploy.plugins.module_utils.core import pgurl, slots, smoke
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.slots import Plan
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import PASS, WAIVED, Gate


def rehearsed(host: Host, check: bool) -> bool:
    live = release_dir.record(host.directory, host.slot)
    if not live:
        raise SluiceError(f"{host.slot} holds no version that could be rehearsed.", "Start the live version with the collection once.")
    if check:
        return False
    before = "A rollback would break it, so nothing real was migrated. Split the migration: add first, remove in a later release."
    env = host.environment()
    env[host.params["env_var"]] = pgurl.with_database(env[host.params["env_var"]], host.params["database"])
    single = [replace(service, instances=1) for service in host.web]
    if any(slots.REHEARSAL not in service.ports for service in single):
        said = "there is no port for the rehearsal, so neither version was started on the migrated copy; nothing proves that the live one works on it"
        host.gates.append(Gate("compatibility", WAIVED, said))
        return False
    new = replace(host.plan(slots.REHEARSAL, env), services=single) if host.params["version"] and host.params["commit"] else None
    old = replace(host.remembered(slots.REHEARSAL, live, env), services=single, release=host.params["release"], role="rehearsal")
    host.gates.append(rehearse(host, "compatibility", f"The live version {old.version}", old, before))
    if new and new.folder != old.folder and release_dir.is_built(new.folder):
        host.gates.append(rehearse(host, "new version", f"The new version {new.version}", new, "Nothing real was migrated. Correct version or migration."))
    return False


def rehearse(host: Host, gate: str, what: str, plan: Plan, remedy: str) -> Gate:
    """Start a version against the migrated copy, one process a service, send it everything, and end it."""
    try:
        launch(host, plan)
        send_smoke(host, plan.slot, smoke.COPY, plan.folder)
    except SluiceError as error:
        raise SluiceError(f"{what} does not work on the migrated copy: {error.message}", remedy, **error.facts) from error
    finally:
        host.runtime.stop(plan.slot, plan.services)
    sent = host.gates.pop().value
    return Gate(gate, PASS, f"{plan.version} works on the migrated copy: healthy, {sent} smoke requests good, writes included")
