# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SQL as text: its statements with their lines, without comments, strings and what else only looks like SQL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Comments, strings, quoted names and dollar-quoted bodies: what stands in them is no statement.
_OPAQUE = re.compile(
    r"(?P<comment>--[^\n]*|/\*.*?\*/)|\bE'(?:\\.|''|[^'\\])*'|'(?:''|[^'])*'|(?P<name>\"(?:\"\"|[^\"])*\")"
    r"|(?P<tag>\$(?:[A-Za-z_]\w*)?\$)(?P<body>.*?)(?P=tag)",
    re.DOTALL | re.IGNORECASE,
)
_BLOCK_WORD = re.compile(r"\s*(?:begin|declare|then|else|loop|exception)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Statement:
    """One statement.

    :param line: the line on which it begins, from 1.
    :param bare: its text with ``?`` for each string, plain names in the quotes of quoted names, and spaces for white space and comments.
    :param bodies: what stood between dollar quotes, such as the body of a DO block.
    """

    line: int
    bare: str
    bodies: tuple[str, ...] = ()


def strip(sql: str) -> str:
    """Return the SQL with every opaque part replaced and its line breaks kept."""
    return _OPAQUE.sub(_replacement, sql)


def _replacement(match: re.Match[str]) -> str:
    breaks = "\n" * match.group().count("\n")
    if match.group("comment"):
        return f" {breaks}"
    if match.group("name"):
        return '"' + re.sub(r"\W", "_", match.group("name")[1:-1]) + '"'
    return f" ? {breaks}"


def statements(sql: str) -> tuple[Statement, ...]:
    """Return the statements of a text, in order. The body of a ``BEGIN ATOMIC`` function counts as statements too."""
    bodies = [match for match in _OPAQUE.finditer(sql) if match.group("tag")]
    lines = [(sql.count("\n", 0, match.start()) + 1, match.group("body")) for match in bodies]
    return tuple(
        Statement(line, text, tuple(body for where, body in lines if line <= where <= last) if "?" in text else ()) for line, last, text in _split(strip(sql))
    )


def _split(bare: str) -> Iterator[tuple[int, int, str]]:
    line = 1
    for part in bare.split(";"):
        begin = line + part[: len(part) - len(part.lstrip())].count("\n")
        line += part.count("\n")
        if part.strip():
            yield begin, line, " ".join(part.split())


def inner(body: str) -> tuple[str, ...]:
    """Return the statements of a procedure's body, without the words that open its blocks."""
    found = []
    for statement in statements(body):
        text = statement.bare
        while match := _BLOCK_WORD.match(text):
            text = text[match.end() :].strip()
        # In IF ... THEN and FOR ... LOOP the statement follows the head.
        head = re.match(r"(?:if|for|while|when)\b.*?\b(?:then|loop)\s+(?P<rest>.*)", text, re.IGNORECASE)
        found.append(head.group("rest") if head else text)
    return tuple(text for text in found if text)
