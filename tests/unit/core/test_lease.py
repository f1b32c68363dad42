# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lease: one holder at a time, and a number that only grows."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import lease as leases
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.lease import Lease
from hypothesis import given
from hypothesis import strategies as st

HELD = Lease("ann@control", 11, 500, "release.yml v2-1", 7, 0.0, 900.0)
WANTED = Lease("bob@laptop", 22, 600, "rollback.yml", 0, 60.0, 960.0)
ABOUT = "ann@control (process 11) for release.yml v2-1 since 1970-01-01 00:00:00 UTC"


@pytest.mark.parametrize(
    ("held", "now", "alive", "reason", "note"),
    [
        (None, 60.0, None, "", ""),
        (replace(HELD, owner="bob@laptop", pid=22, started=600), 60.0, True, "", ""),
        (HELD, 60.0, False, "", f"taken over: it was held by {ABOUT}, and that process is gone"),
        (HELD, 900.0, True, "", f"taken over: it was held by {ABOUT}, and expired 1970-01-01 00:15:00 UTC"),
        (HELD, 900.0, None, "", f"taken over: it was held by {ABOUT}, and expired 1970-01-01 00:15:00 UTC"),
        (HELD, 60.0, True, "it hangs", f"broken by bob@laptop: it was held by {ABOUT}; reason given: it hangs"),
        (HELD, 60.0, False, "it hangs", f"taken over: it was held by {ABOUT}, and that process is gone"),
    ],
)
def test_a_free_lease_is_granted(held: Optional[Lease], now: float, alive: Optional[bool], reason: str, note: str) -> None:
    grant = leases.request(held, WANTED, now, alive, 7, reason)
    assert grant == leases.Grant(replace(WANTED, fence=8), note)


@pytest.mark.parametrize("alive", [True, None])
@pytest.mark.parametrize("now", [60.0, 899.999])
def test_a_lease_that_is_held_is_refused_and_names_the_holder(now: float, alive: Optional[bool]) -> None:
    with pytest.raises(SluiceError) as caught:
        leases.request(HELD, WANTED, now, alive, 7)
    assert str(caught.value) == (
        f"The app is being changed by {ABOUT}; the lease runs until 1970-01-01 00:15:00 UTC. Wait for that run, or look with status.yml; "
        "-e release_lease_break_reason='...' takes the lease away, and the ledger will say who did."
    )
    assert caught.value.details()["holder"] == HELD.as_dict()


@pytest.mark.parametrize("other", [{"owner": "ann@other"}, {"pid": 12}, {"started": 501}])
def test_a_run_is_the_same_only_with_owner_process_and_start(other: dict[str, object]) -> None:
    with pytest.raises(SluiceError, match="The app is being changed by ann@control"):
        leases.request(HELD, replace(HELD, **other), 60.0, True, 7)  # type: ignore[arg-type]


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.floats(0, 500), st.booleans(), st.sampled_from([True, False, None]), st.sampled_from(["", "", "it hangs"])),
        max_size=40,
    )
)
def test_there_are_never_two_holders_and_the_number_only_grows(asks: list[tuple[int, float, bool, Optional[bool], str]]) -> None:
    held: Optional[Lease] = None
    fence, now = 0, 0.0
    for pid, pause, gives_back, alive, reason in asks:
        now += pause
        wanted = Lease("ann@control", pid, pid * 10, "release.yml", 0, now, now + 300)
        try:
            grant = leases.request(held, wanted, now, alive, fence, reason)
        except SluiceError:
            assert held is not None
            assert held.pid != pid
            assert now < held.expires
            assert alive is not False
            assert not reason
            continue
        # Whoever had it before is gone, expired, broken with a reason, or the same run; whatever is taken away leaves a note.
        if held is not None and held.pid != pid:
            assert alive is False or now >= held.expires or reason
            assert grant.note
        else:
            assert not grant.note
        assert grant.lease.fence == fence + 1
        fence, held = grant.lease.fence, None if gives_back else grant.lease


@given(st.floats(0, 4e9), st.integers(0, 10**6))
def test_a_lease_is_read_back_as_it_was_written(since: float, fence: int) -> None:
    lease = replace(HELD, since=since, fence=fence)
    assert leases.from_dict(lease.as_dict()) == lease


@pytest.mark.parametrize("data", [None, {}, {"fence": 7}, {"owner": ""}])
def test_a_file_without_an_owner_holds_no_lease(data: Optional[dict[str, object]]) -> None:
    assert leases.from_dict(data) is None


def test_times_are_shown_in_utc() -> None:
    assert leases.utc(1767323045.9) == "2026-01-02 03:04:05 UTC"
