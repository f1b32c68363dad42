# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of backups on another host over SSH. That host needs a POSIX shell, ``stat`` and ``sha256sum``, and nothing of ours."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from typing import IO, Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.destination import Deadline, Entry, Written
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.process import Result, clean_environment, run
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.shipped import MANIFEST

_BLOCK = 1 << 20
# ssh's own exit code: the connection failed, not the command.
_NO_CONNECTION = 255
# A host that vanishes is noticed after this many seconds without an answer.
_ALIVE = 10
_OPTIONS = {"BatchMode": "yes", "StrictHostKeyChecking": "yes", "ConnectTimeout": 10, "ServerAliveInterval": _ALIVE, "ServerAliveCountMax": 3}


class SshDestination:
    """A folder below ``path`` for each app, on a host whose key is known."""

    def __init__(self, given: Mapping[str, Any], deadline: Deadline) -> None:
        self.name: str = given["name"]
        self._path: str = given["path"]
        self._host: str = given["host"]
        self._target = f"{given['user']}@{self._host}" if given.get("user") else self._host
        self._deadline = deadline
        options = [f"{key}={value}" for key, value in _OPTIONS.items()]
        if given.get("known_hosts"):
            # Quoted, since ssh cuts this option's value at blanks.
            options += [f'UserKnownHostsFile="{given["known_hosts"]}"', "GlobalKnownHostsFile=none"]
        self._argv = ["ssh", "-T", "-p", str(given.get("port") or 22), *(word for option in options for word in ("-o", option))]
        if given.get("key_file"):
            self._argv += ["-i", given["key_file"], "-o", "IdentitiesOnly=yes"]

    def where(self, app: str) -> str:
        return f"{self.name} ({self._host}:{self._path}/{app})"

    def _words(self, script: str, *arguments: str) -> list[str]:
        # The login shell there may be any; what it is given is one quoted word for sh. The folder must be there: see destination_path.
        line = shlex.join(["sh", "-c", f"umask 077; cd -- {shlex.quote(self._path)} || exit 66; {script}", "sh", *arguments])
        return [*self._argv, "--", self._target, line]

    def _failed(self, rc: int, said: str, what: str) -> SluiceError:
        said = said.strip()[-1500:]
        if rc == _NO_CONNECTION:
            remedy = "Check host, port, user and key_file there, and that known_hosts has the host's key."
            return SluiceError(f"{self.name}: {self._target} did not answer while {what}: {said or 'the connection broke off'}", remedy, rc=rc, stderr=said)
        if rc == 66:
            return SluiceError(f"{self.name}: the folder {self._path} is not there on {self._host}.", "Mount the disk there, or make the folder.")
        return SluiceError(f"{self.name}: {what} failed on {self._host} with exit code {rc}: {said or 'it said nothing'}", rc=rc, stderr=said)

    def _run(self, what: str, script: str, *arguments: str) -> Result:
        done = run(self._words(script, *arguments), timeout=self._deadline.left(), ok=range(-64, 256))
        if done.rc:
            raise self._failed(done.rc, done.stderr, what)
        return done

    def entries(self, app: str) -> dict[str, Entry]:
        script = '[ -d "$1" ] || exit 0; cd -- "$1" && find . -type f -exec stat -c \'%s %Y %n\' {} +'
        found = {}
        for line in self._run("listing the copies", script, app).stdout.splitlines():
            size, modified, path = line.split(" ", 2)
            found[path[2:]] = Entry(int(size), datetime.fromtimestamp(int(modified), timezone.utc))
        return found

    def manifests(self, app: str, only: str = "") -> dict[str, str]:
        # A manifest is one line. /dev/null makes grep name the file even where there is one only.
        script = '[ -d "$1" ] || exit 0; cd -- "$1" && find . -type f -name "$2" -exec grep "" /dev/null {} +; [ $? -le 1 ]'
        found: dict[str, str] = {}
        for line in self._run("reading the manifests", script, app, only or f"[!.]*{MANIFEST}").stdout.splitlines():
            path, _colon, text = line.partition(":")
            found[path[2:]] = found.get(path[2:], "") + text + "\n"
        return found

    def write(self, app: str, name: str, blocks: Iterator[bytes], size: int) -> Written:
        temporary = f"{app}/.{name}.partial"
        room = '[ "$(df -Pk . | awk \'NR==2 {print $4}\')" -ge "$3" ] || { echo "$3 KiB are needed there and not free" >&2; exit 1; }'
        script = f'{room}; mkdir -p -- "$1" && cat >"$2" && {{ sync "$2" 2>/dev/null || sync; }} && sha256sum <"$2"'
        try:
            written, seen, rc, said = self._send(self._words(script, app, temporary, str(size // 1024)), blocks)
            if rc:
                raise self._failed(rc, said, f"writing {name}")
            if seen != written.sha256:
                raise SluiceError(f"{self.where(app)}: {name} has another SHA-256 there than what was sent.", "Look after that host's disk.")
            # A cut connection looks like the end of the file over there, so the name is given only after the digests were compared here.
            self._run(f"naming {name}", 'mv -f -- "$1" "$2"', temporary, f"{app}/{name}")
        except SluiceError:
            with suppress(SluiceError):
                self._run("removing what was cut", 'rm -f -- "$1"', temporary)
            raise
        return written

    def _send(self, argv: Sequence[str], blocks: Iterator[bytes]) -> tuple[Written, str, int, str]:
        """Send blocks to a command; return what was sent, the digest it answered with, its exit code and its errors."""
        digest, count = hashlib.sha256(), 0
        with self._start(argv, subprocess.PIPE) as (process, errors):
            with suppress(BrokenPipeError), process.stdin as stream:  # type: ignore[union-attr]
                for block in self._deadline.guard(blocks):
                    stream.write(block)
                    digest.update(block)
                    count += len(block)
            seen = process.stdout.read(200).decode().split(" ")[0].strip()  # type: ignore[union-attr]
            rc = process.wait()
            errors.seek(0)
            return Written(count, digest.hexdigest()), seen, rc, errors.read().decode("utf-8", "replace")

    @contextmanager
    def _start(self, argv: Sequence[str], stdin: int) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
        """Start ssh; it is ended at the latest when the block ends."""
        with tempfile.TemporaryFile() as errors:
            # run_command keeps all of the output in memory; these are streams.
            # pylint: disable-next=ansible-bad-function
            process = subprocess.Popen(list(argv), env=clean_environment(), stdin=stdin, stdout=subprocess.PIPE, stderr=errors)
            try:
                yield process, errors
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                process.stdout.close()  # type: ignore[union-attr]

    def differs(self, app: str, name: str, wanted: Written) -> str:
        script = '[ -f "$1" ] || { echo missing; exit 0; }; stat -c %s -- "$1" && sha256sum <"$1"'
        seen = self._run(f"reading {name} back", script, f"{app}/{name}").stdout.split()
        if seen[0] == "missing":
            return "is missing"
        if int(seen[0]) != wanted.bytes:
            return f"has {seen[0]} bytes instead of {wanted.bytes}"
        return "" if seen[1] == wanted.sha256 else "has another SHA-256 than what was shipped"

    @contextmanager
    def read(self, app: str, name: str) -> Iterator[Iterator[bytes]]:
        with self._start(self._words('exec cat -- "$1"', f"{app}/{name}"), subprocess.DEVNULL) as (process, errors):

            def blocks() -> Iterator[bytes]:
                while block := process.stdout.read(_BLOCK):  # type: ignore[union-attr]
                    self._deadline.left()
                    yield block
                rc = process.wait()
                if rc:
                    errors.seek(0)
                    raise self._failed(rc, errors.read().decode("utf-8", "replace"), f"reading {name}")

            yield blocks()

    def remove(self, app: str, names: Sequence[str]) -> None:
        self._run("removing copies", 'rm -f -- "$@"', *(f"{app}/{name}" for name in names))

    def exposed(self, app: str, name: str) -> None:
        """Files and folders there are made for their owner alone."""
