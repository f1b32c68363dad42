# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The source of a release as the control node sees it: an archive, a folder, or git where the app hosts do not fetch it themselves."""

from __future__ import annotations

import os

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import archive, fetched, git, package
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import sha256_of
from ansible_collections.sluice.deploy.plugins.module_utils.core import archives
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError


def identify(kind: str, source: str, sha256: str, version: str, directory: str) -> tuple[str, str, str]:
    """Return by which 40 hex digits a release of this source is known, a sentence about it, and where it is to be read.

    :param directory: the build folder, for what is fetched.
    :raises SluiceError: it is not there, is not what was approved, or must not be unpacked.
    """
    if kind == "git":
        commit = git.resolve(source, version)
        return commit, f"{version} is commit {commit[:12]}", source
    if kind == "archive":
        path, found = _approved(source, sha256, directory)
        members = archive.look(path)
        files = sum(member.kind != archives.FOLDER for member in members)
        return archives.number_of(found), f"{version} is {path}, {files} files, of the SHA-256 that was approved ({found[:12]}...)", path
    path = os.path.expanduser(source)
    if not os.path.isdir(path):
        raise SluiceError(f"app_source {path} is no folder on the control node.", "Correct app_source, or app_source_kind.")
    try:
        commit = archives.number_of(archive.content_of(path, (*archive.HISTORY, *package.OWN)))
    except OSError as error:
        raise SluiceError(f"{error.filename} cannot be read: {error.strerror}.", "Let the operator read every file of app_source.") from error
    return commit, f"{version} is the folder {path}, whose content is {commit[:12]}", path


def archive_of(kind: str, source: str, sha256: str, version: str, commit: str, directory: str) -> package.Packed:
    """Return the archive that holds the sources of a release, for the hosts to unpack.

    :param directory: the build folder: where a folder's archive is kept, and one that is fetched.
    :raises SluiceError: the source is not what the release was opened with.
    """
    if kind == "directory":
        return package.packed_sources(os.path.expanduser(directory), os.path.expanduser(source), version, commit)
    path, found = _approved(source, sha256, directory)
    if archives.number_of(found) != commit:
        raise SluiceError(
            f"{path} is not the archive this release began with: its SHA-256 begins with {found[:12]}, not {commit[:12]}.", "Begin a new release with it."
        )
    return package.Packed(path, found, os.path.getsize(path))


def for_hosts(kind: str, source: str) -> str:
    """Return what a host is told of a source: it unpacks an archive that is handed to it, and may write down what it is told.

    :raises SluiceError: the address of an archive holds a user or a password.
    """
    return fetched.shown(source) if kind == "archive" else source


def _approved(source: str, sha256: str, directory: str) -> tuple[str, str]:
    """Return where an archive lies on this machine, and its SHA-256, which is the one that was approved."""
    if not sha256:
        raise SluiceError("Nobody said which archive app_source must be.", "Set app_source_sha256 to the SHA-256 it had when it was approved.")
    path = fetched.here(source, sha256, directory)
    if not os.path.isfile(path):
        raise SluiceError(f"The archive {path} is not there.", "Put it on the control node before the release, or correct app_source.")
    found = sha256_of(path)
    if found != sha256:
        raise SluiceError(f"The archive {path} has the SHA-256 {found}, not {sha256}.", "It is another file than the one that was approved.")
    return path, found
