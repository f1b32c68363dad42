#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The restore drill and the rehearsal of the migrations, on a copy beside the real database."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rehearsal
short_description: Restore a backup into a new database and run the pending migrations there
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Checks the backup's files, restores it in parallel into a new database, and compares the rows of every table with the manifest.
    That is the restore drill, and it is timed.
  - Then runs the pending migrations on the copy, each timed. The real database is only read.
  - The copy stays, so that the live version can be tried on it, until O(state=absent). When drill or rehearsal fail, it is dropped.
  - The copy carries a comment that marks it. A database of that name without the mark is left alone and the module fails.
attributes:
  check_mode:
    description: Checks the files and the rights and lists the pending migrations; makes and drops nothing.
    support: full
  diff_mode:
    description: Shows the migrations that the copy gets.
    support: full
extends_documentation_fragment:
  - sluice.deploy.database
options:
  state:
    description: Whether the copy is to be there, fresh from the backup, or not.
    type: str
    choices: [present, absent]
    default: present
  backup:
    description: Folder of the backup. Needed for O(state=present).
    type: path
  database:
    description: Name of the copy. Without it, the real database's name with C(_rehearsal) behind it.
    type: str
  migrations:
    description: Folder with the migrations. Without it, only the drill is made.
    type: path
  table:
    description: Version table of the migrations, with or without its schema.
    type: str
    default: sluice_migrations
  jobs:
    description: Tables that are restored at the same time.
    type: int
    default: 2
  lock_timeout_ms:
    description: Milliseconds a migration waits for a lock.
    type: int
    default: 300
  statement_timeout_s:
    description: Seconds a single statement of a migration may take.
    type: int
    default: 600
"""

EXAMPLES = r"""
- name: Rehearse the migrations on a copy
  sluice.deploy.rehearsal:
    app: wallet
    env_file: /etc/wallet/production.env
    backup: /var/backups/wallet/wallet-20260101T120000
    migrations: /srv/wallet/releases/v1.0.0/migrations

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
  description: Migrations that ran on the copy, each with name and seconds.
  returned: success
  type: list
  elements: dict
seconds:
  description: Seconds of the files' check, of restore and count together (the drill), and of the migrations.
  returned: success
  type: dict
"""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import backup_files, pg_copy, pg_facts, pg_migrations, postgres
from ansible_collections.sluice.deploy.plugins.module_utils.core import backups, drills, migrations
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import PASS, Gate


def present(params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Make the copy, compare it with the manifest, and migrate it."""
    url = postgres.read_url(params["env_file"], params["env_var"])
    name = backups.rehearsal_name(url.database, params["database"])
    files = pg_migrations.read_migrations(params["migrations"]) if params["migrations"] else ()
    manifest, gates, seconds = backup_files.read_backup(params["backup"])
    with postgres.at_work("rehearsal", url, params, check, copy=name) as (clients, session, deadline):
        server = pg_facts.server(session)
        backups.check_origin(manifest, params["app"], url.database)
        backups.check_server(manifest, server["major"])
        backups.check_client(clients.major("pg_restore"), server["major"])
        pg_copy.check_may_create(session)
        due = [migration.name for migration in migrations.pending(files, pg_migrations.version_table(session, params["table"])[1])] if files else []
        result = {"changed": True, "database": name, "diff": {"before": "", "after": "".join(f"{migration}\n" for migration in due)}}
        if check:
            backups.check_marker(name, pg_copy.database_comment(session, name))
            actions = [f"would restore {params['backup']} into {name} and run {len(due)} migrations there"]
            return {**result, "actions": actions, "gates": [gate.as_dict() for gate in gates], "pending": [{"name": migration} for migration in due]}
        left = pg_copy.drop_copy(session, name)
        actions = [f"dropped {name}, left by an earlier rehearsal"] if left else []
        try:
            pg_copy.create_copy(session, name, backups.marker(params["app"], manifest.release_id), manifest.settings)
            pg_copy.copy_settings(session, name)
            started = time.monotonic()
            pg_copy.restore(clients, os.path.join(params["backup"], "archive"), params["jobs"], server["major"], deadline)
            with clients.session(deadline, postgres.COPY) as copy:
                counts = {table: fact.rows for table, fact in pg_facts.table_facts(copy, 0).items()}
                seconds["drill"] = round(time.monotonic() - started, 3)
                schema = backup_files.read_schema(params["backup"])
                gates += drills.check_tables(manifest, counts) or [drills.passed(manifest, seconds["drill"], schema, schema)]
                backups.refuse_failed(gates, f"The restored copy of {params['backup']} is not what was backed up")
                actions.append(f"restored {params['backup']} into {name}")
                copy.execute("ANALYZE")
                applied = rehearse(params, clients, copy, deadline, files, manifest.release_id)
        except BaseException:
            # What is left of a failed rehearsal proves nothing and takes the server's room.
            session.grant(30)
            pg_copy.drop_copy(session, name)
            raise
    if params["migrations"]:
        seconds["migrations"] = round(sum(entry["seconds"] for entry in applied), 3)
        actions.append(f"ran {len(applied)} migrations on {name}")
        gates.append(
            Gate(
                "rehearsal",
                PASS,
                f"{len(applied)} pending migrations ran on the copy in {seconds['migrations']:.2f} s.",
                value=seconds["migrations"],
                sample=len(applied),
            )
        )
    return {**result, "actions": actions, "gates": [gate.as_dict() for gate in gates], "pending": applied, "seconds": seconds}


def rehearse(
    params: Mapping[str, Any],
    clients: postgres.Clients,
    copy: postgres.Session,
    deadline: postgres.Deadline,
    files: Sequence[migrations.Migration],
    release_id: str,
) -> list[dict[str, Any]]:
    """Run what is due on the copy, and look whether it is sound afterwards."""
    invalid = set(pg_facts.invalid_indexes(copy))
    table, applied = pg_migrations.version_table(copy, params["table"])
    done = []
    for migration in migrations.pending(files, applied) if files else ():
        seconds = pg_migrations.apply_migration(
            clients,
            copy,
            migration,
            table=table,
            release_id=release_id,
            lock_timeout_ms=params["lock_timeout_ms"],
            statement_timeout_s=params["statement_timeout_s"],
            retries=1,
            deadline=deadline,
            service=postgres.COPY,
        )
        done.append({"name": migration.name, "seconds": round(seconds, 3)})
    broken = sorted(set(pg_facts.invalid_indexes(copy)) - invalid)
    if broken:
        raise SluiceError(f"The migrations left invalid indexes on the copy: {', '.join(broken)}.", "Correct the migration.")
    return done


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
            state={"type": "str", "choices": ["present", "absent"], "default": "present"},
            backup={"type": "path"},
            database={"type": "str"},
            migrations={"type": "path"},
            table={"type": "str", "default": "sluice_migrations"},
            jobs={"type": "int", "default": 2},
            lock_timeout_ms={"type": "int", "default": 300},
            statement_timeout_s={"type": "int", "default": 600},
        ),
        required_by={"fence": ["state_dir"]},
        required_if=[("state", "present", ["backup"])],
        supports_check_mode=True,
    )
    os.umask(0o077)
    try:
        result = {"present": present, "absent": absent}[module.params["state"]](module.params, module.check_mode)
    except SluiceError as error:
        module.fail_json(msg=str(error), **error.details())
    except OSError as error:
        module.fail_json(msg=f"{error.filename or 'A file'} could not be used: {error.strerror}.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
