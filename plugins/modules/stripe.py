#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates of Stripe: keys that fit one another, an account that may take money, endpoints that are told of it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stripe
short_description: Judge Stripe's keys, account and webhook endpoints
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Reads the keys from the app's environment file by the names of their variables, and judges what their text tells. No value is shown.
  - With O(online) it asks Stripe's API, all questions at once and all of them reading. A key Stripe does not know (401) is a C(fail). What a
    restricted key may not read (403) is C(inconclusive) with the severity C(warn), and the permission is named. Too many requests, trouble at Stripe and no
    answer are asked again with growing pauses, as C(Retry-After) says, and are C(inconclusive) in the end.
  - A restricted key needs these permissions to read C(Balance), C(Accounts), C(Webhook endpoints), C(Events).
  - The rules are those of the catalogue's C15 to C17, with M-083 to M-087 and M-091. Which account a key or a price is of is read out of their text as it is
    observed to be; Stripe promises nothing of the kind, so a key that tells nothing is a warning.
attributes:
  check_mode:
    description: Only reads, so check mode is the same.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
options:
  env_file:
    description: File with the app's environment.
    type: path
    required: true
  mode:
    description: What this environment must use, V(live) where real money is taken.
    type: str
    required: true
    choices: [live, test]
  secret_var:
    description: Variable with the secret key, or with a restricted or organisation key.
    type: str
    default: STRIPE_SECRET_KEY
  publishable_vars:
    description: Variables with the publishable key. One of them must be set, and each that is set is judged. Empty for an app whose pages need none.
    type: list
    elements: str
    default: [STRIPE_PUBLISHABLE_KEY, NEXT_PUBLIC_STRIPE_PUBLISHABLE_KEY]
  client_id_var:
    description: Variable with the client id of Connect. Empty for an app without Connect.
    type: str
    default: ''
  account:
    description: Id of the account all of it must be of. Empty to only compare. An organisation key needs it.
    type: str
    default: ''
  public_url:
    description: Address of the app as the world sees it. It is needed for O(webhooks) and O(redirect_path).
    type: str
    default: ''
  webhooks:
    description:
      - Endpoints that must be there, each with C(path), C(secret_var) (V(STRIPE_WEBHOOK_SECRET) when it is left out), C(events) the app relies on, and
        C(api_version) where the app expects one.
    type: list
    elements: dict
    default: []
  redirect_path:
    description: Path that Connect sends people back to. Empty to not ask for it.
    type: str
    default: ''
  max_undelivered:
    description: Events whose delivery failed or still waits that are allowed. Those of the last five minutes do not count.
    type: int
    default: 0
  delivery_hours:
    description: Hours whose events are looked at.
    type: float
    default: 24
  online:
    description: Whether Stripe is asked.
    type: bool
    default: true
  api_base:
    description: Address of the API. It must be encrypted unless it is a loopback address.
    type: str
    default: https://api.stripe.com
  connect_base:
    description: Address of Connect.
    type: str
    default: https://connect.stripe.com
  deadline:
    description: Seconds for all questions together, the pauses between two tries included.
    type: float
    default: 10
  timeout:
    description: Seconds for one answer.
    type: float
    default: 4
"""

EXAMPLES = r"""
- name: Judge what is known of Stripe
  sluice.deploy.stripe:
    env_file: /etc/wallet/production.env
    mode: live
    public_url: https://wallet.example.org
    webhooks:
      - path: /api/business/wallet/webhook
        events: [payment_intent.succeeded, payment_intent.payment_failed, payment_method.attached, payment_method.detached]
    client_id_var: STRIPE_CONNECT_CLIENT_ID
    redirect_path: /api/business/stripe/callback
"""

RETURN = r"""
gates:
  description: Every gate with its verdict and a sentence; the severity C(warn) marks what is worth a look and does not stop.
  returned: always
  type: list
  elements: dict
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import stripe
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import read_text
from ansible_collections.sluice.deploy.plugins.module_utils.core import dotenv, stripe_account, stripe_keys, stripe_rules
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.gates import unknown
from ansible_collections.sluice.deploy.plugins.module_utils.core.secret import Secret
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words


def run(params: dict[str, Any]) -> list[Gate]:
    """Return the gates of the keys' text, and of Stripe's answers where it is asked."""
    endpoints = stripe_account.endpoints_from(params["webhooks"])
    if (endpoints or params["redirect_path"]) and not params["public_url"]:
        raise SluiceError("public_url is missing; webhooks and redirect_path are paths of it.", "Example: public_url: https://wallet.example.org")
    for name in ("secret_var", "client_id_var"):
        stripe_account.check_name(name, params[name])
    for name in params["publishable_vars"]:
        stripe_account.check_name("publishable_vars", name)
    for name in ("api_base", "connect_base"):
        stripe.check_base(params[name], name)
    text = read_text(params["env_file"])
    if text is None:
        raise SluiceError(f"{params['env_file']} is not there.", "Set app_env_file to the file with the app's variables, mode 0600.")
    values = dotenv.parse(text)
    names = stripe_rules.Names(
        params["secret_var"], tuple(params["publishable_vars"]), tuple(endpoint.secret_var for endpoint in endpoints), params["client_id_var"]
    )
    gates = stripe_rules.check(values, names, params["mode"], params["account"])
    return [*gates, *(ask(params, values, endpoints) if params["online"] else [])]


def ask(params: dict[str, Any], values: dict[str, str], endpoints: tuple[stripe_account.Endpoint, ...]) -> list[Gate]:
    wanted = stripe_account.Wanted(
        mode=params["mode"],
        secret_var=params["secret_var"],
        account=params["account"],
        public_url=params["public_url"],
        endpoints=endpoints,
        redirect=params["redirect_path"],
        max_undelivered=params["max_undelivered"],
    )
    text = values.get(params["secret_var"], "")
    key = stripe_rules.read_key(text)
    if not key or key.what not in (stripe_keys.SECRET, stripe_keys.RESTRICTED, stripe_keys.ORGANISATION):
        return [unknown("stripe key", f"Stripe was not asked: {params['secret_var']} holds no key for its API", f"Correct {params['secret_var']} first.")]
    context = params["account"] if key.what == stripe_keys.ORGANISATION else ""
    now, limits = int(time.time()), {"deadline": params["deadline"], "timeout": params["timeout"]}
    replies = stripe.ask(params["api_base"], stripe_account.questions(now, params["delivery_hours"]), Secret(text), context, **limits)
    client = values.get(params["client_id_var"], "")
    if client and params["redirect_path"]:
        question = {"redirect": stripe_account.redirect_question(client, wanted.url(wanted.redirect))}
        replies.update(stripe.ask(params["connect_base"], question, Secret(""), "", **limits))
    return stripe_account.judge(replies, wanted, now, key.account)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "env_file": {"type": "path", "required": True},
            "mode": {"type": "str", "required": True, "choices": [stripe_keys.LIVE, stripe_keys.TEST]},
            # Names of variables, no secrets.
            "secret_var": {"type": "str", "default": "STRIPE_SECRET_KEY", "no_log": False},
            "publishable_vars": {"type": "list", "elements": "str", "default": ["STRIPE_PUBLISHABLE_KEY", "NEXT_PUBLIC_STRIPE_PUBLISHABLE_KEY"]},
            "client_id_var": {"type": "str", "default": ""},
            "account": {"type": "str", "default": ""},
            "public_url": {"type": "str", "default": ""},
            "webhooks": {"type": "list", "elements": "dict", "default": []},
            "redirect_path": {"type": "str", "default": ""},
            "max_undelivered": {"type": "int", "default": 0},
            "delivery_hours": {"type": "float", "default": 24},
            "online": {"type": "bool", "default": True},
            "api_base": {"type": "str", "default": "https://api.stripe.com"},
            "connect_base": {"type": "str", "default": "https://connect.stripe.com"},
            "deadline": {"type": "float", "default": 10},
            "timeout": {"type": "float", "default": 4},
        },
        supports_check_mode=True,
    )
    with in_words(module):
        gates = run(module.params)
    module.exit_json(changed=False, actions=[], gates=[gate.as_dict() for gate in gates])


if __name__ == "__main__":
    main()
