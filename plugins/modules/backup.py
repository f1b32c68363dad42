#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup of the app's database: consistent, verified, whole or not there."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup
short_description: Back up a PostgreSQL database for a release, and prove that the archive can be read
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Dumps the database in parallel, in directory format, inside one exported snapshot in which every table is also counted.
  - Reads the whole archive back, notes size and SHA-256 of each file in a manifest, and only then gives the folder its name.
    A folder with the final name is therefore always whole.
  - A second call with the same O(release_id) checks the files against the manifest and changes nothing.
attributes:
  check_mode:
    description: Looks at the database and at the free space, takes no lock and writes nothing.
    support: full
  diff_mode:
    description: Shows the folder that appears.
    support: full
extends_documentation_fragment:
  - sluice.deploy.database
options:
  directory:
    description: Folder of the backups, made with mode 0700. Each lies in its own folder, named C(app-release_id).
    type: path
    required: true
  release_id:
    description: Id of the release the backup belongs to.
    type: str
    required: true
  jobs:
    description: Tables that are dumped at the same time.
    type: int
    default: 2
  compression:
    description: Compression of the archive. V(auto) takes the first that the client can of V(zstd:1), V(lz4) and V(gzip:1).
    type: str
    default: auto
  max_bytes:
    description: Largest size of the archive. What is bound to be larger is refused before anything starts; what grows larger is stopped. V(0) is no limit.
    type: int
    default: 0
  checksum_max_bytes:
    description: Size on disk of all tables together whose rows are hashed as well as counted, the smallest first. V(0) hashes none.
    type: int
    default: 67108864
  table:
    description: Version table of the migrations, noted in the manifest.
    type: str
    default: sluice_migrations
"""

EXAMPLES = r"""
- name: Back up the database
  sluice.deploy.backup:
    app: wallet
    env_file: /etc/wallet/production.env
    directory: /var/backups/wallet
    release_id: "{{ release_id }}"
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
backup:
  description: Path, manifest, bytes, seconds, rows of each table, and compression.
  returned: success
  type: dict
"""

import os
import re
import shutil
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import (
    backup_files,
    pg_archive,
    pg_blockers,
    pg_facts,
    pg_globals,
    pg_migrations,
    pg_schema,
    postgres,
)
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import free_bytes, make_folder, read_text, sync_directory, write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.core import backups, blockers, migrations
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.pgurl import PgUrl
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import PASS, Gate
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words


def run(params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Make the backup of a release, or check the one that is there."""
    url = postgres.read_url(params["env_file"], params["env_var"])
    final = os.path.join(params["directory"], backups.folder_name(params["app"], params["release_id"]))
    path = os.path.join(final, backup_files.MANIFEST)
    written = read_text(path)
    if written is not None:
        return verify(params, url, final, backups.from_json(written, path))
    if os.path.lexists(final):
        raise SluiceError(f"{final} is there and has no manifest, so it is no backup of this collection.", "Move it away.", path=final)
    with postgres.at_work("backup", url, params, check) as (clients, session, deadline):
        server = pg_facts.server(session)
        backups.check_client(clients.major("pg_dump"), server["major"])
        compression = pg_archive.choose_compression(clients, params["compression"])
        around = pg_blockers.seen_sessions(session)
        # The dump's leader and its workers; our own session is open already.
        blockers.refuse_few_connections(around.free, params["jobs"] + 1, "The dump")
        wait = 0.0 if check else params["lock_wait"]
        blockers.refuse_locks(pg_blockers.wait_for_exclusive_locks(session, wait), wait)
        beside = blockers.gate(around).as_dict()
        tables = pg_facts.tables(session)
        backups.check_rights([row["name"] for row in tables if not row["readable"]])
        needed = backups.estimate(sum(int(row["bytes"]) for row in tables), compression)
        backups.check_room(needed, free_bytes(params["directory"]), params["max_bytes"], params["directory"])
        result = {"changed": True, "gates": [beside], "diff": {"before": "", "after": final + "\n"}}
        if check:
            return {**result, "actions": [f"would back up {url.location()} to {final}, about {backups.size(needed)}"]}
        removed = prepare(params["directory"], os.path.basename(final))
        partial = os.path.join(params["directory"], f".{os.path.basename(final)}.{os.getpid()}.partial")
        try:
            started = time.monotonic()
            os.mkdir(partial, 0o700)
            manifest = dump(params, clients, session, deadline, partial, compression, server["version"])
            os.rename(partial, final)
            sync_directory(params["directory"])
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        seconds = round(time.monotonic() - started, 3)
    total = backups.size(manifest.total_bytes())
    gate = Gate(
        "backup",
        PASS,
        f"{len(manifest.tables)} tables dumped in one snapshot and read back, {total} in {seconds:.1f} s",
        value=manifest.total_bytes(),
        sample=len(manifest.files),
    )
    return {
        **result,
        "actions": [*removed, f"backed up {url.location()} to {final}"],
        "gates": [beside, gate.as_dict()],
        "backup": describe(final, manifest, seconds),
    }


def verify(params: Mapping[str, Any], url: PgUrl, final: str, manifest: backups.Manifest) -> dict[str, Any]:
    """Check the backup that is there."""
    started = time.monotonic()
    backups.check_origin(manifest, params["app"], url.database)
    gates = backups.check_files(manifest, backup_files.hash_files(final, skip=(backup_files.MANIFEST, backup_files.DRILL)))
    backups.refuse_failed(gates, f"The backup {final} is damaged")
    actions = [f"checked {final}, which was there already"]
    return {
        "changed": False,
        "actions": actions,
        "gates": [gate.as_dict() for gate in gates],
        "backup": describe(final, manifest, round(time.monotonic() - started, 3)),
    }


def describe(final: str, manifest: backups.Manifest, seconds: float) -> dict[str, Any]:
    """Return what the module says about a backup."""
    return {
        "path": final,
        "manifest": os.path.join(final, backup_files.MANIFEST),
        "bytes": manifest.total_bytes(),
        "seconds": seconds,
        "tables": dict(manifest.tables),
        "compression": manifest.compression,
    }


def prepare(directory: str, name: str) -> list[str]:
    """Make the folder of the backups, remove what a killed run left in it, and say so."""
    make_folder(directory, 0o700)
    left = [found for found in sorted(os.listdir(directory)) if re.match(rf"\.{re.escape(name)}\.\d+\.partial\Z", found)]
    for found in left:
        shutil.rmtree(os.path.join(directory, found), ignore_errors=True)
    return [f"removed {os.path.join(directory, found)}, left by a run that was killed" for found in left]


def dump(
    params: Mapping[str, Any],
    clients: postgres.Clients,
    session: postgres.Session,
    deadline: postgres.Deadline,
    partial: str,
    compression: str,
    version: str,
) -> backups.Manifest:
    """Dump, count, read back and describe; the manifest is written last."""
    archive, limit = os.path.join(partial, backup_files.ARCHIVE), params["max_bytes"]

    def watch() -> None:
        seen = backup_files.folder_bytes(archive)
        if limit and seen > limit:
            raise SluiceError(
                f"The backup grew over its limit of {backups.size(limit)} and was stopped; nothing of it is left.", "Raise max_bytes.", limit=limit
            )

    snapshot, lsn, seen = pg_facts.export_snapshot(session)
    created = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    first = pg_facts.sequences(session)
    with pg_archive.start_dump(clients, archive, snapshot, params["jobs"], compression, params["lock_wait"]) as job:
        listed = [row["listed"] for row in pg_facts.tables(session)]
        tables = pg_facts.table_facts(session, params["checksum_max_bytes"])
        heads = migrations.heads(pg_migrations.version_table(session, params["table"])[1])
        schema = pg_schema.schema_fingerprint(session)
        rc = job.wait(deadline, watch)
        if rc:
            if "lock" in job.errors().lower():
                # Somebody came for an exclusive lock after we looked; a session that is there already is still answered.
                blockers.refuse_locks(pg_blockers.wait_for_exclusive_locks(session, 0), params["lock_wait"])
            raise job.failed(rc, "The dump failed, and nothing of it is left")
    last = pg_facts.sequences(session)
    session.execute("COMMIT")
    watch()
    write_atomic(os.path.join(partial, backup_files.SCHEMA), schema.text, 0o600)
    held = pg_globals.dump_globals(clients, session, deadline, os.path.join(partial, backup_files.GLOBALS))
    client = clients.major("pg_dump")
    backups.check_listing(pg_archive.listing(clients, archive), clients.url.database, int(version.split(".")[0]), client, listed)
    with pg_archive.start_decode(clients, archive) as job:
        files = backup_files.hash_files(partial)
        rc = job.wait(deadline)
        if rc:
            raise job.failed(rc, "The archive cannot be read back, and nothing of it is left")
    manifest = backups.Manifest(
        app=params["app"],
        release_id=params["release_id"],
        database=clients.url.database,
        created=created,
        server_version=version,
        client_version=str(client),
        lsn=lsn,
        compression=compression,
        tables={name: fact.rows for name, fact in tables.items()},
        heads=tuple(heads),
        files=files,
        checksums={name: fact.checksum for name, fact in tables.items() if fact.checksum is not None},
        table_bytes={name: fact.bytes for name, fact in tables.items()},
        sequences={name: (first.get(name, value), value) for name, value in last.items()},
        large_objects=pg_facts.large_objects(session),
        extensions=pg_facts.extensions(session),
        settings=pg_facts.settings(session),
        roles=pg_facts.roles(session),
        schema_sha256=schema.sha256,
        globals=held,
        writes=pg_facts.writes(session),
        snapshot=seen,
    )
    write_atomic(os.path.join(partial, backup_files.MANIFEST), backups.to_json(manifest), 0o600)
    sync_directory(archive)
    return manifest


def main() -> None:
    module = AnsibleModule(
        argument_spec=postgres.argument_spec(
            directory={"type": "path", "required": True},
            release_id={"type": "str", "required": True},
            jobs={"type": "int", "default": 2},
            compression={"type": "str", "default": "auto"},
            max_bytes={"type": "int", "default": 0},
            checksum_max_bytes={"type": "int", "default": 67108864},
            table={"type": "str", "default": "sluice_migrations"},
        ),
        required_by={"fence": ["state_dir"]},
        supports_check_mode=True,
    )
    os.umask(0o077)
    with in_words(module):
        result = run(module.params, module.check_mode)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
