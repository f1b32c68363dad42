# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands in the way of a dump, and what an operator is told of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import PASS, Gate

LONG_SECONDS = 300
_SHOWN = 3


@dataclass(frozen=True)
class Sessions:
    """Sessions of others: running dumps, transactions older than ``LONG_SECONDS``; and the connections that are free for the role."""

    dumps: Sequence[Mapping[str, Any]]
    old: Sequence[Mapping[str, Any]]
    free: int


def refuse_locks(holders: Sequence[Mapping[str, Any]], waited: float) -> None:
    """Refuse to dump while somebody shuts readers out of a table, or queues to do so.

    :param holders: pid, application_name, state, relation, granted and prepared of each; never what they run, which may show data.
    :raises SluiceError: there are some; each is named.
    """
    if not holders:
        return
    words = [f"{_who(each)} {'holds' if each['granted'] else 'waits for'} an exclusive lock on {each['relation']}" for each in holders[:_SHOWN]]
    more = f"; and {len(holders) - _SHOWN} more" if len(holders) > _SHOWN else ""
    raise SluiceError(
        f"The dump would wait behind somebody else's work: {'; '.join(words)}{more}; waited {waited:g} s. Nothing was started.",
        "Let them finish, or end that session.",
        holders=[dict(each) for each in holders],
    )


def refuse_few_connections(free: int, needed: int, what: str) -> None:
    """Refuse work that needs more connections than are free.

    :raises SluiceError: it does.
    """
    if free < needed:
        raise SluiceError(
            f"{what} needs {needed} connections, and {max(free, 0)} are free for this user. Nothing was started.",
            "Lower jobs, close connections, or raise max_connections or the limit of the role or the database.",
            free=free,
            needed=needed,
        )


def gate(sessions: Sessions) -> Gate:
    """Say what goes on beside the dump. None of it spoils a backup; both make a later migration wait."""
    said = [f"another dump runs ({_who(each)})" for each in sessions.dumps[:_SHOWN]]
    said += [f"{_who(each)} has a transaction open for {each['seconds']} s" for each in sessions.old[:_SHOWN]]
    sentence = f"Nobody shuts readers out; {'; '.join(said)}: a migration would wait behind that." if said else "Nobody shuts readers out of a table."
    return Gate("blockers", PASS, sentence, value=len(sessions.dumps) + len(sessions.old))


def _who(each: Mapping[str, Any]) -> str:
    if each.get("pid") is None:
        return f"the prepared transaction {each.get('prepared') or 'of unknown name'}"
    return f"pid {each['pid']} ({each.get('application_name') or 'no application name'}{', ' + each['state'] if each.get('state') else ''})"
