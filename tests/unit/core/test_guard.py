# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The instant guard: what ends a canary at once, whatever its log shows."""

from __future__ import annotations

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.guard import guard_limits, streak, with_guard
from ansible_collections.sluice.deploy.plugins.module_utils.core.ladder import HOLD, ROLLBACK, Reading, climb
from ansible_collections.sluice.deploy.plugins.module_utils.core.limits import Limits
from ansible_collections.sluice.deploy.plugins.module_utils.core.metric_sources import APP, source_from
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import ERROR, FAIL, PASS
from hypothesis import given
from hypothesis import strategies as st

NOW = 1000.0


def readings(**values: float | None) -> list[Reading]:
    seen = {"restarts": 0.0, "failed_probes": 0.0, **values}
    return [Reading(metric, NOW, value, why="" if value is not None else "PM2 is gone", host="app1") for metric, value in seen.items()]


@pytest.mark.parametrize(
    ("values", "verdict", "action", "said"),
    [
        ({}, PASS, "continue", ""),
        ({"restarts": 2.0, "failed_probes": 2.0}, PASS, "continue", ""),
        ({"restarts": 3.0}, FAIL, ROLLBACK, "restarts on app1 is 3; restarts >= 3: rollback."),
        ({"failed_probes": 3.0}, FAIL, ROLLBACK, "failed_probes on app1 is 3; failed_probes >= 3: rollback."),
        ({"restarts": None}, ERROR, "continue", ""),
    ],
)
def test_processes_that_end_and_probes_that_fail_end_the_canary(values: dict[str, float | None], verdict: str, action: str, said: str) -> None:
    climbed = climb(guard_limits(Limits()), readings(**values), NOW)
    assert (climbed.verdict, climbed.action, climbed.sentence) == (verdict, action, said)


def test_a_guard_that_nobody_reads_holds() -> None:
    climbed = climb(guard_limits(Limits()), [], NOW)
    assert (climbed.verdict, climbed.action) == (ERROR, HOLD)


def test_the_guard_is_read_on_every_app_host_and_gives_way_to_the_operator_s_own_source() -> None:
    assert [(source.metric, source.place) for source in with_guard([])] == [("restarts", APP), ("failed_probes", APP)]
    own = source_from({"metric": "restarts", "source": "http", "url": "http://127.0.0.1:{port}/metrics", "path": "restarts"})
    assert [source.metric for source in with_guard([own])] == ["restarts", "failed_probes"]
    assert with_guard([own])[0] is own


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=3), min_size=1, max_size=10))
def test_a_streak_counts_the_newest_failures_over_all_looks(looks: list[list[bool]]) -> None:
    seen = None
    for number, fails in enumerate(looks):
        seen = streak(seen, fails, float(number))
    assert seen is not None
    everything = [failed for fails in looks for failed in fails]
    newest = next((count for count, failed in enumerate(reversed(everything)) if not failed), len(everything))
    assert seen["count"] == newest
    if len(everything) == newest:
        assert seen["since"] == 0.0
