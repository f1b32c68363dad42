# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A restore by swap that is cut in the middle: by SIGKILL, by a server that goes away, by a rename that fails. Never two half-renamed databases."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import migrations

from tests.e2e.pgbouncers import PgBouncer
from tests.e2e.test_database import APP, CHECKOUT, RELEASE, Server, collections, server  # noqa: F401  # pylint: disable=unused-import
from tests.e2e.test_restore_swap import Shop, shop, spoil


@pytest.fixture
def site(server: Server, collections: Path, tmp_path: Path) -> Iterator[Shop]:  # noqa: F811
    yield from shop(server, collections, tmp_path, "Cut it éarly")


@pytest.fixture
def pool(site: Shop) -> Iterator[PgBouncer]:
    """Put a PgBouncer in front of the app's database."""
    pool = PgBouncer(site.server, site.database)
    site.env.write_text(site.env.read_text() + f"PGBOUNCER_URL={pool.url}\n")
    yield pool
    pool.stop()


def cut(site: Shop, number: int, *program: str) -> tuple[int, dict[str, Any], list[str]]:
    """Run the module with something happening before its n-th statement; return exit code, result and what it listed."""
    words = {
        "app": APP,
        "env_file": str(site.env),
        "client_directory": str(site.server.programs),
        "lock_wait": 5,
        "backup": RELEASE,
        "directory": str(site.backups),
        "accept_loss": RELEASE,
        "pgbouncer_vars": ["PGBOUNCER_URL"],
    }
    env = {"PYTHONPATH": str(site.collections), "PATH": os.environ["PATH"], "HOME": str(site.folder), "TMPDIR": str(site.folder)}
    argv = [sys.executable, CHECKOUT / "tests/e2e/kill_at_sql.py", "ansible_collections.sluice.deploy.plugins.modules.restore", str(number), *program]
    given = json.dumps({"ANSIBLE_MODULE_ARGS": words})
    done = subprocess.run(argv, env=env, input=given, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr.splitlines()


def script(site: Shop, name: str, *lines: str) -> str:
    path = site.folder / name
    path.write_text("#!/bin/sh\n" + "\n".join(lines) + "\n")
    path.chmod(0o700)
    return str(path)


def place(listed: list[str], wanted: str) -> int:
    return next(number for number, line in enumerate(listed, 1) if wanted in line)


def test_a_killed_restore_leaves_one_whole_database_and_the_next_run_ends_it(site: Shop, pool: PgBouncer) -> None:
    good = site.state()
    spoil(site)
    bad = site.state()
    # Once to its end and back, only to learn what it says to the servers.
    _rc, result, listed = cut(site, 0)
    assert result["changed"], result
    site.good("restore", state="swapped_back", accept_loss=RELEASE)
    assert site.state() == bad
    last = max(number for number, line in enumerate(listed, 1) if line == "COMMIT")
    for number in range(1, last + 1):
        if number == 1 or any("_restored" in line and "|t|" in line for line in site.names()):
            site.drill()  # a copy that was open when its run was killed proves nothing, and is made anew
        before = [line.split("|")[:2] for line in site.names()]
        rc, _result, _listed = cut(site, number)
        assert rc == -signal.SIGKILL, listed[number - 1]
        pool.console(f"RESUME {pool.name}")  # the next run would do so too, as one statement more
        # Nobody is kept out, and both names are as they were.
        assert site.state() == bad, listed[number - 1]
        assert [line.split("|")[:2] for line in site.names()] == before
    site.drill()
    assert cut(site, place(listed, "RESUME"))[0] == -signal.SIGKILL
    assert site.state() == good
    result = site.restore(pgbouncer_vars=["PGBOUNCER_URL"])
    assert result["done"] and "left paused by a run that was killed" in result["actions"][0] and site.state() == good
    assert pool.client().communicate("SELECT 1;", timeout=10)[0] == "1\n"
    assert list(site.folder.glob("sluice-pg-*")) == []


def test_a_rename_that_fails_undoes_the_other_and_clients_go_on(site: Shop, pool: PgBouncer) -> None:
    spoil(site)
    bad = site.state()
    copy = migrations.identifier(f"{site.database}_restored")
    rename = script(
        site,
        "rename",
        f"PGPASSFILE={site.server.folder.parent}/pass exec {site.server.programs}/psql -qX -h 127.0.0.1 -p {site.server.port} -U postgres -d postgres"
        f" -c 'ALTER DATABASE {copy} RENAME TO \"Cut it éway\"'",
    )
    _rc, _result, listed = cut(site, 0, "true")
    site.good("restore", state="swapped_back", accept_loss=RELEASE)
    site.drill()
    second = [number for number, line in enumerate(listed, 1) if "RENAME" in line][1]
    _rc, result, _listed = cut(site, second, rename)
    assert result["failed"] and "does not exist" in result["msg"] and site.state() == bad
    assert pool.client().communicate("SELECT 1;", timeout=10)[0] == "1\n"


def test_a_server_that_goes_away_in_the_middle(site: Shop, pool: PgBouncer) -> None:
    good = site.state()
    spoil(site)
    bad = site.state()
    _rc, _result, listed = cut(site, 0)
    site.good("restore", state="swapped_back", accept_loss=RELEASE)
    renames = [number for number, line in enumerate(listed, 1) if "RENAME" in line]
    for number in (renames[1], max(number for number, line in enumerate(listed, 1) if line == "COMMIT")):
        site.drill()
        assert site.server.process
        pid = site.server.process.pid
        stop = script(site, "stop", f"kill -QUIT {pid}", f"while kill -0 {pid} 2>/dev/null && ! grep -q Z /proc/{pid}/stat; do sleep 0.05; done")
        _rc, result, _listed = cut(site, number, stop)
        assert result["failed"] and "The swap did not come to its end" in result["msg"]
        site.server.process.wait(timeout=20)
        site.server.start()
        assert site.state() == bad
        # It goes on by itself once the server is back: the crash set the counters back, so the agreement is needed, and was given.
    site.drill()
    assert site.restore(pgbouncer_vars=["PGBOUNCER_URL"])["changed"] and site.state() == good
