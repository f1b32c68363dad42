# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs outside: argument lists, a deadline, a private environment, and an error that says what was run."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.secret import scrub

# What a child needs of the caller's environment and no more: a caller's secrets are none of its business.
_INHERITED = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Result:
    """What a program left: exit code, both outputs as text, and the seconds it took."""

    argv: tuple[str, ...]
    rc: int
    stdout: str
    stderr: str
    seconds: float


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a small environment: path, home and ``LC_ALL=C``, with ``extra`` on top."""
    base = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**base, "LC_ALL": "C", **(extra or {})}


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    stdin: str = "",
    ok: Iterable[int] = (0,),
    secrets: Iterable[str] = (),
) -> Result:
    """Run a program to its end.

    :param timeout: seconds after which it is killed.
    :param env: added to the clean environment.
    :param ok: exit codes that are no failure.
    :param secrets: values that are starred in the error.
    :raises SluiceError: it is missing, took too long, or ended with another exit code; with ``cmd``, ``rc``, ``stdout``, ``stderr``.
    """
    words = [str(word) for word in argv]
    shown = scrub(shlex.join(words), secrets)
    started = time.monotonic()
    try:
        # run_command has no deadline, hands the caller's whole environment on, and needs a module around it.
        # pylint: disable-next=ansible-bad-function
        done = subprocess.run(
            words, env=clean_environment(env), cwd=cwd, input=stdin, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
    except FileNotFoundError as error:
        missing = cwd if cwd and not os.path.isdir(cwd) else words[0]
        raise SluiceError(f"{missing} is not there, so `{shown}` could not be run.", "Install it, or give its path.", cmd=shown) from error
    except PermissionError as error:
        raise SluiceError(f"{words[0]} may not be run by this user.", "Check its mode and the become user.", cmd=shown) from error
    except OSError as error:
        raise SluiceError(f"`{shown}` could not be run: {error.strerror}.", "Check that it is a program of this machine.", cmd=shown) from error
    except subprocess.TimeoutExpired as error:
        raise SluiceError(f"`{shown}` did not end within {timeout:g} s and was killed.", cmd=shown, timeout=timeout) from error
    result = Result(tuple(words), done.returncode, done.stdout, done.stderr, time.monotonic() - started)
    if result.rc not in tuple(ok):
        said = scrub((result.stderr.strip() or result.stdout.strip() or "it said nothing"), secrets)
        raise SluiceError(
            f"`{shown}` ended with exit code {result.rc}: {said[-2000:]}",
            cmd=shown,
            rc=result.rc,
            stdout=scrub(result.stdout[-4000:], secrets),
            stderr=scrub(result.stderr[-4000:], secrets),
        )
    return result
