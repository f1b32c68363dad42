# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the kernel tells of this host: processors, memory and file systems."""

from __future__ import annotations

import os

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError


def kernel(name: str) -> str:
    """Return a file of /proc.

    :raises SluiceError: it cannot be read.
    """
    try:
        with open(f"/proc/{name}", encoding="ascii") as stream:
            return stream.read()
    except OSError as error:
        raise SluiceError(f"/proc/{name} could not be read: {error.strerror}") from error


def used_disk(path: str) -> float:
    """Return the used share of the file system that holds a folder, as df shows it: what is kept for root is neither used nor free.

    :raises SluiceError: there is no such folder.
    """
    try:
        found = os.statvfs(path)
    except OSError as error:
        raise SluiceError(f"the file system of {path} could not be read: {error.strerror}") from error
    used = found.f_blocks - found.f_bfree
    return used / (used + found.f_bavail) if used + found.f_bavail else 1.0
