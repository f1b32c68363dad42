# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets are a type: they show themselves as stars wherever they are printed by accident."""

from __future__ import annotations

import re
from collections.abc import Iterable

MASK = "********"
_URL_PASSWORD = re.compile(r"(?P<head>[a-z][a-z0-9+.\-]*://[^\s:/@]*:)(?P<password>\S+)(?=@)", re.IGNORECASE)


class Secret:
    """A value that is printed as stars; ``reveal()`` is the only way to the clear text."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the clear text."""
        return self._value

    def __str__(self) -> str:
        return MASK

    __repr__ = __str__

    def __bool__(self) -> bool:
        return bool(self._value)


def scrub(text: str, secrets: Iterable[str] = ()) -> str:
    """Return ``text`` with each secret, and each password inside a URL, replaced by stars.

    Secrets shorter than four characters are left: replacing them would only garble the text.
    """
    for secret in sorted((s for s in secrets if len(s) >= 4), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return _URL_PASSWORD.sub(lambda match: match.group("head") + MASK, text)
