# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Archives of releases on the machine that made them: a built version, or a packed folder of sources; made once, kept for the next hosts and runs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import archive, git, images, release_dir
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import locked, make_folder, read_text, sha256_of, write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.core import archives, slots
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

# What the collection itself writes into a release folder.
OWN = (release_dir.MARKER, images.RECORD)
# It is a cache: what hosts have unpacked does not need it any more.
KEEP = 4
# As long as another run may build.
_WAIT_SECONDS = 3600.0


@dataclass(frozen=True)
class Packed:
    """An archive that is whole: where it lies, its SHA-256 and its bytes."""

    path: str
    sha256: str
    bytes: int


def named(params: Mapping[str, Any]) -> str:
    """Return the name of the archive that the options of the module C(package) ask for."""
    return archives.package_name(params["version"], params["commit"], params["build"], params["build_env"])


def place(directory: str, name: str) -> str:
    """Return where the archive of a name lies below a build folder; the folder is made, closed to others, since an app's code is its owner's business."""
    folder = os.path.join(directory, "packages")
    make_folder(directory)
    make_folder(folder, 0o700)
    return os.path.join(folder, f"{name}.tar.gz")


def find(directory: str, name: str) -> Packed | None:
    """Return the archive of a name, when it is there and whole."""
    path = os.path.join(directory, "packages", f"{name}.tar.gz")
    noted = read_text(f"{path}.json")
    with suppress(OSError, ValueError):
        packed = Packed(path, str(json.loads(noted or "{}").get("sha256", "")), os.path.getsize(path))
        if packed.sha256 and sha256_of(path) == packed.sha256:
            return packed
    return None


def note(directory: str, name: str, sha256: str) -> Packed:
    """Remember that the archive of a name is whole, which makes it found from then on."""
    path = place(directory, name)
    packed = Packed(path, sha256, os.path.getsize(path))
    write_atomic(f"{path}.json", json.dumps({"sha256": packed.sha256, "bytes": packed.bytes}) + "\n")
    return packed


def prune(directory: str) -> list[str]:
    """Remove all but the newest archives, and what cut runs left; return the paths."""
    folder = os.path.join(directory, "packages")
    entries = list(os.scandir(folder)) if os.path.isdir(folder) else []
    whole = [entry.path for entry in entries if entry.name.endswith(".tar.gz") and os.path.exists(f"{entry.path}.json")]
    gone = archives.prunable([(path, os.path.getmtime(f"{path}.json")) for path in whole], KEEP)
    gone += [entry.path for entry in entries if entry.name.endswith(".partial")]
    for path in gone:
        for each in (f"{path}.json", path):
            with suppress(FileNotFoundError):
                os.unlink(each)
    return gone


def packed_sources(directory: str, source: str, version: str, commit: str) -> Packed:
    """Return the archive of a folder of sources, packed once for all hosts.

    :raises SluiceError: the folder does not hold any more what the release was opened with.
    """
    name = f"{version}-{commit[:12]}-source"
    make_folder(directory)
    with locked(os.path.join(directory, ".lock"), timeout=_WAIT_SECONDS):
        found = find(directory, name)
        if found:
            return found
        skip = (*archive.HISTORY, *OWN)
        sha256 = archive.pack(source, place(directory, name), skip)
        # After it was packed: what was written into the folder meanwhile is found too.
        now = archives.number_of(archive.content_of(source, skip))
        if now != commit:
            raise SluiceError(
                f"{source} does not hold what this release began with: its content is {now[:12]}, not {commit[:12]}.",
                "Let nobody write there during a release, and begin a new one.",
            )
        packed = note(directory, name, sha256)
        prune(directory)
        return packed


def make(params: Mapping[str, Any], sources: str, tell: Callable[[str], None] = lambda sentence: None) -> tuple[Packed, list[str]]:
    """Build a version and pack it; return the archive and what was done, in words.

    :param params: the options of the module C(package).
    :param sources: the archive of the sources; empty when they are fetched from git.
    :raises SluiceError: it could not be built.
    """
    directory, version, commit = params["directory"], params["version"], params["commit"]
    build: Sequence[Sequence[str]] = params["build"]
    name = named(params)
    make_folder(directory)
    with locked(os.path.join(directory, ".lock"), timeout=_WAIT_SECONDS):
        found = find(directory, name)
        if found:
            return found, [f"{version} is built already: {found.path}"]
        folder = slots.release_folder(directory, version, commit)
        # Where an app host builds for the others in its own folder of the app, a release that lies there may be in use.
        in_use = release_dir.is_built(folder) and os.path.isdir(os.path.join(directory, "slots"))
        ran = []
        if not in_use:
            env = release_dir.build_environment(params["build_env"], params["path"], directory)

            def put(partial: str) -> None:
                if sources:
                    archive.unpack(sources, partial, skip=OWN)
                else:
                    git.unpack(params["source"], commit, os.path.join(directory, "repository.git"), partial)

            ran = release_dir.build(folder, version, commit, put, build, env, tell)
        tell("pack what was built")
        packed = note(directory, name, archive.pack(folder, place(directory, name), OWN))
        if not in_use:
            release_dir.remove(folder)
        prune(directory)
    return packed, [*ran, f"built {version} ({commit[:12]}) into {packed.path}, {packed.bytes / archive.MIB:,.1f} MiB"]
