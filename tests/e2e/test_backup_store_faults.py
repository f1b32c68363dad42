# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of backups when something breaks: a host that goes away, storage that fails, a full disk, a kill; nothing cut is ever taken for a backup."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stores import ACCESS, APP, CHECKOUT, SECRET, Line, Site, Ssh, Storage, tree


@pytest.fixture
def line() -> Iterator[Callable[..., Line]]:
    """Make lines that break, and take them down."""
    made: list[Line] = []

    def make(port: int, **how: Any) -> Line:
        made.append(Line(port, **how))
        return made[-1]

    yield make
    for each in made:
        each.close()


def over(ssh: Ssh, through: Line) -> dict[str, Any]:
    """Return the destination behind a line; the server's key is known under the line's port too."""
    known = ssh.folder / "known_hosts"
    host = (ssh.folder / "host.pub").read_text()
    known.write_text(f"[127.0.0.1]:{ssh.port} {host}[127.0.0.1]:{through.port} {host}")
    return ssh.destination(port=through.port)


def whole(site: Site, destination: dict[str, Any]) -> list[str]:
    """Return the releases that count as copies over there."""
    seen = site.good(state="read", destinations=[destination])["copies"]
    return [copy["release_id"] for copy in seen if copy["place"] == destination["name"] and copy["whole"]]


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def answer(status: str, times: int = 1 << 30) -> Callable[[bytes, int], bytes | None]:
    body = b"<Error><Code>Stub</Code><Message>said by the line</Message></Error>"
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    return lambda _first, number: head + body if number <= times else None


def test_a_host_that_goes_away_in_the_middle(site: Site, ssh: Ssh, line: Callable[..., Line]) -> None:
    site.backup("r1", size=3_000_000)
    broken = line(ssh.port, cut_after=1_000_000)
    other = site.path()
    refused = site.bad(release_id="r1", destinations=[over(ssh, broken), other])
    assert "vault: 127.0.0.1 did not answer while writing r1.tar" in refused["msg"]
    assert [(gate["name"], gate["verdict"]) for gate in refused["gates"]] == [("shipped", "fail"), ("shipped", "pass")]
    assert refused["changed"] and "shipped" in refused["actions"][0] and "to disk" in refused["actions"][0]
    assert [name for name in names(ssh.disk) if not name.endswith(".partial")] == []
    assert site.good(release_id="r1", destinations=[ssh.destination(), other])["changed"]
    assert names(ssh.disk) == [f"{APP}/r1.json", f"{APP}/r1.tar"]


def test_hosts_that_are_not_who_they_should_be(site: Site, ssh: Ssh, tmp_path: Path) -> None:
    site.backup("r1")
    (tmp_path / "empty").touch()
    assert "Host key verification failed" in site.bad(release_id="r1", destinations=[ssh.destination(known_hosts=str(tmp_path / "empty"))])["msg"]
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "stranger"], check=True, timeout=30)
    assert "Permission denied" in site.bad(release_id="r1", destinations=[ssh.destination(key_file=str(tmp_path / "stranger"))])["msg"]
    missing = ssh.destination(path=str(ssh.disk / "unmounted"))
    assert "unmounted is not there on 127.0.0.1. Mount the disk there" in site.bad(release_id="r1", destinations=[missing])["msg"]
    assert names(ssh.disk) == []


def test_storage_that_fails(site: Site, storage: Storage, line: Callable[..., Line]) -> None:
    site.backup("r1")
    port = int(storage.url.rpartition(":")[2])

    def behind(through: Line) -> dict[str, Any]:
        return storage.destination(endpoint=f"http://127.0.0.1:{through.port}")

    always = line(port, answer=answer("500 Internal Server Error"))
    assert "failed in bucket backups with status 500: Stub said by the line" in site.bad(release_id="r1", destinations=[behind(always)])["msg"]
    assert always.connections > 2, "an answer of 500 was not tried again"
    forbidden = line(port, answer=answer("403 Forbidden"))
    assert "with status 403: Stub said by the line. Check the keys" in site.bad(release_id="r1", destinations=[behind(forbidden)])["msg"]
    hushed = line(port, answer=lambda _first, _number: time.sleep(12) or b"")
    started = time.monotonic()
    assert "was not done within 3 s" in site.bad(release_id="r1", destinations=[behind(hushed)], timeout=3)["msg"]
    assert time.monotonic() - started < 10
    assert "Could not connect" in site.bad(release_id="r1", destinations=[storage.destination(endpoint="http://127.0.0.1:1")])["msg"]
    assert "NoSuchBucket" in site.bad(release_id="r1", destinations=[storage.destination(bucket="others")])["msg"]
    assert storage.names() == []
    once = line(port, answer=answer("503 Slow Down", times=1))
    assert site.good(release_id="r1", destinations=[behind(once)])["changed"]
    assert whole(site, storage.destination()) == ["r1"]


def test_a_disk_that_is_too_small_is_refused_before_anything_is_sent(site: Site, ssh: Ssh) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(ssh.disk)], capture_output=True, check=False)
    if mounted.returncode:
        if os.environ.get("CI"):
            pytest.fail(f"CI must test a full disk, and cannot mount one: {mounted.stderr.decode()}")
        pytest.skip("NOT TESTED: a full disk needs root")
    try:
        site.backup("r1", size=3_000_000)
        refused = site.bad(release_id="r1", destinations=[ssh.destination(), site.path(path=str(ssh.disk))])
        assert "are needed there and not free" in refused["msg"] and "Nothing was started" in refused["msg"]
        assert names(ssh.disk) == []
    finally:
        subprocess.run(["umount", "--lazy", str(ssh.disk)], check=True)


def test_a_disk_that_fills_up_in_the_middle(site: Site) -> None:
    site.backup("r1", size=3_000_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        refused = site.bad(release_id="r1", destinations=[site.path()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "r1.tar could not be written: File too large. Nothing of it is left there." in refused["msg"]
    assert names(site.disk) == []


def cuts(site: Site, arrange: Callable[[], None], **arguments: Any) -> Iterator[int]:
    """Run the module to its end once, and yield once for each of its changes, with the run killed right before it."""
    arrange()
    _out, listed = site.start(kill_at=0, beneath=site.folder, **arguments).communicate(timeout=60)
    count = len([each for each in listed.splitlines() if each.startswith(("os.", "open", "shutil.", "subprocess."))])
    assert count > 2, listed
    for number in range(1, count + 1):
        arrange()
        process = site.start(kill_at=number, beneath=site.folder, **arguments)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        yield number


def test_killed_at_every_step_of_shipping(site: Site) -> None:
    site.backup("r1", size=1000)
    arguments = {"release_id": "r1", "destinations": [site.path()]}

    def arrange() -> None:
        shutil.rmtree(site.disk / APP, ignore_errors=True)

    for number in cuts(site, arrange, **arguments):
        listed = names(site.disk)
        if f"{APP}/r1.json" in listed:
            assert f"{APP}/r1.tar" in listed, number
        if number % 3 == 0:
            site.good(**arguments)
            assert names(site.disk) == [f"{APP}/r1.json", f"{APP}/r1.tar"]


def test_killed_at_every_step_of_fetching(site: Site) -> None:
    made = site.backup("r1", size=1000)
    was = tree(made)
    site.good(release_id="r1", destinations=[site.path()])
    arguments = {"state": "fetched", "release_id": "r1", "destinations": [site.path()]}

    def arrange() -> None:
        shutil.rmtree(made, ignore_errors=True)

    for number in cuts(site, arrange, **arguments):
        assert not made.exists() or tree(made) == was, number
        if number % 3 == 0:
            arrange()
            site.good(**arguments)
            assert tree(made) == was and [path.name for path in site.backups.iterdir() if path.is_dir()] == [made.name]


def test_killed_at_every_step_of_pruning(site: Site) -> None:
    for day in range(3):
        site.backup(f"d{day}", days=day, size=100)
        site.good(release_id=f"d{day}", destinations=[site.path()])
    shutil.copytree(site.folder / "backups", site.folder / "kept" / "backups")
    shutil.copytree(site.folder / "disk", site.folder / "kept" / "disk")
    arguments = {"state": "pruned", "retention": {"last": 1}, "destinations": [site.path()]}

    def arrange() -> None:
        for name in ("backups", "disk"):
            shutil.rmtree(site.folder / name)
            shutil.copytree(site.folder / "kept" / name, site.folder / name)

    left = [f"{APP}/d0.json", f"{APP}/d0.tar"]
    for number in cuts(site, arrange, **arguments):
        assert set(left) <= set(names(site.disk)) and (site.backups / "wallet-d0" / "manifest.json").exists()
        for release in ("d1", "d2"):
            assert not (site.disk / APP / f"{release}.tar").exists() or (site.disk / APP / f"{release}.json").exists(), "data without its manifest"
        if number % 3 == 0:
            site.good(**arguments)
            assert names(site.disk) == left
            assert [path.name for path in site.backups.iterdir() if path.is_dir()] == ["wallet-d0"]


def test_killed_in_the_middle_of_an_upload_and_no_secret_seen(site: Site, ssh: Ssh, storage: Storage, line: Callable[..., Line]) -> None:
    site.backup("r1", size=20_000_000)
    to_s3, to_ssh = line(int(storage.url.rpartition(":")[2]), pause=0.01), line(ssh.port, pause=0.02)
    destinations = {
        "offsite": (to_s3, 9_000_000, storage.destination(endpoint=f"http://127.0.0.1:{to_s3.port}")),
        "vault": (to_ssh, 2_000_000, over(ssh, to_ssh)),
    }
    for through, enough, destination in destinations.values():
        process = site.start(release_id="r1", destinations=[destination])
        end = time.monotonic() + 60
        while through.count < enough and process.poll() is None and time.monotonic() < end:
            for path in (Path("/proc") / str(process.pid)).glob("task/*/children"):
                for pid in [str(process.pid), *path.read_text().split()]:
                    shown = b"".join(Path("/proc", pid, what).read_bytes() for what in ("cmdline", "environ"))
                    assert not re.search(f"{re.escape(SECRET)}|{ACCESS}".encode(), shown)
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()
        process.kill()
        process.communicate(timeout=20)
    assert storage.names() == [] and len(storage.uploads()) == 1
    assert [name for name in names(ssh.disk) if not name.endswith(".partial")] == []
    plain = [storage.destination(), ssh.destination()]
    assert [whole(site, each) for each in plain] == [[], []]
    assert site.good(release_id="r1", destinations=plain)["changed"]
    assert storage.uploads() == [] and len(storage.names()) == 2 and names(ssh.disk) == [f"{APP}/r1.json", f"{APP}/r1.tar"]


def test_two_runs_at_once(site: Site) -> None:
    site.backup("r1", size=2_000_000)
    results: list[dict[str, Any]] = []
    runs = [threading.Thread(target=lambda: results.append(site.good(release_id="r1", destinations=[site.path()]))) for _each in range(2)]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    assert sorted(result["changed"] for result in results) == [False, True]


def test_bad_input_is_refused_before_anything(site: Site, storage: Storage, tmp_path: Path) -> None:
    site.backup("r1")
    bad = "age1" + "q" * 58
    refused = site.bad(release_id="r1", destinations=[site.path()], encryption={"kind": "age", "recipients": [bad]})["msg"]
    assert "The backup could not be encrypted: age ended with exit code 1" in refused and names(site.disk) == []
    assert "cannot be part of a file name" in site.bad(release_id="../r1", destinations=[site.path()])["msg"]
    assert "no number may be negative" in site.bad(state="pruned", destinations=[site.path()])["msg"]
    assert "env_file does not set OTHER" in site.bad(release_id="r1", destinations=[storage.destination(secret_key_var="OTHER")])["msg"]
    site.env.chmod(0o644)
    assert "has the mode 0644" in site.bad(release_id="r1", destinations=[storage.destination()])["msg"]
    site.env.chmod(0o600)
    site.good(release_id="r1", destinations=[site.path()], fence=7, state_dir=str(tmp_path / "state"))
    assert "newer" in site.bad(release_id="r1", destinations=[site.path()], fence=6, state_dir=str(tmp_path / "state"))["msg"]


def test_without_the_library_the_package_is_named(site: Site, storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "boto3.py").write_text("raise ImportError('none here')\n")
    about = {"app": APP, "directory": str(site.backups), "state": "read", "env_file": str(site.env), "destinations": [storage.destination()]}
    env = {"PYTHONPATH": f"{tmp_path}:{site.collections}", "PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    words = [sys.executable, str(CHECKOUT / "plugins" / "modules" / "backup_store.py")]
    done = subprocess.run(words, input=json.dumps({"ANSIBLE_MODULE_ARGS": about}), env=env, capture_output=True, text=True, timeout=60, check=False)
    assert json.loads(done.stdout)["msg"] == "offsite: the Python of this host has no boto3, which speaks S3. Install it (Debian: python3-boto3)."
