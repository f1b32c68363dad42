# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An archive that a server holds, fetched to the control node once and known by its SHA-256 from then on."""

from __future__ import annotations

import hashlib
import os
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from ansible.module_utils.urls import open_url
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import package
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import free_bytes, locked, make_folder
from ansible_collections.sluice.deploy.plugins.module_utils.core import archives
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

# As many as there are packed versions: what is packed or handed over does not need it any more.
KEEP = package.KEEP
_CHUNK = 1 << 20
# For each answer of the server, not for the whole archive; the lock waits for another run's whole archive.
_SECONDS, _LOCK_SECONDS = 30.0, 1800.0


def here(source: str, sha256: str, directory: str) -> str:
    """Return where an archive lies on this machine; one that has an address is fetched when it was not yet.

    :param source: path, or http or https address. Who must sign in there is in the operator's ``~/.netrc``.
    :param sha256: what it must be, 64 hex digits.
    :param directory: the build folder, in which ``fetched/`` is made; the four newest archives stay.
    :raises SluiceError: it cannot be fetched, or is another file than the one that was approved.
    """
    if not _is_address(source):
        return os.path.expanduser(source)
    address = shown(source)
    folder = os.path.join(os.path.expanduser(directory), "fetched")
    path = os.path.join(folder, f"{sha256}.tar")
    make_folder(os.path.dirname(folder))
    make_folder(folder, 0o700)
    with locked(os.path.join(folder, ".lock"), _LOCK_SECONDS):
        if not os.path.exists(path):
            _fetch(source, address, sha256, path)
            _prune(folder)
    return path


def shown(source: str) -> str:
    """Return an address without its query, which may be a signature that lets others in; a path as it is.

    :raises SluiceError: it holds a user or a password.
    """
    if not _is_address(source):
        return source
    parts = urlsplit(source)
    if "@" in parts.netloc:
        raise SluiceError("app_source holds the user or the password of a server.", "Write them into ~/.netrc of the operator, and only the address here.")
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def _is_address(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def _fetch(source: str, address: str, sha256: str, path: str) -> None:
    partial, found = f"{path}.partial", hashlib.sha256()
    try:
        with open_url(source, timeout=_SECONDS) as reply, open(partial, "wb") as copy:
            announced = int(reply.headers.get("Content-Length") or 0)
            if announced > free_bytes(os.path.dirname(path)):
                raise SluiceError(f"{address} has {announced >> 20:,} MiB, more than is free in {os.path.dirname(path)}.", "Make room there.")
            while chunk := reply.read(_CHUNK):
                copy.write(chunk)
                found.update(chunk)
            copy.flush()
            os.fsync(copy.fileno())
        if announced and os.path.getsize(partial) != announced:
            raise SluiceError(f"{address} ended after {os.path.getsize(partial)} of {announced} bytes.", "Run it again.")
        if found.hexdigest() != sha256:
            raise SluiceError(f"{address} has the SHA-256 {found.hexdigest()}, not {sha256}.", "It is another file than the one that was approved.")
        os.replace(partial, path)
    except HTTPError as error:
        remedy = "Write who may read it into ~/.netrc of the operator." if error.code in (401, 403) else "Correct app_source, or publish the archive."
        raise SluiceError(f"{address} answered {error.code}.", remedy) from error
    except (URLError, HTTPException, OSError, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise SluiceError(f"{address} could not be fetched: {why}.", "See that the control node reaches it and trusts its certificate.") from error
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


def _prune(folder: str) -> None:
    whole = [entry for entry in os.scandir(folder) if entry.name.endswith(".tar")]
    for path in archives.prunable([(entry.path, entry.stat().st_mtime) for entry in whole], KEEP):
        os.unlink(path)
