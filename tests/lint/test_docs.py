# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pages made from the code say what the code says."""
from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.sluice.deploy.tests.harness.checkout import CHECKOUT
from ansible_collections.sluice.deploy.tests.harness.docs import pages

PAGES = pages()


@pytest.mark.parametrize("name", PAGES, ids=str)
def test_page_is_up_to_date(name: Path) -> None:
    path = CHECKOUT / name
    assert path.is_file() and path.read_text(encoding="utf-8") == PAGES[name], f"{name} is not what the code says: run bin/docs"


def test_every_role_has_a_page() -> None:
    roles = {path.relative_to(CHECKOUT) / "README.md" for path in (CHECKOUT / "roles").glob("*") if path.is_dir()}
    assert roles - set(PAGES) == set(), "roles without meta/argument_specs.yml"
