# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One judgement for the whole fleet: what every host measured is joined here, and core decides."""

from __future__ import annotations

import json
import os
import time
from datetime import datetime, timezone
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import make_folder, write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.core import findings, findings_render, judge, metric_sources, metrics, power, restores, steps
from ansible_collections.sluice.deploy.plugins.module_utils.core.account import still_closed
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.ground import survey
from ansible_collections.sluice.deploy.plugins.module_utils.core.guard import guard_limits, with_guard
from ansible_collections.sluice.deploy.plugins.module_utils.core.ladder import limit_from
from ansible_collections.sluice.deploy.plugins.module_utils.core.lease import utc
from ansible_collections.sluice.deploy.plugins.module_utils.core.ledger import candidates, release_from
from ansible_collections.sluice.deploy.plugins.module_utils.core.limits import Limits
from ansible_collections.sluice.deploy.plugins.module_utils.core.outcome import gather
from ansible_collections.sluice.deploy.plugins.module_utils.core.sample import Sample, merge
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, INCONCLUSIVE, PASS, Gate, stops
from ansible_collections.sluice.deploy.plugins.modules.judge import ARGUMENTS


class ActionModule(ActionBase):
    """Runs once on the control node; sends nothing anywhere."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        variables = task_vars or {}
        _validation, args = self.validate_argument_spec(argument_spec=ARGUMENTS)
        try:
            answer: dict[str, Any] = getattr(self, "_" + args["about"])(args, variables)
            return answer
        except SluiceError as error:
            raise AnsibleActionFail(str(error), result=error.details()) from error

    @staticmethod
    def _results(variables: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
        found = {host: variables["hostvars"][host].get(name) for host in variables["ansible_play_hosts_all"]}
        answers = {host: result for host, result in found.items() if isinstance(result, dict) and not result.get("skipped")}
        return {host: json.loads(json.dumps(result, default=str)) for host, result in answers.items()}

    def _ground(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Join edges and app hosts: who is live, what it holds, and whether there is a way back."""
        edges = {
            host: result.get("after") or {}
            for host, result in self._results(variables, args["edges"]).items()
            if not result.get("failed") and not result.get("unreachable")
        }
        hosts = {host: result["slots"] for host, result in self._results(variables, args["slots"]).items() if "slots" in result}
        ground = survey(edges, hosts, args["release"].get("manifest", {}), bool(args["release"].get("stops")))
        gates = list(ground.gates)
        if args["steps"] and not args["release"].get("manifest"):
            plan, limits = [steps.step_from(step) for step in args["steps"]], Limits.of(args["limits"])
            rates = [result.get("requests_per_second") for result in self._results(variables, args["edges"]).values()]
            gates.append(power.power(plan, None if None in rates else sum(rates), limits, args["accept_blind"]))
            looks = self._results(variables, args["samples"])
            if args["self_test"]:
                gates.append(power.self_test(merge([Sample.from_dict(look["sample"]) for look in looks.values() if "sample" in look]), limits))
        return {
            "changed": False,
            "live": ground.live,
            "idle": ground.idle,
            "live_version": ground.live_version,
            "percent": ground.percent,
            "idle_online": any(held.get(ground.idle, {}).get("online", 0) for held in hosts.values()),
            "gates": [gate.as_dict() for gate in gates],
        }

    def _findings(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Join every gate of every host into one report; only what the profile calls an error stops."""
        wrong = findings.problems(args["severities"], args["waivers"], args["never_waived"])
        if wrong:
            raise SluiceError("\n".join(wrong))
        found, kept = [], {}
        for area, name in args["results"].items():
            results = self._results(variables, name)
            if area in args["once"]:
                results = {"control": next(iter(results.values()))} if results else {}
            found += findings.of_results(area, results)
            kept.update({key: result[key] for result in results.values() for key in ("commit", "env_fingerprint") if key in result})
        now = datetime.fromtimestamp(time.time(), timezone.utc)
        report = findings.report(found, args["severities"], findings.waivers_from(args["waivers"]), now.date())
        say = [report.summary()]
        if args["report"] and not self._task.check_mode:
            folder = os.path.expanduser(args["report"])
            make_folder(folder, 0o700)
            for name, text in (("json", findings_render.as_json(report, utc(now.timestamp()))), ("junit.xml", findings_render.as_junit(report))):
                write_atomic(os.path.join(folder, f"preflight.{name}"), text, 0o600)
            say.append(f"Report: {os.path.join(folder, 'preflight.json')}")
        return {
            "changed": False,
            **kept,
            "gates": [each.as_dict() for each in report.findings],
            "groups": {findings.GROUPS[name]: [each.as_dict() for each in found] for name, found in report.groups().items()},
            "stop": report.stop,
            "say": [*report.notes, *say],
        }

    def _canary(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Judge one look at a step."""
        step = steps.step_from(args["step"])
        switches, looks = self._results(variables, args["edges"]), self._results(variables, args["samples"])
        # The gate of an edge that must stop at once is a judgement, not a look that failed.
        broken = gather({**switches, **{f"{host} (log)": {**result, "gates": []} for host, result in looks.items()}}).reason
        if broken:
            return {"changed": False, "word": steps.ROLLBACK, "verdict": "error", "stop": broken, "sentence": broken, "gates": []}
        if self._task.check_mode:
            gate = Gate("canary", PASS, f"check mode: {step.percent} % would be judged here for {step.min:g} to {step.max:g} s")
            return self._said(args, gate.verdict, gate.sentence, [gate], step.max)
        if step.percent == 0 and args["live"] != args["canary"]:
            elapsed = min((float(look["until"]) - float(switches[host]["changed_at"]) for host, look in looks.items()), default=0.0)
            gate = Gate("canary", INCONCLUSIVE, "0 % is for testers alone: there are no visitors to judge")
            look = self._climb(args, variables, None, args["canary"], None, asked=step.max > 0)
            verdict, sentence = metrics.combined(gate.verdict, gate.sentence, look.climb)
            return self._said(args, verdict, sentence, [gate, *look.climb.gates], elapsed, look=look)
        if step.max <= 0:
            gate = Gate("canary", INCONCLUSIVE, f"{step.percent} % was not judged: the step has no time")
            return self._said(args, gate.verdict, gate.sentence, [gate], 0.0)
        samples = [Sample.from_dict(result["sample"]) for result in looks.values()]
        elapsed = min((float(look["until"]) - float(switches[host]["changed_at"]) for host, look in looks.items()), default=0.0)
        limits = Limits.of(args["limits"])
        sample = merge(samples)
        live = args["live"] if args["live"] != args["canary"] else None
        alarm = judge.alarm(sample, args["canary"], live, limits) or next((Gate(**result["alarm"]) for result in looks.values() if result.get("alarm")), None)
        if alarm is not None:
            return self._said(args, alarm.verdict, alarm.sentence, [alarm], elapsed, sample)
        judgement = judge.judge(sample, args["canary"], live, limits, final=elapsed >= step.max)
        # An edge that ended its watch with an alarm did not let the hosts be asked.
        look = self._climb(args, variables, sample, args["canary"], live, asked=not any(result.get("alarm") for result in looks.values()))
        verdict, sentence = metrics.combined(judgement.verdict, judgement.sentence, look.climb)
        return self._said(args, verdict, sentence, [*judgement.gates, *look.climb.gates], elapsed, sample, look)

    def _climb(self, args: dict[str, Any], variables: dict[str, Any], sample: Sample | None, slot: str, live: str | None, asked: bool) -> metrics.Look:
        """Hold the slot's own requests, and what every host read, against the guard and the ladder.

        :param sample: None when there are no visitors.
        :param asked: whether the hosts were asked at this look.
        """
        given = [limit_from(data, f"canary_ladder: limit {number}") for number, data in enumerate(args["ladder"], start=1)]
        named = [metric_sources.source_from(data, f"canary_metrics: source {number}") for number, data in enumerate(args["sources"], start=1)]
        limits, sources = [*given, *guard_limits(Limits.of(args["limits"]))], with_guard(named)
        results = self._results(variables, args["readings"]) if asked else {}
        groups, now = variables["groups"], time.time()
        placed = {host: metric_sources.sources_of(sources, host, groups.get("apphosts", []), groups.get("databases", [])) for host in results}
        sourced = {source.metric for source in sources}
        requests = metrics.of_requests(sample, slot, live, now) if sample else []
        untold = set(metric_sources.OF_REQUESTS) - {reading.metric for reading in requests} - sourced
        return metrics.look(limits, sources, requests, results, placed, args["history"], now, untold if asked else untold | sourced)

    @staticmethod
    def _said(
        args: dict[str, Any],
        verdict: str,
        sentence: str,
        gates: list[Gate],
        elapsed: float,
        sample: Sample | None = None,
        look: metrics.Look | None = None,
    ) -> dict[str, Any]:
        step = steps.step_from(args["step"])
        held = look is not None and look.held
        decided = steps.decide(step, verdict, elapsed)
        word = steps.HOLD if held and decided != steps.ROLLBACK else decided
        ladder = [steps.step_from(each) for each in args["steps"]]
        early = ActionModule._wait_for(steps.next_step(ladder, step.percent), ladder, step.percent, args) if word == steps.ADVANCE else 0.0
        if early > 0 and args["pace"] == "attended":
            word = steps.CONTINUE
        at = f"{step.percent} % after {elapsed:.0f} s"
        planned = args["pace"] == "stepwise" and word == steps.ADVANCE and step.percent < 100
        on_hold = "Go on with canary.yml or promote.yml, or take it back with rollback.yml."
        stop = {
            steps.ROLLBACK: f"At {at}: {sentence}",
            steps.HOLD: f"At {at}{'' if held else ' the judge cannot tell'}: {sentence} The share is held. {on_hold}",
        }.get(word, f"{step.percent} % passed; the pace is stepwise, so the next step is taken by canary.yml." if planned else "")
        return {
            "changed": False,
            "word": word,
            "verdict": verdict,
            "stop": stop,
            "hold": planned or word == steps.HOLD,
            "planned": planned,
            "sentence": sentence,
            "elapsed": round(elapsed, 2),
            "wait": round(early or max((step.min if elapsed < step.min else step.max) - elapsed, 0.2), 2),
            "gates": [gate.as_dict() for gate in gates] if word != steps.CONTINUE else [],
            "say": [*(f"warning: {warning}" for warning in (look.warnings if look else ())), f"at {at}: {sentence}"] if word == steps.CONTINUE else [],
            "sample": sample.as_dict() if sample else {},
            "history": dict(look.history) if look else args["history"],
        }

    def _by_hand(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Refuse a share set by hand that has no release to belong to, or skips a step; tell which share it is and whether it must be judged."""
        release = args["release"]
        if release and release["manifest"].get("in_place"):
            raise SluiceError(
                f"{release['id']} is in place, so there is no canary to move.",
                f"Go on with release.yml -e release_version={release['version']} -e release_id={release['id']}, or take it back with rollback.yml.",
            )
        if not release or "start" not in release["done"] or "promote" in release["done"]:
            raise SluiceError("There is no canary to move: no release is between its start and its promotion.", "Begin one with release.yml.")
        ladder, share = [steps.step_from(step) for step in args["steps"]], int(release["share"])
        following = steps.next_step(ladder, share)
        wait = self._wait_for(following, ladder, share, args)
        if args["percent"] is None and following and wait > 0 and not args["reason"]:
            # A timer asks every few minutes; that it is too early is no failure.
            said = f"{following.percent} % is due in {steps.duration(wait)}; the share stays at {share} %"
            return {"changed": False, "percent": share, "share": share, "judged": False, "say": [said]}
        wanted = args["percent"] if args["percent"] is not None else following.percent if following else 100
        steps.check_by_hand(ladder, share, wanted, args["reason"], wait)
        return {"changed": False, "percent": wanted, "share": share, "judged": wanted > share > 0}

    @staticmethod
    def _wait_for(following: steps.Step | None, ladder: list[steps.Step], share: int, args: dict[str, Any]) -> float:
        """Return the seconds until the next step is due; 0 when it is, or when there is none."""
        release = args["release"]
        if following is None or not release.get("opened"):
            return 0.0
        try:
            zone = ZoneInfo(args["timezone"])
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise SluiceError(
                f"canary_timezone is {args['timezone']!r}, which is no time zone of this control node.", "Example: Europe/Vienna, or UTC."
            ) from error
        windows = [steps.window_from(window) for window in args["windows"]]
        opened, now = float(release["opened"]), time.time()
        since = float(release["share_at"]) or opened
        return max(0.0, steps.due_at(following, steps.step_of(ladder, share), opened, since, now, windows, zone) - now)

    def _after(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Tell whether the promoted release is due for a look, and from when on."""
        newest = args["releases"][-1] if args["releases"] else {}
        if newest.get("state") != "promoted":
            told = f"{newest['id']} is {newest['state'].replace('_', ' ')}" if newest else "the ledger knows no release"
            return {"changed": False, "due": False, "say": [f"Nothing to watch: {told}"]}
        now, promoted = time.time(), float(newest["promoted_at"])
        wait = steps.next_look([steps.watch_from(part) for part in args["watch"]], promoted, float(newest["watched_at"]), now)
        if wait is None or wait > 0:
            told = "is over" if wait is None else f"looks again in {steps.duration(wait)}"
            return {"changed": False, "due": False, "say": [f"The watch of {newest['id']} {told}"]}
        since = max(promoted, float(newest["watched_at"]))
        return {
            "changed": False,
            "due": True,
            "since": since,
            "slot": newest["idle"],
            "id": newest["id"],
            "version": newest["version"],
            "history": newest["history"],
        }

    def _watch(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Judge the live slot since the last look, by the absolute limits alone: there is nothing to compare it with."""
        looks, limits = self._results(variables, args["samples"]), Limits.of(args["limits"])
        broken = gather({f"{host} (log)": result for host, result in looks.items()}).reason
        if broken:
            return {"changed": False, "verdict": "error", "sentence": broken, "bad": True, "gates": [], "sample": {}, "history": {}}
        sample = merge([Sample.from_dict(result["sample"]) for result in looks.values()])
        judgement = judge.judge(sample, args["canary"], None, limits, final=True)
        look = self._climb(args, variables, sample, args["canary"], None, asked=True)
        verdict, sentence = metrics.combined(judgement.verdict, judgement.sentence, look.climb)
        return {
            "changed": False,
            "verdict": verdict,
            "sentence": sentence,
            # Too few requests at night are no reason to wake anybody.
            "bad": verdict == FAIL,
            "gates": [gate.as_dict() for gate in (*judgement.gates, *look.climb.gates)],
            "say": [f"warning: {warning}" for warning in look.warnings],
            "sample": sample.as_dict(),
            "history": dict(look.history),
        }

    def _share(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Let an increase by hand pass only where the judge passes the share that is there, or a person gives a reason."""
        looks, release = self._results(variables, args["samples"]), args["release"]
        sample = merge([Sample.from_dict(result["sample"]) for result in looks.values()])
        judgement = judge.judge(sample, release["idle"], release["live"], Limits.of(args["limits"]), final=True)
        look = self._climb(args, variables, sample, release["idle"], release["live"], asked=bool(args["ladder"]))
        verdict, sentence = metrics.combined(judgement.verdict, judgement.sentence, look.climb)
        gates = [gate.as_dict() for gate in (*judgement.gates, *look.climb.gates)]
        if (stops(verdict) or look.held) and not args["reason"]:
            remedy = "Wait for more requests, or give -e canary_force_reason='...'; a decrease is always allowed."
            raise SluiceError(f"The share stays at {release['share']} %: {sentence}", remedy, gates=gates)
        return {"changed": False, "gates": gates, "verdict": verdict, "history": dict(look.history)}

    def _edges(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Say what became of each edge; one that failed is named with those that went back for it."""
        tried, done, back = (self._results(variables, name) for name in ("__edge_tried", args["edges"], "__edge_back"))
        failed = {host: result for host, result in {**tried, **done}.items() if result.get("failed") or result.get("unreachable")}
        lines = []
        for host, result in {**tried, **done}.items():
            if host in failed:
                lines.append(f"edge {host}: FAILED, {result.get('msg', 'no reason given')}")
            elif host in back:
                word = "went back" if not back[host].get("failed") else f"could NOT go back, {back[host].get('msg', '')}"
                lines.append(f"edge {host}: {word}, {_traffic(back[host].get('after') or result['before'])}")
            elif failed and host not in done:
                lines.append(f"edge {host}: was not switched")
            else:
                lines.append(f"edge {host}: {_traffic(result['after'])}, {result['milliseconds']:.0f} ms")
        everyone = [*{**tried, **done}]
        # An edge that failed may have left the play: one that did not speaks for all.
        first = variables["inventory_hostname"] == next((host for host in everyone if host not in failed), everyone[0])
        if failed:
            told = "\n" + "\n".join(f"  {line}" for line in lines) if first else ""
            said = f"{len(failed)} of {len(everyone)} edges failed: {', '.join(failed)}.{told}"
            raise SluiceError(said, "Mend the edge, then run again." if first else "", edges=lines)
        return {"changed": False, "say": lines if first else []}

    def _way_back(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Find what the app can go back to, from what the ledger remembers; the edge asks the slot itself before it sends traffic there."""
        found = candidates([release_from(release) for release in args["releases"]])
        told = [
            f"{found_one.version or 'unknown'} in {found_one.slot}: {'possible' if found_one.possible else 'not possible'}, {found_one.why}"
            for found_one in found
        ]
        chosen = next((candidate for candidate in found if candidate.possible), None)
        if chosen is None:
            raise SluiceError(
                f"There is nothing to roll back to. {'; '.join(told) or 'The ledger knows no release that was live'}.",
                "To leave the live version, release a good one with release.yml.",
            )
        database, why = self._database(args, next(release for release in args["releases"] if release["id"] == chosen.release))
        return {
            "changed": False,
            "target": chosen.as_dict(),
            "event": "rollback" if chosen.slot else "refuse",
            "candidates": [candidate.as_dict() for candidate in found],
            "database": database,
            "say": [*told, why],
        }

    @staticmethod
    def _database(args: dict[str, Any], release: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """Choose how the database goes back; a release that migrated nothing leaves nothing to take back."""
        done, manifest = release["done"], release["manifest"]
        migrated = bool(done.get("migrate", {}).get("applied"))
        if args["database"] != restores.LEAVE and not migrated:
            return {"way": restores.LEAVE}, f"{release['version']} migrated nothing; the database stays as it is"
        reversible = done.get("rehearse", {}).get("rehearsal", {}).get("reversible", restores.RESTORE)
        way, why = restores.choose_way(args["database"], reversible, None)
        folder = f"{release['version']}-{str(manifest.get('commit', ''))[:12]}"
        backup, before = done.get("backup", {}).get("backup", {}).get("path", ""), done.get("migrate", {}).get("before", [])
        return {"way": way, "backup": backup, "down_to": before, "migrations": folder}, why

    def _fleet(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Say in lines what every edge and slot does now."""
        edges = {host: result.get("after") or {} for host, result in self._results(variables, args["edges"]).items()}
        results = self._results(variables, args["edges"])
        lines = [line for host, state in edges.items() for line in _edge_lines(host, state, results[host])]
        agreed = ("live", "percent", "testers", "switch", "hosts_out", "maintenance")
        if len({tuple(str(state.get(key)) for key in agreed) for state in edges.values()}) > 1:
            lines.append("The edges do NOT agree.")
        for host, result in self._results(variables, args["slots"]).items():
            lines += [
                f"app host {host}: {slot} holds {held.get('version') or 'nothing'}, {held['online']} of {held['wanted']} processes online"
                for slot, held in result.get("slots", {}).items()
            ]
        release, lease = args["release"], variables["__release"]["lease"]
        gone = ", which is gone" if lease.get("alive") is False else ""
        lines.append(
            f"lease: held by {lease['owner']} (process {lease['pid']}{gone}) for {lease['reason']} since {utc(lease['since'])}" if lease else "lease: free"
        )
        at = f"{release['id']}, {release['state']}, last phase {release['begun'] or 'claim'}, share {release['share']} %" if release else "none"
        lines.append(f"open release: {at}")
        lines += still_closed(release)
        lines += [f"past release: {past['id']} {past['state'].replace('_', ' ')}" for past in args["releases"][-5:] if past["id"] != release.get("id")]
        lines.append(f"ledger: {variables['__release']['lines']} records, the chain is whole")
        return {"changed": False, "say": lines, "edges": edges}


def _traffic(state: dict[str, Any]) -> str:
    shares = ", ".join(f"{slot} {share} %" for slot, share in sorted(state["shares"].items()))
    return f"{state['live']} live, shares {shares}, {state['switch']}, generation {state['generation']}"


def _edge_lines(host: str, state: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """Return what status.yml says of one edge: a line, and one more for each thing that is not as usual."""
    if not state:
        return [f"edge {host}: {result.get('msg') or 'no state yet'}"]
    hosts = "; ".join(f"{slot} on {', '.join(addresses)}" for slot, addresses in sorted(result.get("slots", {}).items()))
    lines = [f"edge {host}: {_traffic(state)}" + (f"; {hosts}" if hosts else "")]
    serving, draining = result["serving"], result.get("draining", {})
    if serving["generation"] is None:
        lines.append(f"edge {host}: nginx does NOT answer on its control address")
    elif not serving["agrees"]:
        lines.append(f"edge {host}: nginx serves generation {serving['generation']} and does NOT agree with the files; run edge.yml")
    if state["testers"]:
        lines.append(f"edge {host}: testers go to the idle slot")
    if state["hosts_out"]:
        lines.append(f"edge {host}: out are {', '.join(state['hosts_out'])}")
    if state["maintenance"]:
        lines.append(f"edge {host}: CLOSED for maintenance")
    if draining.get("workers"):
        lines.append(f"edge {host}: {draining['workers']} old workers drain {draining['connections']} connections")
    return lines
