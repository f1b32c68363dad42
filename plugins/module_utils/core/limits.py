# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a canary must keep to, checked before anything is judged by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError


@dataclass(frozen=True)
class Limits:
    """What a canary must keep to.

    :param error_rate: largest share of first attempts that may fail.
    :param error_margin: how much larger than live's the share may be (0.005 is half a percentage point).
    :param p95_seconds: largest 95th percentile of the request time.
    :param p95_ratio: largest 95th percentile as a multiple of live's.
    :param p95_floor_seconds: a 95th percentile below this never fails by the ratio.
    :param min_samples: first attempts that are needed for a verdict.
    :param guard_errors: so many failures ...
    :param guard_requests: ... among so many first attempts end a step at once.
    :param guard_restarts: so many ends of the canary's processes on one host end it at once.
    :param guard_probes: so many failed health probes of one host in a row do, too.
    :param sprt_ratio: the canary that is so many times as bad as live is what the sequential test looks for.
    :param sprt_alpha: chance that the sequential test stops a canary as good as live.
    :param sprt_beta: chance that it overlooks one that is ``sprt_ratio`` times as bad.
    """

    error_rate: float = 0.01
    error_margin: float = 0.005
    p95_seconds: float = 2.0
    p95_ratio: float = 2.0
    p95_floor_seconds: float = 0.05
    min_samples: int = 50
    guard_errors: int = 5
    guard_requests: int = 20
    guard_restarts: int = 3
    guard_probes: int = 3
    sprt_ratio: float = 3.0
    sprt_alpha: float = 0.01
    sprt_beta: float = 0.1

    def __post_init__(self) -> None:
        wrong = [sentence for name, (right, sentence) in _RULES.items() if not (_is_number(getattr(self, name)) and right(getattr(self, name)))]
        if not wrong and self.guard_errors > self.guard_requests:
            wrong = [f"guard_errors ({self.guard_errors}) must not be larger than guard_requests ({self.guard_requests})"]
        if wrong:
            raise SluiceError(f"The limits of the canary are wrong: {'; '.join(wrong)}.", "Nothing was judged. Correct them; all have a default.", limits=wrong)

    @classmethod
    def of(cls, given: Optional[Mapping[str, object]]) -> Limits:
        """Return the limits with what the operator gave over the defaults; a key without a value keeps its default."""
        known = [item.name for item in fields(cls)]
        chosen = {name: value for name, value in (given or {}).items() if value is not None}
        unknown = sorted(set(chosen) - set(known))
        if unknown:
            raise SluiceError(f"The limits of the canary have no {', '.join(unknown)}.", f"They are: {', '.join(known)}.", limits=unknown)
        return cls(**chosen)  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_RULES: dict[str, tuple[Callable[[float], bool], str]] = {
    "error_rate": (lambda value: 0 < value < 1, "error_rate is a share between 0 and 1, such as 0.01 for 1 %"),
    "error_margin": (lambda value: 0 <= value < 1, "error_margin is a share from 0 up to 1, such as 0.005 for half a percentage point"),
    "p95_seconds": (lambda value: value > 0, "p95_seconds is a time above 0, such as 2.0"),
    "p95_ratio": (lambda value: value >= 1, "p95_ratio is a factor of 1 or more, such as 2.0"),
    "p95_floor_seconds": (lambda value: value >= 0, "p95_floor_seconds is a time of 0 or more, such as 0.05"),
    "min_samples": (lambda value: value >= 1 and value == int(value), "min_samples is a whole number of 1 or more, such as 50"),
    "guard_errors": (lambda value: value >= 1 and value == int(value), "guard_errors is a whole number of 1 or more, such as 5"),
    "guard_requests": (lambda value: value >= 1 and value == int(value), "guard_requests is a whole number of 1 or more, such as 20"),
    "guard_restarts": (lambda value: value >= 1 and value == int(value), "guard_restarts is a whole number of 1 or more, such as 3"),
    "guard_probes": (lambda value: value >= 1 and value == int(value), "guard_probes is a whole number of 1 or more, such as 3"),
    "sprt_ratio": (lambda value: value > 1, "sprt_ratio is a factor above 1, such as 3.0"),
    "sprt_alpha": (lambda value: 0 < value < 0.5, "sprt_alpha is a chance between 0 and 0.5, such as 0.01"),
    "sprt_beta": (lambda value: 0 < value < 0.5, "sprt_beta is a chance between 0 and 0.5, such as 0.1"),
}
