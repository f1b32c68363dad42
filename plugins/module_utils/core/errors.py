# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one error of the collection: what was tried, on what, what came back, and what to do."""

from __future__ import annotations

from typing import Any


class SluiceError(Exception):
    """A step could not be done; the message is written for the operator.

    :param message: one plain sentence: what happened, to what, and what it means.
    :param remedy: what to do next, as a sentence; empty when there is nothing to advise.
    :param facts: further keys for the module's result (command, rc, stderr, seen, ...), never a secret.
    """

    def __init__(self, message: str, remedy: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.facts = facts

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()

    def details(self) -> dict[str, Any]:
        """Return the keys a module adds to its failure beside ``msg``."""
        return {"remedy": self.remedy, **self.facts}
