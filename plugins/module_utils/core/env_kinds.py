# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The kinds of values an environment holds: what each looks like, and how a value that is not so is told without showing it."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional
from urllib.parse import urlsplit

from ansible_collections.sluice.deploy.plugins.module_utils.core import pgurl, stripe_keys
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

_WORD = r"[A-Za-z][A-Za-z0-9]*(?:[-_ .][A-Za-z0-9]+)*"
# Words in brackets are templates; brackets inside a random password are not, so only whole words of three letters and more count.
_PLACEHOLDER = re.compile(
    rf"""change[-_ ]?(?:me|this|it)\b|changeme|\byour[-_ ]|yourdomain|your-|placeholder|example\.(?:com|org|net)\b|\.example\b
    |replace[-_ ]?(?:me|this|with)|super[-_ ]?secret|django-insecure|secret[-_]?key|generate[-_ ]?(?:new|me|a)
    |(?<![A-Za-z0-9])(?:x{{3,}}|todo|fixme|tbd|dummy|insert[-_ ]here)(?![A-Za-z0-9])|x{{8,}}
    |<(?={_WORD}>)[^>]{{3,}}>|\[(?={_WORD}\])[^\]]{{3,}}\]|\{{\{{[^}}]*\}}\}}|\$\{{[^}}]*\}}|\.\.\.""",
    re.IGNORECASE | re.VERBOSE,
)
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_LOCAL = re.compile(r"localhost|.*\.localhost|127\.\d+\.\d+\.\d+|0\.0\.0\.0|::1|::", re.IGNORECASE)
_TRUTH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


@dataclass(frozen=True)
class Kind:
    """One kind of value.

    :param looks: what it looks like, in words.
    :param wrong: value and rule -> how the value is not so, as the end of a sentence; empty when it is.
    :param secret: whether its values are random secrets, so that length and chance are judged.
    :param server_only: whether its values must never reach a browser.
    :param keys: keys of a rule that only this kind understands.
    """

    looks: str
    wrong: Callable[[str, Any], str]
    secret: bool = False
    server_only: bool = False
    keys: tuple[str, ...] = ()


def is_placeholder(value: str) -> bool:
    """Tell whether a value still is what a template or a guide held."""
    return bool(_PLACEHOLDER.search(value))


def truth(value: str) -> Optional[bool]:
    """Return what a boolean means; None when it is none."""
    return _TRUTH.get(value.lower())


def _shannon(text: Sequence[int]) -> float:
    counts = Counter(text)
    return sum(-count / len(text) * math.log2(count / len(text)) for count in counts.values()) if text else 0.0


def chance(value: str) -> int:
    """Return about how many bits of chance a value holds: repetitions count once, and rows such as 1234 or aaaa for nothing."""
    size = len(value)
    period = next((step for step in range(1, size) if value[step:] == value[:-step]), size)
    codes = [ord(letter) for letter in value[:period]]
    steps = [after - before for before, after in zip(codes, codes[1:])]
    return int(min(_shannon(codes), _shannon(steps) if len(steps) > 1 else 0.0) * len(codes))


def hosts_of(kind: str, value: str) -> list[str]:
    """Return the hosts a value names, in lower case and without a final dot."""
    if kind == "email":
        return [value.rpartition("@")[2].lower()]
    if kind == "postgres-url":
        return [host.lower() for host in pgurl.parse(value).host.split(",")]
    urls = origins(value) if kind == "origins" else [value]
    return [(urlsplit(url).hostname or "").rstrip(".") for url in urls]


def is_local(host: str) -> bool:
    """Tell whether a host is the machine itself."""
    return not host or host.startswith("/") or bool(_LOCAL.fullmatch(host))


def origins(value: str) -> list[str]:
    """Return the origins of a list: separated by commas, or a JSON list as pydantic wants it."""
    if value.startswith("["):
        try:
            found = json.loads(value)
        except ValueError:
            return [value]
        return [str(origin) for origin in found] if isinstance(found, list) else [value]
    return [origin.strip() for origin in value.split(",")]


def claims(value: str) -> dict[str, Any]:
    """Return the claims of a JSON web token; its signature is not checked.

    :raises ValueError: it is no token.
    """
    parts = value.split(".")
    if len(parts) != 3 or not all(re.fullmatch(r"[A-Za-z0-9_-]+", part) for part in parts):
        raise ValueError("parts")
    head, body = (json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in parts[:2])
    if not isinstance(head, dict) or not isinstance(body, dict) or "alg" not in head:
        raise ValueError("claims")
    return body


def _matching(pattern: str, flags: int = 0) -> Callable[[str, Any], str]:
    compiled = re.compile(pattern, flags)

    def wrong(value: str, rule: Any) -> str:
        return "" if compiled.fullmatch(value) else "is not so"

    return wrong


def _url(value: str, schemes: Sequence[str]) -> str:
    try:
        parts = urlsplit(value)
        host, _port = parts.hostname or "", parts.port
    except ValueError:
        return "has a port or an address that is none"
    if re.search(r"[\s\\\x00-\x1f]", value):
        return "holds white space or a backslash"
    if parts.scheme not in schemes:
        return f"does not begin with {' or '.join(f'{scheme}://' for scheme in schemes)}"
    return "" if _HOST.fullmatch(host) else "has no host that could be one"


def _web(*schemes: str) -> Callable[[str, Any], str]:
    def wrong(value: str, rule: Any) -> str:
        said = _url(value, schemes)
        return said or ("holds a user or a password" if "@" in urlsplit(value).netloc else "")

    return wrong


def _origins(value: str, rule: Any) -> str:
    for number, origin in enumerate(origins(value), start=1):
        said = "is a wildcard" if "*" in origin else _url(origin, ("https",))
        if not said and (urlsplit(origin).path or urlsplit(origin).query or "@" in origin):
            said = "has more than scheme, host and port"
        if said or is_local(urlsplit(origin).hostname or ""):
            return f"origin {number} {said or 'is this machine itself'}"
    return ""


def _postgres(value: str, rule: Any) -> str:
    try:
        url = pgurl.parse(value)
    except SluiceError as error:
        return error.message.replace("The database URL ", "").rstrip(".")
    length = len(url.password.reveal())
    if rule.min_password and length < rule.min_password:
        return f"has a password of {length} characters where {rule.min_password} are wanted"
    return "has a placeholder as its password" if is_placeholder(url.password.reveal()) else ""


def _redis(value: str, rule: Any) -> str:
    said = _url(value, ("redis", "rediss"))
    return said or ("" if re.fullmatch(r"(/\d*)?", urlsplit(value).path) else "has a database that is no number")


def _hex(value: str, rule: Any) -> str:
    if not re.fullmatch(r"(?:[0-9a-fA-F]{2})+", value):
        return "is not an even number of hexadecimal digits"
    return _size(len(value) // 2, rule.bytes or 0, 8)


def _base64(value: str, rule: Any) -> str:
    try:
        raw = base64.b64decode(value.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        return "cannot be decoded as base64"
    return _size(len(raw), rule.bytes or 0, 8)


def _size(found: int, exactly: int, least: int) -> str:
    if exactly and found != exactly:
        return f"holds {found} bytes where exactly {exactly} are wanted"
    return "" if found >= least else f"holds {found} bytes where at least {least} are wanted"


def _jwt(value: str, rule: Any) -> str:
    try:
        held = claims(value)
    except (ValueError, UnicodeDecodeError):
        return "is not three parts with readable claims"
    if rule.role and held.get("role") != rule.role:
        return f"does not carry the role {rule.role}"
    return ""


def _choices(value: str, rule: Any) -> str:
    return "" if value in rule.choices else f"is none of {', '.join(rule.choices)}"


def _stripe(*allowed: str) -> Callable[[str, Any], str]:
    def wrong(value: str, rule: Any) -> str:
        wanted = rule.keys or allowed
        key = stripe_keys.read(value)
        found = key.what if key else stripe_keys.looks_like(value)
        if found and found not in wanted:
            return f"is {stripe_keys.WORDS[found]} in the slot of {' or '.join(stripe_keys.WORDS[what] for what in wanted)}"
        return "" if key else f"has not the form of {' or '.join(stripe_keys.WORDS[what] for what in wanted)}"

    return wrong


def _free(value: str, rule: Any) -> str:
    return ""


_WEB_KEYS = ("domain", "remote")
KINDS: Mapping[str, Kind] = {
    "free": Kind("anything but empty", _free),
    "secret": Kind("a random text", _free, secret=True, server_only=True),
    "boolean": Kind("true or false", _matching("|".join(_TRUTH), re.IGNORECASE)),
    "integer": Kind("a whole number", _matching(r"[+-]?\d+")),
    "enum": Kind("one of the choices", _choices, keys=("choices",)),
    "url": Kind("a URL such as https://shop.test/path", _web("https", "http"), keys=_WEB_KEYS),
    "https-url": Kind("a URL such as https://shop.test/path", _web("https"), keys=_WEB_KEYS),
    "origins": Kind("a list of origins such as https://shop.test,https://www.shop.test", _origins, keys=_WEB_KEYS),
    "postgres-url": Kind("a URL such as postgresql://user:password@host/database", _postgres, server_only=True, keys=("min_password", "remote", "domain")),
    "redis-url": Kind("a URL such as redis://host:6379/0", _redis, server_only=True, keys=_WEB_KEYS),
    "hex": Kind("hexadecimal digits", _hex, secret=True, server_only=True, keys=("bytes",)),
    "base64": Kind("bytes in base64", _base64, secret=True, server_only=True, keys=("bytes",)),
    "jwt": Kind("a JSON web token (eyJ...)", _jwt, keys=("role", "project_of")),
    "email": Kind("an address such as noreply@shop.test", _matching(rf"[^\s@\"<>,;:]+@(?:{_LABEL}\.)+{_LABEL}"), keys=("domain",)),
    "dsn": Kind(
        "a DSN such as https://0123456789abcdef0123456789abcdef@o1.ingest.sentry.io/2",
        _matching(rf"https://[0-9a-fA-F]{{32}}(?::[0-9a-fA-F]{{32}})?@(?:{_LABEL}\.)*{_LABEL}(?::\d+)?(?:/[^\s?#]*)?/\d+"),
    ),
    "stripe-secret": Kind(
        "a key such as sk_live_... or rk_live_...", _stripe(stripe_keys.SECRET, stripe_keys.RESTRICTED), server_only=True, keys=("mode", "keys")
    ),
    "stripe-publishable": Kind("a key such as pk_live_...", _stripe(stripe_keys.PUBLISHABLE), keys=("mode",)),
    "stripe-webhook": Kind("a secret such as whsec_...", _stripe(stripe_keys.WEBHOOK), server_only=True),
    "stripe-client-id": Kind("an id such as ca_...", _stripe(stripe_keys.CLIENT_ID)),
    "stripe-price": Kind("an id such as price_...", _stripe(stripe_keys.PRICE)),
}
