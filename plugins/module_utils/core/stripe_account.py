# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Stripe's answers mean for a release: what is a finding, what cannot be checked, and what only has to be asked again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Optional
from urllib.parse import urlencode, urlsplit

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.gates import failed, passed, unknown, warned
from ansible_collections.sluice.deploy.plugins.module_utils.core.stripe_keys import LIVE, looks_like
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import ERROR, Gate

TRIES = 4
GRACE_SECONDS = 300  # an event so young may still be under way
PAGE = 20  # events of one answer: a large one has some 40 KiB
# The four the guides ask for move money in; these tell that it went out again, and nobody misses them until then (M-091).
ADVISED = ("charge.refunded", "charge.dispute.created")
_PERMISSION = re.compile(r"'(rak_[a-z0-9_]+)'")
_ACCOUNT = re.compile(r"'(acct_[A-Za-z0-9]+)'")
_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True)
class Reply:
    """One answer of Stripe's, or why there was none.

    :param status: HTTP status; 0 when nothing answered.
    :param data: the JSON document; empty when the answer was none.
    :param error: why there is no answer, in words.
    :param tries: how often it was asked.
    """

    status: int
    data: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    tries: int = 1


@dataclass(frozen=True)
class Endpoint:
    """A webhook endpoint that must be there.

    :param path: of the app's public address.
    :param events: event types the app relies on.
    :param api_version: what the endpoint must be pinned to; empty for any.
    :param secret_var: variable with its signing secret.
    """

    path: str
    events: tuple[str, ...] = ()
    api_version: str = ""
    secret_var: str = "STRIPE_WEBHOOK_SECRET"


@dataclass(frozen=True)
class Wanted:
    """What the account must look like.

    :param account: id it must have; empty for any.
    :param redirect: path Connect sends people back to; empty for none.
    :param max_undelivered: events whose delivery failed or still waits that are allowed.
    """

    mode: str
    secret_var: str
    account: str = ""
    public_url: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    redirect: str = ""
    max_undelivered: int = 0

    def url(self, path: str) -> str:
        """Return a path of the app as the world sees it."""
        return f"{self.public_url.rstrip('/')}{path}"


def endpoints_from(given: Any) -> tuple[Endpoint, ...]:
    """Return the endpoints a list of mappings describes.

    :raises SluiceError: a key is unknown, or a path is none.
    """
    known, found = ("path", "events", "api_version", "secret_var"), []
    example = "Example: {path: /api/wallet/webhook, secret_var: STRIPE_WEBHOOK_SECRET, events: [payment_intent.succeeded]}"
    for number, data in enumerate(given):
        if not isinstance(data, Mapping):
            raise SluiceError(f"webhooks[{number}] must be a mapping.", example)
        unknown = sorted(set(data) - set(known))
        if unknown:
            raise SluiceError(f"webhooks[{number}] has the unknown key {unknown[0]}; allowed are {', '.join(known)}.", example)
        if not str(data.get("path", "")).startswith("/"):
            raise SluiceError(f"webhooks[{number}]: path must begin with /.", example)
        if not isinstance(data.get("events", []), list):
            raise SluiceError(f"webhooks[{number}]: events must be a list of event types.", example)
        check_name(f"webhooks[{number}]: secret_var", data.get("secret_var"))
        found.append(
            Endpoint(
                data["path"],
                tuple(map(str, data.get("events", []))),
                str(data.get("api_version") or ""),
                data.get("secret_var") or Endpoint.secret_var,
            )
        )
    return tuple(found)


def check_name(option: str, name: Any) -> None:
    """Refuse what is no name of a variable, above all a secret given in the place of its name.

    :raises SluiceError: the message does not show it.
    """
    if name and (not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or looks_like(name)):
        raise SluiceError(f"{option} must be the name of a variable, never its value.", "Example: STRIPE_WEBHOOK_SECRET")


def questions(now: int, hours: float) -> dict[str, str]:
    """Return what is asked, all of it reading: name -> path."""
    events = {"delivery_success": "false", "limit": PAGE, "created[gte]": int(now - hours * 3600), "created[lt]": now - GRACE_SECONDS}
    return {
        "balance": "/v1/balance",
        "account": "/v1/account",
        "endpoints": "/v1/webhook_endpoints?limit=100",
        "events": f"/v1/events?{urlencode(events)}",
    }


def redirect_question(client_id: str, redirect_url: str) -> str:
    """Return the path that tells, without a sign-in, whether Connect knows a client id and a redirect address."""
    return f"/oauth/authorize?{urlencode({'response_type': 'code', 'scope': 'read_write', 'client_id': client_id, 'redirect_uri': redirect_url})}"


def pause(status: int, headers: Mapping[str, str], tries: int) -> Optional[float]:
    """Return the seconds to wait before the same question is asked again; None when it makes no sense to.

    Stripe's own word counts: ``Stripe-Should-Retry`` and ``Retry-After``.
    """
    said = {name.lower(): value.strip() for name, value in headers.items()}
    if tries >= TRIES or said.get("stripe-should-retry") == "false":
        return None
    if status not in (0, 429) and status < 500 and said.get("stripe-should-retry") != "true":
        return None
    after = said.get("retry-after", "")
    return float(after) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", after) else 0.25 * 2 ** (tries - 1)


def judge(replies: Mapping[str, Reply], wanted: Wanted, now: int, key_account: str = "") -> list[Gate]:
    """Return a gate for each thing that was asked (S0-052, S2-037, S2-038, S2-040, S3-065..079, S3-202, S3-313; M-084, M-085).

    :param replies: by the names of ``questions``; ``redirect`` where Connect was asked.
    :param key_account: account id embedded in the key's text; empty when it tells none.
    """
    if any(reply.status == 401 for name, reply in replies.items() if name != "redirect"):
        sentence = f"Stripe does not know the key in {wanted.secret_var} (401): it was rolled or deleted, or is cut off"
        remedy = f"Make a key in the dashboard (Developers: API keys) and put it into {wanted.secret_var}."
        found = [failed("stripe key", sentence, remedy, value=401, limit=200)]
    else:
        found = [
            _unanswered(replies["balance"], "stripe key", "Balance: read") or _key(replies["balance"].data, wanted),
            *_account(replies["account"], wanted, key_account),
            *_endpoints(replies["endpoints"], wanted),
            _unanswered(replies["events"], "stripe deliveries", "Events: read") or _deliveries(replies, wanted, now),
        ]
    return [*found, *([_redirect(replies["redirect"], wanted)] if "redirect" in replies else [])]


def _unanswered(reply: Reply, name: str, needs: str) -> Optional[Gate]:
    """Return the gate of an answer that tells nothing about the account; None when it does."""
    if reply.status == 200 and reply.data:
        return None
    if reply.status == 403:
        said = _PERMISSION.search(_message(reply))
        sentence = f"it cannot be checked: the key may not read it, and needs {said.group(1) if said else needs} (403)"
        return warned(name, sentence, f"Give the restricted key the permission {needs}, or look in the dashboard.")
    if reply.status in (0, 429) or reply.status >= 500:
        why = reply.error or {429: "too many requests (429)"}.get(reply.status, f"Stripe answers with status {reply.status}")
        remedy = "Run preflight again; https://status.stripe.com tells whether Stripe has trouble. The app host must reach the API."
        return unknown(name, f"it cannot be told: {why}, asked {reply.tries} times", remedy, value=reply.status, limit=200, sample=reply.tries)
    why = "an answer that is no JSON" if reply.status == 200 else f"status {reply.status}"
    return Gate(name, ERROR, f"it could not be found out: {why}", value=reply.status, limit=200, remedy="Check preflight_stripe_api_base; is it Stripe's API?")


def _message(reply: Reply) -> str:
    error = reply.data.get("error")
    return str(error.get("message", "")) if isinstance(error, Mapping) else ""


def _key(balance: Mapping[str, Any], wanted: Wanted) -> Gate:
    """Judge by the balance: an account does not tell its mode, a balance does."""
    if not isinstance(balance.get("livemode"), bool):
        return Gate(
            "stripe key", ERROR, "it could not be found out: the balance has no livemode", remedy="Check preflight_stripe_api_base; is it Stripe's API?"
        )
    mode = "live" if balance["livemode"] else "test"
    if mode != wanted.mode:
        remedy = f"Put a key of {wanted.mode} mode into {wanted.secret_var}."
        return failed("stripe key", f"Stripe says the key in {wanted.secret_var} is of {mode} mode", remedy, value=mode, limit=wanted.mode)
    return passed("stripe key", f"Stripe takes the key in {wanted.secret_var}, and it is of {mode} mode", value=mode, limit=wanted.mode)


def _account(reply: Reply, wanted: Wanted, key_account: str) -> Iterator[Gate]:
    # A refusal names the account as well.
    refused = _ACCOUNT.search(_message(reply)) if reply.status == 403 else None
    found = str(reply.data.get("id", "")) if reply.status == 200 else refused.group(1) if refused else ""
    expected = wanted.account or key_account
    if found and expected and found != expected:
        sentence = f"the key in {wanted.secret_var} is of {found}, not of {expected}"
        yield failed("stripe account", sentence, f"Put a key of {expected} there, or correct preflight_stripe_account.", value=found, limit=expected)
        return
    silent = _unanswered(reply, "stripe account", "Accounts: read")
    if silent:
        yield silent
        return
    wrong = list(_unready(reply.data))
    if not wrong:
        yield passed("stripe account", f"{found} may charge and pay out, and nothing is asked of it", value=found, limit=expected)
    elif wanted.mode == LIVE:
        remedy = "Open the account's settings in the dashboard; it lists what is asked for, and until when."
        yield failed("stripe account", f"{found}: {'; '.join(wrong)}", remedy, value=len(wrong), limit=0)
    else:
        yield warned("stripe account", f"{found}: {'; '.join(wrong)}; test mode works without", "Do this before the account is to take real money.")


def _unready(account: Mapping[str, Any]) -> Iterator[str]:
    if not account.get("charges_enabled"):
        yield "it may not charge"
    if not account.get("payouts_enabled"):
        yield "it may not pay out"
    if not account.get("details_submitted"):
        yield "its details are not submitted"
    requirements = account.get("requirements") or {}
    if requirements.get("disabled_reason"):
        yield f"it is disabled ({requirements['disabled_reason']})"
    due = [*(requirements.get("past_due") or ()), *(requirements.get("currently_due") or ())]
    if due:
        yield f"Stripe asks for {', '.join(sorted(set(map(str, due))))}"


def _plain(url: str) -> tuple[str, str, int, str, str]:
    parts = urlsplit(url.strip())
    try:
        port = parts.port
    except ValueError:
        port = None
    return parts.scheme.lower(), (parts.hostname or "").rstrip("."), port or _PORTS.get(parts.scheme.lower(), 0), parts.path or "/", parts.query


def _rows(reply: Reply) -> list[Mapping[str, Any]]:
    rows = reply.data.get("data")
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _endpoints(reply: Reply, wanted: Wanted) -> Iterator[Gate]:
    silent = _unanswered(reply, "stripe webhook endpoints", "Webhook endpoints: read") if wanted.endpoints else None
    if silent:
        yield silent
        return
    for endpoint in wanted.endpoints:
        name, url = f"stripe webhook {endpoint.path}", wanted.url(endpoint.path)
        same = [row for row in _rows(reply) if _plain(str(row.get("url", ""))) == _plain(url)]
        wrong = list(_endpoint_faults(same, endpoint, wanted)) if same else [_nearest(_rows(reply), url)]
        # http is refused by Stripe itself in live mode; a test account may have it.
        if wanted.mode == LIVE and urlsplit(url).scheme != "https":
            wrong.append(f"{url} is no https address")
        if wrong:
            remedy = (
                "Correct the endpoint in the dashboard (Developers: Webhooks). A new one has a new signing secret: put it into " + endpoint.secret_var + "."
            )
            yield failed(name, "; ".join(wrong), remedy, value=len(wrong), limit=0, sample=len(_rows(reply)))
            continue
        chosen = set(same[0].get("enabled_events") or ())
        yield passed(name, f"Stripe sends {_events(endpoint.events)} to {url}", value=0, limit=0, sample=len(_rows(reply)))
        lacking = [event for event in ADVISED if not _taken(event, chosen)]
        if lacking:
            advice = f"{url} is not told of {', '.join(lacking)}"
            yield warned(f"{name} events", advice, "Add these events, unless something else handles money that goes back.")


def _events(events: tuple[str, ...]) -> str:
    return ", ".join(events) or "its events"


def _taken(event: str, chosen: set[Any]) -> bool:
    """Tell whether an endpoint gets an event; ``*`` stands for all but the few that must be chosen by name."""
    return "*" in chosen or event in chosen


def _endpoint_faults(same: list[Mapping[str, Any]], endpoint: Endpoint, wanted: Wanted) -> Iterator[str]:
    enabled = [row for row in same if row.get("status") == "enabled"]
    if not enabled:
        yield f"{same[0].get('url')} is {same[0].get('status')}"
    if len(enabled) > 1:
        yield f"{enabled[0].get('url')} is there {len(enabled)} times, each with a secret of its own: one half of the events will be refused"
    about = (enabled or same)[0]
    if about.get("livemode") is not (wanted.mode == LIVE):
        yield f"it is an endpoint of {'live' if about.get('livemode') else 'test'} mode"
    lacking = [event for event in endpoint.events if not _taken(event, set(about.get("enabled_events") or ()))]
    if lacking:
        yield f"it is not told of {', '.join(lacking)}"
    version = about.get("api_version") or ""
    if endpoint.api_version and version != endpoint.api_version:
        yield f"it speaks API version {version or 'of the account'}, the app expects {endpoint.api_version}"


def _nearest(rows: list[Mapping[str, Any]], url: str) -> str:
    """Return in words that an endpoint is missing, and what stands there that may be meant."""
    mine = _plain(url)
    for row in rows:
        theirs = _plain(str(row.get("url", "")))
        if theirs[1:2] == mine[1:2] and theirs[3].rstrip("/") == mine[3].rstrip("/"):
            return f"there is no endpoint {url}; {row['url']} differs in scheme, port or a slash, and Stripe follows no redirect"
        if theirs[3] == mine[3]:
            return f"there is no endpoint {url}; {row['url']} has that path on another host"
    return f"there is no endpoint {url} among {len(rows)}"


def _deliveries(replies: Mapping[str, Reply], wanted: Wanted, now: int) -> Gate:
    reply, limit = replies["events"], wanted.max_undelivered
    relied = {event for endpoint in wanted.endpoints for event in endpoint.events}
    open_events = [row for row in _rows(reply) if not relied or row.get("type") in relied]
    more = " or more" if reply.data.get("has_more") else ""
    count = len(open_events)
    if count <= limit and not more:
        return passed("stripe deliveries", f"{count} events wait for their delivery", value=count, limit=limit, sample=len(_rows(reply)))
    if count <= limit:
        sentence = f"more events are undelivered than one answer holds ({PAGE}); {count} of these are the app's"
        return unknown("stripe deliveries", sentence, "Look at the deliveries in the dashboard (Developers: Webhooks).", value=count, limit=limit)
    kinds = ", ".join(sorted({str(row.get("type")) for row in open_events}))
    oldest = max(now - int(row.get("created", now)) for row in open_events)
    sentence = f"{count}{more} events were not delivered, the oldest {oldest // 60} minutes ago: {kinds}"
    mine = {_plain(wanted.url(endpoint.path)) for endpoint in wanted.endpoints}
    others = [row for row in _rows(replies["endpoints"]) if row.get("status") == "enabled" and _plain(str(row.get("url", ""))) not in mine]
    if others or not mine:
        why = f"{sentence}; {len(others)} other endpoints of the account may be the ones that fail"
        return warned("stripe deliveries", why, "Look at the deliveries of this app's endpoint in the dashboard.")
    remedy = "See in the dashboard what the app answered; 400 mostly means another signing secret. Send them again afterwards."
    return failed("stripe deliveries", sentence, remedy, value=count, limit=limit, sample=len(_rows(reply)))


def _redirect(reply: Reply, wanted: Wanted) -> Gate:
    """Judge the one page of Connect that refuses a wrong address without a sign-in; whatever else it says proves nothing (S3-070)."""
    url, name = wanted.url(wanted.redirect), "stripe connect"
    code = reply.data.get("error")
    code = code.get("code") or code.get("type") if isinstance(code, Mapping) else code
    if code == "invalid_redirect_uri":
        remedy = "Add it in the dashboard (Connect: settings: OAuth), in this mode."
        return failed(name, f"Connect refuses the redirect address {url}: it is not registered", remedy, value=str(code))
    if code in ("invalid_client", "invalid_client_id", "unauthorized_client"):
        remedy = "Take the client id of this mode from the dashboard (Connect: settings)."
        return failed(name, "Connect does not know the client id", remedy, value=str(code))
    said = reply.error or (f"it answers {json.dumps(code)}" if isinstance(code, str) else f"it answers with status {reply.status}")
    return warned(
        name, f"Connect does not refuse {url}, which proves nothing: {said}", "Look in the dashboard (Connect: settings: OAuth) whether it is registered."
    )
