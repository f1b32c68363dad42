# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real places for copies of backups: a disk, an SSH server, storage that speaks S3; each can go away, be slow, be full or be damaged."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.backup_files import hash_files
from ansible_collections.sluice.deploy.plugins.module_utils.core import backups

CHECKOUT = Path(__file__).resolve().parents[2]
APP = "wallet"
ACCESS, SECRET = "AKIATESTSENTINEL0001", "s3cret/Sentinel+value=0001"
BUCKET = "backups"
PACKAGES = {"age": "age", "gpg": "gnupg", "sshd": "openssh-server", "systemd-analyze": "systemd"}
# Stands in the plain files of each backup; it must be in none that leaves this host encrypted.
CANARY = b"PLAIN CUSTOMER DATA 4711"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _attempt in range(400):
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def program(name: str) -> str:
    """Return the path of a program of the distribution."""
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")
    if not found and os.environ.get("CI"):
        pytest.fail(f"{name} is not installed, and CI must test with it")
    if not found:
        pytest.skip(f"NOT TESTED: {name} is not installed (apt-get install {PACKAGES[name]})")
    return found


class Program:
    """A server that is ended by its own process group."""

    def __init__(self, argv: list[Any], port: int, log: Path, **env: str) -> None:
        self.port = port
        with log.open("ab") as out:
            self.process = subprocess.Popen(argv, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True, env={**os.environ, **env})
        wait_for(port, self.process, log)

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=20)


class Ssh(Program):
    """An SSH server of its own, with its own host key and one account: ours."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.disk = folder, folder / "remote disk"
        self.disk.mkdir()
        for name in ("host", "client"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True, timeout=30)
        port = free_port()
        sshd = program("sshd")
        (folder / "authorized").write_text((folder / "client.pub").read_text())
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
        settings = {
            "Port": port, "ListenAddress": "127.0.0.1", "HostKey": folder / "host", "AuthorizedKeysFile": folder / "authorized", "PidFile": "none",
            "StrictModes": "no", "UsePAM": "no", "PasswordAuthentication": "no", "KbdInteractiveAuthentication": "no", "PermitRootLogin": "prohibit-password",
        }  # fmt: skip
        (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where the distribution's server puts its unprivileged half
        super().__init__([sshd, "-D", "-e", "-f", folder / "sshd_config"], port, folder / "sshd.log")

    def destination(self, **more: Any) -> dict[str, Any]:
        known, key = self.folder / "known_hosts", self.folder / "client"
        return {
            "name": "vault", "kind": "ssh", "host": "127.0.0.1", "port": self.port, "path": str(self.disk), "key_file": str(key),
            "known_hosts": str(known), **more,
        }  # fmt: skip


class Storage(Program):
    """Storage that speaks S3."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        super().__init__([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port, folder / "s3.log")
        self.url = f"http://127.0.0.1:{port}"
        import boto3

        self.client = boto3.client("s3", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id=ACCESS, aws_secret_access_key=SECRET)

    def empty(self) -> None:
        with suppress(self.client.exceptions.NoSuchBucket):
            for name in self.names():
                self.client.delete_object(Bucket=BUCKET, Key=name)
            for upload in self.uploads():
                self.client.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
            self.client.delete_bucket(Bucket=BUCKET)
        self.client.create_bucket(Bucket=BUCKET)

    def names(self) -> list[str]:
        return [each["Key"] for each in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", ())]

    def uploads(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return found

    def body(self, name: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read())

    def destination(self, **more: Any) -> dict[str, Any]:
        return {
            "name": "offsite", "kind": "s3", "bucket": BUCKET, "prefix": "prod", "endpoint": self.url, "region": "us-east-1", "addressing": "path",
            "access_key_var": "S3_KEY", "secret_key_var": "S3_SECRET", **more,
        }  # fmt: skip


class Line:
    """A TCP line to a port that can be cut after so many bytes, or answer for the server."""

    def __init__(self, port: int, cut_after: int = 1 << 62, pause: float = 0, answer: Callable[[bytes, int], bytes | None] | None = None) -> None:
        self._to, self._cut_after, self._pause, self._answer = port, cut_after, pause, answer
        self.count, self.connections, self.cut = 0, 0, False
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _address = self._server.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with suppress(OSError), near:
            if self.cut:
                return
            first = near.recv(65536)
            if self._answer:
                said = self._answer(first, self.connections)
                if said is not None:
                    near.sendall(said)
                    near.shutdown(socket.SHUT_WR)
                    near.settimeout(2)
                    while near.recv(65536):
                        pass
                    return
            with socket.create_connection(("127.0.0.1", self._to)) as far:
                threading.Thread(target=self._pump, args=(far, near), daemon=True).start()
                block = first
                while block and self.count < self._cut_after:
                    self.count += len(block)
                    far.sendall(block)
                    time.sleep(self._pause)
                    block = near.recv(65536)
                if block:
                    self.cut = True
                far.shutdown(socket.SHUT_WR)
                if block:
                    far.shutdown(socket.SHUT_RD)
                else:
                    time.sleep(0.2)

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while block := source.recv(65536):
                target.sendall(block)
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._server.close()


class Site:
    """The host on which the backups are, and the module on it."""

    def __init__(self, folder: Path, collections: Path) -> None:
        self.folder, self.collections = folder, collections
        self.backups, self.disk = folder / "backups", folder / "disk"
        self.backups.mkdir()
        self.disk.mkdir()
        self.env = folder / "backup.env"
        self.env.write_text(f"S3_KEY={ACCESS}\nS3_SECRET='{SECRET}'\n")
        self.env.chmod(0o600)

    def path(self, **more: Any) -> dict[str, Any]:
        return {"name": "disk", "kind": "path", "path": str(self.disk), **more}

    def backup(self, release_id: str, days: float = 0, size: int = 30_000, app: str = APP) -> Path:
        """Make the folder of a backup as the module backup leaves it."""
        made = self.backups / f"{app}-{release_id}"
        (made / "archive").mkdir(parents=True)
        (made / "archive" / "toc.dat").write_bytes(CANARY + release_id.encode())
        (made / "archive" / "3001.dat.gz").write_bytes(CANARY + os.urandom(size))
        created = (datetime.now(timezone.utc) - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
        manifest = backups.Manifest(
            app=app, release_id=release_id, database="shop", created=created, server_version="15.18", client_version="15", lsn="0/1", compression="gzip:1",
            tables={"public.account": 3}, heads=(), files=hash_files(str(made)),
        )  # fmt: skip
        (made / "manifest.json").write_text(backups.to_json(manifest))
        return made

    def drill(self, release_id: str) -> None:
        """Leave what a drill leaves."""
        made = self.backups / f"{APP}-{release_id}"
        (made / "drill.json").write_text(json.dumps({"manifest_sha256": hashlib.sha256((made / "manifest.json").read_bytes()).hexdigest()}))

    def start(self, check: bool = False, kill_at: int | None = None, beneath: Path | None = None, **arguments: Any) -> subprocess.Popen[str]:
        given = {"app": APP, "directory": str(self.backups), "env_file": str(self.env), "timeout": 60, **arguments}
        given = {key: value for key, value in given.items() if value is not None}
        env = {"PYTHONPATH": str(self.collections), "PATH": os.environ["PATH"], "HOME": str(self.folder), "TMPDIR": str(self.folder)}
        words = [sys.executable, str(CHECKOUT / "plugins" / "modules" / "backup_store.py")]
        if kill_at is not None:
            name = "ansible_collections.sluice.deploy.plugins.modules.backup_store"
            words = [sys.executable, str(CHECKOUT / "tests" / "e2e" / "kill_at.py"), name, str(kill_at), str(beneath)]
        process = subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdin
        process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": {**given, "_ansible_check_mode": check, "_ansible_diff": True}}))
        process.stdin.close()
        process.stdin = None
        return process

    def call(self, check: bool = False, **arguments: Any) -> dict[str, Any]:
        out, err = self.start(check, **arguments).communicate(timeout=90)
        assert "Traceback" not in err, err
        assert SECRET not in out + err
        found: dict[str, Any] = json.loads(out)
        assert list(self.backups.glob(".*.partial")) == []
        return found

    def good(self, check: bool = False, **arguments: Any) -> dict[str, Any]:
        result = self.call(check, **arguments)
        assert not result.get("failed"), result["msg"]
        return result

    def bad(self, check: bool = False, **arguments: Any) -> dict[str, Any]:
        result = self.call(check, **arguments)
        assert result.get("failed"), result
        return result


def tree(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}
