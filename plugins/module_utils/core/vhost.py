# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The site around an app's location: names, TLS, redirect, headers, limits and CORS, as text for nginx.

Nothing of a value can leave the directive it stands in: each value has a shape of its own, and what is free text stands
in double quotes without a backslash, a dollar or a control character.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.traffic import refuse

Version = tuple[int, int, int]
REJECT_HANDSHAKE: Version = (1, 19, 4)
HTTP2_DIRECTIVE: Version = (1, 25, 1)
# A longer key does not fit in a cell of nginx's hashes (64 bytes) on every machine; the size of the cells belongs to the operator.
_CELL = 46
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL})*"
_PATH = r"(?!.*/\.\.?(?:/|$))/[A-Za-z0-9._/@+-]*"
_TEXT = r'(?:[!"#%-\[\]-~](?:[ !"#%-\[\]-~]{0,1998}[!"#%-\[\]-~])?)?'
_TOKEN = rf"[A-Za-z][A-Za-z0-9-]{{0,{_CELL - 1}}}"
_LOG = '{"t":$msec,"a":"$remote_addr","h":"$host","m":"$request_method","u":"$uri","st":$status,"rt":$request_time,"id":"$request_id"}'
_REFERRER = r"(?:no-referrer(?:-when-downgrade)?|(?:strict-)?origin(?:-when-cross-origin)?|same-origin|unsafe-url)"
# Written by other parts of the configuration, or by nginx itself.
_TAKEN = re.compile(
    r"access-control-.*|cache-control|connection|content-(?:length|security-policy|type)|date|location|permissions-policy|referrer-policy|server|set-cookie"
    r"|retry-after|sluice-.*|strict-transport-security|transfer-encoding|upgrade|vary|x-content-type-options|x-frame-options"
)


@dataclass(frozen=True)
class RateLimit:
    """How many requests an address may send to the paths that begin with ``path``, whatever their case."""

    name: str
    path: str
    rate: str = "10r/s"
    burst: int = 20
    key: str = "address"


@dataclass(frozen=True)
class Vhost:
    """A site; checked when it is made.

    :param names: the server names; the redirect goes to the first.
    :param http_port: where the redirect listens, 0 for none; without ``tls`` where the site itself listens.
    :param default_server: reject names nobody has; one site of an nginx and socket may do so.
    :param acme_directory: holds ``.well-known/acme-challenge/``, as ``certbot --webroot`` writes it.
    :param rate_exempt: paths, with all below them, that no limit applies to.
    :param headers: further headers of every answer; the app's own of that name are dropped.
    :param access_log: a path, ``off``, or empty for what is set around the site.
    """

    names: tuple[str, ...]
    certificate: str = ""
    key: str = ""
    tls: bool = True
    https_port: int = 443
    http_port: int = 80
    address: str = ""
    ipv6: bool = True
    http2: bool = True
    default_server: bool = True
    acme_directory: str = ""
    hsts_seconds: int = 300
    hsts_subdomains: bool = False
    frame_options: str = "SAMEORIGIN"
    referrer_policy: str = "strict-origin-when-cross-origin"
    permissions_policy: str = "camera=(), microphone=(), geolocation=()"
    csp: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    cors_origins: tuple[str, ...] = ()
    cors_methods: tuple[str, ...] = ("GET", "HEAD", "POST")
    cors_headers: tuple[str, ...] = ("Content-Type",)
    cors_credentials: bool = False
    rate_limits: tuple[RateLimit, ...] = ()
    rate_exempt: tuple[str, ...] = ()
    real_ip_from: tuple[str, ...] = ()
    real_ip_header: str = "X-Forwarded-For"
    upload_limit: str = "10m"
    access_log: str = ""

    def __post_init__(self) -> None:
        for key, rule in _SINGLE.items():
            _check(f"site.{key}", getattr(self, key), rule)
        for key, rule in _LISTS.items():
            _check_list(f"site.{key}", getattr(self, key), rule)
        for place, limit in enumerate(self.rate_limits):
            for key, rule in _LIMIT.items():
                _check(f"site.rate_limits[{place}].{key}", getattr(limit, key, None), rule)
        _check_headers(self.headers)
        _check_together(self)


# Shapes

_Rule = tuple[Callable[[Any], bool], str, str]


def _like(pattern: str, allowed: str, example: str) -> _Rule:
    whole = re.compile(pattern)
    return (lambda value: isinstance(value, str) and len(value) <= 2000 and whole.fullmatch(value) is not None, allowed, example)


def _between(low: int, high: int, allowed: str, example: str) -> _Rule:
    return (lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high, allowed, example)


def _is_network(value: Any) -> bool:
    try:
        # Trust in every address would let everybody choose their own.
        return isinstance(value, str) and "%" not in value and ipaddress.ip_network(value).prefixlen > 0
    except ValueError:
        return False


def _is_origin(value: Any) -> bool:
    match = re.fullmatch(rf"https?://{_HOST}(?::([1-9][0-9]{{0,4}}))?", value) if isinstance(value, str) else None
    return match is not None and len(value) <= 300 and int(match.group(1) or 1) <= 65535


_FLAG: _Rule = (lambda value: isinstance(value, bool), "true or false", "true")
_FILE = _like(f"(?:{_PATH})?", "an absolute path of letters, digits and . _ / @ + -", "/etc/nginx/tls/wallet.pem")
_PREFIX = _like(_PATH.replace("@", "@~"), "the beginning of a path, of letters, digits and . _ / @ ~ + -", "/api/")
_PLAIN = _like(_TEXT, "up to 2000 visible ASCII characters, none of them a backslash or a dollar", "default-src 'self'")
_HEADER = _like(_TOKEN, "the name of a header", "X-Forwarded-For")
_SINGLE: Mapping[str, _Rule] = {
    **dict.fromkeys(("tls", "ipv6", "http2", "default_server", "hsts_subdomains", "cors_credentials"), _FLAG),
    **dict.fromkeys(("https_port", "http_port"), _between(0, 65535, "a port from 1 to 65535, or 0 for none", "443")),
    **dict.fromkeys(("certificate", "key", "acme_directory"), _FILE),
    **dict.fromkeys(("permissions_policy", "csp"), _PLAIN),
    "address": (lambda value: value == "" or (_is_network(value) and "/" not in value), "an address of this machine, or empty for all", "192.0.2.10"),
    "hsts_seconds": _between(0, 10**9, "seconds, or 0 for no such header", "300"),
    "frame_options": _like("SAMEORIGIN|DENY|", "SAMEORIGIN, DENY or empty", "DENY"),
    "referrer_policy": _like(rf"(?:{_REFERRER}(?:, {_REFERRER})*)?", "a policy of the header Referrer-Policy, or empty", "no-referrer"),
    "real_ip_header": _HEADER,
    "upload_limit": _like("[1-9][0-9]{0,8}[kKmMgG]?", "a number of bytes, with k, m or g after it", "10m"),
    "access_log": _like(f"(?:{_PATH}|off)?", "an absolute path, off, or empty", "/var/log/nginx/wallet.log"),
}
_LISTS: Mapping[str, _Rule] = {
    "names": _like(rf"(?=.{{1,253}}$)(?:\*\.)?{_HOST}", "a host name in small letters", "pay.example.com"),
    "cors_origins": (_is_origin, "an exact origin in small letters", "https://app.example.com"),
    "cors_methods": _like("[A-Z]{1,20}", "a method in capitals", "GET"),
    "cors_headers": _HEADER,
    "rate_exempt": _PREFIX,
    "real_ip_from": (_is_network, "a network, not the whole internet", "10.0.0.0/8"),
}
_LIMIT: Mapping[str, _Rule] = {
    "name": _like("[a-z][a-z0-9_]{0,9}", "up to 10 small letters, digits and _, the first a letter", "login"),
    "path": _PREFIX,
    "rate": _like("[1-9][0-9]{0,5}r/[sm]", "a number of requests in a second (r/s) or minute (r/m)", "10r/s"),
    "burst": _between(0, 100000, "a whole number from 0 to 100000", "20"),
    "key": _like("address", "address", "address"),
}
_LIMIT_EXAMPLE = "{name: login, path: /login, rate: 10r/s, burst: 20}"


def _check(variable: str, value: Any, rule: _Rule) -> None:
    if not rule[0](value):
        raise refuse(variable, value, rule[1], rule[2])


def _check_list(variable: str, values: Any, rule: _Rule) -> None:
    if not isinstance(values, (tuple, list)) or len(set(map(str, values))) < len(values):
        raise refuse(variable, values, f"a list without doubles, each of it {rule[1]}", f"[{rule[2]}]")
    for place, value in enumerate(values):
        _check(f"{variable}[{place}]", value, rule)


def _check_headers(headers: Any) -> None:
    example = "{X-Robots-Tag: noindex}"
    if not isinstance(headers, Mapping) or len({str(name).lower() for name in headers}) < len(headers):
        raise refuse("site.headers", headers, "names of headers, each once, with their values", example)
    for name, value in headers.items():
        if not _HEADER[0](name) or _TAKEN.fullmatch(name.lower()):
            raise refuse("site.headers", name, "names of letters, digits and -, none that is written elsewhere", example)
        _check(f"site.headers.{name}", value, _PLAIN)


def _check_together(vhost: Vhost) -> None:
    if not vhost.names or vhost.names[0].startswith("*"):
        raise refuse("site.names", list(vhost.names), "one or more host names, the first without *", "[pay.example.com, '*.pay.example.com']")
    for key in ("certificate", "key"):
        if bool(getattr(vhost, key)) != vhost.tls:
            raise refuse(f"site.{key}", getattr(vhost, key), "the path of a file on the edge with tls, and nothing without", _FILE[2])
    port = "https_port" if vhost.tls else "http_port"
    if not getattr(vhost, port) or (vhost.tls and vhost.https_port == vhost.http_port):
        raise refuse(f"site.{port}", getattr(vhost, port), "a port of its own from 1 to 65535", "443" if vhost.tls else "80")
    if len({limit.name for limit in vhost.rate_limits}) < len(vhost.rate_limits):
        raise refuse("site.rate_limits", [limit.name for limit in vhost.rate_limits], "limits with a name of its own each", f"[{_LIMIT_EXAMPLE}]")
    if vhost.acme_directory and not (vhost.tls and vhost.http_port):
        raise refuse("site.acme_directory", vhost.acme_directory, "empty where there is no redirect that it could be exempt from", "''")


def vhost_from(data: Mapping[str, Any]) -> Vhost:
    """Return the site an operator wrote down; a key with no value (None) has its default."""
    given = _known("site", data, Vhost, "{names: [pay.example.com], certificate: /etc/nginx/tls/pay.pem, key: /etc/nginx/tls/pay.key}")
    limits = given.get("rate_limits", ())
    _check("site.rate_limits", limits, (lambda value: isinstance(value, (tuple, list)), "a list of limits", f"[{_LIMIT_EXAMPLE}]"))
    given["rate_limits"] = tuple(
        RateLimit(**{"name": "", "path": "", **_known(f"site.rate_limits[{place}]", item, RateLimit, _LIMIT_EXAMPLE)}) for place, item in enumerate(limits)
    )
    given.update({key: tuple(given[key]) for key in _LISTS if isinstance(given.get(key), list)})
    return Vhost(**{"names": (), **given})


def _known(variable: str, data: Any, kind: type, example: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise refuse(variable, data, "a mapping", example)
    allowed = [part.name for part in fields(kind)]
    for key in data:
        if key not in allowed:
            raise refuse(f"{variable}.{key}", data[key], "none of that name; there are " + ", ".join(allowed), example)
    return {key: value for key, value in data.items() if value is not None}


# Rendering


def header_lines(vhost: Vhost) -> tuple[str, ...]:
    """Return the lines of the security headers: for the server, and for each location that has an ``add_header`` of its own and so inherits none."""
    return tuple('add_header {} "{}" always;'.format(name, value.replace('"', '\\"')) for name, value in _headers(vhost).items())


def cors_lines(word: str, vhost: Vhost) -> tuple[str, ...]:
    """Return the lines of the CORS headers, to be repeated like those of ``header_lines``; none without known origins."""
    lines = [f"add_header {name} ${word}_cors_{variable} always;" for name, variable in _cors_headers(vhost).items()]
    return ("add_header Vary Origin always;", *lines) if lines else ()


def render_vhost(app: str, word: str, vhost: Vhost, server_include: str, nginx_version: Version) -> str:
    """Return what belongs into ``http {}`` for a site.

    :param word: the app's name as it may stand in the name of a variable.
    :param server_include: the file with ``location /``, included at the end of the server.
    """
    _check("app", app, _like("[a-z][a-z0-9_-]{0,29}", "up to 30 small letters, digits, - and _, the first a letter", "wallet"))
    _check("word", word, _like("[a-z][a-z0-9_]{0,29}", "up to 30 small letters, digits and _, the first a letter", "wallet"))
    _check("server_include", server_include or None, _FILE)
    text = f"# Generated by Sluice: the site of {app}.\n" + _cors_maps(word, vhost) + _limit_maps(word, vhost)
    if vhost.access_log not in ("", "off"):
        text += f"log_format sluice-site_{word} escape=json '{_LOG}';\n"
    if vhost.default_server:
        text += _rejecting_servers(word, vhost, nginx_version)
    if vhost.tls and vhost.http_port:
        text += _redirect_server(word, vhost)
    return text + _main_server(word, vhost, server_include, nginx_version)


def _headers(vhost: Vhost) -> dict[str, str]:
    hsts = f"max-age={vhost.hsts_seconds}" + ("; includeSubDomains" if vhost.hsts_subdomains else "")
    wanted = {
        "Strict-Transport-Security": hsts if vhost.tls and vhost.hsts_seconds else "",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": vhost.frame_options,
        "Referrer-Policy": vhost.referrer_policy,
        "Permissions-Policy": vhost.permissions_policy,
        "Content-Security-Policy": vhost.csp,
        **vhost.headers,
    }
    return {name: value for name, value in wanted.items() if value}


def _cors_headers(vhost: Vhost) -> dict[str, str]:
    parts = {"Origin": "origin", **({"Credentials": "cred"} if vhost.cors_credentials else {}), "Methods": "meth", "Headers": "head"}
    return {**{f"Access-Control-Allow-{part}": variable for part, variable in parts.items()}, "Access-Control-Max-Age": "age"} if vhost.cors_origins else {}


def _block(opening: str, lines: Sequence[str]) -> str:
    return f"{opening} {{\n" + "".join(f"    {line}\n" for line in lines) + "}\n"


def _map(source: str, variable: str, lines: Sequence[str]) -> str:
    return _block(f'map "{source}" ${variable}', lines)


def _exact(text: str) -> str:
    return f'"{text}"' if len(text) <= _CELL else '"~^{}$"'.format(re.escape(text).replace(r"\*", ".+"))


def _cors_maps(word: str, vhost: Vhost) -> str:
    if not vhost.cors_origins:
        return ""
    origins = [f'{_exact(origin)} "{origin}";' for origin in vhost.cors_origins]
    answers = {"meth": ", ".join(vhost.cors_methods), "head": ", ".join(vhost.cors_headers), "age": "600"}
    return (
        _map("$http_origin", f"{word}_cors_origin", ['default "";', *origins])
        + _map(f"${word}_cors_origin", f"{word}_cors_cred", ["default true;", '"" "";'])
        # A request to know what is allowed names a method; any other OPTIONS is for the app.
        + _map(f"$request_method:${word}_cors_cred:$http_access_control_request_method", f"{word}_preflight", ['default "";', '"~^OPTIONS:true:[A-Za-z]+$" 1;'])
        + "".join(_map(f"${word}_preflight", f"{word}_cors_{name}", ['default "";', f'1 "{value}";']) for name, value in answers.items())
    )


def _zone(word: str, vhost: Vhost, limit: RateLimit) -> str:
    # A zone keeps its key for as long as nginx runs, and a reload that would change it is ignored: another key needs another name.
    facts = [limit.name, limit.path, limit.rate, limit.burst, limit.key, *vhost.rate_exempt]
    return f"sluice_{word}_{limit.name}_{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]}"


def _below(path: str, ends: str) -> str:
    return re.escape(path) + ("" if path.endswith("/") else f"(?:{ends}|$)")


def _limit_maps(word: str, vhost: Vhost) -> str:
    """Return the keys and zones of the limits; a request with an empty key is not counted.

    A path is exempt only when it says so both as it was sent and as nginx reads it: ``/hook/../login`` is no way around a limit.
    """
    if not vhost.rate_limits:
        return ""
    text = _map("$request_uri", f"{word}_free_sent", ["default 0;", *(f'"~^{_below(path, "[/?]")}" 1;' for path in vhost.rate_exempt)])
    text += _map(f"${word}_free_sent:$uri", f"{word}_free", ["default 0;", *(f'"~^1:{_below(path, "/")}" 1;' for path in vhost.rate_exempt)])
    for limit in vhost.rate_limits:
        # Many an app takes /LOGIN for /login, so a limit does as well.
        counted = f'"~*^0:{re.escape(limit.path)}" $binary_remote_addr;'
        text += _map(f"${word}_free:$uri", f"{word}_lim_{limit.name}", ['default "";', counted])
        text += f"limit_req_zone ${word}_lim_{limit.name} zone={_zone(word, vhost, limit)}:4m rate={limit.rate};\n"
    return text


def _listen(vhost: Vhost, port: int, words: str) -> list[str]:
    if vhost.address:
        host = f"[{vhost.address}]" if ":" in vhost.address else vhost.address
        return [f"listen {host}:{port}{words};"]
    return [f"listen {port}{words};"] + ([f"listen [::]:{port}{words};"] if vhost.ipv6 else [])


def _listen_tls(vhost: Vhost, version: Version, words: str = "") -> list[str]:
    if version >= HTTP2_DIRECTIVE:
        return _listen(vhost, vhost.https_port, f" ssl{words}") + ["http2 on;"] * vhost.http2
    return _listen(vhost, vhost.https_port, (" ssl http2" if vhost.http2 else " ssl") + words)


def _tls_lines(word: str) -> list[str]:
    """Return what both servers of the TLS socket must say alike.

    In 1.22 the socket's default server decides the protocols, before the name is known, and has no TLS 1.3 unless told;
    in 1.31 the server of that name does. A second ``ssl_protocols`` at http level only adds to the first, with a warning,
    and Debian's first allows TLS 1.0. So both servers say it; without ``default_server`` that is up to whoever owns the default.
    """
    return ["ssl_protocols TLSv1.2 TLSv1.3;", f"ssl_session_cache shared:sluice_{word}_tls:4m;", "ssl_session_timeout 10m;", "ssl_session_tickets off;"]


def _certificate(vhost: Vhost) -> list[str]:
    return [f"ssl_certificate {vhost.certificate};", f"ssl_certificate_key {vhost.key};"]


def _rejecting_servers(word: str, vhost: Vhost, version: Version) -> str:
    """Return the servers for names nobody has: no handshake, and no answer."""
    closed = ["server_name _;", "server_tokens off;", "access_log off;", "return 444;"]
    text = ""
    if vhost.tls:
        # Before 1.19.4 every server of the socket needs a certificate, and gives it away.
        reject = ["ssl_reject_handshake on;"] if version >= REJECT_HANDSHAKE else _certificate(vhost)
        text += _block("server", [*_listen_tls(vhost, version, " default_server"), *_tls_lines(word), *reject, *closed])
    if vhost.http_port:
        text += _block("server", [*_listen(vhost, vhost.http_port, " default_server"), *closed])
    return text


def _common_lines(word: str, vhost: Vhost) -> list[str]:
    log = {"": [], "off": ["access_log off;"]}.get(vhost.access_log, [f"access_log {vhost.access_log} sluice-site_{word};"])
    trusted = [f"set_real_ip_from {network};" for network in vhost.real_ip_from]
    real = [*trusted, f"real_ip_header {vhost.real_ip_header};", "real_ip_recursive on;"] if trusted else []
    return ["server_name " + " ".join(_exact(name) for name in vhost.names) + ";", "server_tokens off;", *log, *real]


def _redirect_server(word: str, vhost: Vhost) -> str:
    lines = [*_listen(vhost, vhost.http_port, ""), *_common_lines(word, vhost), *header_lines(replace(vhost, hsts_seconds=0))]
    if vhost.acme_directory:
        lines.append(f"location ^~ /.well-known/acme-challenge/ {{ root {vhost.acme_directory}; default_type text/plain; }}")
    port = "" if vhost.https_port == 443 else f":{vhost.https_port}"
    return _block("server", [*lines, f"location / {{ return 301 https://{vhost.names[0]}{port}$request_uri; }}"])


def _main_server(word: str, vhost: Vhost, server_include: str, version: Version) -> str:
    listen = [*_listen_tls(vhost, version), *_tls_lines(word), *_certificate(vhost)] if vhost.tls else _listen(vhost, vhost.http_port, "")
    lines = [*listen, *_common_lines(word, vhost), f"client_max_body_size {vhost.upload_limit};"]
    lines += [*header_lines(vhost), *cors_lines(word, vhost)]
    # An app may send the same headers: two of a kind contradict each other, so the edge's are the only ones, and its silence counts as well.
    hidden = {**_headers(vhost), **_cors_headers(replace(vhost, cors_credentials=True))}
    lines += [f"proxy_hide_header {name};" for name in hidden]
    for limit in vhost.rate_limits:
        lines.append(f"limit_req zone={_zone(word, vhost, limit)}" + (f" burst={limit.burst} nodelay;" if limit.burst else ";"))
    lines += ["limit_req_status 429;"] if vhost.rate_limits else []
    lines += [f"if (${word}_preflight) {{ return 204; }}"] if vhost.cors_origins else []
    return _block("server", [*lines, f"include {server_include};"])
