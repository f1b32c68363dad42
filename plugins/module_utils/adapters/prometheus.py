# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Numbers by HTTP: instant queries to Prometheus, and any JSON document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode, urlsplit

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.web import ask
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Probe
from ansible_collections.sluice.deploy.plugins.module_utils.core.metrics import instant


def fetch_json(url: str, timeout: float, headers: Mapping[str, str], statuses: tuple[int, ...] = (200,)) -> Any:
    """Return the JSON document at an address; a redirect is not followed.

    :raises SluiceError: no answer, another status, or no JSON.
    """
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    answer = ask(f"{parts.scheme}://{parts.netloc}", Probe("metric", path), timeout, {"Accept": "application/json", **headers})
    if answer.error:
        raise SluiceError(answer.error)
    if answer.status not in statuses:
        raise SluiceError(f"{parts.netloc}{parts.path} answered with status {answer.status}")
    try:
        return json.loads(answer.body)
    except ValueError as error:
        raise SluiceError(f"{parts.netloc}{parts.path} answered with something that is no JSON") from error


def query(url: str, text: str, timeout: float, headers: Mapping[str, str], what: str = "the query") -> tuple[float, float]:
    """Return the one number of an instant query, and Prometheus's own time then.

    :param what: what is asked, for the message.
    :raises SluiceError: no answer, an error, no series, several of them, or no finite number.
    """
    address = f"{url.rstrip('/')}/api/v1/query?{urlencode({'query': text})}"
    # Prometheus says what is wrong with a query in a document with one of these statuses.
    return instant(fetch_json(address, timeout, headers, (200, 400, 422, 503)), what)


def fresh_query(url: str, text: str, series: str, max_age: float, timeout: float, headers: Mapping[str, str]) -> float:
    """Return the one number of an instant query whose samples are fresh.

    Prometheus answers with samples up to five minutes old and does not say so; their age is asked for beside.

    :param series: the series to look at when the query is an expression, which has no time of its own.
    :raises SluiceError: as ``query``, or the newest sample is too old.
    """
    value, now = query(url, text, timeout, headers)
    newest, _now = query(url, f"max(timestamp({series or text}))", timeout, headers, f"the age of {series or 'the query'}")
    if now - newest > max_age:
        raise SluiceError(f"the newest sample is {now - newest:.0f} s old; {max_age:g} s are allowed")
    return value
