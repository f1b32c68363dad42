# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof that an app checks Stripe's signatures: what is sent to its webhook, and what each answer means."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Answer
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, INCONCLUSIVE, PASS, Gate, worst

VALID, WRONG_SECRET, STALE, TAMPERED, UNSIGNED = "valid", "wrong secret", "stale", "tampered", "unsigned"
JAVASCRIPT, PYTHON = "written anew by JavaScript", "written anew by Python"
EVENT_TYPE = "sluice.probe"
STALE_SECONDS = 600  # Stripe's libraries allow 300
_WORDS = {
    WRONG_SECRET: "signed with another secret",
    STALE: f"signed {STALE_SECONDS // 60} minutes ago",
    TAMPERED: "changed after it was signed",
    UNSIGNED: "not signed",
}
_OTHER_SECRET = "whsec_of_somebody_who_is_not_stripe"


@dataclass(frozen=True)
class Attempt:
    """One request to a webhook.

    :param name: one of the words of this file.
    :param headers: its headers, the signature among them.
    """

    name: str
    body: str
    headers: Mapping[str, str] = field(default_factory=dict)


def sign(secret: str, body: str, at: int) -> str:
    """Return the header ``Stripe-Signature``: HMAC-SHA256 over time, dot and body, keyed with the whole secret, ``whsec_`` included."""
    digest = hmac.new(secret.encode(), f"{at}.{body}".encode(), hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def event(mark: str, mode: str, now: int) -> dict[str, Any]:
    """Return an event of a type no app knows, so that nothing happens but the check of its signature.

    :param mark: what tells the probe apart in the app's log, such as the release; letters, digits, dashes and dots.
    :param mode: ``live`` or ``test``: an app may refuse the other one.
    """
    return {
        "id": f"evt_sluice_probe_{mark}_{now}",
        "object": "event",
        "api_version": "2024-06-20",
        "created": now,
        # An accent and a fraction: whoever writes this anew writes other bytes, whatever the indentation.
        "data": {"object": {"id": f"sluice_probe_{now}", "object": "sluice.probe", "note": "caf\u00e9", "rate": 1.0}},
        "livemode": mode == "live",
        "pending_webhooks": 0,
        "request": {"id": None, "idempotency_key": None},
        "type": EVENT_TYPE,
    }


def attempts(secret: str, sent: Mapping[str, Any], now: int) -> list[Attempt]:
    """Return the five requests of the proof, the body indented as Stripe's are (M-083, M-087; S0-164, S1-134, S3-203)."""
    body = json.dumps(sent, indent=2)
    return [
        _attempt(VALID, body, sign(secret, body, now)),
        _attempt(WRONG_SECRET, body, sign(_OTHER_SECRET, body, now)),
        _attempt(STALE, body, sign(secret, body, now - STALE_SECONDS)),
        _attempt(TAMPERED, body.replace('"sluice.probe"', '"sluice.prober"'), sign(secret, body, now)),
        _attempt(UNSIGNED, body, ""),
    ]


def diagnosis(secret: str, sent: Mapping[str, Any], now: int) -> list[Attempt]:
    """Return what is sent when the valid event was refused: the bytes an app would have signed that parses the body and writes it anew."""
    javascript = json.dumps({**sent, "data": _whole(sent["data"])}, separators=(",", ":"), ensure_ascii=False)
    python = json.dumps(sent)
    return [_attempt(JAVASCRIPT, javascript, sign(secret, javascript, now)), _attempt(PYTHON, python, sign(secret, python, now))]


def _whole(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data as JavaScript writes it, which knows no 1.0."""
    return {"object": {**data["object"], "rate": 1}}


def _attempt(name: str, body: str, signature: str) -> Attempt:
    headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)", "Accept": "*/*"}
    return Attempt(name, body, {**headers, **({"Stripe-Signature": signature} if signature else {})})


def refused(answer: Answer) -> bool:
    """Tell whether the app itself refused what was sent: with a 4xx that names nothing else."""
    return 400 <= answer.status < 500 and answer.status not in (404, 405, 408, 413, 415, 429)


def judge(name: str, secret_var: str, answers: Mapping[str, Answer], by: str) -> Gate:
    """Return the gate of one webhook at one address.

    :param name: of the gate.
    :param answers: by the names of the attempts; those of ``diagnosis`` only where the valid event was refused.
    :param by: how the requests came to the app, in words.
    """
    findings = [_valid(answers, secret_var)]
    if findings[0][0] == PASS or refused(answers[VALID]):
        findings += [_negative(name, answers[name]) for name in _WORDS]
    verdict = worst(verdict for verdict, _sentence, _remedy in findings)
    if verdict == PASS:
        sentence = f"the app takes what is signed with {secret_var} and refuses what is {', '.join(_WORDS.values())}; {by}"
        return Gate(name, PASS, sentence, value=len(answers), limit=len(answers), sample=len(answers))
    told = [(sentence, remedy) for each, sentence, remedy in findings if each != PASS]
    remedies = dict.fromkeys(remedy for _sentence, remedy in told)
    good = sum(each == PASS for each, _sentence, _remedy in findings)
    open_door = [sentence for sentence, remedy in told if remedy == _OPEN_REMEDY]
    # An app that takes everything is told once, not four times.
    sentences = [sentence for sentence, remedy in told if remedy != _OPEN_REMEDY] + ([_open_door(open_door)] if open_door else [])
    return Gate(name, verdict, f"{'; '.join(sentences)}; {by}", value=good, limit=len(_WORDS) + 1, sample=len(answers), remedy=" ".join(remedies))


_OPEN_REMEDY = "Check the signature over the raw body with Stripe's library (constructEvent) before anything else is done."


def _open_door(sentences: list[str]) -> str:
    taken = ", ".join(sentences)
    return f"the app takes events that are {taken}" + (
        ": it verifies nothing, anybody can tell it that a payment was made" if len(sentences) == len(_WORDS) else ""
    )


def _valid(answers: Mapping[str, Answer], secret_var: str) -> tuple[str, str, str]:
    """Return verdict, sentence and remedy for the event that is as it should be."""
    answer = answers[VALID]
    if 200 <= answer.status < 300:
        return PASS, "", ""
    named = _in_the_way(answer)
    if named:
        return named
    if not refused(answer):
        return (
            FAIL,
            f"the valid event is answered with {answer.status}: the app fails on a type it does not know",
            "Answer 200 to events that are of no interest.",
        )
    for name, who in ((JAVASCRIPT, "JSON.parse or a body parser"), (PYTHON, "request.json()")):
        if name in answers and 200 <= answers[name].status < 300:
            sentence = f"the valid event is refused with {answer.status}, the same one without its white space is taken: the app checks a body it has {name}"
            return FAIL, sentence, f"Verify the raw bytes of the request, before {who} touches them; Stripe's events are indented."
    if answer.status in (401, 403):
        remedy = "Let the path through sign-in, CSRF protection and the firewall; if the app itself refuses so, see whether it holds another secret."
        return FAIL, f"the valid event is refused with {answer.status}, which a sign-in, CSRF or firewall rule says", remedy
    remedy = f"Copy the secret of this endpoint from the dashboard into {secret_var} and start the slot again. If it is right, compare the host's clock."
    sentence = f"the valid event is refused with {answer.status}: the app does not hold the secret in {secret_var}, but that of another endpoint or none"
    return FAIL, sentence, remedy


def _negative(name: str, answer: Answer) -> tuple[str, str, str]:
    if refused(answer):
        return PASS, "", ""
    if 200 <= answer.status < 300:
        return FAIL, _WORDS[name], _OPEN_REMEDY
    named = _in_the_way(answer)
    if named:
        verdict, sentence, remedy = named
        return verdict, f"an event that is {_WORDS[name]}: {sentence}", remedy
    return (
        FAIL,
        f"an event that is {_WORDS[name]} is answered with {answer.status}, not with 400",
        "Refuse it with 400; a failure inside the app looks like an outage.",
    )


def _in_the_way(answer: Answer) -> tuple[str, str, str] | None:
    """Return what an answer says that never came from the check of a signature; None when it may have."""
    headers = {key.lower(): value for key, value in answer.headers.items()}
    status = answer.status
    if not status:
        return INCONCLUSIVE, answer.error or "nothing answers", "See whether the slot runs and the edge reaches it, then run again."
    if 300 <= status < 400:
        where = headers.get("location", "").split("?")[0]
        return FAIL, f"the path answers with a redirect ({status}) to {where or 'nowhere'}, and Stripe follows none", "Give Stripe the address it leads to."
    if status == 404:
        return FAIL, "there is nothing at this path (404)", "Compare the path with the app's route; a slash at the end counts."
    if status == 405:
        return FAIL, "the path takes no POST (405)", "Compare the path and its method with the app's route."
    if status in (413, 415):
        return FAIL, f"the body is refused before the app sees it ({status})", "Raise the limit of the body, or allow application/json, for this path."
    if status in (408, 429):
        return INCONCLUSIVE, f"a rate limit or time limit stands before the path ({status})", "Take the path out of the rate limit: Stripe sends in bursts."
    if headers.get("sluice-maintenance"):
        return INCONCLUSIVE, "the site is closed for maintenance (503)", "Open it, or let the path through with edge_maintenance_paths."
    if status in (502, 503, 504):
        return INCONCLUSIVE, f"the edge has no slot that answers, or the app is not ready ({status})", "See whether the slot is healthy, then run again."
    return None
