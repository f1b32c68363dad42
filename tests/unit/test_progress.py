# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator hears while a host works: nothing of what is quick, more and more seldom of what is slow, nothing after the end."""

from __future__ import annotations

import threading
import time

import pytest
from ansible_collections.sluice.deploy.plugins.plugin_utils.progress import telling


def test_a_slow_work_is_told_and_its_end_is_the_end() -> None:
    heard: list[str] = []
    third = threading.Event()

    def say(line: str) -> None:
        heard.append(line)
        if len(heard) == 3:
            third.set()

    with telling(say, "app1: prepares v1.0.0", pauses=(0.01, 0.02)):
        assert third.wait(10)
    count = len(heard)
    time.sleep(0.1)
    assert len(heard) == count and set(heard) == {"app1: prepares v1.0.0: 0 s so far"}


def test_a_quick_work_is_not_told_and_an_error_passes() -> None:
    heard: list[str] = []
    before = set(threading.enumerate())
    with pytest.raises(KeyError), telling(heard.append, "x", pauses=(30.0,)):
        raise KeyError
    assert heard == [] and set(threading.enumerate()) <= before
