#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of backups in other places: shipped, listed, brought back, and removed when their time is over."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_store
short_description: Ship backups of the database to other places, list them, fetch them, and remove old ones
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Works on backups that M(sluice.deploy.backup) made, on the host where they lie.
  - A copy is one file (a tar archive, encrypted on this host when O(encryption) says so) and a manifest of one line, in a folder of the app.
    The file is written under a temporary name, or as an object that is not there until it is complete; it is read back and compared; the manifest
    comes last. It also notes whether the backup was restored once and compared, which C(drill.json) in the backup's folder says.
    Without its manifest nothing counts as a copy, so an upload that was cut is never taken for a backup. A cut run is begun anew.
  - One destination that fails does not stop the others; the module fails at the end and names each.
attributes:
  check_mode:
    description: Looks into every place and says what would be done, with the reason for each copy that would stay or go. Writes nothing.
    support: full
  diff_mode:
    description: With O(state=pruned), the copies before and after, each with its reason.
    support: full
options:
  state:
    description:
      - V(present), the backup of O(release_id) is in every destination and was read back.
      - V(read) lists the copies of all places and, with O(max_age), judges the newest of each.
      - V(fetched), the backup of O(release_id) is in O(directory) again, decrypted and compared with its manifest.
      - V(pruned) removes the copies whose time is over, here and in the destinations.
    type: str
    choices: [present, read, fetched, pruned]
    default: present
  app:
    description: Name of the app.
    type: str
    required: true
  directory:
    description: Folder of the backups on this host. It is the place V(local).
    type: path
    required: true
  release_id:
    description: Release whose backup is meant, with O(state=present) and O(state=fetched).
    type: str
  destinations:
    description: Other places, in the order in which they are used.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Its name in messages.
        type: str
        required: true
      kind:
        description: A folder of this host on another disk, a host reached by SSH, or storage that speaks S3. The last needs boto3.
        type: str
        choices: [path, ssh, s3]
        required: true
      path:
        description: Folder, here or on the host. It has to be there already, so that a disk that is not mounted is noticed.
        type: path
      host:
        description: Name or address of the host.
        type: str
      port:
        description: Port of its SSH server.
        type: int
        default: 22
      user:
        description: User there. Without it, the one that ssh would take.
        type: str
      key_file:
        description: File of the private key, on this host. Without it, the keys that ssh would take.
        type: path
      known_hosts:
        description: File with the key of the host. Without it, the files that ssh would take. A host whose key is not known is always refused.
        type: path
      bucket:
        description: Bucket.
        type: str
      prefix:
        description: What the names of objects begin with.
        type: str
        default: ''
      endpoint:
        description: Address of the storage, for anything but AWS. For example V(https://s3.example.org).
        type: str
      region:
        description: Region.
        type: str
      addressing:
        description: Whether the bucket's name is in the path or in the host of the address.
        type: str
        choices: [auto, path, virtual]
        default: auto
      access_key_var:
        description: Variable of O(env_file) with the id of the access key. Without it, what boto3 finds, such as the role of the host.
        type: str
      secret_key_var:
        description: Variable of O(env_file) with the secret of the access key.
        type: str
      token_var:
        description: Variable of O(env_file) with a session token.
        type: str
      sse:
        description: Encryption that the storage does by itself. It is asked for with each upload, and looked for afterwards.
        type: str
        choices: [none, AES256, 'aws:kms']
        default: AES256
      sse_key:
        description: Id of the key, with V(aws:kms).
        type: str
      retention:
        description: Replaces O(retention) in this place.
        type: dict
  encryption:
    description: Encryption on this host, before anything leaves it.
    type: dict
    suboptions:
      kind:
        description: Nothing, age, or GnuPG.
        type: str
        choices: [none, age, gpg]
        default: none
      recipients:
        description: Public keys of age or SSH as text, or with V(gpg) the paths of files with one public key each.
        type: list
        elements: str
        default: []
  identity:
    description: File with the secret key that decrypts, with O(state=fetched). Mode 0600; without a passphrase.
    type: path
  source:
    description: Destination to fetch from. Without it, the first that has a good copy.
    type: str
  retention:
    description:
      - How many copies stay, with O(state=pruned). C(last) counts copies; C(daily), C(weekly), C(monthly) and C(yearly) count days, ISO weeks,
        months and years in UTC that have a copy, and keep the newest of each.
      - The newest, the newest that was drilled, those of O(pinned), those dated in the future, and those that no destination has yet always stay.
    type: dict
  pinned:
    description: Releases whose backups stay whatever O(retention) says, such as those that the ledger points to.
    type: list
    elements: str
    default: []
  max_age:
    description: Seconds that the newest copy of each place may be old, with O(state=read). V(0) judges nothing.
    type: int
    default: 0
  env_file:
    description: Environment file with the keys of the storage, readable by its owner alone.
    type: path
  timeout:
    description: Seconds after which everything is stopped.
    type: int
    default: 3600
  fence:
    description: Fencing number of the lease. The module refuses to change anything when O(state_dir) has seen a higher one.
    type: int
  state_dir:
    description: Folder in which the highest fencing number is remembered.
    type: path
"""

EXAMPLES = r"""
- name: Ship the backup of this release
  sluice.deploy.backup_store:
    app: wallet
    directory: /var/backups/sluice
    release_id: "{{ release_id }}"
    env_file: /etc/wallet/backup.env
    encryption: {kind: age, recipients: [age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p]}
    destinations:
      - {name: disk, kind: path, path: /mnt/backups}
      - {name: vault, kind: ssh, host: vault.example.org, user: backup, path: /srv/backups, key_file: /etc/sluice/vault}
      - {name: offsite, kind: s3, bucket: backups, endpoint: 'https://s3.example.org', access_key_var: S3_KEY, secret_key_var: S3_SECRET}

- name: See what would be removed, and why
  sluice.deploy.backup_store:
    state: pruned
    app: wallet
    directory: /var/backups/sluice
    retention: {last: 3, daily: 7, weekly: 5, monthly: 12}
    pinned: "{{ release_ids }}"
  check_mode: true
  diff: true
"""

RETURN = r"""
actions:
  description: What was done, in sentences.
  returned: always
  type: list
  elements: str
gates:
  description: C(shipped), C(private) and C(fresh), one for each place, each with name, verdict, sentence, value and limit.
  returned: always
  type: list
  elements: dict
copies:
  description:
    - With O(state=read) and O(state=pruned), each copy with place, release_id, created, age in seconds, bytes, drilled and whole.
    - With O(state=pruned) also keep and reason.
  returned: success
  type: list
  elements: dict
path:
  description: The backup's folder, with O(state=fetched).
  returned: success
  type: str
"""

import os
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import backup_files, fence, pack, shipping
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.copies import DRILL, MANIFEST, Place, look, look_here, remove_here
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.destination import Deadline, Destination, open_destination
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import free_bytes, locked, make_folder, read_text
from ansible_collections.sluice.deploy.plugins.module_utils.core import backups, dotenv, retention, shipped
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, Gate
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words


def open_all(params: Mapping[str, Any]) -> list[Destination]:
    """Check what was given and open the destinations."""
    backups.folder_name(params["app"], params["release_id"] or "0")
    shipped.check_destinations(params["destinations"])
    secrets: Mapping[str, str] = {}
    if params["env_file"]:
        pack.private(params["env_file"], "env_file")
        secrets = dotenv.parse(read_text(params["env_file"]) or "")
    deadline = Deadline(params["timeout"])
    return [open_destination(each, secrets, deadline) for each in params["destinations"]]


def present(params: Mapping[str, Any], destinations: list[Destination], check: bool) -> dict[str, Any]:
    """Bring the backup of a release to every destination."""
    source = shipping.local(params["directory"], params["app"], params["release_id"])
    given = params["encryption"] or {"kind": shipped.NONE, "recipients": []}
    shipped.check_encryption(given["kind"], given["recipients"])
    result: dict[str, Any] = {"changed": False, "actions": []}
    gates = []
    for destination in destinations:
        try:
            done = shipping.ship(source, destination, given["kind"], given["recipients"], check)
        except (SluiceError, OSError) as error:
            gates.append(Gate("shipped", FAIL, words(error, destination.name), remedy=getattr(error, "remedy", "")))
            continue
        result["changed"] |= done.changed
        result["actions"] += done.actions
        gates += done.gates
    return finished(result, gates, f"The backup {params['release_id']} is not safe in every destination")


def words(error: Exception, name: str) -> str:
    """Return what went wrong in one place, as a sentence."""
    if isinstance(error, OSError):
        return f"{name}: {error.filename or 'a file'} could not be used: {error.strerror}."
    text = error.message if isinstance(error, SluiceError) else str(error)
    return text if text.startswith(name) else f"{name}: {text}"


def finished(result: dict[str, Any], gates: list[Gate], what: str) -> dict[str, Any]:
    """Return the result with its gates.

    :raises SluiceError: a gate did not pass; what was done is told all the same.
    """
    failed = [gate for gate in gates if gate.verdict != "pass"]
    if failed:
        told = {key: value for key, value in result.items() if key != "diff"}
        sentences = " ".join(gate.sentence for gate in failed)
        raise SluiceError(f"{what}: {sentences}", failed[0].remedy, gates=[gate.as_dict() for gate in gates], **told)
    return {**result, "gates": [gate.as_dict() for gate in gates]}


def places(params: Mapping[str, Any], destinations: list[Destination], now: datetime) -> list[Place]:
    """Look into every place."""
    return [look_here(params["directory"], params["app"]), *(look(each, params["app"], now) for each in destinations)]


def told(copy: retention.Copy, now: datetime) -> dict[str, Any]:
    """Return a copy as the result shows it."""
    return {
        "place": copy.place,
        "release_id": copy.release_id,
        "created": copy.created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "age": int((now - copy.created).total_seconds()),
        "bytes": copy.bytes,
        "drilled": copy.drilled,
        "whole": copy.whole,
    }


def read(params: Mapping[str, Any], destinations: list[Destination], _check: bool) -> dict[str, Any]:
    """List the copies, and judge the newest of each place."""
    now = datetime.now(timezone.utc)
    seen = places(params, destinations, now)
    copies = [told(copy, now) for place in seen for copy in sorted(place.copies or [], key=lambda copy: copy.created, reverse=True)]
    actions = [sentence for place in seen for sentence in place.trouble]
    gates = [retention.fresh(place.where, place.copies, params["max_age"], now) for place in seen] if params["max_age"] else []
    return finished({"changed": False, "actions": actions, "copies": copies}, gates, "The backups are not fresh")


def fetched(params: Mapping[str, Any], destinations: list[Destination], check: bool) -> dict[str, Any]:
    """Bring the backup of a release back, from the first place that has a good copy."""
    final = os.path.join(params["directory"], backups.folder_name(params["app"], params["release_id"]))
    text = read_text(os.path.join(final, MANIFEST))
    if text is not None:
        manifest = backups.from_json(text, os.path.join(final, MANIFEST))
        gates = backups.check_files(manifest, backup_files.hash_files(final, skip=(MANIFEST, DRILL)))
        backups.refuse_failed(gates, f"{final} is there and damaged. Move it away to fetch a copy")
        return {"changed": False, "actions": [f"checked {final}, which was there already"], "gates": [gate.as_dict() for gate in gates], "path": final}
    if os.path.lexists(final):
        raise SluiceError(f"{final} is there and has no manifest, so it is no backup of this collection.", "Move it away.", path=final)
    wanted = [each for each in destinations if params["source"] in (None, each.name)]
    name, trouble = shipped.manifest_name(params["release_id"]), []
    for destination in wanted:
        where = destination.where(params["app"])
        try:
            line = destination.manifests(params["app"], name).get(name)
            if line is None:
                trouble.append(f"{where} has no copy of {params['release_id']}.")
                continue
            there = shipped.from_json(line, name)
            backups.check_room(there.plain_bytes, free_bytes(params["directory"]), 0, params["directory"])
            result = {"changed": True, "gates": [], "path": final}
            if check:
                return {**result, "actions": [*trouble, f"would fetch {params['release_id']} from {where} to {final}, {backups.size(there.bytes)}"]}
            make_folder(params["directory"], 0o700)
            shipping.fetch(destination, there, params["directory"], params["identity"])
            return {**result, "actions": [*trouble, f"fetched {params['release_id']} from {where} to {final}, and compared it with its manifest"]}
        except (SluiceError, OSError) as error:
            trouble.append(words(error, destination.name))
    raise SluiceError(
        f"The backup {params['release_id']} could not be fetched: {' '.join(trouble) or 'no destination has that name.'}", "Name another source or release id."
    )


def pruned(params: Mapping[str, Any], destinations: list[Destination], check: bool) -> dict[str, Any]:
    """Remove the copies whose time is over."""
    now = datetime.now(timezone.utc)
    rules = {shipped.LOCAL: params["retention"], **{each["name"]: each["retention"] or params["retention"] for each in params["destinations"]}}
    policies = {name: retention.policy(given or {}, name) for name, given in rules.items()}
    seen = places(params, destinations, now)
    afar = {copy.release_id for place in seen[1:] for copy in place.copies or [] if copy.whole}
    here = {copy.release_id for copy in seen[0].copies or []}
    actions, gates, copies, before, after = [], [], [], [], []
    for place, destination in zip(seen, [None, *destinations]):
        actions += place.trouble if place.copies is not None else []
        if place.copies is None:
            gates.append(Gate("pruned", FAIL, f"{place.where}: nothing was removed: {' '.join(place.trouble)}"))
            continue
        unshipped = here - afar if destinations and destination is None else ()
        choices = retention.choose(place.copies, policies[place.name], params["pinned"], now, unshipped)
        removed = [choice for choice in choices if not choice.keep]
        for choice in choices:
            line = f"{place.name} {choice.copy.release_id} {choice.copy.created:%Y-%m-%dT%H:%MZ} {backups.size(choice.copy.bytes)}: {choice.reason}\n"
            before.append(line)
            after += [line] if choice.keep else []
            copies.append({**told(choice.copy, now), "keep": choice.keep, "reason": choice.reason})
        files = [name for choice in removed for name in place.files[choice.copy.release_id]] + place.left
        try:
            if files and not check:
                remove_here(params["directory"], files) if destination is None else destination.remove(params["app"], files)
        except (SluiceError, OSError) as error:
            gates.append(Gate("pruned", FAIL, words(error, place.name)))
            continue
        verb = "would remove" if check else "removed"
        actions += [f"{verb} {each.copy.release_id} from {place.where}, {backups.size(each.copy.bytes)}: {each.reason}" for each in removed]
        actions += [f"{verb} {name} from {place.where}: a run that was cut left it" for name in place.left]
        before += [f"{place.name} {name}: left by a run that was cut\n" for name in place.left]
    changed = before != after
    result = {"changed": changed, "actions": actions, "copies": copies, "diff": {"before": "".join(before), "after": "".join(after)}}
    return finished(result, gates, "Not every place could be pruned")


STATES = {"present": present, "read": read, "fetched": fetched, "pruned": pruned}


def run(params: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """Do what the state says, one run at a time on this host."""
    destinations = open_all(params)
    work = STATES[params["state"]]
    if check or params["state"] == "read":
        return work(params, destinations, check)
    if params["fence"] is not None:
        make_folder(params["state_dir"], 0o700)
        with locked(os.path.join(params["state_dir"], ".lock")):
            fence.claim(params["state_dir"], params["fence"])
    make_folder(params["directory"], 0o700)
    with locked(os.path.join(params["directory"], f".{params['app']}.store.lock"), timeout=60):
        return work(params, destinations, check)


def main() -> None:
    destination = {
        "name": {"type": "str", "required": True},
        "kind": {"type": "str", "choices": ["path", "ssh", "s3"], "required": True},
        "path": {"type": "path"},
        "host": {"type": "str"},
        "port": {"type": "int", "default": 22},
        "user": {"type": "str"},
        "key_file": {"type": "path"},
        "known_hosts": {"type": "path"},
        "bucket": {"type": "str"},
        "prefix": {"type": "str", "default": ""},
        "endpoint": {"type": "str"},
        "region": {"type": "str"},
        "addressing": {"type": "str", "choices": ["auto", "path", "virtual"], "default": "auto"},
        "access_key_var": {"type": "str", "no_log": False},
        "secret_key_var": {"type": "str", "no_log": False},
        "token_var": {"type": "str", "no_log": False},
        "sse": {"type": "str", "choices": ["none", "AES256", "aws:kms"], "default": "AES256"},
        "sse_key": {"type": "str", "no_log": False},
        "retention": {"type": "dict"},
    }
    encryption = {
        "kind": {"type": "str", "choices": ["none", "age", "gpg"], "default": "none"},
        "recipients": {"type": "list", "elements": "str", "default": []},
    }
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": list(STATES), "default": "present"},
            "app": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "release_id": {"type": "str"},
            "destinations": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": destination,
                "required_if": [("kind", "path", ("path",)), ("kind", "ssh", ("host", "path")), ("kind", "s3", ("bucket",))],
            },
            "encryption": {"type": "dict", "options": encryption},
            "identity": {"type": "path"},
            "source": {"type": "str"},
            "retention": {"type": "dict"},
            "pinned": {"type": "list", "elements": "str", "default": []},
            "max_age": {"type": "int", "default": 0},
            "env_file": {"type": "path"},
            "timeout": {"type": "int", "default": 3600},
            "fence": {"type": "int"},
            "state_dir": {"type": "path"},
        },
        required_if=[("state", "present", ("release_id", "destinations")), ("state", "fetched", ("release_id", "destinations"))],
        required_by={"fence": ["state_dir"]},
        supports_check_mode=True,
    )
    os.umask(0o077)
    with in_words(module):
        result = run(module.params, module.check_mode)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
