# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Environment files: read as Node's dotenv and python-dotenv read them, and written so that both read them alike."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*\Z")
_ASSIGNMENT = re.compile(r"[ \t]*(?:export[ \t]+)?(?P<name>[^\s=#'\"]+)[ \t]*=[ \t]*")
_QUOTED = {
    "'": re.compile(r"'(?P<body>(?:\\[\\']|[^'])*)'"),
    '"': re.compile(r'"(?P<body>(?:\\.|[^"\\])*)"', re.DOTALL),
}
_REST = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_LINE = re.compile(r"[^\n]*\n?")
_ESCAPES = {
    "'": re.compile(r"\\([\\'])"),
    '"': re.compile(r"\\([\\\"'nrt])"),
}
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}
_PLAIN = re.compile(r"[A-Za-z0-9_./:@%+,=&?~^*-]*\Z")


def parse(text: str) -> dict[str, str]:
    """Return the variables of an environment file; of a name that is there twice, the last value counts.

    Nothing is interpolated. What the libraries read differently (a ``#`` inside an unquoted value, backticks) is refused rather than guessed.

    :raises SluiceError: a line is malformed; the message names the line, never its value.
    """
    values, problems, _twice = read(text)
    if problems:
        raise problems[0]
    return values


def read(text: str) -> tuple[dict[str, str], list[SluiceError], dict[str, list[int]]]:
    """Return the variables, what is malformed (reading goes on at the line below), and the lines of each name that is there more than once."""
    text = re.sub(r"\r\n?", "\n", text[1:] if text.startswith("\ufeff") else text)
    found: dict[str, str] = {}
    problems: list[SluiceError] = []
    lines: dict[str, list[int]] = {}
    position = 0
    while position < len(text):
        blank = _REST.match(text, position)
        if blank:
            position = blank.end()
            continue
        line = text.count("\n", 0, position) + 1
        try:
            start = _ASSIGNMENT.match(text, position)
            if not start:
                raise _malformed(line, "is no assignment", "Write NAME=value.")
            name = start.group("name")
            if not _NAME.match(name):
                raise _malformed(line, "has a name that is none", "Use letters, digits and underscores, and begin with a letter.")
            found[name], position = _value(text, start.end(), line)
            lines.setdefault(name, []).append(line)
        except SluiceError as error:
            problems.append(error)
            position = _LINE.match(text, position).end()  # type: ignore[union-attr]
    return found, problems, {name: places for name, places in lines.items() if len(places) > 1}


def _value(text: str, position: int, line: int) -> tuple[str, int]:
    """Return the value that begins at ``position`` and the place behind its line."""
    mark = text[position : position + 1]
    if mark in _QUOTED:
        quoted = _QUOTED[mark].match(text, position)
        if not quoted:
            raise _malformed(line, f"opens a {mark} that is never closed", "Close the quote.")
        rest = _REST.match(text, quoted.end())
        if not rest:
            raise _malformed(line, "has text behind the closing quote", "Escape the quote inside the value, or use the other kind of quote.")
        value = _ESCAPES[mark].sub(lambda match: _ESCAPED.get(match.group(1), match.group(1)) if mark == '"' else match.group(1), quoted.group("body"))
        end = rest.end()
    else:
        if mark == "`":
            raise _malformed(line, "uses backticks, which only Node reads as quotes", "Use single or double quotes.")
        raw = text[position:].split("\n", 1)[0]
        comment = re.search(r"(?<=[ \t])#", text[position - 1] + raw)
        value = (raw[: comment.start() - 1] if comment else raw).strip()
        if "#" in value:
            raise _malformed(line, "has a # inside an unquoted value, which Node and Python read differently", "Put the value in single quotes.")
        end = min(position + len(raw) + 1, len(text))
    if "\0" in value:
        raise _malformed(line, "holds a NUL character", "Remove it.")
    return value, end


def _malformed(line: int, what: str, remedy: str) -> SluiceError:
    return SluiceError(f"Line {line} of the environment file {what}.", remedy, line=line)


def render(values: Mapping[str, str]) -> str:
    """Return an environment file with these variables, in their order: the inverse of ``parse``."""
    return "".join(f"{_checked(name)}={_quote(value, name)}\n" for name, value in values.items())


def _checked(name: str) -> str:
    if not _NAME.match(name):
        raise SluiceError(f"{name!r} cannot be the name of an environment variable.", "Use letters, digits and underscores, and begin with a letter.")
    return name


def _quote(value: str, name: str) -> str:
    if "\0" in value:
        raise SluiceError(f"The value of {name} holds a NUL character, which no environment can carry.", "Remove it.")
    if _PLAIN.match(value):
        return value
    # Single quotes are the one spelling that both libraries take literally, as long as no backslash stands where Python would read an escape.
    if not re.search(r"['\r]|\\[\\']|\\\Z", value):
        return f"'{value}'"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\r", "\\r").replace("\n", "\\n")
    return f'"{escaped}"'
