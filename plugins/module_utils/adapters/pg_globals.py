# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The roles and tablespaces of the server, which no dump of a database holds."""

from __future__ import annotations

import os
from contextlib import suppress

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.postgres import LIVE, Clients, Deadline, Session
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError


def dump_globals(clients: Clients, session: Session, deadline: Deadline, path: str) -> str:
    """Write the server's roles, their settings and the tablespaces to a file, and say what it holds.

    A superuser's file holds the passwords' verifiers as well, so it must stay as private as the archive. Where the role may not read them,
    or pg_dumpall is not installed, the backup is none the worse: the sentence says what is missing.

    :raises SluiceError: pg_dumpall failed for another reason than a missing right.
    """
    try:
        clients.tool("pg_dumpall")
    except SluiceError:
        return "none: pg_dumpall is not installed"
    with_passwords = bool(session.value("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"))
    arguments = ["--globals-only", "-f", path, "-d", f"service={LIVE}", "-l", clients.url.database, *([] if with_passwords else ["--no-role-passwords"])]
    with clients.start("pg_dumpall", arguments) as job:
        rc = job.wait(deadline)
        if rc and "permission denied" not in job.errors():
            raise job.failed(rc, "The server's roles could not be written")
    if rc:
        with suppress(FileNotFoundError):
            os.remove(path)
        return "none: the user may not read them"
    return "roles with their passwords' verifiers" if with_passwords else "roles without passwords"
