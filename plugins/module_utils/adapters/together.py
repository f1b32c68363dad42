# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions that wait for the network, asked side by side, with one end for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.gates import failed, unknown
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import ERROR, Gate

T = TypeVar("T")


def together(jobs: Mapping[str, Callable[[], T]], end: float, here: str = "") -> dict[str, T | Exception | None]:
    """Run all jobs at once and return what each returned or raised; None for one that was not done by ``end`` (``time.monotonic()``).

    :param here: the job that runs in the caller's own thread, because it handles signals; it keeps the end by itself.
    """
    done: dict[str, Any] = dict.fromkeys(jobs)

    def work(name: str) -> None:
        try:
            done[name] = jobs[name]()
        except Exception as error:
            done[name] = error

    # Daemons: a job that hangs must not hold the module up at its end.
    threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in jobs if name != here]
    for thread in threads:
        thread.start()
    if here:
        work(here)
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    return dict(done)


def judged(jobs: Mapping[str, Callable[[], list[Gate]]], end: float, here: str = "") -> list[Gate]:
    """Run gates side by side and return all their verdicts in the order of the jobs; one that broke or came too late is a verdict of its own."""
    return [gate for name, came in together(jobs, end, here).items() for gate in verdicts_of(name, came)]


def verdicts_of(name: str, came: list[Gate] | Exception | None) -> list[Gate]:
    """Return the gates of one job, or the gate that says why there are none."""
    if came is None:
        return [unknown(name, "it was not finished before the deadline", "Raise the deadline, or look what does not answer.")]
    if isinstance(came, SluiceError):
        return [failed(name, came.message, came.remedy)]
    if isinstance(came, Exception):
        # Only the kind: the text of an unforeseen error may hold what was asked with.
        return [Gate(name, ERROR, f"it could not be found out ({type(came).__name__})", remedy="This is a fault of the gate; report it with the inputs.")]
    return came
