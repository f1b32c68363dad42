# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that every module of the database has; adapters/postgres.py has their argument spec."""

from __future__ import annotations


class ModuleDocFragment:
    """How to reach the database, and what keeps runs apart."""

    DOCUMENTATION = r"""
options:
  env_file:
    description: Environment file of the app, readable by its owner alone; the database URL is read from it and shown nowhere.
    type: path
    required: true
  env_var:
    description: Name of the variable in O(env_file) that holds the database URL, in the spelling of libpq, SQLAlchemy or Node.
    type: str
    default: DATABASE_URL
  app:
    description: Name of the app. Backup, rehearsal and migration of one app on one database exclude each other.
    type: str
    required: true
  client_directory:
    description: Folder of C(psql), C(pg_dump) and C(pg_restore). Without it they are looked for on the path.
    type: path
  lock_wait:
    description: Seconds to wait for another run on the same database.
    type: float
    default: 15
  timeout:
    description: Seconds after which everything is stopped.
    type: int
    default: 1800
  fence:
    description: Fencing number of the lease. The module refuses to work when O(state_dir) has seen a higher one.
    type: int
  state_dir:
    description: Folder in which the highest fencing number is remembered.
    type: path
"""
