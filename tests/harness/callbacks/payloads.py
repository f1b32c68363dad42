# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets the playbooks of the tests share the modules that Ansible packs; each would pack them anew, some 0.4 s of a processor for each module."""

from __future__ import annotations

DOCUMENTATION = r"""
name: payloads
type: aggregate
short_description: Share packed modules between runs
description:
  - Ansible keeps the modules it packed in a folder of each run. This makes it one folder for all runs of the same code, below E(SLUICE_PAYLOADS).
requirements: [enabled by name]
"""

import hashlib
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.plugins.callback import CallbackBase
from ansible.release import __version__

CHECKOUT = Path(__file__).resolve().parents[3]
_DAY = 86400


def _code() -> str:
    """Return a name for what is packed: every module, all they import, and the Ansible that packs them."""
    files = sorted(path for folder in ("modules", "module_utils") for path in (CHECKOUT / "plugins" / folder).rglob("*.py"))
    known = [f"{path} {path.stat().st_mtime_ns} {path.stat().st_size}" for path in files]
    return hashlib.sha256("\n".join([__version__, platform.python_version(), *known]).encode()).hexdigest()[:16]


class CallbackModule(CallbackBase):
    """Ansible itself looks for a packed module there, locks it while it packs, and removes only the link at its end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "payloads"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        everything = Path(os.environ["SLUICE_PAYLOADS"])
        folder = everything / _code()
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)
            for other in everything.iterdir():
                if other.stat().st_mtime < time.time() - _DAY:
                    shutil.rmtree(other, ignore_errors=True)
        Path(constants.DEFAULT_LOCAL_TMP, "ansiballz_cache").symlink_to(folder)
