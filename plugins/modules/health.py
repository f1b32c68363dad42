#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The health gate: an address answers as it should, several times in a row, within a deadline."""

from __future__ import annotations

DOCUMENTATION = r"""
module: health
short_description: Wait until addresses answer as they should
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Asks each of O(urls), and each of O(probes), until it gave O(passes) good answers in a row. All are asked at once, and all have O(deadline) together.
    A redirect is no pass, nor is a version other than O(version)
    (catalogue M-072, M-077).
  - When it gives up it says what it saw last, of each.
  - After that the requests of O(smoke) are sent to the first URL, one after the other; one that only reads is tried once more before it counts.
attributes:
  check_mode:
    description: Only reads, so check mode is the same; O(junit) is not written then.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
options:
  urls:
    description: Base addresses, e.g. V(https://wallet.example.org).
    type: list
    elements: str
    default: []
  path:
    description: Path of the health probe.
    type: str
    default: /api/health
  status:
    description: Statuses that pass.
    type: list
    elements: int
    default: [200]
  contains:
    description: Text the answer must hold.
    type: str
    default: ''
  json:
    description: Values the answer must hold, by dotted path; a number is a place in a list, as in C(checks.0.status).
    type: dict
    default: {}
  components:
    description:
      - Components of which each must be well. C(path) is the dotted path of the mapping or list they stand in, empty for the whole answer;
        C(key) is the word of each that tells how it is, C(status) when it is left out; C(ok) lists the words that pass, V([ok, healthy]) when it is left out.
      - The message names those that are not.
    type: dict
  max_seconds:
    description: Seconds by which the whole answer must be there; V(0) for no limit.
    type: float
    default: 0
  version:
    description: Version the health answer must report; empty to not assert it.
    type: str
    default: ''
  version_key:
    description: Dotted path of the version in the health answer.
    type: str
    default: version
  headers:
    description: Headers sent with each request, such as C(Host) when the URLs are addresses of single machines.
    type: dict
    default: {}
  tls:
    description:
      - How certificates are checked. C(server_name) is asked for and must be in the certificate, C(ca) is a file with the authorities to trust.
      - C(verify=false) looks at nothing, and is refused unless the host is a loopback address.
    type: dict
  closed:
    description:
      - With V(true) the answer must be the one of a site that is closed for maintenance, with V(false) any other.
      - The status and the version do not matter then.
    type: bool
  probes:
    description:
      - Further things that must hold, with C(name) and one of the following.
      - C(path), another request to each URL, with C(method), C(headers), C(body), C(status), C(contains), C(json), C(components) and C(max_seconds).
      - C(websocket), the path of a WebSocket on each URL, whose handshake must be right; with C(ping=true) a ping must come back.
      - C(tcp), a host and a port that must take a connection.
      - C(command), a list of words run where this module runs, which must end with 0.
      - Each may have C(timeout), its own seconds for one answer.
    type: list
    elements: dict
    default: []
  smoke:
    description:
      - Further requests, each like one of O(probes), and with C(effect), C(extract) and C(where).
      - C(effect) says what it may change. V(read) is sent everywhere, V(test-tenant) needs O(smoke_tenant), V(write) goes to a rehearsal's copy only
        and so is left out here. All but GET, HEAD and OPTIONS must say it.
      - C(extract) takes values out of the JSON answer by dotted path; the requests after it use them as C({name}) in path, headers and body.
      - C(where=slot) keeps a request from the public address, C(where=public) from the port of a slot.
      - In a command, C({base}) stands for the address.
    type: list
    elements: dict
    default: []
  smoke_tenant:
    description: Whether the system has a tenant for tests, so that requests with the effect C(test-tenant) are sent.
    type: bool
    default: false
  smoke_values:
    description: File in dotenv form, mode 0600, with values that O(smoke) uses as C({NAME}), such as the password of the test tenant. Empty for none.
    type: path
  junit:
    description: File the results are written to as JUnit XML, whether all is well or not. It is an account, no change.
    type: path
  deadline:
    description: Seconds for all addresses together.
    type: float
    default: 30
  passes:
    description: Good answers in a row.
    type: int
    default: 3
  interval:
    description: Seconds between two questions to the same address.
    type: float
    default: 0.2
  timeout:
    description: Seconds for one answer, from the first byte sent to the last one read.
    type: float
    default: 5
"""

EXAMPLES = r"""
- name: Wait until the public address serves v1.0.0
  sluice.deploy.health:
    urls: [https://wallet.example.org]
    version: v1.0.0

- name: Wait until each web host, and what it needs, is well
  sluice.deploy.health:
    urls: [https://192.0.2.11, https://192.0.2.12]
    headers: {Host: wallet.example.org}
    tls: {server_name: wallet.example.org}
    path: /api/v1/health/detailed
    components: {path: checks, key: status, ok: [ok, healthy]}
    max_seconds: 0.5
    version: v1.0.0
    probes:
      - {name: live updates, websocket: /ws, ping: true}
      - {name: sessions, tcp: '192.0.2.21:6379'}

- name: Send the smoke requests, and keep the results
  sluice.deploy.health:
    urls: [https://wallet.example.org]
    smoke_tenant: true
    smoke_values: /etc/wallet-smoke.env
    smoke:
      - name: sign in
        method: POST
        path: /api/login
        body: {user: smoke, password: '{SMOKE_PASSWORD}'}
        effect: test-tenant
        extract: {token: session.token}
      - {name: own wallet, path: /api/wallet, headers: {Authorization: 'Bearer {token}'}, json: {currency: EUR}, effect: test-tenant}
      - {name: no stranger sees the admin pages, path: /admin, status: [401, 403]}
    junit: /var/tmp/wallet-smoke.xml
"""

RETURN = r"""
gates:
  description: The gate, with the number of answers asked for and seen.
  returned: success
  type: list
  elements: dict
seen:
  description: What each address said last, when the gate gave up.
  returned: failure
  type: dict
answers:
  description: The last answer of each address that is not healthy, with C(status), C(seconds), C(headers) and the head of the C(body), or C(error).
    Headers that carry credentials are left out.
  returned: failure
  type: dict
wrong:
  description: What is wrong with each smoke request that failed.
  returned: failure
  type: list
  elements: str
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import probes
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.core import smoke
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import HTTP, WEBSOCKET, Probe, Streak, probe_from, unhealthy
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import PASS, Gate
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words

ARGUMENTS: dict[str, dict[str, Any]] = {
    "urls": {"type": "list", "elements": "str", "default": []},
    "path": {"type": "str", "default": "/api/health"},
    "status": {"type": "list", "elements": "int", "default": [200]},
    "contains": {"type": "str", "default": ""},
    "json": {"type": "dict", "default": {}},
    "components": {"type": "dict"},
    "max_seconds": {"type": "float", "default": 0},
    "version": {"type": "str", "default": ""},
    "version_key": {"type": "str", "default": "version", "no_log": False},
    "headers": {"type": "dict", "default": {}},
    "tls": {"type": "dict"},
    "closed": {"type": "bool"},
    "probes": {"type": "list", "elements": "dict", "default": []},
    "smoke": {"type": "list", "elements": "dict", "default": []},
    "smoke_tenant": {"type": "bool", "default": False},
    "smoke_values": {"type": "path"},
    "junit": {"type": "path"},
    "deadline": {"type": "float", "default": 30},
    "passes": {"type": "int", "default": 3, "no_log": False},
    "interval": {"type": "float", "default": 0.2},
    "timeout": {"type": "float", "default": 5},
}
_TOLD = 5


def targets_of(params: Mapping[str, Any]) -> dict[str, tuple[str, Probe]]:
    """Return everything that is asked: the health probe of each URL, and the further probes."""
    given = {key: params[key] for key in ("path", "status", "contains", "json", "headers", "components", "max_seconds", "tls") if params[key]}
    main = replace(probe_from({"name": "health", **given}, "health"), closed=params["closed"]).expecting({params["version_key"]: params["version"]})
    targets = {url: (url, main) for url in params["urls"]}
    for number, data in enumerate(params["probes"]):
        probe = probe_from(data, f"probes[{number}]").within(main.headers, main.tls)
        for url in params["urls"] if probe.kind in (HTTP, WEBSOCKET) else [""]:
            name = f"{probe.name} {probe.place(url)}" if url and len(params["urls"]) > 1 else probe.name
            if name in targets:
                raise SluiceError(f"probes[{number}]: {name} is there twice.", "Give each probe a name of its own.")
            targets[name] = (url, probe)
    if not targets:
        raise SluiceError("There is nothing to ask: neither urls nor probes are given.", "Example: urls: [https://wallet.example.org]")
    return targets


def prove(params: Mapping[str, Any], keep: bool = True) -> list[Gate]:
    """Wait for the addresses, send the smoke requests, and return the gates; what is not as it should be is a SluiceError.

    :param keep: whether the results are written to the file that is named.
    """
    targets, values = targets_of(params), probes.read_values(params["smoke_values"])
    suite = smoke.steps_from(params["smoke"], values)
    if suite and not params["urls"]:
        raise SluiceError("There are smoke requests, but no address to send them to.", "Give urls.")
    main = next(iter(targets.values()))[1]
    suite = [replace(step, probe=step.probe.within(main.headers, main.tls)) for step in suite]
    cases: list[smoke.Case] = []
    try:
        streaks, why = probes.observe(targets, passes=params["passes"], deadline=params["deadline"], interval=params["interval"], timeout=params["timeout"])
        answered = {name: streak.answer.seconds if streak.answer else 0.0 for name, streak in streaks.items()}
        cases += [smoke.Case("health", name, answered[name], streak.wrong) for name, streak in streaks.items()]
        if why:
            raise unhealthy(why, targets, streaks)
        gates = [healthy_gate(params, streaks)]
        if suite:
            gates.append(smoke_gate(params, suite, values, cases))
    finally:
        if params["junit"] and keep and cases:
            write_atomic(params["junit"], smoke.junit(cases))
    return gates


def healthy_gate(params: Mapping[str, Any], streaks: Mapping[str, Streak]) -> Gate:
    asked, passes = sum(streak.asked for streak in streaks.values()), params["passes"]
    version = f" as {params['version']}" if params["version"] else ""
    found = {None: f"healthy{version}", True: "closed for maintenance", False: "open"}[params["closed"]]
    more = f" and {len(streaks) - _TOLD} more" if len(streaks) > _TOLD else ""
    said = f"{', '.join(list(streaks)[:_TOLD])}{more} {found}: {passes} good answers in a row, {asked} asked"
    return Gate("health" if params["closed"] is None else "maintenance", PASS, said, value=passes, limit=passes, sample=asked)


def smoke_gate(params: Mapping[str, Any], suite: list[smoke.Step], values: Mapping[str, str], cases: list[smoke.Case]) -> Gate:
    url = params["urls"][0]
    left_out = smoke.left_out(suite, smoke.PUBLIC, params["smoke_tenant"])
    sent = probes.smoke(url, suite, left_out, timeout=params["timeout"], values=values)
    cases += sent
    failure = smoke.failure(sent, url)
    if failure:
        raise failure
    count = len(suite) - len(left_out)
    return Gate("smoke", PASS, smoke.sentence(sent, url), value=count, limit=count)


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    with in_words(module):
        gates = prove(module.params, keep=not module.check_mode)
    module.exit_json(changed=False, actions=[], gates=[gate.as_dict() for gate in gates])


if __name__ == "__main__":
    main()
