#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof of the webhook: the app takes what Stripe signed, and nothing else."""

from __future__ import annotations

DOCUMENTATION = r"""
module: webhook
short_description: Prove that an app checks the signatures of its webhook
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Sends a signed event of a type no app knows to each of O(webhooks) at each of O(urls). It must be taken (2xx). The same event signed with another
    secret, signed ten minutes ago, changed after it was signed, and not signed at all must be refused (4xx).
  - The body is indented as Stripe's are, so an app that parses it and writes it anew before the check is found (catalogue M-083, M-087; S0-164, S3-203).
  - A redirect, a missing route, a rate limit, a sign-in, a site closed for maintenance and a slot that does not answer are named for what they are.
  - It proves that the app holds the secret of O(env_file). Whether Stripe holds the same one shows in the deliveries, see M(sluice.deploy.stripe).
  - The event has the id C(evt_sluice_probe_MARK_TIME) and the type C(sluice.probe). An app that keeps every event it gets keeps this one as well.
attributes:
  check_mode:
    description: The requests are sent in check mode too; an app that checks signatures does nothing on them.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
options:
  urls:
    description: Addresses that the requests are sent to, the public one or those of single edges or ports.
    type: list
    elements: str
    required: true
  webhooks:
    description:
      - Each with C(path) and C(secret_var), V(STRIPE_WEBHOOK_SECRET) when it is left out.
      - C(events) and C(api_version) are for M(sluice.deploy.stripe).
    type: list
    elements: dict
    required: true
  env_file:
    description: File with the app's environment, where the secrets stand.
    type: path
    required: true
  mode:
    description: Mode the event says it is of.
    type: str
    required: true
    choices: [live, test]
  tester_secret:
    description: What the edge's testers show, so that the requests go to O(slot) whatever the share is. Empty where O(urls) are the slot's own.
    type: str
    default: ''
  slot:
    description: Slot that is tested; needed with O(tester_secret).
    type: str
    choices: [blue, green]
  version:
    description: Version that O(health_path) must report on the same way, so that no other slot is tested by mistake. Empty to not ask.
    type: str
    default: ''
  version_key:
    description: Dotted path of the version in the health answer.
    type: str
    default: version
  health_path:
    description: Path of the health answer.
    type: str
    default: /api/health
  mark:
    description: Word in the event's id by which the app's log tells the probe, such as the release.
    type: str
    default: probe
  headers:
    description: Headers sent with each request, such as C(Host) when O(urls) are addresses of single machines.
    type: dict
    default: {}
  tls:
    description: How certificates are checked, as for M(sluice.deploy.health).
    type: dict
  deadline:
    description: Seconds for everything.
    type: float
    default: 20
  timeout:
    description: Seconds for one answer.
    type: float
    default: 5
"""

EXAMPLES = r"""
- name: Prove the webhook of the slot that is to come
  sluice.deploy.webhook:
    urls: [https://wallet.example.org]
    webhooks: [{path: /api/business/wallet/webhook, secret_var: STRIPE_WEBHOOK_SECRET}]
    env_file: /etc/wallet/production.env
    mode: live
    tester_secret: "{{ edge_tester_secret }}"
    slot: green
    version: v1.0.0
"""

RETURN = r"""
gates:
  description: One for each webhook at each address; its value is how many of the five requests were answered as they should be.
  returned: always
  type: list
  elements: dict
"""

import re
import time
from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import web
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import read_text
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.together import judged
from ansible_collections.sluice.deploy.plugins.module_utils.core import dotenv, webhook
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.gates import failed, unknown
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Answer, Probe, complaint, probe_from
from ansible_collections.sluice.deploy.plugins.module_utils.core.render import TESTER_HEADER
from ansible_collections.sluice.deploy.plugins.module_utils.core.stripe_account import Endpoint, endpoints_from
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words

_SPARE = 0.5


def run(params: dict[str, Any]) -> list[Gate]:
    """Return the gate of each webhook at each address."""
    endpoints = endpoints_from(params["webhooks"])
    if not re.fullmatch(r"[A-Za-z0-9.-]{1,64}", params["mark"]):
        raise SluiceError("mark must be up to 64 letters, digits, dots and dashes.", "Example: mark: v1.0.0")
    base = probe_from({"name": "webhook", "path": "/", "headers": params["headers"], **({"tls": params["tls"]} if params["tls"] else {})}, "webhook")
    if params["tester_secret"]:
        base = base.within({TESTER_HEADER: f"{params['tester_secret']}/{params['slot']}"}, None)
    for url in params["urls"]:
        web.check(url, base)
    values = dotenv.parse(read_text(params["env_file"]) or "")
    end = time.monotonic() + params["deadline"]
    jobs = {f"webhook {url.rstrip('/')}{each.path}": partial(prove, params, base, url, each, values, end) for url in params["urls"] for each in endpoints}
    return judged(jobs, end + _SPARE)


def prove(params: dict[str, Any], base: Probe, url: str, endpoint: Endpoint, values: dict[str, str], end: float) -> list[Gate]:
    """Send the requests to one webhook and return its gate."""
    name = f"webhook {url.rstrip('/')}{endpoint.path}"
    secret = values.get(endpoint.secret_var, "")
    if not secret:
        why = f"{endpoint.secret_var} is not set in {params['env_file']}, so nothing can be signed"
        return [failed(name, why, "Copy the signing secret of the endpoint from the dashboard into it.")]

    def send(attempt: webhook.Attempt) -> Answer:
        probe = Probe("webhook", method="POST", path=endpoint.path, headers={**attempt.headers, **base.headers}, body=attempt.body, tls=base.tls)
        return web.ask(url, probe, max(0.05, min(params["timeout"], end - time.monotonic())))

    wrong = _another(params, base, url)
    if wrong:
        return [unknown(name, wrong, "The edge must know the testers' secret (edge_tester_secret); run edge.yml, then this again.")]
    now = int(time.time())
    sent = webhook.event(params["mark"], params["mode"], now)
    answers = {attempt.name: send(attempt) for attempt in webhook.attempts(secret, sent, now)}
    if webhook.refused(answers[webhook.VALID]):
        answers.update({attempt.name: send(attempt) for attempt in webhook.diagnosis(secret, sent, now)})
    by = f"asked through the edge as a tester of {params['slot']}" if params["tester_secret"] else f"asked at {url}"
    return [webhook.judge(name, endpoint.secret_var, answers, by)]


def _another(params: dict[str, Any], base: Probe, url: str) -> str:
    """Return in words that something else than the wanted version answers there; empty when it does, or is not asked for."""
    if not params["version"]:
        return ""
    probe = Probe("health", path=params["health_path"], headers=base.headers, tls=base.tls, json={params["version_key"]: params["version"]})
    said = complaint(probe, web.ask(url, probe, params["timeout"]), bare=False)
    return f"it is not {params['version']} that answers at {params['health_path']}: {said}" if said else ""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "urls": {"type": "list", "elements": "str", "required": True},
            "webhooks": {"type": "list", "elements": "dict", "required": True},
            "env_file": {"type": "path", "required": True},
            "mode": {"type": "str", "required": True, "choices": ["live", "test"]},
            "tester_secret": {"type": "str", "default": "", "no_log": True},
            "slot": {"type": "str", "choices": ["blue", "green"]},
            "version": {"type": "str", "default": ""},
            "version_key": {"type": "str", "default": "version", "no_log": False},
            "health_path": {"type": "str", "default": "/api/health"},
            "mark": {"type": "str", "default": "probe"},
            "headers": {"type": "dict", "default": {}},
            "tls": {"type": "dict"},
            "deadline": {"type": "float", "default": 20},
            "timeout": {"type": "float", "default": 5},
        },
        supports_check_mode=True,
    )
    if module.params["tester_secret"] and not module.params["slot"]:
        module.fail_json(msg="slot is missing; with tester_secret it says which slot is tested.", remedy="Example: slot: green")
    with in_words(module):
        gates = run(module.params)
    module.exit_json(changed=False, actions=[], gates=[gate.as_dict() for gate in gates])


if __name__ == "__main__":
    main()
