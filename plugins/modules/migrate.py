#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pending migrations, on the real database, under one lock."""

from __future__ import annotations

DOCUMENTATION = r"""
module: migrate
short_description: Run the pending SQL migrations, each in one transaction with its version row
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Runs the files C(NNNN_words.sql) of a folder that the version table does not list yet, in order.
    File and version row are one transaction, so a file is applied as a whole or not at all.
  - Applied files that were edited or are missing, numbers that are there twice and gaps between them are refused before anything runs.
  - A lock that is not granted within O(lock_timeout_ms) is tried again, so that the app's own queries never queue behind a migration for longer.
    When it gives up, the message names who held the lock.
attributes:
  check_mode:
    description: Lists the pending migrations, takes no lock and changes nothing.
    support: full
  diff_mode:
    description: Shows the applied migrations before and after.
    support: full
extends_documentation_fragment:
  - sluice.deploy.database
options:
  directory:
    description: Folder with the migrations.
    type: path
    required: true
  table:
    description: Version table, with or without its schema. It is made with the first migration.
    type: str
    default: sluice_migrations
  release_id:
    description: Id of the release, noted beside each migration.
    type: str
    default: ''
  lock_timeout_ms:
    description: Milliseconds a migration waits for a lock. Below the server's C(deadlock_timeout) (1 s) the migration gives way and never the app.
    type: int
    default: 300
  statement_timeout_s:
    description: Seconds a single statement may take.
    type: int
    default: 600
  retries:
    description: How often a migration is tried again after a lock was not granted.
    type: int
    default: 5
  rehearsal:
    description: Name of the rehearsal database that is dropped when all is done.
    type: str
"""

EXAMPLES = r"""
- name: Migrate the database
  sluice.deploy.migrate:
    app: wallet
    env_file: /etc/wallet/production.env
    directory: /srv/wallet/releases/v1.0.0/migrations
    release_id: "{{ release_id }}"
    rehearsal: wallet_rehearsal
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
  description: Newest migration before, as a list.
  returned: success
  type: list
  elements: str
applied:
  description: Migrations that ran, each with name and seconds.
  returned: always
  type: list
  elements: dict
after:
  description: Newest migration after, as a list.
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
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import pg_copy, pg_migrations, postgres
from ansible_collections.sluice.deploy.plugins.module_utils.core import backups, migrations
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import PASS, Gate


def run(params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Run what is due."""
    url = postgres.read_url(params["env_file"], params["env_var"])
    files = pg_migrations.read_migrations(params["directory"])
    copy = backups.rehearsal_name(url.database, params["rehearsal"]) if params["rehearsal"] else None
    with postgres.at_work("migrate", url, params, check) as (clients, session, deadline):
        table, before = pg_migrations.version_table(session, params["table"])
        due = migrations.pending(files, before)
        done: list[dict[str, Any]] = []
        for migration in () if check else due:
            try:
                seconds = pg_migrations.apply_migration(
                    clients,
                    session,
                    migration,
                    table=table,
                    release_id=params["release_id"],
                    lock_timeout_ms=params["lock_timeout_ms"],
                    statement_timeout_s=params["statement_timeout_s"],
                    retries=params["retries"],
                    deadline=deadline,
                    service=postgres.LIVE,
                )
            except SluiceError as error:
                names = ", ".join(entry["name"] for entry in done)
                raise SluiceError(
                    error.message + (f" Applied before it: {names}." if done else ""), error.remedy, **{**error.facts, "applied": done}
                ) from error
            done.append({"name": migration.name, "seconds": round(seconds, 3)})
        after = before if check else pg_migrations.version_table(session, params["table"])[1]
        still = migrations.pending(files, after)
        dropped = bool(copy) and not check and pg_copy.drop_copy(session, str(copy))
    return {
        "changed": bool(due) or dropped,
        "actions": [f"applied {entry['name']} in {entry['seconds']:.2f} s" for entry in done] + ([f"dropped {copy}"] if dropped else []),
        "gates": [Gate("migrate", PASS, sentence(len(done), len(still)), value=len(done)).as_dict()],
        "before": migrations.heads(before),
        "applied": done,
        "after": migrations.heads(after),
        "pending": [migration.name for migration in still],
        "diff": {"before": listing(before), "after": listing(before) + listing(due)},
    }


def sentence(done: int, still: int) -> str:
    """Return the outcome in words."""
    if still:
        return f"{still} migrations are due."
    return f"{done} migrations applied, none is due." if done else "No migration was due."


def listing(entries: Any) -> str:
    """Return the names of migrations, one a line."""
    return "".join(f"{entry.name}\n" for entry in entries)


def main() -> None:
    module = AnsibleModule(
        argument_spec=postgres.argument_spec(
            directory={"type": "path", "required": True},
            table={"type": "str", "default": "sluice_migrations"},
            release_id={"type": "str", "default": ""},
            lock_timeout_ms={"type": "int", "default": 300},
            statement_timeout_s={"type": "int", "default": 600},
            retries={"type": "int", "default": 5},
            rehearsal={"type": "str"},
        ),
        required_by={"fence": ["state_dir"]},
        supports_check_mode=True,
    )
    os.umask(0o077)
    try:
        result = run(module.params, module.check_mode)
    except SluiceError as error:
        module.fail_json(msg=str(error), **error.details())
    except OSError as error:
        module.fail_json(msg=f"{error.filename or 'A file'} could not be used: {error.strerror}.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
