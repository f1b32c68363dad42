# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Callable


def percent(share: float) -> str:
    return f"{plain(100 * share)} %"


def at_most_percent(share: float) -> str:
    """Return an upper bound: rounded up, so that the words claim no more than was proven."""
    return _percent_by(math.ceil, share)


def at_least_percent(share: float) -> str:
    """Return a lower bound, rounded down."""
    return _percent_by(math.floor, share)


def _percent_by(rounding: Callable[[float], int], share: float) -> str:
    if share <= 0:
        return "0 %"
    digits = 1 - math.floor(math.log10(100 * share))
    number = rounding(round(100 * share * 10.0**digits, 6)) / 10.0**digits
    return f"{number:.{digits}f}".rstrip("0") + " %" if number % 1 else f"{number:.0f} %"


def plain(value: float) -> str:
    """Return a number with as many digits as a reader needs."""
    if value and abs(value) < 0.1:
        return f"{value:.1g}"
    return f"{value:.1f}".rstrip("0").rstrip(".") if abs(value) < 99.95 else f"{value:.0f}"


def seconds_in_words(value: float) -> str:
    return f"{1000 * value:.0f} ms" if value < 0.9995 else f"{plain(value)} s"


def duration(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{plain(seconds)} s"
