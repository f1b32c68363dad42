# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes down which tasks of the roles ran; tests/harness/ran.py turns it on, bin/coverage reads it."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ran
type: aggregate
short_description: Write down which tasks of the roles ran
description:
  - Each task that ran on a host, well or badly, becomes a line of a file of this run in the folder E(SLUICE_RAN). What was skipped everywhere does not.
requirements: [enabled by name]
"""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

CHECKOUT = Path(__file__).resolve().parents[3]


class CallbackModule(CallbackBase):
    """A line is ``FILE:LINE DIGEST``: what was recorded of a file counts only as long as the file is what it was."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "ran"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        self._seen: set[str] = set()
        self._digests: dict[str, str] = {}
        folder = Path(os.environ["SLUICE_RAN"])
        folder.mkdir(parents=True, exist_ok=True)
        # Written at once: some tests end a run in the middle.
        self._stream = (folder / f"{os.getpid()}-{time.time_ns()}").open("w", buffering=1, encoding="utf-8")

    def _note(self, task: Any) -> None:
        place = task.get_path() or ""
        if place in self._seen:
            return
        self._seen.add(place)
        name, _colon, line = place.rpartition(":")
        path = Path(name).resolve()
        if not path.is_relative_to(CHECKOUT / "roles"):
            return
        digest = self._digests.setdefault(name, hashlib.sha256(path.read_bytes()).hexdigest()[:12])
        self._stream.write(f"{path.relative_to(CHECKOUT)}:{line} {digest}\n")

    def _ended(self, result: Any, **_options: Any) -> None:
        self._note(getattr(result, "task", None) or result._task)

    v2_runner_on_ok = v2_runner_on_failed = v2_runner_on_unreachable = _ended

    def v2_playbook_on_include(self, included_file: Any) -> None:
        self._note(included_file._task)
