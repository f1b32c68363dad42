# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Release folders and slot records of an app on one host."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import git
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import make_folder, read_text, write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.process import run
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

# Written last: a folder without it is what a killed build left.
MARKER = ".sluice.json"


def is_built(folder: str) -> bool:
    """Tell whether a release folder is whole."""
    return os.path.exists(os.path.join(folder, MARKER))


def build(source: str, version: str, commit: str, folder: str, mirror: str, commands: Sequence[Sequence[str]], env: Mapping[str, str]) -> None:
    """Fetch a commit, build it beside its place and rename it over: a release folder is whole or not there.

    :param commands: argument lists, run in the folder one after the other, ``nice``d so that the live slot keeps the processor.
    """
    partial = os.path.join(os.path.dirname(folder), f".{os.path.basename(folder)}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if os.path.isdir(folder):
        shutil.rmtree(folder)
    make_folder(os.path.dirname(folder))
    try:
        git.unpack(source, commit, mirror, partial)
        for command in commands:
            run(["nice", "-n", "10", *command], timeout=1800, env=env, cwd=partial)
        write_atomic(os.path.join(partial, MARKER), json.dumps({"version": version, "commit": commit}) + "\n")
        os.rename(partial, folder)
    except SluiceError:
        shutil.rmtree(partial, ignore_errors=True)
        raise


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
