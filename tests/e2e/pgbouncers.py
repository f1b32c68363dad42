# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A PgBouncer in front of a test's PostgreSQL, and clients that work through it or past it and count what fails."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.e2e.test_database import PASSWORD, Server, free_port

ADMIN_PASSWORD = "adm1n/of@the:pool%"


class PgBouncer:
    """One PgBouncer whose database ``name`` leads to ``database``."""

    def __init__(self, server: Server, database: str, name: str = "shop", mode: str = "transaction") -> None:
        program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
        if not program:
            pytest.fail("pgbouncer is not installed; on Debian: apt-get install pgbouncer")
        self.name, self.port, self.server = name, free_port(), server
        # Beside the server's own folder, which the other account can reach.
        folder = server.folder.parent / f"pool-{self.port}"
        folder.mkdir(mode=0o700)
        # Like PostgreSQL, it refuses to run as root.
        account = {"user": pwd.getpwnam("nobody").pw_uid, "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
        users = folder / "users.txt"
        users.write_text(f'"postgres" "{PASSWORD}"\n"admin" "{ADMIN_PASSWORD}"\n')
        users.chmod(0o600)
        ini = folder / "pgbouncer.ini"
        target = database.replace("'", "''")
        ini.write_text(
            f"[databases]\n{name} = host=127.0.0.1 port={server.port} dbname='{target}'\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {self.port}\n"
            f"unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {users}\nadmin_users = admin\npool_mode = {mode}\ndefault_pool_size = 4\n"
            f"ignore_startup_parameters = extra_float_digits\nserver_login_retry = 1\nlogfile = {folder}/log\n"
        )
        if account:
            for path in (folder, users, ini):
                os.chown(path, account["user"], account["group"])
        with Path(f"{folder}.out").open("wb") as out:
            self.process = subprocess.Popen([program, str(ini)], stdout=out, stderr=out, cwd="/", **account)
        end = time.monotonic() + 10
        while self.console("SHOW VERSION") is None:
            assert self.process.poll() is None and time.monotonic() < end, Path(f"{folder}.out").read_text()
            time.sleep(0.05)

    @property
    def url(self) -> str:
        """Return the URL of the admin console."""
        return f"postgresql://admin:{quote(ADMIN_PASSWORD, safe='')}@127.0.0.1:{self.port}/pgbouncer"

    def console(self, command: str) -> str | None:
        """Give the console a command and return what it prints, or None."""
        env = {"PGPASSWORD": ADMIN_PASSWORD, "PATH": os.environ["PATH"]}
        words = [self.server.programs / "psql", "-qAtX", "-h", "127.0.0.1", "-p", str(self.port), "-U", "admin", "-d", "pgbouncer", "-c", command]
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=20, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    def client(self) -> subprocess.Popen[str]:
        """Start a psql that reads its statements from a pipe."""
        words = client_words(self.server, self.port, self.name)
        return subprocess.Popen(words, env=client_env(self.server), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=20)


def client_words(server: Server, port: int, database: str) -> list[str]:
    return [str(server.programs / "psql"), "-qAtX", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(port), "-U", "postgres", "-d", database]


def client_env(server: Server) -> dict[str, str]:
    # The file, since another test at the same time looks for its password in every environment.
    return {"PGPASSFILE": str(server.folder.parent / "pass"), "PATH": os.environ["PATH"]}


class Clients:
    """Clients that write and read all the while: each is one psql that is started anew when its connection is cut."""

    def __init__(self, server: Server, port: int, database: str, count: int = 3, sql: str = "") -> None:
        self.words, self.env = client_words(server, port, database), client_env(server)
        self.sql = sql or "BEGIN; SELECT count(*) FROM account WHERE id < 10; COMMIT;"
        self.done, self.cut, self.slowest = 0, 0, 0.0
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self._work) for _number in range(count)]

    def __enter__(self) -> Clients:
        for thread in self.threads:
            thread.start()
        end = time.monotonic() + 10
        while self.done < 20:
            assert time.monotonic() < end, "the clients do not get to work"
            time.sleep(0.02)
        return self

    def __exit__(self, *_error: Any) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(timeout=20)

    def _work(self) -> None:
        while not self.over.is_set():
            client = subprocess.Popen(self.words, env=self.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            assert client.stdin and client.stdout
            try:
                while not self.over.is_set():
                    started = time.monotonic()
                    client.stdin.write(f"{self.sql}\n\\echo done\n")
                    client.stdin.flush()
                    while (line := client.stdout.readline()) != "done\n":
                        if not line:
                            raise BrokenPipeError
                    self.done += 1
                    self.slowest = max(self.slowest, time.monotonic() - started)
                    time.sleep(0.01)
            except BrokenPipeError:
                self.cut += 1
                time.sleep(0.02)
            finally:
                try:
                    client.communicate(timeout=10)
                except BrokenPipeError:
                    client.wait(timeout=10)
