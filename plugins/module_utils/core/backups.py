# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups: the manifest as data, and the rules that say whether files and tables still are what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, PASS, Gate, stops

FORMAT = 2
MARKER, RESTORED = "sluice rehearsal", "sluice restored"
SUFFIX, RESTORED_SUFFIX = "_rehearsal", "_restored"
# A database cannot be made and marked at once. Closed and with this limit, which nobody else sets, it is known as ours before it has its mark.
HALF_MADE_LIMIT = 1_726_354
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
    :param files: every file of the backup, with the path below its folder.
    :param checksums: sum of the row hashes of the tables that were cheap to hash, as text.
    :param table_bytes: size of each table on disk when it was backed up.
    :param sequences: the value each sequence gave next before and after the dump; only on a quiet database are they equal.
    :param settings: what the database must be made with, and its own settings.
    :param roles: roles that own something or were granted something, with their attributes; no passwords.
    :param schema_sha256: fingerprint of the schema, whose text is ``schema.txt`` among the files.
    :param globals: what ``globals.sql`` holds of the server's roles, or why there is none.
    :param writes: counters of rows inserted, updated and deleted in each table when it was backed up.
    :param snapshot: the transactions that the backup sees, ``xmin:xmax:running``.
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
    checksums: Mapping[str, str] = field(default_factory=dict)
    table_bytes: Mapping[str, int] = field(default_factory=dict)
    sequences: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    large_objects: int = 0
    extensions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    schema_sha256: str = ""
    globals: str = ""
    writes: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    snapshot: str = ""
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
                f"{path} has the format {data['format']}; this version reads {FORMAT}.",
                "Take a new backup, or use the version of the collection that wrote it.",
                path=path,
            )
        data["files"] = {name: FileFact(int(fact["bytes"]), str(fact["sha256"])) for name, fact in data["files"].items()}
        data["tables"] = {name: int(rows) for name, rows in data["tables"].items()}
        data["heads"] = tuple(data["heads"])
        data["sequences"] = {name: (int(first), int(last)) for name, (first, last) in data["sequences"].items()}
        data["writes"] = {name: (int(ins), int(upd), int(gone)) for name, (ins, upd, gone) in data["writes"].items()}
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


def check_rights(unreadable: Sequence[str]) -> None:
    """Refuse a database of which the role cannot read everything.

    :raises SluiceError: with the tables and the statement that helps.
    """
    if unreadable:
        shown = ", ".join(unreadable[:5]) + (f" and {len(unreadable) - 5} more" if len(unreadable) > 5 else "")
        raise SluiceError(
            f"The database user may not read {shown}, so the backup would not be whole.",
            "Use the owner of the database, or grant pg_read_all_data (version 14 and newer) to the user.",
            tables=list(unreadable),
        )


@dataclass(frozen=True)
class Listing:
    """What an archive's table of contents says: the database's name, the major versions of its server and of pg_dump, and the tables with rows."""

    database: str
    server: int
    client: int
    entries: tuple[str, ...]


def parse_listing(text: str) -> Listing:
    """Return what ``pg_restore --list`` printed."""
    head = dict(re.findall(r"^;\s+(dbname|Dumped from database version|Dumped by pg_dump version): (.*)$", text, re.MULTILINE))
    majors = [int((re.match(r"\d+", head.get(f"Dumped {each} version", "")) or ["0"])[0]) for each in ("from database", "by pg_dump")]
    entries = tuple(line.split(" TABLE DATA ", 1)[1] for line in text.splitlines() if not line.startswith(";") and " TABLE DATA " in line)
    return Listing(head.get("dbname", ""), majors[0], majors[1], entries)


def check_listing(listing: Listing, database: str, server: int, client: int, tables: Sequence[str]) -> None:
    """Refuse an archive whose table of contents is not that of this database.

    :param tables: schema and name of each table that was counted, with a space between them.
    :raises SluiceError: it is of another database, another server version, another pg_dump, or leaves tables out.
    """
    for what, had, wanted in (
        ("database", listing.database, _listed(database)),
        ("PostgreSQL version", listing.server, server),
        ("pg_dump version", listing.client, client),
    ):
        if had != wanted:
            raise SluiceError(f"The archive is of the {what} {had}, not of {wanted}.", _RESTORE)
    found = {name for entry in listing.entries for name in _prefixes(entry)}
    missing = [table for table in tables if _listed(table) not in found]
    if missing:
        raise SluiceError(f"The archive leaves out {', '.join(missing[:5])}{' and more' if len(missing) > 5 else ''}.", _RESTORE, missing=missing)


def _listed(name: str) -> str:
    return re.sub(r"[\r\n]", " ", name)


def _prefixes(entry: str) -> Iterator[str]:
    """Return every text that may be schema and name in ``schema name owner``, since names may hold spaces."""
    words = entry.split(" ")
    for end in range(2, len(words)):
        yield " ".join(words[:end])


def check_restorer(manifest: Manifest, client: int, server: int) -> None:
    """Refuse a pg_restore that cannot read the archive or is older than the server.

    :raises SluiceError: the archive was written by a newer pg_dump, or the clients are older than the server.
    """
    check_client(client, server)
    if int(manifest.client_version) > client:
        raise SluiceError(
            f"The archive was written by pg_dump {manifest.client_version}; pg_restore here is version {client} and cannot read it.",
            f"Install the clients of version {manifest.client_version}, or name their folder in client_directory.",
            client=client,
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

    zstd at level 1, since higher levels cost time and gain nothing: on the mixed 1.1 GB of benchmarks/database.py it made 125 MiB of 580 in less time
    than levels 2 (136 MiB) and 3 (132 MiB), and lz4 made 258 MiB in about the same time.

    :raises SluiceError: it is none that pg_dump has.
    """
    if wanted == "auto":
        return ("zstd:1", "lz4", "gzip:1")
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


def rehearsal_name(database: str, wanted: str | None = None) -> str:
    """Return the name of the rehearsal database.

    :raises SluiceError: it is that of the real one, or longer than PostgreSQL can tell apart.
    """
    return _beside(database, wanted, SUFFIX, "rehearsal")


def restored_name(database: str, wanted: str | None = None) -> str:
    """Return the name of the restored copy: what the drill proves, the rehearsal is made from, and a rollback puts in place.

    :raises SluiceError: it is that of the real one, or longer than PostgreSQL can tell apart.
    """
    return _beside(database, wanted, RESTORED_SUFFIX, "drill")


def _beside(database: str, wanted: str | None, suffix: str, what: str) -> str:
    name = wanted or _cut(database, NAME_BYTES - len(suffix)) + suffix
    if len(name.encode()) > NAME_BYTES:
        raise SluiceError(f"The {what} database's name has {len(name.encode())} bytes; PostgreSQL cuts names after {NAME_BYTES}.", "Choose a shorter name.")
    if name == database:
        raise SluiceError(f"{name} is the real database; a {what} never runs there.", "Choose another name, or leave it out.")
    return name


def _cut(text: str, limit: int) -> str:
    return text.encode()[:limit].decode(errors="ignore")


def marker(app: str, release_id: str) -> str:
    """Return the comment by which a rehearsal database is known as one."""
    return f"{MARKER} of {app} {release_id}"


def half_made_marker() -> str:
    """Return what stands for the comment of a copy whose maker was killed before it could mark it."""
    return f"{RESTORED} by halves"


def restored_marker(app: str, release_id: str, manifest_sha256: str = "", seconds: float | None = None) -> str:
    """Return the comment by which a restored copy is known as one; only a whole and proven one names the manifest and the seconds its restore took."""
    proof = "" if seconds is None else f" from manifest {manifest_sha256} in {seconds:.3f} s"
    return f"{RESTORED} of {app} {release_id}{proof}"


def restored_seconds(comment: str | None, app: str, release_id: str, manifest_sha256: str) -> float | None:
    """Return the seconds a proven copy of exactly this backup took, or None when the comment is of anything else."""
    found = re.match(re.escape(restored_marker(app, release_id)) + rf" from manifest {manifest_sha256} in (\d+\.\d+) s\Z", comment or "")
    return float(found.group(1)) if found else None


def check_proven(name: str, comment: str | None, app: str) -> None:
    """Refuse to rehearse on anything but a restored copy of the app that a drill proved.

    :raises SluiceError: there is none of that name, or its drill did not end.
    """
    if not re.match(re.escape(f"{RESTORED} of {app} ") + r"\S+ from manifest \w+ in \d+\.\d+ s\Z", comment or ""):
        raise SluiceError(
            f"{name} is no restored copy of {app} that a drill proved, so there is nothing to rehearse on.", "Run sluice.deploy.drill first.", database=name
        )


def check_marker(name: str, comment: str | None) -> None:
    """Refuse to drop a database that neither a drill nor a rehearsal made; None is no database at all.

    :raises SluiceError: its comment is neither's marker.
    """
    if comment is not None and not comment.startswith((MARKER + " ", RESTORED + " ")):
        raise SluiceError(
            f"The database {name} exists and no drill and no rehearsal made it (its comment begins with neither '{RESTORED}' nor '{MARKER}'),"
            " so it is left alone.",
            "Choose another name for the copy, or drop it by hand if it is of no use.",
            database=name,
        )
