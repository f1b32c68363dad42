# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The access log: a window is found exactly, a rotation loses nothing, and a missing log is no empty one."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters import access_log
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def line(t: float, word: str = "") -> bytes:
    return f'{{"t":{t:.3f},"w":"{word}"}}\n'.encode()


def read(path: Path, since: float, until: float = 1e12) -> bytes:
    return b"".join(access_log.window(str(path), since, until))


class Reader:
    """Follows a log as a module does."""

    def __init__(self, path: Path, since: float = 0.0) -> None:
        self.path, self.cursor = str(path), access_log.start(str(path), since)

    def news(self) -> bytes:
        blocks: list[bytes] = []
        self.cursor = access_log.advance(self.path, self.cursor, blocks.append)
        return b"".join(blocks)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 200), st.booleans()), max_size=40),
    since=st.integers(0, 130),
    until=st.integers(0, 130),
    cut=st.integers(0, 40),
)
def test_a_window_is_the_lines_of_its_time(tmp_path: Path, steps: list[tuple[int, int, bool]], since: int, until: int, cut: int) -> None:
    log, now, rows = tmp_path / "a.log", 0, []
    for step, length, junk in steps:
        now += step
        rows.append((now, line(now, "x" * length)))
        if junk:
            rows.append((now, b"not of the format\n"))
    (tmp_path / "a.log.1").write_bytes(b"".join(text for _t, text in rows[:cut]))
    log.write_bytes(b"".join(text for _t, text in rows[cut:]) + b'{"t":1')
    found = read(log, since, until).splitlines(keepends=True)
    assert [text for text in found if b"not" not in text] == [text for t, text in rows if since <= t < until and b"not" not in text]


def test_blocks_end_between_lines_and_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "BLOCK_BYTES", 1000)
    log = tmp_path / "a.log"
    log.write_bytes(b"".join(line(number, "x" * (number % 300)) for number in range(2000)))
    blocks = list(access_log.window(str(log), 500, 1500))
    assert len(blocks) > 50 and all(block.endswith(b"\n") and block.startswith(b"{") for block in blocks)
    assert b"".join(blocks) == b"".join(line(number, "x" * (number % 300)) for number in range(500, 1500))


def test_lines_longer_than_the_search_step_are_found(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"".join(line(number, "x" * 90_000) for number in range(9)) + b'{"t":9,"w":"' + b"y" * 200_000)
    assert read(log, 4, 6) == line(4, "x" * 90_000) + line(5, "x" * 90_000)


def test_the_start_is_found_quickly_in_a_large_log(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(b"".join(line(number / 100, "x" * 150) for number in range(300_000)))
    started = time.process_time()
    assert read(log, 2999.5).count(b"\n") == 50
    assert time.process_time() - started < 0.05


def test_only_what_was_added_is_read(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(line(1) + line(2) + line(3))
    reader = Reader(log, since=2)
    assert reader.news() == line(2) + line(3)
    with log.open("ab") as stream:
        stream.write(line(4) + line(5)[:9])
        stream.flush()
        assert (reader.news(), reader.news()) == (line(4), b"")
        stream.write(line(5)[9:])
    assert (reader.news(), reader.news()) == (line(5), b"")


def test_a_rotation_loses_nothing_and_gives_nothing_twice(tmp_path: Path) -> None:
    log, older = tmp_path / "a.log", tmp_path / "a.log.1"
    older.write_bytes(line(1) + line(2))
    log.write_bytes(line(3))
    reader = Reader(log, since=2)
    with log.open("ab") as stream:
        stream.write(line(4))
        stream.flush()
        assert reader.news() == line(2) + line(3) + line(4)
        stream.write(line(5))
        stream.flush()
        os.replace(older, tmp_path / "a.log.2")
        os.replace(log, older)
        log.write_bytes(b"")
        assert reader.news() == line(5)
        # nginx writes to the file it has open until it is told to reopen it.
        stream.write(line(6))
    log.write_bytes(line(7))
    assert reader.news() == line(6) + line(7)
    assert reader.news() == b""


def test_a_log_that_was_emptied_in_place_is_read_from_its_start(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(line(1) + line(2))
    reader = Reader(log)
    reader.news()
    os.truncate(log, 0)
    with log.open("ab") as stream:
        stream.write(line(3))
    assert reader.news() == line(3)


def test_the_moment_without_a_log_during_a_rotation_is_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_bytes(line(1))
    reader = Reader(log)
    reader.news()
    os.replace(log, tmp_path / "a.log.1")
    timer = threading.Timer(0.3, log.write_bytes, [line(2)])
    timer.start()
    assert reader.news() == line(2)
    timer.join()


def test_a_missing_log_is_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(SluiceError, match=r"a\.log is not there, so nobody can tell .* as long as nothing was served there is nothing to judge"):
        read(tmp_path / "a.log", 0)
    with pytest.raises(SluiceError, match="is not there"):
        access_log.start(str(tmp_path / "a.log"), 0)


def test_a_log_that_goes_away_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "_RENAME_SECONDS", 0.2)
    log = tmp_path / "a.log"
    log.write_bytes(line(1))
    reader = Reader(log)
    os.replace(log, tmp_path / "a.log.1")
    with pytest.raises(SluiceError, match="is not there"):
        reader.news()


def test_a_log_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(SluiceError, match=r"cannot be read \(Is a directory\), so nobody can tell"):
        read(tmp_path, 0)


@pytest.mark.parametrize("name", ["a.log.1.gz", "a.log-20261121", "a.log.2.gz"])
def test_a_window_whose_beginning_was_rotated_away_is_refused(tmp_path: Path, name: str) -> None:
    log, now = tmp_path / "a.log", time.time()
    (tmp_path / name).write_bytes(b"")
    log.write_bytes(line(now))
    with pytest.raises(SluiceError, match=f"The window begins in .*{name}, which was rotated away"):
        read(log, now - 60)
    assert read(log, now + 0.002) == b""
    os.utime(tmp_path / name, (now - 90, now - 90))
    (tmp_path / "a.log.swp").write_bytes(b"")
    assert read(log, now - 60) == line(now)


def test_an_empty_log_is_an_empty_window(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"")
    assert read(tmp_path / "a.log", 0) == b"" and Reader(tmp_path / "a.log").news() == b""
