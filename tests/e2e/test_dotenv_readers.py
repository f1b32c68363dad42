# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Environment files against the parsers that apps really use: node --env-file, dotenv of npm, python-dotenv."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import random
import shutil
import subprocess
from pathlib import Path

import dotenv as python_dotenv
import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import dotenv, dotenv_readers

from tests.sandbox.world import CHECKOUT

NPM_DOTENV = "17.4.2"
NAMES = ("KEY", "A", "B_2", "lower")
ATOMS = ["x", "a b", "é", "=", "#", " #", " ", "'", '"', "`", "\\", "\\n", "\\t", '\\"', "\\'", "$A", "${A}", ":", "\t", "\n", "1", "<>", "!"]
READ_ALL = """
const dotenv = require(process.argv[1]), util = require('util'), texts = JSON.parse(require('fs').readFileSync(0, 'utf8'));
console.log(JSON.stringify(texts.map(text => [util.parseEnv(text), dotenv.parse(text)])));
"""
# What the three read differently, seen with each of them.
UNLIKE = {
    "an unquoted #": "KEY=a#b\n",
    "backticks": "KEY=`a b`\n",
    "a tab's escape": 'KEY="a\\tb"\n',
    "a quote's escape": 'KEY="say \\"hi\\""\n',
    "a carriage return's escape": 'KEY="a\\rb"\n',
    "an escaped quote in single quotes": "KEY='it\\'s'\n",
    "two backslashes in single quotes": "KEY='a\\\\b'\n",
    "a name that Python expands": "KEY='${HOME}'\n",
    "text behind the quote": "KEY='a' b\n",
    "a quote that is never closed": 'KEY="a\nA=b\n',
    "a comment that is indented": " \nA=1\n  # note\nKEY=a\n",
    "a tab at the end": "KEY=a\t\n",
    "a colon": "KEY: a\n",
}


@pytest.fixture(scope="module")
def npm_dotenv() -> str:
    """The folder of npm's dotenv, installed once for the checkout."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("node and npm are not on this machine")
    if "function" not in subprocess.run(["node", "-p", "typeof require('util').parseEnv"], capture_output=True, text=True, check=True).stdout:
        pytest.skip("node is older than 20.12 and reads no environment files")
    prefix = CHECKOUT / ".cache" / f"dotenv-{NPM_DOTENV}"
    prefix.mkdir(parents=True, exist_ok=True)
    with open(prefix / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = prefix / "node_modules" / "dotenv"
        if not (found / "package.json").exists():
            words = ["npm", "install", "--prefix", str(prefix), "--no-audit", "--no-fund", "--silent", f"dotenv@{NPM_DOTENV}"]
            subprocess.run(words, check=True, capture_output=True, timeout=120)
    return str(found)


def real(texts: list[str], npm_dotenv: str) -> list[dict[str, dict[str, str]]]:
    """Return what the real parsers read."""
    done = subprocess.run(["node", "-e", READ_ALL, npm_dotenv], input=json.dumps(texts), capture_output=True, text=True, check=True, timeout=60)
    return [
        {"node --env-file": by_node, "dotenv of npm": by_npm, "python-dotenv": by_python(text)}
        for text, (by_node, by_npm) in zip(texts, json.loads(done.stdout), strict=True)
    ]


def by_python(text: str) -> dict[str, str]:
    logging.getLogger("dotenv.main").setLevel(logging.ERROR)
    return {name: value for name, value in python_dotenv.dotenv_values(stream=io.StringIO(text, newline=""), interpolate=False).items() if value is not None}


def texts(count: int, seed: int) -> list[str]:
    """Return files of some lines, half of them spelled by chance."""
    chance = random.Random(seed)
    return ["".join(line(chance) for _line in range(chance.randint(1, 4))) for _text in range(count)]


def line(chance: random.Random) -> str:
    value = "".join(chance.choice(ATOMS) for _atom in range(chance.randint(0, 6)))
    quote = chance.choice(["", "", "'", '"'])
    body = value.replace(quote, "") if quote else value
    head = chance.choice(["", "", "", "export ", "  ", "\ufeff", "# note\n", "\n"])
    tail = chance.choice(["", "", " # note", "  "]) + chance.choice(["\n", "\r\n"])
    return f"{head}{chance.choice(NAMES)}{chance.choice(['=', '=', ' = '])}{quote}{body}{quote}{tail}"


def accepted(text: str) -> bool:
    return not dotenv.read(text)[1]


def test_npm_and_python_are_read_as_they_read(npm_dotenv: str) -> None:
    given = texts(4000, 1)
    for text, read in zip(given, real(given, npm_dotenv), strict=True):
        assert dotenv_readers.npm(text) == read["dotenv of npm"], repr(text)
        assert dotenv_readers.python(text) == read["python-dotenv"], repr(text)


def test_what_passes_is_read_alike_by_all(npm_dotenv: str) -> None:
    """Where nothing is found, every real parser reads what the processes are started with."""
    given = [text for text in texts(6000, 2) if accepted(text) and not dotenv_readers.differences(text)]
    assert len(given) > 500
    for text, read in zip(given, real(given, npm_dotenv), strict=True):
        for reader, values in read.items():
            # Node takes some comments that hold a = for variables whose names begin with #.
            assert {name: value for name, value in values.items() if "#" not in name} == dotenv.parse(text), f"{reader} {text!r}"


def test_what_is_read_unlike_is_found(npm_dotenv: str) -> None:
    given = [text for text in texts(6000, 3) if accepted(text) and "$" not in text]
    told = 0
    for text, read in zip(given, real(given, npm_dotenv), strict=True):
        unlike = {name for name in NAMES if len({values.get(name) for values in read.values()}) > 1}
        told += bool(unlike)
        assert unlike <= set(dotenv_readers.differences(text)), repr(text)
    assert told > 50


@pytest.mark.parametrize("what", UNLIKE)
def test_each_known_difference_is_found(npm_dotenv: str, what: str) -> None:
    text = UNLIKE[what]
    read = real([text], npm_dotenv)[0]
    if "$" not in text:
        # The machine's Node may be one of those that read tabs and comments as the others do.
        seen = [*read.values(), dotenv_readers.old_node(text)]
        assert len({json.dumps(values, sort_keys=True) for values in seen}) > 1, "the parsers agree by now"
    assert not accepted(text) or set(dotenv_readers.differences(text)) == {"KEY"}


def test_node_itself_reads_the_file_so(npm_dotenv: str, tmp_path: Path) -> None:
    file = tmp_path / "app.env"
    values = {"PLAIN": "x", "SPACED": "a b", "HASH": "a # b", "LINES": "first\nsecond", "URL": "postgresql://u:p%40@h:5432/d?sslmode=require"}
    file.write_text("# head\r\n" + dotenv.render(values).replace("\n", "\r\n").replace("first\r\n", "first\n"), encoding="utf-8")
    words = ["node", f"--env-file={file}", "-p", "JSON.stringify(process.env)"]
    read = json.loads(subprocess.run(words, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True, timeout=30).stdout)
    assert {name: read[name] for name in values} == values == by_python(file.read_text(encoding="utf-8"))
    assert dotenv_readers.differences(file.read_text(encoding="utf-8")) == {}
