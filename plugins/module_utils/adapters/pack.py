# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup as one stream: packed, encrypted on this host, and back; no plain byte leaves it and none is kept in memory."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.process import clean_environment, run
from ansible_collections.sluice.deploy.plugins.module_utils.core.backups import FileFact
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.shipped import AGE, GPG, NONE

BLOCK = 1 << 20
_SAFE = re.compile(r"(?!\.\.?(?:/|\Z))[^/\0]+(?:/(?!\.\.?(?:/|\Z))[^/\0]+)*\Z")


class Hashed:
    """Counts and hashes what is read from a stream."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._digest, self.bytes = stream, hashlib.sha256(), 0

    def read(self, count: int = BLOCK) -> bytes:
        """Return the next bytes."""
        block = self._stream.read(count)
        self._digest.update(block)
        self.bytes += len(block)
        return block

    def fact(self) -> FileFact:
        """Return size and SHA-256 of what was read so far."""
        return FileFact(self.bytes, self._digest.hexdigest())


class Blocks(io.RawIOBase):
    """An iterator of blocks as a file that can be read."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        super().__init__()
        self._blocks, self._rest = blocks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = block
        count = min(len(buffer), len(self._rest))
        buffer[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


class _Helper(threading.Thread):
    """Does one thing beside us and keeps the error it ended with."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._work()
        except Exception as error:  # pylint: disable=broad-exception-caught
            self.error = error


def pack(folder: str, files: Mapping[str, FileFact], extra: str, stream: IO[bytes]) -> None:
    """Write the files of a backup into a stream as a tar archive whose bytes depend on the files alone.

    :param files: what its manifest says; each file is compared while it is read.
    :param extra: the manifest itself.
    :raises SluiceError: a file differs from the manifest.
    """
    with tarfile.open(fileobj=stream, mode="w|", bufsize=BLOCK) as archive:
        for name in (*sorted(files), extra):
            path = os.path.join(folder, name)
            try:
                with open(path, "rb") as source:
                    hashed = Hashed(source)
                    info = tarfile.TarInfo(name)
                    info.size, info.mode = os.fstat(source.fileno()).st_size, 0o600
                    # The tar archive takes anything with a read method.
                    archive.addfile(info, hashed)
            except FileNotFoundError as error:
                raise SluiceError(f"{path} is missing, so the backup is damaged and was not shipped.", "Take a new backup.", path=path) from error
            if name != extra and hashed.fact() != files[name]:
                raise SluiceError(f"{path} is not what the manifest says, so the backup is damaged and was not shipped.", "Take a new backup.", path=path)


@contextmanager
def packed(folder: str, files: Mapping[str, FileFact], extra: str, encrypt: Sequence[str]) -> Iterator[Iterator[bytes]]:
    """Yield the blocks of the packed backup, through the program ``encrypt`` when there is one.

    :raises SluiceError: while the blocks are read: a file of the backup is damaged, or the program failed.
    """
    reads, writes = os.pipe()

    def work() -> None:
        with os.fdopen(writes, "wb") as stream:
            pack(folder, files, extra, stream)

    helper = _Helper(work)
    source: IO[bytes] = os.fdopen(reads, "rb")
    process, errors = None, tempfile.TemporaryFile()  # noqa: SIM115
    try:
        if encrypt:
            process = _start(encrypt, source, errors)
            source.close()
            source = process.stdout  # type: ignore[assignment]
        helper.start()
        yield _blocks(source, helper, process, errors, encrypt)
    finally:
        _end(process)
        source.close()
        if helper.ident is None:
            os.close(writes)
        else:
            helper.join()
        errors.close()


def _blocks(source: IO[bytes], helper: _Helper, process: subprocess.Popen[bytes] | None, errors: IO[bytes], argv: Sequence[str]) -> Iterator[bytes]:
    while block := source.read(BLOCK):
        yield block
    helper.join()
    # Whoever writes into a program that failed sees a broken pipe; why it failed is in the program's own words.
    if process:
        _succeeded(process, errors, argv, "The backup could not be encrypted")
    if helper.error:
        raise helper.error


@contextmanager
def through(blocks: Iterable[bytes], argv: Sequence[str]) -> Iterator[IO[bytes]]:
    """Yield what a program makes of the blocks; with no program, the blocks themselves.

    :raises SluiceError: at the end: the program failed.
    """
    if not argv:
        yield io.BufferedReader(Blocks(iter(blocks)), BLOCK)
        return
    errors = tempfile.TemporaryFile()  # noqa: SIM115
    process = _start(argv, subprocess.PIPE, errors)

    def work() -> None:
        with process.stdin as stream:  # type: ignore[union-attr]
            for block in blocks:
                stream.write(block)

    helper = _Helper(work)
    helper.start()
    try:
        try:
            yield process.stdout  # type: ignore[misc]
        except tarfile.TarError as error:
            helper.join(10)
            if helper.error and not isinstance(helper.error, BrokenPipeError):
                raise helper.error from error
            _succeeded(process, errors, argv, "The copy could not be decrypted")
            raise
        helper.join(10)
        if helper.error and not isinstance(helper.error, BrokenPipeError):
            raise helper.error
        _succeeded(process, errors, argv, "The copy could not be decrypted")
    finally:
        _end(process)
        with suppress(OSError):
            process.stdout.close()  # type: ignore[union-attr]
        helper.join(10)
        errors.close()


def unpack(stream: IO[bytes], folder: str, limit: int) -> None:
    """Unpack an archive of ``pack`` below a folder, and nothing that would land elsewhere.

    :param limit: bytes of all files together.
    :raises SluiceError: it holds more, or something else than plain files with plain names.
    """
    total = 0
    with tarfile.open(fileobj=stream, mode="r|", bufsize=BLOCK) as archive:
        for info in archive:
            total += info.size
            source = archive.extractfile(info) if info.isreg() and _SAFE.match(info.name) else None
            if source is None or total > limit:
                raise SluiceError(f"The copy holds {info.name!r} ({info.size} bytes), which no backup of this collection would hold.", "Fetch another copy.")
            path = os.path.join(folder, info.name)
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
                shutil.copyfileobj(source, target, BLOCK)
                target.flush()
                os.fsync(target.fileno())
    while stream.read(BLOCK):
        pass


@contextmanager
def encryption(kind: str, recipients: Sequence[str]) -> Iterator[list[str]]:
    """Yield the arguments of the program that encrypts for the recipients; empty for none. A public key is no secret."""
    if kind == NONE:
        yield []
    elif kind == AGE:
        yield [_program("age"), "--encrypt", *(word for each in recipients for word in ("-r", each))]
    else:
        with _keyring() as home:
            # What is encrypted is compressed already.
            words = ["--trust-model", "always", "--compress-algo", "none", "--cipher-algo", "AES256"]
            yield [*_gpg(home), *words, *(word for each in recipients for word in ("--recipient-file", each)), "--encrypt"]


@contextmanager
def decryption(kind: str, identity: str | None) -> Iterator[list[str]]:
    """Yield the arguments of the program that decrypts with the secret key in the file ``identity``.

    :raises SluiceError: there is no such file, or it can be read by others.
    """
    if kind == NONE:
        yield []
        return
    if not identity:
        raise SluiceError(f"The copy is encrypted with {kind}, and no identity was given.", "Name the file of the secret key in identity.")
    private(identity, "identity")
    if kind == AGE:
        yield [_program("age"), "--decrypt", "-i", identity]
    elif kind == GPG:
        with _keyring() as home:
            run([*_gpg(home), "--import", identity], timeout=60)
            yield [*_gpg(home), "--decrypt"]


def private(path: str, option: str) -> None:
    """Refuse a file of secrets that others can read.

    :raises SluiceError: it is not there, or its mode is wider than 0600.
    """
    try:
        mode = os.stat(path).st_mode & 0o777
    except OSError as error:
        raise SluiceError(f"{path} cannot be used: {error.strerror}.", f"Check {option}.", path=path) from error
    if mode & 0o077:
        raise SluiceError(f"{path} has the mode {mode:04o}, so others can read the secrets in it.", f"chmod 600 {path}", path=path)


@contextmanager
def _keyring() -> Iterator[str]:
    """Yield a private, empty home of GnuPG; it and the agent that GnuPG starts in it are gone at the end."""
    # The agent's socket lies in it, and the path of a socket may have 107 bytes at most.
    home = tempfile.mkdtemp(prefix="sluice-gpg-", dir="/tmp")
    try:
        yield home
    finally:
        with suppress(SluiceError):
            run([_program("gpgconf"), "--homedir", home, "--kill", "all"], timeout=20)
        shutil.rmtree(home, ignore_errors=True)


def _gpg(home: str) -> list[str]:
    return [_program("gpg"), "--homedir", home, "--batch", "--no-tty", "--quiet", "--yes"]


def _program(name: str) -> str:
    found = shutil.which(name)
    if not found:
        package = "age" if name == "age" else "gnupg"
        raise SluiceError(f"{name} is not installed on this host, so a copy can neither be encrypted nor decrypted.", f"Install it (Debian: {package}).")
    return found


def _start(argv: Sequence[str], stdin: Any, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    # run_command keeps all of the output in memory; these are streams.
    # pylint: disable-next=ansible-bad-function
    return subprocess.Popen(list(argv), env=clean_environment(), stdin=stdin, stdout=subprocess.PIPE, stderr=errors)


def _succeeded(process: subprocess.Popen[bytes], errors: IO[bytes], argv: Sequence[str], what: str) -> None:
    try:
        rc = process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        rc = -1
    if rc:
        errors.seek(0)
        said = errors.read()[-2000:].decode("utf-8", "replace").strip()
        raise SluiceError(f"{what}: {os.path.basename(argv[0])} ended with exit code {rc}: {said or 'it said nothing'}", rc=rc, stderr=said)


def _end(process: subprocess.Popen[bytes] | None) -> None:
    if process and process.poll() is None:
        process.kill()
        process.wait()
