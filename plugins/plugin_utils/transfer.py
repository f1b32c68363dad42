# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A file of the control node, on a host for as long as one module call needs it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ansible.plugins.action import ActionBase


@contextmanager
def carried(action: ActionBase, path: str, name: str) -> Iterator[str]:
    """Carry a file to the host of an action plugin, under a name; gives its path there, where it is gone afterwards."""
    folder = action._make_tmp_path()
    try:
        copy = action._transfer_file(path, action._connection._shell.join_path(folder, name))
        action._fixup_perms2((folder, copy))
        yield copy
    finally:
        action._remove_tmp_path(folder)
