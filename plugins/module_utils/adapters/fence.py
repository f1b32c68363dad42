# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The highest fencing number seen, kept in the file ``fence`` of the folder it guards."""

from __future__ import annotations

import os
from typing import Optional

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import read_text, write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.fence import admit


def highest(folder: str) -> Optional[int]:
    """Return the highest number seen, or None when no run has left one."""
    path = os.path.join(folder, "fence")
    text = read_text(path)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise SluiceError(
            f"{path} does not hold a number, so it cannot be told whether a newer run was here.",
            "Look at the file; remove it when no release is going.",
            path=path,
        ) from error


def check(folder: str, number: int) -> bool:
    """Tell whether ``number`` is new to the folder, and write nothing.

    :raises SluiceError: a newer run was here.
    """
    return admit(highest(folder), number, folder)


def claim(folder: str, number: int) -> None:
    """Remember ``number`` in the folder; call it under the folder's lock.

    :raises SluiceError: a newer run was here.
    """
    if check(folder, number):
        write_atomic(os.path.join(folder, "fence"), f"{number}\n")
