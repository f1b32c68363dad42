# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rule of the fencing number: whoever comes with a lower number than the highest one seen lost the lease meanwhile."""

from __future__ import annotations

from typing import Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError


def admit(seen: Optional[int], number: int, place: str) -> bool:
    """Tell whether ``number`` is new and has to be remembered; an equal one is known already.

    :param seen: the highest number seen at this place, None when there was none.
    :raises SluiceError: a newer run was here.
    """
    if seen is not None and number < seen:
        raise SluiceError(
            f"A newer run (fencing number {seen}) has worked on {place} since this one (number {number}) took the lease; nothing was changed.",
            "Look with status.yml who holds the lease, and start again if it is free.",
            fence=number,
            fence_seen=seen,
        )
    return seen is None or number > seen
