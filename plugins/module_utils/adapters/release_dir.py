# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Release folders and slot records of an app on one host."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import make_folder, read_text, write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.process import run
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

# Written last: a folder without it is what a killed build left.
MARKER = ".sluice.json"
# No command of a build may take longer.
BUILD_SECONDS = 1800.0


def is_built(folder: str) -> bool:
    """Tell whether a release folder is whole."""
    return os.path.exists(os.path.join(folder, MARKER))


def build(
    folder: str,
    version: str,
    commit: str,
    put: Callable[[str], None],
    commands: Sequence[Sequence[str]],
    env: Mapping[str, str],
    tell: Callable[[str], None] = lambda sentence: None,
) -> list[str]:
    """Put the files of a version into its folder and build it there; return what was run and how long it took.

    The files are put beside the folder and renamed over. The commands run in the folder itself, because some write its path into what they make
    (a Python venv); the marker comes last, so a folder without it is what a cut build left, and the next build begins anew.

    :param put: makes the folder it is given, with the files of the version in it.
    :param commands: argument lists, run one after the other, ``nice``d so that the live slot keeps the processor.
    :param tell: is told each command before it runs.
    """
    partial = os.path.join(os.path.dirname(folder), f".{os.path.basename(folder)}.partial")
    for left in (partial, folder):
        shutil.rmtree(left, ignore_errors=True)
    make_folder(os.path.dirname(folder))
    ran = []
    try:
        put(partial)
        # A source may hold a file of this name; it is not our word that the folder is whole.
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(partial, MARKER))
        os.rename(partial, folder)
        for command in commands:
            words = shown(command)
            tell(words)
            done = run(["nice", "-n", "10", *command], timeout=BUILD_SECONDS, env=env, cwd=folder)
            ran.append(f"ran {words} in {done.seconds:.1f} s")
        write_atomic(os.path.join(folder, MARKER), json.dumps({"version": version, "commit": commit}) + "\n")
    except SluiceError:
        for left in (partial, folder):
            shutil.rmtree(left, ignore_errors=True)
        raise
    return ran


def shown(command: Sequence[str]) -> str:
    """Return a command as an operator reads it, on one line."""
    words = " ".join(shlex.join(map(str, command)).split())
    return words if len(words) <= 100 else words[:97] + "..."


def build_environment(given: Mapping[str, Any], path: str, directory: str) -> dict[str, str]:
    """Return the environment of a build: what the operator gave, PATH, and caches of npm and pip that stay between releases.

    :param path: folder put before PATH; empty for none.
    :param directory: the app's folder, which holds the caches.
    """
    env = {str(key): str(value) for key, value in given.items()}
    env["PATH"] = os.pathsep.join(filter(None, (path, os.environ.get("PATH", os.defpath))))
    named = {key.lower() for key in env}  # npm reads its variables in either case
    caches = {"npm_config_cache": "npm", "PIP_CACHE_DIR": "pip"}
    return {**{key: os.path.join(directory, "cache", name) for key, name in caches.items() if key.lower() not in named}, **env}


def folders(directory: str) -> list[str]:
    """Return the whole release folders, the newest build first."""
    root = os.path.join(directory, "releases")
    names = sorted(os.listdir(root)) if os.path.isdir(root) else []
    found = [os.path.join(root, name) for name in names if not name.startswith(".") and is_built(os.path.join(root, name))]
    return sorted(found, key=lambda folder: os.path.getmtime(os.path.join(folder, MARKER)), reverse=True)


def remove(folder: str) -> None:
    """Remove one release folder, the marker first, so that a cut removal is not taken for a release."""
    marker = os.path.join(folder, MARKER)
    if os.path.exists(marker):
        os.unlink(marker)
    shutil.rmtree(folder, ignore_errors=True)


def quarantine(folder: str, keep: int) -> list[str]:
    """Put a failed release aside, for whoever looks for the cause, and remove all but the ``keep`` newest of those.

    What lies there is no release any more: its marker is gone, so it is neither started nor counted among the good ones.

    :returns: the folders that were removed.
    """
    aside = os.path.join(os.path.dirname(folder), ".failed")
    os.unlink(os.path.join(folder, MARKER))
    if keep:
        make_folder(aside)
        there = os.path.join(aside, os.path.basename(folder))
        shutil.rmtree(there, ignore_errors=True)
        os.rename(folder, there)
        os.utime(there)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    known = sorted((entry for entry in os.scandir(aside)), key=lambda entry: entry.stat().st_mtime, reverse=True) if os.path.isdir(aside) else []
    gone = [entry.path for entry in known[keep:]]
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
    return gone


def _record_path(directory: str, slot: str) -> str:
    return os.path.join(directory, "slots", f"{slot}.json")


def record(directory: str, slot: str) -> dict[str, Any]:
    """Return what a slot was last started with; empty when it never was."""
    data: dict[str, Any] = json.loads(read_text(_record_path(directory, slot)) or "{}")
    return data


def write_record(directory: str, slot: str, data: Mapping[str, Any]) -> None:
    """Remember what a slot is started with."""
    make_folder(os.path.join(directory, "slots"))
    write_atomic(_record_path(directory, slot), json.dumps(data, sort_keys=True) + "\n")


def forget(directory: str, slot: str) -> None:
    """Take a slot's record away."""
    if os.path.exists(_record_path(directory, slot)):
        os.unlink(_record_path(directory, slot))
