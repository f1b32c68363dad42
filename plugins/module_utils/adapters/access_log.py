# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge's access log on disk: a window of it in blocks of whole lines, and what was added since, across a rotation.

The log is in the order in which requests ended, so the start of a window is found by bisection, whatever the size of the file.
It must be written unbuffered (no ``buffer=`` or ``flush=`` at ``access_log``), or a watch sees it late, and be rotated by renaming.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

BLOCK_BYTES = 1 << 20
_MOMENT = re.compile(rb'\{"t":(\d+(?:\.\d+)?),')
_OLDER = re.compile(r"[.-]\d[\d.-]*(?:\.(?:gz|bz2|xz|zst))?")
# Log rotation takes the name away for a moment before nginx, or the rotation itself, makes the file anew.
_RENAME_SECONDS = 3.0


@dataclass(frozen=True)
class Mark:
    """A place in one file: which file it is, and how many of its bytes are read."""

    device: int
    inode: int
    offset: int

    def is_in(self, stream: BinaryIO) -> bool:
        """Tell whether the mark belongs to this open file."""
        status = os.fstat(stream.fileno())
        return (status.st_dev, status.st_ino) == (self.device, self.inode)


@dataclass(frozen=True)
class Cursor:
    """How far a log is read: in the file that has its name, and in the one that had it before (``LOG.1``)."""

    current: Mark
    rotated: Mark


def window(path: str, since: float, until: float) -> Iterator[bytes]:
    """Yield the lines with ``since`` <= t < ``until`` in blocks, from the rotated sibling first where the window begins there.

    A last line that is not whole yet is left out.

    :raises SluiceError: the log is missing or cannot be read, or the window begins in a part that is no longer at hand.
    """
    with _open_log(path) as stream, _open_rotated(path) as rotated:
        _refuse_gap(path, [rotated, stream], since)
        for part in (rotated, stream):
            yield from _blocks(part, _line_at(part, since), _line_at(part, until))


def rate(path: str, since: float, now: float) -> float:
    """Return the requests a second since the first one in a window; over ten seconds at least, as a handful of lines is no rate.

    :raises SluiceError: as for ``window``.
    """
    count, first = 0, now
    for block in window(path, since, now):
        if not count:
            first = _moment(block) or now
        count += block.count(b"\n")
    return count / max(now - first, 10.0)


def start(path: str, since: float) -> Cursor:
    """Return the cursor of a window's first line; ``advance`` reads from there.

    :raises SluiceError: as for ``window``.
    """
    with _open_log(path) as stream, _open_rotated(path) as rotated:
        _refuse_gap(path, [rotated, stream], since)
        return Cursor(_mark(stream, _line_at(stream, since)), _mark(rotated, _line_at(rotated, since)))


def advance(path: str, cursor: Cursor, take: Callable[[bytes], None]) -> Cursor:
    """Hand over the whole lines that were added since, in blocks, and return the cursor behind them.

    After a rotation nginx goes on writing to the renamed file until it is told to reopen its logs, so that one is read on as well.

    :raises SluiceError: the log is gone, or cannot be read any more.
    """
    with _open_log(path) as stream, _open_rotated(path) as rotated:
        renamed = cursor.current.is_in(rotated) and not cursor.current.is_in(stream)
        older = _mark(rotated, _whole(rotated))
        if renamed or cursor.rotated.is_in(rotated):
            begin = cursor.current.offset if renamed else cursor.rotated.offset
            _give(rotated, begin, older.offset, take)
        end = _whole(stream)
        # A file that is shorter than what was read of it was emptied in place.
        known = cursor.current.is_in(stream) and cursor.current.offset <= end
        _give(stream, cursor.current.offset if known else 0, end, take)
        return Cursor(_mark(stream, end), older)


def _give(stream: BinaryIO, begin: int, end: int, take: Callable[[bytes], None]) -> None:
    for block in _blocks(stream, begin, end):
        take(block)


def _open_log(path: str) -> BinaryIO:
    """Open the log itself, which may be away for a moment while it is rotated."""
    deadline = time.monotonic() + _RENAME_SECONDS
    while True:
        stream = _open(path)
        if stream is not None:
            return stream
        if time.monotonic() >= deadline or not os.path.exists(f"{path}.1"):
            raise SluiceError(
                f"The access log {path} is not there, so nobody can tell how the slots answer.",
                "nginx makes it when it loads a configuration that names it: check `log`, and that this app's site is loaded on this edge; "
                "as long as nothing was served there is nothing to judge.",
                path=path,
            )
        time.sleep(0.05)


def _open_rotated(path: str) -> BinaryIO:
    """Open the file that had the log's name before; an empty one when there is none."""
    return _open(f"{path}.1") or open(os.devnull, "rb")


def _open(path: str) -> Optional[BinaryIO]:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SluiceError(
            f"The access log {path} cannot be read ({error.strerror}), so nobody can tell how the slots answer.",
            "Give its path, and read it as root or as a member of the log's group (adm on Debian).",
            path=path,
        ) from error


def _refuse_gap(path: str, parts: Iterable[BinaryIO], since: float) -> None:
    """Refuse a window whose beginning was rotated away to a name that is not read; a part must not pass for the whole."""
    if any(_begins_before(part, since) for part in parts):
        return
    folder, name = os.path.split(os.path.abspath(path))
    for entry in os.scandir(folder):
        older = entry.name.startswith(name) and entry.name != f"{name}.1" and _OLDER.fullmatch(entry.name[len(name) :])
        if older and entry.stat().st_mtime >= since:
            raise SluiceError(
                f"The window begins in {entry.path}, which was rotated away and is not read, so nobody can tell how the slots answered.",
                f"Let log rotation keep the last file uncompressed under the name {name}.1 (delaycompress, no dateext), or begin the window later.",
                path=path,
                rotated=entry.path,
            )


def _begins_before(stream: BinaryIO, moment: float) -> bool:
    stream.seek(0)
    first = _moment(stream.readline())
    return first is not None and first <= moment


def _mark(stream: BinaryIO, offset: int) -> Mark:
    status = os.fstat(stream.fileno())
    return Mark(status.st_dev, status.st_ino, offset)


def _blocks(stream: BinaryIO, begin: int, end: int) -> Iterator[bytes]:
    """Yield the bytes from ``begin`` to ``end``, both at a line's start, cut between lines."""
    stream.seek(begin)
    while begin < end:
        block = stream.read(min(BLOCK_BYTES, end - begin))
        if not block:
            return
        if begin + len(block) < end and not block.endswith(b"\n"):
            block += stream.readline()
        begin += len(block)
        yield block


def _whole(stream: BinaryIO) -> int:
    """Return where the last whole line ends."""
    end = os.fstat(stream.fileno()).st_size
    while end > 0:
        begin = max(0, end - 65536)
        stream.seek(begin)
        cut = stream.read(end - begin).rfind(b"\n")
        if cut >= 0:
            return begin + cut + 1
        end = begin
    return 0


def _line_at(stream: BinaryIO, moment: float) -> int:
    """Return where the first line begins whose time is at or after ``moment``, by bisection over the bytes; the end of the whole lines if there is none."""
    end = _whole(stream)
    low, high = 0, end
    while low < high:
        middle = (low + high) // 2
        begin, seen = _next_line(stream, middle, end)
        if seen is None or seen >= moment:
            high = middle
        else:
            low = begin + 1
    return _next_line(stream, low, end)[0]


def _next_line(stream: BinaryIO, offset: int, end: int) -> tuple[int, Optional[float]]:
    """Return the first line that begins at or after an offset and has a time: where it begins, and its time; ``end`` and None if there is none."""
    stream.seek(max(0, offset - 1))
    if offset:
        stream.readline()
    while True:
        begin = stream.tell()
        if begin >= end:
            return end, None
        seen = _moment(stream.readline())
        if seen is not None:
            return begin, seen


def _moment(line: bytes) -> Optional[float]:
    found = _MOMENT.match(line)
    return float(found.group(1)) if found else None
