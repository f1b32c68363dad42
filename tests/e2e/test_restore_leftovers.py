# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a cut run leaves beside the database: named by the checks, cleaned up or used by the next run, and never the live database's own traits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from ansible_collections.sluice.deploy.plugins.module_utils.core import migrations

from tests.e2e.test_database import APP, CHECKOUT, MORE, PASSWORD, RELEASE, Server, collections, free_port, server  # noqa: F401  # pylint: disable=unused-import
from tests.e2e.test_restore_swap import Shop, shop, spoil

SHIPPED = yaml.safe_load((CHECKOUT / "roles/database/files/checks.yml").read_text(encoding="utf-8"))


@pytest.fixture
def site(server: Server, collections: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Shop]:  # noqa: F811
    yield from shop(server, collections, tmp_path, f"Le {abs(hash(request.node.name)) % 10**8} é")


def cut(site: Shop, module: str, number: int, **words: Any) -> tuple[int, list[str]]:
    """Run a module that is killed before its n-th statement; return its exit code and what it listed."""
    given = {"app": APP, "env_file": str(site.env), "client_directory": str(site.server.programs), "lock_wait": 10, **words}
    env = {"PYTHONPATH": str(site.collections), "PATH": os.environ["PATH"], "HOME": str(site.folder), "TMPDIR": str(site.folder)}
    argv = [sys.executable, CHECKOUT / "tests/e2e/kill_at_sql.py", f"ansible_collections.sluice.deploy.plugins.modules.{module}", str(number)]
    done = subprocess.run(argv, env=env, input=json.dumps({"ANSIBLE_MODULE_ARGS": given}), capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr.splitlines()


def found(site: Shop, name: str) -> list[str]:
    """Return what one of the collection's checks finds beside this database."""
    answer = site.good("database", lock_wait=None, checks=[check for check in SHIPPED if check["id"] == name])
    return [each["object"] for check in answer["checks"] for each in check["findings"]]


def traits(site: Shop) -> str:
    return site.server.sql(f"SELECT datconnlimit, datallowconn FROM pg_database WHERE datname = {migrations.literal(site.database)}")


def quoted(name: str) -> str:
    return migrations.identifier(name)


def test_a_drill_cut_at_any_statement_is_named_and_cleaned_up_by_the_next(site: Shop) -> None:
    copy, folder = f"{site.database}_restored", str(site.backups / f"{APP}-{RELEASE}")
    assert (found(site, "copy-left-over"), found(site, "restored-copy")) == ([], [quoted(copy)])
    site.good("drill", state="absent")
    _rc, listed = cut(site, "drill", 0, backup=folder)
    site.good("drill", state="absent")
    made = next(number for number, line in enumerate(listed, 1) if line.startswith("CREATE DATABASE"))
    for number in range(made + 1, len(listed) + 1):
        assert cut(site, "drill", number, backup=folder)[0] == -signal.SIGKILL, listed[number - 1]
        assert found(site, "copy-left-over") == [quoted(copy)], listed[number - 1]
        if number % 2:
            result = site.good("drill", backup=folder)
            assert result["actions"][0] == f"dropped {copy}, left by an earlier run" and found(site, "copy-left-over") == []
        assert site.good("drill", state="absent")["changed"] and copy not in site.databases()
    assert traits(site) == "-1|t"


def test_a_rehearsal_cut_at_any_statement_leaves_a_copy_that_the_next_one_uses(site: Shop) -> None:
    copy, words = f"{site.database}_rehearsal", {"directory": site.files(MORE)}
    _rc, listed = cut(site, "rehearsal", 0, **words)
    site.good("rehearsal", state="absent")
    made = next(number for number, line in enumerate(listed, 1) if line.startswith("CREATE DATABASE"))
    for number in (made + 1, made + 2, made + 3, made + 4, len(listed)):
        assert cut(site, "rehearsal", number, **words)[0] == -signal.SIGKILL, listed[number - 1]
        assert found(site, "copy-left-over") == [quoted(copy)], listed[number - 1]
    assert f"dropped {copy}" in site.good("rehearsal", **words)["actions"][0]
    # The restored copy that the rehearsal was made from is still the proven one.
    assert not site.good("drill", backup=str(site.backups / f"{APP}-{RELEASE}"))["changed"] and found(site, "restored-copy") == [f'"{site.database}_restored"']


def test_a_failed_rehearsal_leaves_a_proven_copy_that_is_named_and_used_again(site: Shop) -> None:
    broken = site.files({**MORE, "0004_bad.sql": "ALTER TABLE nowhere ADD x int;\n"})
    assert "0004_bad failed" in site.bad("rehearsal", directory=broken)
    assert found(site, "copy-left-over") == [] and found(site, "restored-copy") == [f'"{site.database}_restored"']
    assert site.good("rehearsal", directory=site.files(MORE))["actions"][0].startswith("copied ")
    # Another release's drill takes its place.
    result = site.good("drill", backup=site.backup("r2")["backup"]["path"])
    assert result["actions"][0] == f"dropped {site.database}_restored, left by an earlier run"


def test_somebody_elses_closed_database_is_neither_named_nor_dropped(site: Shop) -> None:
    copy = f"{site.database}_restored"
    site.good("drill", state="absent")
    site.server.sql(f"CREATE DATABASE {quoted(copy)} ALLOW_CONNECTIONS false CONNECTION LIMIT 0")
    assert found(site, "copy-left-over") == []
    assert "so it is left alone" in site.bad("drill", backup=str(site.backups / f"{APP}-{RELEASE}")) and copy in site.databases()


def test_the_limit_and_the_door_of_the_database_are_the_same_after_a_cut_at_any_point(site: Shop) -> None:
    site.server.sql(f"ALTER DATABASE {quoted(site.database)} CONNECTION LIMIT 23")
    site.drill()
    spoil(site)
    words = {"backup": RELEASE, "directory": str(site.backups), "accept_loss": RELEASE, "again": True}
    killed = []
    # What a cut run did need not be done again, so the last number is not known before.
    for number in range(1, 40):
        site.drill()
        rc, listed = cut(site, "restore", number, **words)
        assert traits(site) == "23|t", (number, listed)
        if rc != -signal.SIGKILL:
            break
        killed.append(number)
    assert rc == 0 and len(killed) >= 8 and site.restore()["done"]
    site.good("restore", state="swapped_back", accept_loss=RELEASE)
    assert traits(site) == "23|t"


# --- Secrets -----------------------------------------------------------------------------------------------------------


@contextmanager
def watched(look: Callable[[], None]) -> Iterator[None]:
    """Look again and again until the block ends."""
    over = threading.Event()

    def go_on() -> None:
        while not over.wait(0.002):
            look()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_no_password_is_in_any_process_of_the_machine(site: Shop) -> None:
    secrets = [secret.encode() for secret in (PASSWORD, quote(PASSWORD, safe=""), PASSWORD[:12])]
    seen: set[str] = set()
    told: list[str] = []

    def look() -> None:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                argv, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
            except OSError:
                continue  # it has ended, or is not ours to read
            if str(site.folder).encode() not in argv + environment:
                continue
            seen.add(os.path.basename(argv.split(b"\0")[0].decode(errors="replace")))
            told.extend(process.name for secret in secrets if secret in argv + environment)

    with watched(look):
        spoil(site)
        folder = site.backup("watched")["backup"]["path"]
        site.good("drill", backup=folder)
        site.good("rehearsal", directory=site.files(MORE))
        site.good("restore", backup="watched", directory=str(site.backups))
        site.good("restore", state="swapped_back")
    assert {"psql", "pg_dump", "pg_dumpall", "pg_restore"} <= seen, seen
    assert told == []


# --- A standby ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def standby(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:  # noqa: F811
    """Run a standby that follows the server."""
    (base := server.folder.parent / "standby").mkdir(mode=0o700)
    follower = Server(base, server.programs)
    if follower.account:
        os.chown(base, follower.account["user"], follower.account["group"])
    server.sql("SELECT 1")  # writes the password file
    secret = base / "pass"
    secret.write_text((server.folder.parent / "pass").read_text())
    secret.chmod(0o600)
    if follower.account:
        os.chown(secret, follower.account["user"], follower.account["group"])
    words = ["-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres", "-D", str(base / "data"), "-R", "-X", "stream", "-c", "fast"]
    env = {"PGPASSFILE": str(secret), "PATH": os.environ["PATH"]}
    subprocess.run([server.programs / "pg_basebackup", *words], env=env, check=True, capture_output=True, timeout=120, cwd=base, **follower.account)
    try:
        follower.start()
        yield follower
    finally:
        follower.stop()


def test_a_standby_is_refused_in_words(site: Shop, standby: Server) -> None:
    assert standby.sql("SELECT pg_is_in_recovery()") == "t"
    site.use(standby.url(site.database))
    folder, files = str(site.backups / f"{APP}-{RELEASE}"), site.files(MORE)
    assert "The server is a standby, which changes nothing." in site.refused()
    for module, arguments in (("drill", {"backup": folder}), ("rehearsal", {"directory": files}), ("migrate", {"directory": files})):
        for check in (False, True):
            message = site.bad(module, check, **arguments)
            assert message.startswith(f"The PostgreSQL at 127.0.0.1:{standby.port}/{site.database} is a standby") and "Name the primary" in message
