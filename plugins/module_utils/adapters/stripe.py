# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stripe's API as a reader sees it: one GET, asked again as Stripe says, within one deadline; the key goes into a header and nowhere else."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import web
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.together import together
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Answer, Probe
from ansible_collections.sluice.deploy.plugins.module_utils.core.secret import Secret
from ansible_collections.sluice.deploy.plugins.module_utils.core.stripe_account import Reply, pause

# A version of its own, so that what is read does not depend on the account's default.
API_VERSION = "2024-06-20"
_SPARE = 0.3


def check_base(base: str, variable: str) -> None:
    """Refuse an address a key must not be sent to.

    :raises SluiceError: it is none, or it is not encrypted and not this machine.
    """
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SluiceError(f"{variable}: {base!r} is no address.", "Example: https://api.stripe.com")
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise SluiceError(f"{variable}: {base} is not encrypted, and the key would be sent in clear.", "Use https://api.stripe.com.")


def ask(base: str, questions: Mapping[str, str], key: Secret, context: str, *, deadline: float, timeout: float) -> dict[str, Reply]:
    """Return the answer to each question; what did not answer in time is an answer too.

    :param questions: name -> path; all are asked at once.
    :param key: secret, restricted or organisation key; empty to send none.
    :param context: account an organisation key speaks for; empty for other keys.
    :param deadline: seconds for everything together, the waits between two tries included.
    :param timeout: seconds for one answer.
    """
    headers = {"Accept": "application/json"}
    if key:
        headers.update({"Authorization": f"Bearer {key.reveal()}", "Stripe-Version": API_VERSION, **({"Stripe-Context": context} if context else {})})
    end = time.monotonic() + deadline
    calls = {name: partial(_read, base, path, headers, end, timeout) for name, path in questions.items()}
    came = together(calls, end + _SPARE)
    late = Reply(0, error=f"no answer within {deadline:g} s")
    return {name: reply if isinstance(reply, Reply) else late for name, reply in came.items()}


def _read(base: str, path: str, headers: Mapping[str, str], end: float, timeout: float) -> Reply:
    tries = 0
    while True:
        left = end - time.monotonic()
        tries += 1
        answer = web.ask(base, Probe("stripe", path=path, headers=headers), max(0.05, min(timeout, left)))
        wait = pause(answer.status, answer.headers, tries)
        if wait is None or time.monotonic() + wait >= end:
            return Reply(answer.status, _document(answer), answer.error, tries)
        time.sleep(wait)


def _document(answer: Answer) -> dict[str, Any]:
    try:
        data = json.loads(answer.body)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}
