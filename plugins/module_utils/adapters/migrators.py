# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which migrator runs: one contract for ordered SQL files and for every tool, and the parameters that choose it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import images, process
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.docker import handed_on
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import read_text
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.migrator_command import Command
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.pg_guards import Step
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.pg_migrations import SqlFiles
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.postgres import LIVE, Clients, Deadline, Session
from ansible_collections.sluice.deploy.plugins.module_utils.core import dotenv, migration_lint, migrators, pgurl
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.migrations import LAYOUTS, in_transaction


class Migrator(Protocol):
    """What every migrator can be asked."""

    def current(self) -> list[str]:
        """Return the newest applied migrations; the ledger keeps them, and ``down`` goes back to them."""

    def pending(self) -> list[str]:
        """Return what is due, in order; files that disagree with the database, and several heads, are refused."""

    def sql(self, due: list[str]) -> dict[str, str]:
        """Return the SQL of what is due; what the tool does not show is left out."""

    def drops(self, due: list[str]) -> dict[str, str]:
        """Return the SQL that takes it back, as far as it is known."""

    def prepare(self) -> None:
        """Make the version table where that is ours to do."""

    def up(self, service: str = LIVE, watched: bool = False) -> list[Step]:
        """Return the steps that apply what is due."""

    def down(self, wanted: list[str], service: str = LIVE) -> list[Step]:
        """Return the steps that take the database back until ``wanted`` are the newest."""


def argument_spec(**more: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that choose and bound a migrator, and ``more``."""
    return {
        "directory": {"type": "path"},
        "tool": {"type": "str", "choices": list(migrators.NAMES), "default": "sql"},
        "commands": {"type": "dict", "default": {}},
        "tool_env_var": {"type": "str"},
        "path": {"type": "str", "default": ""},
        "container": {"type": "bool", "default": False},
        "docker_command": {"type": "list", "elements": "str", "default": ["docker"]},
        "docker_network": {"type": "str", "default": ""},
        "table": {"type": "str", "default": "sluice_migrations"},
        "release_id": {"type": "str", "default": ""},
        "lock_timeout_ms": {"type": "int", "default": 300},
        "statement_timeout_s": {"type": "int", "default": 600},
        **more,
    }


def open_migrator(
    params: Mapping[str, Any], session: Session, clients: Clients, deadline: Deadline, note: Callable[[int], None], copy: str | None = None
) -> Migrator:
    """Return the migrator that the parameters choose.

    :param session: a session on the database that is to be migrated.
    :param note: is told the number of each program that migrates.
    :param copy: name of that database when it is not the URL's own.
    """
    name = params["tool"]
    if name in migrators.SQL_TOOLS:
        layout = LAYOUTS[name]
        table = params["table"] if name == "sql" else layout.table
        timeouts = (params["lock_timeout_ms"], params["statement_timeout_s"])
        return SqlFiles(session, clients, params["directory"], layout, table, params["release_id"], timeouts)
    variable = params["tool_env_var"] or params["env_var"]
    url = pgurl.with_database(clients.url.text, copy) if copy else clients.url.text
    values = {**dotenv.parse(read_text(params["env_file"]) or ""), variable: url}
    tool = migrators.tool_from(name, params["commands"])
    if params["container"]:
        tool = replace(tool, program=_in_container(params, values, tool.program))
    return Command(session, clients, tool, params["directory"], values, params["path"], deadline, note)


def _in_container(params: Mapping[str, Any], values: Mapping[str, str], program: Sequence[str]) -> tuple[str, ...]:
    """Return the words that run a tool in a container of the release's own image, where it is installed."""
    image = images.recorded(params["directory"])
    if not image:
        raise SluiceError(
            f"No image is recorded for the release that {params['directory']} belongs to.", "Run the slot's prepared state first, with app_image set."
        )
    return tuple(images.one_off(params["docker_command"], params["docker_network"], image, [*handed_on(values), "PGAPPNAME"], program))


def squawk(sql: Mapping[str, str], server_major: int, params: Mapping[str, Any], folder: str) -> list[str] | None:
    """Return what squawk finds in the SQL of migrations, or None when it is not installed.

    :param folder: a private folder for the files it reads; it takes its own settings from the migrations' folder.
    """
    places = (os.path.dirname(sys.executable), params["path"], os.environ.get("PATH", os.defpath))
    program = shutil.which("squawk", path=os.pathsep.join(filter(None, places)))
    if not program:
        return None
    findings: list[str] = []
    for number, (name, text) in enumerate(sql.items()):
        path = os.path.join(folder, f"{number}.sql")
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
            stream.write(text)
        words = ["--reporter", "json", "--pg-version", f"{server_major}.0", "--exclude", ",".join(migration_lint.SQUAWK_EXCLUDED)]
        inside = ["--assume-in-transaction"] if in_transaction(text) else []
        said = process.run([program, *words, *inside, path], timeout=60, cwd=params["directory"], ok=(0, 1)).stdout
        findings += migration_lint.squawk_findings(name, said)
    return findings


def check_parameters(params: Mapping[str, Any]) -> None:
    """Refuse parameters that do not fit together, before anything is touched.

    :raises SluiceError: with what is missing.
    """
    if not params["directory"]:
        raise SluiceError("directory is missing.", "Name the folder with the migrations, or the one in which the tool runs.")
    if params["tool"] not in migrators.SQL_TOOLS:
        migrators.tool_from(params["tool"], params["commands"])
        if not params["state_dir"]:
            raise SluiceError(f"state_dir is missing; with the tool {params['tool']} it holds the note that a cut run leaves to the next.", "Name a folder.")
