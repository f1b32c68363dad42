# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The archive that Galaxy would get: it builds, holds what it should and no more, and its playbooks load from where it is installed."""
from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import yaml
from ansible_collections.sluice.deploy.tests.harness.checkout import CHECKOUT, files, run

SHIPPED = {"changelogs", "docs", "meta", "playbooks", "plugins", "roles"}
SHIPPED_FILES = {"CHANGELOG.md", "CHANGELOG.rst", "CONTRIBUTING.md", "COPYING", "README.md", "requirements.txt"}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose empty ansible.cfg keeps the checkout's settings out of what is tested here."""
    folder = tmp_path_factory.mktemp("bare")
    (folder / "ansible.cfg").touch()
    return folder


@pytest.fixture(scope="module")
def archive(bare: Path) -> Path:
    """Build the archive as a maintainer would, from the checkout with all that lies about in it."""
    run(["ansible-galaxy", "collection", "build", CHECKOUT, "--output-path", bare / "out"], cwd=bare, ANSIBLE_CONFIG=str(bare / "ansible.cfg"))
    version = yaml.safe_load((CHECKOUT / "galaxy.yml").read_text(encoding="utf-8"))["version"]
    return bare / "out" / f"sluice-deploy-{version}.tar.gz"


def test_it_holds_what_it_should(archive: Path) -> None:
    with tarfile.open(archive) as tar:
        held = {member.name for member in tar.getmembers() if not member.isdir()} - {"MANIFEST.json", "FILES.json"}
    assert held == {str(name) for name in files() if name.parts[0] in SHIPPED or str(name) in SHIPPED_FILES}


def test_its_playbooks_load(archive: Path, bare: Path) -> None:
    playbooks = sorted(path.stem for path in (CHECKOUT / "playbooks").glob("*.yml"))
    assert playbooks, "there is no playbook"
    ansible = {"ANSIBLE_CONFIG": str(bare / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(bare)}
    run(["ansible-galaxy", "collection", "install", "--offline", "-p", bare, archive], cwd=bare, **ansible)
    run(["ansible-playbook", "-i", "localhost,", "--syntax-check", *(f"sluice.deploy.{name}" for name in playbooks)], cwd=bare, **ansible)
