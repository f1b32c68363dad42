# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP as a probe sees it: one request on a new connection, no redirect followed, nothing retried."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Answer, Probe, Streak, complaint

_BODY_LIMIT = 1024 * 1024


def ask(base: str, probe: Probe, timeout: float, headers: Mapping[str, str] | None = None) -> Answer:
    """Send one probe to ``base`` (``http://host:port`` or ``https://host``) and return its answer; a failed connection is an answer too."""
    parts = urlsplit(base)
    secure = parts.scheme == "https"
    started = time.monotonic()
    connection: http.client.HTTPConnection | None = None
    try:
        connection = (http.client.HTTPSConnection if secure else http.client.HTTPConnection)(parts.netloc, timeout=timeout)
        connection.request(
            probe.method,
            parts.path.rstrip("/") + probe.path,
            body=probe.body.encode() or None,
            headers={"Connection": "close", **probe.headers, **(headers or {})},
        )
        response = connection.getresponse()
        body = response.read(_BODY_LIMIT).decode("utf-8", "replace")
        return Answer(response.status, body, time.monotonic() - started, dict(response.getheaders()))
    # A path or header that HTTP cannot carry is a ValueError.
    except (OSError, http.client.HTTPException, ValueError) as error:
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Answer(0, "", time.monotonic() - started, error=f"no answer from {parts.netloc}: {words}")
    finally:
        if connection:
            connection.close()


def wait_healthy(
    targets: Mapping[str, tuple[str, Probe]],
    *,
    passes: int,
    deadline: float,
    interval: float,
    timeout: float,
    given_up: Callable[[], str] = lambda: "",
) -> dict[str, Streak]:
    """Ask all targets in turn until each gave ``passes`` good answers in a row.

    :param targets: name -> (base URL, probe).
    :param deadline: seconds for all of them together.
    :param interval: seconds between two rounds.
    :param timeout: seconds for one answer.
    :param given_up: asked between rounds; a sentence ends the wait at once (the process is gone, say).
    :raises SluiceError: the deadline passed or ``given_up`` spoke; it says what was seen last, for each target.
    """
    end = time.monotonic() + deadline
    streaks = {name: Streak(passes) for name in targets}
    while True:
        for name, (base, probe) in targets.items():
            if not streaks[name].healthy:
                streaks[name] = streaks[name].after(complaint(probe, ask(base, probe, timeout)))
        if all(streak.healthy for streak in streaks.values()):
            return streaks
        reason = given_up()
        if reason or time.monotonic() >= end:
            seen = "; ".join(
                f"{name} {targets[name][0]}{targets[name][1].path}: {streak.last or 'good, but not often enough'}"
                for name, streak in streaks.items()
                if not streak.healthy
            )
            why = reason or f"not healthy within {deadline:g} s"
            raise SluiceError(f"{why}; last seen: {seen}.", seen={name: streak.last for name, streak in streaks.items()})
        time.sleep(interval)


def smoke(base: str, probes: Sequence[Probe], timeout: float, tries: int = 2) -> list[str]:
    """Send each probe and return what was wrong, in words; a probe that reads is tried once more before it counts."""
    wrong: list[str] = []
    for probe in probes:
        said = "never asked"
        for _attempt in range(1 if probe.writes else tries):
            said = complaint(probe, ask(base, probe, timeout))
            if not said:
                break
        if said:
            wrong.append(f"{probe.name} ({probe.method} {probe.path}): {said}")
    return wrong
