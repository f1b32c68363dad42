# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that choose and bound a migrator; adapters/migrators.py has their argument spec."""

from __future__ import annotations


class ModuleDocFragment:
    """Which tool migrates, and what it may not do to the app."""

    DOCUMENTATION = r"""
options:
  directory:
    description: Folder with the SQL files, or, for another tool, the folder in which it runs (the release's). Only for dropping a copy it is not needed.
    type: path
  tool:
    description:
      - What migrates. V(sql) runs files C(NNNN_words.sql) and keeps its own version table with checksums. V(supabase) runs files
        C(TIMESTAMP_words.sql) and keeps the version table of the Supabase CLI, without the CLI, which would show the password in its arguments.
      - V(alembic), V(django), V(knex) and V(prisma) are run in O(directory) with the variables of O(env_file); V(command) is whatever O(commands) says.
    type: str
    choices: [sql, supabase, alembic, django, knex, prisma, command]
    default: sql
  commands:
    description:
      - Changes how a tool is called. Lists of words by C(program), C(current), C(pending), C(heads), C(up), C(down), C(sql).
        In them, C({name}) is one migration, C({app}) and C({own}) its parts before and behind the first dot, C({to}) where to go back to.
      - For V(command), C(current), C(pending) and C(up) are needed; the first two print one name a line.
    type: dict
    default: {}
  tool_env_var:
    description:
      - Variable under which the tool finds the URL, when it is not O(env_var). So the migrations can have a database user of their own.
    type: str
  path:
    description: Folders of the tool's programs, separated by colons, put before those of the host.
    type: str
    default: ''
  container:
    description:
      - Run the tool in a container of the image that the release is started from, with its working directory, instead of on the host.
        Each variable is handed on by name, so no value is in an argument. SQL files need no tool, so for them it means nothing.
    type: bool
    default: false
  docker_command:
    description: How Docker's command line is called for O(container), as a list of words.
    type: list
    elements: str
    default: [docker]
  docker_network:
    description: Network that O(container) joins; V(host) reaches a database on this host's loopback. Empty for Docker's default.
    type: str
    default: ''
  table:
    description: Version table of V(sql), with or without its schema. It is made with the first migration.
    type: str
    default: sluice_migrations
  release_id:
    description: Id of the release, noted beside each migration.
    type: str
    default: ''
  lock_timeout_ms:
    description:
      - Milliseconds a migration waits for a lock. Below the server's C(deadlock_timeout) (1 s), the migration gives way and never the app; else it is refused.
      - For SQL files it is set in their own transaction. For other tools it is set on the role of the database user for this database, and put back
        at the end; new connections that the app opens with the same user meanwhile get it too, so give the migrations a user of their own.
    type: int
    default: 300
  statement_timeout_s:
    description: Seconds a single statement may take. Set where O(lock_timeout_ms) is set.
    type: int
    default: 600
"""
