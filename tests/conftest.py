# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The checkout is importable as ansible_collections.sluice.deploy, wherever it lies."""
from __future__ import annotations

import sys
import types
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def _alias_checkout() -> None:
    """Make the three levels of the collection's name packages whose last one is the checkout."""
    if "ansible_collections.sluice.deploy" in sys.modules or CHECKOUT.parts[-3:] == ("ansible_collections", "sluice", "deploy"):
        return
    for name, path in (("ansible_collections", None), ("ansible_collections.sluice", None), ("ansible_collections.sluice.deploy", CHECKOUT)):
        module = types.ModuleType(name)
        module.__path__ = [str(path)] if path else []
        sys.modules.setdefault(name, module)


_alias_checkout()
