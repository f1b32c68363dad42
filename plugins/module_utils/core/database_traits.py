# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a database has beside its contents: owner, rights, limit, settings and comment; and the statements that give them to another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ansible_collections.sluice.deploy.plugins.module_utils.core.migrations import identifier, literal

# Settings whose value is a list of names (GUC_LIST_QUOTE in PostgreSQL's source): quoted whole, they would become one long name.
_LISTS = frozenset(
    {"local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries", "temp_tablespaces", "unix_socket_directories"}
)
_ELEMENT = re.compile(r'\s*("(?:[^"]|"")*"|[^,"\s][^,]*?)\s*(?:,|\Z)')


@dataclass(frozen=True)
class Traits:
    """What a database has beside its contents.

    :param rights: grantee (empty for everybody), privilege, and whether it may be passed on.
    :param settings: by role (empty for all roles), name and value.
    """

    oid: int
    owner: str
    limit: int
    comment: str
    allowed: bool
    rights: frozenset[tuple[str, str, bool]]
    settings: Mapping[tuple[str, str], str]

    def carried(self) -> tuple[object, ...]:
        """Return what a swap must not change."""
        return self.owner, self.limit, self.rights, dict(self.settings)


def carry_over(name: str, have: Traits, want: Traits) -> list[str]:
    """Return the statements that give the database ``name``, which has ``have``, what ``want`` has: all but the comment, which is its mark."""
    database, statements = identifier(name), []
    if have.owner != want.owner:
        statements.append(f"ALTER DATABASE {database} OWNER TO {identifier(want.owner)}")
    if have.limit != want.limit:
        statements.append(f"ALTER DATABASE {database} CONNECTION LIMIT {want.limit}")
    # With the owner the rights change too, so they are taken from all and given anew.
    if have.rights != want.rights or have.owner != want.owner:
        grantees = sorted({grantee for grantee, _privilege, _pass_on in have.rights | want.rights} | {have.owner, want.owner, ""})
        statements += [f"REVOKE ALL ON DATABASE {database} FROM {_role(grantee)}" for grantee in grantees]
        for grantee, privilege, pass_on in sorted(want.rights):
            statements.append(f"GRANT {privilege} ON DATABASE {database} TO {_role(grantee)}{' WITH GRANT OPTION' if pass_on else ''}")
    for role, setting in sorted(set(have.settings) - set(want.settings)):
        statements.append(f"{_target(database, role)} RESET {_parameter(setting)}")
    for (role, setting), value in sorted(want.settings.items()):
        if have.settings.get((role, setting)) != value:
            statements.append(f"{_target(database, role)} SET {_parameter(setting)} TO {setting_value(setting, value)}")
    return statements


def setting_value(name: str, value: str) -> str:
    """Return the value of a setting as a statement takes it."""
    if name not in _LISTS:
        return literal(value)
    elements = [element[1:-1].replace('""', '"') if element.startswith('"') else element for element in _ELEMENT.findall(value)]
    return ", ".join(literal(element) for element in elements) or "''"


def _role(grantee: str) -> str:
    return identifier(grantee) if grantee else "PUBLIC"


def _target(database: str, role: str) -> str:
    return f"ALTER ROLE {identifier(role)} IN DATABASE {database}" if role else f"ALTER DATABASE {database}"


def _parameter(name: str) -> str:
    return ".".join(identifier(part) for part in name.split("."))
