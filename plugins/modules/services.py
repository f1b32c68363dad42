#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every gate about what an app leans on, side by side."""

from __future__ import annotations

DOCUMENTATION = r"""
module: services
short_description: Judge the servers and services that an app leans on
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Asks the database, the cache, the mail server and the services whose keys the app holds, with those keys, from the host the app runs on.
  - Credentials are read from O(env_file) by the names of their variables. They are sent to their own service only, and are never shown.
  - Reads only. No mail is sent; only C(sentry_event) of O(apis) writes, one event.
  - 401 is a wrong key and fails; 403 is a right that is missing and warns; 429, 5xx and silence cannot tell.
attributes:
  check_mode:
    description: Only reads, so check mode is the same.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
options:
  env_file:
    description: File with the app's environment, in dotenv form, mode 0600.
    type: path
    required: true
  client_directory:
    description: Folder of C(psql); found on PATH by default.
    type: path
  postgres:
    description: The database.
    type: dict
    suboptions:
      var:
        description: Variable with its URL.
        type: str
        default: DATABASE_URL
      extensions:
        description: Extensions that must be installed.
        type: list
        elements: str
        default: []
      pool_size:
        description: Connections of one process, its overflow included; 0 for no such gate.
        type: int
        default: 0
      processes:
        description: Processes of one slot on one host, of all services together.
        type: int
        default: 1
      hosts:
        description: App hosts.
        type: int
        default: 1
      reserved:
        description: Connections that others need, such as a migration, a backup and people.
        type: int
        default: 5
      role_may:
        description: What the app's role is meant to have beyond its tables.
        type: list
        elements: str
        choices: [superuser, bypassrls, createrole, replication]
        default: []
      schemas:
        description: Schemas whose row security is looked at.
        type: list
        elements: str
        default: [public]
      exposed:
        description: Whether a public API reaches these schemas, as with Supabase, so that each table must have row security.
        type: bool
        default: false
  redis:
    description: The cache.
    type: dict
    suboptions:
      var:
        description: Variable with its URL.
        type: str
        default: REDIS_URL
      ca:
        description: File of the authorities that are trusted instead of the system's.
        type: path
        default: ''
      hit_ratio:
        description: Share of hits among the look-ups of O(redis.window), from 0 to 1; 0 for no such gate.
        type: float
        default: 0.0
      window:
        description: Seconds between the two looks at the counters.
        type: float
        default: 5.0
      min_samples:
        description: Look-ups below which the share says nothing.
        type: int
        default: 100
  smtp:
    description: The mail server.
    type: dict
    suboptions:
      host_var:
        description: Variable with its name.
        type: str
        default: SMTP_HOST
      port_var:
        description: Variable with its port; 587, 465 or 25 when it is not set.
        type: str
        default: SMTP_PORT
      user_var:
        description: Variable with the user; no login when it is not set.
        type: str
        default: SMTP_USER
      password_var:
        description: Variable with the password.
        type: str
        default: SMTP_PASSWORD
      tls:
        description: How TLS begins.
        type: str
        choices: [starttls, implicit, none]
        default: starttls
      ca:
        description: File of the authorities that are trusted instead of the system's.
        type: path
        default: ''
  sentry_var:
    description: Variable with the DSN of Sentry, which is read and not used.
    type: str
  apis:
    description:
      - Services that are asked over HTTP. The names are C(sendgrid), C(resend), C(twilio), C(google), C(supabase_anon), C(supabase_service), C(sentry_event).
      - Each may have C(variables) (what the value is -> name of the variable), C(base) (another address, for a region or a test) and C(ca).
    type: dict
    default: {}
  domains:
    description: The app's domains. The addresses in O(env_file) are compared with them.
    type: list
    elements: str
    default: []
  hosts_own:
    description: Variables that may name hosts of O(domains) only.
    type: list
    elements: str
    default: []
  hosts_allowed:
    description: Foreign domains that are meant.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds for one answer.
    type: float
    default: 5.0
  deadline:
    description: Seconds for all gates together; one that is not done by then cannot tell.
    type: float
    default: 30.0
"""

EXAMPLES = r"""
- name: Judge what the shop leans on
  sluice.deploy.services:
    env_file: /etc/shop.env
    postgres: {extensions: [pgcrypto], pool_size: 10, processes: 4}
    redis: {hit_ratio: 0.5}
    smtp: {}
    sentry_var: SENTRY_DSN
    apis:
      sendgrid: {}
      google: {variables: {id: OAUTH_ID, secret: OAUTH_SECRET}}
    domains: [example.org]
    hosts_own: [API_URL, ALLOWED_ORIGINS]
"""

RETURN = r"""
gates:
  description: Every gate with its verdict and a sentence.
  returned: always
  type: list
  elements: dict
seconds:
  description: How long all gates took.
  returned: always
  type: float
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils import leaning
from ansible_collections.sluice.deploy.plugins.module_utils.core.api_rules import SERVICES
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.services_rules import TLS_KINDS
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words

_NAMES = {"type": "list", "elements": "str", "default": []}
_CA = {"type": "path", "default": ""}
_POSTGRES = {
    "var": {"type": "str", "default": "DATABASE_URL"},
    "extensions": _NAMES,
    "pool_size": {"type": "int", "default": 0},
    "processes": {"type": "int", "default": 1},
    "hosts": {"type": "int", "default": 1},
    "reserved": {"type": "int", "default": 5},
    "role_may": {"type": "list", "elements": "str", "choices": ["superuser", "bypassrls", "createrole", "replication"], "default": []},
    "schemas": {"type": "list", "elements": "str", "default": ["public"]},
    "exposed": {"type": "bool", "default": False},
}
_REDIS = {
    "var": {"type": "str", "default": "REDIS_URL"},
    "ca": _CA,
    "hit_ratio": {"type": "float", "default": 0.0},
    "window": {"type": "float", "default": 5.0},
    "min_samples": {"type": "int", "default": 100},
}
_SMTP = {
    "host_var": {"type": "str", "default": "SMTP_HOST"},
    "port_var": {"type": "str", "default": "SMTP_PORT"},
    "user_var": {"type": "str", "default": "SMTP_USER"},
    # The name of a variable is no secret.
    "password_var": {"type": "str", "default": "SMTP_PASSWORD", "no_log": False},
    "tls": {"type": "str", "choices": list(TLS_KINDS), "default": "starttls"},
    "ca": _CA,
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "env_file": {"type": "path", "required": True},
            "client_directory": {"type": "path"},
            "postgres": {"type": "dict", "options": _POSTGRES},
            "redis": {"type": "dict", "options": _REDIS},
            "smtp": {"type": "dict", "options": _SMTP},
            "sentry_var": {"type": "str"},
            "apis": {"type": "dict", "default": {}},
            "domains": _NAMES,
            "hosts_own": _NAMES,
            "hosts_allowed": _NAMES,
            "timeout": {"type": "float", "default": 5.0},
            "deadline": {"type": "float", "default": 30.0},
        },
        supports_check_mode=True,
    )
    params, began = module.params, time.monotonic()
    with in_words(module):
        gates = leaning.judge_all({**params, "apis": _apis(params["apis"])})
    module.exit_json(changed=False, actions=[], gates=[gate.as_dict() for gate in gates], seconds=round(time.monotonic() - began, 3))


def _apis(given):
    example = "Example: apis: {sendgrid: {}, google: {variables: {id: OAUTH_ID, secret: OAUTH_SECRET}}}"
    for name, wanted in given.items():
        if name not in SERVICES:
            raise SluiceError(f"apis knows no {name}; there are {', '.join(SERVICES)}.", example)
        if not isinstance(wanted or {}, dict) or not isinstance((wanted or {}).get("variables") or {}, dict):
            raise SluiceError(f"apis.{name} must be a mapping.", example)
        strange = sorted(set(wanted or {}) - {"variables", "base", "ca"})
        if strange:
            raise SluiceError(f"apis.{name} has the unknown key {strange[0]}; allowed are variables, base and ca.", example)
    return {name: {"variables": {}, "base": "", "ca": "", **(wanted or {})} for name, wanted in given.items()}


if __name__ == "__main__":
    main()
