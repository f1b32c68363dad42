# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a release as one archive: looked through before a byte of it is written, unpacked, and packed from a folder."""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import free_bytes, make_folder, sha256_of
from ansible_collections.sluice.deploy.plugins.module_utils.core import archives
from ansible_collections.sluice.deploy.plugins.module_utils.core.archives import FILE, FOLDER, HARDLINK, LINK, OTHER, Member
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

MIB = 1024 * 1024
# What a folder of sources holds beside the sources.
HISTORY = (".git", ".hg", ".svn")
# Quick; a higher one makes node_modules smaller by a tenth at most, and takes several times as long.
_LEVEL = 1


def look(path: str, packed_here: bool = False) -> list[Member]:
    """Return the members of an archive of sources, as they lie in a release folder.

    :param packed_here: whether it is one of ``pack``, which has no folder around it and may hold links to the host's own programs.
    :raises SluiceError: it cannot be read, or holds what a release folder must not.
    """
    with _opened(path) as archive:
        return [seen for _info, seen in _checked(archive, path, packed_here)]


def unpack(path: str, folder: str, packed_here: bool = False, skip: Sequence[str] = ()) -> None:
    """Put the files of an archive into ``folder`` (which is made), as files of this process with modes 0755 and 0644.

    :param skip: names that are left out at the top.
    :raises SluiceError: as ``look``, or there is no room for it; then nothing was written.
    """
    with _opened(path) as archive:
        members = _checked(archive, path, packed_here)
        needed, free = sum(seen.size for _info, seen in members), free_bytes(folder)
        if needed > free:
            raise SluiceError(f"{path} unpacks to {needed // MIB:,} MiB, and {free // MIB:,} MiB are free at {folder}.", "Free some space.", path=path)
        make_folder(folder)
        for info, seen in members:
            name = archives.plain(seen.name)
            if name and name not in skip:
                _write(archive, info, seen, folder, name)


def _checked(archive: tarfile.TarFile, path: str, packed_here: bool) -> list[tuple[tarfile.TarInfo, Member]]:
    """Read an archive to its end, and return each member with what it is in a release folder."""
    infos = list(archive)
    # Only its end tells whether a compressed file is whole.
    while archive.fileobj and archive.fileobj.read(MIB):
        pass
    members = [_member(info) for info in infos]
    root = "" if packed_here else archives.top(members)
    pairs = [(info, seen) for info, member in zip(infos, members) for seen in archives.below([member], root)]
    why = archives.complaint(members, links_may_lead_out=True) or archives.complaint([seen for _info, seen in pairs], links_may_lead_out=packed_here)
    if why:
        raise SluiceError(f"{path} is not unpacked: {why}.", "Make the archive of the app's own files, with relative links at most.", path=path)
    return pairs


def pack(folder: str, path: str, skip: Sequence[str] = ()) -> str:
    """Pack a folder into an archive, written beside its place and renamed over; return its SHA-256.

    The same folder always gives the same bytes: sorted, without owners, with modes 0755 and 0644. Times stay, to the second: browsers and proxies
    compare files by time and size, and one time for all would make two versions of a file look alike.

    :param skip: names that are left out, at the top or, for the folders of version control, anywhere.
    :raises SluiceError: the folder holds a socket, a pipe or a device.
    """
    partial = f"{path}.{os.getpid()}.partial"
    try:
        with open(partial, "wb") as raw:
            with (
                gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=_LEVEL, mtime=0) as zipped,
                tarfile.open(fileobj=zipped, mode="w|", format=tarfile.PAX_FORMAT) as archive,
            ):
                for member, source in _walk(folder, skip):
                    _add(archive, member, source)
            raw.flush()
            os.fsync(raw.fileno())
        sha256 = sha256_of(partial)
        os.replace(partial, path)
    except OSError as error:
        raise SluiceError(f"{folder} could not be packed into {path}: {error.strerror}.", "Check the room there, and who may write.", path=path) from error
    finally:
        if os.path.exists(partial):
            os.unlink(partial)
    return sha256


def content_of(folder: str, skip: Sequence[str] = ()) -> str:
    """Return the SHA-256 of what a folder of sources holds, whatever the times of its files.

    :raises SluiceError: it holds what a release folder must not.
    """
    listed = list(_walk(folder, skip))
    why = archives.complaint([member for member, _source in listed], links_may_lead_out=False)
    if why:
        raise SluiceError(f"{folder} cannot be released: {why}.", "Leave it out of the folder.", path=folder)
    return archives.content(
        (member.name, member.kind, _runs(os.lstat(source)), sha256_of(source) if member.kind == FILE else member.target) for member, source in listed
    )


def files_of(folder: str, skip: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield the name and the path of each file of a folder of sources."""
    yield from ((member.name, source) for member, source in _walk(folder, skip) if member.kind == FILE)


def _walk(folder: str, skip: Sequence[str], below: str = "") -> Iterator[tuple[Member, str]]:
    """Yield every entry of a folder and where it lies, sorted, each folder before what is in it."""
    for entry in sorted(os.scandir(os.path.join(folder, below)), key=lambda entry: entry.name):
        name = f"{below}/{entry.name}" if below else entry.name
        if name in skip or (entry.name in skip and entry.name in HISTORY):
            continue
        if entry.is_symlink():
            yield Member(name, LINK, target=os.readlink(entry.path)), entry.path
        elif entry.is_dir():
            yield Member(name, FOLDER), entry.path
            yield from _walk(folder, skip, name)
        else:
            yield Member(name, FILE if entry.is_file() else OTHER, entry.stat().st_size), entry.path


def _add(archive: tarfile.TarFile, member: Member, source: str) -> None:
    status = os.lstat(source)
    info = tarfile.TarInfo(member.name)
    info.mtime, info.mode = int(status.st_mtime), 0o755 if member.kind == FOLDER or _runs(status) else 0o644
    if member.kind == LINK:
        info.type, info.linkname = tarfile.SYMTYPE, member.target
    elif member.kind == FOLDER:
        info.type = tarfile.DIRTYPE
    elif member.kind == OTHER:
        raise SluiceError(f"{source} is a socket, a pipe or a device, and cannot be packed.", "Let the build leave none behind.", path=source)
    else:
        with open(source, "rb") as stream:
            info.size = os.fstat(stream.fileno()).st_size
            archive.addfile(info, stream)
        return
    archive.addfile(info)


def _runs(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and bool(status.st_mode & 0o100)


def _member(info: tarfile.TarInfo) -> Member:
    kind = FILE if info.isreg() else FOLDER if info.isdir() else LINK if info.issym() else HARDLINK if info.islnk() else OTHER
    return Member(info.name, kind, info.size if kind == FILE else 0, info.linkname)


def _write(archive: tarfile.TarFile, info: tarfile.TarInfo, member: Member, folder: str, name: str) -> None:
    """Write one member; Python 3.9 on a host has no ``filter`` of its own, and the mode of an archive is not taken over."""
    path = os.path.join(folder, name)
    os.makedirs(path if member.kind == FOLDER else os.path.dirname(path), mode=0o755, exist_ok=True)
    if member.kind == LINK:
        os.symlink(member.target, path)
    elif member.kind == HARDLINK:
        os.link(os.path.join(folder, archives.plain(member.target)), path)
    elif member.kind == FILE:
        source = archive.extractfile(info)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as target:
            if source:
                shutil.copyfileobj(source, target, MIB)
            os.fchmod(target.fileno(), 0o755 if info.mode & 0o100 else 0o644)
        os.utime(path, (info.mtime, info.mtime))


@contextmanager
def _opened(path: str) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:*") as archive:
            yield archive
    except FileNotFoundError as error:
        raise SluiceError(f"{error.filename or path} is not there.", "Check the path.", path=path) from error
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SluiceError(f"{path} is no tar archive, or a damaged one: {error}.", "Make it anew; .tar, .tar.gz, .tar.xz and .tar.bz2 are known.") from error
    except OSError as error:
        raise SluiceError(f"{path} could not be unpacked: {error.strerror or error}.", "Check the file, the room and who may write.", path=path) from error
