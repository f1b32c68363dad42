#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

DOCUMENTATION = r"""
---
module: edge
short_description: Decide on an nginx which slot gets how much of an app's traffic
version_added: 0.1.0
description:
  - Renders the upstreams and maps of an app for nginx, and on request its whole site, and moves shares of the public traffic between its two slots.
  - With the switch V(buckets) a share is moved by one rename of a symbolic link. nginx is not reloaded, no connection is closed,
    and the change is proven by asking nginx on new connections before the module returns.
  - With the switch V(weights) every change of share renders one weighted upstream and reloads nginx.
  - Rendered files are tested inside the real configuration, exchanged by one rename, and nginx is reloaded. Only when every new connection
    has met the new files for 150 ms is that a success; on any failure the former files are back in place, and that is proven too.
  - With none of O(services), O(live), O(percent), O(salt), O(testers) and O(maintenance) the module only reads.
  - Without O(vhost), nginx must include two files, C(<directory>/<app>/config/http.conf) inside C(http {}) and
    C(<directory>/<app>/config/server.conf) inside the C(server {}) of the site. The second one brings the locations of the services
    and sets C(open_file_cache off). With O(vhost), the first line is enough.
options:
  app:
    description: Name of the app; up to 30 small letters, digits, C(-) and C(_), the first one a letter.
    type: str
    required: true
  directory:
    description: Folder that holds a folder for each app. The workers of nginx must be able to enter it.
    type: path
    default: /etc/nginx/sluice
  services:
    description:
      - The services the public reaches, with the hosts of both slots.
      - When left out, the rendered files are left alone. When given, all other options of the rendering are taken from this call too.
      - Needed where nothing is rendered yet.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the service.
        type: str
        required: true
      path:
        description: Beginning of the paths that go to it.
        type: path
        default: /
      health_path:
        description: Path every host of a slot must answer with 2xx before the slot gets more traffic. Empty to only connect.
        type: str
        default: ''
      blue:
        description: Hosts of the slot blue, each as C(host:port).
        type: list
        elements: str
        required: true
      green:
        description: Hosts of the slot green.
        type: list
        elements: str
        required: true
  live:
    description:
      - The live slot. Kept when left out; needed where nothing is rendered yet.
      - A slot that becomes live takes everything, unless O(percent) leaves a share to the one it replaces.
    type: str
    choices: [blue, green]
  percent:
    description:
      - Share of the idle slot in percent, from 0 to 100. Kept when left out, and 0 when O(live) changes or nothing is rendered yet.
      - Nobody who was in falls out when the share grows.
    type: int
  salt:
    description: Which visitors are first when the share grows, from 0 to 999. Kept when left out; give each release one of its own.
    type: int
  testers:
    description:
      - Whether testers are sent to the idle slot whatever the share is. Kept when left out, and false when O(live) changes.
      - A tester who asks for a slot by its name is sent there in any case.
    type: bool
  maintenance:
    description: Close (V(true)) or open (V(false)) the site. Kept when left out.
    type: bool
  switch:
    description: How a share is moved. V(buckets) needs no reload; V(weights) is one weighted upstream and a reload.
    type: str
    choices: [buckets, weights]
    default: buckets
  control:
    description: Loopback address on which nginx tells the generation it serves and where a bucket goes. Several apps can share it.
    type: str
    default: 127.0.0.1:8099
  log:
    description: Access log of the app, one JSON object a line. Default is C(/var/log/nginx/sluice_<app>.log). Testers have one beside it, C(.testers.log).
    type: path
  split_key:
    description:
      - What a request is told apart by. With V(visitor) it is a cookie that the edge sets, so a visitor stays where they are.
      - With V(request) each request is by itself, for APIs without sessions.
    type: str
    choices: [visitor, request]
    default: visitor
  cookie_secure:
    description: Give the visitor's cookie the attribute C(Secure). Turn it off only for a site without TLS.
    type: bool
    default: true
  hosts_out:
    description: Hosts, as C(host:port), that are left out of their slot. Each slot of each service keeps at least one.
    type: list
    elements: str
    default: []
  assets:
    description: Beginnings of the paths of hashed assets. What the slot of a request does not have (404) is looked for in the other one.
    type: list
    elements: str
    default: []
  tester_secret:
    description:
      - What a tester shows in the header C(Sluice-Tester) or the cookie C(sluice_<app>_tester), 16 to 32 letters, digits, C(-) and C(_).
      - By itself it means the slot that is tested; followed by C(/blue) or C(/green), that slot. The header never reaches the app.
    type: str
  tester_addresses:
    description: Addresses and networks whose visitors are testers without it.
    type: list
    elements: str
    default: []
  maintenance_mode:
    description:
      - Who is let through while the site is closed (C(addresses), C(paths)), what all others get (C(page), HTML of up to 3,500 bytes), and how many
        seconds they are told to wait (C(retry_after), default 300).
    type: dict
    default: {}
  vhost:
    description: The whole site, with names, certificate and what makes it secure. Empty when the operator's own site includes the files.
    type: dict
    default: {}
  include_file:
    description: With O(vhost), the file of nginx's configuration that includes it; made where it is missing, e.g. V(/etc/nginx/conf.d/sluice_wallet.conf).
    type: path
  probe:
    description: Ask a host by its service's C(health_path) before it gets more traffic (V(health)), or only whether it takes connections (V(connect)).
    type: str
    choices: [health, connect]
    default: health
  probe_timeout:
    description: Seconds a host has for its answer.
    type: float
    default: 5
  prepare:
    description: Do everything up to the switch and change nothing that serves. For several edges, so that none switches where one cannot.
    type: bool
    default: false
  nginx_command:
    description: How nginx is called, with the arguments that name its prefix and configuration.
    type: list
    elements: str
    default: [nginx]
  nginx_running:
    description:
      - With V(required), nginx has to run and to include the files, so that every change is proven.
      - With V(optional), files are also put in place for an nginx that does not run yet or does not include them yet; the result says so.
    type: str
    choices: [required, optional]
    default: required
  reload_timeout:
    description: Seconds nginx has for a test, and for a reload until only the new files are met.
    type: float
    default: 10
  reload_budget:
    description: So many workers of earlier reloads may still drain when nginx is reloaded. Over that it is waited, up to O(reload_timeout), then refused.
    type: int
    default: 8
  fence:
    description: Fencing number of the lease this run holds. Refused when a higher one was seen.
    type: int
  adopt:
    description: Go on although the rendered files were changed by hand. They are rendered anew, without that change.
    type: bool
    default: false
attributes:
  check_mode:
    description: Tells what would be changed and writes nothing.
    support: full
  diff_mode:
    description: Shows the files and the effective shares before and after.
    support: full
author: Contributors to the Sluice project (!UNKNOWN)
notes:
  - An C(add_header) of the included file stands at the level of C(server {}); nginx then drops headers added at the level of C(http {}) there.
    Put the site's own headers into C(server {}).
  - Where the rendered files were changed by hand, O(services) is refused, and with V(weights) a larger share too.
    Any other change of share goes on with a warning, because a rollback must not wait for that.
  - With V(buckets), where the folder C(traffic) is missing, the slot that was live at rendering serves everything.
"""

EXAMPLES = r"""
- name: Render the edge of the wallet, with blue live
  sluice.deploy.edge:
    app: wallet
    services:
      - {name: web, health_path: /api/health, blue: ["127.0.0.1:4101"], green: ["127.0.0.1:4102"]}
    live: blue

- name: Let testers in, and nobody else
  sluice.deploy.edge:
    app: wallet
    percent: 0
    testers: true

- name: Let 5 % of the traffic in
  sluice.deploy.edge:
    app: wallet
    percent: 5

- name: Promote green
  sluice.deploy.edge:
    app: wallet
    live: green
    percent: 0

- name: Look
  sluice.deploy.edge:
    app: wallet
  register: edge
"""

RETURN = r"""
actions:
  description: What was done, or would be done, one sentence each.
  type: list
  elements: str
  returned: always
  sample: ["share of green: 0 % -> 5 %; blue is live, no reload"]
gates:
  description: The hosts that were asked before their slot got more traffic.
  type: list
  elements: dict
  returned: always
before:
  description: The state found; null where nothing was rendered.
  type: dict
  returned: always
  contains: &state
    live:
      description: The live slot.
      type: str
    percent:
      description: Share of the idle slot.
      type: int
    salt:
      description: Which visitors are first.
      type: int
    testers:
      description: Whether testers are sent to the idle slot.
      type: bool
    generation:
      description: Number of the rendering.
      type: int
    shares:
      description: Share of each slot in percent.
      type: dict
      sample: {blue: 95, green: 5}
    switch:
      description: How a share is moved.
      type: str
    hosts_out:
      description: Hosts that are left out of their slot.
      type: list
    maintenance:
      description: Whether the site is closed.
      type: bool
after:
  description: The state left behind, or that would be left behind.
  type: dict
  returned: always
  contains: *state
serving:
  description: What nginx answered when the module began.
  type: dict
  returned: always
  contains:
    generation:
      description: The generation it serves; null when it does not answer.
      type: int
    agrees:
      description: Whether its answers are those of the state found; null when it does not answer.
      type: bool
draining:
  description: Workers of earlier reloads that are still there, and the connections that keep them.
  type: dict
  returned: when the module only reads
  sample: {workers: 1, connections: 4}
requests_per_second:
  description: Requests a second in the last five minutes; null where there is no log to tell it.
  returned: when the module only reads
  type: float
slots:
  description: The hosts of both slots, of all services.
  type: dict
  returned: where something is rendered
log:
  description: The access log of the app.
  type: str
  returned: where something is rendered
changed_at:
  description:
    - Time from which on the state was certain, in seconds since 1970; a request that came later has met it.
    - Without a change it is the time of the look.
  type: float
  returned: always
milliseconds:
  description: Time the module took for it all, from the first look to the proof.
  type: float
  returned: always
"""

import os
import time
from typing import Any, Optional

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import access_log, edge_folder, fence
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import locked, make_folder
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.nginx import Nginx, closed, silence, wrong_buckets
from ansible_collections.sluice.deploy.plugins.module_utils.core.edge_plan import Plan, Reading, Wanted, plan
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.render import hand_edit
from ansible_collections.sluice.deploy.plugins.module_utils.core.site import BUCKETS_SWITCH, Site, check_app, check_path, site_from
from ansible_collections.sluice.deploy.plugins.module_utils.core.traffic import State, telling_buckets
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import PASS, Gate
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words

RATE_WINDOW = 300.0  # seconds of the log from which the traffic is measured


def wanted_from(params: dict[str, Any], nginx: Nginx) -> Wanted:
    """Return what the parameters ask for."""
    site = None
    if params["services"] is not None:
        site = site_from({**params, "maintenance": params["maintenance_mode"], "nginx": nginx.version()})
    return Wanted(site, params["live"], params["percent"], params["salt"], params["testers"], params["maintenance"])


def shown(site: Site, state: Optional[State], generation: int, maintenance: bool) -> Optional[dict[str, Any]]:
    """Return a state for the result."""
    if state is None:
        return None
    return {
        "live": state.live,
        "percent": state.percent,
        "salt": state.salt,
        "testers": state.testers,
        "generation": generation,
        "shares": state.shares(),
        "switch": site.switch,
        "hosts_out": list(site.hosts_out),
        "maintenance": maintenance,
    }


def look(reading: Reading) -> dict[str, Any]:
    """Return what was found, for the result."""
    header, state = reading.header, reading.state
    if header is None:
        return {"before": None, "serving": {"generation": reading.served, "agrees": None}}
    agrees = None
    if state and reading.served is not None:
        agrees = reading.served == header.generation and not wrong_answers(header.site, state)
    return {
        "before": shown(header.site, state, header.generation, reading.maintenance),
        "serving": {"generation": reading.served, "agrees": agrees},
        "slots": header.site.slots(),
        "log": header.site.log_path,
    }


def wrong_answers(site: Site, state: State) -> tuple[str, ...]:
    """Return what nginx answers otherwise than the state says; weights have no buckets to ask for, their generation is the proof."""
    return wrong_buckets(site, state.live, telling_buckets(state)) if site.switch == BUCKETS_SWITCH else ()


def knock(todo: Plan, params: dict[str, Any]) -> list[dict[str, Any]]:
    """Ask every host whose slot is to get more traffic; the first one that does not answer ends the run."""
    for slot, host, path in todo.probes:
        reason = silence(host, path if params["probe"] == "health" else "", params["probe_timeout"])
        if reason:
            said = f"{slot} does not answer on {host} ({reason}). Nothing was changed."
            raise SluiceError(said, f"Start {slot} and see that it answers, or take the host out with edge_hosts_out; then run again.", slot=slot, host=host)
    hosts = [host for _dummy, host, _path in todo.probes]
    return [Gate("slot_answers", PASS, f"{', '.join(hosts)} answered.", sample=len(hosts)).as_dict()] if hosts else []


def move(todo: Plan, provable: bool) -> None:
    """Set the traffic link and prove it; it is put back when nginx answers something else."""
    former = edge_folder.set_traffic(todo.site, todo.state) if todo.relink else None
    wrong = wrong_answers(todo.site, todo.state) if provable else ()
    if wrong and todo.relink:
        edge_folder.put_traffic_back(todo.site, former)
    if wrong:
        kept = "The former share is back." if todo.relink else "Nothing was changed."
        said = f"nginx does not follow the traffic folder of {todo.site.app}: {'; '.join(wrong)}. {kept}"
        raise SluiceError(said, "Bring the edge up to date with edge.yml: the files are then rendered and proven again.", wrong=wrong)
    if todo.relink:
        edge_folder.keep(todo.site, former)


def close_or_open(todo: Plan, provable: bool) -> None:
    """Set or take away the flag of the maintenance mode and prove that nginx sees it."""
    if todo.flag is None:
        return
    edge_folder.set_maintenance(todo.site, todo.flag)
    if provable and closed(todo.site) is not todo.flag:
        edge_folder.set_maintenance(todo.site, not todo.flag)
        raise SluiceError(
            f"nginx does not look at the flag of the maintenance mode of {todo.site.app}. It is as it was.",
            "Bring the edge up to date with edge.yml: the files are then rendered and proven again.",
        )


def apply(todo: Plan, reading: Reading, nginx: Nginx, params: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Do what is planned; return the gates and what is left to do."""
    required = params["nginx_running"] == "required"
    if required and reading.served is None and (params["services"] is None or not todo.reload):
        raise SluiceError(
            f"nginx does not answer for {todo.site.app} on {todo.site.control}, so nothing can be proven. Nothing was changed.",
            "See that nginx runs and includes the two files, or bring the edge up to date with edge.yml to have it reloaded.",
        )
    gates = knock(todo, params) if required or reading.served is not None else []
    if params["prepare"]:
        if todo.relink:
            edge_folder.prepare_traffic(todo.site, todo.state)
        if todo.rendering:
            edge_folder.try_out(todo.site, todo.rendering, todo.generation, nginx)
        return gates, ""
    left = ""
    # Files that look at the traffic folder find it as it is to be: with weights nobody looked there.
    former = reading.header.site.switch if reading.header else todo.site.switch
    if todo.relink and todo.rendering and former != todo.site.switch:
        edge_folder.set_traffic(todo.site, todo.state)
    if todo.rendering:
        left = edge_folder.install(todo.site, todo.rendering, todo.generation, reading, nginx, required, params["include_file"] if todo.site.vhost else "")
    elif todo.reload:
        left = edge_folder.enforce(todo.site, todo.generation, reading, nginx, required)
    provable = not left and (required or todo.reload or reading.served is not None)
    move(todo, provable)
    close_or_open(todo, provable)
    return gates, left


def converge(params: dict[str, Any], dry: bool) -> tuple[dict[str, Any], list[str]]:
    """Bring the edge where it is wanted; return the result and the warnings."""
    started = time.monotonic()
    named = Site(check_app(params["app"]), check_path("directory", params["directory"]), control=params["control"])
    nginx = Nginx(params["nginx_command"], params["reload_timeout"], params["reload_budget"])
    wanted = wanted_from(params, nginx)

    def result(reading: Reading, todo: Optional[Plan], gates: list[dict[str, Any]], left: str) -> dict[str, Any]:
        maintenance = reading.maintenance if todo is None or todo.flag is None else todo.flag
        return {
            **seen,
            "changed": todo is not None and todo.changed and not params["prepare"],
            "gates": gates,
            "actions": [*(todo.actions if todo and not params["prepare"] else ()), *([left] if left else [])],
            "after": shown(todo.site, todo.state, todo.generation, maintenance) if todo else seen["before"],
            "diff": dict(todo.diff) if todo else {"before": "", "after": ""},
            "changed_at": time.time(),
            "milliseconds": round((time.monotonic() - started) * 1000, 3),
        }

    def planned(reading: Reading) -> Plan:
        return plan(reading, wanted, params["adopt"], params["nginx_running"] == "required")

    if wanted.nothing:
        reading = edge_folder.read(named)
        seen = {**look(reading), "draining": draining(nginx), "requests_per_second": traffic_of(reading)}
        return result(reading, None, [], ""), concerns(reading)
    if dry or not os.path.isdir(named.folder):
        reading = edge_folder.read(named)
        todo = planned(reading)
        if params["fence"] is not None:
            fence.check(named.folder, params["fence"])
        if dry:
            seen = look(reading)
            return result(reading, todo, [], ""), concerns(reading)
    make_folder(named.directory)
    make_folder(named.folder)
    with locked(f"{named.folder}/.lock"):
        if params["fence"] is not None:
            fence.claim(named.folder, params["fence"])
        reading = edge_folder.read(named)
        seen = look(reading)
        todo = planned(reading)
        edge_folder.clean(named.folder)
        gates, left = apply(todo, reading, nginx, params)
        return result(reading, todo, gates, left), concerns(reading) if wanted.site is None else []


def traffic_of(reading: Reading) -> Optional[float]:
    """Return how many requests a second the app had in the last minutes; None where there is no log to tell it."""
    header, now = reading.header, time.time()
    if header is None:
        return None
    try:
        return round(access_log.rate(header.site.log_path, now - RATE_WINDOW, now), 3)
    except SluiceError:
        return None


def draining(nginx: Nginx) -> dict[str, int]:
    """Return what still drains; nothing where nginx cannot be asked, which the look at what it serves tells better."""
    try:
        found = nginx.draining(nginx.test().pid)
    except SluiceError:
        return {"workers": 0, "connections": 0}
    return {"workers": found.workers, "connections": found.connections}


def concerns(reading: Reading) -> list[str]:
    """Return what an operator should know although it stops nothing."""
    header, said = reading.header, []
    if reading.rendering and hand_edit(reading.rendering):
        said.append("The generated files were changed by hand; edge.yml is going to refuse that.")
    if header and reading.served not in (None, header.generation):
        said.append(f"nginx serves generation {reading.served}, the files hold {header.generation}; edge.yml reloads it.")
    if header and header.site.switch == BUCKETS_SWITCH and not reading.link:
        said.append(f"The traffic folder is missing; {header.state.live}, live when generation {header.generation} was rendered, serves everything.")
    return said


def main() -> None:
    hosts = {"type": "list", "elements": "str", "required": True}
    service = {
        "name": {"type": "str", "required": True},
        "path": {"type": "path", "default": "/"},
        "health_path": {"type": "str", "default": ""},
        "blue": hosts,
        "green": hosts,
    }
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "directory": {"type": "path", "default": "/etc/nginx/sluice"},
            "services": {"type": "list", "elements": "dict", "options": service},
            "live": {"type": "str", "choices": ["blue", "green"]},
            "percent": {"type": "int"},
            "salt": {"type": "int"},
            "testers": {"type": "bool"},
            "maintenance": {"type": "bool"},
            "switch": {"type": "str", "choices": ["buckets", "weights"], "default": "buckets"},
            "control": {"type": "str", "default": "127.0.0.1:8099"},
            "log": {"type": "path"},
            "split_key": {"type": "str", "choices": ["visitor", "request"], "default": "visitor", "no_log": False},
            "cookie_secure": {"type": "bool", "default": True},
            "hosts_out": {"type": "list", "elements": "str", "default": []},
            "assets": {"type": "list", "elements": "str", "default": []},
            "tester_secret": {"type": "str", "no_log": True},
            "tester_addresses": {"type": "list", "elements": "str", "default": []},
            "maintenance_mode": {"type": "dict", "default": {}},
            "vhost": {"type": "dict", "default": {}},
            "include_file": {"type": "path"},
            "probe": {"type": "str", "choices": ["health", "connect"], "default": "health"},
            "probe_timeout": {"type": "float", "default": 5},
            "prepare": {"type": "bool", "default": False},
            "nginx_command": {"type": "list", "elements": "str", "default": ["nginx"]},
            "nginx_running": {"type": "str", "choices": ["required", "optional"], "default": "required"},
            "reload_timeout": {"type": "float", "default": 10},
            "reload_budget": {"type": "int", "default": 8},
            "fence": {"type": "int"},
            "adopt": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    with in_words(module):
        result, warnings = converge(module.params, module.check_mode)
    for warning in warnings:
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
