# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One backup to one destination, and one back: packed, encrypted, read back, and complete only with its manifest."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import backup_files, pack
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.copies import MANIFEST, drilled
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.destination import Destination, Written
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import make_folder, read_text, sync_directory
from ansible_collections.sluice.deploy.plugins.module_utils.core import backups, shipped
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.shipped import Shipped
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import PASS, Gate

# What a tar archive adds to its files, on the generous side: a header and padding for each, and the end.
_ENTRY, _END = 2048, 1 << 20


@dataclass(frozen=True)
class Local:
    """A backup in its own folder: path, manifest, the manifest's text, and whether it was restored once and compared."""

    path: str
    manifest: backups.Manifest
    text: str
    drilled: bool

    def digest(self) -> str:
        """Return the SHA-256 of the manifest, by which two backups under one id are told apart."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """What came of one destination."""

    changed: bool
    actions: list[str]
    gates: list[Gate]


def local(directory: str, app: str, release_id: str) -> Local:
    """Return the backup of a release.

    :raises SluiceError: there is none.
    """
    path = os.path.join(directory, backups.folder_name(app, release_id))
    name = os.path.join(path, MANIFEST)
    text = read_text(name)
    if text is None:
        raise SluiceError(f"{path} has no manifest, so there is no backup of {release_id} to ship.", "Take the backup first.", path=path)
    manifest = backups.from_json(text, name)
    backups.check_origin(manifest, app, manifest.database)
    return Local(path, manifest, text, drilled(path, text))


def ship(source: Local, destination: Destination, kind: str, recipients: Sequence[str], check: bool) -> Outcome:
    """Bring one backup to one destination, unless the very same lies there already and is whole.

    :raises SluiceError: another backup has its id there, or it could not be brought there.
    """
    manifest, where = source.manifest, destination.where(source.manifest.app)
    app, name = manifest.app, shipped.manifest_name(manifest.release_id)
    text = destination.manifests(app, name).get(name)
    there = shipped.from_json(text, name) if text is not None else None
    why = ""
    if there:
        shipped.check_same(there, source.digest(), where)
        wrong = destination.differs(app, there.data, Written(there.bytes, there.sha256, there.checksum))
        other = (there.encryption, there.recipients) != (kind, tuple(recipients))
        why = f": the copy there {wrong}" if wrong else f": the copy there is for other recipients ({there.encryption})" if other else ""
        if not why:
            proven = there.drilled or source.drilled
            if proven != there.drilled and not check:
                _describe(destination, replace(there, drilled=True))
            actions = [f"{where} has {manifest.release_id} already; it was read back"]
            return Outcome(proven != there.drilled, actions, [_gate(where, there), *_exposed(destination, app, name)])
    size = manifest.total_bytes() + len(source.text) + _ENTRY * (len(manifest.files) + 1) + _END
    if check:
        return Outcome(True, [f"would ship {source.path} to {where}, about {backups.size(size)}{why}"], [])
    with pack.encryption(kind, recipients) as program, pack.packed(source.path, manifest.files, MANIFEST, program) as blocks:
        data = shipped.data_name(manifest.release_id, kind)
        written = destination.write(app, data, blocks, size)
    made = Shipped(
        app, manifest.release_id, manifest.created, source.digest(), manifest.total_bytes(), data, written.bytes, written.sha256, written.checksum,
        kind, tuple(recipients), source.drilled or bool(there and there.drilled),
    )  # fmt: skip
    _describe(destination, made)
    if there and there.data != data:
        destination.remove(app, [there.data])
    return Outcome(True, [f"shipped {source.path} to {where}{why}"], [_gate(where, made), *_exposed(destination, app, name)])


def _describe(destination: Destination, made: Shipped) -> None:
    line = shipped.to_json(made).encode()
    destination.write(made.app, shipped.manifest_name(made.release_id), iter([line]), len(line))


def _gate(where: str, made: Shipped) -> Gate:
    how = "in the clear" if made.encryption == shipped.NONE else f"encrypted with {made.encryption}"
    return Gate("shipped", PASS, f"{where} holds {made.release_id}, {backups.size(made.bytes)}, {how}, and was read back.", value=made.bytes)


def _exposed(destination: Destination, app: str, name: str) -> list[Gate]:
    gate = destination.exposed(app, name)
    return [gate] if gate else []


def fetch(destination: Destination, there: Shipped, directory: str, identity: str | None) -> str:
    """Bring a copy back as the folder it was, compared file by file; return its path. A cut run leaves nothing that looks like a backup.

    :raises SluiceError: the copy is damaged, the identity does not fit, or there is no room.
    """
    app, where = there.app, destination.where(there.app)
    name = backups.folder_name(app, there.release_id)
    final = os.path.join(directory, name)
    for left in [left for left in os.listdir(directory) if re.match(rf"\.{re.escape(name)}\.\d+\.partial\Z", left)]:
        shutil.rmtree(os.path.join(directory, left), ignore_errors=True)
    partial = os.path.join(directory, f".{name}.{os.getpid()}.partial")
    digest = hashlib.sha256()

    def hashing(blocks: Iterator[bytes]) -> Iterator[bytes]:
        for block in blocks:
            digest.update(block)
            yield block

    try:
        make_folder(partial, 0o700)
        try:
            with pack.decryption(there.encryption, identity) as argv, destination.read(app, there.data) as raw, pack.through(hashing(raw), argv) as stream:
                # Its manifest is in it as well.
                pack.unpack(stream, partial, there.plain_bytes + _END)
        except (SluiceError, tarfile.TarError) as error:
            # Damage looks like a wrong key, or like no archive at all; what lies there tells which it is.
            wrong = destination.differs(app, there.data, Written(there.bytes, there.sha256, there.checksum))
            if wrong:
                raise _damaged(where, there, wrong) from error
            raise error if isinstance(error, SluiceError) else _damaged(where, there, f"is no archive: {error}") from error
        if digest.hexdigest() != there.sha256:
            raise _damaged(where, there, "has another SHA-256 than what was shipped")
        text = read_text(os.path.join(partial, MANIFEST)) or ""
        if hashlib.sha256(text.encode()).hexdigest() != there.backup:
            raise _damaged(where, there, "holds another backup's manifest")
        manifest = backups.from_json(text, os.path.join(partial, MANIFEST))
        backups.refuse_failed(backups.check_files(manifest, backup_files.hash_files(partial, skip=(MANIFEST,))), f"The copy in {where} is damaged")
        os.rename(partial, final)
        sync_directory(directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def _damaged(where: str, there: Shipped, what: str) -> SluiceError:
    return SluiceError(f"The copy of {there.release_id} in {where} is damaged: {there.data} {what}.", "Fetch it from another destination.")
