# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How Node (``--env-file``), the npm library dotenv and python-dotenv read an environment file, and where they read it differently."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Optional

# What \s, ^ and $ mean in JavaScript; Python's \s is another set.
_S = "[\\t\\n\\v\\f\\r \\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000\\ufeff]"
_BEGIN, _END = "(?:(?<![\\s\\S])|(?<=[\\n\\r\\u2028\\u2029]))", "(?:(?![\\s\\S])|(?=[\\n\\r\\u2028\\u2029]))"
_NPM_LINE = re.compile(
    rf"{_BEGIN}{_S}*(?:export{_S}+)?([A-Za-z0-9_.-]+)(?:{_S}*={_S}*?|:{_S}+?)"
    rf"({_S}*'(?:\\'|[^'])*'|{_S}*\"(?:\\\"|[^\"])*\"|{_S}*`(?:\\`|[^`])*`|[^#\r\n]+)?{_S}*(?:#[^\n\r\u2028\u2029]*)?{_END}"
)
_NPM_QUOTES = re.compile(rf"{_BEGIN}(['\"`])([\s\S]*)\1{_END}")
_NPM_TRIM = re.compile(rf"\A{_S}+|{_S}+\Z")

_PY_ESCAPES = {"'": re.compile(r"\\[\\']"), '"': re.compile(r"\\[\\'\"abfnrtv]")}
_PY_QUOTED = {"'": re.compile(r"'((?:\\.|[^'\\])*)'", re.DOTALL), '"': re.compile(r'"((?:\\.|[^"\\])*)"', re.DOTALL)}
_PY_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_PY_EXPORT = re.compile(r"(?:export[^\S\r\n]+)?")
_PY_KEY = re.compile(r"(?:'(?P<quoted>[^']+)'|(?P<plain>[^=#\s'][^=#\s]*))[^\S\r\n]*")
_PY_TAIL = re.compile(r"(?:[^\S\r\n]*#[^\r\n]*)?[^\S\r\n]*(?:\r\n|\n|\r|\Z)")
_PY_SPACE, _PY_BLANK, _PY_LINE = re.compile(r"[^\S\r\n]*"), re.compile(r"\s*"), re.compile(r"[^\r\n]*")
_PY_REST = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)?")


def npm(text: str) -> dict[str, str]:
    """Return what ``dotenv.parse`` of npm reads (versions 16 to 18)."""
    found = {}
    for match in _NPM_LINE.finditer(re.sub(r"\r\n?", "\n", text)):
        value = _NPM_TRIM.sub("", match.group(2) or "")
        mark = value[:1]
        value = _NPM_QUOTES.sub(lambda quoted: quoted.group(2), value)
        if mark == '"':
            value = value.replace("\\n", "\n").replace("\\r", "\r")
        found[match.group(1)] = value
    return found


def node(text: str) -> dict[str, str]:
    """Return what ``node --env-file`` of Node 24 reads."""
    found: dict[str, str] = {}
    rest = text.replace("\r", "").strip(" \t\n")
    while rest:
        line, _newline, below = rest.partition("\n")
        if rest[0] in "\n#":
            rest = below
            continue
        if "=" not in line:
            rest = below.strip(" \t\n")
            continue
        name, _equals, rest = rest.partition("=")
        name = name.strip(" \t\n")
        if not name:
            break
        name = _exported(name).strip(" \t") if rest[:1] not in ("", "\n") else name
        rest = rest if rest[:1] == "\n" else rest.strip(" \t\n")
        found[name], rest = _node_value(rest, " \t\n")
        rest = rest.strip(" \t\n")
    return found


def old_node(text: str) -> dict[str, str]:
    """Return what ``node --env-file`` of Node 20 reads: tabs belong to values, and an indented comment or a line of spaces to the name below it."""
    found: dict[str, str] = {}
    rest = text.replace("\r", "").strip(" ")
    while rest:
        if rest[0] in "\n#" and "\n" in rest:
            rest = rest.partition("\n")[2]
            continue
        name, equals, rest = rest.partition("=")
        name = _exported(name.strip(" "))
        if not equals or not name:
            break
        found[name], rest = _node_value(rest.strip(" "), " ")
    return found


def _exported(name: str) -> str:
    return name[7:] if name.startswith("export ") else name


def _node_value(rest: str, blank: str) -> tuple[str, str]:
    """Return a value and what stands below its line."""
    mark = rest[:1]
    closing = rest.find(mark, 1) if mark and mark in "\"'`" else -1
    if closing > 0:
        value = rest[1:closing]
        return value.replace("\\n", "\n") if mark == '"' else value, rest[closing + 1 :].partition("\n")[2]
    line, _newline, below = rest.partition("\n")
    return line if mark and mark in "\"'`" else line.partition("#")[0].strip(blank), below


def python(text: str) -> dict[str, str]:
    """Return what ``dotenv_values(interpolate=False)`` of python-dotenv 1.2 reads, without names that have no value."""
    text = text[1:] if text.startswith("\ufeff") else text
    found: dict[str, Optional[str]] = {}
    position = 0
    while True:
        position = _after(_PY_BLANK, text, position)
        if position >= len(text):
            return {name: value for name, value in found.items() if value is not None}
        name, value, position = _python_line(text, position)
        if name is not None:
            found[name] = value


def _python_line(text: str, position: int) -> tuple[Optional[str], Optional[str], int]:
    """Return name, value and the place behind one binding; no name when the line is none."""
    position = _after(_PY_EXPORT, text, position)
    key = _PY_KEY.match(text, position)
    name = value = None
    if key:
        name, position = key.group("quoted") or key.group("plain"), key.end()
        if text[position : position + 1] == "=":
            begin = position + 1
            position = _after(_PY_SPACE, text, begin)
            value, position = _python_value(text, position, position > begin)
            if value is None:
                return None, None, _after(_PY_REST, text, position)
    elif text[position : position + 1] != "#":
        return None, None, _after(_PY_REST, text, position)
    tail = _PY_TAIL.match(text, position)
    return (name, value, tail.end()) if tail else (None, None, _after(_PY_REST, text, position))


def _python_value(text: str, position: int, spaced: bool) -> tuple[Optional[str], int]:
    mark = text[position : position + 1]
    if mark == "#" and spaced:
        return "", position
    if mark in _PY_QUOTED:
        quoted = _PY_QUOTED[mark].match(text, position)
        if not quoted:
            return None, position
        return _PY_ESCAPES[mark].sub(lambda match: _PY_ESCAPED.get(match.group()[1], match.group()[1]), quoted.group(1)), quoted.end()
    end = _after(_PY_LINE, text, position)
    return re.sub(r"\s+#.*", "", text[position:end]).rstrip(), end


def _after(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


READERS: Mapping[str, Callable[[str], dict[str, str]]] = {
    "node 24 --env-file": node,
    "node 20 --env-file": old_node,
    "dotenv of npm": npm,
    "python-dotenv": python,
}


def differences(text: str) -> dict[str, str]:
    """Return, for each name that they read differently, a sentence with lengths instead of values."""
    read = {reader: parse(text) for reader, parse in READERS.items()}
    # Node takes some comments with a = for variables; nobody asks for those.
    names = dict.fromkeys(name for values in read.values() for name in values if "#" not in name)
    told = {}
    for name in names:
        if len({values.get(name) for values in read.values()}) > 1:
            seen = [f"{reader} {'reads ' + str(len(values[name])) + ' characters' if name in values else 'does not see it'}" for reader, values in read.items()]
            alike = " of different text" if len({len(values.get(name, "")) for values in read.values()}) == 1 else ""
            told[name] = "; ".join(seen) + alike
        elif re.search(r"\$\{?[A-Za-z_]", next(iter(read.values()))[name]):
            told[name] = "it holds a $ before a name, which python-dotenv and Next.js replace and Node does not"
    return told
