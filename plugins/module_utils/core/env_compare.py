# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Environments compared without their values: keyed fingerprints, the names of a template, the set a platform holds."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core import dotenv
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

_EXPORT = "Hand over a dotenv file, or the JSON that Render, Railway or Vercel export."


@dataclass(frozen=True, repr=False)
class Prints:
    """Fingerprints of an environment.

    :param key: hexadecimal key of the HMAC. With it a value can be guessed at, not read, so it is kept like a secret.
    :param of: variable -> first 32 hex digits of the HMAC-SHA256 of its name and value.
    """

    key: str
    of: Mapping[str, str] = field(default_factory=dict)

    def holds(self, name: str, value: str) -> Optional[bool]:
        """Tell whether a variable had this value; None when it was not there."""
        return None if name not in self.of else hmac.compare_digest(self.of[name], fingerprint(self.key, name, value))

    def as_dict(self) -> dict[str, Any]:
        """Return the content of a file of fingerprints."""
        return {"key": self.key, "fingerprints": dict(self.of)}


def fingerprint(key: str, name: str, value: str) -> str:
    """Return the keyed fingerprint of one variable; of two variables with the same value it differs."""
    return hmac.new(bytes.fromhex(key), f"{name}\0{value}".encode(), hashlib.sha256).hexdigest()[:32]


def take(values: Mapping[str, str], key: str) -> Prints:
    """Return the fingerprints of an environment."""
    return Prints(key, {name: fingerprint(key, name, value) for name, value in values.items()})


def prints_from(data: Any, option: str) -> Optional[Prints]:
    """Return what a file of fingerprints holds; None when there is nothing.

    :raises SluiceError: it holds something else.
    """
    if not data:
        return None
    try:
        key, of = str(data["key"]), {str(name): str(print_) for name, print_ in data["fingerprints"].items()}
        if len(bytes.fromhex(key)) < 16 or not all(len(bytes.fromhex(print_)) == 16 for print_ in of.values()):
            raise ValueError("size")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SluiceError(f"{option} holds no fingerprints.", "Write them with fingerprint.yml on the other environment.") from error
    return Prints(key, of)


def from_export(text: str) -> dict[str, str]:
    """Return the variables of a dotenv file or of what a platform exports as JSON.

    Render lists ``{envVar: {key, value}}``, Vercel ``{envs: [{key, value}]}``, Railway and most others map names to values.

    :raises SluiceError: it is neither; no value is shown.
    """
    if text.lstrip()[:1] not in ("{", "["):
        return dotenv.parse(text)
    try:
        data = json.loads(text)
    except ValueError as error:
        raise SluiceError("The export begins like JSON and cannot be read as such.", _EXPORT) from error
    if isinstance(data, Mapping) and isinstance(data.get("envs"), list):
        data = data["envs"]
    if isinstance(data, list):
        entries = [entry.get("envVar", entry) if isinstance(entry, Mapping) else {} for entry in data]
        if not all(isinstance(entry, Mapping) and isinstance(entry.get("key"), str) and isinstance(entry.get("value"), str) for entry in entries):
            raise SluiceError("The export has an entry without key and value in clear.", _EXPORT)
        return {entry["key"]: entry["value"] for entry in entries}
    if not isinstance(data, Mapping) or not all(isinstance(value, (str, int, float, bool)) for value in data.values()):
        raise SluiceError("The export has a value that is neither text nor number.", _EXPORT)
    return {str(name): value if isinstance(value, str) else json.dumps(value) for name, value in data.items()}


def names_between(wanted: Iterable[str], held: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the names that are missing and those that are too many."""
    there, asked = set(held), set(wanted)
    return sorted(asked - there), sorted(there - asked)
