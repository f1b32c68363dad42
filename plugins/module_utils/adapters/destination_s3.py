# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of backups in storage that speaks S3, through boto3: its retries, its ways to find a region, a proxy or a host's own role."""

from __future__ import annotations

import hashlib
import importlib
import itertools
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.destination import Deadline, Entry, Written
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.secret import scrub
from ansible_collections.sluice.deploy.plugins.module_utils.core.shipped import MANIFEST
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, INCONCLUSIVE, PASS, Gate

# Some parts are held in memory. S3 takes 10,000 parts of 5 MiB or more, so only what is over 44 GiB needs larger ones.
_PART = 5 << 20
_PARTS = 9_000
_BLOCK = 1 << 20
# Stands between the name and the id of an upload that was never completed; no name of ours has it.
_UPLOAD = "#"


class S3Destination:
    """Objects below ``prefix`` in a bucket, by app."""

    def __init__(self, given: Mapping[str, Any], secrets: Mapping[str, str], deadline: Deadline) -> None:
        self.name: str = given["name"]
        self._bucket: str = given["bucket"]
        self._prefix = (given.get("prefix") or "").strip("/")
        self._deadline = deadline
        self._protect = {"ServerSideEncryption": given["sse"]} if given["sse"] != "none" else {}
        if given.get("sse_key"):
            self._protect["SSEKMSKeyId"] = given["sse_key"]
        self._keys = [self._secret(given, secrets, option) for option in ("access_key_var", "secret_key_var", "token_var")]
        try:
            boto3, config = importlib.import_module("boto3"), importlib.import_module("botocore.config")
            self._errors = importlib.import_module("botocore.exceptions")
            self._unsigned = importlib.import_module("botocore").UNSIGNED
        except ImportError as error:
            raise SluiceError(
                f"{self.name}: the Python of this host has no boto3, which speaks S3.", "Install it (Debian: python3-boto3).", missing="boto3"
            ) from error

        def client(**signature: Any) -> Any:
            settings = config.Config(
                connect_timeout=10,
                read_timeout=60,
                retries={"mode": "standard", "max_attempts": 4},
                s3={"addressing_style": given.get("addressing") or "auto"},
                **signature,
            )
            access, secret, token = self._keys
            made = boto3.session.Session().client(
                "s3",
                endpoint_url=given.get("endpoint") or None,
                region_name=given.get("region") or None,
                aws_access_key_id=access or None,
                aws_secret_access_key=secret or None,
                aws_session_token=token or None,
                config=settings,
            )
            # The library takes our alarm for a broken connection and tries again; before it does, it is asked whether there is time.
            made.meta.events.register("before-send.s3", lambda **_about: deadline.left() and None)
            return made

        self._client = client
        with self._told("opening the storage"):
            self._s3 = client()

    def _secret(self, given: Mapping[str, Any], secrets: Mapping[str, str], option: str) -> str:
        variable = given.get(option)
        if variable and not secrets.get(variable):
            raise SluiceError(f"{self.name}: env_file does not set {variable}.", f"Set {variable} there, or correct {option}.")
        return secrets[variable] if variable else ""

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn the library's errors into ours."""
        try:
            yield
        except self._errors.ClientError as error:
            about, status = error.response.get("Error", {}), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            said = scrub(f"{about.get('Code', '')} {about.get('Message', '')}".strip(), self._keys)
            remedy = "Check the keys and what they are allowed." if status in (401, 403) else ""
            raise SluiceError(f"{self.name}: {what} failed in bucket {self._bucket} with status {status}: {said}.", remedy, status=status) from error
        except (self._errors.BotoCoreError, ValueError) as error:
            raise SluiceError(f"{self.name}: {what} failed: {scrub(str(error), self._keys)}", "Check endpoint, region and the way there.") from error

    def where(self, app: str) -> str:
        return f"{self.name} (s3://{self._bucket}/{self._key(app, '')})"

    def _key(self, app: str, name: str) -> str:
        return "/".join(filter(None, (self._prefix, app))) + "/" + name

    def _object(self, app: str, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._key(app, name)}

    def _pages(self, operation: str, app: str, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
        prefix = self._key(app, "")
        with self._told("listing the copies"):
            for page in self._s3.get_paginator(operation).paginate(Bucket=self._bucket, Prefix=prefix):
                self._deadline.left()
                for each in page.get(key, ()):
                    yield each["Key"][len(prefix) :], each

    def entries(self, app: str) -> dict[str, Entry]:
        found = {name: Entry(each["Size"], each["LastModified"]) for name, each in self._pages("list_objects_v2", app, "Contents")}
        found.update(self._uploads(app))
        return found

    def _uploads(self, app: str) -> dict[str, Entry]:
        """Return uploads that were begun and not completed; their parts are stored, and paid for, and seen in no listing of objects."""
        return {f"{name}{_UPLOAD}{each['UploadId']}": Entry(0, each["Initiated"]) for name, each in self._pages("list_multipart_uploads", app, "Uploads")}

    def manifests(self, app: str, only: str = "") -> dict[str, str]:
        found = {}
        for name in [name for name, _each in self._pages("list_objects_v2", app, "Contents") if name.endswith(MANIFEST) and only in ("", name)]:
            with self.read(app, name) as blocks:
                found[name] = b"".join(blocks).decode("utf-8", "replace")
        return found

    def write(self, app: str, name: str, blocks: Iterator[bytes], size: int) -> Written:
        # An object appears whole or not at all; what a cut run began is taken back first.
        self.remove(app, [each for each in self._uploads(app) if each.split(_UPLOAD)[0] == name])
        parts = self._parts(self._deadline.guard(blocks), max(_PART, size // _PARTS))
        digest, count = hashlib.sha256(), 0
        first = next(parts, b"")
        second = next(parts, None)
        target = self._object(app, name)
        if second is None:
            digest.update(first)
            count = len(first)
            checksum = _sha(first)
            with self._told(f"writing {name}"):
                self._s3.put_object(**target, Body=first, ChecksumSHA256=checksum, **self._protect)
        else:
            sums: list[bytes] = []
            with self._told(f"writing {name}"):
                upload = {**target, "UploadId": self._s3.create_multipart_upload(**target, ChecksumAlgorithm="SHA256", **self._protect)["UploadId"]}
            try:
                done = []
                parts = itertools.chain([first, second], parts)
                del first, second
                for part in parts:
                    digest.update(part)
                    count += len(part)
                    sums.append(hashlib.sha256(part).digest())
                    with self._told(f"writing {name}"):
                        # The storage compares each part with its checksum before it accepts it.
                        answer = self._s3.upload_part(**upload, PartNumber=len(sums), Body=part, ChecksumSHA256=_sha(part))
                    done.append({"PartNumber": len(sums), "ETag": answer["ETag"], "ChecksumSHA256": _sha(part)})
                with self._told(f"writing {name}"):
                    self._s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": done})
            except BaseException:
                with suppress(SluiceError), self._told("taking the upload back"):
                    self._s3.abort_multipart_upload(**upload)
                raise
            checksum = f"{b64encode(hashlib.sha256(b''.join(sums)).digest()).decode()}-{len(sums)}"
        written = Written(count, digest.hexdigest(), checksum)
        wrong = self.differs(app, name, written)
        if wrong:
            self.remove(app, [name])
            raise SluiceError(f"{self.where(app)}: {name} {wrong} when it was read back, and was removed.", "Ship it again; look after that storage.")
        return written

    @staticmethod
    def _parts(blocks: Iterator[bytes], size: int) -> Iterator[bytes]:
        # The blocks are of one size, so the parts are too; some storages ask for that.
        held: list[bytes] = []
        for block in blocks:
            held.append(block)
            if sum(map(len, held)) >= size:
                part, held = b"".join(held), []
                yield part
        if held:
            yield b"".join(held)

    def differs(self, app: str, name: str, wanted: Written) -> str:
        try:
            with self._told(f"looking at {name}"):
                head = self._s3.head_object(**self._object(app, name), ChecksumMode="ENABLED")
        except SluiceError as error:
            if error.facts.get("status") == 404:
                return "is missing"
            raise
        if head["ContentLength"] != wanted.bytes:
            return f"has {head['ContentLength']} bytes instead of {wanted.bytes}"
        asked = self._protect.get("ServerSideEncryption")
        if asked and head.get("ServerSideEncryption") != asked:
            return f"is not encrypted there with {asked}"
        seen = head.get("ChecksumSHA256")
        if seen and wanted.checksum:
            # The checksum of an object of several parts ends with their number, which some storages leave out.
            same = seen.partition("-")[0] == wanted.checksum.partition("-")[0]
            return "" if same else "has another checksum than what was shipped"
        digest = hashlib.sha256()
        with self.read(app, name) as blocks:
            for block in blocks:
                digest.update(block)
        return "" if digest.hexdigest() == wanted.sha256 else "has another SHA-256 than what was shipped"

    @contextmanager
    def read(self, app: str, name: str) -> Iterator[Iterator[bytes]]:
        with self._told(f"reading {name}"):
            body = self._s3.get_object(**self._object(app, name))["Body"]
        try:

            def blocks() -> Iterator[bytes]:
                # What the library raises while it reads is no error of its own kind everywhere.
                with self._told(f"reading {name}"):
                    yield from self._deadline.guard(iter(lambda: body.read(_BLOCK), b""))

            yield blocks()
        finally:
            body.close()

    def remove(self, app: str, names: Sequence[str]) -> None:
        for name in names:
            plain, _mark, upload = name.partition(_UPLOAD)
            self._deadline.left()
            with self._told(f"removing {plain}"):
                if upload:
                    self._s3.abort_multipart_upload(**self._object(app, plain), UploadId=upload)
                else:
                    self._s3.delete_object(**self._object(app, name))

    def exposed(self, app: str, name: str) -> Gate:
        """Ask for the file without any key, as a stranger would (catalogue S3-128: the bucket is not public)."""
        try:
            self._client(signature_version=self._unsigned).head_object(**self._object(app, name))
        except self._errors.ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if status in (401, 403, 404):
                return Gate("private", PASS, f"{self.where(app)} refuses a stranger with status {status}.", value=status)
            return Gate("private", INCONCLUSIVE, f"{self.where(app)} answered a stranger with status {status}, which tells nothing.", value=status)
        except self._errors.BotoCoreError as error:
            return Gate("private", INCONCLUSIVE, f"{self.where(app)} did not answer a stranger: {scrub(str(error), self._keys)}")
        return Gate("private", FAIL, f"{self.where(app)}: anybody can read {name} without a key.", remedy="Make the bucket private.")


def _sha(data: bytes) -> str:
    return b64encode(hashlib.sha256(data).digest()).decode()
