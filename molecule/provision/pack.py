#!/usr/bin/env python3
# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packs this machine's Node and npm as the makers of Node pack theirs, and PM2 as npm installs it, into the folder that is named."""
from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

PM2 = "pm2@7.0.4"


def node(folder: Path) -> None:
    """Write ``node.tar.gz``, its version and its SHA-256."""
    program = Path(subprocess.run(["node", "-p", "process.execPath"], check=True, capture_output=True, text=True).stdout.strip())
    version = subprocess.run(["node", "-p", "process.versions.node"], check=True, capture_output=True, text=True).stdout.strip()
    npm = Path(shutil.which("npm") or "npm").resolve().parents[1]
    top = f"node-v{version}"
    archive = folder / "node.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as pack:
        pack.add(program, f"{top}/bin/node")
        pack.add(npm, f"{top}/lib/node_modules/npm")
        for name in ("npm", "npx"):
            link = tarfile.TarInfo(f"{top}/bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, f"../lib/node_modules/npm/bin/{name}-cli.js"
            pack.addfile(link)
    (folder / "node.version").write_text(version, encoding="utf-8")
    (folder / "node.sha256").write_text(hashlib.sha256(archive.read_bytes()).hexdigest(), encoding="utf-8")


def pm2(folder: Path) -> None:
    """Write ``pm2.tar.gz`` with what npm installs for PM2."""
    root = folder / "pm2"
    words = ["npm", "install", "--global", "--prefix", str(root), "--cache", str(folder / "npm"), "--ignore-scripts", "--no-audit", "--no-fund", PM2]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(folder / "pm2.tar.gz", "w:gz", compresslevel=1) as pack:
        pack.add(root, ".")


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    node(target)
    pm2(target)
