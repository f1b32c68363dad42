# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The four ways a gate about something outside ends: it is right, it is wrong, it is worth a look, or it could not be found out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, INCONCLUSIVE, PASS, Gate

WARN = "warn"
_TOLD = 6


def passed(name: str, sentence: str, **more: Any) -> Gate:
    """Return a gate that is satisfied."""
    return Gate(name, PASS, sentence, **more)


def failed(name: str, sentence: str, remedy: str, **more: Any) -> Gate:
    """Return a gate that stops: something is known to be wrong."""
    return Gate(name, FAIL, sentence, remedy=remedy, **more)


def warned(name: str, sentence: str, remedy: str, **more: Any) -> Gate:
    """Return a gate that is wrong, or cannot be judged with the rights there are, and does not stop by itself."""
    return Gate(name, INCONCLUSIVE, sentence, remedy=remedy, severity=WARN, **more)


def unknown(name: str, sentence: str, remedy: str = "Run it again; when it stays so, look at the network between here and there.", **more: Any) -> Gate:
    """Return a gate that could not tell: no answer, or one that proves nothing."""
    return Gate(name, INCONCLUSIVE, sentence, remedy=remedy, **more)


def listed(items: Sequence[str]) -> str:
    """Return items as one text, the first few of many."""
    more = f"; and {len(items) - _TOLD} more" if len(items) > _TOLD else ""
    return "; ".join(items[:_TOLD]) + more


def told(name: str, good: str, remedy: str, wrong: Sequence[str], unsure: Sequence[str] = (), sample: Any = None) -> Gate:
    """Return the gate over many observations: what is wrong outweighs what could not be seen."""
    if wrong:
        return failed(name, listed([*wrong, *unsure]), remedy, value=len(wrong), limit=0, sample=sample)
    if unsure:
        return unknown(name, listed(unsure), sample=sample)
    return passed(name, good, value=0, limit=0, sample=sample)


def plural(count: int, one: str, many: str = "") -> str:
    """Return a number with its noun."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def comma(items: Iterable[Any]) -> str:
    """Return items behind one another."""
    return ", ".join(str(item) for item in items)
