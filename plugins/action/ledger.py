# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger from the control node: what the hosts answered becomes one outcome, and the outcome becomes a record."""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import make_folder, write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.store import Store, process_started
from ansible_collections.sluice.deploy.plugins.module_utils.core import states
from ansible_collections.sluice.deploy.plugins.module_utils.core.account import account, closed_for, still_closed, summary
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.ledger import digest, release_from, went_further
from ansible_collections.sluice.deploy.plugins.module_utils.core.outcome import Outcome, gather
from ansible_collections.sluice.deploy.plugins.module_utils.desk import Desk
from ansible_collections.sluice.deploy.plugins.modules.ledger import ARGUMENTS
from ansible_collections.sluice.deploy.plugins.plugin_utils.charts import draw

# What a release that goes on says of itself; every later task finds these keys in __release.
_GOING = {"stop": "", "stopped_in": "", "hold": False, "planned_hold": False}


class ActionModule(ActionBase):
    """Runs in the control node's own process when the ledger lies there: no module is sent, so a record costs milliseconds."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        variables = task_vars or {}
        _validation, args = self.validate_argument_spec(argument_spec=ARGUMENTS)
        args["check"] = self._task.check_mode
        try:
            answer: dict[str, Any] = getattr(self, "_" + args["state"], self._plain)(args, variables)
        except SluiceError as error:
            if args["state"] in ("begin", "end"):
                known = {key: variables["__release"][key] for key in ("release", "fence") if key in variables["__release"]}
                return {"changed": False, **known, **_GOING, "open": False, "stop": str(error), "stopped_in": args["phase"]}
            raise AnsibleActionFail(str(error), result=error.details()) from error
        if args["say"]:
            answer["say"] = [*answer.get("say", []), args["say"]]
        return answer

    def _ask(self, state: str, request: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        pid = os.getppid()
        run = {"owner": f"{getpass.getuser()}@{socket.gethostname()}", "pid": pid, "started": process_started(pid)}
        if self._connection.transport == "local":
            return Desk(Store(os.path.expanduser(request["directory"])), request["app"], run, socket.gethostname(), time.time()).answer(state, request)
        # Plain JSON: a module takes no tagged values.
        arguments = json.loads(json.dumps({"state": state, "app": request["app"], "directory": request["directory"], "request": request, "run": run}))
        result = self._execute_module(module_name="sluice.deploy.ledger", module_args=arguments, task_vars=variables)
        if result.get("failed"):
            raise SluiceError(result.get("msg", "the ledger host gave no answer"))
        return {key: value for key, value in result.items() if not key.startswith("_ansible") and key != "invocation"}

    def _plain(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        if args["check"] and args["state"] not in ("read", "claim"):
            return {"changed": False}
        reply = self._ask(args["state"], args, variables)
        if "opened" in [event["event"] for event in args["events"]]:
            reply["say"] = [closed_for(reply["release"]["stops"])]
        if args["state"] == "claim":
            say = [f"Lease {'would be' if args['check'] else reply['fence']} taken" + (f"; {reply['note']}" if reply["note"] else "")]
            if args["version"]:
                resumed = ", which goes on" if reply["release"].get("done") else ""
                say.insert(0, f"{args['app']} {args['version']} as {reply['release'].get('id', args['release_id'])}{resumed}")
            reply = {**reply, **_GOING, "open": True, "say": say}
        return reply

    def _begin(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Open a phase: write the intent, unless the release has stopped or the phase is done already."""
        before = variables["__release"]
        known = {**_GOING, **{key: before[key] for key in ("release", "releases", "fence", *_GOING) if key in before}}
        if known["stop"]:
            return {"changed": False, "open": False, **known}
        phase = states.BY_NAME[args["phase"]]
        shown = {"phase": {"number": phase.number, "name": phase.name, "title": phase.title}}
        # The ground is proven anew by every run; what it costs is little, and a run that goes on needs its facts.
        if args["phase"] in known.get("release", {}).get("done", {}) and args["phase"] != "preflight":
            return {"changed": False, "open": False, "passed_over": True, **shown, **known}
        if args["left_out"]:
            events = [{"event": "begin", "phase": phase.name}, {"event": "end", "phase": phase.name, "data": {"left_out": args["left_out"]}}]
            reply = {} if self._task.check_mode else self._ask("record", {**args, "events": events}, variables)
            return {"changed": False, **known, **reply, **_GOING, "open": False, **shown, "say": [args["left_out"]]}
        if self._task.check_mode and phase.name in ("rehearse", "migrate"):
            return {
                "changed": False,
                "open": False,
                **shown,
                **known,
                "say": ["check mode: left out, it needs the built version and its backup; migrate.yml --check lists what is pending"],
            }
        if self._task.check_mode:
            return {"changed": False, "open": True, **shown, **known}
        reply = self._ask("record", {**args, "events": [{"event": "begin", "phase": args["phase"]}]}, variables)
        return {**reply, **_GOING, "open": True, **shown}

    def _gathered(self, args: dict[str, Any], variables: dict[str, Any]) -> tuple[Outcome, dict[str, dict[str, Any]]]:
        """Join the registered results of every host of the play."""
        hosts = variables["ansible_play_hosts_all"]
        results: dict[str, dict[str, Any]] = {}
        for host, name in [*((host, name) for name in args["collect"] for host in hosts), *((hosts[0], name) for name in args["once"])]:
            result = variables["hostvars"][host].get(name)
            if isinstance(result, dict) and not result.get("skipped"):
                label = "control" if name in args["once"] else host
                results[label if label not in results else f"{label} ({name.strip('_')})"] = json.loads(json.dumps(result, default=str))
        return gather(results), results

    def _end(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Close a phase: join the results of every host, decide once, write the outcome."""
        if not variables["__release"]["open"]:
            # A task that is skipped would put its skipped result in the place of what is known.
            return {
                "changed": False,
                **{key: variables["__release"][key] for key in ("release", "releases", "fence", "open", *_GOING) if key in variables["__release"]},
            }
        outcome, results = self._gathered(args, variables)
        reason = outcome.reason or ("" if results or not args["collect"] else f"no host answered in phase {args['phase']}")
        kept = {key: result[key] for key in args["keep"] for result in results.values() if key in result}
        events: list[dict[str, Any]] = []
        if args["manifest"] and not reason:
            plan = json.loads(json.dumps(args["manifest"]))
            before = variables["__release"]["release"].get("plan_digest", "")
            if before and before != digest(plan):
                was_now = f"digest {before[:12]}, now {digest(plan)[:12]}"
                reason = f"The plan has changed since this release began ({was_now}): code, environment, steps or live slot differ. Begin a new release."
            elif not before:
                events.append({"event": "plan", "data": {"manifest": plan, "digest": digest(plan)}})
        data = {"actions": outcome.actions, "gates": outcome.gates, **kept}
        events.append({"event": "stop" if reason else "end", "phase": args["phase"], "data": {**data, "reason": reason} if reason else data})
        said = {**_GOING, "stop": reason, "stopped_in": args["phase"] if reason else "", "hold": outcome.hold, "open": False, "ended": args["phase"]}
        said["planned_hold"] = outcome.hold and any(result.get("planned") for result in results.values())
        if self._task.check_mode:
            known = variables["__release"].get("release", {})
            planned = (
                {"manifest": args["manifest"], "live": args["manifest"]["live"], "idle": args["manifest"]["idle"]} if args["manifest"] and not reason else {}
            )
            kept = {key: variables["__release"][key] for key in ("releases", "fence") if key in variables["__release"]}
            return {"changed": False, "release": {**known, **planned}, **kept, **said}
        return {**self._ask("record", {**args, "events": events}, variables), **said}

    def _close(self, args: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """End the release by what stopped it, if anything did; what was undone is joined first, and a failed undo leaves it open."""
        before = variables.get("__release", {})
        if args["check"]:
            return {"changed": False, "say": ["check mode: nothing was changed and nothing was written"]}
        undo, _results = self._gathered(args, variables)
        data = {"reason": before.get("stop", ""), "undone": undo.actions}
        if undo.reason:
            args["event"], say = "", [f"What was begun could not be taken back: {undo.reason}", "The release stays open. Mend that, then run rollback.yml."]
        else:
            args["event"], say = self._last_event(before) if args["event"] == "outcome" else args["event"], []
        if args["event"] == "refuse" and before.get("stop") and went_further(release_from(before["release"])):
            args["event"] = ""
            say = ["It had gone further before, so it stays open: mend that and go on with its release_id, or take it back with rollback.yml."]
        reply = self._ask("close", {**args, "data": {**data, **args["data"]}}, variables)
        say += still_closed(reply["release"])
        # The account of the release that a restore is counted to is written anew.
        say += [reply["restored"]] if reply["restored"] else []
        if args["report"] and (args["release_id"] or reply["restored"]) and reply["release"]:
            report = account(reply["release"], reply["records"])
            path = os.path.join(os.path.expanduser(args["report"]), f"{report['release_id']}.json")
            make_folder(os.path.dirname(path), 0o700)
            write_atomic(path, json.dumps(report, indent=2, ensure_ascii=False) + "\n", 0o600)
            picture, told = draw(report, reply["records"])
            if picture:
                told = f"Charts: {path[:-5]}.svg"
                write_atomic(f"{path[:-5]}.svg", picture, 0o600)
            say += [*([] if reply["restored"] else summary(report)), f"Account: {path}", *filter(None, [told])]
            reply["report"] = path
        return {**{key: value for key, value in reply.items() if key != "records"}, "undo_failed": undo.reason, "say": say}

    @staticmethod
    def _last_event(before: dict[str, Any]) -> str:
        """Return the event that ends the release: by the phase that stopped it, or a promotion."""
        if not before.get("stop"):
            return "promote"
        if before.get("hold"):
            return "hold"
        ends = {states.REFUSED: "refuse", states.FAILED: "fail", states.ROLLED_BACK: "rollback", states.PROMOTED: "promote"}
        return ends[states.BY_NAME[before["stopped_in"]].on_stop]
