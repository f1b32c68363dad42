# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What pages must say in their headers, whatever their status is: protection, no versions, safe cookies, and no foreign origin let in."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.sluice.deploy.plugins.module_utils.core.gates import comma, plural, told, unknown, warned
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Answer
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate

PAGE, ERROR, REDIRECT, ASSET = "page", "error", "redirect", "asset"
_STATUSES: Mapping[str, tuple[range, str]] = {
    PAGE: (range(200, 300), "200 to 299"),
    ASSET: (range(200, 300), "200 to 299"),
    REDIRECT: (range(300, 400), "300 to 399"),
    ERROR: (range(400, 500), "400 to 499"),
}
KINDS = tuple(_STATUSES)
_SAFE_REFERRERS = ("no-referrer", "same-origin", "strict-origin", "strict-origin-when-cross-origin", "no-referrer-when-downgrade", "origin-when-cross-origin")
# Headers that browsers dropped; X-XSS-Protection even opened holes of its own, so only 0 is right.
_OBSOLETE = ("public-key-pins", "public-key-pins-report-only", "expect-ct", "feature-policy", "x-xss-protection")
_TELLING = ("x-powered-by", "x-aspnet-version", "x-aspnetmvc-version", "x-generator")


@dataclass(frozen=True)
class Page:
    """One page that was asked for, and what came back."""

    path: str
    kind: str
    answer: Answer
    secure: bool = True

    @property
    def trouble(self) -> str:
        """Return why this answer is not the kind of page it was asked as; empty when it is."""
        if self.answer.error:
            return f"{self.path}: {self.answer.error}"
        allowed, words = _STATUSES[self.kind]
        return "" if self.answer.status in allowed else f"{self.path} answered with status {self.answer.status}, as {self.kind} page {words} is expected"

    def all(self, name: str) -> list[str]:
        """Return every value of a header."""
        return [value.strip() for key, value in self.answer.fields if key.lower() == name.lower()]


def _hsts(page: Page, least: int) -> str:
    value = page.all("Strict-Transport-Security")[0]
    age = re.search(r"max-age\s*=\s*\"?(\d+)", value, re.IGNORECASE)
    if not age:
        return "has no max-age"
    return f"has max-age {age.group(1)}, at least {least} is wanted" if int(age.group(1)) < least else ""


def _nosniff(page: Page, _least: int) -> str:
    return "" if page.all("X-Content-Type-Options")[0].lower() == "nosniff" else "is not nosniff"


def _referrer(page: Page, _least: int) -> str:
    words = [word.strip().lower() for value in page.all("Referrer-Policy") for word in value.split(",")]
    return "" if words and words[-1] in _SAFE_REFERRERS else f"is {words[-1] if words else 'empty'}, which tells other sites the whole address"


def _csp(page: Page, _least: int) -> str:
    policy = directives(page)
    scripts = policy.get("script-src", policy.get("default-src"))
    if scripts is None:
        return "names neither default-src nor script-src, so any script may run"
    return "lets scripts come from anywhere (*)" if "*" in scripts else ""


def directives(page: Page) -> dict[str, list[str]]:
    """Return the directives of a page's Content-Security-Policy, the first of a name as browsers do it."""
    found: dict[str, list[str]] = {}
    for part in ";".join(page.all("Content-Security-Policy")).split(";"):
        words = part.split()
        if words:
            found.setdefault(words[0].lower(), [word.lower() for word in words[1:]])
    return found


def _frames(page: Page, _least: int) -> str:
    ancestors = directives(page).get("frame-ancestors")
    if ancestors is not None:
        return "frame-ancestors lets anybody frame the page (*)" if "*" in ancestors else ""
    values = [value.upper() for value in page.all("X-Frame-Options")]
    if not values:
        return "is missing, and Content-Security-Policy has no frame-ancestors"
    return "" if values[0] in ("DENY", "SAMEORIGIN") else f"is {values[0][:40]}, which browsers ignore; DENY or SAMEORIGIN is needed"


_FRAMES = "X-Frame-Options"
# Header -> what is wrong with its value, in words. Rows S0-036, S0-040, S1-009, S2-023, S4-020.
HEADERS: Mapping[str, Callable[[Page, int], str]] = {
    "Strict-Transport-Security": _hsts,
    "Content-Security-Policy": _csp,
    _FRAMES: _frames,
    "X-Content-Type-Options": _nosniff,
    "Referrer-Policy": _referrer,
}


def judge_pages(pages: Sequence[Page], wanted: Sequence[str], hsts_seconds: int, open_cookies: Sequence[str] = ()) -> list[Gate]:
    """Return the gates over the headers of all pages: each header by itself, cookies, versions, and headers nobody needs any more.

    A header on the home page proves nothing for an error page: nginx drops inherited ones wherever a location has one of its own.
    """
    seen = [page for page in pages if not page.answer.error]
    silent = [page.trouble for page in pages if page.answer.error]
    count = plural(len(seen), "page")
    odd = [page.trouble for page in seen if page.trouble]
    gates = [told("pages", f"{count} answered as they should", "Name pages that exist in preflight_pages, one of each kind.", odd, silent, sample=len(pages))]
    # A page of another status than asked for is no example of its kind, but its headers still count.
    for name in wanted:
        applies = [page for page in seen if page.secure or name != "Strict-Transport-Security"]
        wrong = [text for text in (_header(page, name, hsts_seconds) for page in applies) if text]
        gates.append(told(f"header {name}", f"{name} is right on {plural(len(applies), 'page')}", _remedy(name), wrong, silent, sample=len(applies)))
    return [*gates, _tokens(seen, silent), _cookies(seen, silent, open_cookies), *_obsolete(seen)]


def _remedy(name: str) -> str:
    return f"Let the edge send {name} with `always`, and repeat it in each location that has an add_header of its own (the site of the edge role does)."


def _header(page: Page, name: str, hsts_seconds: int) -> str:
    values = page.all(name)
    if not values and name != _FRAMES:
        only = " (the report-only header protects nobody)" if page.all(f"{name}-Report-Only") else ""
        return f"{page.path}: {name} is missing{only}"
    # Two policies both hold, and each alone can be right; two of any other header contradict each other.
    if len(set(values)) > 1 and name != "Content-Security-Policy":
        return f"{page.path}: {name} is there {len(values)} times with different values"
    wrong = HEADERS[name](page, hsts_seconds)
    return f"{page.path}: {name} {wrong}" if wrong else ""


def _tokens(seen: Sequence[Page], silent: Sequence[str]) -> Gate:
    found = {f"Server: {value}" for page in seen for value in page.all("Server") if re.search(r"\d", value)}
    found |= {f"{name}: {value}" for page in seen for name in _TELLING for value in page.all(name)}
    remedy = "Set server_tokens off; in nginx, and turn the app's own header off (Express: app.disable('x-powered-by'))."
    return told("server tokens", "no page tells which software and version answers", remedy, sorted(f"an answer tells {text}" for text in found), silent)


def _obsolete(seen: Sequence[Page]) -> list[Gate]:
    found = sorted({name for page in seen for name in _OBSOLETE for value in page.all(name) if not (name == "x-xss-protection" and value == "0")})
    if not found:
        return []
    return [
        warned("obsolete headers", f"{comma(found)} is sent, which browsers no longer read", "Remove it; Content-Security-Policy does its work.", value=found)
    ]


def _cookies(seen: Sequence[Page], silent: Sequence[str], open_cookies: Sequence[str]) -> Gate:
    cookies = [(page, value) for page in seen for value in page.all("Set-Cookie")]
    wrong = sorted({f"{page.path}: {text}" for page, value in cookies for text in cookie_complaints(value, page.secure, open_cookies)})
    good = f"{plural(len(cookies), 'cookie')} with Secure, HttpOnly and SameSite" if cookies else f"no cookie is set on {plural(len(seen), 'page')}"
    return told("cookies", good, "Set the flags where the app sets the cookie, or name it in preflight_open_cookies when scripts must read it.", wrong, silent)


def cookie_complaints(header: str, secure: bool = True, open_cookies: Sequence[str] = ()) -> list[str]:
    """Return what is wrong with one Set-Cookie header (S0-045), by the cookie's name; its value is never shown.

    :param open_cookies: cookies that scripts may read.
    """
    first, *rest = header.split(";")
    name = first.partition("=")[0].strip()
    flags = {part.partition("=")[0].strip().lower(): part.partition("=")[2].strip().lower() for part in rest}
    wrong = []
    if "secure" not in flags and (secure or flags.get("samesite") == "none"):
        wrong.append(f"the cookie {name} has no Secure")
    if "httponly" not in flags and name not in open_cookies:
        wrong.append(f"the cookie {name} has no HttpOnly")
    if flags.get("samesite") not in ("lax", "strict", "none"):
        wrong.append(f"the cookie {name} has no SameSite")
    if name.startswith("__Host-") and ("domain" in flags or flags.get("path") != "/"):
        wrong.append(f"the cookie {name} has a Domain or no Path=/, so browsers refuse it")
    return wrong


@dataclass(frozen=True)
class Crossing:
    """One request from an origin, and the answer."""

    path: str
    method: str
    origin: str
    answer: Answer


def foreign_origins(host: str) -> tuple[str, ...]:
    """Return origins that must not be let in: another site, ones that only look like ours, the same host without TLS, and none at all."""
    return ("https://sluice-foreign.example", f"https://{host}.sluice-foreign.example", f"https://foreign{host}", f"http://{host}", "null")


def judge_cors(crossings: Sequence[Crossing], allowed: Sequence[str]) -> Gate:
    """Return whether only known origins are let in (S1-011, S2-021, S4-015)."""
    # One complaint for all origins it is true of: a pattern lets many in.
    wrong: dict[str, list[str]] = {}
    unsure: dict[str, list[str]] = {}
    for crossing in crossings:
        answer = crossing.answer
        silent = answer.error or (f"status {answer.status}" if answer.status >= 500 else "")
        text = silent or _crossed(crossing, allowed)
        if text:
            origins = (unsure if silent else wrong).setdefault(f"{crossing.path}: {text}", [])
            origins += [] if crossing.origin in origins else [crossing.origin]
    good = f"{plural(len(crossings), 'request')} from own and foreign origins: only {comma(allowed) or 'the own one'} is let in"
    remedy = "Answer with Access-Control-Allow-Origin only for an exact list of origins, never a pattern, and with Vary: Origin."
    doubts = [f"{text} ({comma(origins)})" for text, origins in unsure.items()] or ([] if crossings else ["no request was sent"])
    return told("cors", good, remedy, [f"{text} ({comma(origins)})" for text, origins in wrong.items()], doubts, sample=len(crossings))


def _crossed(crossing: Crossing, allowed: Sequence[str]) -> str:
    headers = {name.lower(): value.strip() for name, value in crossing.answer.fields}
    told_origin, vary = headers.get("access-control-allow-origin"), headers.get("vary", "")
    credentials = headers.get("access-control-allow-credentials", "").lower() == "true"
    if crossing.origin in allowed:
        if told_origin != crossing.origin:
            return f"the own origin is not let in (Access-Control-Allow-Origin: {told_origin or 'missing'})"
        return "" if "origin" in vary.lower() or vary.strip() == "*" else "Vary: Origin is missing, so a cache mixes origins up"
    if told_origin == "*":
        return "every origin is let in (*)" + (", and with credentials" if credentials else "")
    if told_origin == crossing.origin:
        return "this foreign origin is let in" + (", with credentials" if credentials else "")
    return ""


def judge_assets(pages: Sequence[tuple[Page, Page]], least: int, cdn: bool) -> Gate:
    """Return whether assets may be kept, and with a CDN whether the second request is served from it (S0-075, S0-086).

    :param pages: both answers of each asset.
    :param least: seconds that max-age must have.
    """
    wrong, unsure = [], []
    for first, second in pages:
        if first.trouble or second.trouble:
            unsure.append(first.trouble or second.trouble)
            continue
        control = ",".join(second.all("Cache-Control")).lower()
        age = re.search(r"max-age=(\d+)", control)
        if "no-store" in control or "private" in control or not age or int(age.group(1)) < least:
            wrong.append(f"{first.path}: Cache-Control is {control or 'missing'}, max-age={least} or more is wanted")
        state = " ".join(value for name in ("X-Cache", "CF-Cache-Status", "X-Cache-Status", "Cache-Status") for value in second.all(name))
        if cdn and "hit" not in state.lower() and not any(value.isdecimal() and int(value) > 0 for value in second.all("Age")):
            wrong.append(f"{first.path}: the second request was no hit ({state[:60] or 'no header of a cache'})")
    if not pages:
        return unknown("assets", "no asset was named")
    remedy = "Send Cache-Control: public, max-age=31536000, immutable with assets that have a hash in their name."
    return told("assets", f"{plural(len(pages), 'asset')} may be kept for {least} s or longer", remedy, wrong, unsure, sample=len(pages))
