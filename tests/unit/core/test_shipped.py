# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Manifests of shipped copies, the names of their files, and what is refused before anything is done."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import shipped
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

COPY = shipped.Shipped("wallet", "r1", "2025-11-20T02:00:00Z", "ab", 10, "r1.tar.age", 20, "cd", "ef-2", "age", ("age1x",), True)
S3 = {"name": "offsite", "kind": "s3", "bucket": "b"}
SSH = {"name": "vault", "kind": "ssh", "host": "vault.example.org", "path": "/srv"}
PUBLIC = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"


def test_a_manifest_is_one_line_and_comes_back() -> None:
    line = shipped.to_json(COPY)
    assert line.count("\n") == 1
    assert shipped.from_json(line, "r1.json") == COPY


@pytest.mark.parametrize(
    "broken",
    ["", "[]", "{}", shipped.to_json(COPY)[:-5], shipped.to_json(COPY).replace("r1.tar.age", "../r2.tar"), shipped.to_json(COPY).replace("Z", "")],
)
def test_a_damaged_manifest_is_refused(broken: str) -> None:
    with pytest.raises(SluiceError, match="cannot be read as the manifest"):
        shipped.from_json(broken, "r1.json")


def test_a_manifest_of_another_copy_or_format_is_refused() -> None:
    with pytest.raises(SluiceError, match="cannot be read"):
        shipped.from_json(shipped.to_json(COPY), "r2.json")
    with pytest.raises(SluiceError, match="format 2; this version reads 1"):
        shipped.from_json(shipped.to_json(COPY).replace('"format": 1', '"format": 2'), "r1.json")


def test_another_backup_under_the_same_id_is_not_replaced() -> None:
    shipped.check_same(COPY, "ab", "vault")
    with pytest.raises(SluiceError, match="vault has another backup under the id r1, taken 2025-11-20T02:00:00Z; it was not replaced"):
        shipped.check_same(COPY, "ba", "vault")


@pytest.mark.parametrize(
    ("destinations", "message"),
    [
        ([SSH, SSH], "Destination 2: 'vault' is there twice"),
        ([{**SSH, "name": "local"}], "means the backup's own folder"),
        ([{**SSH, "name": "a b"}], "is no name"),
        ([{**SSH, "path": "srv"}], "the path 'srv' is not absolute"),
        ([{**SSH, "host": "-oProxyCommand=x"}], "'-oProxyCommand=x' is no host"),
        ([{**SSH, "user": "-l"}], "'-l' is no user"),
        ([{**S3, "access_key_var": "KEY"}], "one half of a pair"),
    ],
)
def test_destinations_that_cannot_be(destinations: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(SluiceError, match="Destination") as refused:
        shipped.check_destinations(destinations)
    assert message in str(refused.value)


def test_destinations_that_can() -> None:
    shipped.check_destinations([S3, SSH, {**SSH, "name": "v6", "host": "[::1]", "user": "backup"}])


@pytest.mark.parametrize(
    ("kind", "recipients", "message"),
    [
        ("none", [PUBLIC], "would not be encrypted"),
        ("age", [], "there is no recipient"),
        ("age", [PUBLIC, "AGE-SECRET-KEY-1QQQ"], "Recipient 2 is no public key of age"),
        ("gpg", ["me@example.org"], "Recipient 1 is no path"),
    ],
)
def test_recipients_that_cannot_be(kind: str, recipients: list[str], message: str) -> None:
    with pytest.raises(SluiceError) as refused:
        shipped.check_encryption(kind, recipients)
    assert message in str(refused.value)
    assert "SECRET" not in str(refused.value)


def test_only_what_a_cut_upload_leaves_may_be_removed() -> None:
    left = [".r1.tar.age.partial", "r1.tar", "r1.tar.gpg", "r1.tar.age#upload-id", "r1.json#upload-id"]
    others = ["notes.txt", "r1.json", ".hidden", "tar", "r1.tar.zst"]
    assert [name for name in left + others if shipped.may_be_left(name)] == left


def test_data_belongs_to_its_manifest_and_to_one_that_cannot_be_read() -> None:
    assert [shipped.belongs(name, {"r1.json": COPY}) for name in ("r1.json", "r1.tar.age", "r1.tar", "r2.tar")] == [True, True, False, False]
    assert [shipped.belongs(name, {"r1.json": None}) for name in ("r1.json", "r1.tar.age", "r1.tar", "r2.tar")] == [True, True, True, False]
