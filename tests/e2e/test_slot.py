# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The slot module on a real PM2: each state twice, in check mode, with bad input, and cut in the middle."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.pm2 import Pm2

from tests.sandbox.runner import Run
from tests.sandbox.world import CHECKOUT, World

COMMAND = [sys.executable, "-m", "ansible_collections.sluice.deploy.plugins.modules.slot"]


def arguments(world: World, state: str, **more: Any) -> dict[str, Any]:
    """Return the module's arguments for the world's app, v1.0.0 in green."""
    facts = world.facts
    commit = subprocess.run(["git", "-C", facts["repository"], "rev-parse", "v1.0.0^{commit}"], capture_output=True, text=True, check=True).stdout.strip()
    base = {
        "state": state,
        "app": "wallet",
        "directory": facts["app"],
        "slot": "green",
        "services": [{"name": "web", "entry": "server.js", "instances": 2, "ports": {slot: facts["ports"][slot] for slot in ("blue", "green", "rehearsal")}}],
        "version": "v1.0.0",
        "commit": commit,
        "source": facts["repository"],
        "build": [["npm", "ci", "--omit=dev", "--no-audit", "--no-fund", "--prefer-offline"]],
        "build_env": facts["build_env"],
        "env_file": facts["env_file"],
        "smoke": [{"path": "/", "contains": "Wallet"}],
        "pm2_command": facts["pm2_command"],
        "pm2_home": facts["pm2_home"],
        "path": facts["path"],
        "deadline": 20,
    }
    return {**base, **more}


def popen(world: World, words: dict[str, Any], **flags: bool) -> subprocess.Popen[str]:
    """Start the module as Ansible would, without Ansible."""
    env = {**world.env(), "PYTHONPATH": str(CHECKOUT / ".venv/collections")}
    given = {"ANSIBLE_MODULE_ARGS": {**words, **{f"_ansible_{name}": value for name, value in flags.items()}}}
    process = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True)
    assert process.stdin
    process.stdin.write(json.dumps(given))
    process.stdin.close()
    process.stdin = None
    return process


def run(world: World, state: str, flags: dict[str, bool] | None = None, **more: Any) -> dict[str, Any]:
    """Run the module to its end and return its result."""
    process = popen(world, arguments(world, state, **more), **(flags or {}))
    out, err = process.communicate(timeout=90)
    assert "Traceback" not in out + err, out + err
    result: dict[str, Any] = json.loads(out)
    return result


def names(world: World) -> set[str]:
    """Return the processes that are online."""
    return {entry["name"] for entry in world.pm2() if entry["pm2_env"]["status"] == "online"}


def test_each_state_changes_once(world: World) -> None:
    said = []
    for state in ("prepared", "started", "saved"):
        would = run(world, state, {"check_mode": True, "diff": True})
        assert would["changed"], state
        before = names(world)
        first = run(world, state, {"diff": True})
        assert first["changed"], state
        # Nobody knows beforehand how long a command will run.
        assert [action for action in first["actions"] if not action.startswith("ran ")] == would["actions"]
        said += first["actions"]
        assert before <= names(world)
        again = run(world, state)
        assert not again["changed"], (state, again["actions"])
    assert [action for action in said if re.fullmatch(r"ran npm ci --omit=dev .* in \d+\.\d s", action)]
    assert names(world) == {"wallet-web-blue", "wallet-web-green"}
    assert run(world, "read")["slots"]["green"]["version"] == "v1.0.0"


def test_the_daemons_socket_says_what_its_command_line_says(world: World) -> None:
    listed = Pm2(["/nowhere/pm2"], world.facts["pm2_home"]).processes()
    told = [(entry["name"], entry["pid"], entry["pm2_env"]["status"], entry["pm2_env"]["restart_time"], entry["pm2_env"]["pm_cwd"]) for entry in world.pm2()]
    assert told and [(process.name, process.pid, process.status, process.restarts, process.folder) for process in listed] == told


def test_check_mode_starts_nothing(world: World) -> None:
    run(world, "stopped")
    assert run(world, "started", {"check_mode": True})["changed"]
    assert names(world) == {"wallet-web-blue"}
    assert run(world, "started")["changed"]
    assert run(world, "stopped")["changed"]
    assert not run(world, "stopped")["changed"]


def test_a_changed_environment_starts_the_slot_anew(world: World, tmp_path: Path) -> None:
    assert run(world, "started")["changed"]
    other = tmp_path / "other.env"
    other.write_text(Path(world.facts["env_file"]).read_text(encoding="utf-8") + "FEATURE=on\n", encoding="utf-8")
    assert run(world, "started", env_file=str(other))["changed"]
    assert not run(world, "started", env_file=str(other))["changed"]


def test_a_child_sees_nothing_of_the_caller(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """PM2 hands its caller's environment to what it starts; ours must be clean."""
    run(world, "stopped")
    monkeypatch.setenv("CALLERS_SECRET", "must-not-travel")
    env = {**world.env(), "CALLERS_SECRET": "must-not-travel", "PYTHONPATH": str(CHECKOUT / ".venv/collections")}
    subprocess.run(
        COMMAND, input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments(world, "started")}), env=env, capture_output=True, text=True, timeout=90, check=True
    )
    pid = next(entry["pid"] for entry in world.pm2() if entry["name"] == "wallet-web-green")
    variables = Path("/proc", str(pid), "environ").read_bytes()
    assert b"SLUICE_SLOT" in variables
    assert b"CALLERS_SECRET" not in variables


def test_a_build_that_fails_leaves_nothing(world: World) -> None:
    run(world, "absent")
    result = run(world, "prepared", build=[["sh", "-c", "echo no such package >&2; exit 9"]])
    assert result["failed"]
    assert "exit code 9: no such package" in result["msg"]
    assert [name for name in os.listdir(Path(world.facts["app"], "releases")) if "v1.0.0" in name] == []


@pytest.mark.parametrize("keep", [2, 1, 0])
def test_failed_releases_are_put_aside_and_never_taken_for_good_ones(world: World, keep: int) -> None:
    aside = Path(world.facts["app"], "releases", ".failed")
    (aside / "v0.1.0-older").mkdir(parents=True, exist_ok=True)
    os.utime(aside / "v0.1.0-older", (1, 1))
    assert run(world, "prepared")["changed"]
    assert run(world, "absent", keep_failed=keep)["changed"]
    assert not run(world, "absent", keep_failed=keep)["changed"]
    there = sorted(path.name for path in aside.iterdir())
    assert [name.partition("-")[0] for name in there] == {2: ["v0.1.0", "v1.0.0"], 1: ["v1.0.0"], 0: []}[keep]
    assert all((aside / name / "server.js").exists() for name in there if name.startswith("v1"))
    assert not [name for name in os.listdir(aside.parent) if name.startswith("v1.0.0")]


def test_a_smoke_that_fails_ends_the_slot(world: World) -> None:
    run(world, "prepared")
    result = run(world, "started", smoke=[{"name": "a page", "path": "/nowhere"}])
    assert result["failed"]
    assert "a page (GET /nowhere): status 404 instead of 200" in result["msg"]
    assert names(world) == {"wallet-web-blue"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"services": [{"name": "web", "entry": "npm", "ports": {"blue": 1, "green": 2, "rehearsal": 3}}]},
            "must be a file of the release such as server.js, not 'npm'",
        ),
        ({"services": [{"name": "web", "entry": "server.js", "ports": {"blue": 1, "green": 1, "rehearsal": 3}}]}, "web needs three different ports"),
        ({"smoke": [{"path": "nowhere"}]}, "needs a path that begins with /"),
        ({"smoke": [{"path": "/", "statuss": 1}]}, "unknown key statuss"),
        ({"env_file": "/nowhere.env"}, "The environment file /nowhere.env is not there."),
        ({"pm2_command": ["/nowhere/pm2"]}, "/nowhere/pm2 is not there"),
    ],
)
def test_bad_input_is_named(world: World, more: dict[str, Any], said: str) -> None:
    before = names(world)
    result = run(world, "started", **more)
    assert result["failed"]
    assert said in result["msg"]
    assert names(world) == before


def test_a_port_that_a_stranger_holds_is_named(world: World) -> None:
    """A stranger's answer must not be taken for the app's."""
    run(world, "prepared")
    run(world, "stopped")
    with socket.create_server(("127.0.0.1", world.facts["ports"]["green"])):
        result = run(world, "started")
    assert result["failed"]
    assert f"Port {world.facts['ports']['green']} of green is held by a process that is not the app's." in result["msg"]
    assert names(world) == {"wallet-web-blue"}


def test_an_older_fence_is_refused(world: World) -> None:
    assert not run(world, "stopped", fence=1000).get("failed")
    result = run(world, "stopped", fence=999)
    assert result["failed"]
    assert "1000" in result["msg"]
    Path(world.facts["app"], "fence").unlink()


@pytest.mark.parametrize("state", ["prepared", "started"])
def test_a_cut_step_can_be_run_again(world: World, state: str) -> None:
    """Killed at several moments; the live slot never notices, and the next run puts things right."""
    run(world, "absent")
    if state == "started":
        run(world, "prepared")
    for after in (0.4, 0.7, 1.1):
        process = popen(world, arguments(world, state))
        time.sleep(after)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert "wallet-web-blue" in names(world)
    assert not run(world, state).get("failed")
    assert run(world, "read")["slots"]["blue"]["online"] == 2
    assert [name for name in os.listdir(Path(world.facts["app"], "releases")) if name.endswith(".partial")] == []


def test_a_slot_that_is_stopped_finishes_what_it_serves_or_says_what_was_cut(world: World) -> None:
    port = world.facts["ports"]["green"]
    for closes, said in ((True, "green drained 1 connections in"), (False, "green was ended after 2 s; 1 of 1 connections were cut")):
        assert not run(world, "started").get("failed")
        with socket.create_connection(("127.0.0.1", port)) as visitor:
            process = popen(world, arguments(world, "stopped", drain_timeout=2))
            time.sleep(1.0)
            assert "wallet-web-green" in names(world)  # it waits for the visitor
            if closes:
                visitor.close()
            out, _err = process.communicate(timeout=60)
        result = json.loads(out)
        assert any(action.startswith(said) for action in result["actions"]), result["actions"]
        assert "wallet-web-green" not in names(world)


def test_what_browsers_load_holds_no_secret(world: World, tmp_path: Path) -> None:
    """The built release is looked through, also when it was built before; what is found is named and not shown."""
    loaded = next(line.strip() for line in (CHECKOUT / "tests/apps/wallet/public/wallet.css").read_text(encoding="utf-8").splitlines() if len(line) > 30)
    leaky = tmp_path / "leaky.env"
    leaky.write_text(f"{Path(world.facts['env_file']).read_text(encoding='utf-8')}LEAKED='{loaded}'\n", encoding="utf-8")
    schema = {"LEAKED": {"server_only": True}, "STRIPE_SECRET_KEY": {"kind": "stripe-secret"}}
    clean = run(world, "prepared", bundle=["public"], env=schema)
    assert [(gate["name"], gate["verdict"]) for gate in clean["gates"]] == [("client bundle", "pass")]
    found = run(world, "prepared", bundle=["public"], env=schema, env_file=str(leaky))["gates"][0]
    assert (found["verdict"], found["sentence"].partition(".css")[0]) == ("fail", "LEAKED is in public/wallet")
    assert loaded not in json.dumps(found)
    assert run(world, "prepared", bundle=["static"], env=schema)["gates"][0]["verdict"] == "inconclusive"


def test_what_a_slot_was_started_with_is_known_by_fingerprints(world: World, play: Callable[..., Run], tmp_path: Path) -> None:
    """Another key than the live version's is refused; the record holds no value."""
    env = Path(world.facts["env_file"]).read_text(encoding="utf-8")
    schema = {"STRIPE_WEBHOOK_SECRET": {"kind": "stripe-webhook", "stable": True}}
    record = Path(world.facts["app"], "slots", "blue.json").read_text(encoding="utf-8")
    assert "fingerprints" in record and not any(value in record for value in env.replace("\n", "=").split("=") if len(value) > 12 and not value.isupper())
    same = play("preflight", app_env=schema)
    assert "environment of the live version" not in same.text and "not the one the live version" not in same.text
    other = tmp_path / "other.env"
    other.write_text(re.sub(r"(whsec_.)", r"\g<1>Zz", env), encoding="utf-8")
    other.chmod(0o600)
    changed = play("preflight", app_env=schema, app_env_file=str(other))
    assert changed.rc != 0
    assert "environment STRIPE_WEBHOOK_SECRET: it is not the one the live version was started with" in changed.flat


PYTHON_APP = """
import http.server, json, os

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"status": "ok", "version": "v1.0.0-py", "slot": os.environ["SLUICE_SLOT"]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def test_a_python_service_runs_from_the_venv_of_its_release(world: World) -> None:
    """PM2 runs it by its interpreter; a reload or a ready signal, which only Node has, is not waited for."""
    ports = {slot: world.facts["ports"][slot] for slot in ("blue", "green", "rehearsal")}
    service = {"name": "web", "entry": "app.py", "interpreter": ".venv/bin/python", "ports": ports, "health_path": "/health"}
    given: dict[str, Any] = {
        "version": "v1.0.0-py",
        "services": [service],
        "build": [[sys.executable, "-m", "venv", "--without-pip", ".venv"], [sys.executable, "-c", f"open('app.py', 'w').write({PYTHON_APP!r})"]],
        "smoke": [{"path": "/health", "json": {"slot": "green"}}],
    }
    run(world, "stopped")
    try:
        assert run(world, "prepared", **given)["changed"]
        done = run(world, "started", **given)
        assert not done.get("failed"), done["msg"]
        assert not run(world, "started", **given)["changed"]
        pid = next(entry["pid"] for entry in world.pm2() if entry["name"] == "wallet-web-green")
        assert Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")[0].endswith(b"/.venv/bin/python")
        assert run(world, "stopped", **given)["changed"]
        broken = run(world, "started", **{**given, "services": [{**service, "args": ["--nothing"], "entry": "absent.py"}]})
        assert "absent.py" in broken["msg"]
    finally:
        run(world, "absent", **given)
