#!/usr/bin/python
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One slot of an app on one host: build, start, prove, stop, remember."""

from __future__ import annotations

DOCUMENTATION = r"""
module: slot
short_description: Build, start, prove, stop and remember one slot of an app
version_added: 0.1.0
author: Contributors to the Sluice project (!UNKNOWN)
description:
  - One call does one whole safe step on an app host, whatever runs its processes there.
  - The slot's processes carry the app, the service and the slot in their name, run from an absolute release folder on the slot's own ports,
    and are deleted and started, never reloaded (a reload of a broken version takes every worker down and still exits 0).
  - What PM2 calls online proves nothing, so a start ends only when every service answered its health probe several times in a row with the right version
    (catalogue M-019, M-020, M-077).
extends_documentation_fragment:
  - sluice.deploy.runtime
attributes:
  check_mode:
    description: Reports what would be done and changes nothing.
    support: full
  diff_mode:
    description: Shows what each slot holds before and after.
    support: full
options:
  state:
    description:
      - V(read) tells what each slot holds.
      - V(prepared) fetches O(commit) of O(source) and builds it; nothing is started.
      - V(started) starts O(commit) in O(slot) and waits until it is healthy and passes O(smoke).
      - V(rehearsed) starts what O(slot) holds once more on the rehearsal ports against the database O(database), sends O(smoke), and stops it again;
        and then the same with O(version), when it is named and built.
      - V(owning) ends the workers of the other slot and starts those of O(slot), which have the queues and schedules from then on. When they do not work,
        those of the other slot are started again, and the call fails. Services without a worker are left alone.
      - V(alone) ends the other slot, whose record stays, and starts O(slot) with O(version), or with what it holds where no version is named. When that does
        not become healthy or fails O(smoke), the other slot is started again, and the call fails. Workers of both slots are ended; V(owning) starts them.
      - V(stopped) ends the slot's processes and forgets them.
      - V(saved) makes the running processes of O(slot) the ones that come back after a reboot, and prunes old release folders.
      - V(absent) is V(stopped), where O(slot) is given, and puts the release folder of O(commit) aside unless a slot holds it.
    type: str
    choices: [read, prepared, started, rehearsed, alone, owning, stopped, saved, absent]
    default: read
  app:
    description: Name of the app.
    type: str
    required: true
  directory:
    description: Folder of the app on this host; holds C(releases/), C(slots/) and C(logs/).
    type: path
    required: true
  slot:
    description: Which slot. Required for all but O(state=read), O(state=prepared) and O(state=absent).
    type: str
    choices: [blue, green]
  services:
    description: The app's services, each with C(name), C(entry), C(ports) (C(blue), C(green), C(rehearsal)), C(instances), C(mode) and C(health_path).
    type: list
    elements: dict
    required: true
  in_place:
    description: Whether only one slot runs at a time, so that both may have the same ports, and there need be none for a rehearsal.
    type: bool
    default: false
  version:
    description: Version as people call it, e.g. V(v1.0.0). The health probe must report it.
    type: str
  commit:
    description: Commit that is built and started, 40 hex digits.
    type: str
  release:
    description: Id of the release, given to the processes as E(SLUICE_RELEASE).
    type: str
    default: ''
  source:
    description: Git repository that O(commit) is fetched from. Not used with O(package).
    type: str
  source_kind:
    description: For the action plugin, what O(source) is; an archive or a folder lies on the control node.
    type: str
    choices: [git, archive, directory]
    default: git
  source_sha256:
    description: For the action plugin, the SHA-256 that an archive must have.
    type: str
    default: ''
  build_directory:
    description: For the action plugin, the folder on the control node where a folder of sources is packed.
    type: str
    default: ''
  package:
    description: Archive with the files of O(commit), in place of O(source). The action plugin hands it over where it is wanted.
    type: dict
    suboptions:
      path:
        description: Where it lies on this host; empty to only ask whether it is needed.
        type: str
        default: ''
      sha256:
        description: What its SHA-256 must be.
        type: str
        default: ''
      built:
        description: Whether it was built before it was packed, so that O(build) is not run.
        type: bool
        default: false
  build:
    description: Commands that build a fetched version, each a list of words, run in the release folder.
    type: list
    elements: list
    default: []
  build_env:
    description: Environment of the build. No secrets; they belong in O(env_file).
    type: dict
    default: {}
  env_file:
    description: File with the environment of the processes, in dotenv form.
    type: path
  env:
    description: The schema of O(env_file); its server-only variables are what O(bundle) must not hold.
    type: dict
    default: {}
  env_keys:
    description: Whether keys are V(live) or V(test) ones; a test key in a O(bundle) for live ones is a finding.
    type: str
    choices: ['', live, test]
    default: ''
  bundle:
    description: Folders of a built release that browsers load. They are looked through for server-only values.
    type: list
    elements: str
    default: []
  env_var:
    description: Variable of O(env_file) with the database URL.
    type: str
    default: DATABASE_URL
  database:
    description: Name of the database that O(state=rehearsed) runs against instead of the real one.
    type: str
  health:
    description:
      - What the health answer of each service must hold beside status and version, with C(status), C(contains), C(json), C(components), C(max_seconds)
        and C(headers), as in M(sluice.deploy.health).
    type: dict
    default: {}
  smoke:
    description:
      - Requests and what their answers must look like, as in M(sluice.deploy.health). Those with the effect C(write) are sent only by O(state=rehearsed),
        those with the effect C(test-tenant) there, and with O(smoke_tenant) everywhere. Commands are run in the release folder.
    type: list
    elements: dict
    default: []
  smoke_tenant:
    description: Whether the system has a tenant for tests.
    type: bool
    default: false
  smoke_values:
    description: File in dotenv form, mode 0600, with values that O(smoke) uses as C({NAME}). Empty for none.
    type: path
  version_key:
    description: Dotted path of the version in the health answer; empty to not assert it.
    type: str
    default: version
  deadline:
    description: Seconds within which all services must be healthy.
    type: float
    default: 60
  passes:
    description: Good answers in a row that make a service healthy.
    type: int
    default: 3
  good:
    description: Commits of promoted releases, the newest first; used by O(state=saved).
    type: list
    elements: str
    default: []
  keep:
    description: How many good releases stay beside those that a slot holds.
    type: int
    default: 3
  keep_failed:
    description: How many release folders of failed releases stay in C(releases/.failed/), for whoever looks for the cause.
    type: int
    default: 1
  drain_timeout:
    description:
      - Seconds that processes which are replaced or stopped have to finish what they serve. They are ended earlier when no connection is left;
        what is left at the end is cut, and counted in RV(actions).
    type: float
    default: 30
  fence:
    description: Fencing number of the lease. A number lower than one seen before is refused.
    type: int
"""

EXAMPLES = r"""
- name: Start the idle slot
  sluice.deploy.slot:
    state: started
    app: wallet
    directory: /srv/wallet
    slot: green
    version: v1.0.0
    commit: 0f3c1a2b4d5e6f708192a3b4c5d6e7f8091a2b3c
    env_file: /etc/wallet/production.env
    services:
      - {name: web, entry: server.js, instances: 2, ports: {blue: 3001, green: 3002, rehearsal: 3003}}
"""

RETURN = r"""
actions:
  description: What was done, in words.
  returned: always
  type: list
  elements: str
wanted:
  description: Whether the files must be handed over first, in O(package).
  returned: when they must
  type: bool
gates:
  description: Gates that were judged, each with name, verdict, sentence, value, limit.
  returned: always
  type: list
  elements: dict
slots:
  description: What each slot holds after the call, by slot, with C(version), C(commit), C(folder) and C(online) (processes that run).
  returned: O(state=read) and O(state=started), and any state in diff mode
  type: dict
milliseconds:
  description: Time the step took on the host.
  returned: always
  type: int
"""

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import archive, bundle, env_file, git, probes, release_dir, runtimes, sockets
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.fence import claim
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import locked, make_folder, read_text, sha256_of
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.package import OWN
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.runtimes import runtime_from
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.sockets import busy_on, served_on
from ansible_collections.sluice.deploy.plugins.module_utils.core import archives, dotenv, pgurl, slots, smoke
from ansible_collections.sluice.deploy.plugins.module_utils.core import bundle as bundle_rules
from ansible_collections.sluice.deploy.plugins.module_utils.core.env_compare import take
from ansible_collections.sluice.deploy.plugins.module_utils.core.env_schema import rules_from
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Probe, probe_from
from ansible_collections.sluice.deploy.plugins.module_utils.core.ledger import digest
from ansible_collections.sluice.deploy.plugins.module_utils.core.secret import scrub
from ansible_collections.sluice.deploy.plugins.module_utils.core.slots import Plan
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import PASS, WAIVED, Gate

_PORT_SECONDS = 5.0
# So long must a worker without a heartbeat run before it counts as working.
_SETTLE_SECONDS = 3.0


class Host:
    """What the states share: the app's shape, its folders and its runtime on this host."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.app: str = params["app"]
        self.directory: str = params["directory"]
        self.slot: str = params["slot"] or ""
        self.services = [slots.service_from(service, params["runtime"], params["in_place"]) for service in params["services"]]
        self.web = [service for service in self.services if service.kind == "web"]
        self.workers = [service for service in self.services if service.kind == "worker"]
        self.runtime = runtime_from(params, self.services)
        self.address = slots.address_from(params["listen"])
        sends = params["state"] in ("started", "rehearsed", "alone")
        self.values = probes.read_values(params["smoke_values"]) if sends else {}
        self.smoke = smoke.steps_from(params["smoke"], self.values if sends or not params["smoke_values"] else None)
        self.probes = {service.name: probe_from({"name": "health", **params["health"], "path": service.health_path}, "app_health") for service in self.web}
        self.actions: list[str] = []
        self.gates: list[Gate] = []
        # Whether the files of the release must be handed over first.
        self.wanted = False

    def held(self) -> dict[str, dict[str, Any]]:
        """Return what each slot holds and how many of its processes run."""
        return {
            slot: {
                **{key: value for key, value in release_dir.record(self.directory, slot).items() if key != "fingerprints"},
                "online": self.running(slot, self.web),
                "wanted": sum(service.instances for service in self.web),
                **({"workers": self.running(slot, self.workers)} if self.workers else {}),
            }
            for slot in slots.SLOTS
        }

    def running(self, slot: str, services: Sequence[slots.Service], again: bool = False) -> int:
        return sum(process.running for process in self.runtime.of(slot, services, again))

    def plan(self, slot: str, env: Mapping[str, str] | None = None) -> Plan:
        """Return what the parameters say is to run."""
        version, commit = self.params["version"], self.params["commit"]
        folder = slots.release_folder(self.directory, version, commit)
        role = "rehearsal" if slot == slots.REHEARSAL else "canary"
        return Plan(slot, version, commit, folder, env or {}, self.web, self.params["release"], self.runtime.image(folder), role, address=self.address)

    def url(self, slot: str, service: slots.Service) -> str:
        return f"http://{slots.reached_at(slots.LOOPBACK if slot == slots.REHEARSAL else self.address)}:{service.ports[slot]}"

    def claim(self) -> None:
        """Refuse to go on once a newer run was here."""
        if self.params["fence"] is not None:
            claim(self.directory, self.params["fence"])

    def remembered(self, slot: str, env: Mapping[str, str]) -> Plan:
        """Return what a slot was last started with."""
        held = release_dir.record(self.directory, slot)
        if not held:
            raise SluiceError(f"{slot} holds no version that could be started.", "Name one: version and commit.")
        image = held.get("image", "")
        return Plan(slot, held["version"], held["commit"], held["folder"], env, self.web, held.get("release", ""), image, address=self.address)

    def runs(self, plan: Plan, held: Mapping[str, Any]) -> bool:
        """Tell whether a slot runs a plan's version already, with every process, and answers."""
        named = (held.get("version"), held.get("commit"), held.get("folder"), held.get("image", ""))
        whole = self.running(plan.slot, self.web) == sum(service.instances for service in self.web)
        return named == (plan.version, plan.commit, plan.folder, plan.image) and whole and self.answers(plan.slot, plan.version)

    def replace_by(self, plan: Plan, smoked: bool) -> None:
        """Start a plan where nothing else runs, prove it, and remember it."""
        self.launch(plan)
        try:
            if smoked:
                self.send_smoke(plan.slot, smoke.SLOT, plan.folder)
        except SluiceError:
            self.runtime.stop(plan.slot, plan.services)
            raise
        prints = dict(take(plan.env, env_file.fingerprint_key(self.directory)).of)
        held = {"version": plan.version, "commit": plan.commit, "folder": plan.folder, "env": digest(dict(plan.env))[:16], "release": plan.release}
        release_dir.write_record(self.directory, plan.slot, {**held, **({"image": plan.image} if plan.image else {}), "fingerprints": prints})

    def again(self, slot: str, env: Mapping[str, str]) -> str:
        """Start the slot that was ended for another one, and say how that went."""
        plan = replace(self.remembered(slot, env), role="live")
        try:
            self.replace_by(plan, smoked=False)
        except SluiceError as error:
            return f"{plan.version} could not be started again in {slot} either, so nothing serves: {error.message}"
        self.actions.append(f"{plan.version} runs in {slot} again")
        return f"{plan.version} runs in {slot} again."

    def environment(self) -> dict[str, str]:
        path = self.params["env_file"]
        text = read_text(path)
        if text is None:
            raise SluiceError(f"The environment file {path} is not there.", "Set app_env_file to the file with the app's variables, mode 0600.")
        return dotenv.parse(text)

    def targets(self, slot: str, version: str) -> dict[str, tuple[str, Probe]]:
        asserted = {self.params["version_key"]: version}
        return {service.name: (self.url(slot, service), self.probes[service.name].expecting(asserted)) for service in self.web}

    def answers(self, slot: str, version: str) -> bool:
        """Tell whether each service of a slot answers as it should, now."""
        targets = self.targets(slot, version)
        return not probes.observe(targets, passes=1, deadline=2.0, interval=0.1, timeout=2.0)[1]

    def drain(self, slot: str) -> None:
        """Wait until nothing is connected to the slot's ports; nginx itself keeps an idle connection for some seconds."""
        ports, began = {service.ports[slot] for service in self.web}, time.monotonic()
        at_first = left = served_on(ports)
        while left and time.monotonic() - began < self.params["drain_timeout"]:
            time.sleep(0.1)
            left = served_on(ports)
        if left:
            self.actions.append(f"{slot} was ended after {self.params['drain_timeout']:g} s; {left} of {at_first} connections were cut")
        elif at_first:
            self.actions.append(f"{slot} drained {at_first} connections in {time.monotonic() - began:.1f} s")

    def settle(self, slot: str) -> None:
        """Wait until the slot owes nobody an answer; the site is closed, so nothing new comes but probes."""
        ports, began = {service.ports[slot] for service in self.web}, time.monotonic()
        at_first = left = busy_on(ports)
        while left and time.monotonic() - began < self.params["drain_timeout"]:
            time.sleep(0.05)
            left = busy_on(ports)
        if left:
            self.actions.append(f"{slot} was ended after {self.params['drain_timeout']:g} s; {left} of {at_first} requests were cut")

    def launch(self, plan: Plan) -> None:
        """Start the services of a slot afresh and wait until they are healthy; end them again when they are not."""
        slot, runtime = plan.slot, self.runtime
        if self.running(slot, plan.services):
            self.drain(slot)
        runtime.stop(slot, plan.services)
        self.free(slot)
        wanted = sum(service.instances for service in plan.services)
        try:
            runtime.start(plan)
            probes.wait_healthy(
                self.targets(slot, plan.version),
                passes=self.params["passes"],
                deadline=self.params["deadline"],
                interval=0.1,
                timeout=2.0,
                given_up=lambda: runtime.probe(slot, plan.services),
            )
            online = self.running(slot, plan.services, again=True)
            restarts = sum(process.restarts for process in runtime.of(slot, plan.services))
            if online != wanted or restarts:
                raise SluiceError(f"{online} of {wanted} processes of {slot} are online, after {restarts} restarts.")
        except SluiceError as error:
            exits = sorted({process.exit_code for process in runtime.of(slot, plan.services, again=True) if process.exit_code})
            said = scrub(runtime.logs(slot), plan.env.values()).strip()
            listening = sockets.listening()
            silent = [str(service.ports[slot]) for service in plan.services if service.ports[slot] not in listening]
            runtime.stop(slot, plan.services)
            code = f" Exit code {exits[0]}." if exits else ""
            deaf = f" Nothing listens on port {', '.join(silent)}." if silent else ""
            heard = f" It last said:\n{said}" if said else " It said nothing on stderr."
            raise SluiceError(
                f"{plan.version} did not become healthy in {slot}: {error.message}{deaf}{code}{heard}",
                "Nothing was switched; the processes were ended.",
                log=said,
                exit_codes=exits,
                listening=sorted(listening),
                answers=error.facts.get("answers", {}),
            ) from error

    def employ(self, slot: str, held: Mapping[str, Any]) -> None:
        """Start a slot's workers and see that they work: each runs without a restart, and touches its heartbeat when it has one."""
        folder = os.path.join(self.directory, "heartbeats")
        make_folder(folder)
        if self.params["user"]:
            shutil.chown(folder, self.params["user"])
        plan = Plan(
            slot,
            held["version"],
            held["commit"],
            held["folder"],
            self.environment(),
            self.workers,
            held["release"],
            held.get("image", ""),
            "live",
            folder,
            self.address,
        )
        beats = {service.name: (plan.heartbeat(service), service.heartbeat) for service in self.workers if service.heartbeat}
        for path, _seconds in beats.values():
            if os.path.exists(path):
                os.unlink(path)
        self.runtime.stop(slot, self.workers)
        self.runtime.start(plan)
        began, wanted = time.monotonic(), sum(service.instances for service in self.workers)
        limit = max((seconds for _path, seconds in beats.values()), default=_SETTLE_SECONDS)
        while True:
            waited = time.monotonic() - began
            running = self.running(slot, self.workers, again=True)
            silent = sorted(name for name, (path, _seconds) in beats.items() if not os.path.exists(path))
            dead = self.runtime.probe(slot, self.workers)
            if not dead and running == wanted and not silent and (beats or waited >= _SETTLE_SECONDS):
                break
            if dead or waited > limit:
                said = scrub(self.runtime.logs(slot), plan.env.values()).strip()
                why = dead or (f"{', '.join(silent)} did not touch its heartbeat within {limit:g} s" if silent else f"{running} of {wanted} processes run")
                heard = f" It last said:\n{said}" if said else ""
                raise SluiceError(f"The workers of {plan.version} do not work in {slot}: {why}.{heard}", "Mend the worker and release again.", log=said)
            time.sleep(0.2)
        self.gates.append(Gate("workers", PASS, f"{wanted} workers of {plan.version} took the jobs in {slot}, after {time.monotonic() - began:.1f} s"))

    def back_to(self, slot: str, held: Mapping[str, Any]) -> str:
        """Start the workers that had the jobs before, and say how that went."""
        try:
            self.employ(slot, held)
        except SluiceError as error:
            return f"Those of {slot} do not work any more either, so nobody has the jobs: {error.message}"
        return f"The workers of {slot} have the jobs again."

    def free(self, slot: str) -> None:
        """See that nobody else holds the slot's ports: a probe would take a stranger's answer for the app's (M-020)."""
        ports, began = {service.ports[slot] for service in self.web}, time.monotonic()
        while ports & sockets.listening():
            if time.monotonic() - began > _PORT_SECONDS:
                taken = ", ".join(map(str, sorted(ports & sockets.listening())))
                raise SluiceError(
                    f"Port {taken} of {slot} is held by a process that is not the app's.",
                    f"See whose it is (`ss -ltnp`) and end it, or give {slot} another port in app_services.",
                )
            time.sleep(0.05)

    def send_smoke(self, slot: str, place: str, folder: str) -> None:
        base = self.url(slot, self.web[0])
        left_out = smoke.left_out(self.smoke, place, self.params["smoke_tenant"])
        cases = probes.smoke(base, self.smoke, left_out, timeout=5.0, values=self.values, cwd=folder)
        failure = smoke.failure(cases, base)
        if failure:
            raise failure
        count = len(cases) - len(left_out)
        self.gates.append(Gate("smoke", PASS, smoke.sentence(cases, slot), value=count, limit=count))

    def look_through(self, folder: str, check: bool) -> None:
        """Judge what browsers load of a built release."""
        folders = self.params["bundle"]
        if not folders or check:
            return
        values = self.environment()
        looked_for = bundle_rules.needles({rule.name: values.get(rule.name, "") for rule in rules_from(self.params["env"]) if rule.server_only})
        found = bundle.scan(folder, folders, looked_for, bundle_rules.patterns(self.params["env_keys"]))
        self.gates.append(bundle_rules.judge(found, folders, len(looked_for)))


def prepared(host: Host, check: bool) -> bool:
    params = host.params
    folder = slots.release_folder(host.directory, params["version"], params["commit"])
    if release_dir.is_built(folder):
        host.actions.append(f"{folder} is built already")
        host.look_through(folder, check=False)
        done = host.runtime.prepare(host.plan(""), check)
        host.actions += done
        return bool(done)
    package = params["package"]
    if package and not package["path"] and not check:
        host.wanted = True
        return False
    built = bool(package and package["built"])
    if not check:
        env = release_dir.build_environment(params["build_env"], params["path"], host.directory)
        commands = [] if built else params["build"]
        host.actions += release_dir.build(folder, params["version"], params["commit"], lambda partial: fetch(host, partial), commands, env)
    host.actions.append(f"{'unpacked' if built else 'built'} {params['version']} ({params['commit'][:12]}) in {folder}")
    host.look_through(folder, check)
    host.actions += host.runtime.prepare(host.plan(""), check)
    return True


def fetch(host: Host, folder: str) -> None:
    """Put the files of the release into a folder, from git or from what was handed over."""
    params, package = host.params, host.params["package"]
    if not package:
        git.unpack(params["source"], params["commit"], os.path.join(host.directory, "repository.git"), folder)
        return
    if sha256_of(package["path"]) != package["sha256"]:
        raise SluiceError(f"The files of {params['version']} did not arrive whole.", "Run it again.")
    archive.unpack(package["path"], folder, packed_here=package["built"], skip=OWN)


def started(host: Host, check: bool) -> bool:
    params = host.params
    folder = slots.release_folder(host.directory, params["version"], params["commit"])
    env = host.environment()
    image = host.runtime.image(folder)
    wanted = {"version": params["version"], "commit": params["commit"], "folder": folder, "env": digest(env)[:16], **({"image": image} if image else {})}
    before = host.held()[host.slot]
    same = {key: before.get(key) for key in wanted} == wanted and before["online"] == before["wanted"]
    if same and host.answers(host.slot, params["version"]):
        host.actions.append(f"{host.slot} runs {params['version']} already and is healthy")
        host.gates.append(Gate("health", PASS, f"{params['version']} was healthy in {host.slot} already"))
        return False
    host.actions.append(f"started {params['version']} in {host.slot}")
    if check:
        return True
    if not release_dir.is_built(folder):
        raise SluiceError(f"{folder} is not built.", "Run the slot's prepared state first.")
    begun = time.monotonic()
    host.launch(host.plan(host.slot, env))
    count = sum(service.instances for service in host.web)
    host.gates.append(
        Gate(
            "health",
            PASS,
            f"{params['version']} healthy in {host.slot}: {count} processes, {params['passes']} good answers in a row, after {time.monotonic() - begun:.1f} s",
        )
    )
    try:
        host.send_smoke(host.slot, smoke.SLOT, folder)
    except SluiceError:
        host.runtime.stop(host.slot, host.web)
        raise
    prints = dict(take(env, env_file.fingerprint_key(host.directory)).of)
    release_dir.write_record(host.directory, host.slot, {**wanted, "release": params["release"], "fingerprints": prints})
    return True


def rehearsed(host: Host, check: bool) -> bool:
    live = release_dir.record(host.directory, host.slot)
    if not live:
        raise SluiceError(f"{host.slot} holds no version that could be rehearsed.", "Start the live version with the collection once.")
    if check:
        return False
    before = "A rollback would break it, so nothing real was migrated. Split the migration: add first, remove in a later release."
    env = host.environment()
    env[host.params["env_var"]] = pgurl.with_database(env[host.params["env_var"]], host.params["database"])
    single = [replace(service, instances=1) for service in host.web]
    if any(slots.REHEARSAL not in service.ports for service in single):
        said = "there is no port for the rehearsal, so neither version was started on the migrated copy; nothing proves that the live one works on it"
        host.gates.append(Gate("compatibility", WAIVED, said))
        return False
    new = replace(host.plan(slots.REHEARSAL, env), services=single) if host.params["version"] and host.params["commit"] else None
    old = Plan(slots.REHEARSAL, live["version"], live["commit"], live["folder"], env, single, host.params["release"], live.get("image", ""), "rehearsal")
    host.gates.append(rehearse(host, "compatibility", f"The live version {old.version}", old, before))
    if new and new.folder != old.folder and release_dir.is_built(new.folder):
        host.gates.append(rehearse(host, "new version", f"The new version {new.version}", new, "Nothing real was migrated. Correct version or migration."))
    return False


def rehearse(host: Host, gate: str, what: str, plan: Plan, remedy: str) -> Gate:
    """Start a version against the migrated copy, one process a service, send it everything, and end it."""
    try:
        host.launch(plan)
        host.send_smoke(plan.slot, smoke.COPY, plan.folder)
    except SluiceError as error:
        raise SluiceError(f"{what} does not work on the migrated copy: {error.message}", remedy, **error.facts) from error
    finally:
        host.runtime.stop(plan.slot, plan.services)
    sent = host.gates.pop().value
    return Gate(gate, PASS, f"{plan.version} works on the migrated copy: healthy, {sent} smoke requests good, writes included")


def alone(host: Host, check: bool) -> bool:
    """Put one slot in the other's place; the other is started again when that fails."""
    if check:
        return exchanged(host, check)
    # The module of a run that was killed may still be at it: it comes to its end first, and goes back to nothing.
    make_folder(host.directory)
    with locked(os.path.join(host.directory, ".exchange.lock"), host.params["deadline"] + host.params["drain_timeout"]):
        host.claim()
        return exchanged(host, check)


def exchanged(host: Host, check: bool) -> bool:
    slot, there = host.slot, slots.other(host.slot)
    held = {name: release_dir.record(host.directory, name) for name in slots.SLOTS}
    env = host.environment()
    plan = host.plan(slot, env) if host.params["version"] else host.remembered(slot, env)
    plan = replace(plan, role="live")
    known = host.runtime.of(there, host.services)
    rests = not any(process.running for process in known)
    if not known and host.runs(plan, held[slot]):
        host.actions.append(f"{slot} runs {plan.version} already, alone, and is healthy")
        return False
    host.actions.append(f"{plan.version} runs in {slot} now" + ("" if rests else f", in place of {held[there].get('version', 'nothing')} in {there}"))
    if check:
        return True
    if not release_dir.is_built(plan.folder):
        raise SluiceError(f"{plan.folder} is not built. Nothing was stopped.", "Run the slot's prepared state first.")
    begun = time.monotonic()
    if not rests:
        host.settle(there)
    if known:
        host.runtime.stop(there, host.services)
    if host.workers:
        host.runtime.stop(slot, host.workers)
    ended = time.monotonic()
    try:
        host.replace_by(plan, smoked=bool(host.params["version"]))
    except SluiceError as error:
        if rests or not held[there]:
            raise
        host.claim()
        raise SluiceError(f"{error.message} {host.again(there, env)}", "Correct the version and release again.", **error.facts) from error
    count, took = sum(service.instances for service in host.web), time.monotonic() - ended
    stop = "" if rests else f"; {there} ended in {ended - begun:.1f} s"
    host.gates.append(Gate("health", PASS, f"{plan.version} healthy in {slot}: {count} processes, started in {took:.1f} s{stop}"))
    return True


def stopped(host: Host, check: bool) -> bool:
    processes = host.runtime.of(host.slot, host.services)
    known = bool(release_dir.record(host.directory, host.slot))
    if not check:
        if any(process.running for process in processes):
            host.drain(host.slot)
        host.runtime.stop(host.slot, host.services)
        release_dir.forget(host.directory, host.slot)
    if processes or known:
        host.actions.append(f"stopped {host.slot}")
    return bool(processes or known)


def owning(host: Host, check: bool) -> bool:
    """Let one slot's workers take the jobs: never both slots', and the other's again when these do not work."""
    held = {slot: release_dir.record(host.directory, slot) for slot in slots.SLOTS}
    if not host.workers:
        return False
    # In check mode nothing was started, which a real run would have done before.
    if not held[host.slot] and not check:
        raise SluiceError(f"{host.slot} holds no version whose workers could take the jobs.", "Start the slot first.")
    there = slots.other(host.slot)
    wanted = sum(service.instances for service in host.workers)
    idle = not host.running(there, host.workers)
    if idle and host.running(host.slot, host.workers) == wanted:
        host.actions.append(f"the workers of {host.slot} have the jobs already")
        return False
    host.actions.append(f"the workers of {host.slot} have the jobs now")
    if check:
        return True
    host.runtime.stop(there, host.workers)
    try:
        host.employ(host.slot, held[host.slot])
    except SluiceError as error:
        host.runtime.stop(host.slot, host.workers)
        if idle or not held[there]:
            raise
        raise SluiceError(f"{error.message} {host.back_to(there, held[there])}", error.remedy, **error.facts) from error
    return True


def absent(host: Host, check: bool) -> bool:
    changed = stopped(host, check) if host.slot else False
    folder = slots.release_folder(host.directory, host.params["version"], host.params["commit"])
    if release_dir.is_built(folder) and folder not in {release_dir.record(host.directory, slot).get("folder") for slot in slots.SLOTS}:
        keep = host.params["keep_failed"]
        if not check:
            host.runtime.remove(folder)
            release_dir.quarantine(folder, keep)
        host.actions.append(f"put {folder} aside, beside at most {keep - 1} failed ones" if keep else f"removed {folder}")
        return True
    return changed


def saved(host: Host, check: bool) -> bool:
    held = {slot: release_dir.record(host.directory, slot).get("folder", "") for slot in slots.SLOTS}
    folders = release_dir.folders(host.directory)
    good = [folder for commit in host.params["good"] for folder in folders if folder.endswith(f"-{commit[:12]}")]
    old = slots.prunable(folders, good, list(held.values()), host.params["keep"])
    save = not host.runtime.kept(host.slot)
    if not check:
        for folder in old:
            host.runtime.remove(folder)
            release_dir.remove(folder)
        if save:
            host.runtime.keep(host.slot)
    host.actions += [f"removed {folder}" for folder in old] + ([f"{host.slot} comes back after a reboot"] if save else [])
    return bool(old or save)


STATES = {
    "prepared": prepared,
    "started": started,
    "rehearsed": rehearsed,
    "alone": alone,
    "owning": owning,
    "stopped": stopped,
    "absent": absent,
    "saved": saved,
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["read", *STATES], "default": "read"},
            "app": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "slot": {"type": "str", "choices": list(slots.SLOTS)},
            "services": {"type": "list", "elements": "dict", "required": True},
            "in_place": {"type": "bool", "default": False},
            "version": {"type": "str"},
            "commit": {"type": "str"},
            "release": {"type": "str", "default": ""},
            "source": {"type": "str"},
            "source_kind": {"type": "str", "choices": list(archives.KINDS), "default": "git"},
            "source_sha256": {"type": "str", "default": ""},
            "build_directory": {"type": "str", "default": ""},
            "package": {
                "type": "dict",
                "options": {"path": {"type": "str", "default": ""}, "sha256": {"type": "str", "default": ""}, "built": {"type": "bool", "default": False}},
            },
            "build": {"type": "list", "elements": "list", "default": []},
            "build_env": {"type": "dict", "default": {}},
            "env_file": {"type": "path"},
            "env": {"type": "dict", "default": {}},
            "env_keys": {"type": "str", "choices": ["", "live", "test"], "default": ""},
            "bundle": {"type": "list", "elements": "str", "default": []},
            "env_var": {"type": "str", "default": "DATABASE_URL"},
            "database": {"type": "str"},
            "health": {"type": "dict", "default": {}},
            "smoke": {"type": "list", "elements": "dict", "default": []},
            "smoke_tenant": {"type": "bool", "default": False},
            "smoke_values": {"type": "path"},
            "version_key": {"type": "str", "default": "version", "no_log": False},
            "deadline": {"type": "float", "default": 60},
            "passes": {"type": "int", "default": 3, "no_log": False},
            **runtimes.ARGUMENTS,
            "good": {"type": "list", "elements": "str", "default": []},
            "keep": {"type": "int", "default": 3},
            "keep_failed": {"type": "int", "default": 1},
            "drain_timeout": {"type": "float", "default": 30},
            "fence": {"type": "int"},
        },
        required_if=[
            ("state", "prepared", ["version", "commit", "source"]),
            ("state", "started", ["slot", "version", "commit", "env_file"]),
            ("state", "rehearsed", ["slot", "env_file", "database"]),
            ("state", "alone", ["slot", "env_file"]),
            ("state", "owning", ["slot", "env_file"]),
            ("state", "stopped", ["slot"]),
            ("state", "saved", ["slot"]),
            ("state", "absent", ["version", "commit"]),
        ],
        supports_check_mode=True,
    )
    begun = time.monotonic()
    try:
        host = Host(module.params)
        state = module.params["state"]
        shown = module._diff or state in ("read", "started")
        before = host.held() if module._diff else {}
        if state != "read" and module.params["fence"] is not None and not module.check_mode:
            make_folder(host.directory)
            host.claim()
        changed = STATES[state](host, module.check_mode) if state in STATES else False
        after = host.held() if shown else {}
    except SluiceError as error:
        module.fail_json(msg=str(error), **error.details())
    result = {
        "changed": changed,
        "actions": host.actions,
        "gates": [gate.as_dict() for gate in host.gates],
        **({"slots": after} if shown else {}),
        **({"wanted": True} if host.wanted else {}),
        "milliseconds": int((time.monotonic() - begun) * 1000),
    }
    if module._diff:
        result["diff"] = {"before": json.dumps(before, indent=2, sort_keys=True) + "\n", "after": json.dumps(after, indent=2, sort_keys=True) + "\n"}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
