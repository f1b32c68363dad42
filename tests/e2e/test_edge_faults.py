# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of the world around an edge: each ends with the old state serving and a message that says what it was."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.edges import Backend, Edge
from tests.harness.checkout import cannot_run

LIMIT = "limit_req_zone {key} zone=shop:1m rate=9r/s;\n"


@pytest.mark.parametrize(
    ("before", "fault", "said"),
    [
        ("", "server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {folder}/none.crt; ssl_certificate_key {folder}/none.key; }}", "none.crt"),
        ("", "server {{ listen 127.0.0.1:{port}; access_log {folder}/none/a.log; }}", "none/a.log"),
        ("", "upstream shop {{ server no-such-host.invalid:80; }}", "host not found in upstream"),
        (LIMIT.format(key="$binary_remote_addr"), LIMIT.format(key="$remote_addr"), 'limit_req "shop" uses the "$remote_addr" key'),
    ],
    ids=["missing_certificate", "missing_log_folder", "unresolvable_host", "changed_limit_key"],
)
def test_a_fault_of_the_operators_own_leaves_the_old_state_serving(edge: Edge, before: str, fault: str, said: str) -> None:
    shop = edge.operator / "shop.conf"
    shop.write_text(before)
    edge.render(percent=25)
    was = edge.tree(), edge.served()
    shop.write_text(fault.format(port=edge.port + 1, folder=edge.folder))
    third = Backend("blue")
    refused = edge.bad(slots={**edge.slots, "blue": [edge.blue.address, third.address]}, percent=50, reload_timeout=1)
    assert said in refused["msg"]
    assert "The old configuration is in place and serves." in refused["msg"]
    assert (edge.tree(), edge.served()) == was
    assert set(edge.gets(40)) == {"blue", "green"}
    third.stop()


def test_a_reload_that_hangs_is_given_up_and_taken_back(edge: Edge) -> None:
    edge.render()
    was = edge.tree(), edge.served()
    hanging = edge.folder / "nginx.sh"
    hanging.write_text(f'#!/bin/sh\ncase "$*" in *"-s reload"*) exec sleep 30;; esac\nexec {edge.command[0]} "$@"\n')
    hanging.chmod(0o755)
    refused = edge.bad(slots=edge.slots, split_key="request", reload_timeout=1, nginx_command=[str(hanging), *edge.command[1:]])
    assert "did not end within 1 s" in refused["msg"]
    assert "The old configuration is in place and serves." in refused["msg"]
    assert (edge.tree(), edge.served()) == was
    assert edge.gets(5) == {"blue": 5}


@pytest.fixture
def full_disk(edge: Edge) -> Iterator[Path]:
    """Put the generated folder on a file system of its own, which is full."""
    generated = edge.folder / "sluice"
    kept = edge.folder / "kept"
    edge.render(percent=25)
    shutil.copytree(generated, kept, symlinks=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(generated)], capture_output=True, check=False)
    if mounted.returncode:
        edge.stop()
        cannot_run(f"a full disk needs the right to mount one: {mounted.stderr.decode().strip()}")
    try:
        shutil.copytree(kept, generated, symlinks=True, dirs_exist_ok=True)
        generated.chmod(0o755)
        subprocess.run([*edge.command, "-s", "reload"], check=True, timeout=10)
        with contextlib.suppress(OSError), open(generated / "ballast", "wb", buffering=0) as ballast:
            while True:
                ballast.write(b"x" * 512)
        yield generated
    finally:
        edge.stop()
        subprocess.run(["umount", "--lazy", str(generated)], check=True)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_stops_a_change_of_files_and_leaves_the_old_state(edge: Edge) -> None:
    was = edge.tree(), edge.served()
    refused = edge.bad(slots=edge.slots, split_key="request")
    assert "No space left on device" in refused["msg"]
    assert "The old configuration is in place and serves." in refused["msg"]
    assert (edge.tree(), edge.served()) == was
    assert set(edge.gets(40)) == {"blue", "green"}


def calls(edge: Edge, **params: object) -> list[str]:
    """Return what a run that is not cut changes, call by call."""
    process = edge.begin(kill_at=0, **params)
    out, err = process.communicate(timeout=30)
    assert '"failed": true' not in out, out
    return err.splitlines()


def steps(listed: list[str]) -> list[int]:
    """Return the numbers of the calls to cut before; of the many files of one hidden folder the first, one in the middle and the last."""
    numbers = list(range(1, len(listed) + 1))
    same = [number for number in numbers[1:-1] if all("/.blue-green-" in listed[at] and "link" in listed[at] for at in (number - 2, number - 1, number))]
    return [number for number in numbers if number not in same or number == same[len(same) // 2]]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("binary", ["distribution"], indirect=True)
def test_a_kill_before_any_call_that_changes_something_loses_nothing(edge: Edge) -> None:
    edge.render(percent=25)
    third = Backend("blue")
    hosts = ([edge.blue.address], [edge.blue.address, third.address])
    posts: list[str] = []
    over = threading.Event()

    def load() -> None:
        number = 0
        while not over.is_set():
            number += 1
            if edge.post(f"p{number}") in ("blue", "green"):
                posts.append(f"p{number}")

    def wanted(turn: int) -> dict[str, object]:
        return {"slots": {**edge.slots, "blue": hosts[turn % 2]}, "live": "blue", "percent": 30 + turn % 2}

    listed = calls(edge, **wanted(1))
    assert any("symlink" in call for call in listed) and any("Popen" in call for call in listed) and any("rename" in call for call in listed)
    worker = threading.Thread(target=load)
    worker.start()
    for number in steps(listed):
        process = edge.begin(kill_at=number, **wanted(number))
        process.communicate(timeout=30)
        # Whatever was cut: nginx serves, and its configuration on disk is whole.
        assert set(edge.gets(6)) <= {"blue", "green"}, listed[number - 1]
        tested = subprocess.run([*edge.command, "-t"], capture_output=True, text=True, timeout=10, check=False)
        assert tested.returncode == 0, f"{listed[number - 1]}: {tested.stderr}"
        healed = edge.good(**wanted(number))
        assert healed["after"]["percent"] == 30 + number % 2
        assert edge.good()["serving"]["agrees"], listed[number - 1]
    over.set()
    worker.join()
    received = Counter(edge.blue.posts + third.posts + edge.green.posts)
    assert max(received.values()) == 1
    assert set(posts) <= set(received)
    assert not edge.good(**wanted(len(listed)))["changed"]
    left = {name.split("/")[0] for name in edge.tree()}
    assert not [name for name in edge.tree() if name.endswith(".tmp") or name == ".pending"]
    assert len([name for name in left if name.startswith(".config-")]) <= 2
    third.stop()
