# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL clients that were built with zstd and lz4: the machine's own, or those of a newer Debian in a private folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

RELEASE, PACKAGE = "trixie", "postgresql-client-17"
TOOLS = ("pg_dump", "pg_dumpall", "pg_restore", "psql")


def rich_clients(cache: Path) -> Path | None:
    """Return the folder of clients that compress with zstd and lz4, or None where there are none and apt cannot fetch them.

    :param cache: folder in which the fetched ones stay.
    """
    own = [path / "bin" for path in sorted(Path("/usr/lib/postgresql").glob("*"), reverse=True)]
    found = next((folder for folder in [*own, cache / "bin"] if _compresses(folder)), None)
    return found or (_fetch(cache) if shutil.which("apt-get") and shutil.which("dpkg") else None)


def _compresses(folder: Path) -> bool:
    """Tell it by the words of pg_dump, which looks at the compression before it connects."""
    if not (folder / "pg_dump").exists():
        return False
    words = [str(folder / "pg_dump"), "-Fc", "-h", "/nowhere", "-f", "/dev/null"]
    said = [subprocess.run([*words, f"-Z{each}"], capture_output=True, text=True, check=False, timeout=20).stderr for each in ("zstd", "lz4")]
    # Before version 16 there is a level and no method, and a method is an invalid value.
    return not any("compression" in each or "invalid" in each for each in said)


def _fetch(cache: Path) -> Path | None:
    """Unpack the packages of a newer Debian beside everything else, with the libraries they were built against; nothing is installed."""
    fresh = cache.with_name(cache.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    for name in ("state/lists/partial", "cache/archives/partial", "debs", "bin"):
        (fresh / name).mkdir(parents=True)
    sites = subprocess.run(["apt-get", "indextargets", "--format", "$(SITE)"], capture_output=True, text=True, check=True, timeout=30).stdout.split()
    site = next((each for each in sites if each.rstrip("/").endswith("/debian")), None)
    if site is None:
        return None
    (fresh / "sources.list").write_text(f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {site} {RELEASE} main\n")
    options = {"Dir::State": "state", "Dir::Cache": "cache", "Dir::Etc::sourcelist": "sources.list"}
    words = [word for key, value in options.items() for word in ("-o", f"{key}={fresh / value}")]
    words += ["-o", "Dir::Etc::sourceparts=-", "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=1"]

    def apt(tool: str, *more: str) -> str:
        return subprocess.run([tool, *words, *more], capture_output=True, text=True, check=True, timeout=120, cwd=fresh / "debs").stdout

    try:
        apt("apt-get", "update")
        listed = apt("apt-cache", "depends", "--recurse", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", PACKAGE)
        needed = sorted({line for line in listed.splitlines() if line.startswith(("lib", "zlib"))} - {"libperl5.40"})
        apt("apt-get", "download", PACKAGE, *needed)
        for package in (fresh / "debs").iterdir():
            subprocess.run(["dpkg", "-x", str(package), str(fresh / "root")], check=True, timeout=60)
    except subprocess.CalledProcessError:
        return None
    for tool in TOOLS:
        # The loader and the libraries are of the same release as the clients; the machine's own may be older.
        libraries, real = cache / "root/usr/lib/x86_64-linux-gnu", cache / "root/usr/lib/postgresql/17/bin" / tool
        (fresh / "bin" / tool).write_text(f'#!/bin/sh\nexec {libraries}/ld-linux-x86-64.so.2 --argv0 "$0" --library-path {libraries} {real} "$@"\n')
        (fresh / "bin" / tool).chmod(0o755)
    for name in ("state", "cache", "debs"):
        shutil.rmtree(fresh / name)
    shutil.rmtree(cache, ignore_errors=True)
    fresh.rename(cache)
    return cache / "bin" if _compresses(cache / "bin") else None
