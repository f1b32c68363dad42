# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of one version, read from its git repository without a work tree, from an archive or from a folder."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from typing import IO

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import archive, git
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.process import clean_environment, run
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

LARGEST = 2 * 1024 * 1024
_ENV = {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1"}


def texts(source: str, version: str, large: list[str], timeout: float = 120.0) -> Iterator[tuple[str, str]]:
    """Yield path and text of each text file that a release of the version would hold.

    :param large: takes the paths of text files that are too large to be read (``LARGEST`` bytes).
    :param timeout: seconds for git to fetch and to pack.
    :raises SluiceError: there is no such version, or git cannot read it.
    """
    commit = git.resolve(source, version)
    folder = tempfile.mkdtemp(prefix="sluice-source-")
    try:
        place = source
        if not os.path.isdir(source):
            place = folder
            run(["git", "init", "-q", "--bare", folder], timeout=10, env=_ENV)
            # A server need not hand out a commit by its number; then the name of the version stands for it.
            done = run(["git", "-C", folder, "fetch", "-q", "--depth=1", source, commit], timeout=timeout, env=_ENV, ok=range(256))
            if done.rc:
                run(["git", "-C", folder, "fetch", "-q", "--depth=1", source, version], timeout=timeout, env=_ENV)
        yield from _unpacked(_packed(place, commit, timeout), large)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def texts_of(kind: str, source: str, version: str, large: list[str], timeout: float = 120.0) -> Iterator[tuple[str, str]]:
    """Yield what ``texts`` yields, of a source of any kind.

    :param kind: ``git``, or ``archive`` or ``directory`` on this machine.
    :raises SluiceError: it cannot be read.
    """
    if kind == "git":
        yield from texts(source, version, large, timeout)
    elif kind == "archive":
        path = os.path.expanduser(source)
        archive.look(path)
        with tarfile.open(path, "r:*") as opened:
            yield from _of_archive(opened, large)
    else:
        for name, path in archive.files_of(os.path.expanduser(source), archive.HISTORY):
            with open(path, "rb") as stream:
                yield from _text(name, stream, os.path.getsize(path), large)


def _packed(place: str, commit: str, timeout: float) -> bytes:
    words = ["git", "-C", place, "archive", "--format=tar", commit]
    try:
        # run_command decodes what it reads, and this is no text.
        # pylint: disable-next=ansible-bad-function
        done = subprocess.run(words, env=clean_environment(_ENV), capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise SluiceError(f"`git archive` of {place} did not end within {timeout:g} s and was killed.") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise SluiceError(f"Commit {commit} of {place} could not be read: {said}", "Check that the commit is in the source, and the become user.")
    return done.stdout


def _unpacked(packed: bytes, large: list[str]) -> Iterator[tuple[str, str]]:
    with tarfile.open(fileobj=io.BytesIO(packed)) as opened:
        yield from _of_archive(opened, large)


def _of_archive(opened: tarfile.TarFile, large: list[str]) -> Iterator[tuple[str, str]]:
    for member in opened:
        stream = opened.extractfile(member) if member.isfile() else None
        if stream is not None:
            yield from _text(member.name, stream, member.size, large)


def _text(name: str, stream: IO[bytes], size: int, large: list[str]) -> Iterator[tuple[str, str]]:
    """Yield path and text of one file, unless it is no text."""
    head = stream.read(min(size, LARGEST))
    if b"\0" in head[:8192]:
        return
    if size > LARGEST:
        large.append(name)
    yield name, head.decode("utf-8", "replace")
