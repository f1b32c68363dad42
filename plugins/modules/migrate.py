#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pending migrations, on the real database, under one lock."""

from __future__ import annotations

DOCUMENTATION = r"""
module: migrate
short_description: Run the pending migrations of any tool, or take them back, without holding up the app
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Runs what the tool says is pending, in order, under one advisory lock that excludes backup, rehearsal and rollback. A SQL file and its version row
    are one transaction, so a file is applied as a whole or not at all. A file whose first line is C(-- sluice; no-transaction), with a colon for the
    semicolon, holds one statement, such as C(CREATE INDEX CONCURRENTLY), and runs outside of one.
  - Applied files that were edited or are missing, numbers that are there twice, gaps between them, and several heads are refused before anything runs.
  - A lock that is not granted within O(lock_timeout_ms) is tried again once it is proven that nothing was applied, so that the app's own queries never
    queue behind a migration for longer. When it gives up, the message names who held the lock.
  - While a migration runs, who waits behind it is watched; after O(max_blocked) seconds it is ended.
attributes:
  check_mode:
    description: Lists the pending migrations, takes no lock and changes nothing.
    support: full
  diff_mode:
    description: Shows the applied migrations before and after.
    support: full
extends_documentation_fragment:
  - sluice.deploy.database
  - sluice.deploy.migrator
options:
  retries:
    description: How often a migration is tried again after a lock was not granted.
    type: int
    default: 5
  max_blocked:
    description: Seconds others may wait for a lock that a migration holds; then it is stopped. 0 is no limit.
    type: float
    default: 5
  rehearsal:
    description: Name of the rehearsal database that is dropped when all is done.
    type: str
  expected:
    description:
      - What M(sluice.deploy.rehearsal) returned as RV(sluice.deploy.rehearsal#module:rehearsal), with C(heads), C(before), C(fingerprint) and C(seconds).
        A real database that has another schema than at the rehearsal is not migrated, one that ends with another one fails, and a run
        that takes more than five times as long warns.
    type: dict
  down_to:
    description: Take migrations back, the newest first, until these are the newest (RV(before) of the run to be undone). An empty list takes all back.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Migrate the database
  sluice.deploy.migrate:
    app: wallet
    env_file: /etc/wallet/production.env
    directory: /srv/wallet/releases/v1.0.0/migrations
    release_id: "{{ release_id }}"
    rehearsal: wallet_rehearsal

- name: Migrate by Alembic
  sluice.deploy.migrate:
    app: wallet
    env_file: /etc/wallet/production.env
    directory: /srv/wallet/releases/v1.0.0
    state_dir: /srv/wallet
    tool: alembic
    commands: {program: [.venv/bin/alembic]}
"""

RETURN = r"""
actions:
  description: What was done, in sentences.
  returned: always
  type: list
  elements: str
gates:
  description: What was judged, each with name, verdict, sentence, value and limit.
  returned: always
  type: list
  elements: dict
before:
  description: Newest migrations before. One for most tools, one for each app for Django.
  returned: success
  type: list
  elements: str
applied:
  description: Migrations that ran (or were taken back), each with name, seconds and attempts.
  returned: always
  type: list
  elements: dict
after:
  description: Newest migrations after.
  returned: success
  type: list
  elements: str
pending:
  description: Migrations that are still due.
  returned: success
  type: list
  elements: str
"""

import os
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import migrators, pg_copy, pg_facts, pg_guards, pg_schema, postgres
from ansible_collections.sluice.deploy.plugins.module_utils.core import backups, rehearsals
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.migrators import SQL_TOOLS
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import PASS, Gate
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words


def run(params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Run what is due, or take back what is to go."""
    migrators.check_parameters(params)
    url = postgres.read_url(params["env_file"], params["env_var"])
    copy = backups.rehearsal_name(url.database, params["rehearsal"]) if params["rehearsal"] else None
    expected: Mapping[str, Any] = params["expected"] or {}
    with postgres.at_work("migrate", url, params, check) as (clients, session, deadline):
        guards = pg_guards.Guards(session, params["state_dir"] or "", params["app"], url.database)
        actions = ["undid what a cut run had left"] if not check and guards.repair() else []
        pg_guards.check_lock_timeout(session, params["lock_timeout_ms"])
        migrator = migrators.open_migrator(params, session, clients, deadline, guards.tool)
        before, due = migrator.current(), migrator.pending()
        back = params["down_to"] is not None
        steps = migrator.down(params["down_to"]) if back else migrator.up()
        names = [step.name for step in steps]
        result: dict[str, Any] = {"changed": bool(steps), "before": before, "applied": [], "after": before, "pending": due}
        result["diff"] = {"before": _lines(before), "after": _lines(params["down_to"] if back else (*before, *due))}
        if check:
            verb = "would be taken back" if back else "are due"
            return {**result, "actions": actions, "gates": [Gate("migrate", PASS, f"{len(steps)} migrations {verb}.", value=0).as_dict()]}
        gates = []
        # A cut run may have applied some of them already; then only the end can be compared.
        if steps and before == expected.get("heads"):
            gates.append(rehearsals.judge_before(expected["before"], pg_schema.schema_fingerprint(session).sha256))
            backups.refuse_failed(gates, "Nothing was migrated")
        with nullcontext() if params["tool"] in SQL_TOOLS or not steps else guards.set(params["lock_timeout_ms"], params["statement_timeout_s"]):
            done = apply(params, clients, session, deadline, steps)
        result.update(applied=[{key: entry[key] for key in ("name", "seconds", "attempts")} for entry in done])
        seconds = round(sum(entry["seconds"] for entry in done), 3)
        result.update(after=migrator.current(), pending=migrator.pending())
        gates.append(Gate("migrate", PASS, sentence(names, back, result["pending"]), value=len(done)))
        if expected.get("fingerprint") and not back:
            gates.append(rehearsals.judge_fingerprint(expected["fingerprint"], pg_schema.schema_fingerprint(session).sha256))
            try:
                backups.refuse_failed(gates, "The migrations ran, and are not what was rehearsed")
            except SluiceError as error:
                raise SluiceError(error.message, error.remedy, **{**error.facts, "applied": result["applied"], "after": result["after"]}) from error
        slow = rehearsals.slower(float(expected["seconds"]), seconds) if done and "seconds" in expected else ""
        dropped = bool(copy) and pg_copy.drop_copy(session, str(copy))
    actions += [f"{'took back' if back else 'applied'} {entry['name']} in {entry['seconds']:.2f} s" for entry in done] + (
        [f"dropped {copy}"] if dropped else []
    )
    result["changed"] = bool(actions)
    return {**result, "actions": actions, "gates": [gate.as_dict() for gate in gates], "warnings": [slow] if slow else []}


def apply(
    params: Mapping[str, Any], clients: postgres.Clients, session: postgres.Session, deadline: postgres.Deadline, steps: list[pg_guards.Step]
) -> list[dict[str, Any]]:
    """Run the steps, the lock looked after before each; a failure names what was done before it."""
    rules = pg_guards.Rules(params["retries"], params["max_blocked"])
    invalid = set(pg_facts.invalid_indexes(session)) if steps else set()
    done: list[dict[str, Any]] = []
    try:
        for step in steps:
            done.append(pg_guards.run_step(step, session, clients, rules, deadline, lambda: pg_guards.check_lock(session, params["app"], clients.url.database)))
            broken = sorted(set(pg_facts.invalid_indexes(session)) - invalid)
            if broken:
                raise SluiceError(f"{step.name} ran and left invalid indexes: {', '.join(broken)}.", "Drop them and build them anew.", left=broken)
    except SluiceError as error:
        names = ", ".join(entry["name"] for entry in done)
        message = error.message + (f" Applied before it: {names}." if done else "")
        raise SluiceError(message, error.remedy, **{**error.facts, "applied": done}) from error
    return done


def sentence(names: list[str], back: bool, still: list[str]) -> str:
    """Return the outcome in words."""
    if back:
        return f"{len(names)} migrations taken back."
    if still:
        return f"{len(names)} migrations applied, {len(still)} are due."
    return f"{len(names)} migrations applied, none is due." if names else "No migration was due."


def _lines(names: Any) -> str:
    return "".join(f"{name}\n" for name in names)


def main() -> None:
    module = AnsibleModule(
        argument_spec=postgres.argument_spec(
            **migrators.argument_spec(
                retries={"type": "int", "default": 5},
                max_blocked={"type": "float", "default": 5.0},
                rehearsal={"type": "str"},
                expected={"type": "dict"},
                down_to={"type": "list", "elements": "str"},
            )
        ),
        required_by={"fence": ["state_dir"]},
        supports_check_mode=True,
    )
    os.umask(0o077)
    with in_words(module):
        result = run(module.params, module.check_mode)
    for warning in result.pop("warnings", []):
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
