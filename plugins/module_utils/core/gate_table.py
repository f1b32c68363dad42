# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates about the network and about services, as a table: what each needs, when it fails, when it cannot tell, and which rows ask for it."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.sluice.deploy.plugins.module_utils.core.api_rules import SERVICES


@dataclass(frozen=True)
class About:
    """One kind of gate.

    :param name: as it is in a result; a word in capitals stands for a host, a domain or a type.
    :param option: variables of the role preflight that turn it on and set its limits.
    :param fails: when it fails, and in brackets when it warns.
    :param unsure: when it cannot tell.
    :param rows: rows of the catalogue.
    """

    name: str
    option: str
    fails: str
    unsure: str
    rows: str


_SILENT = "no answer in time"
_WHO = "SERVFAIL, a refusal, or no answer in time"
NETWORK = (
    About("dns TYPE NAME", "dns, resolvers", "NXDOMAIN, no such record, or other values on any resolver", _WHO, "S0-079, S1-264, S2-130, S4-056"),
    About("dns TTL NAME", "dns_ttl", "the zone's own servers keep it longer than the limit", f"only a cache answers; {_WHO}", "S2-130"),
    About("spf DOMAIN", "mail", "none or two records, a wanted name not included, no -all or ~all, more than 10 look-ups", _WHO, "S2-051"),
    About("dkim SELECTOR.DOMAIN", "mail", "no key, an empty, cut or weak one (less than 2048 bits warns)", _WHO, "S2-051"),
    About("dmarc DOMAIN", "mail", "none or two records, a policy less strict than wanted (pct below 100 warns)", _WHO, "S2-051"),
    About("tls chain HOST", "tls_hosts, tls_ca", "self-signed, not trusted, or the intermediate is missing", "no handshake", "S0-035, S2-022, S4-014"),
    About("tls name HOST", "tls_hosts", "the certificate is for other names", "no handshake", "S0-035, S2-086"),
    About("tls days HOST", "tls_min_days, tls_warn_days", "expired, not valid yet, or fewer days than 14 (than 30 warns)", "no handshake", "S1-007, S1-235"),
    About(
        "tls protocols HOST",
        "tls_hosts",
        "TLS 1.0 or 1.1 is spoken, or neither 1.2 nor 1.3 (no 1.3 warns)",
        "this machine cannot offer a version",
        "S0-035, S0-050",
    ),
    About("tls file HOST", "edge_site", "the edge serves another certificate than the one on its disk", "no handshake", "S4-055"),
    About("https redirect HOST", "http_port", "no 301 or 308 to the same host, path and query; nobody on the port", f"5xx, 429, {_SILENT}", "S1-008, S2-022"),
    About("https loop HOST", "app_public_url", "HTTPS leads back to HTTP", _SILENT, "S1-008"),
    About("pages", "pages", "a page answers with a status that is not of its kind", _SILENT, "S3-181"),
    About(
        "header NAME",
        "headers, pages, hsts_seconds",
        "it is missing on any page, wrong, or there twice with different values",
        _SILENT,
        "S0-036, S0-040, S1-009, S2-023, S4-020",
    ),
    About("obsolete headers", "pages", "(X-XSS-Protection, Expect-CT, Public-Key-Pins or Feature-Policy is sent)", "", "S4-020"),
    About("server tokens", "pages", "a version in Server, or X-Powered-By", _SILENT, "S0-036, S4-054"),
    About("cookies", "pages, open_cookies", "a cookie without Secure, HttpOnly or SameSite", _SILENT, "S0-045"),
    About(
        "cors",
        "cors_paths, cors_origins",
        "a foreign origin is let in, the own one is not, or Vary: Origin is missing",
        f"5xx, {_SILENT}",
        "S1-011, S1-142, S2-021, S4-015",
    ),
    About(
        "anonymous access", "protected", "a stranger gets 2xx, or is led elsewhere than to the login", f"404, 5xx, {_SILENT}", "S0-046, S3-171, S3-172, S4-017"
    ),
    About("assets", "assets, assets_seconds, assets_cdn", "max-age too short; with a CDN, no hit the second time", f"not 2xx, {_SILENT}", "S0-075, S0-086"),
    About(
        "rate limit",
        "burst",
        "the whole burst passes, or is answered with 503",
        "429 at once, or fewer answers than asked for",
        "S0-037, S1-010, S2-026, S4-016",
    ),
    About(
        "hosts",
        "domains, hosts_own, hosts_allowed",
        "a placeholder, a private or staging host, a slip of the pen",
        "no address was found",
        "S2-006, S3-095, M-110, M-111",
    ),
)
SERVERS = (
    About("postgres role", "postgres", "it is a superuser (BYPASSRLS, CREATEROLE and REPLICATION warn)", _SILENT, "S2-028, S2-029, S1-072"),
    About("postgres extensions", "postgres.extensions", "one is not installed in this database", _SILENT, "S2-028"),
    About("postgres pool", "postgres.pool_size", "both slots together want more connections than are let in", _SILENT, "S0-069, S1-016, S2-031, S4-029"),
    About("postgres row security", "postgres.schemas, postgres.exposed", "a table with row security and no policy; exposed: one without", _SILENT, "S3-088"),
    About("redis", "redis", "refused, wrong password, a replica, a certificate that is not trusted", f"it loads its data; {_SILENT}", "S2-012, S4-010, S4-138"),
    About("redis hit ratio", "redis.hit_ratio", "fewer hits in the window than the limit", "fewer look-ups than min_samples", "S4-087"),
    About("smtp", "smtp", "refused, or a banner with 5xx", f"4xx, {_SILENT}", "S3-090"),
    About("smtp tls", "smtp.tls", "no STARTTLS, or a certificate that is not trusted for the name", "the connection ended", "S3-090"),
    About("smtp login", "smtp.user_var", "user or password is refused", "there is no TLS, so the password was not sent", "S3-090"),
    About("sentry dsn", "sentry_var", "it is no DSN, or would send in clear", "", "S3-117, M-095"),
)
HOST = (
    About(
        "disk forecast FOLDER", "host_bytes", "release, backup, its copy and logs do not fit (less than 10 % left warns)", "no release or backup yet", "S3-248"
    ),
    About("inodes FOLDER", "", "the next release's files do not fit (less than 10 % left warns)", "", "S3-248"),
    About("memory", "", "a second slot, or in place its rehearsal, does not fit beside the live one", "nothing of the live slot runs", "S3-177, S3-247"),
    About("cpu", "", "(load over five minutes above 80 %)", "", "S3-246, M-031"),
    About("clock", "host_clock_limit", "wrong by more than the limit (nobody keeps it warns)", "neither kernel nor control node tells", "C56"),
    About("version PROGRAM", "host_minimum", "older than the minimum, or missing", "it does not tell its version", "C56"),
    About("pm2 daemon", "host_user", "another user's, or two for one home (another version than installed warns)", "none runs", "C56"),
    About("open files", "host_open_files", "a process of the live slot may open fewer (more than 80 % in use warns)", "nothing of the live slot runs", "C56"),
    About("time zone", "host_time_zone", "another one", "nothing names it", "S3-003, S3-031"),
    About("pending reboot", "", "(the host waits for one)", "nothing on the host tells (warns)", "C56"),
    About("draining workers", "", "(more than the budget)", "nginx does not run (warns)", "C56"),
)
SOURCE = (
    About("source console.log", "hygiene, hygiene_allow", "in a script that is no test", "no file could be read", "S4-002"),
    About("source debugger", "hygiene, hygiene_allow", "debugger, breakpoint() or pdb.set_trace()", "no file could be read", "S4-002"),
    About(
        "source secrets",
        "hygiene, hygiene_allow",
        "a key of a known shape, an address with a password, a random value",
        "no file could be read, or a text above 2 MiB",
        "S4-003",
    ),
    About("source commented-out code", "hygiene, hygiene_allow", "(three lines in a row)", "no file could be read", "S4-006"),
    About("source REPORT", "hygiene_artefacts", "the report tells of errors", "it is missing, empty, or of no known form", "S4-004, S4-005"),
)
_BEYOND = {
    "sendgrid": "the scope mail.send is missing",
    "resend": "the sender's domain is not verified; Resend's own 403 for a wrong key",
    "twilio": "test credentials, a trial, or an account that is not active",
    "google": "Google does not take client id and secret",
    "supabase_anon": "a key of another role or project; the project is paused",
    "supabase_service": "a key of another role or project; the project is paused",
    "sentry_event": "400, 403 and 404",
}


def as_markdown() -> str:
    """Return the tables as the documentation shows them."""
    head = "| gate | on with `preflight_` | fails (warns) | cannot tell | rows |\n| --- | --- | --- | --- | --- |\n"
    text = f"### From outside\n\n{head}{''.join(map(_row, NETWORK))}\n### Servers\n\n{head}{''.join(map(_row, SERVERS))}\n"
    text += f"### The host\n\n{head}{''.join(map(_row, HOST))}\n### The source\n\n{head}{''.join(map(_row, SOURCE))}\n"
    text += "### Services over HTTP\n\n| in `preflight_apis` | variables | asked | right it needs | fails beside 401 | rows |\n"
    text += "| --- | --- | --- | --- | --- | --- |\n"
    for name, service in SERVICES.items():
        probe = service.question({**dict.fromkeys(service.variables, "X"), "dsn": f"https://{'0' * 32}@HOST/1"})
        names = ", ".join(f"{what}: `{variable}`" for what, variable in service.variables.items())
        asked = f"`{probe.method} {service.base}{probe.path}`"
        text += f"| `{name}` | {names} | {asked} | {service.needs} | {_BEYOND[name]} | {service.rows} |\n"
    return text


def _row(about: About) -> str:
    return f"| {about.name} | {about.option} | {about.fails} | {about.unsure or 'never'} | {about.rows} |\n"
