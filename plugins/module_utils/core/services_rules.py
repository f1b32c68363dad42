# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What PostgreSQL, Redis and a mail server must say before a release may lean on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.gates import comma, failed, passed, plural, unknown, warned
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate

# PostgreSQL


@dataclass(frozen=True)
class Pool:
    """How many connections the app opens.

    :param size: connections of one process, its overflow included.
    :param processes: processes of one slot on one host, of all services together.
    :param hosts: app hosts.
    :param reserved: connections that others need: migrations, a backup, people.
    """

    size: int
    processes: int = 1
    hosts: int = 1
    reserved: int = 5

    @property
    def wanted(self) -> int:
        """Return the connections while both slots run, which is what a canary is."""
        return self.size * self.processes * self.hosts * 2 + self.reserved


def judge_role(role: Mapping[str, Any], expected: Sequence[str] = ()) -> Gate:
    """Return whether the app's role may no more than it needs.

    :param role: ``name``, ``superuser``, ``bypassrls``, ``createrole``, ``replication``.
    :param expected: of these, what the role is meant to have (Supabase's service role bypasses row security, say).
    """
    more = [word for word in ("superuser", "createrole", "replication", "bypassrls") if role.get(word) and word not in expected]
    name, words = "postgres role", comma(word.upper() for word in more)
    if role.get("superuser") and "superuser" in more:
        remedy = "Let the app connect as a role of its own that owns its tables: ALTER ROLE ... NOSUPERUSER."
        return failed(name, f"the app connects as {role['name']}, which is a superuser and may do anything to every database", remedy, value=words)
    if more:
        remedy = f"ALTER ROLE {role['name']} {' '.join('NO' + word.upper() for word in more)}; or name what is meant as expected."
        return warned(name, f"the app connects as {role['name']}, which has {words}", remedy, value=words)
    return passed(name, f"the app connects as {role['name']}, which is no superuser")


def judge_extensions(wanted: Sequence[str], installed: Mapping[str, str], available: Sequence[str]) -> Gate:
    """Return whether the extensions the app needs are there."""
    missing = [name for name in wanted if name not in installed]
    if not missing:
        return passed("postgres extensions", f"{comma(f'{name} {installed[name]}' for name in wanted)} is installed", sample=len(wanted))
    absent = [name for name in missing if name not in available]
    remedy = "; ".join(f"CREATE EXTENSION {name};" for name in missing if name not in absent)
    if absent:
        remedy = f"{remedy} Install the server's package of {comma(absent)} first (Debian: postgresql-contrib, or one of its own)".strip()
    return failed("postgres extensions", f"{comma(missing)} is not installed in this database", remedy, value=comma(missing), sample=len(wanted))


def judge_pool(pool: Pool, server: Mapping[str, int]) -> Gate:
    """Return whether both slots together fit into what the server lets in (S0-069, S1-016, S2-031, S4-029).

    :param server: ``max_connections``, ``kept`` (for superusers), ``role_limit`` and ``database_limit`` (-1 for none), ``clients`` (now).
    """
    limits = [server["max_connections"] - server["kept"], *(server[name] for name in ("role_limit", "database_limit") if server[name] >= 0)]
    limit = min(limits)
    parts = f"2 slots x {plural(pool.hosts, 'host')} x {plural(pool.processes, 'process', 'processes')} x {pool.size} + {pool.reserved} reserved"
    sentence = f"{parts} = {pool.wanted} connections; {limit} are let in, {server['clients']} are open now"
    if pool.wanted > limit:
        remedy = "Make the pool of a process smaller, put PgBouncer in between, or raise max_connections (needs a restart and memory)."
        return failed("postgres pool", sentence, remedy, value=pool.wanted, limit=limit)
    return passed("postgres pool", sentence, value=pool.wanted, limit=limit)


def judge_row_security(closed: Sequence[str], open_tables: Sequence[str], exposed: bool) -> Gate:
    """Return whether row level security says what it is meant to.

    :param closed: tables with row security and no policy: nobody but their owner sees a row.
    :param open_tables: tables without row security in the schemas that were looked at.
    :param exposed: a public API reaches these schemas, so each table must have row security.
    """
    name = "postgres row security"
    if exposed and open_tables:
        sentence = f"{plural(len(open_tables), 'table')} of an exposed schema without row security: {comma(open_tables[:10])}"
        return failed(name, sentence, "ALTER TABLE ... ENABLE ROW LEVEL SECURITY; and write its policies.", value=len(open_tables), limit=0)
    if closed:
        sentence = f"{plural(len(closed), 'table has', 'tables have')} row security and no policy, so the app sees no row of it: {comma(closed[:10])}"
        return failed(name, sentence, "CREATE POLICY for each of them, or DISABLE ROW LEVEL SECURITY where it is not meant.", value=len(closed), limit=0)
    return passed(name, "no table has row security without a policy" + (", and every exposed table has row security" if exposed else ""))


# Redis

_REFUSALS = {
    "WRONGPASS": "it refuses the password",
    "NOAUTH": "it wants a password and the URL has none",
    "NOPERM": "the user may not do this",
    "ERR AUTH": "it has no password, and the URL has one",
}
_NOT_YET = ("LOADING", "BUSY", "TRYAGAIN", "CLUSTERDOWN", "ERR max number of clients")


def judge_refusal(said: str) -> Gate:
    """Return the gate of a Redis that answered with an error: by its first words, the rest may hold what was sent."""
    busy = next((word for word in _NOT_YET if said.startswith(word)), "")
    if busy:
        return unknown("redis", f"Redis cannot answer yet ({busy})", "Wait until it has loaded its data, and run this again.")
    kind = next((word for word in _REFUSALS if said.startswith(word)), "")
    words = _REFUSALS.get(kind, f"it answered with the error {said.split(' ', 1)[0][:20]}")
    return failed("redis", f"Redis answers, but {words}", "Correct user and password in the URL, or the ACL of the user.")


def judge_redis(pong: str, replica: bool, version: str, secure: bool) -> Gate:
    """Return whether a Redis can be leaned on (S4-010, S4-138)."""
    if pong != "PONG":
        return failed("redis", "what answers PING is no Redis", "Correct host and port in the URL.")
    if replica:
        return failed("redis", f"Redis {version} is a replica and takes no writes", "Point the URL at the primary.", value=version)
    return passed("redis", f"Redis {version} answers{' over TLS' if secure else ''}", value=version)


def judge_hits(before: Mapping[str, int], after: Mapping[str, int], least: float, min_samples: int, seconds: float) -> Gate:
    """Return the share of hits between two looks; counters since the start of the server say nothing of today (S4-087)."""
    hits, misses = after["hits"] - before["hits"], after["misses"] - before["misses"]
    asked, name = hits + misses, "redis hit ratio"
    if asked < min_samples or hits < 0 or misses < 0:
        sentence = f"{max(asked, 0)} look-ups in {seconds:g} s; {min_samples} are needed to judge"
        return unknown(name, sentence, "Look for longer (window), or when there is traffic.", limit=least, sample=max(asked, 0))
    ratio = hits / asked
    sentence = f"{ratio:.0%} of {asked} look-ups in {seconds:g} s were hits; {least:.0%} is the limit"
    if ratio < least:
        remedy = "Look for keys that expire too soon, evictions (maxmemory), or a cold cache after a restart."
        return failed(name, sentence, remedy, value=round(ratio, 4), limit=least, sample=asked)
    return passed(name, sentence, value=round(ratio, 4), limit=least, sample=asked)


def unreachable(name: str, error: OSError) -> Gate:
    """Return the gate of a server there is no connection to: a refusal is an answer, silence is none."""
    words = getattr(error, "verify_message", None) or error.strerror or str(error) or type(error).__name__
    if getattr(error, "verify_message", None):
        return failed(name, f"its certificate is refused: {words}", "Name the authority's file as ca, or install a certificate of a public authority.")
    if isinstance(error, ConnectionRefusedError):
        return failed(name, "nothing listens where the address points", "Start the server, or correct host and port.")
    return unknown(name, f"there is no answer: {words}")


# Mail

STARTTLS, IMPLICIT, CLEAR = "starttls", "implicit", "none"
TLS_KINDS = (STARTTLS, IMPLICIT, CLEAR)


@dataclass(frozen=True, repr=False)
class Mailer:
    """Where mails are handed over, and how to get in."""

    host: str
    port: int
    tls: str = STARTTLS
    user: str = ""
    password: str = ""


@dataclass(frozen=True)
class Greeting:
    """What was seen of a mail server before any mail."""

    code: int = 0
    banner: str = ""
    starttls: bool = False
    secure: bool = False
    logged_in: bool = False
    login_code: int = 0
    tls_error: str = ""
    error: str = ""
    refused: bool = False

    def after(self, **seen: Any) -> Greeting:
        """Return the greeting with more seen of it."""
        return replace(self, **seen)


def mailer_from(values: Mapping[str, str], tls: str) -> Mailer:
    """Return the mail server that variables describe: ``host``, ``port``, ``user``, ``password``.

    :raises SluiceError: host or port is missing or none; no value is shown.
    """
    port = values.get("port") or {STARTTLS: "587", IMPLICIT: "465"}.get(tls, "25")
    if not values.get("host"):
        raise SluiceError("The variable with the mail server's name is not set.", "Set it in the environment file, or name another one as host_var.")
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise SluiceError("The variable with the mail server's port is no port.", "Use a number such as 587.")
    return Mailer(values["host"], int(port), tls, values.get("user", ""), values.get("password", ""))


def judge_mailer(mailer: Mailer, seen: Greeting) -> list[Gate]:
    """Return the gates of a mail server: its banner, TLS, and whether it takes the password (S3-090)."""
    place = f"{mailer.host}:{mailer.port}"
    if seen.code != 220:
        return [_banner(place, seen)]
    gates = [passed("smtp", f"{place} answers: {seen.banner.split(' ', 1)[0]}", value=seen.code)]
    tls = _mail_tls(mailer, place, seen)
    if tls:
        gates.append(tls)
    if mailer.user:
        gates.append(_login(place, seen))
    return gates


def _banner(place: str, seen: Greeting) -> Gate:
    if seen.refused:
        return failed("smtp", f"nothing listens at {place}", "Correct host and port, or open the firewall for this host.")
    if seen.tls_error:
        return failed(
            "smtp", f"{place}: {seen.tls_error}", "Correct tls and the port: 465 speaks TLS at once, 587 with STARTTLS; or name the authority's file as ca."
        )
    if seen.code >= 500:
        return failed(
            "smtp", f"{place} refuses this host with {seen.code}", "Ask the provider why; the host's address may be on a block list.", value=seen.code
        )
    words = f"it answered {seen.code}, which is for now only" if seen.code else f"there is no answer: {seen.error or 'it said nothing'}"
    return unknown("smtp", f"{place}: {words}", value=seen.code or None)


def _mail_tls(mailer: Mailer, place: str, seen: Greeting) -> Optional[Gate]:
    if mailer.tls == CLEAR:
        return None
    if seen.tls_error:
        return failed("smtp tls", f"{place}: {seen.tls_error}", "Install a certificate for this name, or name the authority's file as ca.")
    if mailer.tls == STARTTLS and not seen.starttls and not seen.error:
        remedy = "Use the provider's port for STARTTLS (587), or tls: implicit with port 465. Passwords and mails would go in clear."
        return failed("smtp tls", f"{place} does not offer STARTTLS", remedy)
    if not seen.secure:
        return unknown("smtp tls", f"{place}: the connection ended before TLS: {seen.error}")
    return passed("smtp tls", f"{place} speaks TLS with a certificate that is trusted for its name")


def _login(place: str, seen: Greeting) -> Gate:
    if seen.logged_in:
        return passed("smtp login", f"{place} takes user and password; no mail was sent")
    if 500 <= seen.login_code < 600:
        return failed("smtp login", f"{place} refuses user or password with {seen.login_code}", "Correct them in the environment file.", value=seen.login_code)
    if not seen.secure:
        return unknown("smtp login", f"{place}: the password was not sent, because there is no TLS", "Mend TLS first.")
    return unknown("smtp login", f"{place}: the login was not finished ({seen.login_code or seen.error or 'no answer'})")
