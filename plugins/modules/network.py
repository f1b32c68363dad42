#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every gate about an app as it is seen from outside, side by side."""

from __future__ import annotations

DOCUMENTATION = r"""
module: network
short_description: Judge an app as the network shows it
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - Asks names, TLS, redirects, headers, cookies, CORS, protected paths and rate limits from where it runs, all at once, and returns every verdict.
  - Runs on the control node, which is outside. Only O(certificate) is for an edge, where the file lies.
  - Reads only. It follows no redirect, sends no credentials, and only O(burst), which is off by default, sends more than a few requests.
requirements:
  - dnspython for O(dns), O(dns_ttl) and O(mail)
  - cryptography for the gates of TLS
attributes:
  check_mode:
    description: Only reads, so check mode is the same.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
options:
  url:
    description: Public address of the app, such as V(https://shop.example.org). The gates of pages, TLS and the redirect need it.
    type: str
  http_port:
    description: Port of plain HTTP, which must lead to HTTPS.
    type: int
    default: 80
  tls_hosts:
    description: Further hosts whose TLS and redirect are judged as those of O(url) are.
    type: list
    elements: str
    default: []
  connect_to:
    description: For C(host:port) the C(address:port) to connect to instead of what the domain name system says, to prove an edge before a switch.
    type: dict
    default: {}
  ca:
    description: File of the authorities that are trusted instead of the system's.
    type: path
    default: ''
  tls_min_days:
    description: Days a certificate must still be valid; fewer fail.
    type: int
    default: 14
  tls_warn_days:
    description: Days below which a renewal is due; fewer warn.
    type: int
    default: 30
  pages:
    description: Pages whose headers are judged, one of each kind that the app has.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Path and query.
        type: str
        required: true
      kind:
        description: What the page is. V(page) and V(asset) answer with 2xx, V(redirect) with 3xx, V(error) with 4xx.
        type: str
        choices: [page, error, redirect, asset]
        default: page
  headers:
    description: Headers that each page must have, rightly.
    type: list
    elements: str
    choices: [Strict-Transport-Security, Content-Security-Policy, X-Frame-Options, X-Content-Type-Options, Referrer-Policy]
    default: [Strict-Transport-Security, Content-Security-Policy, X-Frame-Options, X-Content-Type-Options, Referrer-Policy]
  hsts_seconds:
    description: Seconds that Strict-Transport-Security must have at least.
    type: int
    default: 300
  open_cookies:
    description: Names of cookies that scripts have to read, so that HttpOnly may be missing.
    type: list
    elements: str
    default: []
  protected:
    description: Paths that nobody may see without a session.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Path and query.
        type: str
        required: true
      statuses:
        description: Statuses that refuse.
        type: list
        elements: int
        default: [401, 403]
      login:
        description: Path that a page may lead to instead.
        type: str
        default: ''
  cors_paths:
    description: Paths that are asked from own and foreign origins.
    type: list
    elements: str
    default: []
  cors_origins:
    description: Origins that are let in, such as V(https://app.example.org).
    type: list
    elements: str
    default: []
  assets:
    description: Paths of assets that may be kept.
    type: list
    elements: str
    default: []
  assets_seconds:
    description: Seconds that max-age of an asset must have at least.
    type: int
    default: 86400
  assets_cdn:
    description: Whether the second request of an asset must come from a cache.
    type: bool
    default: false
  burst:
    description: A bounded burst that must meet a rate limit. It is sent after all other gates and ends with the first 429. It may alarm a firewall.
    type: dict
    suboptions:
      path:
        description: Path of the requests; choose one that costs little.
        type: str
        required: true
      requests:
        description: Requests at most, from 2 to 300.
        type: int
        default: 30
  dns:
    description: Records that must be there with exactly these values, on every resolver.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the record.
        type: str
        required: true
      type:
        description: Type of the record.
        type: str
        choices: [A, AAAA, CNAME, TXT, MX, NS]
        default: A
      values:
        description: All its values; of texts those that must be among them.
        type: list
        elements: str
        required: true
  dns_ttl:
    description: Seconds that the records of O(dns) may be kept, as the zone's own servers say; 0 for no such gate. For the days before a switch.
    type: int
    default: 0
  mail:
    description: Domains that mails come from.
    type: list
    elements: dict
    default: []
    suboptions:
      domain:
        description: What stands behind the @.
        type: str
        required: true
      spf:
        description: Names the SPF record must include.
        type: list
        elements: str
        default: []
      dkim:
        description: Selectors that must hold a key.
        type: list
        elements: str
        default: []
      dmarc:
        description: Policy that is strict enough.
        type: str
        choices: [none, quarantine, reject]
        default: quarantine
  resolvers:
    description: Servers that are asked, as C(address) or C(address:port); those of the system by default.
    type: list
    elements: str
    default: []
  certificate:
    description: Compares what an edge serves with the file it should serve. For a run on that edge.
    type: dict
    suboptions:
      host:
        description: Name that is asked for.
        type: str
        required: true
      path:
        description: The file that C(ssl_certificate) names; its first certificate counts.
        type: path
        required: true
      address:
        description: C(address:port) of the edge.
        type: str
        default: 127.0.0.1:443
  named_hosts:
    description: Where an address is written -> the address, of the inventory. Placeholders and names that only look like O(domains) are refused.
    type: dict
    default: {}
  domains:
    description: The app's domains, such as V(example.org).
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
- name: Judge the shop from outside
  sluice.deploy.network:
    url: https://shop.example.org
    pages: [{path: /}, {path: /no-such-page, kind: error}]
    protected: [{path: /admin, login: /login}]
    dns: [{name: shop.example.org, values: [192.0.2.10]}]
    mail: [{domain: example.org, spf: [sendgrid.net], dkim: [s1, s2]}]
  delegate_to: localhost
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
from ansible_collections.sluice.deploy.plugins.module_utils import outside
from ansible_collections.sluice.deploy.plugins.module_utils.core.dns_rules import DMARC
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.header_rules import HEADERS, KINDS
from ansible_collections.sluice.deploy.plugins.module_utils.core.net_rules import BURST_MOST
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words

_NAMES = {"type": "list", "elements": "str", "default": []}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str"},
            "http_port": {"type": "int", "default": 80},
            "tls_hosts": _NAMES,
            "connect_to": {"type": "dict", "default": {}},
            "ca": {"type": "path", "default": ""},
            "tls_min_days": {"type": "int", "default": 14},
            "tls_warn_days": {"type": "int", "default": 30},
            "pages": _entries(path={"type": "str", "required": True}, kind={"type": "str", "choices": list(KINDS), "default": "page"}),
            "headers": {"type": "list", "elements": "str", "choices": list(HEADERS), "default": list(HEADERS)},
            "hsts_seconds": {"type": "int", "default": 300},
            "open_cookies": _NAMES,
            "protected": _entries(
                path={"type": "str", "required": True},
                statuses={"type": "list", "elements": "int", "default": [401, 403]},
                login={"type": "str", "default": ""},
            ),
            "cors_paths": _NAMES,
            "cors_origins": _NAMES,
            "assets": _NAMES,
            "assets_seconds": {"type": "int", "default": 86400},
            "assets_cdn": {"type": "bool", "default": False},
            "burst": {"type": "dict", "options": {"path": {"type": "str", "required": True}, "requests": {"type": "int", "default": 30}}},
            "dns": _entries(
                name={"type": "str", "required": True},
                type={"type": "str", "choices": ["A", "AAAA", "CNAME", "TXT", "MX", "NS"], "default": "A"},
                values={"type": "list", "elements": "str", "required": True},
            ),
            "dns_ttl": {"type": "int", "default": 0},
            "mail": _entries(
                domain={"type": "str", "required": True}, spf=_NAMES, dkim=_NAMES, dmarc={"type": "str", "choices": list(DMARC), "default": "quarantine"}
            ),
            "resolvers": _NAMES,
            "certificate": {
                "type": "dict",
                "options": {
                    "host": {"type": "str", "required": True},
                    "path": {"type": "path", "required": True},
                    "address": {"type": "str", "default": "127.0.0.1:443"},
                },
            },
            "named_hosts": {"type": "dict", "default": {}},
            "domains": _NAMES,
            "hosts_allowed": _NAMES,
            "timeout": {"type": "float", "default": 5.0},
            "deadline": {"type": "float", "default": 30.0},
        },
        supports_check_mode=True,
    )
    params, began = module.params, time.monotonic()
    with in_words(module):
        _refuse(params)
        gates = outside.judge_all(params)
    module.exit_json(changed=False, actions=[], gates=[gate.as_dict() for gate in gates], seconds=round(time.monotonic() - began, 3))


def _entries(**options):
    return {"type": "list", "elements": "dict", "default": [], "options": options}


def _refuse(params):
    paths = [entry["path"] for name in ("pages", "protected") for entry in params[name]] + params["cors_paths"] + params["assets"]
    wrong = next((path for path in paths + ([params["burst"]["path"]] if params["burst"] else []) if not path.startswith("/")), None)
    if wrong is not None:
        raise SluiceError(f"{wrong!r} is no path.", "A path begins with /, such as /login.")
    if params["burst"] and not 2 <= params["burst"]["requests"] <= BURST_MOST:
        raise SluiceError(
            f"burst.requests is {params['burst']['requests']}; from 2 to {BURST_MOST} are allowed.", "Example: burst: {path: /login, requests: 30}"
        )
    origin = next((text for text in params["cors_origins"] if not text.startswith(("https://", "http://")) or text.count("/") != 2), None)
    if origin is not None:
        raise SluiceError(f"{origin!r} in cors_origins is no origin.", "An origin has a scheme and a host and nothing behind: https://app.example.org")
    if not params["url"] and any(params[name] for name in ("pages", "protected", "cors_paths", "assets", "burst", "tls_hosts")):
        raise SluiceError("url is missing.", "Example: https://shop.example.org")


if __name__ == "__main__":
    main()
