#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The restore drill: a backup is restored into a database of its own and compared with its manifest."""

from __future__ import annotations

DOCUMENTATION = r"""
module: drill
short_description: Restore a backup into a new database and prove that it holds what was backed up
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Checks the size and SHA-256 of the backup's files, restores it in parallel into a new database, and compares rows, checksums, sequences,
    large objects, extensions and the schema's objects with the manifest. The seconds it took are the measured recovery time.
  - Then nobody may connect to the copy any more. So it is at once the template of the rehearsal's copy and the database that a rollback puts in place.
  - A copy of the same backup that is whole and closed is kept as it is. What a killed run left is dropped and made anew.
  - The copy carries a comment that marks it. A database of that name without the mark is left alone and the module fails.
  - The outcome is noted in the backup's folder, in C(drill.json).
attributes:
  check_mode:
    description: Checks the files and the rights; makes and drops nothing.
    support: full
  diff_mode:
    description: Shows the database that appears or goes.
    support: full
extends_documentation_fragment:
  - sluice.deploy.database
options:
  state:
    description: Whether the copy is to be there, or not.
    type: str
    choices: [present, absent]
    default: present
  backup:
    description: Folder of the backup. Needed for O(state=present).
    type: path
  database:
    description: Name of the copy. Without it, the real database's name with C(_restored) behind it.
    type: str
  jobs:
    description: Tables and indexes that are restored at the same time.
    type: int
    default: 2
  server_env_var:
    description:
      - Name of the variable in O(env_file) that holds the URL of another server, where the drill is made instead. Without it, the drill is made beside
        the real database.
      - Owners and grants are left out there, since the roles are not known. Such a copy proves the backup; it is no target for a rollback.
    type: str
"""

EXAMPLES = r"""
- name: Prove the backup
  sluice.deploy.drill:
    app: wallet
    env_file: /etc/wallet/production.env
    backup: /var/backups/wallet/wallet-20260101T120000

- name: Drop the copy
  sluice.deploy.drill:
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
seconds:
  description: Seconds of the files' check, of the restore (the measured recovery time, with C(ANALYZE)), and of the comparison.
  returned: when O(state=present)
  type: dict
"""

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import backup_files, pg_archive, pg_blockers, pg_copy, pg_facts, pg_schema, postgres
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.core import backups, blockers, drills
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import PASS, Gate
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words


def present(params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Restore the backup into a copy and compare it, or find that this was done."""
    live = postgres.read_url(params["env_file"], params["env_var"])
    elsewhere = params["server_env_var"]
    url = postgres.read_url(params["env_file"], elsewhere) if elsewhere else live
    name = backups.restored_name(live.database, params["database"])
    folder = params["backup"]
    manifest, gates, seconds = backup_files.read_backup(folder)
    backups.check_origin(manifest, params["app"], live.database)
    digest = backup_files.manifest_sha256(folder)
    with postgres.at_work("drill", url, params, check, copy=name) as (clients, session, deadline):
        server = pg_facts.server(session)
        backups.check_server(manifest, server["major"])
        backups.check_restorer(manifest, clients.major("pg_restore"), server["major"])
        comment = pg_copy.database_comment(session, name)
        backups.check_marker(name, comment)
        took = backups.restored_seconds(comment, manifest.app, manifest.release_id, digest)
        result: dict[str, Any] = {"changed": False, "database": name, "actions": [], "diff": {"before": f"{name}\n", "after": f"{name}\n"}}
        if took is not None and pg_copy.sealed(session, name):
            gates.append(Gate("drill", PASS, f"{name} was restored from this backup in {took:.1f} s, compared, and closed since.", value=took))
            return {**result, "gates": [gate.as_dict() for gate in gates], "seconds": {**seconds, "restore": took}}
        archive = os.path.join(folder, backup_files.ARCHIVE)
        listing = pg_archive.listing(clients, archive)
        backups.check_listing(listing, manifest.database, int(manifest.server_version.split(".")[0]), int(manifest.client_version), ())
        pg_copy.check_may_create(session)
        # One session beside ours compares; pg_restore has a leader and its workers.
        blockers.refuse_few_connections(pg_blockers.seen_sessions(session).free, params["jobs"] + 1, "The restore")
        result.update(changed=True, diff={"before": "", "after": f"{name}\n"})
        if check:
            return {**result, "actions": [f"would restore {folder} into {name}"], "gates": [gate.as_dict() for gate in gates], "seconds": seconds}
        actions = [f"dropped {name}, left by an earlier run"] if pg_copy.drop_copy(session, name) else []
        try:
            pg_copy.create_copy(session, name, backups.restored_marker(manifest.app, manifest.release_id), manifest.settings)
            if not elsewhere:
                pg_copy.copy_settings(session, name)
            started = time.monotonic()
            without = ["--no-owner", "--no-privileges"] if elsewhere else []
            pg_copy.restore(clients, archive, params["jobs"], server["major"], deadline, without)
            with clients.session(deadline, postgres.COPY) as copy:
                copy.execute("ANALYZE")
                seconds["restore"] = round(time.monotonic() - started, 3)
                judged = compare(manifest, folder, copy, seconds["restore"])
            seconds["compare"] = round(time.monotonic() - started - seconds["restore"], 3)
            backups.refuse_failed(judged, f"The restored copy of {folder} is not what was backed up")
            pg_copy.seal_copy(session, name, backups.restored_marker(manifest.app, manifest.release_id, digest, seconds["restore"]))
        except BaseException:
            # A copy that is not proven proves nothing and takes the server's room; where the server is gone, the next run drops it.
            session.grant(30)
            with suppress(SluiceError):
                pg_copy.drop_copy(session, name)
            raise
    note = {"at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"), "server_version": server["version"], "manifest_sha256": digest, "seconds": seconds}
    write_atomic(os.path.join(folder, backup_files.DRILL), json.dumps(note, indent=2, sort_keys=True) + "\n", 0o600)
    actions.append(f"restored {folder} into {name}, compared it, and closed it")
    return {**result, "actions": actions, "gates": [gate.as_dict() for gate in (*gates, *judged)], "seconds": seconds}


def compare(manifest: backups.Manifest, folder: str, copy: postgres.Session, seconds: float) -> list[Gate]:
    """Compare the copy with the manifest: the gates that failed, or the one that passed."""
    found = pg_facts.table_facts(copy, 0, only=manifest.checksums)
    before, after = backup_files.read_schema(folder), pg_schema.schema_fingerprint(copy)
    failed = [
        *drills.check_tables(manifest, {name: fact.rows for name, fact in found.items()}),
        *drills.check_checksums(manifest, found),
        *drills.check_sequences(manifest, pg_facts.sequences(copy)),
        *drills.check_rest(manifest, pg_facts.large_objects(copy), pg_facts.extensions(copy)),
        *drills.check_schema(before, after),
    ]
    return failed or [drills.passed(manifest, seconds, before, after)]


def absent(params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Drop the copy."""
    live = postgres.read_url(params["env_file"], params["env_var"])
    url = postgres.read_url(params["env_file"], params["server_env_var"]) if params["server_env_var"] else live
    name = backups.restored_name(live.database, params["database"])
    with postgres.at_work("drill", url, params, check) as (_clients, session, _deadline):
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
            jobs={"type": "int", "default": 2},
            server_env_var={"type": "str"},
        ),
        required_by={"fence": ["state_dir"]},
        required_if=[("state", "present", ["backup"])],
        supports_check_mode=True,
    )
    os.umask(0o077)
    with in_words(module):
        result = {"present": present, "absent": absent}[module.params["state"]](module.params, module.check_mode)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
