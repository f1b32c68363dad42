# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The instant guard over what the log cannot show: processes that end, and health probes that fail. It is always on, beside the ladder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.ladder import ROLLBACK, Limit
from ansible_collections.sluice.deploy.plugins.module_utils.core.limits import Limits
from ansible_collections.sluice.deploy.plugins.module_utils.core.metric_sources import HOST, Source

RESTARTS, FAILED_PROBES, HEALTH_FAILING = "restarts", "failed_probes", "health_failing"


def guard_limits(limits: Limits) -> list[Limit]:
    """Return the guard as rungs of the ladder: each takes the canary back at once."""
    return [
        Limit(RESTARTS, ">=", limits.guard_restarts, action=ROLLBACK),
        Limit(FAILED_PROBES, ">=", limits.guard_probes, action=ROLLBACK),
    ]


def with_guard(sources: Iterable[Source]) -> list[Source]:
    """Return the operator's sources and those of the guard, where the operator names no other for the same metric."""
    given = list(sources)
    known = {source.metric for source in given}
    return [*given, *(Source(metric, HOST) for metric in (RESTARTS, FAILED_PROBES) if metric not in known)]


def streak(before: Optional[Mapping[str, Any]], fails: Sequence[bool], now: float) -> dict[str, Any]:
    """Return how many probes have failed in a row, and since when.

    :param before: what the look before returned; None at the first one.
    :param fails: for each probe of this look, in order, whether it failed.
    :param now: seconds, when the first of them was sent.
    :return: ``count``, and ``since`` in seconds; 0 and ``now`` while the newest one passed.
    """
    count, since = (int(before["count"]), float(before["since"])) if before and before["count"] else (0, now)
    for failed in fails:
        count, since = (count + 1, since) if failed else (0, now)
    return {"count": count, "since": since}
