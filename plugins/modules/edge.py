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
  - Renders the upstreams and maps of an app for nginx, and moves shares of the public traffic between its two slots.
  - A share is moved by one rename of a symbolic link. nginx is not reloaded, no connection is closed,
    and the change is proven by asking nginx on new connections before the module returns.
  - The rendered files change only when I(slots) is given and something in them differs. They are then tested inside the real
    configuration, exchanged by one rename, and nginx is reloaded. Only when every new connection has met the new files for 150 ms is that a success;
    on any failure the former files are back in place, and that is proven too.
  - With none of I(slots), I(live) and I(percent) the module only reads.
  - nginx must include two files, C(<directory>/<app>/config/http.conf) inside C(http {}) and
    C(<directory>/<app>/config/server.conf) inside the C(server {}) of the site. The second one brings C(location /) and sets C(open_file_cache off).
options:
  app:
    description: Name of the app; up to 30 small letters, digits, C(-) and C(_), the first one a letter.
    type: str
    required: true
  directory:
    description: Folder that holds a folder for each app. The workers of nginx must be able to enter it.
    type: path
    default: /etc/nginx/sluice
  slots:
    description:
      - The hosts of both slots, each as C(host:port).
      - When left out, the rendered files are left alone. When given, all other options of the rendering are taken from this call too.
      - Needed where nothing is rendered yet.
    type: dict
    suboptions:
      blue:
        description: Hosts of the slot blue.
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
      - A slot that becomes live takes everything, unless I(percent) leaves a share to the one it replaces.
    type: str
    choices: [blue, green]
  percent:
    description:
      - Share of the idle slot in percent, from 0 to 100. Kept when left out, and 0 when I(live) changes or nothing is rendered yet.
      - A share of p is the buckets 0 to p-1, so nobody who was in falls out when the share grows.
    type: int
  control:
    description: Loopback address on which nginx tells the generation it serves and where a bucket goes. Several apps can share it.
    type: str
    default: 127.0.0.1:8099
  log:
    description: Access log of the app, one JSON object a line. Default is C(/var/log/nginx/sluice_<app>.log).
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
  health_path:
    description:
      - Path every host of a slot must answer with 2xx before the slot gets more traffic than it has.
      - When left out, the hosts must take connections.
    type: str
  health_timeout:
    description: Seconds a host has for its answer.
    type: float
    default: 5
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
  - Where the rendered files were changed by hand, I(slots) is refused.
    A change of share alone goes on with a warning, because a rollback must not wait for that.
  - Where the folder C(traffic) is missing, the slot that was live at rendering serves everything.
"""

EXAMPLES = r"""
- name: Render the edge of the wallet, with blue live
  sluice.deploy.edge:
    app: wallet
    slots:
      blue: ["127.0.0.1:4101"]
      green: ["127.0.0.1:4102"]
    live: blue

- name: Let 5 % of the traffic in
  sluice.deploy.edge:
    app: wallet
    percent: 5
    health_path: /api/health

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
    generation:
      description: Number of the rendering.
      type: int
    shares:
      description: Share of each slot in percent.
      type: dict
      sample: {blue: 95, green: 5}
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
slots:
  description: The hosts of both slots.
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
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import fence, nginx
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import locked, make_folder
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.traffic import (
    Plan,
    Reading,
    Site,
    State,
    check_app,
    check_path,
    check_site,
    hand_edit,
    plan,
    telling_buckets,
)
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import PASS, Gate


def sites(params: dict[str, Any]) -> tuple[Site, Optional[Site]]:
    """Return the site by name only, to look it up, and the wanted one, None when its files are to be left alone."""
    named = Site(check_app(params["app"]), check_path("directory", params["directory"]), {}, params["control"])
    if params["slots"] is None:
        return named, None
    return named, check_site(
        Site(
            named.app,
            named.directory,
            params["slots"],
            named.control,
            params["log"] or "",
            params["split_key"],
            params["cookie_secure"],
        )
    )


def shown(state: Optional[State], generation: int) -> Optional[dict[str, Any]]:
    """Return a state for the result."""
    return {"live": state.live, "percent": state.percent, "generation": generation, "shares": state.shares()} if state else None


def look(reading: Reading) -> dict[str, Any]:
    """Return what was found, for the result."""
    header, state = reading.header, reading.state
    agrees = None
    if header and state and reading.served is not None:
        agrees = reading.served == header.generation and not nginx.wrong_buckets(header.site, state.live, telling_buckets(state))
    found = {"before": shown(state, header.generation if header else 0), "serving": {"generation": reading.served, "agrees": agrees}}
    return {**found, "slots": header.site.slots, "log": header.site.log_path} if header else found


def knock(todo: Plan, params: dict[str, Any]) -> list[dict[str, Any]]:
    """Ask every host whose slot is to get more traffic; the first one that does not answer ends the run."""
    for slot, host in todo.probes:
        reason = nginx.silence(host, params["health_path"] or "", params["health_timeout"])
        if reason:
            said = f"{slot} does not answer on {host} ({reason}). Nothing was changed."
            raise SluiceError(said, f"Start {slot} and see that it answers, then run again.", slot=slot, host=host)
    hosts = [host for _dummy, host in todo.probes]
    return [Gate("slot_answers", PASS, f"{', '.join(hosts)} answered.", sample=len(hosts)).as_dict()] if hosts else []


def move(todo: Plan, provable: bool) -> None:
    """Set the traffic link and prove it; it is put back when nginx answers something else."""
    former = nginx.set_traffic(todo.site, todo.state) if todo.relink else None
    wrong = nginx.wrong_buckets(todo.site, todo.state.live, telling_buckets(todo.state)) if provable else ()
    if wrong and todo.relink:
        nginx.put_traffic_back(todo.site, former)
    if wrong:
        kept = "The former share is back." if todo.relink else "Nothing was changed."
        said = f"nginx does not follow the traffic folder of {todo.site.app}: {'; '.join(wrong)}. {kept}"
        raise SluiceError(said, "Give slots to have the files rendered and proven again.", wrong=wrong)
    if todo.relink:
        nginx.keep(todo.site)


def apply(todo: Plan, reading: Reading, params: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
    """Do what is planned; return the gates and what is left to do."""
    required = params["nginx_running"] == "required"
    if required and not todo.reload and reading.served is None:
        raise SluiceError(
            f"nginx does not answer for {todo.site.app} on {todo.site.control}, so nothing can be proven. Nothing was changed.",
            "See that nginx runs and includes the two files, or give slots to have it reloaded.",
        )
    gates = knock(todo, params) if required or reading.served is not None else []
    left = ""
    command, timeout = params["nginx_command"], params["reload_timeout"]
    if todo.rendering:
        left = nginx.install(todo.site, todo.rendering, todo.generation, reading, command, timeout, required)
    elif todo.reload:
        left = nginx.enforce(todo.site, todo.generation, reading, command, timeout, required)
    move(todo, provable=not left and (required or todo.reload or reading.served is not None))
    return gates, left


def converge(params: dict[str, Any], dry: bool) -> tuple[dict[str, Any], list[str]]:
    """Bring the edge where it is wanted; return the result and the warnings."""
    started = time.monotonic()
    named, wanted = sites(params)

    def result(reading: Reading, todo: Optional[Plan], gates: list[dict[str, Any]], left: str, seen: dict[str, Any]) -> dict[str, Any]:
        changed = todo is not None and todo.changed
        return {
            **seen,
            "changed": changed,
            "gates": gates,
            "actions": [*(todo.actions if todo else ()), *([left] if left else [])],
            "after": shown(todo.state, todo.generation) if todo else seen["before"],
            "diff": dict(todo.diff) if todo else {"before": "", "after": ""},
            "changed_at": time.time(),
            "milliseconds": round((time.monotonic() - started) * 1000, 3),
        }

    def planned(reading: Reading) -> Plan:
        return plan(reading, wanted, params["live"], params["percent"], params["adopt"], params["nginx_running"] == "required")

    if wanted is None and params["live"] is None and params["percent"] is None:
        reading = nginx.read(named)
        return result(reading, None, [], "", look(reading)), concerns(reading)
    if dry or not os.path.isdir(named.folder):
        reading = nginx.read(named)
        todo = planned(reading)
        if params["fence"] is not None:
            fence.check(named.folder, params["fence"])
        if dry:
            return result(reading, todo, [], "", look(reading)), concerns(reading)
    make_folder(named.directory)
    make_folder(named.folder)
    with locked(f"{named.folder}/.lock"):
        if params["fence"] is not None:
            fence.claim(named.folder, params["fence"])
        reading = nginx.read(named)
        seen = look(reading)
        todo = planned(reading)
        nginx.clean(named.folder)
        gates, left = apply(todo, reading, params)
        return result(reading, todo, gates, left, seen), concerns(reading) if wanted is None else []


def concerns(reading: Reading) -> list[str]:
    """Return what an operator should know although it stops nothing."""
    header, said = reading.header, []
    if reading.rendering and hand_edit(reading.rendering):
        said.append("The generated files were changed by hand; the next call with slots is going to refuse that.")
    if header and reading.served not in (None, header.generation):
        said.append(f"nginx serves generation {reading.served}, the files hold {header.generation}; a call with slots reloads it.")
    if header and not reading.link:
        said.append(f"The traffic folder is missing; {header.live}, live when generation {header.generation} was rendered, serves everything.")
    return said


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "app": {"type": "str", "required": True},
            "directory": {"type": "path", "default": "/etc/nginx/sluice"},
            "slots": {
                "type": "dict",
                "options": {
                    "blue": {"type": "list", "elements": "str", "required": True},
                    "green": {"type": "list", "elements": "str", "required": True},
                },
            },
            "live": {"type": "str", "choices": ["blue", "green"]},
            "percent": {"type": "int"},
            "control": {"type": "str", "default": "127.0.0.1:8099"},
            "log": {"type": "path"},
            "split_key": {"type": "str", "choices": ["visitor", "request"], "default": "visitor", "no_log": False},
            "cookie_secure": {"type": "bool", "default": True},
            "health_path": {"type": "str"},
            "health_timeout": {"type": "float", "default": 5},
            "nginx_command": {"type": "list", "elements": "str", "default": ["nginx"]},
            "nginx_running": {"type": "str", "choices": ["required", "optional"], "default": "required"},
            "reload_timeout": {"type": "float", "default": 10},
            "fence": {"type": "int"},
            "adopt": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        result, warnings = converge(module.params, module.check_mode)
    except SluiceError as error:
        module.fail_json(msg=str(error), **error.details())
    except OSError as error:
        module.fail_json(msg=f"{error.filename or 'A file'} could not be used: {error.strerror or error}. Check owner, mode and free space.")
    for warning in warnings:
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
