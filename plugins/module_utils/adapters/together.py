# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several questions at once: what waits for the network waits side by side, and all of it together ends at one moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

Result = TypeVar("Result")


def side_by_side(calls: Mapping[str, Callable[[], Result]], seconds: float, late: Callable[[str], Result]) -> dict[str, Result]:
    """Run each call in a thread of its own and return what they answered.

    :param seconds: how long all of them may take together.
    :param late: makes the answer of a call that has none by then; its thread is left to end by itself.
    :raises Exception: what a call raised, once all are done.
    """
    answers: dict[str, Result] = {}
    failed: list[Exception] = []

    def run(name: str) -> None:
        try:
            answers[name] = calls[name]()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(name,), daemon=True) for name in calls]
    end = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    if failed:
        raise failed[0]
    done = dict(answers)
    return {name: done[name] if name in done else late(name) for name in calls}
