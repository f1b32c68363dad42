# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Shipped backups: the manifest of a copy, the names of its files, and what destinations and recipients may be."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core import backups
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

FORMAT = 1
LOCAL = "local"
NONE, AGE, GPG = "none", "age", "gpg"
SUFFIX = {NONE: "", AGE: ".age", GPG: ".gpg"}
MANIFEST = ".json"

_PLACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_AGE = re.compile(r"(?:age1[0-9a-z]{20,}|ssh-(?:ed25519|rsa) [A-Za-z0-9+/=]+(?: .*)?)\Z")


@dataclass(frozen=True)
class Shipped:
    """The manifest of a copy. It holds nothing of the database's content, so it lies beside the data in the clear.

    :param created: when the backup's snapshot was taken, ISO 8601 in UTC.
    :param backup: SHA-256 of the backup's own manifest, by which two backups under one id are told apart.
    :param plain_bytes: size of the backup's files before they were packed.
    :param bytes: size of the one file that was shipped, and ``sha256`` its digest: of what lies there, encrypted or not.
    :param checksum: the storage's own checksum of that file; empty where it has none.
    :param drilled: the backup was restored once and compared with its manifest.
    """

    app: str
    release_id: str
    created: str
    backup: str
    plain_bytes: int
    data: str
    bytes: int
    sha256: str
    checksum: str
    encryption: str
    recipients: tuple[str, ...] = ()
    drilled: bool = False
    format: int = field(default=FORMAT)


def manifest_name(release_id: str) -> str:
    """Return the name of a copy's manifest."""
    return release_id + MANIFEST


def data_name(release_id: str, encryption: str) -> str:
    """Return the name of a copy's data."""
    return f"{release_id}.tar{SUFFIX[encryption]}"


def to_json(shipped: Shipped) -> str:
    """Return the manifest as it is written: one line."""
    return json.dumps(asdict(shipped), sort_keys=True) + "\n"


def from_json(text: str, name: str) -> Shipped:
    """Return the manifest of a copy.

    :param name: the file's name there.
    :raises SluiceError: it is damaged, of a format this version does not know, or of another copy.
    """
    try:
        data: dict[str, Any] = json.loads(text)
        if data["format"] != FORMAT:
            raise SluiceError(f"{name} has the format {data['format']}; this version reads {FORMAT}.", "Use the version of the collection that wrote it.")
        shipped = Shipped(**{**data, "recipients": tuple(data["recipients"])})
        moment(shipped.created)
        if manifest_name(shipped.release_id) != name or shipped.data != data_name(shipped.release_id, shipped.encryption) or shipped.bytes < 0:
            raise ValueError(name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SluiceError(f"{name} cannot be read as the manifest of a copy.", "Ship the backup again, or remove the file by hand.") from error
    return shipped


def moment(text: str) -> datetime:
    """Return a manifest's time.

    :raises ValueError: it is none.
    """
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)


def check_same(there: Shipped, backup: str, place: str) -> None:
    """Refuse to replace another backup that was shipped under the same id: it may be the one of before a migration.

    :raises SluiceError: it is another one.
    """
    if there.backup != backup:
        raise SluiceError(
            f"{place} has another backup under the id {there.release_id}, taken {there.created}; it was not replaced.",
            "Take the backup under another release id, or remove that copy by hand.",
        )


def check_destinations(destinations: Sequence[Mapping[str, Any]]) -> None:
    """Refuse destinations that cannot be told apart, or that would be looked for in different places at different times.

    :raises SluiceError: names the destination, what is wrong and what is allowed.
    """
    seen: set[str] = set()
    for number, each in enumerate(destinations, 1):
        name = each["name"]
        if not _PLACE.match(name) or name == LOCAL or name in seen:
            why = "is there twice" if name in seen else "means the backup's own folder" if name == LOCAL else "is no name"
            raise SluiceError(f"Destination {number}: {name!r} {why}.", "Give each its own name of letters, digits, dots and minus. Example: offsite")
        seen.add(name)
        path = each.get("path") or ""
        if each["kind"] != "s3" and not re.match(r"/[^\n\0]*\Z", path):
            raise SluiceError(f"Destination {name}: the path {path!r} is not absolute.", "Example: /srv/backups")
        for option in ("host", "user"):
            # What begins with a minus would be an option of ssh.
            if each["kind"] == "ssh" and not re.match(r"[A-Za-z0-9_\[:][A-Za-z0-9_.:\]-]*\Z", each.get(option) or ("x" if option == "user" else "")):
                raise SluiceError(f"Destination {name}: {each.get(option)!r} is no {option}.", "Example: host: vault.example.org, user: backup")
        for option in ("access_key_var", "secret_key_var"):
            if each["kind"] == "s3" and bool(each.get("access_key_var")) != bool(each.get("secret_key_var")):
                raise SluiceError(
                    f"Destination {name}: {option} is one half of a pair.", "Set access_key_var and secret_key_var, or neither where the host has a role."
                )


def check_encryption(kind: str, recipients: Sequence[str]) -> None:
    """Refuse recipients that are none. A recipient is public; what could be a secret key is never shown.

    :raises SluiceError: says which, and what is allowed.
    """
    if kind == NONE and recipients:
        raise SluiceError("There are recipients, and the encryption is none: the copies would not be encrypted.", "Set kind to age or gpg.")
    if kind != NONE and not recipients:
        raise SluiceError(f"The encryption is {kind}, and nobody could decrypt: there is no recipient.", "Name at least one; better two, one kept offline.")
    for number, each in enumerate(recipients, 1):
        if kind == AGE and not _AGE.match(each):
            raise SluiceError(
                f"Recipient {number} is no public key of age.",
                "Use what `age-keygen -y` prints, or a public key of ssh-ed25519 or ssh-rsa; never a secret key.",
            )
        if kind == GPG and not each.startswith("/"):
            raise SluiceError(f"Recipient {number} is no path.", "Name the file of the public key on this host. Example: /etc/sluice/backup.asc")


def local_copies(app: str, names: Sequence[str]) -> list[str]:
    """Return the folders among ``names`` that may hold a backup of the app."""
    start = backups.folder_name(app, "0")[:-1]
    return sorted(name for name in names if name.startswith(start))


def files_of(shipped: Shipped) -> tuple[str, str]:
    """Return the files of a copy in the order in which they are removed: a copy without its data is known as one that is none."""
    return (shipped.data, manifest_name(shipped.release_id))


def may_be_left(name: str) -> bool:
    """Tell whether a file's name is one that a cut upload leaves; a file of somebody else is none of our business."""
    return bool(re.match(r"\..+\.partial\Z|[^.].*\.tar(?:\.age|\.gpg)?(?:#.*)?\Z|[^.].*\.json#.*\Z", name))


def belongs(name: str, manifests: Mapping[str, Shipped | None]) -> bool:
    """Tell whether a file belongs to a copy; of a copy whose manifest cannot be read (None), everything does."""
    if name in manifests:
        return True
    for manifest, shipped in manifests.items():
        release = manifest[: -len(MANIFEST)]
        if shipped is None and name in {data_name(release, kind) for kind in SUFFIX}:
            return True
        if shipped is not None and name == shipped.data:
            return True
    return False
