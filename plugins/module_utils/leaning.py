# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates of what an app leans on: which servers and services are asked, with the app's own credentials, and who judges the answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import api, pg_room, postgres, redis, smtp
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import read_text
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.together import judged
from ansible_collections.sluice.deploy.plugins.module_utils.core import api_rules, dotenv, net_rules, services_rules
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.gates import unknown
from ansible_collections.sluice.deploy.plugins.module_utils.core.secret import scrub
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate

Jobs = dict[str, Callable[[], "list[Gate]"]]
# What libpq and the server say when it may yet work out.
_NOT_NOW = ("timeout", "not done within", "starting up", "recovery mode", "temporary failure")


class Secrets:
    """The environment of the app, and what of it was taken out: that must not be seen in a message."""

    def __init__(self, path: str) -> None:
        text = read_text(path)
        if text is None:
            raise SluiceError(f"The environment file {path} is not there.", "Set app_env_file to the file with the app's variables, mode 0600.")
        self.path = path
        self.values = dotenv.parse(text)
        self._taken: set[str] = set()

    def take(self, name: str, required: bool = True) -> str:
        """Return a variable's value and remember it as a secret.

        :raises SluiceError: it is required and not set.
        """
        value = self.values.get(name, "")
        if not value and required:
            raise SluiceError(f"{self.path} does not set {name}.", f"Set {name}, or leave this gate out.")
        self.hide(value)
        return value

    def hide(self, *values: str) -> None:
        """Remember what is to be hidden beside."""
        self._taken.update(value for value in values if value)

    def clean(self, gate: Gate) -> Gate:
        """Return a gate without any secret."""
        value = scrub(gate.value, self._taken) if isinstance(gate.value, str) else gate.value
        return replace(gate, sentence=scrub(gate.sentence, self._taken), remedy=scrub(gate.remedy, self._taken), value=value)


def judge_postgres(secrets: Secrets, wanted: Mapping[str, Any], client_directory: Optional[str], end: float) -> list[Gate]:
    """Return the gates of the database, asked as the app's own role."""
    try:
        url = postgres.read_url(secrets.path, wanted["var"])
        secrets.hide(*url.secrets())
        deadline = postgres.Deadline(max(0.5, end - time.monotonic()))
        with postgres.connect(url, "preflight", client_directory) as clients, clients.session(deadline) as session:
            gates = [services_rules.judge_role(pg_room.role(session), wanted["role_may"])]
            if wanted["extensions"]:
                gates.append(services_rules.judge_extensions(wanted["extensions"], *pg_room.extensions(session)))
            if wanted["pool_size"]:
                pool = services_rules.Pool(wanted["pool_size"], wanted["processes"], wanted["hosts"], wanted["reserved"])
                gates.append(services_rules.judge_pool(pool, pg_room.room(session)))
            closed, unguarded = pg_room.row_security(session, wanted["schemas"])
            return [*gates, services_rules.judge_row_security(closed, unguarded, wanted["exposed"])]
    except SluiceError as error:
        if any(word in error.message.lower() for word in _NOT_NOW):
            return [unknown("postgres", error.message)]
        raise


def judge_redis(secrets: Secrets, wanted: Mapping[str, Any], timeout: float) -> list[Gate]:
    """Return the gates of a Redis: whether it answers, and its hits over a while."""
    place = redis.place_of(secrets.take(wanted["var"]))
    secrets.hide(*place.secrets())
    seconds = timeout + (wanted["window"] if wanted["hit_ratio"] else 0)
    try:
        with redis.Redis(place, seconds, wanted["ca"]) as connection:
            pong, server, role = connection.call("PING"), connection.info("server"), connection.info("replication")
            version, replica = server.get("redis_version", "?"), role.get("role") != "master"
            gates = [services_rules.judge_redis(pong, replica, version, place.secure)]
            if wanted["hit_ratio"]:
                before = _counts(connection)
                time.sleep(wanted["window"])
                gates.append(services_rules.judge_hits(before, _counts(connection), wanted["hit_ratio"], wanted["min_samples"], wanted["window"]))
            return gates
    except redis.Refused as error:
        return [services_rules.judge_refusal(str(error))]
    except OSError as error:
        return [services_rules.unreachable("redis", error)]


def _counts(connection: redis.Redis) -> dict[str, int]:
    stats = connection.info("stats")
    return {"hits": int(stats.get("keyspace_hits", 0)), "misses": int(stats.get("keyspace_misses", 0))}


def judge_smtp(secrets: Secrets, wanted: Mapping[str, Any], timeout: float) -> list[Gate]:
    """Return the gates of the mail server."""
    values = {"host": secrets.values.get(wanted["host_var"], ""), "port": secrets.values.get(wanted["port_var"], "")}
    values.update({name: secrets.take(wanted[f"{name}_var"], required=False) for name in ("user", "password")})
    mailer = services_rules.mailer_from(values, wanted["tls"])
    return services_rules.judge_mailer(mailer, smtp.greet(mailer, timeout, wanted["ca"]))


def judge_api(secrets: Secrets, name: str, wanted: Mapping[str, Any], end: float, timeout: float) -> list[Gate]:
    """Return the gate of one service that is asked over HTTP."""
    service = api_rules.SERVICES[name]
    names = {**service.variables, **(wanted["variables"] or {})}
    unknown_names = sorted(set(names) - set(service.variables))
    if unknown_names:
        raise SluiceError(f"{name} has no variable for {unknown_names[0]}; there are {', '.join(service.variables)}.", "Example: variables: {key: MY_API_KEY}")
    # Addresses and senders are shown; everything else is a credential.
    values = {what: secrets.values.get(variable, "") if what in ("url", "from") else "" for what, variable in names.items()}
    values.update({what: secrets.take(variable, what not in service.optional) for what, variable in names.items() if what not in ("url", "from")})
    base = api_rules.base_of(service, values, wanted["base"] or "")
    answer = api.question(base, service.question(values), end, timeout, wanted["ca"] or "")
    return [api_rules.judge(service, values, answer)]


def judge_hosts(secrets: Secrets, params: Mapping[str, Any]) -> list[Gate]:
    """Return whether the addresses in the environment are the app's own or a known service; only hosts are shown."""
    named = {name: net_rules.hosts_in(value) for name, value in secrets.values.items()}
    return [net_rules.judge_hosts({name: hosts for name, hosts in named.items() if hosts}, params["domains"], params["hosts_own"], params["hosts_allowed"])]


def judge_all(params: Mapping[str, Any]) -> list[Gate]:
    """Return every gate that is asked for.

    :raises SluiceError: the environment file is not there or malformed.
    """
    end, timeout = time.monotonic() + params["deadline"], params["timeout"]
    secrets = Secrets(params["env_file"])
    jobs: Jobs = {}
    if params["postgres"]:
        jobs["postgres"] = partial(judge_postgres, secrets, params["postgres"], params["client_directory"], end)
    if params["redis"]:
        jobs["redis"] = partial(judge_redis, secrets, params["redis"], timeout)
    if params["smtp"]:
        jobs["smtp"] = partial(judge_smtp, secrets, params["smtp"], timeout)
    if params["sentry_var"]:
        jobs["sentry dsn"] = lambda: [api_rules.judge_dsn(secrets.take(params["sentry_var"]))]
    for name, wanted in params["apis"].items():
        jobs[name.replace("_", " ")] = partial(judge_api, secrets, name, wanted, end, timeout)
    if params["domains"]:
        jobs["hosts"] = partial(judge_hosts, secrets, params)
    # psql's private folder is removed by signal handlers, which only the main thread may set.
    return [secrets.clean(gate) for gate in judged(jobs, end, "postgres" if params["postgres"] else "")]
