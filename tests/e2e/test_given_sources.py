# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases from an archive or a folder, and versions built once: two app hosts, a database host and a build host, by the roles' own tasks."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from base64 import urlsafe_b64encode
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stores import Ssh
from tests.sandbox.world import CHECKOUT

BIN = Path(sys.executable).parent
PLAY = """
- name: Prepare a version
  hosts: apphosts:databases
  gather_facts: false
  vars:
    slot_version: v1.0.0
    slot_commit: "{{ hostvars[groups['apphosts'][0]].__preflight_gates.commit }}"
  tasks:
    - ansible.builtin.import_role: {name: sluice.deploy.app, rolespec_validate: false}
    - sluice.deploy.inputs: {required: [app_name, app_source, app_services]}
      run_once: true
    - ansible.builtin.import_role: {name: sluice.deploy.preflight, tasks_from: host, rolespec_validate: false}
      vars: {__preflight_ports: []}
    - ansible.builtin.import_role: {name: sluice.deploy.preflight, tasks_from: hygiene, rolespec_validate: false}
    - ansible.builtin.assert:
        that: __preflight_gates.gates | selectattr('name', 'eq', 'source') | rejectattr('verdict', 'eq', 'pass') | length == 0
      when: inventory_hostname in groups['apphosts']
    - ansible.builtin.include_role: {name: sluice.deploy.slot, rolespec_validate: false}
      vars: {slot_state: prepared}
"""
# Counts itself, and takes the time to be killed in.
BUILD = [["sh", "-c", "echo $PWD >> $COUNT; sleep ${PAUSE:-0}; echo built > built.txt; ln -s /bin/sh shell"]]


def files(folder: Path) -> Path:
    """Make the folder of a small app, with the history of its version control."""
    (folder / "migrations").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("[core]\n", encoding="utf-8")
    (folder / "server.js").write_text("// the shop\n", encoding="utf-8")
    (folder / "migrations" / "0001_shop.sql").write_text("SELECT 1;\n", encoding="utf-8")
    return folder


class Fleet:
    """Two app hosts, a database host and a build host on this machine, each with a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = folder / "count"
        self.source = files(folder / "checkout")
        self.play_file = folder / "prepare.yml"
        self.play_file.write_text(PLAY, encoding="utf-8")
        local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        hosts = {name: {**local, "app_directory": str(folder / name)} for name in ("app1", "app2", "db1")}
        services = [{"name": "web", "entry": "server.js", "ports": {"blue": 3001, "green": 3002, "rehearsal": 3003}}]
        self.inventory: dict[str, Any] = {
            "all": {
                "hosts": {**hosts, "builder": local},
                "children": {"apphosts": {"hosts": {"app1": None, "app2": None}}, "databases": {"hosts": {"db1": None}}},
                "vars": {
                    "app_name": "shop",
                    "app_source": str(self.source),
                    "app_source_kind": "directory",
                    "app_services": services,
                    "app_env_file": "/nowhere.env",
                    "app_public_url": "http://127.0.0.1:1",
                    "app_build": BUILD,
                    "app_build_env": {"COUNT": str(self.count)},
                    "app_build_directory": str(folder / "builds"),
                    "preflight_version": "v1.0.0",
                    "preflight_min_free_bytes": 1,
                    "preflight_hygiene": True,
                },
            }
        }

    def words(self, *words: str, **variables: Any) -> tuple[list[str], dict[str, str]]:
        inventory = self.folder / "hosts.json"
        inventory.write_text(json.dumps(self.inventory), encoding="utf-8")
        env = {**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "sluice.deploy.release", "ANSIBLE_NOCOLOR": "1"}
        env["ANSIBLE_LOCAL_TEMP"] = env["ANSIBLE_REMOTE_TEMP"] = str(self.folder / "tmp")
        return [str(BIN / "ansible-playbook"), "-i", str(inventory), str(self.play_file), "-e", json.dumps(variables), *words], env

    def prepare(self, *words: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        command, env = self.words(*words, **variables)
        done = subprocess.run(command, env=env, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False)
        assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
        return done

    def releases(self, host: str) -> list[Path]:
        """Return all that lies among the releases of a host."""
        return sorted((self.folder / host / "releases").iterdir()) if (self.folder / host / "releases").exists() else []

    def release(self, host: str) -> Path:
        """Return the one release of a host, which is whole."""
        (found,) = self.releases(host)
        assert (found / ".sluice.json").exists() and re.fullmatch(r"v1\.0\.0-[0-9a-f]{12}", found.name)
        return found

    def built(self) -> int:
        """Return how often the version was built."""
        return len(self.count.read_text(encoding="utf-8").splitlines()) if self.count.exists() else 0

    def archive(self, *evil: tarfile.TarInfo) -> dict[str, Any]:
        """Write an archive as a CI makes it, with a folder around everything, and return the variables that name it."""
        path = self.folder / "shop-v1.0.0.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            tar.add(self.source / "server.js", "shop-1.0.0/server.js")
            tar.add(self.source / "migrations", "shop-1.0.0/migrations")
            for info in evil:
                tar.addfile(info, io.BytesIO(b"x" * info.size))
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        return {"app_source": str(path).replace("v1.0.0", "{{ slot_version }}"), "app_source_kind": "archive", "app_source_sha256": sha256}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


@pytest.mark.parametrize("kind", ["archive", "directory"])
def test_a_source_on_the_control_node_gets_to_every_host_once(fleet: Fleet, kind: str) -> None:
    given = fleet.archive() if kind == "archive" else {}
    would = fleet.prepare("--check", **given)
    assert would.returncode == 0, would.stdout + would.stderr
    assert "built v1.0.0" in would.stdout and not any(fleet.releases(host) for host in ("app1", "app2", "db1")) and fleet.built() == 0
    done = fleet.prepare("-vvv", **given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall(r"PUT .* TO .*release\.tar", done.stdout)) == 3
    for host in ("app1", "app2", "db1"):
        found = fleet.release(host)
        assert sorted(path.name for path in found.iterdir() if path.name not in ("built.txt", "shell", ".sluice.json")) == ["migrations", "server.js"]
        assert (found / "built.txt").exists() == (host != "db1")
        if kind == "archive":
            assert found.name == f"v1.0.0-{given['app_source_sha256'][:12]}"
    assert fleet.built() == 2
    again = fleet.prepare("-vvv", **given)
    assert again.returncode == 0 and not re.findall(r"PUT .* TO .*release\.tar", again.stdout), again.stdout
    assert fleet.built() == 2 and again.stdout.count("is built already") >= 3
    assert list((fleet.folder / "tmp").rglob("*.tar")) == []


def test_an_archive_at_an_address_is_fetched_once_for_all(fleet: Fleet) -> None:
    given, asked = fleet.archive(), []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, _form: str, *args: Any) -> None:
            asked.append(args[0])

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(fleet.folder))) as shelf:
        threading.Thread(target=shelf.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        given["app_source"] = f"http://127.0.0.1:{shelf.server_address[1]}/shop-{{{{ preflight_version }}}}.tar.gz?signature=sentinel"
        wrong = fleet.prepare("-vvv", **{**given, "app_source_sha256": "0" * 64})
        assert wrong.returncode != 0 and "It is another file than the one that was approved." in " ".join(wrong.stdout.split()), wrong.stdout
        asked.clear()
        would = fleet.prepare("--check", **given)
        assert would.returncode == 0, would.stdout + would.stderr
        assert not any(fleet.releases(host) for host in ("app1", "app2", "db1"))
        done = fleet.prepare("-vvv", **given)
        assert done.returncode == 0, done.stdout + done.stderr
        for host in ("app1", "app2", "db1"):
            assert fleet.release(host).name == f"v1.0.0-{given['app_source_sha256'][:12]}"
        elsewhere = fleet.prepare("-vvv", **given, app_build_where="builder", slot_version="v1.0.1")
        shelf.shutdown()
    assert asked == ["GET /shop-v1.0.0.tar.gz?signature=sentinel HTTP/1.1"]
    assert elsewhere.returncode == 0, elsewhere.stdout + elsewhere.stderr
    for run in (wrong, would, done, elsewhere):
        assert not [line for line in (run.stdout + run.stderr).splitlines() if "signature" in line and "ansible-playbook" not in line]
    again = fleet.prepare(**given)
    assert again.returncode == 0 and again.stdout.count("is built already") >= 3, again.stdout


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    """Return a member that no tool would make by itself."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, 1 if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize(
    ("evil", "more", "said"),
    [
        ((), {"app_source_sha256": "0" * 64}, "It is another file than the one that was approved."),
        ((), {"app_source_sha256": ""}, "app_source_sha256 must be the SHA-256 of the archive"),
        ((), {"app_source_kind": "directory", "app_source": "/nowhere"}, "app_source /nowhere is no folder on the control node."),
        ((), {"app_build_where": "elsewhere"}, "which has no host elsewhere"),
        ((member("shop-1.0.0/../../evil"),), {}, "would land outside of the release folder"),
        ((member("shop-1.0.0/etc", tarfile.SYMTYPE, "/etc"), member("shop-1.0.0/etc/evil")), {}, "would be written through the link"),
    ],
)
def test_what_must_not_be_released_is_refused_before_any_host_gets_it(fleet: Fleet, evil: tuple[tarfile.TarInfo, ...], more: dict[str, Any], said: str) -> None:
    done = fleet.prepare(**{**fleet.archive(*evil), **more})
    assert done.returncode != 0
    assert said in " ".join(done.stdout.split()), done.stdout
    assert not any((fleet.folder / host).exists() for host in ("app1", "app2", "db1", "builds"))


@pytest.mark.parametrize("kind", ["git", "directory"])
def test_it_is_built_once_on_the_control_node(fleet: Fleet, kind: str) -> None:
    given: dict[str, Any] = {"app_build_where": "control"}
    if kind == "git":
        given["app_source_kind"] = "git"
        subprocess.run(["rm", "-r", ".git"], cwd=fleet.source, check=True, timeout=10)
        for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "shop"], ["tag", "v1.0.0"]):
            subprocess.run(["git", *words], cwd=fleet.source, check=True, timeout=10)
    would = fleet.prepare("--check", **given)
    assert would.returncode == 0, would.stdout + would.stderr
    assert "would build v1.0.0 on control" in would.stdout and not (fleet.folder / "builds").exists()
    done = fleet.prepare("-vvv", **given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert fleet.built() == 1 and "control: now sh -c" in done.stdout
    for host in ("app1", "app2"):
        found = fleet.release(host)
        assert (found / "built.txt").read_text(encoding="utf-8") == "built\n" and os.readlink(found / "shell") == "/bin/sh"
    # The database host needs the migrations and gets the sources, as ever.
    assert (fleet.release("db1") / "migrations").is_dir() and not (fleet.release("db1") / "built.txt").exists()
    assert not list((fleet.folder / "builds" / "releases").iterdir())
    assert (fleet.folder / "builds" / "packages").stat().st_mode & 0o777 == 0o700
    again = fleet.prepare("-vvv", **given)
    assert again.returncode == 0 and fleet.built() == 1 and not re.findall(r"PUT .* TO .*release\.tar", again.stdout), again.stdout
    # A host that comes later gets the same archive.
    subprocess.run(["rm", "-r", str(fleet.folder / "app2")], check=True, timeout=10)
    late = fleet.prepare("-vvv", **given)
    assert late.returncode == 0 and fleet.built() == 1 and len(re.findall(r"PUT .* TO .*release\.tar", late.stdout)) == 1
    assert (fleet.release("app2") / "built.txt").exists()


def test_a_build_that_fails_gets_to_no_host(fleet: Fleet) -> None:
    done = fleet.prepare(app_build_where="control", app_build=[["sh", "-c", "echo no such package >&2; exit 9"]])
    assert done.returncode != 0
    assert "v1.0.0 was not built on control: `nice -n 10 sh -c" in done.stdout and "exit code 9: no such package" in done.stdout
    assert not any(fleet.releases(host) for host in ("app1", "app2"))
    assert not [path.name for path in (fleet.folder / "builds" / "packages").glob("*tar.gz") if "source" not in path.name]


def test_a_long_build_is_told_while_it_runs(fleet: Fleet) -> None:
    fleet.inventory["all"]["children"]["apphosts"]["hosts"] = {"app1": None}
    done = fleet.prepare(app_build_env={"COUNT": str(fleet.count), "PAUSE": "11"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "    app1: prepares v1.0.0 (sh -c 'echo $PWD >> $COUNT; " in done.stdout and ": 10 s so far\n" in done.stdout
    assert re.search(r"app1: ran sh -c .* in 1\d\.\d s\n", done.stdout)


def test_a_build_host_gets_the_sources_and_gives_back_what_it_built(fleet: Fleet, ssh_server: Ssh) -> None:
    """Over SSH; the build host has another home, so what is not carried is not there."""
    home = fleet.folder / "home of the builder"
    home.mkdir()
    python = fleet.folder / "python"
    python.write_text(f'#!/bin/sh\nHOME="{home}" exec {sys.executable} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    options = f"-o UserKnownHostsFile={ssh_server.folder}/known_hosts -o ControlPath=none"
    fleet.inventory["all"]["hosts"]["builder"] = {
        "ansible_connection": "ssh",
        "ansible_host": "127.0.0.1",
        "ansible_port": ssh_server.port,
        "ansible_ssh_private_key_file": str(ssh_server.folder / "client"),
        "ansible_ssh_common_args": options,
        "ansible_python_interpreter": str(python),
    }
    own = fleet.folder / "home of the operator"
    own.mkdir()
    given = {"app_build_where": "builder", "app_build_directory": "~/builds"}
    command, env = fleet.words("-vvv", **given)
    env = {**env, "HOME": str(own)}

    def prepare() -> str:
        done = subprocess.run(command, env=env, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = prepare()
    assert "fetched 0.0 MiB from builder" in said
    assert fleet.count.read_text(encoding="utf-8").startswith(str(home / "builds" / "releases" / "v1.0.0-")) and fleet.built() == 1
    assert (fleet.release("app1") / "built.txt").exists() and (fleet.release("app2") / "built.txt").exists()
    (ours,) = [path for path in (own / "builds/packages").glob("*.tar.gz") if "source" not in path.name]
    assert ours.read_bytes() == (home / "builds/packages" / ours.name).read_bytes()
    again = prepare()
    assert fleet.built() == 1 and "sources.tar" not in again and "FETCH" not in again and "127.0.0.1> SSH: EXEC" not in again
    # What the control node lost, the build host still has.
    ours.write_bytes(ours.read_bytes()[:-7])
    once = prepare()
    assert fleet.built() == 1 and "sources.tar" not in once and "fetched 0.0 MiB from builder" in once


@pytest.mark.parametrize("where", ["target", "control"])
def test_a_run_that_is_cut_while_it_builds_goes_on(fleet: Fleet, where: str) -> None:
    command, env = fleet.words(app_build_where=where, app_build_env={"COUNT": str(fleet.count), "PAUSE": "20"})
    process = subprocess.Popen(command, env={**env, "SLUICE_CUT": str(fleet.folder)}, cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while fleet.built() < (2 if where == "target" else 1):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
    finally:
        end(f"SLUICE_CUT={fleet.folder}", f"COUNT={fleet.count}")
        process.wait(timeout=20)
    # The same build, but for the pause.
    done = fleet.prepare(app_build_where=where)
    assert done.returncode == 0, done.stdout + done.stderr
    for host in ("app1", "app2"):
        assert (fleet.release(host) / "built.txt").read_text(encoding="utf-8") == "built\n"
    assert list((fleet.folder / "builds").rglob("*.partial")) == []


def end(*marks: str) -> None:
    """End every process of this test, wherever it went: each carries a variable that only this test has."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(mark.encode() in (entry / "environ").read_bytes().split(b"\0") for mark in marks):
                os.kill(int(entry.name), signal.SIGKILL)


# Cut at every change, as a host sees it --------------------------------------------------------------


def test_an_unpacking_that_is_cut_anywhere_can_be_run_again(tmp_path: Path) -> None:
    source = files(tmp_path / "checkout")
    packed = tmp_path / "release.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(source, ".")
    given = {
        "state": "prepared",
        "app": "shop",
        "directory": str(tmp_path / "app"),
        "services": [{"name": "web", "entry": "server.js", "ports": {"blue": 3001, "green": 3002, "rehearsal": 3003}}],
        "version": "v1.0.0",
        "commit": "c" * 40,
        "source": "",
        "package": {"path": str(packed), "sha256": hashlib.sha256(packed.read_bytes()).hexdigest(), "built": False},
        "build": [["sh", "-c", "echo built > built.txt"]],
    }
    folder = tmp_path / "app" / "releases" / f"v1.0.0-{'c' * 12}"
    cut = 0
    for count in range(1, 100):
        killed = module(given, count, tmp_path)
        whole = (folder / ".sluice.json").exists()
        assert not whole or (folder / "built.txt").read_text(encoding="utf-8") == "built\n"
        if killed.returncode != -signal.SIGKILL:
            break
        cut += 1
        if not whole:
            again = json.loads(module(given, 0, tmp_path).stdout)
            assert again["changed"], again
        assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]
        assert (folder / "server.js").exists() and (folder / "built.txt").exists() and (folder / ".sluice.json").exists()
        subprocess.run(["rm", "-r", str(tmp_path / "app")], check=True, timeout=10)
    assert cut >= 8
    package = {**given["package"], "sha256": "0" * 64}  # type: ignore[dict-item]
    wrong = json.loads(module({**given, "package": package, "commit": "d" * 40}, 0, tmp_path).stdout)
    assert wrong["failed"] and "did not arrive whole" in wrong["msg"]
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]


def module(given: dict[str, Any], count: int, beneath: Path) -> subprocess.CompletedProcess[str]:
    """Run the module slot, and kill it before its n-th change."""
    words = [sys.executable, str(CHECKOUT / "tests/e2e/kill_at.py"), "ansible_collections.sluice.deploy.plugins.modules.slot", str(count), str(beneath / "app")]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT / ".venv/collections")}
    done = subprocess.run(words, input=json.dumps({"ANSIBLE_MODULE_ARGS": given}), env=env, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    return done


# Python ------------------------------------------------------------------------------------------------


def wheel(folder: Path) -> str:
    """Write a wheel with a command, and return the line that a lock file has for it."""
    folder.mkdir(parents=True)
    path, info = folder / "greeter-1.0-py3-none-any.whl", "greeter-1.0.dist-info"
    held = {
        "greeter.py": "import sys\n\n\ndef main():\n    print('greetings from', sys.prefix)\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: greeter\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": "[console_scripts]\ngreet = greeter:main\n",
    }
    prints = {name: urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=") for name, text in held.items()}
    held[f"{info}/RECORD"] = "".join(f"{name},sha256={print_},{len(held[name])}\n" for name, print_ in prints.items()) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in held.items():
            archive.writestr(name, text)
    return f"greeter==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.mark.parametrize("where", ["target", "control"])
def test_a_python_venv_from_a_lock_file_works_where_it_lands(fleet: Fleet, where: str) -> None:
    """A venv holds its own path, so it is made where it will lie; elsewhere, below a folder of the same path."""
    (fleet.source / "requirements.lock").write_text(wheel(fleet.source / "wheels"), encoding="utf-8")
    install = [".venv/bin/python", "-m", "pip", "install", "--no-index", "--find-links", "wheels", "--require-hashes", "-r", "requirements.lock"]
    given = {"app_build": [[sys.executable, "-m", "venv", ".venv"], install], "app_build_where": where}
    if where == "control":
        fleet.inventory["all"]["children"]["apphosts"]["hosts"] = {"app1": None}
        given["app_build_directory"] = str(fleet.folder / "app1")
    done = fleet.prepare(**given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pip install --no-index" in done.stdout
    for host in ("app1", "app2") if where == "target" else ("app1",):
        found = fleet.release(host)
        said = subprocess.run([str(found / ".venv/bin/greet")], capture_output=True, text=True, timeout=20, check=True).stdout
        assert said.strip() == f"greetings from {found}/.venv"
