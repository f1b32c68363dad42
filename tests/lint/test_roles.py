# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A role's defaults and its argument specification are two views of one thing, and say the same."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.sluice.deploy.tests.harness.checkout import CHECKOUT

ROLES = sorted(path for path in (CHECKOUT / "roles").glob("*") if path.is_dir())


def _load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {} if path.exists() else {}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_defaults_equal_the_argument_specification(role: Path) -> None:
    defaults = _load(role / "defaults/main.yml")
    options = _load(role / "meta/argument_specs.yml").get("argument_specs", {}).get("main", {}).get("options") or {}

    undescribed = sorted(set(defaults) - set(options))
    assert undescribed == [], f"{role.name}: in defaults/main.yml, not in meta/argument_specs.yml"
    # An option without a default is null in defaults, or not there: it is required, or its absence means something.
    described = {name: option["default"] for name, option in options.items() if option.get("default") is not None}
    given = {name: value for name, value in defaults.items() if value is not None}
    assert described == given, f"{role.name}: the defaults of meta/argument_specs.yml differ from defaults/main.yml"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_input_carries_the_role_s_name(role: Path) -> None:
    entries = _load(role / "meta/argument_specs.yml").get("argument_specs")
    assert entries, f"{role.name} has no meta/argument_specs.yml"
    own = [name for name in _load(role / "defaults/main.yml") if not name.startswith(f"{role.name}_")]
    assert own == [], f"{role.name}: defaults without the role's prefix"
