#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""All metrics that one host can tell, read in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: metrics
short_description: Read the metrics that a release is held to
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Asks each of O(sources) once, all of them together, and returns one reading for each. M(sluice.deploy.judge) holds them against the ladder of limits.
  - A source that does not answer within its deadline, answers with no number, or with one that is too old, is a reading without a value and with the reason.
    It never fails the task, and it never counts as good.
extends_documentation_fragment:
  - sluice.deploy.runtime
attributes:
  check_mode:
    description: Only reads, so check mode is the same.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
options:
  sources:
    description:
      - Where each metric is read. All have C(metric), C(source) and C(deadline) (seconds, 3).
      - V(http) has C(url) and C(path), the dotted path of a number in the JSON answer, and optionally C(samples_path).
        The first app host asks; with C(each=true) every app host does.
      - V(prometheus) has C(url) and C(query), an instant query with one series as its answer, and optionally C(samples_query).
        The newest sample may be C(max_age) seconds old (120). An expression has no time of its own, so name what must be fresh in C(series).
      - V(sql) has C(query), one SELECT of one number, and optionally C(samples_query); it is run on the first database host in a read-only transaction.
      - V(host) needs no more than the metric, one of C(restarts), C(failed_probes), C(health_failing), C(cpu), C(memory), C(disk),
        C(database_connections), C(deadlocks), C(idle_in_transaction), C(longest_query), C(longest_wait).
      - C(unit) is what the source counts in. It is needed for shares (C(share) or C(percent)) and times (C(seconds) or C(milliseconds)).
        For C(custom:NAME) it is a word that is shown.
      - With C(delta=true) the metric is how much the number grew since the first look.
      - C(token_var) names the variable of O(env_file) that holds a bearer token.
      - The texts V({slot}), V({port}) and V({port.SERVICE}) in addresses and queries stand for O(slot) and its ports, and V({address}) for where
        this host reaches them.
    type: list
    elements: dict
    required: true
  guard:
    description: Read C(restarts) and C(failed_probes) on every app host as well, whatever O(sources) holds.
    type: bool
    default: false
  health:
    description: What a health answer must hold beside its status, as for M(sluice.deploy.slot).
    type: dict
    default: {}
  host:
    description: Name of this host in the inventory; empty asks every source, whatever its place.
    type: str
    default: ''
  apphosts:
    description: Names of the app hosts.
    type: list
    elements: str
    default: []
  databases:
    description: Names of the database hosts.
    type: list
    elements: str
    default: []
  app:
    description: Name of the app.
    type: str
    required: true
  slot:
    description: Slot that is judged.
    type: str
    choices: [blue, green]
    required: true
  services:
    description: The app's services, as for M(sluice.deploy.slot).
    type: list
    elements: dict
    required: true
  directory:
    description: Folder of the app; C(disk) is the file system that holds it.
    type: path
    required: true
  env_file:
    description: The app's environment file, with the URL of the database and tokens.
    type: path
    required: true
  env_var:
    description: Variable with the URL of the database.
    type: str
    default: DATABASE_URL
  client_directory:
    description: Folder of psql; searched in the path when it is not given.
    type: path
  previous:
    description: The RV(counters) of the look before; empty at the first look.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Read what the host knows
  sluice.deploy.metrics:
    app: wallet
    slot: green
    services: "{{ app_services }}"
    directory: /srv/wallet
    env_file: /etc/wallet.env
    previous: "{{ seen.counters | default({}) }}"
    sources:
      - {metric: memory, source: host}
      - {metric: deadlocks, source: host}
      - {metric: custom:queue_age, source: http, url: 'http://{address}:{port}/health/metrics', path: queue.age_seconds, unit: s}
      - metric: payment_success_rate
        source: sql
        unit: share
        query: SELECT avg((status <> 'failed')::int) FROM payments WHERE created > now() - interval '5 minutes'
        samples_query: SELECT count(*) FROM payments WHERE created > now() - interval '5 minutes'
      - metric: p95
        source: prometheus
        unit: seconds
        url: http://10.0.0.9:9090
        query: histogram_quantile(0.95, sum by (le) (rate(http_seconds_bucket{slot="{slot}"}[1m])))
        samples_query: sum(increase(http_seconds_count{slot="{slot}"}[1m]))
        series: http_seconds_count{slot="{slot}"}
        max_age: 60
  register: seen
"""

RETURN = r"""
readings:
  description: One reading for each source, with C(metric), C(at), C(value) in the metric's unit, C(samples), and C(why) it has no value.
  returned: success
  type: list
  elements: dict
  sample:
    - {metric: memory, at: 1700000060.2, value: 0.41, samples: 0, why: '', unit: ''}
    - {metric: p95, at: 1700000060.2, value: null, samples: 0, why: the query found no series, unit: ''}
counters:
  description: To hand in as O(previous) at the next look.
  returned: success
  type: dict
  sample: {deadlocks: 3.0, cpu: [120034.0, 981002.0]}
now:
  description: This host's clock at the end, in seconds since the epoch.
  returned: success
  type: float
  sample: 1700000060.3
gates:
  description: Always empty; the ladder judges.
  returned: success
  type: list
  elements: dict
actions:
  description: Always empty, because nothing is changed.
  returned: success
  type: list
  elements: str
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import host as kernel
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import postgres, probes, prometheus
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import read_text
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.runtimes import ARGUMENTS, runtime_from
from ansible_collections.sluice.deploy.plugins.module_utils.core import dotenv, metric_sources, metrics, slots
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.guard import streak, with_guard
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import probe_from
from ansible_collections.sluice.deploy.plugins.module_utils.core.ladder import Reading
from ansible_collections.sluice.deploy.plugins.module_utils.core.metric_sources import DATABASE, HOST, HTTP, PROMETHEUS, Source
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words

# The first look has nothing to compare the processors' work with.
_CPU_SECONDS = 0.5
# Three probes of a host that does not answer stay within a source's deadline of 3 s.
_PROBE_SECONDS = 0.8
_PROBE_PAUSES = (0.2, 0.2, 0.0)


@dataclass(frozen=True)
class Answer:
    """A number and how many observations it rests on, or why there is none."""

    value: Optional[float] = None
    samples: float = 0.0
    why: str = ""


class Reader:
    """Asks the sources of one host.

    :param params: the module's parameters.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = params
        self.counters: dict[str, Any] = dict(params["previous"])
        self.address = slots.reached_at(slots.address_from(params["listen"]))
        self.probing = threading.Lock()
        self.streak: dict[str, Any] = {}
        self.all = [slots.service_from(service, params["runtime"], in_place=True) for service in params["services"]]
        self.services = [service for service in self.all if service.kind == "web"]

    def sources(self) -> list[Source]:
        """Return what this host is asked for."""
        params = self.params
        given = [metric_sources.source_from(data, f"canary_metrics: source {number}") for number, data in enumerate(params["sources"], start=1)]
        given = with_guard(given) if params["guard"] else given
        mine = metric_sources.sources_of(given, params["host"], params["apphosts"], params["databases"]) if params["host"] else given
        ports = {service.name: service.ports[params["slot"]] for service in self.services}
        return [metric_sources.filled(source, params["slot"], ports, self.address) for source in mine]

    def http(self, source: Source) -> Answer:
        document = prometheus.fetch_json(source.url, source.deadline, self.headers(source))
        value = metrics.number(metrics.dotted(document, source.path), source.path)
        return Answer(value, metrics.number(metrics.dotted(document, source.samples), source.samples) if source.samples else 0.0)

    def prometheus(self, source: Source) -> Answer:
        headers = self.headers(source)
        value = prometheus.fresh_query(source.url, source.query, source.series, source.max_age, source.deadline, headers)
        return Answer(value, prometheus.query(source.url, source.samples, source.deadline, headers, "samples_query")[0] if source.samples else 0.0)

    def headers(self, source: Source) -> dict[str, str]:
        if not source.token_var:
            return {}
        token = dotenv.parse(read_text(self.params["env_file"]) or "").get(source.token_var, "")
        if not token:
            raise SluiceError(f"{self.params['env_file']} does not set {source.token_var}")
        return {"Authorization": f"Bearer {token}"}

    def host(self, source: Source) -> Answer:
        known: dict[str, Callable[[], float]] = {
            "restarts": self.restarts,
            "failed_probes": lambda: float(self.failing()["count"]),
            "health_failing": self.health_failing,
            "cpu": self.cpu,
            "memory": lambda: metrics.used_memory(kernel.kernel("meminfo")),
            "disk": lambda: kernel.used_disk(self.params["directory"]),
        }
        return Answer(known[source.metric]())

    def restarts(self) -> float:
        slot, runtime = self.params["slot"], runtime_from(self.params, self.all)
        web = runtime.of(slot, self.services)
        missing = sorted({service.name for service in self.services} - {process.service for process in web})
        if missing:
            raise SluiceError(f"{self.params['runtime']} knows no process {', '.join(slots.process_name(self.params['app'], name, slot) for name in missing)}")
        gone = sum(service.instances for service in self.services) - sum(process.running for process in web)
        return float(sum(process.restarts for process in runtime.of(slot, self.all)) + max(0, gone))

    def failing(self) -> dict[str, Any]:
        """Probe every service of the slot; one that fails is asked again at once, so that one lost answer is no outage."""
        with self.probing:
            if not self.streak:
                began, fails = time.time(), []
                for pause in _PROBE_PAUSES:
                    fails.append(not self.healthy())
                    if not fails[-1]:
                        break
                    time.sleep(pause)
                self.streak = self.counters["probes"] = streak(self.counters.get("probes"), fails, began)
        return self.streak

    def healthy(self) -> bool:
        slot = self.params["slot"]
        probe = {service.name: probe_from({"name": "health", **self.params["health"], "path": service.health_path}, "app_health") for service in self.services}
        targets = {service.name: (f"http://{self.address}:{service.ports[slot]}", probe[service.name]) for service in self.services}
        return not probes.observe(targets, passes=1, deadline=_PROBE_SECONDS, interval=_PROBE_SECONDS, timeout=_PROBE_SECONDS)[1]

    def health_failing(self) -> float:
        seen = self.failing()
        return max(time.time() - float(seen["since"]), 0.001) if seen["count"] else 0.0

    def cpu(self) -> float:
        share, ticks = metrics.busy_share(kernel.kernel("stat"), self.counters.get("cpu", ()))
        if share is None:
            time.sleep(_CPU_SECONDS)
            share, ticks = metrics.busy_share(kernel.kernel("stat"), ticks)
        self.counters["cpu"] = ticks
        return metrics.number(share, "the processors' time")

    def sql(self, sources: Sequence[Source]) -> dict[str, Answer]:
        """Ask the database, each source in a session of its own, so that one that hangs takes no other with it."""
        try:
            url = postgres.read_url(self.params["env_file"], self.params["env_var"])
            with postgres.connect(url, f"metrics:{self.params['app']}", self.params["client_directory"]) as clients:
                return {source.metric: caught(ask_database, clients, source) for source in sources}
        except SluiceError as error:
            return {source.metric: Answer(why=error.message) for source in sources}


def ask_database(clients: postgres.Clients, source: Source) -> Answer:
    with clients.session(postgres.Deadline(source.deadline)) as session:
        session.execute("BEGIN TRANSACTION READ ONLY")
        # The server gives up first, so that it says why and nothing keeps running there.
        session.execute(f"SET LOCAL statement_timeout = {int(source.deadline * 800)}")
        value = metrics.single(session.query(source.query), "the query")
        return Answer(value, metrics.single(session.query(source.samples), "samples_query") if source.samples else 0.0)


def caught(ask: Callable[..., Answer], *words: Any) -> Answer:
    try:
        return ask(*words)
    except SluiceError as error:
        return Answer(why=error.message)
    except Exception as error:  # an answer nobody thought of is a reading without a value too
        return Answer(why=f"{type(error).__name__}: {error}")


def read(params: Mapping[str, Any]) -> dict[str, Any]:
    """Ask all sources of this host together, and wait for each no longer than its deadline."""
    reader = Reader(params)
    sources = reader.sources()
    asks = {HTTP: reader.http, PROMETHEUS: reader.prometheus, HOST: reader.host}
    # The work of all the others is not what the share of the processors should tell of.
    first = [source for source in sources if source.kind == HOST and source.metric == "cpu"]
    in_database = [source for source in sources if source.place == DATABASE]
    answers = {source.metric: caught(reader.host, source) for source in first}
    began = time.monotonic()
    waiting = []
    for source in sources:
        if source not in first and source not in in_database:
            # Nobody waits for a thread that is late: it ends with the module.
            thread = threading.Thread(target=answer_into, args=(answers, asks[source.kind], source), daemon=True)
            thread.start()
            waiting.append((thread, source))
    if in_database:
        answers.update(reader.sql(in_database))
    for thread, source in waiting:
        thread.join(max(0.0, began + source.deadline - time.monotonic()))
    return readings(sources, dict(answers), reader.counters)


def answer_into(answers: dict[str, Answer], ask: Callable[..., Answer], source: Source) -> None:
    answers[source.metric] = caught(ask, source)


def readings(sources: Sequence[Source], answers: Mapping[str, Answer], counters: dict[str, Any]) -> dict[str, Any]:
    now, taken = time.time(), []
    for source in sources:
        answer = answers.get(source.metric, Answer(why=f"there was no answer within {source.deadline:g} s"))
        if answer.value is None:
            found = Reading(source.metric, now, None, why=answer.why.rstrip("."), unit=source.unit)
        else:
            found, counters = metrics.reading_of(source, now, answer.value, answer.samples, counters)
        taken.append({key: value for key, value in asdict(found).items() if key != "host"})
    return {"readings": taken, "counters": counters, "now": now, "gates": [], "actions": []}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "sources": {"type": "list", "elements": "dict", "required": True},
            "guard": {"type": "bool", "default": False},
            "health": {"type": "dict", "default": {}},
            "host": {"type": "str", "default": ""},
            "apphosts": {"type": "list", "elements": "str", "default": []},
            "databases": {"type": "list", "elements": "str", "default": []},
            "app": {"type": "str", "required": True},
            "slot": {"type": "str", "choices": list(slots.SLOTS), "required": True},
            "services": {"type": "list", "elements": "dict", "required": True},
            "directory": {"type": "path", "required": True},
            "env_file": {"type": "path", "required": True},
            "env_var": {"type": "str", "default": "DATABASE_URL"},
            "client_directory": {"type": "path"},
            **ARGUMENTS,
            "previous": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    with in_words(module):
        result = read(module.params)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
