# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The core decides and touches nothing: it imports only itself and harmless parts of the standard library, and asks no clock."""
from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.sluice.deploy.tests.harness.checkout import CHECKOUT

CORE = "ansible_collections.sluice.deploy.plugins.module_utils.core"
# Modules whose purpose is the world: files, processes, the network, threads, chance.
WORLD = set(
    """
    asyncio builtins ctypes fcntl ftplib getpass glob http importlib io logging mmap multiprocessing os pathlib pickle platform pty pwd random runpy
    secrets select selectors shelve shutil signal socket socketserver sqlite3 ssl subprocess sys tarfile tempfile threading time urllib uuid webbrowser
    xmlrpc zipfile
    """.split()  # noqa: SIM905
)
HARMLESS = {"urllib.parse", "pathlib.PurePath", "pathlib.PurePosixPath"}
CALLS = {"open", "input", "print", "exec", "eval", "compile", "__import__", "breakpoint"}
CLOCKS = {"now", "utcnow", "today"}


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{'.' * node.level}{node.module or ''}.{alias.name}") for alias in node.names)


def _is_pure(name: str) -> bool:
    if name == CORE or name.startswith(f"{CORE}."):
        return True
    if name in HARMLESS or name.rpartition(".")[0] in HARMLESS:
        return True
    top = name.partition(".")[0]
    return top in sys.stdlib_module_names and top not in WORLD


def _offences(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for line, name in _imports(tree):
        if not _is_pure(name):
            yield f"{path.name}:{line} imports {name}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in CALLS:
            yield f"{path.name}:{node.lineno} calls {node.func.id}()"
        elif isinstance(node.func, ast.Attribute) and node.func.attr in CLOCKS:
            yield f"{path.name}:{node.lineno} reads the clock with {node.func.attr}(): take the time as an argument"


@pytest.mark.parametrize("path", sorted((CHECKOUT / "plugins/module_utils/core").glob("**/*.py")), ids=lambda path: path.stem)
def test_core_is_pure(path: Path) -> None:
    assert list(_offences(path)) == []


def test_the_rule_sees_what_it_forbids(tmp_path: Path) -> None:
    offender = tmp_path / "offender.py"
    offender.write_text(
        "import os.path\nfrom time import time\nimport urllib.request\nfrom ansible_collections.sluice.deploy.plugins.module_utils.adapters import files\n"
        "import requests\nfrom datetime import datetime\nfrom urllib.parse import urlsplit\nopen('x')\ndatetime.now()\n"
    )
    assert [text.split()[0] for text in _offences(offender)] == [f"offender.py:{line}" for line in (1, 2, 3, 4, 5, 8, 9)]
