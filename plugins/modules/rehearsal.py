#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rehearsal of the migrations, on a copy of the restored backup beside the real database."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rehearsal
short_description: Run the pending migrations on a copy, up, down and up again, and say what they will do to the real database
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Lints the SQL of what is pending (squawk, and the classes expand, contract, data, irreversible), copies the database that M(sluice.deploy.drill)
    restored and proved, and runs the migrations there. Nothing is restored a second time, and the real database is only read.
  - Each step's time, its locks, the growth and the rewritten tables are told. Then everything is taken back and schema and rows are compared with
    before, and it is run once more. That is how RV(reversible) is known.
  - The copy stays, migrated, so that the live and the new version can be tried on it, until O(state=absent). When the rehearsal fails, it is dropped.
  - The copy carries a comment that marks it. A database of that name without the mark is left alone and the module fails.
attributes:
  check_mode:
    description: Lints and lists the pending migrations; makes and drops nothing.
    support: full
  diff_mode:
    description: Shows the migrations that the copy gets.
    support: full
extends_documentation_fragment:
  - sluice.deploy.database
  - sluice.deploy.migrator
options:
  state:
    description: Whether the copy is to be there, made anew and migrated, or not.
    type: str
    choices: [present, absent]
    default: present
  database:
    description: Name of the copy. Without it, the real database's name with C(_rehearsal) behind it.
    type: str
  restored:
    description: Name of the database that the drill restored. Without it, the real database's name with C(_restored) behind it.
    type: str
  lint:
    description:
      - V(required) stops on what squawk finds, and when squawk or the SQL of a migration is missing. V(advisory) tells it. V(off) does not call squawk.
      - squawk reads its own settings from C(.squawk.toml) in O(directory).
    type: str
    choices: [required, advisory, 'off']
    default: advisory
  floor_moves:
    description:
      - A contract step (drop, rename, type change, NOT NULL) is refused, because the live version serves on the migrated schema during the canary and
        after a rollback. With V(true) it is let pass, knowing that no version before this one may be returned to.
    type: bool
    default: false
  limit_s:
    description: Seconds the migrations may be expected to take on the real database.
    type: float
    default: 1800
"""

EXAMPLES = r"""
- name: Rehearse the migrations on a copy
  sluice.deploy.rehearsal:
    app: wallet
    env_file: /etc/wallet/production.env
    directory: /srv/wallet/releases/v1.0.0/migrations

- name: Drop the copy
  sluice.deploy.rehearsal:
    app: wallet
    env_file: /etc/wallet/production.env
    state: absent
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
database:
  description: Name of the copy.
  returned: success
  type: str
pending:
  description: Migrations that ran on the copy, each with name, seconds, and locks (table, mode, seconds for which it was seen).
  returned: success
  type: list
  elements: dict
impact:
  description: What they did to the copy, as C(growth) in bytes and C(rewritten), the tables that were written anew.
  returned: when O(state=present), not in check mode
  type: dict
reversible:
  description: How the release's migrations can be taken back. C(down) is proven, C(restore) is the backup, C(none) means that nothing is pending.
  returned: when O(state=present), not in check mode
  type: str
rehearsal:
  description:
    - What the ledger keeps and M(sluice.deploy.migrate) is given as O(sluice.deploy.migrate#module:expected). C(heads) are the newest migrations now.
      C(before) and C(fingerprint) are the real database's schema now and as it must be afterwards, C(seconds) what the migrations will take,
      C(classes) what they are, C(reversible) as above, and C(floor_moves) whether a contract step was let pass.
  returned: when O(state=present), not in check mode
  type: dict
"""

import os
import sys
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import migrators, pg_copy, pg_facts, pg_guards, pg_schema, postgres
from ansible_collections.sluice.deploy.plugins.module_utils.core import backups, migration_lint, rehearsals
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.facts import Schema
from ansible_collections.sluice.deploy.plugins.module_utils.core.migrators import SQL_TOOLS
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import PASS, WAIVED, Gate
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words


def present(params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Lint what is due, copy the restored database, and rehearse there."""
    migrators.check_parameters(params)
    url = postgres.read_url(params["env_file"], params["env_var"])
    name = backups.rehearsal_name(url.database, params["database"])
    source = backups.restored_name(url.database, params["restored"])
    with postgres.at_work("rehearsal", url, params, check, copy=name) as (clients, session, deadline):
        pg_guards.check_lock_timeout(session, params["lock_timeout_ms"])
        migrator = migrators.open_migrator(params, session, clients, deadline, note)
        due = migrator.pending()
        steps, gates = lint(params, migrator, due, pg_facts.server(session)["major"], clients.folder)
        backups.refuse_failed(gates, "The migrations were not rehearsed")
        result = {"changed": True, "database": name, "diff": {"before": "", "after": "".join(f"{each}\n" for each in due)}}
        backups.check_marker(name, pg_copy.database_comment(session, name))
        if check:
            actions = [f"would copy {source} to {name} and run {len(due)} migrations there"]
            return {**result, "actions": actions, "gates": [gate.as_dict() for gate in gates], "pending": [{"name": each} for each in due]}
        pg_copy.check_may_create(session)
        backups.check_proven(source, pg_copy.database_comment(session, source), params["app"])
        live = pg_schema.schema_fingerprint(session)
        actions = [f"dropped {name}, left by an earlier rehearsal"] if pg_copy.drop_copy(session, name) else []
        try:
            make(params, session, source, name)
            with clients.session(deadline, postgres.COPY) as copy:
                found = rehearse(params, clients, copy, deadline, name, live, pg_facts.database_bytes(session))
            if found.pop("spoilt"):
                make(params, session, source, name)
                with clients.session(deadline, postgres.COPY) as copy:
                    go(clients, copy, deadline, migrators.open_migrator(params, copy, clients, deadline, note, copy=name).up(postgres.COPY))
            judged = [*gates, *found.pop("gates")]
            backups.refuse_failed(judged, "The rehearsal was not passed")
        except BaseException:
            # What is left of a failed rehearsal proves nothing and takes the server's room.
            session.grant(30)
            pg_copy.drop_copy(session, name)
            raise
    found["rehearsal"].update(
        classes=migration_lint.classes_of(steps), floor_moves=any(gate.verdict == WAIVED for gate in judged), reversible=found["reversible"]
    )
    actions += [f"copied {source} to {name}", f"ran {len(found['pending'])} steps on {name}"]
    return {**result, **found, "actions": actions, "gates": [gate.as_dict() for gate in judged]}


def make(params: Mapping[str, Any], session: postgres.Session, source: str, name: str) -> None:
    """Make the copy anew, with the timeouts that any tool is to have there."""
    pg_copy.drop_copy(session, name)
    pg_copy.copy_database(session, source, name, backups.marker(params["app"], params["release_id"] or "no release"))
    pg_copy.copy_settings(session, name)
    if params["tool"] not in SQL_TOOLS:
        pg_guards.set_guards(session, name, params["lock_timeout_ms"], params["statement_timeout_s"])


def go(clients: postgres.Clients, copy: postgres.Session, deadline: postgres.Deadline, steps: list[pg_guards.Step]) -> list[dict[str, Any]]:
    """Run steps on the copy, where nobody else is."""
    return [pg_guards.run_step(step, copy, clients, pg_guards.Rules(1), deadline, lambda: None) for step in steps]


def lint(
    params: Mapping[str, Any], migrator: migrators.Migrator, due: list[str], major: int, folder: str
) -> tuple[tuple[migration_lint.Step, ...], list[Gate]]:
    """Return the classes of what is due, and the gates over them and over what squawk says."""
    sql = migrator.sql(due)
    created: set[str] = set()
    steps = tuple(step for name, text in sql.items() for step in migration_lint.classify(name, text, created))
    unread = [name for name in due if name not in sql]
    gates = [migration_lint.judge_classes(steps, unread, params["floor_moves"], params["lint"])]
    if params["lint"] != "off" and sql:
        gates.append(migration_lint.judge_squawk(migrators.squawk(sql, major, params, folder), len(sql), params["lint"]))
    return steps, gates


def rehearse(
    params: Mapping[str, Any],
    clients: postgres.Clients,
    copy: postgres.Session,
    deadline: postgres.Deadline,
    name: str,
    live: Schema,
    live_bytes: int,
) -> dict[str, Any]:
    """Migrate the copy, take it back, migrate it again, and say what that proves."""
    migrator = migrators.open_migrator(params, copy, clients, deadline, note, copy=name)
    heads, due = migrator.current(), migrator.pending()
    if due:
        migrator.prepare()
    before, rows = pg_schema.schema_fingerprint(copy), pg_facts.table_facts(copy, sys.maxsize)
    invalid, size, files = set(pg_facts.invalid_indexes(copy)), pg_facts.database_bytes(copy), pg_facts.table_files(copy)

    done = go(clients, copy, deadline, migrator.up(postgres.COPY, True))
    after, now = pg_schema.schema_fingerprint(copy), pg_facts.table_files(copy)
    broken = sorted(set(pg_facts.invalid_indexes(copy)) - invalid)
    if broken:
        raise SluiceError(f"The migrations left invalid indexes on the copy: {', '.join(broken)}.", "Correct the migration.", left=broken)
    rewritten, growth = sorted(each for each in files if each in now and files[each] != now[each]), pg_facts.database_bytes(copy) - size
    problem, back, schema_same, differ, again = "", [], False, [], False
    try:
        back = migrator.down(heads, postgres.COPY) if due else []
        go(clients, copy, deadline, back)
        if due:
            returned = pg_schema.schema_fingerprint(copy)
            schema_same, differ = returned.sha256 == before.sha256, rehearsals.rows_differ(rows, pg_facts.table_facts(copy, sys.maxsize))
            if schema_same and not differ:
                go(clients, copy, deadline, migrator.up(postgres.COPY))
                again = pg_schema.schema_fingerprint(copy).sha256 == after.sha256
    except SluiceError as error:
        problem = error.message
    drops = [step.words for each, text in migrator.drops(due).items() for step in migration_lint.classify(each, text) if "irreversible" in step.classes]
    reversible, why = rehearsals.reversible(due, problem, schema_same, differ, again, drops)
    seconds = rehearsals.forecast(done, live_bytes, size)
    total = round(sum(entry["seconds"] for entry in done), 3)
    locks = [lock for entry in done for lock in entry["locks"]]
    gates = [
        Gate("rehearsal", PASS, f"{len(due)} pending migrations ran on the copy in {total:.2f} s.", value=total, sample=len(due)),
        migration_lint.judge_columns(migration_lint.columns_lost(migration_lint.columns(before), migration_lint.columns(after)), params["floor_moves"]),
        rehearsals.judge_duration(done, seconds, params["limit_s"]),
        rehearsals.judge_impact(locks, rewritten, growth),
        Gate("reversible", PASS, why, value=reversible),
    ]
    expected = rehearsals.expected_schema(live, before, after) if due else live
    return {
        "gates": gates,
        # What went half the way back is no copy of what the real database will be.
        "spoilt": bool(back) and not again,
        "pending": [{key: entry[key] for key in ("name", "seconds", "locks")} for entry in done],
        "impact": {"growth": growth, "rewritten": rewritten},
        "reversible": reversible,
        "rehearsal": {"heads": heads, "before": live.sha256, "fingerprint": expected.sha256, "seconds": seconds},
    }


def note(pid: int) -> None:
    """Keep no note of a tool on a copy: whoever drops the copy ends it."""


def absent(params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Drop the copy."""
    url = postgres.read_url(params["env_file"], params["env_var"])
    name = backups.rehearsal_name(url.database, params["database"])
    with postgres.at_work("rehearsal", url, params, check) as (_clients, session, _deadline):
        comment = pg_copy.database_comment(session, name)
        backups.check_marker(name, comment)
        if comment is not None and not check:
            pg_copy.drop_copy(session, name)
    gone = comment is not None
    return {
        "changed": gone,
        "actions": [f"{'would drop' if check else 'dropped'} {name}"] if gone else [],
        "gates": [],
        "database": name,
        "diff": {"before": f"{name}\n" if gone else "", "after": ""},
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec=postgres.argument_spec(
            **migrators.argument_spec(
                state={"type": "str", "choices": ["present", "absent"], "default": "present"},
                database={"type": "str"},
                restored={"type": "str"},
                lint={"type": "str", "choices": list(migration_lint.LINT_MODES), "default": "advisory"},
                floor_moves={"type": "bool", "default": False},
                limit_s={"type": "float", "default": 1800.0},
            )
        ),
        required_by={"fence": ["state_dir"]},
        required_if=[("state", "present", ["directory"])],
        supports_check_mode=True,
    )
    os.umask(0o077)
    with in_words(module):
        result = {"present": present, "absent": absent}[module.params["state"]](module.params, module.check_mode)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
