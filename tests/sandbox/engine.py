# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Docker engine, compose, a swarm of one, and the till's image, for tests; honest where a machine has none."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.harness.checkout import cannot_run
from tests.sandbox.world import CHECKOUT

HARNESS = CHECKOUT / "tests" / "harness"
PLUGINS = CHECKOUT / ".cache" / "cli-plugins"


def _said(words: Sequence[str | Path], deadline: int = 900) -> str:
    done = subprocess.run([str(word) for word in words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=deadline, check=False)
    if done.returncode:
        cannot_run(f"{Path(words[0]).name}: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()


def docker(*words: str) -> str:
    """Run Docker's command line and return what it printed."""
    return subprocess.run(["docker", *words], capture_output=True, text=True, timeout=120, check=True).stdout.strip()


def start_engine() -> None:
    """Have an engine that answers."""
    _said([HARNESS / "engine.sh"])


def compose() -> list[str]:
    """Return the words that compose is called by."""
    return [f"{_said([HARNESS / 'compose.sh', PLUGINS])}/docker-compose"]


def base_image() -> str:
    """Return the name of the image that the till is built on."""
    return _said([HARNESS / "pos.sh"])


@contextmanager
def swarm() -> Iterator[None]:
    """Be a swarm of one; left again only when it was made here."""
    made = docker("info", "--format", "{{.Swarm.LocalNodeState}}") == "inactive"
    if made:
        docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    try:
        yield
    finally:
        if made:
            docker("swarm", "leave", "--force")


def clean(app: str) -> None:
    """Remove what is left of an app: stacks, containers, networks and images."""
    for slot in ("blue", "green", "rehearsal"):
        mine = f"label=com.docker.stack.namespace={app}-{slot}"
        if docker("ps", "--all", "--quiet", "--filter", mine):
            subprocess.run(["docker", "stack", "rm", f"{app}-{slot}"], capture_output=True, timeout=120, check=False)
    left = docker("ps", "--all", "--quiet", "--filter", f"label=sluice.app={app}").split()
    if left:
        docker("rm", "--force", "--volumes", *left)
    for name in docker("network", "ls", "--format", "{{.Name}}").split():
        if name.startswith(tuple(f"{app}-{slot}_" for slot in ("blue", "green", "rehearsal"))):
            subprocess.run(["docker", "network", "rm", name], capture_output=True, timeout=60, check=False)
    images = docker("images", "--format", "{{.Repository}}:{{.Tag}}", app).split()
    if images:
        subprocess.run(["docker", "image", "rm", "--force", *images], capture_output=True, timeout=120, check=False)


def environment() -> dict[str, str]:
    """Return what a module run by hand needs of this process."""
    kept = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR")
    return {**{name: os.environ[name] for name in kept if name in os.environ}, "LC_ALL": "C.UTF-8", "PYTHONPATH": str(CHECKOUT / ".venv/collections")}
