# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Times in bins that grow by 5 %: small, and mergeable over edges and windows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Optional

# Bins of the histogram: bin 0 is below a millisecond (all that nginx can tell), bin n >= 1 covers FLOOR * GROWTH ** (n - 1) up to FLOOR * GROWTH ** n.
FLOOR_SECONDS = 0.001
GROWTH = 1.05


def bin_of(seconds: float) -> int:
    """Return the histogram's bin of a time."""
    if seconds < FLOOR_SECONDS:
        return 0
    return 1 + math.floor(math.log(seconds / FLOOR_SECONDS) / math.log(GROWTH) + 1e-9)


def value_of(number: int) -> float:
    """Return the time a bin stands for: its geometric middle."""
    return 0.0 if number <= 0 else FLOOR_SECONDS * GROWTH ** (number - 0.5)


def value_at(histogram: Mapping[int, float], rank: float) -> Optional[float]:
    """Return the ``rank``-th smallest time, counted from 1; None when there are not so many.

    Of a histogram whose counts are weighed, the rank need not be whole.
    """
    if rank <= 0:
        return None
    passed = 0.0
    for number in sorted(histogram):
        passed += histogram[number]
        if passed >= rank:
            return value_of(number)
    return None


def quantile(histogram: Mapping[int, float], share: float) -> Optional[float]:
    """Return the time below which ``share`` of the requests stayed, right to the width of a bin (5 %); None without requests."""
    total = sum(histogram.values())
    # A share that falls exactly between two bins is the lower one's, however the sum of the weights was rounded.
    return value_at(histogram, max(share - 1e-9, 1e-12) * total)
