# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a change of share costs on one edge: time, requests, and CPU. With a real nginx, the current one and the distribution's.

    .venv/bin/python benchmarks/edge_switch.py

Prints one JSON object as its last line. Keys without a suffix are of the current nginx, ``_old`` ones of the distribution's, where that is installed:

- ``buckets_call_ms``: the module's own time for a change of share with the switch ``buckets``, median; goal 20.
- ``weights_ratio``: the module's own time with ``weights`` / the same by hand: write the file with fsync, ``nginx -t``, ``nginx -s reload``, wait until new
  connections have met only the new generation for 150 ms. In turns, medians; goal 1.3. ``weights_ms`` and ``by_hand_ms`` are the two.
- ``requests``, ``failed_buckets``, ``failed_weights``, ``duplicated_posts``: 20 switches 0, 5, 25, 50, 100, 0 ... under keep-alive load, a quarter of it
  POSTs, that is never retried; ``buckets`` on both nginx, ``weights`` on the current one. ``requests`` is the smallest of the three counts, goal
  300,000; the failures are of all, goal 0. ``lost_posts`` are POSTs answered with 200 that reached no host.
- ``failed_weights_old``, ``failed_raw_old``: 20 switches with ``weights`` on the distribution's nginx, which resets kept connections, and as many bare
  ``nginx -s reload`` under the same load, in turns; the first must not be more than what chance makes of the second.
- ``cpu_ratio``: CPU of the workers per proxied request through the generated site / through a plain ``proxy_pass`` site of the same nginx with the same
  upstream settings, the four usual headers and nginx's own access log. In turns, medians; goal 1.1. The answers are five bytes long, which is where
  anything added weighs most; ``cpu_ratio_page`` is that of a page of 16 KiB. ``cpu_ratio_bare`` is beside a site that neither sets a header nor writes a
  log, ``cpu_ratio_weights`` is that of the generated site with ``weights``; ``cpu_us`` and ``cpu_us_plain`` are the microseconds behind ``cpu_ratio``.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.load import PAGE, Account, Hosts, Load, binaries, edge_of, say
from tests.e2e.edges import Edge, free_port

SHARES = (5, 25, 50, 100, 0)
CALLS = 15
TURNS = 8
SWITCHES = 20
REQUESTS = 305_000
REQUESTS_OLD = 300_000
BLOCKS = 4
LONGEST_S = 60
QUIET_S = 0.150
CPU_TURNS = 7
CPU_REQUESTS = 10_000


# Time


def call_ms(edge: Edge) -> float:
    """Return the median of the module's own time."""
    return statistics.median(edge.good(percent=percent)["milliseconds"] for percent in itertools.islice(itertools.cycle(SHARES), CALLS))


def by_hand_ms(edge: Edge, percent: int) -> float:
    """Change a share as one would by hand, with the same proof, and return its time."""
    path = edge.generated / "config" / "http.conf"
    text = path.read_text(encoding="utf-8")
    wanted = int(edge.served()) + 1
    began = time.perf_counter()
    text = re.sub(r'return 200 "\d+\\n";', f'return 200 "{wanted}\\\\n";', text, count=1)
    text = re.sub(r"(wallet_web_public 64k;\n.*?\n).*?(    keepalive 32;)", lambda found: found[1] + weighted(edge, percent) + found[2], text, flags=re.DOTALL)
    beside = path.with_suffix(".new")
    with beside.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    beside.rename(path)
    subprocess.run([*edge.command, "-t"], check=True, capture_output=True, timeout=10)
    subprocess.run([*edge.command, "-s", "reload"], check=True, capture_output=True, timeout=10)
    since = 0.0
    while True:
        seen, now = generation(edge), time.perf_counter()
        if seen != wanted:
            since = 0.0
        elif since and now - since >= QUIET_S:
            return (now - began) * 1000
        else:
            since = since or now
        if now - began > 10:
            raise SystemExit(f"nginx did not take generation {wanted}:\n{(edge.folder / 'error.log').read_text()[-2000:]}")
        time.sleep(0.005)


def generation(edge: Edge) -> int:
    """Return the generation a new connection meets; 0 when it is not answered."""
    connection = http.client.HTTPConnection(edge.control, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        connection.request("GET", "/generation", headers={"Host": "wallet.sluice", "Connection": "close"})
        return int(connection.getresponse().read())
    return 0


def weighted(edge: Edge, percent: int) -> str:
    """Return the servers of the weighted upstream."""
    weights = ((edge.green.address, percent), (edge.blue.address, 100 - percent))
    return "".join(f"    server {address} weight={weight} max_fails=0;\n" for address, weight in weights if weight)


def weights_against_hand(edge: Edge, other: Edge) -> tuple[float, float]:
    """Return the medians of the module and of the same by hand, each on an nginx of its own, taken in turns."""
    module, hand = [], []
    for percent in itertools.islice(itertools.cycle(SHARES), TURNS):
        module.append(edge.good(percent=percent)["milliseconds"])
        hand.append(by_hand_ms(other, percent))
    return statistics.median(module), statistics.median(hand)


# Requests


def under_load(edge: Edge, name: str, steps: Iterable[Callable[[], object]], requests: int) -> Account:
    """Take the steps under load, spread evenly over so many requests."""
    todo = list(steps)
    load = Load(name, edge.port)
    try:
        for number, step in enumerate(todo):
            load.reach(requests * (2 * number + 1) // (2 * len(todo)), LONGEST_S)
            step()
        load.reach(requests, LONGEST_S)
    finally:
        account = load.stop()
    say(f"  {name}: {account}")
    return account


def switches(edge: Edge, number: int) -> list[Callable[[], object]]:
    """Return so many changes of share, by the module."""
    return [lambda percent=percent: edge.good(percent=percent) for percent in itertools.islice(itertools.cycle(SHARES), number)]


def reloads(edge: Edge, number: int) -> list[Callable[[], object]]:
    """Return so many bare reloads."""
    return [lambda: subprocess.run([*edge.command, "-s", "reload"], check=True, capture_output=True, timeout=10)] * number


# CPU


def plain_sites(edge: Edge) -> dict[str, int]:
    """Put plain sites into the same nginx, so that the same workers serve all; return their ports."""
    ports = {"plain": free_port(), "bare": free_port()}
    headers = {"Host": "$host", "X-Real-IP": "$remote_addr", "X-Forwarded-For": "$proxy_add_x_forwarded_for", "X-Forwarded-Proto": "$scheme"}
    usual = "".join(f"        proxy_set_header {name} {value};\n" for name, value in headers.items())
    more = {"plain": f"    access_log {edge.folder}/plain.log combined;\n", "bare": ""}
    text = ""
    for name, port in ports.items():
        text += (
            f"upstream {name} {{\n    zone {name} 64k;\n    server {edge.blue.address} max_fails=0;\n    keepalive 32;\n    keepalive_timeout 4s;\n}}\n"
            f"server {{\n    listen 127.0.0.1:{port};\n{more[name]}    location / {{\n        proxy_pass http://{name};\n        proxy_http_version 1.1;\n"
            f'        proxy_set_header Connection "";\n{usual if name == "plain" else ""}    }}\n}}\n'
        )
    (edge.operator / "plain.conf").write_text(text, encoding="utf-8")
    edge.stop()
    edge.start()
    return ports


def cpu_seconds(edge: Edge) -> float:
    """Return the CPU time of the workers, user and system; schedstat has the sum that stat rounds to ticks."""
    nanoseconds = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1]) == edge.master():
                nanoseconds += int(stat.with_name("schedstat").read_text(encoding="utf-8").split()[0])
    return nanoseconds / 1e9


def cpu_of_sites(edge: Edge, kinds: Sequence[tuple[str, str]]) -> dict[tuple[str, str], float]:
    """Return the workers' microseconds per request through each site and path, medians of turns."""
    ports = {"generated": edge.port, **plain_sites(edge)}
    edge.good(percent=25)
    taken: dict[tuple[str, str], list[float]] = {kind: [] for kind in kinds}
    for turn, (site, path) in itertools.product(range(CPU_TURNS + 1), kinds):
        before = cpu_seconds(edge)
        load = Load(f"cpu-{site}-{turn}", ports[site], processes=1, path=path)
        load.reach(CPU_REQUESTS, 20)
        account = load.stop()
        if account.failed:
            raise SystemExit(f"Requests failed while CPU was measured: {account}")
        if turn:  # the first one only warms up
            taken[site, path].append((cpu_seconds(edge) - before) / account.requests * 1e6)
    say("  us per request: " + ", ".join(f"{''.join(kind)} {statistics.median(each):.1f} ({min(each):.1f}-{max(each):.1f})" for kind, each in taken.items()))
    return {kind: statistics.median(each) for kind, each in taken.items()}


# All of it


def measure(folder: Path, found: dict[str, str], hosts: Hosts) -> dict[str, float]:
    """Take every figure."""
    figures: dict[str, float] = {}
    for suffix, binary in found.items():
        say(f"Time of a change, nginx{suffix or '_current'}")
        with edge_of(folder, "edge", binary, hosts, "buckets") as edge:
            figures[f"buckets_call_ms{suffix}"] = call_ms(edge)
        with edge_of(folder, "edge", binary, hosts, "weights") as edge, edge_of(folder, "other", binary, hosts, "weights") as other:
            module, hand = weights_against_hand(edge, other)
        figures |= {f"weights_ratio{suffix}": module / hand, f"weights_ms{suffix}": module, f"by_hand_ms{suffix}": hand}

    taken: dict[str, Account] = {}
    for switch, suffix in (("buckets", ""), ("buckets", "_old"), ("weights", "")):
        if suffix in found:
            say(f"{SWITCHES} switches under load, {switch}, nginx{suffix or '_current'}")
            with edge_of(folder, "edge", found[suffix], hosts, switch) as edge:
                taken[switch + suffix] = under_load(edge, switch + suffix, switches(edge, SWITCHES), REQUESTS)
    figures["requests"] = min(account.requests for account in taken.values())
    figures["failed_buckets"] = sum(account.failed.total() for name, account in taken.items() if name.startswith("buckets"))
    figures["failed_weights"] = taken["weights"].failed.total()
    if "_old" in found:
        say("Switches and bare reloads under load, weights, nginx_old")
        with edge_of(folder, "edge", found["_old"], hosts, "weights") as edge:
            for block, (name, steps) in enumerate((("weights_old", switches), ("raw_old", reloads)) * BLOCKS):
                now = under_load(edge, f"{name}_{block}", steps(edge, SWITCHES // BLOCKS), REQUESTS_OLD // BLOCKS)
                taken[name] = taken[name].add(now) if name in taken else now
        figures |= {f"failed_{name}": taken[name].failed.total() for name in ("weights_old", "raw_old")}
    received = hosts.posts()
    figures["duplicated_posts"] = sum(received.values()) - len(received)
    figures["lost_posts"] = max(0, sum(account.posts for account in taken.values()) - len(received))

    for suffix, binary in found.items():
        say(f"CPU per request, nginx{suffix or '_current'}")
        with edge_of(folder, "edge", binary, hosts, "buckets") as edge:
            cpu = cpu_of_sites(edge, (("generated", "/"), ("plain", "/"), ("bare", "/"), ("generated", PAGE), ("plain", PAGE)))
        figures |= {
            f"cpu_ratio{suffix}": cpu["generated", "/"] / cpu["plain", "/"],
            f"cpu_ratio_page{suffix}": cpu["generated", PAGE] / cpu["plain", PAGE],
            f"cpu_ratio_bare{suffix}": cpu["generated", "/"] / cpu["bare", "/"],
            f"cpu_us{suffix}": cpu["generated", "/"],
            f"cpu_us_plain{suffix}": cpu["plain", "/"],
        }
        with edge_of(folder, "edge", binary, hosts, "weights") as edge:
            cpu = cpu_of_sites(edge, (("generated", "/"), ("plain", "/")))
        figures[f"cpu_ratio_weights{suffix}"] = cpu["generated", "/"] / cpu["plain", "/"]
    return figures


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="sluice-bench-"))
    found = binaries()
    hosts = Hosts(folder, found.get("_old", found[""]))
    began = time.monotonic()
    try:
        figures = measure(folder, found, hosts)
    finally:
        hosts.stop()
        shutil.rmtree(folder, ignore_errors=True)
    figures["whole_run_s"] = time.monotonic() - began
    print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in figures.items()}))


if __name__ == "__main__":
    main()
