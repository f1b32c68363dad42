# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Probes of every kind, sent to many targets at once, and a suite of smoke requests sent one after the other."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import web
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import read_text
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.process import clean_environment
from ansible_collections.sluice.deploy.plugins.module_utils.core import dotenv
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import COMMAND, TCP, WEBSOCKET, Answer, Probe, Streak, Targets, complaint, unhealthy
from ansible_collections.sluice.deploy.plugins.module_utils.core.secret import scrub
from ansible_collections.sluice.deploy.plugins.module_utils.core.smoke import READ, Case, Step, filled, harvest, secrets_of, waits_for

_SHORTEST = 0.5  # an answer that is asked for right before the deadline still gets this long
# What is healthy sooner needs no question why it is not.
_FIRST_SECONDS = 1.0
_GRACE = 0.2


def look(base: str, probe: Probe, timeout: float, cwd: Optional[str] = None) -> Answer:
    """Send one probe of any kind and return its answer; what did not answer is an answer too."""
    if probe.kind == TCP:
        return _connect(probe, timeout)
    if probe.kind == COMMAND:
        return _run(probe, timeout, cwd)
    return web.shake(base, probe, timeout) if probe.kind == WEBSOCKET else web.ask(base, probe, timeout)


def _connect(probe: Probe, timeout: float) -> Answer:
    started = time.monotonic()
    host, _colon, port = probe.address.rpartition(":")
    line = web.Line(started + timeout)
    error = ""
    try:
        line.open(host.strip("[]"), int(port))
    except OSError as caught:
        error = f"no connection to {probe.address}: {caught.strerror or caught}"
    finally:
        line.close()
    return Answer(0, "", time.monotonic() - started, error=error)


def _run(probe: Probe, timeout: float, cwd: Optional[str]) -> Answer:
    started = time.monotonic()
    try:
        # In a group of its own: what the command started must not outlive its deadline.
        # pylint: disable-next=ansible-bad-function,consider-using-with
        process = subprocess.Popen(
            list(probe.command),
            cwd=cwd,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
            errors="replace",
        )
    except (OSError, ValueError) as error:
        return Answer(0, "", 0.0, error=f"{probe.command[0]} could not be run: {getattr(error, 'strerror', None) or error}")
    try:
        out, err = process.communicate(timeout=timeout)
        wrong = ""
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out = err = ""
        wrong = f"{probe.command[0]} did not end within {timeout:g} s and was killed"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=1)  # reaps it; whoever left the group may still hold the pipes
    if process.returncode and not wrong:
        said = " ".join((err.strip() or out.strip() or "it said nothing")[-300:].split())
        wrong = f"{probe.command[0]} ended with exit code {process.returncode}: {said}"
    return Answer(process.returncode, out, time.monotonic() - started, error=wrong)


def observe(
    targets: Targets,
    *,
    passes: int,
    deadline: float,
    interval: float,
    timeout: float,
    given_up: Callable[[], str] = lambda: "",
) -> tuple[dict[str, Streak], str]:
    """Ask all targets at once until each gave ``passes`` good answers in a row; return what they said, and why the wait ended early.

    :param targets: name -> (base URL, probe).
    :param deadline: seconds for all of them together.
    :param interval: seconds between two questions to the same target.
    :param timeout: seconds for one answer, where the probe has none of its own.
    :param given_up: asked while answers are missing; a sentence ends the wait at once (the process is gone, say).
    :raises SluiceError: an address is none, or the certificate of another machine is not to be verified.
    """
    for base, probe in targets.values():
        web.check(base, probe)
    end = time.monotonic() + deadline
    streaks = {name: Streak(passes) for name in targets}
    over = threading.Event()

    def ask(name: str) -> None:
        base, probe = targets[name]
        while not over.is_set():
            left = end - time.monotonic()
            if streaks[name].asked and left <= 0:
                return
            answer = look(base, probe, min(probe.timeout or timeout, max(left, _SHORTEST)))
            if over.is_set() and streaks[name].asked:
                return
            streaks[name] = streaks[name].after(complaint(probe, answer), answer)
            if streaks[name].healthy:
                return
            over.wait(max(0.0, min(interval, end - time.monotonic())))

    threads = [threading.Thread(target=ask, args=(name,), daemon=True) for name in targets]
    for thread in threads:
        thread.start()
    try:
        reason = _wait(threads, end, interval, given_up)
    finally:
        over.set()
    return dict(streaks), "" if all(streak.healthy for streak in streaks.values()) else reason or f"not healthy within {deadline:g} s"


def _wait(threads: Sequence[threading.Thread], end: float, interval: float, given_up: Callable[[], str]) -> str:
    """Wait until all threads are done; return why not, when ``given_up`` said so or the time is over."""
    rest = max(interval, _FIRST_SECONDS)
    while True:
        pause = min(time.monotonic() + rest, end)
        for thread in threads:
            thread.join(max(0.0, pause - time.monotonic()))
        if not any(thread.is_alive() for thread in threads):
            return ""
        asked = time.monotonic()
        reason = given_up()
        # To ask a process manager costs processor time that what starts needs itself: no more than a fifth of the wait.
        rest = max(rest, 4 * (time.monotonic() - asked))
        if reason or time.monotonic() >= end:
            last = time.monotonic() + (_GRACE if reason else _SHORTEST + _GRACE)
            for thread in threads:
                thread.join(max(0.0, last - time.monotonic()))
            return reason


def wait_healthy(
    targets: Targets, *, passes: int, deadline: float, interval: float, timeout: float, given_up: Callable[[], str] = lambda: ""
) -> dict[str, Streak]:
    """Ask all targets at once until each is healthy.

    :raises SluiceError: the deadline passed or ``given_up`` spoke; it says what was seen last, for each target.
    """
    streaks, why = observe(targets, passes=passes, deadline=deadline, interval=interval, timeout=timeout, given_up=given_up)
    if why:
        raise unhealthy(why, targets, streaks)
    return streaks


def smoke(
    base: str,
    steps: Sequence[Step],
    left_out: Mapping[int, str],
    *,
    timeout: float,
    values: Mapping[str, str] | None = None,
    cwd: Optional[str] = None,
    tries: int = 2,
) -> list[Case]:
    """Send a suite and return what came of each request; one that only reads is tried once more before it counts.

    :param left_out: place in the suite -> why that request is not sent.
    :param values: what requests may use from the start, beside what they extract.
    :param cwd: folder commands are run in.
    :raises SluiceError: an address is none, or the certificate of another machine is not to be verified.
    """
    for step in steps:
        web.check(base, step.probe)
    known: dict[str, Any] = dict(values or {})
    cases: list[Case] = []
    for number, step in enumerate(steps):
        if number in left_out:
            cases.append(Case("smoke", step.label, skipped=left_out[number]))
            continue
        lacking = waits_for(step, known, steps)
        if lacking:
            cases.append(Case("smoke", step.label, wrong=f"it was not sent, there is no {lacking}"))
            continue
        began = time.monotonic()
        wrong = ""
        for _attempt in range(tries if step.effect == READ else 1):
            found, wrong = _send(base, step, known, timeout, cwd)
            if not wrong:
                known.update(found)
                break
        cases.append(Case("smoke", step.label, time.monotonic() - began, wrong))
    return cases


def _send(base: str, step: Step, known: Mapping[str, Any], timeout: float, cwd: Optional[str]) -> tuple[dict[str, Any], str]:
    probe = filled(step, known, base)
    answer = look(base, probe, probe.timeout or timeout, cwd)
    found, lacking = harvest(step, answer)
    secrets = secrets_of(step, {**known, **found})
    return found, scrub(complaint(probe, answer, secrets, bare=not step.extract) or lacking, secrets)


def read_values(path: Optional[str]) -> dict[str, str]:
    """Return the variables of a private file in dotenv form; none when no file is named.

    :raises SluiceError: the file is not there, or others may read it.
    """
    if not path:
        return {}
    text = read_text(path)
    if text is None:
        raise SluiceError(f"The file {path} with the values of the smoke requests is not there.", "Set app_smoke_values to it, or leave it empty.")
    if stat.S_IMODE(os.stat(path).st_mode) & 0o077:
        raise SluiceError(f"Others may read {path}, which holds the values of the smoke requests.", f"Run chmod 600 {path}.")
    return dotenv.parse(text)
