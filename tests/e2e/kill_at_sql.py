# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a module and end it by SIGKILL right before its n-th statement that changes anything: python kill_at_sql.py MODULE N [PROGRAM].

Counted is what goes to PostgreSQL or PgBouncer and is no SELECT. With a PROGRAM that one is run instead of the end, and the module
goes on. With N = 0 the module runs to its end, and the statements are listed on standard error.
"""

from __future__ import annotations

import os
import re
import runpy
import signal
import subprocess
import sys

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import postgres

HARMLESS = re.compile(r"\s*(SET|SHOW|BEGIN ISOLATION|ROLLBACK|SELECT)")


def main() -> None:
    module, wanted, program = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    count, really = 0, postgres.Session.execute

    def heard(session: postgres.Session, sql: str) -> list[str]:
        nonlocal count
        if not HARMLESS.match(sql):
            count += 1
            if not wanted:
                print(sql.partition("\n")[0][:150], file=sys.stderr)
            if count == wanted:
                if not program:
                    os.kill(os.getpid(), signal.SIGKILL)
                subprocess.run(program, timeout=30, check=True)
        return really(session, sql)

    postgres.Session.execute = heard  # type: ignore[method-assign]
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    main()
