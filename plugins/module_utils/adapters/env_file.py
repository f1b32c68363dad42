# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment file of an app: looked at, read, put in place whole with its final mode, and remembered by fingerprints."""

from __future__ import annotations

import glob
import os
import pwd
import secrets
import stat
from typing import Optional

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import make_folder, read_text, write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.core.env_place import Place
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError


def look(path: str) -> Place:
    """Return what the file system tells of a path, without reading it."""
    if not os.path.lexists(path):
        return Place(path)
    real = os.path.realpath(path)
    target = real if os.path.islink(path) else ""
    inside = os.path.dirname(real) == os.path.realpath(os.path.dirname(path))
    if not os.path.exists(real):
        return Place(path, "none", target, inside)
    about = os.stat(real)
    kind = "file" if stat.S_ISREG(about.st_mode) else "folder" if stat.S_ISDIR(about.st_mode) else "other"
    return Place(path, kind, target, inside, stat.S_IMODE(about.st_mode), _user(about.st_uid), about.st_nlink, _open_folders(real))


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _open_folders(path: str) -> tuple[str, ...]:
    """Return the folders above a path in which everybody may rename what is not theirs."""
    found = []
    folder = os.path.dirname(os.path.abspath(path))
    while True:
        mode = os.stat(folder).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            found.append(folder)
        if folder == os.path.dirname(folder):
            return tuple(found)
        folder = os.path.dirname(folder)


def owner_ids(owner: Optional[str]) -> Optional[tuple[int, int]]:
    """Return number of a user and of its first group; None for no user.

    :raises SluiceError: there is no such user.
    """
    if not owner:
        return None
    try:
        entry = pwd.getpwnam(owner)
    except KeyError as error:
        raise SluiceError(f"There is no user {owner} on this host.", "Set app_env_owner to the user that the app runs as.") from error
    return entry.pw_uid, entry.pw_gid


def install(path: str, text: str, owner: Optional[tuple[int, int]]) -> None:
    """Put an environment file in place: at no moment is it half there, or open to others.

    :raises SluiceError: the path is a link, or everybody may rename in its folder.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.islink(path):
        raise SluiceError(f"{path} is a link; the file would take its place.", "Remove the link, or name the file it points at.", path=path)
    make_folder(folder)
    exposed = _open_folders(path)
    if exposed:
        raise SluiceError(f"Everybody may replace files in {', '.join(exposed)}.", f"Run chmod o-w {' '.join(exposed)}.", path=path)
    # What a killed run left holds the values too.
    for rest in glob.glob(os.path.join(glob.escape(folder), f".{glob.escape(os.path.basename(path))}.*.tmp")):
        os.unlink(rest)
    write_atomic(path, text, 0o600, owner)


def held_key(directory: str) -> str:
    """Return the app's key for fingerprints on this host; empty when there is none."""
    return (read_text(os.path.join(directory, "slots", "env.key")) or "").strip()


def fingerprint_key(directory: str) -> str:
    """Return the app's key for fingerprints on this host; it is made at its first use and never leaves the host."""
    held = held_key(directory)
    if not held:
        path = os.path.join(directory, "slots", "env.key")
        make_folder(os.path.dirname(path))
        held = secrets.token_hex(32)
        write_atomic(path, held + "\n", 0o600)
    return held
