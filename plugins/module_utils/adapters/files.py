# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files on disk: whole or not at all, with their final mode, under one lock."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError


def read_text(path: str) -> str | None:
    """Return a file's text, or None when there is no such file."""
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return None


def sync_directory(path: str) -> None:
    """Make a rename inside a directory survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: str, text: str, mode: int = 0o644, owner: Optional[tuple[int, int]] = None) -> None:
    """Write a file beside its place, with its final mode, and rename it over: a reader sees the old bytes or the new ones.

    The temporary name begins with a dot, so a wildcard include (``sites-enabled/*``) never loads it.

    :param owner: numbers of user and group that it has before anything is in it; None for those of this process.
    """
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), mode)
            if owner is not None:
                os.fchown(stream.fileno(), *owner)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        sync_directory(folder)
    except OSError as error:
        raise SluiceError(f"{path} could not be written: {error.strerror}.", "Check the folder's owner, mode and free space.", path=path) from error
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def link_atomic(target: str, path: str) -> None:
    """Point the symbolic link ``path`` at ``target`` by one rename."""
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    if os.path.lexists(temporary):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.replace(temporary, path)


def link_target(path: str) -> str | None:
    """Return where a symbolic link points, or None when there is none."""
    try:
        return os.readlink(path)
    except OSError:
        return None


def make_folder(path: str, mode: int = 0o755) -> bool:
    """Make a folder with its mode; True when it was not there."""
    if os.path.isdir(path):
        return False
    try:
        os.makedirs(path, mode=mode, exist_ok=True)
        os.chmod(path, mode)
    except OSError as error:
        raise SluiceError(f"The folder {path} could not be made: {error.strerror}.", "Check the owner and mode of the folder above it.", path=path) from error
    return True


def sha256_of(path: str) -> str:
    """Return the SHA-256 of a file, as 64 hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def free_bytes(path: str) -> int:
    """Return the bytes an unprivileged user can still write where ``path`` is or will be."""
    path = os.path.abspath(path)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return shutil.disk_usage(path).free


@contextmanager
def locked(path: str, timeout: float = 10.0) -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel frees it when the process ends, however it ends.

    :raises SluiceError: another process held it for the whole timeout (seconds).
    """
    deadline = time.monotonic() + timeout
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise SluiceError(
                        f"Another run holds {path}; waited {timeout:g} s for it.", "Let it finish, or look with `status.yml` who it is.", path=path
                    ) from error
                time.sleep(0.02)
        yield
    finally:
        os.close(handle)
