# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups: the manifest as data, and the rules that say whether files and tables still are what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, PASS, Gate, stops

FORMAT = 1
MARKER = "sluice rehearsal"
SUFFIX = "_rehearsal"
NAME_BYTES = 63

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}\Z")
_RESTORE = "Take a new backup under another release id; do not release on this one."
# Share of the tables' size on disk that an archive takes, on the generous side.
_RATIO = {"zstd": 0.5, "lz4": 0.7, "gzip": 0.5, "none": 1.2}
_OVERHEAD = 65536


@dataclass(frozen=True)
class FileFact:
    """A file's size and SHA-256."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a backup holds.

    :param created: when its snapshot was taken, ISO 8601 in UTC.
    :param lsn: the write-ahead log position of the snapshot.
    :param tables: rows of each table, counted inside the snapshot that was dumped.
    :param heads: migrations that were newest.
    :param files: every file of the archive, with the path below the backup's folder.
    """

    app: str
    release_id: str
    database: str
    created: str
    server_version: str
    client_version: str
    lsn: str
    compression: str
    tables: Mapping[str, int]
    heads: tuple[str, ...]
    files: Mapping[str, FileFact]
    format: int = field(default=FORMAT)

    def total_bytes(self) -> int:
        """Return the size of the archive."""
        return sum(fact.bytes for fact in self.files.values())


def to_json(manifest: Manifest) -> str:
    """Return the manifest as it is written: the same bytes for the same content."""
    return json.dumps(asdict(manifest), indent=2, sort_keys=True) + "\n"


def from_json(text: str, path: str) -> Manifest:
    """Return a manifest that was written.

    :raises SluiceError: it is damaged, or of a format this version does not know.
    """
    try:
        data: dict[str, Any] = json.loads(text)
        if data["format"] != FORMAT:
            raise SluiceError(
                f"{path} has the format {data['format']}; this version reads {FORMAT}.", "Use the version of the collection that wrote it.", path=path
            )
        data["files"] = {name: FileFact(int(fact["bytes"]), str(fact["sha256"])) for name, fact in data["files"].items()}
        data["tables"] = {name: int(rows) for name, rows in data["tables"].items()}
        data["heads"] = tuple(data["heads"])
        return Manifest(**data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SluiceError(f"The manifest {path} is damaged: it cannot be read as one.", _RESTORE, path=path) from error


def folder_name(app: str, release_id: str) -> str:
    """Return the name of a backup's folder.

    :raises SluiceError: app or release id could not be part of a file name.
    """
    for what, value in (("app", app), ("release id", release_id)):
        if not _NAME.match(value):
            raise SluiceError(
                f"The {what} {value!r} cannot be part of a file name.",
                "Use letters, digits, dots, underscores, plus and minus, beginning with a letter or digit.",
            )
    return f"{app}-{release_id}"


def estimate(table_bytes: int, compression: str) -> int:
    """Return the bytes an archive of these tables will take at most, as far as one can tell before."""
    return int(table_bytes * _RATIO[compression.split(":")[0]]) + _OVERHEAD


def check_room(needed: int, free: int, max_bytes: int, directory: str) -> None:
    """Refuse a backup that will not fit.

    :raises SluiceError: it is over the limit (0 is none) or over the free space.
    """
    if max_bytes and needed > max_bytes:
        raise SluiceError(
            f"The backup would take about {size(needed)}; the limit is {size(max_bytes)}. Nothing was started.",
            "Raise max_bytes, or make the database smaller.",
            needed=needed,
            limit=max_bytes,
        )
    if needed > free:
        raise SluiceError(
            f"The backup would take about {size(needed)}; {directory} has {size(free)} free. Nothing was started.",
            "Make room, or choose another directory.",
            needed=needed,
            free=free,
        )


def size(count: float) -> str:
    """Return bytes in words."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def check_client(client: int, server: int) -> None:
    """Refuse clients that are older than the server.

    :raises SluiceError: pg_dump would refuse the server, or leave out what it does not know.
    """
    if client < server:
        raise SluiceError(
            f"The PostgreSQL clients are version {client}, the server is version {server}; an older pg_dump cannot dump a newer server.",
            f"Install the clients of version {server}, or name their folder in client_directory.",
            client=client,
            server=server,
        )


def check_origin(manifest: Manifest, app: str, database: str) -> None:
    """Refuse a backup of something else.

    :raises SluiceError: app or database differ.
    """
    for what, had, wanted in (("app", manifest.app, app), ("database", manifest.database, database)):
        if had != wanted:
            raise SluiceError(f"The backup is of the {what} {had}, not of {wanted}.", "Name the backup of this release.")


def check_server(manifest: Manifest, server: int) -> None:
    """Refuse to restore on a server that is older than the one the backup is of.

    :raises SluiceError: it is.
    """
    if int(manifest.server_version.split(".")[0]) > server:
        raise SluiceError(
            f"The backup is of a PostgreSQL {manifest.server_version}; this server is version {server}.", "Restore it on the same or a newer version."
        )


def compressions(wanted: str) -> tuple[str, ...]:
    """Return the compressions to try, the best first.

    :raises SluiceError: it is none that pg_dump has.
    """
    if wanted == "auto":
        return ("zstd:3", "lz4", "gzip:1")
    if not re.match(r"(?:none|(?:zstd|lz4|gzip)(?::\d{1,2})?)\Z", wanted):
        raise SluiceError(f"{wanted!r} is no compression.", "Use auto, none, zstd, lz4 or gzip, with a level such as zstd:3.")
    return (wanted,)


def refuse_failed(gates: list[Gate], what: str) -> None:
    """Stop when a gate did not pass.

    :raises SluiceError: with the sentences of all that did not, and the gates.
    """
    failed = [gate for gate in gates if stops(gate.verdict)]
    if failed:
        raise SluiceError(f"{what}: {' '.join(gate.sentence for gate in failed)}", failed[0].remedy, gates=[gate.as_dict() for gate in gates])


def check_files(manifest: Manifest, seen: Mapping[str, FileFact]) -> list[Gate]:
    """Compare the files on disk with the manifest: one failed gate for each that differs, by name, or one that passed."""
    gates = [_file_gate(name, fact, seen.get(name)) for name, fact in sorted(manifest.files.items()) if seen.get(name) != fact]
    gates += [
        Gate("backup", FAIL, f"{name} is not in the manifest.", value="unknown file", remedy=_RESTORE) for name in sorted(set(seen) - set(manifest.files))
    ]
    if gates:
        return gates
    total = manifest.total_bytes()
    return [
        Gate(
            "backup",
            PASS,
            f"All {len(manifest.files)} files ({size(total)}) have the size and SHA-256 of the manifest.",
            value=total,
            sample=len(manifest.files),
        )
    ]


def _file_gate(name: str, wanted: FileFact, seen: FileFact | None) -> Gate:
    if seen is None:
        return Gate("backup", FAIL, f"{name} is missing.", value="missing", limit=wanted.bytes, remedy=_RESTORE)
    if seen.bytes != wanted.bytes:
        how = "empty" if not seen.bytes else "cut short" if seen.bytes < wanted.bytes else "too long"
        return Gate(
            "backup", FAIL, f"{name} is {how}: {seen.bytes} bytes, the manifest says {wanted.bytes}.", value=seen.bytes, limit=wanted.bytes, remedy=_RESTORE
        )
    return Gate("backup", FAIL, f"{name} is damaged: it has the right size but another SHA-256.", value=seen.sha256, limit=wanted.sha256, remedy=_RESTORE)


def check_tables(manifest: Manifest, seen: Mapping[str, int], seconds: float) -> list[Gate]:
    """Compare a restored copy with the manifest: every table, to the last row."""
    gates = []
    for name in sorted({*manifest.tables, *seen}):
        wanted, found = manifest.tables.get(name), seen.get(name)
        if wanted != found:
            was, now = ("no such table" if rows is None else f"{rows} rows" for rows in (wanted, found))
            gates.append(Gate("drill", FAIL, f"{name}: {was} in the manifest, {now} in the restored copy.", value=now, limit=was, remedy=_RESTORE))
    if gates:
        return gates
    rows = sum(manifest.tables.values())
    sentence = (
        f"The backup was restored in {seconds:.1f} s; all {len(manifest.tables)} tables have the {rows} rows that were counted in the dump's own snapshot."
    )
    return [Gate("drill", PASS, sentence, value=round(seconds, 3), sample=rows)]


def rehearsal_name(database: str, wanted: str | None = None) -> str:
    """Return the name of the rehearsal database.

    :raises SluiceError: it is that of the real one, or longer than PostgreSQL can tell apart.
    """
    name = wanted or _cut(database, NAME_BYTES - len(SUFFIX)) + SUFFIX
    if len(name.encode()) > NAME_BYTES:
        raise SluiceError(f"The rehearsal database's name has {len(name.encode())} bytes; PostgreSQL cuts names after {NAME_BYTES}.", "Choose a shorter name.")
    if name == database:
        raise SluiceError(f"{name} is the real database; a rehearsal never runs there.", "Choose another name, or leave it out.")
    return name


def _cut(text: str, limit: int) -> str:
    return text.encode()[:limit].decode(errors="ignore")


def marker(app: str, release_id: str) -> str:
    """Return the comment by which a rehearsal database is known as one."""
    return f"{MARKER} of {app} {release_id}"


def check_marker(name: str, comment: str | None) -> None:
    """Refuse to drop a database that no rehearsal made; None is no database at all.

    :raises SluiceError: its comment is not the marker of a rehearsal.
    """
    if comment is not None and not comment.startswith(MARKER + " "):
        raise SluiceError(
            f"The database {name} exists and no rehearsal made it (its comment does not begin with '{MARKER}'), so it is left alone.",
            "Choose another name for the rehearsal, or drop it by hand if it is of no use.",
            database=name,
        )
