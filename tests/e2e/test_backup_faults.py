# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong with a backup and its drill: killed at each step, the server gone, the disk full, no rights, no connections, locks, damage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import backups, migrations

from tests.e2e.test_database import (  # noqa: F401  # pylint: disable=unused-import
    APP,
    BASE,
    CHECKOUT,
    PASSWORD,
    RELEASE,
    Holder,
    Server,
    Site,
    collections,
    damage_empty,
    damage_flip,
    damage_truncate,
    server,
    site,
    wait_for,
)
from tests.sandbox.pg_clients import rich_clients

SLEEPY = '#!/bin/sh\ncase "$*" in *{word}*) {start} ;; esac\nexec {real} "$@"\n'


def wrapped(site: Site, tool: str, word: str, start: str) -> str:  # noqa: F811
    """Return a folder of clients of which one does something before its real work."""
    folder = site.folder / f"clients-{tool}"
    folder.mkdir(exist_ok=True)
    for name in ("psql", "pg_dump", "pg_dumpall", "pg_restore"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(site.server.programs / name)
    (folder / tool).unlink()
    (folder / tool).write_text(SLEEPY.format(word=word, start=start, real=site.server.programs / tool))
    (folder / tool).chmod(0o755)
    return str(folder)


def run_cut(site: Site, module: str, number: int, **arguments: Any) -> tuple[int, str]:  # noqa: F811
    """Run a module that is killed before its call of this number; return its exit code and the calls that kill_at lists."""
    words = {"app": APP, "env_file": str(site.env), "client_directory": str(site.server.programs), "lock_wait": 10, **arguments}
    env = {"PYTHONPATH": str(site.collections), "PATH": os.environ["PATH"], "HOME": str(site.folder), "TMPDIR": str(site.folder)}
    name = f"ansible_collections.sluice.deploy.plugins.modules.{module}"
    done = subprocess.run(
        [sys.executable, CHECKOUT / "tests/e2e/kill_at.py", name, str(number), str(site.folder)],
        env=env,
        input=json.dumps({"ANSIBLE_MODULE_ARGS": words}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


def clean(site: Site) -> bool:  # noqa: F811
    """Tell whether nothing of ours is left in the server."""
    return site.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'sluice:%'") == "0"


def test_a_backup_cut_at_any_call_is_made_again(site: Site) -> None:  # noqa: F811
    _rc, listed = run_cut(site, "backup", 0, directory=str(site.backups), release_id="listed")
    calls = [line for line in listed.splitlines() if line.split()[0] in ("open", "subprocess.Popen") or line.startswith(("os.", "shutil."))]
    assert len(calls) > 10, listed
    # Spread over the whole run, and close together at its end, where the folder gets its name.
    renamed = max(number for number, line in enumerate(calls, 1) if line.startswith("os.rename"))
    for number in (2, renamed // 3, renamed * 2 // 3, renamed - 2, renamed - 1, renamed):
        rc, _said = run_cut(site, "backup", number, directory=str(site.backups), release_id="cut")
        folder = site.backups / f"{APP}-cut"
        assert not folder.exists() or (folder / "manifest.json").exists()
        # The first run made the folder of the backups as well: in a later one the same number is one or two calls further on.
        assert rc == -9 or (number == renamed and rc == 0), number
    site.migrate(BASE)  # whoever connects next removes the private folders of those who were killed
    assert site.backup("cut")["backup"]["tables"] == site.backup("listed")["backup"]["tables"]
    assert sorted(os.listdir(site.backups)) == [f"{APP}-cut", f"{APP}-listed"] and list(site.folder.glob("sluice-pg-*")) == []


def test_a_drill_cut_at_any_call_is_made_again(site: Site) -> None:  # noqa: F811
    folder = site.backup()["backup"]["path"]
    _rc, listed = run_cut(site, "drill", 0, backup=folder)
    calls = [line for line in listed.splitlines() if line.split()[0] in ("open", "subprocess.Popen") or line.startswith(("os.", "shutil."))]
    restores = next(number for number, line in enumerate(calls, 1) if "subprocess.Popen" in line and "pg_restore" in line and number > 6)
    site.good("drill", state="absent")
    try:
        for number in sorted({restores + 1, len(calls)}):
            assert run_cut(site, "drill", number, backup=folder)[0] == -9
        result = site.good("drill", backup=folder)
        assert [gate["verdict"] for gate in result["gates"]] == ["pass", "pass"]
        assert not site.good("drill", backup=folder)["changed"]
    finally:
        assert site.good("drill", state="absent")["changed"]


def test_a_drill_killed_in_the_middle_of_the_restore_is_made_anew(site: Site) -> None:  # noqa: F811
    folder = site.backup()["backup"]["path"]
    process = site.start("drill", backup=folder, client_directory=wrapped(site, "pg_restore", "-Fd", "sleep 1"))
    wait_for(lambda: f"{site.database}_restored" in site.databases())
    process.kill()
    process.communicate(timeout=10)
    result = site.good("drill", backup=folder)
    assert result["changed"] and result["actions"][0] == f"dropped {site.database}_restored, left by an earlier run"
    # A copy of another backup is made anew as well, and one that somebody opened is not trusted.
    site.sql(f'ALTER DATABASE "{site.database}_restored" ALLOW_CONNECTIONS true')
    assert site.good("drill", backup=folder)["changed"]
    assert site.good("drill", backup=site.backup("r2")["backup"]["path"])["changed"]
    site.good("drill", state="absent")
    site.sql(f'CREATE DATABASE "{site.database}_restored"')
    for arguments in ({"backup": folder}, {"state": "absent"}, {"backup": folder, "check": True}):
        assert "so it is left alone" in site.bad("drill", **arguments)
    site.sql(f'DROP DATABASE "{site.database}_restored"')


def test_a_server_that_goes_in_the_middle_leaves_no_half_of_anything(site: Site) -> None:  # noqa: F811
    folder = site.backup()["backup"]["path"]
    assert site.server.process
    pid = site.server.process.pid
    gone = f"kill -QUIT {pid}; sleep 1"
    try:
        message = site.bad("backup", directory=str(site.backups), release_id="r2", client_directory=wrapped(site, "pg_dump", "--snapshot", gone))
        assert "There is no connection to PostgreSQL" in message or "nothing of it is left" in message
        assert os.listdir(site.backups) == [f"{APP}-{RELEASE}"]
        site.server.process.wait(timeout=20)
        site.server.start()
        gone = f"kill -QUIT {site.server.process.pid}; sleep 1"
        message = site.bad("drill", backup=folder, client_directory=wrapped(site, "pg_restore", "-Fd", gone))
        assert "could not be restored" in message and "connection" in message
        site.server.process.wait(timeout=20)
    finally:
        if site.server.process.poll() is not None:
            site.server.start()
    result = site.good("drill", backup=folder)
    assert "left by an earlier run" in result["actions"][0] and site.good("drill", state="absent")["changed"]


@pytest.fixture
def small_disk(site: Site) -> Iterator[Path]:  # noqa: F811
    """Put the backups on a file system that is too small for one."""
    site.backups.mkdir(mode=0o700)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(site.backups)], capture_output=True, check=False)
    if mounted.returncode:
        if os.environ.get("CI"):
            pytest.fail(f"CI must test a full disk, and cannot mount one: {mounted.stderr.decode()}")
        pytest.skip("NOT TESTED: a full disk needs root")
    yield site.backups
    subprocess.run(["umount", "--lazy", str(site.backups)], check=True)


def test_a_full_disk_stops_the_backup_and_nothing_is_left(site: Site, small_disk: Path) -> None:  # noqa: F811
    many = "generate_series(1, 2000) n, generate_series(1, 4) m GROUP BY m"
    site.sql(f"CREATE TABLE noise (t text); INSERT INTO noise SELECT string_agg(md5(random()::text), '') FROM {many}")
    # Looked at before, as far as one can tell; a ballast that comes meanwhile is met by pg_dump.
    assert "free. Nothing was started" in site.bad("backup", directory=str(small_disk), release_id=RELEASE)
    site.sql("TRUNCATE noise; VACUUM noise; INSERT INTO noise SELECT 'small'")
    ballast = f"dd if=/dev/zero of={small_disk}/ballast bs=1k 2>/dev/null"
    message = site.bad("backup", directory=str(small_disk), release_id=RELEASE, client_directory=wrapped(site, "pg_dump", "--snapshot", ballast))
    assert "No space left on device" in message and "nothing of it is left" in message
    assert os.listdir(small_disk) == ["ballast"]


def test_who_shuts_readers_out_is_named_and_a_running_dump_is_told(site: Site) -> None:  # noqa: F811
    holder = Holder(site, "LOCK TABLE entry IN ACCESS EXCLUSIVE MODE")
    started = time.monotonic()
    message = site.bad("backup", directory=str(site.backups), release_id=RELEASE, lock_wait=1)
    assert f"pid {holder.pid} (nightly report, idle in transaction) holds an exclusive lock on entry" in message and time.monotonic() - started < 20
    assert "Nothing was started" in message and not site.backups.exists()
    process = site.start("backup", directory=str(site.backups), release_id=RELEASE, lock_wait=20)
    time.sleep(1)
    holder.end()
    assert site.finish(process)["changed"]
    other = site.server.client(site.database, "pg_dump")
    assert other.stdin and other.stdout
    other.stdin.write("BEGIN; SELECT 1;\n")
    other.stdin.flush()
    other.stdout.readline()
    gates = site.backup("r2")["gates"]
    other.communicate("ROLLBACK;", timeout=10)
    assert gates[0]["name"] == "blockers" and gates[0]["verdict"] == "pass" and "another dump runs (pid" in gates[0]["sentence"]


def test_ddl_that_comes_between_look_and_dump_is_named(site: Site) -> None:  # noqa: F811
    marker = site.folder / "now"
    process = site.start(
        "backup",
        directory=str(site.backups),
        release_id=RELEASE,
        lock_wait=1,
        client_directory=wrapped(site, "pg_dump", "--snapshot", f"touch {marker}; sleep 2"),
    )
    wait_for(marker.exists)
    # It queues for the lock that the backup's own count may hold, or has it.
    holder = Holder(site, "SET lock_timeout = '20s'; LOCK TABLE entry IN ACCESS EXCLUSIVE MODE")
    result = site.finish(process)
    holder.end()
    assert result.get("failed") and "lock" in result["msg"].lower(), result
    assert os.listdir(site.backups) == []


def test_a_role_that_may_not_read_everything_is_refused_with_the_tables(site: Site) -> None:  # noqa: F811
    role = "reader of " + site.database[5:9]
    site.sql(f'CREATE ROLE "{role}" LOGIN PASSWORD {migrations.literal(PASSWORD)}; GRANT SELECT ON account, sluice_migrations TO "{role}"')
    try:
        site.use(site.server.url(site.database, quote(role)))
        assert "may not read public.entry, so the backup would not be whole" in site.bad("backup", directory=str(site.backups), release_id=RELEASE)
        site.sql(f'GRANT pg_read_all_data TO "{role}"')
        result = site.backup()
        manifest = json.loads(Path(result["backup"]["manifest"]).read_text())
        assert manifest["globals"] == "roles without passwords" and "SCRAM" not in (Path(result["backup"]["path"]) / "globals.sql").read_text()
        assert f'run: ALTER ROLE "{role}" CREATEDB;' in site.bad("drill", backup=result["backup"]["path"])
        site.sql(f'ALTER ROLE "{role}" CONNECTION LIMIT 3')
        assert "The dump needs 3 connections, and 2 are free" in site.bad("backup", directory=str(site.backups), release_id="r2")
        assert site.backup("r2", jobs=1)["changed"]
    finally:
        site.sql(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


def test_a_drill_does_not_need_template1_and_works_on_another_server(site: Site) -> None:  # noqa: F811
    folder = site.backup()["backup"]["path"]
    guest = site.server.client("template1", "guest")
    assert guest.stdin and guest.stdout
    guest.stdin.write("SELECT 'in';\n")
    guest.stdin.flush()
    guest.stdout.readline()
    try:
        assert site.good("drill", backup=folder)["changed"]
        site.good("drill", state="absent")
        # The same server under another name: what counts is that nothing is asked of the real database.
        text = site.env.read_text()
        site.env.write_text(text.replace("DATABASE_URL=", "DRILL_URL=").replace(quote(site.database), "postgres") + text.replace(str(site.server.port), "1"))
        result = site.good("drill", backup=folder, server_env_var="DRILL_URL")
        assert result["database"] == f"{site.database}_restored" and result["gates"][1]["verdict"] == "pass", result
        assert site.good("drill", state="absent", server_env_var="DRILL_URL")["changed"]
    finally:
        guest.communicate(timeout=10)


@pytest.mark.parametrize("compression", ["zstd:3", "lz4"])
def test_damage_that_a_full_read_passes_is_caught_by_name(site: Site, compression: str) -> None:  # noqa: F811
    clients = rich_clients(CHECKOUT / ".cache" / "pg-clients")
    if clients is None:
        pytest.skip("NOT TESTED: no PostgreSQL clients with zstd and lz4 on this machine")
    folder = Path(site.backup(compression=compression, client_directory=str(clients))["backup"]["path"])
    data = max(folder.glob("archive/*.dat.*"), key=lambda path: path.stat().st_size)
    whole = data.read_bytes()
    for words, hurt in (("is cut short", damage_truncate), ("is damaged", damage_flip), ("is empty", damage_empty)):
        hurt(data)
        message = site.bad("drill", backup=str(folder), client_directory=str(clients))
        assert f"archive/{data.name} {words}" in message and site.databases() == site.database
        data.write_bytes(whole)
    result = site.good("drill", backup=str(folder), client_directory=str(clients))
    assert [gate["verdict"] for gate in result["gates"]] == ["pass", "pass"]
    site.good("drill", state="absent")
    assert "written by pg_dump 17; pg_restore here is version 16" in site.bad("drill", backup=str(folder))


def test_an_archive_of_another_database_is_caught_under_a_manifest_that_fits(site: Site) -> None:  # noqa: F811
    mine = Path(site.backup()["backup"]["path"])
    other = site.folder / "other"
    site.server.sql("CREATE DATABASE elsewhere")
    try:
        env = {"PGPASSFILE": str(site.server.folder.parent / "pass"), "PATH": os.environ["PATH"]}
        words = ["-h", "127.0.0.1", "-p", str(site.server.port), "-U", "postgres"]
        subprocess.run([site.server.programs / "pg_dump", *words, "-Fd", "-f", str(other), "elsewhere"], env=env, check=True, timeout=30)
    finally:
        site.server.sql("DROP DATABASE elsewhere")
    shutil.rmtree(mine / "archive")
    shutil.copytree(other, mine / "archive")
    assert "archive/toc.dat is" in site.bad("drill", backup=str(mine))
    # Whoever made the manifest anew from such files is still told.
    from ansible_collections.sluice.deploy.plugins.module_utils.adapters import backup_files

    manifest = backups.from_json((mine / "manifest.json").read_text(), "m")
    data = {
        **json.loads(backups.to_json(manifest)),
        "files": {name: vars(fact) for name, fact in backup_files.hash_files(str(mine), ("manifest.json",)).items()},
    }
    (mine / "manifest.json").write_text(json.dumps(data))
    assert f"The archive is of the database elsewhere, not of {site.database}" in site.bad("drill", backup=str(mine))
