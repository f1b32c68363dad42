# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gate says: one verdict with its value, limit, sample and a plain sentence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

PASS, FAIL, INCONCLUSIVE, WAIVED, ERROR = "pass", "fail", "inconclusive", "waived", "error"
VERDICTS = (PASS, FAIL, INCONCLUSIVE, WAIVED, ERROR)

# The worst verdict decides; "cannot tell" is never better than "passed".
_SEVERITY = {PASS: 0, WAIVED: 1, INCONCLUSIVE: 2, ERROR: 3, FAIL: 4}


@dataclass(frozen=True)
class Gate:
    """One gate's answer.

    :param name: short name of the gate, the same in console, ledger and report.
    :param verdict: one of ``VERDICTS``.
    :param sentence: what was seen, in words, with the numbers.
    :param value: what was measured.
    :param limit: what was allowed.
    :param sample: how many observations the value rests on.
    :param remedy: what to do when it did not pass.
    :param severity: ``warn`` when a verdict other than pass is worth a look and no more; empty when it stops.
    """

    name: str
    verdict: str
    sentence: str
    value: Any = None
    limit: Any = None
    sample: Any = None
    remedy: str = ""
    severity: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict {self.verdict!r} is none of {', '.join(VERDICTS)}")

    def as_dict(self) -> dict[str, Any]:
        """Return the gate as a plain mapping, without the keys that say nothing."""
        return {key: value for key, value in asdict(self).items() if value not in (None, "")}


def worst(verdicts: Iterable[str]) -> str:
    """Return the verdict that decides over several; no verdict at all is ``inconclusive``."""
    return max(verdicts, key=_SEVERITY.__getitem__, default=INCONCLUSIVE)


def stops(verdict: str) -> bool:
    """Tell whether a gate with this verdict stops a release."""
    return verdict not in (PASS, WAIVED)
