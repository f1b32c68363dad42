# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The common client of services that are asked over HTTP: one question, few tries, and the service's own wish when to come back."""

from __future__ import annotations

import time

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import web
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Answer, Probe, Tls

_TRIES = 3
_PAUSE = 0.5


def question(base: str, probe: Probe, end: float, timeout: float, ca: str = "") -> Answer:
    """Ask and return the answer; 429, 5xx and silence are asked again, at most twice and never past ``end`` (``time.monotonic()``).

    A request that writes is asked once: nobody knows whether the first one arrived.

    :param timeout: seconds for each try.
    :param ca: file of the authorities that are trusted instead of the system's.
    """
    probe = probe.within({}, Tls(ca=ca))
    pause, answer = _PAUSE, Answer(0, "", 0.0, error="the time was over before it was asked")
    for attempt in range(_TRIES if probe.method == "GET" else 1):
        left = end - time.monotonic()
        if left <= 0:
            break
        answer = web.ask(base, probe, min(timeout, left))
        if not answer.error and answer.status != 429 and answer.status < 500:
            break
        wanted = {name.lower(): value for name, value in answer.headers.items()}.get("retry-after", "")
        pause = float(wanted) if wanted.isdecimal() else _PAUSE * 2**attempt
        # Waiting longer than there is time for would change nothing.
        if time.monotonic() + pause >= end or attempt == _TRIES - 1:
            break
        time.sleep(pause)
    return answer
