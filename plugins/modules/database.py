#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of a database, and the health of its server, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database
short_description: Check a database and the health of its server
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Runs O(checks), all of them, each in a read-only savepoint with a time limit of its own, and returns everything that was found, what stops first.
  - A check that cannot run, for want of a right, of a table or of time, is an error and never a pass.
  - With O(health) it looks at connections, sessions, locks and counters, twice where a number only grows, and at PgBouncer's pools.
attributes:
  check_mode:
    description: Only reads, so check mode is the same; O(state) is not written then.
    support: full
  diff_mode:
    description: Shows by what the schema differs from O(schema).
    support: full
options:
  env_file:
    description: File with the app's variables, mode 0600. Passwords are read from it, and never given as parameters.
    type: path
    required: true
  env_var:
    description: Variable that holds the URL of the database, over a direct connection.
    type: str
    default: DATABASE_URL
  app:
    description: Name of the app, shown by the server as part of the application name.
    type: str
    required: true
  client_directory:
    description: Folder of psql. Searched in the path when it is not given.
    type: path
  timeout:
    description: Seconds for everything together.
    type: int
    default: 300
  statement_timeout:
    description: Seconds for each query.
    type: float
    default: 30.0
  checks:
    description:
      - Checks as data, each with C(id), C(severity), C(sql) and C(sentence), and optionally C(group), C(expect), C(generates), C(remedy) and C(row).
      - C(severity) is V(critical), which always stops; V(error), which stops unless it was there before; V(warning) or V(hint), which never stop.
      - C(sql) is one SELECT. Each row is a finding, with C(object) and optionally C(detail), C(value) and C(unknown), why nobody can tell.
      - With C(expect), a value or a mapping with C(min) and C(max), it returns one value instead. NULL and no row are errors then.
      - With C(generates=true) it returns C(object) and C(sql), and each of these queries returns one number that must be 0.
    type: list
    elements: dict
    default: []
  expect:
    description: What must be there, as C(tables), C(functions), C(indexes), C(references) and C(not_negative). See the page of the database.
    type: dict
    default: {}
  settings:
    description: Limits that the queries of O(checks) read, such as C(sequence_share) and C(exposed_schemas).
    type: dict
    default: {}
  accept:
    description: What may be as it is, each with C(check), C(reason) and optionally C(object).
    type: list
    elements: dict
    default: []
  when:
    description:
      - Where the release is. V(before) a migration only critical findings stop, and RV(baseline) tells what was there.
      - V(after) it, what is not in O(baseline) stops as well. V(now) is for a look that belongs to no migration.
    type: str
    choices: [now, before, after]
    default: now
  baseline:
    description: The RV(baseline) of the look before the migration.
    type: dict
    default: {}
  manifest:
    description: Path of a backup's manifest, whose rows of each table are compared with what is there now.
    type: path
  row_changes:
    description:
      - By how many rows a table may have changed since O(manifest), a number or a mapping with C(min) and C(max).
      - V(*) stands for every table that is not named, and without it such a table may not change.
    type: dict
    default: {}
  schema:
    description: Paths of two texts that describe a schema, C(wanted) and C(found), which must be equal.
    type: dict
    default: {}
  health:
    description: Look at the health of the server too.
    type: bool
    default: false
  limits:
    description: Limits of the health, such as C(query_seconds); V(null) is no limit.
    type: dict
    default: {}
  pools:
    description: The app's pools, each with C(name), C(size), and optionally C(instances) (1) and C(slots) (2 slots run during a release).
    type: list
    elements: dict
    default: []
  sample_seconds:
    description: Seconds between the two looks at counters. Above 0.
    type: float
    default: 2.0
  state:
    description:
      - File in which the counters are kept for the next call, so that growth is told. Only a reading of its own, which is not counted as a change.
      - Empty or not given to keep none.
    type: path
  pgbouncer_var:
    description: Variable of O(env_file) with the URL of PgBouncer's console, as one of its stats_users. Empty when there is none.
    type: str
    default: ''
"""

EXAMPLES = r"""
- name: Check the database before the migration
  sluice.deploy.database:
    app: wallet
    env_file: /etc/wallet/production.env
    when: before
    expect:
      not_negative:
        - {table: public.wallet, column: balance}
    checks:
      - id: admins
        severity: error
        sql: SELECT count(*) FROM users WHERE admin
        expect: {min: 1, max: 5}
        sentence: There are too few or too many admins.
  register: before

- name: Look at the server
  sluice.deploy.database:
    app: wallet
    env_file: /etc/wallet/production.env
    health: true
    pools:
      - {name: web, size: 10, instances: 2}
"""

RETURN = r"""
gates:
  description: What stops, each with name, verdict, sentence and remedy, and one gate for all of a group that found nothing.
  returned: success
  type: list
  elements: dict
say:
  description: Warnings and suggestions, in sentences; they stop nothing.
  returned: success
  type: list
  elements: str
checks:
  description: Every check with id, group, severity, verdict, sentence, whether it stops, its rule, and its findings.
  returned: success
  type: list
  elements: dict
baseline:
  description: What was found, to be handed in as O(baseline) after the migration.
  returned: success
  type: dict
  sample: {invalid-index: {public.entry_account_idx: null}}
health:
  description: Connections, sessions, who blocks whom, counters and by how much they grew, statements, and PgBouncer's pools.
  returned: when O(health) is set
  type: dict
actions:
  description: Always empty, because nothing is changed.
  returned: success
  type: list
  elements: str
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import pg_facts, pg_health, pgbouncer_stats, postgres
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import make_folder, read_text, write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.core import database_checks, database_expect, database_health, database_input
from ansible_collections.sluice.deploy.plugins.module_utils.core.database_checks import Outcome
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words


class Asked:
    """What the module was asked for, read before anything is connected to."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.settings = database_input.settings_from(params["settings"])
        self.checks = [*database_input.checks_from(params["checks"]), *database_expect.checks_of(params["expect"])]
        names = [check.id for check in self.checks]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SluiceError(f"checks: the id {twice[0]} is there twice.", "Each check needs its own; those of expect have theirs.")
        known = [*names, database_expect.ROW_COUNT.id, database_expect.SCHEMA_DIFF.id]
        self.accepted = database_input.accepted_from(params["accept"], known)
        self.limits = database_health.limits_from(params["limits"])
        self.pools = database_health.pools_from(params["pools"])
        self.allowed = database_expect.allowed_from(params["row_changes"])
        self.rows = rows_of(params["manifest"]) if params["manifest"] else None
        self.texts = [text_of(params["schema"], key) for key in ("wanted", "found")] if params["schema"] else None
        if params["sample_seconds"] <= 0:
            raise SluiceError(f"sample_seconds is {params['sample_seconds']:g}; allowed is a number above 0.", "Example: 2")


def rows_of(path: str) -> dict[str, int]:
    text = read_text(path)
    try:
        return {str(name): int(rows) for name, rows in json.loads(text or "")["tables"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = "is not there" if text is None else "is no manifest of a backup"
        raise SluiceError(f"{path} {what}.", "Give the manifest.json of a backup of this collection.", path=path) from error


def text_of(paths: Mapping[str, Any], key: str) -> str:
    if set(paths) != {"wanted", "found"}:
        raise SluiceError(f"schema has {', '.join(sorted(map(str, paths)))}; allowed are wanted and found, both.", "Example: {wanted: /a.txt, found: /b.txt}")
    text = read_text(str(paths[key]))
    if text is None:
        raise SluiceError(f"{paths[key]}, the text of the schema that is {key}, is not there.", "Check schema.", path=paths[key])
    return text


def run(params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Look at everything that was asked for."""
    asked = Asked(params)
    url = postgres.read_url(params["env_file"], params["env_var"])
    result: dict[str, Any] = {"changed": False, "actions": []}
    deadline = postgres.Deadline(params["timeout"])
    with postgres.connect(url, f"database:{params['app']}", params["client_directory"]) as clients, clients.session(deadline) as session:
        reader = pg_health.Reader(session, {**asked.settings, "app": params["app"]}, params["statement_timeout"])
        first, began = pg_health.counters(reader) if params["health"] else {}, time.monotonic()
        seen = look(reader, session) if params["health"] else {}
        outcomes = pg_health.run(reader, asked.checks)
        if asked.rows is not None:
            counts, failed = reader.row_counts(database_expect.ROW_COUNT)
            outcomes.append(failed or database_expect.row_changes(asked.rows, counts, asked.allowed))
        if asked.texts:
            outcome, diff = database_expect.schema_diff(*asked.texts)
            outcomes.append(outcome)
            result["diff"] = {"prepared": diff}
        bouncer = Bouncer(params, deadline) if params["health"] else None
        if bouncer:
            bouncer.look()
            time.sleep(max(0.0, min(params["sample_seconds"] - (time.monotonic() - began), deadline.left())))
            bouncer.look()
            second_look(reader, seen, first)
        reader.close()
    judged = database_checks.judge(outcomes, "" if params["when"] == "now" else params["when"], params["baseline"], asked.accepted)
    gates, say = database_checks.gates_of(judged), database_checks.notes_of(judged)
    if bouncer:
        seen["pgbouncer"] = bouncer.looks[-1] if bouncer.looks else None
        since = kept_change(params["state"], seen["counters"], check)
        gates += [*database_health.gates(seen, asked.limits, asked.pools), *bouncer.gates(asked.limits)]
        say += [*database_health.notes(seen, asked.limits, since), *bouncer.notes()]
        result["health"] = shown(seen)
    return {**result, "gates": [gate.as_dict() for gate in gates], "say": say, "checks": [described(one) for one in judged], "baseline": baseline(outcomes)}


def baseline(outcomes: list[Outcome]) -> dict[str, Any]:
    return dict(database_checks.baseline_of(outcomes))


def look(reader: pg_health.Reader, session: postgres.Session) -> dict[str, Any]:
    statements, why = pg_health.statements(reader)
    return {
        "connections": pg_health.connections(reader),
        "sessions": pg_health.sessions(reader, int(pg_facts.server(session)["major"])),
        "role": reader.role,
        "statements_before": statements,
        "statements_why": why,
    }


def second_look(reader: pg_health.Reader, seen: dict[str, Any], first: Mapping[str, Any]) -> None:
    """Look at what only grows for the second time."""
    before = seen.pop("statements_before")
    now, why = pg_health.statements(reader)
    seen["counters"] = pg_health.counters(reader)
    seen["change"] = database_health.change_of(first, seen["counters"])
    seen["statements_since"] = seen["counters"]["at"] - first["at"]
    seen["statements"] = None if before is None or now is None else database_health.statements_between(before, now)
    seen["statements_why"] = why or seen["statements_why"]


def kept_change(path: Optional[str], now: Mapping[str, Any], check: bool) -> Optional[dict[str, Any]]:
    """Return how much the counters grew since the reading that was kept, and keep this one."""
    if not path:
        return None
    try:
        before = json.loads(read_text(path) or "null")
    except ValueError:
        before = None
    if not check:
        make_folder(os.path.dirname(path), 0o700)
        write_atomic(path, json.dumps(now) + "\n", 0o600)
    return database_health.change_of(before, now) if isinstance(before, dict) and set(now) <= set(before) else None


def shown(seen: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was read, without the texts in statements."""
    sessions = [{**each, "query": database_health.masked(each["query"], 200)} for each in seen["sessions"]]
    statements = [{**each, "query": database_health.masked(each["query"], 200)} for each in (seen["statements"] or [])[:20]]
    trees = [{key: tree[key] for key in ("pid", "waiting", "seconds")} for tree in database_health.blocking(seen["sessions"])]
    return {**seen, "sessions": sessions, "statements": statements, "blocking": trees}


def described(one: database_checks.Judged) -> dict[str, Any]:
    check = one.check
    about = {"id": check.id, "group": check.group, "severity": check.severity, "row": check.row}
    said = {"verdict": one.verdict, "stops": one.stops, "sentence": one.sentence, "remedy": one.remedy}
    return {**about, **said, "findings": [{key: value for key, value in asdict(each).items() if value not in ("", None, False)} for each in one.findings]}


class Bouncer:
    """Looks at PgBouncer's pools, when there is one."""

    def __init__(self, params: Mapping[str, Any], deadline: postgres.Deadline) -> None:
        self._params, self._deadline = params, deadline
        self.looks: list[dict[str, Any]] = []
        self._why: Optional[SluiceError] = None

    def look(self) -> None:
        params = self._params
        if not params["pgbouncer_var"] or self._why:
            return
        try:
            url = postgres.read_url(params["env_file"], params["pgbouncer_var"])
            with postgres.connect(url, f"database:{params['app']}", params["client_directory"]) as clients:
                self.looks.append(pgbouncer_stats.read(clients, min(10.0, self._deadline.left())))
        except SluiceError as error:
            self._why = error

    def gates(self, limits: Mapping[str, Optional[float]]) -> list[database_checks.Gate]:
        if self._why:
            return [database_checks.Gate("pgbouncer", database_checks.ERROR, self._why.message, remedy=self._why.remedy)]
        return database_health.pgbouncer_gates(self.looks, limits) if self.looks else []

    def notes(self) -> list[str]:
        return database_health.pgbouncer_notes(self.looks) if self.looks and not self._why else []


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "env_file": {"type": "path", "required": True},
            "env_var": {"type": "str", "default": "DATABASE_URL"},
            "app": {"type": "str", "required": True},
            "client_directory": {"type": "path"},
            "timeout": {"type": "int", "default": 300},
            "statement_timeout": {"type": "float", "default": 30.0},
            "checks": {"type": "list", "elements": "dict", "default": []},
            "expect": {"type": "dict", "default": {}},
            "settings": {"type": "dict", "default": {}},
            "accept": {"type": "list", "elements": "dict", "default": []},
            "when": {"type": "str", "choices": ["now", database_checks.BEFORE, database_checks.AFTER], "default": "now"},
            "baseline": {"type": "dict", "default": {}},
            "manifest": {"type": "path"},
            "row_changes": {"type": "dict", "default": {}},
            "schema": {"type": "dict", "default": {}},
            "health": {"type": "bool", "default": False},
            "limits": {"type": "dict", "default": {}},
            "pools": {"type": "list", "elements": "dict", "default": []},
            "sample_seconds": {"type": "float", "default": 2.0},
            "state": {"type": "path"},
            "pgbouncer_var": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    with in_words(module):
        result = run(module.params, module.check_mode)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
