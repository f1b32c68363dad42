# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Docker engine, asked by its own command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.process import Result, run
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

# Variables that would turn the command line's head, were an app's file to hold them.
_OWN = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LD_LIBRARY_PATH")
_OWN_PREFIXES = ("DOCKER_", "COMPOSE_", "BUILDKIT_", "BUILDX_")


class Docker:
    """One engine.

    :param command: how the command line is called, as a list of words.
    :param path: PATH it is looked for in.
    """

    def __init__(self, command: Sequence[str], path: str) -> None:
        self._command, self._path = list(command), path

    @property
    def installed(self) -> bool:
        """Tell whether this host has the command line at all; without it, it has no containers either."""
        return shutil.which(self._command[0], path=self._path) is not None

    def run(
        self, *words: str, timeout: float = 60.0, ok: Sequence[int] = (0,), env: Mapping[str, str] | None = None, secrets: Sequence[str] = (), stdin: str = ""
    ) -> Result:
        """Run one command of it to its end."""
        return self.call(self._command, *words, timeout=timeout, ok=ok, env=env, secrets=secrets, stdin=stdin)

    def call(
        self,
        command: Sequence[str],
        *words: str,
        timeout: float = 60.0,
        ok: Sequence[int] = (0,),
        env: Mapping[str, str] | None = None,
        secrets: Sequence[str] = (),
        stdin: str = "",
    ) -> Result:
        """Run another program of the engine, such as compose, in the same surroundings."""
        return run([*command, *words], timeout=timeout, ok=ok, env={**(env or {}), "PATH": self._path}, secrets=secrets, stdin=stdin)

    def inspect(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Return what the engine knows of containers; one that is gone meanwhile is left out."""
        if not names:
            return []
        # It prints those it found and ends with 1 when one of them is gone.
        said = self.run("container", "inspect", *names, ok=(0, 1)).stdout.strip()
        found: list[dict[str, Any]] = json.loads(said) if said else []
        return found

    def containers(self, *labels: str) -> list[dict[str, Any]]:
        """Return what the engine knows of the containers with these labels, those that ended included."""
        if not self.installed:
            return []
        filters = [word for label in labels for word in ("--filter", f"label={label}")]
        return self.inspect(self.run("ps", "--all", "--quiet", "--no-trunc", *filters).stdout.split())

    def image_id(self, name: str) -> str:
        """Return the id of an image of this host; empty when it has none of that name."""
        return self.run("image", "inspect", "--format", "{{.Id}}", name, ok=(0, 1)).stdout.strip()

    def logs(self, container: str, lines: int = 24) -> str:
        """Return the last lines a container said on stderr, or else on stdout."""
        said = self.run("logs", "--tail", str(lines), container, ok=(0, 1))
        return said.stderr.strip() or said.stdout.strip()


def handed_on(variables: Mapping[str, str]) -> dict[str, str]:
    """Return an app's variables without those that the command line itself would obey."""
    return {name: value for name, value in variables.items() if name not in _OWN and not name.startswith(_OWN_PREFIXES)}


def env_file(variables: Mapping[str, str]) -> str:
    """Return variables as ``docker run --env-file`` reads them: a line each, taken as it is.

    :raises SluiceError: a value holds a line break, which this form cannot; the variable is named, its value is not.
    """
    for name, value in sorted(variables.items()):
        if "\n" in value or "\r" in value:
            raise SluiceError(
                f"The variable {name} holds a line break, which Docker's --env-file cannot.",
                "Write it on one line (with \\n, or in base64) and let the app undo it, or set app_runtime to compose.",
            )
    return "".join(f"{name}={value}\n" for name, value in sorted(variables.items()))
