# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, ports and the process file of a slot, and what retention may remove."""

from __future__ import annotations

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import slots
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from hypothesis import given
from hypothesis import strategies as st

WEB = {"name": "web", "entry": "server.js", "instances": 2, "ports": {"blue": 3001, "green": 3002, "rehearsal": 3003}}


def test_the_process_file_names_everything_absolutely() -> None:
    (app,) = slots.ecosystem("shop", "green", [slots.service_from(WEB)], "/srv/shop/releases/v1", {"A": "b"}, "/srv/shop/logs", "r1")["apps"]
    assert (app["name"], app["script"], app["cwd"]) == ("shop-web-green", "/srv/shop/releases/v1/server.js", "/srv/shop/releases/v1")
    assert app["env"] == {"A": "b", "HOST": "127.0.0.1", "PORT": "3002", "SLUICE_SLOT": "green", "SLUICE_RELEASE": "r1", "NODE_ENV": "production"}
    assert (app["instances"], app["exec_mode"], app["wait_ready"]) == (2, "cluster", True)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Web!"},
        {"name": ""},
        {"entry": ""},
        {"entry": "/abs.js"},
        {"entry": "../x.js"},
        {"entry": "npm"},
        {"ports": {"blue": 1}},
        {"ports": None},
        {"ports": {"blue": 1, "green": 1, "rehearsal": 2}},
        {"ports": {"blue": 0, "green": 1, "rehearsal": 2}},
        {"ports": {"blue": "x", "green": 1, "rehearsal": 2}},
    ],
)
def test_a_wrong_service_is_refused_with_an_example(change: dict[str, object]) -> None:
    with pytest.raises(SluiceError, match=r"app_services: .*Example: \{name: web"):
        slots.service_from({**WEB, **change})


@given(st.lists(st.integers(0, 9), unique=True), st.lists(st.integers(0, 9), unique=True), st.lists(st.integers(0, 9)), st.integers(1, 5))
def test_retention_never_takes_what_a_slot_holds_or_a_kept_good_one(there: list[int], good: list[int], held: list[int], keep: int) -> None:
    folders = [f"/r/{number}" for number in there]
    gone = slots.prunable(folders, [f"/r/{number}" for number in good], [f"/r/{number}" for number in held], keep)
    assert not set(gone) & {f"/r/{number}" for number in held}
    assert not set(gone) & {f"/r/{number}" for number in good[:keep]}
    assert set(folders) - set(gone) <= {f"/r/{number}" for number in [*held, *good[:keep]]}
