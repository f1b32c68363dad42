# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a module and end it by SIGKILL right before the n-th call that changes something: python kill_at.py MODULE N.

Calls are counted by Python's audit events: files opened for writing, renames, links, folders, removals and started
programs (a test or a reload of nginx). With N = 0 the module runs to its end, and the calls are listed on standard error.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from typing import Any

CHANGES = {"os.rename", "os.symlink", "os.link", "os.mkdir", "os.rmdir", "os.remove", "os.chmod", "subprocess.Popen", "shutil.rmtree"}
WRITES = os.O_WRONLY | os.O_RDWR


def main() -> None:
    module, wanted, beneath = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    count = 0

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES and str(arguments[0]).startswith(beneath)
        if not writes and (event not in CHANGES or not (event == "subprocess.Popen" or any(str(each).startswith(beneath) for each in arguments))):
            return
        count += 1
        if count == wanted:
            os.kill(os.getpid(), signal.SIGKILL)
        if not wanted:
            print(f"{event} {arguments[0]}", file=sys.stderr)

    sys.addaudithook(heard)
    sys.argv = [module]
    runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    main()
