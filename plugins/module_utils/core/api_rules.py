# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services that are asked over HTTP whether they know the app's credentials: what is sent to each, which right that needs, and what an answer means."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Optional
from urllib.parse import quote, urlencode, urlsplit

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.gates import comma, failed, passed, unknown, warned
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Answer, Probe
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate

Values = Mapping[str, str]


@dataclass(frozen=True)
class Service:
    """One service: where it is, which variables it needs, what is asked, and what its answers mean beyond the common ones.

    :param variables: what the value is -> name of the variable that holds it by default.
    :param base: address it is asked at; empty when a variable holds it.
    :param needs: the right the credentials must have for this question, as the service calls it.
    :param question: what is asked, by its values.
    :param reading: a gate for answers with a meaning of their own; None for the common meaning.
    :param optional: values that may be missing.
    :param rows: rows of the catalogue.
    """

    name: str
    variables: Mapping[str, str]
    base: str
    needs: str
    question: Callable[[Values], Probe]
    reading: Callable[[Answer, Values], Optional[Gate]]
    optional: tuple[str, ...] = ()
    rows: str = ""


def classify(name: str, answer: Answer, needs: str) -> Gate:
    """Return what an answer means for any service: 401 is a wrong key, 403 a right that is missing, 429 and 5xx say nothing."""
    status = answer.status
    if answer.error or not status:
        return unknown(name, f"{name} gave no answer: {answer.error or 'nothing came back'}")
    if status == 429 or status >= 500:
        return unknown(name, f"{name} answered with status {status}, which says nothing about the key", "Run it again in a minute.", value=status)
    if status == 401:
        return failed(name, f"{name} does not know the key (401)", "Put a key that is valid today into the environment file.", value=401)
    if status == 403:
        return warned(name, f"it cannot be checked: {name} refuses the question (403); the key needs {needs}", f"Give the key {needs}.", value=403)
    if 200 <= status < 300:
        return passed(name, f"{name} knows the key", value=status)
    return unknown(name, f"{name} answered with status {status}, which is not expected", "Look whether its address is right.", value=status)


def document(answer: Answer) -> Any:
    """Return the JSON of an answer, or an empty mapping."""
    try:
        return json.loads(answer.body)
    except ValueError:
        return {}


def _field(answer: Answer, key: str) -> Any:
    found = document(answer)
    return found.get(key) if isinstance(found, Mapping) else None


def _get(path: str, **headers: str) -> Probe:
    # Resend refuses requests without this header, with the status of a missing right.
    return Probe("service", path, headers={"User-Agent": "sluice", "Accept": "application/json", **headers})


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# SendGrid: every key may read its own scopes.


def _sendgrid(answer: Answer, _values: Values) -> Optional[Gate]:
    scopes = _field(answer, "scopes")
    if answer.status != 200 or not isinstance(scopes, list):
        return None
    if "mail.send" not in scopes:
        return failed("sendgrid", f"the key may do {len(scopes)} things, but not send mails", "Give the key the scope mail.send.", value=len(scopes))
    return passed("sendgrid", f"SendGrid knows the key; mail.send is one of its {len(scopes)} scopes", value=len(scopes))


# Resend: https://resend.com/docs/api-reference/errors has 403 for a wrong key and 401 for a right one that may only send.


def _resend(answer: Answer, values: Values) -> Optional[Gate]:
    word = _field(answer, "name")
    if word in ("invalid_api_key", "missing_api_key"):
        return failed("resend", "Resend does not know the key", "Put a key that is valid today into the environment file.", value=answer.status)
    if word == "restricted_api_key":
        sentence = "Resend knows the key, which may only send; whether the sender's domain is verified cannot be checked: that needs Full access"
        return warned("resend", sentence, "Look in the dashboard, or give preflight a key of its own with Full access.", value=answer.status)
    domains = _field(answer, "data")
    if answer.status != 200 or not isinstance(domains, list):
        return None
    verified = sorted(str(entry.get("name", "")) for entry in domains if isinstance(entry, Mapping) and entry.get("status") == "verified")
    sender = values.get("from", "").rpartition("@")[2].rstrip("> ").lower()
    if sender and sender not in verified:
        return failed("resend", f"mails come from {sender}, which Resend has not verified", "Verify the domain in the dashboard.", value=comma(verified))
    return passed("resend", f"Resend knows the key; {comma(verified) or 'no domain'} is verified", value=comma(verified))


# Twilio: test credentials look like live ones and are refused everything but three resources (M-094).

_TWILIO_TEST = 20008


def _twilio(answer: Answer, _values: Values) -> Optional[Gate]:
    if answer.status == 403 and _field(answer, "code") == _TWILIO_TEST:
        return failed("twilio", "these are Twilio's test credentials, which send nothing", "Use the live account SID and token.", value=403)
    if answer.status != 200:
        return None
    status, kind = _field(answer, "status"), _field(answer, "type")
    if status != "active":
        return failed("twilio", f"the account is {str(status)[:20]}, not active", "Mend it in the Twilio console.", value=status)
    if kind == "Trial":
        return failed("twilio", "the account is a trial, which reaches verified numbers only", "Upgrade the account.", value=kind)
    return passed("twilio", "Twilio knows the account, which is active", value=status)


# Google: a code that is none is refused differently for a known client and for an unknown one; nothing is granted.


def _google_question(values: Values) -> Probe:
    body = urlencode({"grant_type": "authorization_code", "code": "sluice-probe", "client_id": values["id"], "client_secret": values["secret"]})
    headers = {"User-Agent": "sluice", "Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    return Probe("service", "/token", "POST", headers, body)


def _google(answer: Answer, _values: Values) -> Optional[Gate]:
    error = _field(answer, "error")
    if error in ("invalid_client", "unauthorized_client", "deleted_client", "disabled_client"):
        return failed(
            "google", f"Google does not take client id and secret ({error})", "Copy both from the OAuth client of the production project.", value=error
        )
    if error == "invalid_grant":
        return passed("google", "Google knows client id and secret; it refused only the code, which was none", value=error)
    if error == "redirect_uri_mismatch":
        return passed("google", "Google knows client id and secret; a redirect address was not asked for", value=error)
    return None


# Supabase: the gateway asks for a key before anything else.


def claims(token: str) -> Mapping[str, Any]:
    """Return what a JWT says of itself, unverified; empty for anything else."""
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error):
        return {}
    return found if isinstance(found, Mapping) else {}


def _supabase(role: str) -> Callable[[Answer, Values], Optional[Gate]]:
    name = f"supabase {role}"
    prefixes = {"anon": "sb_publishable_", "service_role": "sb_secret_"}

    def reading(answer: Answer, values: Values) -> Optional[Gate]:
        told = claims(values["key"])
        if told.get("role") not in (None, role) or values["key"].startswith(tuple(text for other, text in prefixes.items() if other != role)):
            return failed(name, f"the key is of the role {str(told.get('role', 'of the other kind'))[:20]}, not {role}", "Swap the two keys.")
        host = (urlsplit(values["url"]).hostname or "").lower()
        if "ref" in told and host.endswith(".supabase.co") and host != f"{told['ref']}.supabase.co":
            return failed(name, f"the key is of another project than {host}", "Copy address and key from the same project.")
        if answer.status == 540:
            return failed(name, "the project is paused", "Restore it in the dashboard.", value=540)
        if 200 <= answer.status < 300:
            return passed(name, f"{host} knows the key of the role {role}", value=answer.status)
        return None

    return reading


def _supabase_question(values: Values) -> Probe:
    return _get("/auth/v1/settings", apikey=values["key"])


# Sentry: a DSN is read, and an event is sent only when it is wanted.

_DSN = re.compile(r"https?://(?P<key>[0-9a-f]{32})(?::[0-9a-f]{32})?@(?P<host>[A-Za-z0-9.-]+(?::\d+)?)(?P<path>(?:/[A-Za-z0-9_-]+)*)/(?P<project>\d+)/?\Z")
_DSN_EXAMPLE = "A DSN looks like https://<32 hex digits>@o1234.ingest.de.sentry.io/5678; copy it from the project's settings."


def judge_dsn(dsn: str) -> Gate:
    """Return whether a text is the DSN of a Sentry project: of sentry.io in any region, or self-hosted (S3-117, M-095); the key is never shown."""
    found = _DSN.match(dsn)
    if not found:
        return failed("sentry dsn", f"the value ({len(dsn)} characters) is no DSN", _DSN_EXAMPLE)
    if dsn.startswith("http://"):
        return failed("sentry dsn", f"events would go to {found['host']} in clear", _DSN_EXAMPLE)
    if re.search(r"(?:^|\.)example\.|:[0-9a-f]{32}@", dsn):
        return warned("sentry dsn", f"the DSN of project {found['project']} is an example, or has a secret part that is no longer used", _DSN_EXAMPLE)
    return passed("sentry dsn", f"project {found['project']} at {found['host']}", value=found["project"])


def _sentry_question(values: Values) -> Probe:
    found = _DSN.match(values["dsn"])
    if not found:
        raise SluiceError("The value is no DSN of Sentry, so no event was sent.", _DSN_EXAMPLE)
    head = json.dumps({})
    event = json.dumps({"message": "A release asks whether events arrive.", "level": "info", "logger": "sluice", "platform": "other"})
    item = json.dumps({"type": "event", "length": len(event)})
    auth = f"Sentry sentry_version=7, sentry_client=sluice/1, sentry_key={found['key']}"
    headers = {"User-Agent": "sluice", "Content-Type": "application/x-sentry-envelope", "X-Sentry-Auth": auth}
    return Probe("service", f"{found['path']}/api/{found['project']}/envelope/", "POST", headers, f"{head}\n{item}\n{event}\n")


def _sentry(answer: Answer, _values: Values) -> Optional[Gate]:
    if answer.status in (400, 401, 403, 404):
        sentence = f"Sentry takes no event with this DSN ({answer.status})"
        return failed("sentry", sentence, "Copy the DSN again; look whether the project and its key are enabled.", value=answer.status)
    if answer.status == 200:
        return passed("sentry", "Sentry took a test event", value=200)
    return None


SERVICES: Mapping[str, Service] = {
    "sendgrid": Service(
        "sendgrid",
        {"key": "SENDGRID_API_KEY"},
        "https://api.sendgrid.com",
        "no right of its own: each key may read its scopes",
        lambda values: _get("/v3/scopes", Authorization=f"Bearer {values['key']}"),
        _sendgrid,
        rows="S1-004, S2-009, S2-042",
    ),
    "resend": Service(
        "resend",
        {"key": "RESEND_API_KEY", "from": "NEXT_PUBLIC_FROM_EMAIL"},
        "https://api.resend.com",
        "Full access",
        lambda values: _get("/domains", Authorization=f"Bearer {values['key']}"),
        _resend,
        ("from",),
        "S3-090, S3-106, S3-107",
    ),
    "twilio": Service(
        "twilio",
        {"sid": "TWILIO_ACCOUNT_SID", "token": "TWILIO_AUTH_TOKEN"},
        "https://api.twilio.com",
        "the account's own SID and auth token, not a restricted API key",
        lambda values: _get(f"/2010-04-01/Accounts/{quote(values['sid'], safe='')}.json", Authorization=_basic(values["sid"], values["token"])),
        _twilio,
        rows="S2-010, S2-054, M-094",
    ),
    "google": Service(
        "google",
        {"id": "GOOGLE_CLIENT_ID", "secret": "GOOGLE_CLIENT_SECRET"},
        "https://oauth2.googleapis.com",
        "no right of its own: a code that is none is offered, and nothing is granted",
        _google_question,
        _google,
        rows="S0-034, S1-005, S2-059",
    ),
    "supabase_anon": Service(
        "supabase anon",
        {"url": "NEXT_PUBLIC_SUPABASE_URL", "key": "NEXT_PUBLIC_SUPABASE_ANON_KEY"},
        "",
        "the role anon",
        _supabase_question,
        _supabase("anon"),
        rows="S3-096, S3-097",
    ),
    "supabase_service": Service(
        "supabase service_role",
        {"url": "NEXT_PUBLIC_SUPABASE_URL", "key": "SUPABASE_SERVICE_ROLE_KEY"},
        "",
        "the role service_role",
        _supabase_question,
        _supabase("service_role"),
        rows="S3-086, S3-098",
    ),
    "sentry_event": Service(
        "sentry",
        {"dsn": "SENTRY_DSN"},
        "",
        "a DSN; one event is written, so it is asked for by name",
        _sentry_question,
        _sentry,
        rows="S2-064, S3-117",
    ),
}


def base_of(service: Service, values: Values, given: str) -> str:
    """Return the address a service is asked at.

    :param given: the operator's own, for a region, a proxy or a test; empty for the service's.
    :raises SluiceError: there is none, or credentials would go to another machine in clear.
    """
    base = given or service.base
    if not base and "dsn" in values:
        found = _DSN.match(values["dsn"])
        base = f"https://{found['host']}" if found else "https://invalid.invalid"
    base = base or values.get("url", "")
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SluiceError(f"The address of {service.name} is no address.", "Example: https://api.example.org")
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise SluiceError(f"{service.name} would be asked without TLS, which shows the key to everybody on the way.", "Use https.")
    return base.rstrip("/")


def judge(service: Service, values: Values, answer: Answer) -> Gate:
    """Return the gate of one service."""
    return service.reading(answer, values) or classify(service.name, answer, service.needs)
