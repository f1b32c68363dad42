#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The database goes back to a backup by changing names with a restored copy, and the broken one is kept."""

from __future__ import annotations

DOCUMENTATION = r"""
module: restore
short_description: Put a restored copy in the place of a PostgreSQL database, and keep the old one aside
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Never restores into the live database. M(sluice.deploy.drill) has restored the backup beside it and compared it with the manifest; this module
    changes the names of the two in one transaction, so that either both have changed or none.
  - Before, it counts what was written since the backup, per table. Where that is anything, it changes nothing unless O(accept_loss) names the release.
  - Clients are held by PgBouncer for the length of the swap where O(pgbouncer_vars) tells how to reach it; others are ended.
  - Owner, rights, connection limit, settings of the database and of roles in it, and the comment are the same afterwards.
  - The old database is kept, closed, under a name with the release and the time. O(state=swapped_back) puts it in its place again.
  - A second call for the same backup changes nothing.
attributes:
  check_mode:
    description: Shows what would be lost, by the server's counters, and what stands in the way; changes nothing.
    support: full
  diff_mode:
    description: Shows the names before and after.
    support: full
extends_documentation_fragment:
  - sluice.deploy.database
options:
  state:
    description:
      - V(swapped) puts the restored copy of O(backup) in place, V(swapped_back) what the last restore moved aside.
      - V(pruned) only drops what is kept no longer.
    type: str
    choices: [swapped, swapped_back, pruned]
    default: swapped
  backup:
    description: Folder of the backup, or the release id it was made for. Needed for O(state=swapped).
    type: str
  directory:
    description: Folder of the backups, for a O(backup) that is a release id.
    type: path
  accept_loss:
    description: Release id of the backup, typed by whoever agrees to lose what was written since.
    type: str
    default: ''
  again:
    description: Restores the same backup once more, although the live database is its restored copy already.
    type: bool
    default: false
  exact_bytes:
    description: Size of a table on disk up to which its rows are compared one by one with the copy's. Larger ones are judged by the server's counters.
    type: int
    default: 2147483648
  maintenance_database:
    description: Another database on the same server from which the two are renamed.
    type: str
    default: postgres
  pgbouncer_vars:
    description:
      - Names of the variables in O(env_file) with the URLs of the admin consoles of each PgBouncer in front of the database, such as
        C(postgresql://admin:secret@127.0.0.1:6432/pgbouncer). Their clients wait during the swap and none of them fails.
    type: list
    elements: str
    default: []
  pause_seconds:
    description: Seconds PgBouncer may wait for running transactions. Longer ones make the restore fail with nothing changed.
    type: float
    default: 5
  keep:
    description: Databases that stay aside, the newest ones. The way back from the live one always stays.
    type: int
    default: 2
  keep_days:
    description: Days after which a database that was moved aside is dropped. V(0) is never.
    type: float
    default: 0
"""

EXAMPLES = r"""
- name: Go back to the backup of a release
  sluice.deploy.restore:
    app: wallet
    env_file: /etc/wallet/production.env
    directory: /var/backups/wallet
    backup: 20260101T120000
    accept_loss: 20260101T120000
    pgbouncer_vars: [PGBOUNCER_URL]

- name: Go back from the restore
  sluice.deploy.restore:
    app: wallet
    env_file: /etc/wallet/production.env
    state: swapped_back
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
done:
  description: Whether the live database is what was asked for, before this call or by it.
  returned: success
  type: bool
lost:
  description: Rows inserted, updated and deleted since the backup, per table, and how exact that is.
  returned: when they were counted
  type: list
  elements: dict
kept:
  description: Name of the database that was moved aside.
  returned: when there is one
  type: str
release_id:
  description: Release of the backup that was put in place, or whose restore was undone.
  returned: when O(state) is not V(pruned) and it succeeded
  type: str
back:
  description: Whether a restore was undone.
  returned: when O(state) is not V(pruned) and it succeeded
  type: bool
swap_ms:
  description: Milliseconds from the first client that was ended to the commit of the renames.
  returned: when names were changed
  type: float
held_ms:
  description: Milliseconds that PgBouncer held its clients.
  returned: when names were changed through PgBouncer
  type: float
cut:
  description: Connections that were ended.
  returned: when names were changed
  type: int
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import backup_files, pg_copy, pg_losses, pg_swap, pgbouncer, postgres
from ansible_collections.sluice.deploy.plugins.module_utils.core import backups, losses, restores
from ansible_collections.sluice.deploy.plugins.module_utils.core.database_traits import Traits
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.losses import Loss
from ansible_collections.sluice.deploy.plugins.module_utils.core.pgurl import PgUrl
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words


@dataclass(frozen=True)
class Desk:
    """The place beside both databases from which they are renamed, and what was seen from there."""

    params: Mapping[str, Any]
    check: bool
    url: PgUrl
    clients: postgres.Clients
    session: postgres.Session
    pools: pgbouncer.Pools
    traits: Traits
    kept: Sequence[restores.Kept]
    resumed: list[str]
    gates: list[Gate]

    def result(self, changed: bool, actions: list[str], **more: Any) -> dict[str, Any]:
        """Return what the module says."""
        return {
            "changed": changed or bool(self.resumed),
            "actions": [*self.resumed, *actions],
            "gates": [gate.as_dict() for gate in self.gates],
            "done": True,
            **more,
        }


@contextmanager
def at_desk(params: Mapping[str, Any], check: bool) -> Iterator[Desk]:
    """Connect beside the database, keep other restores out, and see what there is."""
    url = postgres.read_url(params["env_file"], params["env_var"])
    what = f"restore:{params['app']}"
    with ExitStack() as stack:
        clients = stack.enter_context(postgres.connect(url, what, params["client_directory"], params["maintenance_database"]))
        pools = stack.enter_context(pgbouncer.pools(params, url))
        session = stack.enter_context(clients.session(postgres.Deadline(params["timeout"]), postgres.COPY))
        gate = restores.swap_gate(pg_swap.rights(session, url.database))
        backups.refuse_failed([gate], f"{url.database} cannot be swapped")
        if not check:
            postgres.take_lock(session, params["app"], url.database, params["lock_wait"])
        # Before anything can be refused: clients that a killed run left waiting have waited long enough.
        left = pools.paused() if check else pools.resume()
        resumed = [f"{'would resume' if check else 'resumed'} {name}, left paused by a run that was killed" for name in left]
        kept, traits = pg_swap.kept(session, params["app"]), pg_swap.traits(session, url.database)
        yield Desk(params, check, url, clients, session, pools, traits, kept, resumed, [gate])


def swapped(desk: Desk) -> dict[str, Any]:
    """Put the restored copy of a backup in place."""
    params, url = desk.params, desk.url
    folder = backup_folder(params)
    manifest, found, _seconds = backup_files.read_backup(folder)
    desk.gates.extend(found)
    backups.check_origin(manifest, params["app"], url.database)
    before = restores.newest(desk.kept, desk.traits.oid)
    if before and not before.back and before.release_id == manifest.release_id and not params["again"]:
        said = f"{url.database} is the restored copy of {manifest.release_id} since {before.at:%Y-%m-%d %H:%M:%S} UTC; to restore it once more, set again: true"
        return desk.result(False, [said], kept=before.name, release_id=before.release_id, back=False)
    look_for_obstacles(desk)
    copy = backups.restored_name(url.database)
    comment = pg_copy.database_comment(desk.session, copy)
    digest = backup_files.manifest_sha256(folder)
    proven = backups.restored_seconds(comment, params["app"], manifest.release_id, digest) is not None and pg_copy.sealed(desk.session, copy)
    with postgres.at_work("restore", url, params, desk.check, copy) as (clients, live, deadline):
        counted = pg_swap.written(live)
        written = (0, 0, 0)
        live.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        if proven and not desk.check:
            pg_swap.open_copy(desk.session, copy, True)
            try:
                with clients.session(deadline, postgres.COPY) as beside:
                    lost = pg_losses.compare(live, beside, manifest.writes, params["exact_bytes"])
                    written = pg_swap.written(beside)
            finally:
                pg_swap.open_copy(desk.session, copy, False)
        else:
            lost = pg_losses.by_counters(live, manifest.tables, manifest.writes)
        live.execute("COMMIT")

        def judge(late: int) -> Gate:
            gate = losses.loss_gate(lost, manifest.release_id, manifest.created, params["accept_loss"], late)
            losses.refuse_loss(gate, lost, desk.gates)
            return gate

        judge(0)
        if not desk.check and not proven:
            raise SluiceError(f"{copy} is no proven copy of {folder}, so there is nothing to swap.", "Run sluice.deploy.drill with this backup first.")
        oid = pg_swap.traits(desk.session, copy).oid if proven else 0
        return exchange(desk, live, deadline, copy, oid, manifest.release_id, lost, judge, counted, written)


def swapped_back(desk: Desk) -> dict[str, Any]:
    """Put back what the last restore moved aside."""
    params, url = desk.params, desk.url
    kept = restores.newest(desk.kept, desk.traits.oid)
    if kept is None:
        raise SluiceError(f"{url.database} was put in place by no restore that is still kept, so there is no way back from one.", "Restore a backup instead.")
    if kept.back:
        said = f"{url.database} was put back at {kept.at:%Y-%m-%d %H:%M:%S} UTC; what the restore of {kept.release_id} had made is kept as {kept.name}"
        return desk.result(False, [said], kept=kept.name, release_id=kept.release_id, back=True)
    look_for_obstacles(desk)
    with postgres.at_work("restore", url, params, desk.check) as (_clients, live, deadline):
        counted = pg_swap.written(live)
        loss = losses.compare_counters("all tables", kept.written, counted)
        lost = [loss] if loss.total() or loss.how == losses.UNKNOWN else []

        def judge(late: int) -> Gate:
            gate = losses.loss_gate(lost, kept.release_id, f"{kept.at:%Y-%m-%dT%H:%M:%SZ}", params["accept_loss"], late)
            losses.refuse_loss(gate, lost, desk.gates)
            return gate

        judge(0)
        oid = pg_swap.traits(desk.session, kept.name).oid
        return exchange(desk, live, deadline, kept.name, oid, kept.release_id, lost, judge, counted, None)


def exchange(
    desk: Desk,
    live: postgres.Session,
    deadline: postgres.Deadline,
    incoming: str,
    oid: int,
    release_id: str,
    lost: Sequence[Loss],
    judge: Callable[[int], Gate],
    counted: Sequence[int],
    written: Sequence[int] | None,
) -> dict[str, Any]:
    """Change the names of the live database and the one that comes, with clients held or ended."""
    params, name = desk.params, desk.url.database
    now = datetime.now(timezone.utc)
    aside = restores.kept_name(name, release_id, now)
    diff = {"before": f"{name}\n{incoming}\n", "after": f"{aside}\n{name}\n"}
    more: dict[str, Any] = {"lost": losses.as_dicts(lost), "kept": aside, "release_id": release_id, "back": written is None, "diff": diff}
    if desk.check:
        desk.gates.append(judge(0))
        return desk.result(True, [f"would put {incoming} in the place of {name} and keep that as {aside}"], **{**more, "done": False})
    pg_swap.give_traits(desk.session, incoming, desk.traits)
    mark = restores.kept_mark(params["app"], release_id, now, oid, written or (0, 0, 0), back=written is None)
    with desk.clients.session(deadline, postgres.COPY) as mover:
        try:
            with desk.pools.held(params["pause_seconds"]) as held:
                began = time.monotonic()
                done = pg_swap.swap(mover, desk.session, live, (name, aside, incoming), desk.traits, mark, judge, counted)
            if held:
                more["held_ms"] = round((time.monotonic() - began) * 1000, 1)
        except SluiceError as error:
            raise SluiceError(
                f"The swap did not come to its end: {error.message}",
                error.remedy or "Both names have changed or none; run this again, which finds out and goes on.",
                **error.facts,
            ) from error
    desk.gates.append(judge(done.late))
    with desk.clients.session(deadline) as fresh:
        if int(fresh.value("SELECT oid::bigint AS oid FROM pg_database WHERE datname = current_database()")) != oid:
            raise SluiceError(
                f"{name} is not the database that was put in its place: somebody renamed it meanwhile.", "Look at the names and comments in \\l+."
            )
    way = f"PgBouncer held its clients for {more['held_ms']:.0f} ms" if held else "new clients were kept out"
    actions = [f"put {incoming} in the place of {name} in {done.milliseconds:.0f} ms; {way}, {done.ended} connections were ended; {name} is kept as {aside}"]
    return desk.result(True, [*actions, *prune(desk)], **more, swap_ms=done.milliseconds, cut=done.ended)


def pruned(desk: Desk) -> dict[str, Any]:
    """Drop what is kept no longer."""
    actions = prune(desk)
    return desk.result(bool(actions), actions)


def prune(desk: Desk) -> list[str]:
    """Drop what is kept no longer, and say so; what cannot be dropped stays and is named."""
    kept = pg_swap.kept(desk.session, desk.params["app"])
    way_back = restores.newest(kept, pg_swap.traits(desk.session, desk.url.database).oid)
    said = []
    for one in restores.to_remove(kept, desk.params["keep"], desk.params["keep_days"], datetime.now(timezone.utc), way_back):
        failed = "" if desk.check else pg_swap.drop_kept(desk.session, one)
        did = f"could not drop {one.name} ({failed})" if failed else f"{'would drop' if desk.check else 'dropped'} {one.name}"
        said.append(f"{did}, moved aside at {one.at:%Y-%m-%d %H:%M:%S} UTC")
    return said


def look_for_obstacles(desk: Desk) -> None:
    """Stop where something holds on to the database that cannot be ended."""
    gates = restores.blocking_gates(desk.url.database, pg_swap.obstacles(desk.session, desk.url.database, desk.pools.check()))
    backups.refuse_failed(gates, "Nothing was changed")
    desk.gates.extend(gates)


def backup_folder(params: Mapping[str, Any]) -> str:
    """Return the folder of the backup that is wanted."""
    if "/" in params["backup"]:
        return str(params["backup"])
    if not params["directory"]:
        raise SluiceError(
            "The backup is named by its release, and directory is not set.", "Set directory to the folder of the backups, or give the whole path."
        )
    return os.path.join(params["directory"], backups.folder_name(params["app"], params["backup"]))


def run(params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Do what the state asks."""
    with at_desk(params, check) as desk:
        return {"swapped": swapped, "swapped_back": swapped_back, "pruned": pruned}[params["state"]](desk)


def main() -> None:
    module = AnsibleModule(
        argument_spec=postgres.argument_spec(
            state={"type": "str", "choices": ["swapped", "swapped_back", "pruned"], "default": "swapped"},
            backup={"type": "str"},
            directory={"type": "path"},
            accept_loss={"type": "str", "default": ""},
            again={"type": "bool", "default": False},
            exact_bytes={"type": "int", "default": 2147483648},
            maintenance_database={"type": "str", "default": "postgres"},
            pgbouncer_vars={"type": "list", "elements": "str", "default": []},
            pause_seconds={"type": "float", "default": 5.0},
            keep={"type": "int", "default": 2},
            keep_days={"type": "float", "default": 0.0},
        ),
        required_by={"fence": ["state_dir"]},
        required_if=[("state", "swapped", ["backup"])],
        supports_check_mode=True,
    )
    os.umask(0o077)
    with in_words(module):
        result = run(module.params, module.check_mode)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
