# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator hears while a host works for minutes: Ansible itself is silent until a task is done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Seconds after which it is said that something still goes on; from the last one on, once in that time.
PAUSES = (10.0, 20.0, 30.0, 60.0)


@contextmanager
def telling(say: Callable[[str], None], what: str, pauses: tuple[float, ...] = PAUSES) -> Iterator[None]:
    """Say now and then that something still goes on, until it is done.

    :param say: takes one line; it is called from a thread.
    """
    done, began = threading.Event(), time.monotonic()

    def work() -> None:
        count = 0
        while not done.wait(pauses[min(count, len(pauses) - 1)]):
            count += 1
            say(f"{what}: {time.monotonic() - began:.0f} s so far")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
