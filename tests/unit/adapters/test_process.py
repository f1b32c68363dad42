# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs outside: argument lists, a deadline, a private environment, and an error that says what was run."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.process import clean_environment, run
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError


def python(code: str, **options: Any) -> Any:
    return run([sys.executable, "-c", code], **{"timeout": 10.0, **options})


def test_a_program_is_run_to_its_end() -> None:
    result = python("import sys; print(sys.stdin.read() + sys.argv[0]); print('aside', file=sys.stderr)", stdin="in:")
    assert (result.rc, result.stdout, result.stderr) == (0, "in:-c\n", "aside\n")
    assert 0 < result.seconds < 10


def test_words_are_passed_as_they_are_without_a_shell() -> None:
    words = ["$HOME", "a b", "*", "; id", "'", ""]
    assert run([sys.executable, "-c", "import sys; print(sys.argv[1:])", *words], timeout=10).stdout == f"{words}\n"


def test_a_child_sees_a_small_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLERS_TOKEN", "hunter2")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    seen = python("import os; print(sorted(os.environ))", env={"EXTRA": "x"}).stdout
    assert "CALLERS_TOKEN" not in seen
    assert "EXTRA" in seen
    assert "PATH" in seen
    assert clean_environment()["LC_ALL"] == "C"
    assert clean_environment({"LC_ALL": "C.UTF-8"})["LC_ALL"] == "C.UTF-8"
    assert "EXTRA" not in os.environ


def test_output_that_is_no_text_does_no_harm() -> None:
    assert python("import os; os.write(1, b'a\\xffb')").stdout == "a\ufffdb"


def test_it_runs_where_it_is_told(tmp_path: Path) -> None:
    assert python("import os; print(os.getcwd())", cwd=str(tmp_path)).stdout.strip() == str(tmp_path.resolve())


def test_exit_codes_that_are_no_failure_are_returned() -> None:
    assert python("raise SystemExit(3)", ok=(0, 3)).rc == 3


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; print('out'); sys.exit('the disk is full')", "the disk is full"),
        ("print('only out'); raise SystemExit(1)", "only out"),
        ("raise SystemExit(1)", "it said nothing"),
    ],
)
def test_a_failure_says_what_was_run_and_what_it_said(code: str, said: str) -> None:
    with pytest.raises(SluiceError) as caught:
        python(code)
    assert str(caught.value).startswith(f"`{sys.executable} -c ")
    assert str(caught.value).endswith(f"` ended with exit code 1: {said}")
    assert caught.value.details()["rc"] == 1
    assert set(caught.value.details()) == {"remedy", "cmd", "rc", "stdout", "stderr"}


def test_a_long_complaint_is_cut_to_its_end() -> None:
    with pytest.raises(SluiceError) as caught:
        python("import sys; sys.exit('x' * 9000 + 'the end')")
    assert len(str(caught.value)) < 2300
    assert str(caught.value).endswith("the end")
    assert len(caught.value.details()["stderr"]) == 4000


def test_no_secret_is_in_the_error() -> None:
    code = "import sys; print('out hunter2'); sys.exit('no such user hunter2 at postgresql://ann:pa55word@db/x')"
    with pytest.raises(SluiceError) as caught:
        python(code, secrets=["hunter2"])
    told = f"{caught.value} {caught.value.details()}"
    assert "hunter2" not in told
    assert "pa55word" not in told
    assert "no such user ********" in told


def test_a_program_that_takes_too_long_is_killed_and_gone(tmp_path: Path) -> None:
    place = tmp_path / "pid"
    began = time.monotonic()
    with pytest.raises(SluiceError) as caught:
        run(["sh", "-c", f"echo $$ > {place}; exec sleep 60"], timeout=0.3)
    assert time.monotonic() - began < 30
    assert str(caught.value).endswith("` did not end within 0.3 s and was killed.")
    assert caught.value.details()["timeout"] == 0.3
    with pytest.raises(ProcessLookupError):
        os.kill(int(place.read_text()), 0)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SluiceError) as caught:
        run(["no-such-program", "a b"], timeout=5)
    assert str(caught.value) == "no-such-program is not there, so `no-such-program 'a b'` could not be run. Install it, or give its path."
    with pytest.raises(SluiceError) as caught:
        run(["true"], timeout=5, cwd=str(tmp_path / "none"))
    assert str(caught.value) == f"{tmp_path}/none is not there, so `true` could not be run. Install it, or give its path."


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        ("#!/bin/sh\n", 0o644, "{path} may not be run by this user. Check its mode and the become user."),
        ("\x01\x02", 0o755, "`{path}` could not be run: Exec format error. Check that it is a program of this machine."),
    ],
)
def test_a_file_that_cannot_be_run_is_told(tmp_path: Path, text: str, mode: int, words: str) -> None:
    path = tmp_path / "program"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(SluiceError) as caught:
        run([str(path)], timeout=5)
    assert str(caught.value) == words.format(path=path)
