# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each Molecule scenario on systemd hosts in Docker: made once, used by all, taken away at the end."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from ansible_collections.sluice.deploy.tests.harness.checkout import CACHE, CHECKOUT, alone, cannot_run, run
from ansible_collections.sluice.deploy.tests.harness.ran import recording

SCENARIOS = sorted(path.parent.name for path in CHECKOUT.glob("molecule/*/molecule.yml") if path.parent.name != "default")
ENVIRONMENT = {
    "MOLECULE_GLOB": "molecule/*/molecule.yml",
    "MOLECULE_EPHEMERAL_DIRECTORY": str(CACHE / "molecule" / "state"),
    "ANSIBLE_HOME": str(CACHE / "molecule" / "ansible"),
    "ANSIBLE_SSH_CONTROL_PATH_DIR": f"/tmp/sluice-ssh-{os.getuid()}",  # below the checkout, the socket's name can grow too long for the kernel
    "NO_COLOR": "1",
    **recording(),
}


def _molecule(*arguments: str, deadline: float = 1500) -> str:
    return run(["molecule", *arguments], deadline=deadline, **ENVIRONMENT)


def _prepare(script: str, *arguments: str) -> str:
    """Run one of the harness's scripts; where it cannot do its work, the machine cannot run this part."""
    done = subprocess.run([str(CHECKOUT / "tests/harness" / script), *arguments], check=False, capture_output=True, text=True, timeout=1200)
    if done.returncode:
        cannot_run(f"molecule: {done.stderr.strip() or f'{script} exited {done.returncode}'}")
    return done.stdout.strip()


# What the hosts themselves say, for a failure that Ansible alone does not explain.
EVIDENCE = """
journalctl --no-pager --lines 60
for file in /var/log/nginx/error.log /srv/*/.pm2/pm2.log /srv/*/logs/*.log; do
  [ ! -s "$file" ] || { echo "--- $file"; tail -n 30 "$file"; }
done
"""


def _evidence() -> str:
    """Return the ends of the logs of every host."""
    inventory = json.loads(run([sys.executable, CHECKOUT / "molecule/inventory/nodes.py"], deadline=60))
    said = []
    for node, facts in inventory["_meta"]["hostvars"].items():
        shown = subprocess.run(["docker", "exec", facts["container"], "sh", "-c", EVIDENCE], check=False, capture_output=True, text=True, timeout=60)
        said.append(f"=== {node}\n{shown.stdout}{shown.stderr}")
    return "\n".join(said)


@pytest.fixture(scope="module")
def hosts() -> Iterator[None]:
    """The hosts of the scenario "default", made anew, whatever an earlier run left."""
    with alone("molecule"):
        _prepare("engine.sh")
        ENVIRONMENT["SLUICE_TEST_IMAGE"] = _prepare("image.sh")
        ENVIRONMENT["SLUICE_BARE_IMAGE"] = _prepare("image.sh", "bare")
        _molecule("reset", "-s", "default")
        _molecule("destroy", "-s", "default")
        _molecule("create", "-s", "default")
        yield
        _molecule("destroy", "-s", "default")


@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str) -> None:
    # Molecule remembers for all scenarios at once that the hosts were prepared.
    _molecule("reset", "-s", scenario)
    try:
        said = _molecule("test", "-s", scenario, "--destroy", "never")
    except pytest.fail.Exception as failure:
        pytest.fail(f"{failure.msg}\n{_evidence()}", pytrace=False)
    # Molecule exits 0 when it does not find a playbook it was told to run.
    passed_over = [line for line in said.splitlines() if line.startswith(f"{scenario} > ") and "issing" in line]
    assert not passed_over
