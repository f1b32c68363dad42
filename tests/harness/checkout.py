# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the wrapping tests share: the checkout's files, a runner whose failure shows the tool's own words, and the honest skip."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import NoReturn

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
CACHE = CHECKOUT / ".cache"
COLLECTION = Path("ansible_collections", "sluice", "deploy")


def cannot_run(reason: str) -> NoReturn:
    """Skip what this machine cannot run, in a way that is seen at the end; in CI nothing may be left out."""
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(f"cannot run here: {reason}", pytrace=False)
    pytest.skip(f"cannot run here: {reason}")


def files() -> list[Path]:
    """Return the project's files, relative to the checkout: what git tracks or would track, as far as it is there."""
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={CHECKOUT}", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=CHECKOUT, check=True, capture_output=True, text=True, timeout=60,
    ).stdout
    return sorted({Path(name) for name in listed.split("\0") if name and (CHECKOUT / name).is_file()})


def copy_to(target: Path, *, without: Collection[str] = ()) -> Path:
    """Copy the project's files to a fresh collection tree below ``target``, leaving out the top-level names in ``without``."""
    tree = target / COLLECTION
    shutil.rmtree(tree, ignore_errors=True)
    for name in (name for name in files() if name.parts[0] not in without):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / name, tree / name, follow_symlinks=False)
    return tree


# What pip and ansible-test say of their own preparations: nobody looks for it in a failure.
_CHATTER = re.compile(r"\s*(Collecting|Downloading|Using cached|Looking in|Processing|Installing|Successfully|Requirement already|Cached|━)|WARNING: Location")


def run(argv: Sequence[str | Path], *, cwd: Path = CHECKOUT, deadline: float = 600, **env: str) -> str:
    """Run a tool to its end and return what it printed; fail the test with the tool's own words, not with a traceback."""
    command = [str(part) for part in argv]
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **env}
    with subprocess.Popen(
        command, cwd=cwd, env=env, text=True, errors="replace", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            output, _none = process.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            process.terminate()
            output, _none = process.communicate()
            pytest.fail(f"{' '.join(command)}\nwas ended after {deadline:.0f} s:\n{output}", pytrace=False)
    output = "\n".join(line for line in output.splitlines() if not _CHATTER.match(line))
    if process.returncode:
        pytest.fail(f"{' '.join(command)}\nexited {process.returncode}:\n{output}", pytrace=False)
    return output


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Hold a lock of this checkout, so that two runs at once do not work in the same folder."""
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        yield
