# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups on a disk, an SSH server and storage that speaks S3: shipped, encrypted, read back, fetched, listed, pruned."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.stores import APP, BUCKET, CANARY, Site, Ssh, Storage, program, tree

NAMES = ("disk", "vault", "offsite")


@pytest.fixture
def everywhere(site: Site, ssh: Ssh, storage: Storage) -> list[dict[str, Any]]:
    return [site.path(), ssh.destination(), storage.destination()]


def lying(site: Site, ssh: Ssh | None, storage: Storage) -> dict[str, dict[str, bytes]]:
    """Return what lies in each destination, by name."""
    found = {}
    for name, root in (("disk", site.disk), ("vault", ssh.disk if ssh else site.folder / "none")):
        found[name] = {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
    found["offsite"] = {name.removeprefix("prod/"): storage.body(name) for name in storage.names()}
    return found


def states(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [(gate["name"], gate["verdict"]) for gate in result["gates"]]


def keys(folder: Path, kind: str) -> tuple[dict[str, Any], Path]:
    """Make a pair of keys with the program itself; return what encrypts, and the file that decrypts."""
    identity = folder / f"{kind}.key"
    program(kind)
    if kind == "age":
        subprocess.run(["age-keygen", "-o", identity], check=True, capture_output=True, timeout=30)
        recipient = subprocess.run(["age-keygen", "-y", identity], check=True, capture_output=True, text=True, timeout=30).stdout.strip()
    else:
        home = tempfile.mkdtemp(prefix="sluice-test-gpg-", dir="/tmp")
        gpg = ["gpg", "--homedir", home, "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"]
        try:
            subprocess.run([*gpg, "--quick-generate-key", "backup@example.org", "ed25519", "cert"], check=True, capture_output=True, timeout=60)
            finger = subprocess.run([*gpg, "--with-colons", "-K"], check=True, capture_output=True, text=True, timeout=30).stdout
            finger = next(line.split(":")[9] for line in finger.splitlines() if line.startswith("fpr"))
            subprocess.run([*gpg, "--quick-add-key", finger, "cv25519", "encr", "never"], check=True, capture_output=True, timeout=60)
            subprocess.run([*gpg, "--armor", "--export-secret-keys", "--output", identity, finger], check=True, capture_output=True, timeout=30)
            subprocess.run([*gpg, "--armor", "--export", "--output", folder / "backup.asc", finger], check=True, capture_output=True, timeout=30)
        finally:
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False, timeout=20)
            shutil.rmtree(home, ignore_errors=True)
        recipient = str(folder / "backup.asc")
    identity.chmod(0o600)
    return {"kind": kind, "recipients": [recipient]}, identity


def test_shipped_everywhere_and_back_from_each(site: Site, ssh: Ssh, storage: Storage, everywhere: list[dict[str, Any]]) -> None:
    # Larger than one part of an upload.
    made = site.backup("r1", size=9_000_000)
    was = tree(site.backups)
    planned = site.good(check=True, release_id="r1", destinations=everywhere)
    assert planned["changed"] and all("would ship" in each for each in planned["actions"])
    assert not any(lying(site, ssh, storage).values())

    result = site.good(release_id="r1", destinations=everywhere)
    assert result["changed"]
    assert states(result) == [("shipped", "pass")] * 3 + [("private", "pass")]
    for files in lying(site, ssh, storage).values():
        assert sorted(files) == [f"{APP}/r1.json", f"{APP}/r1.tar"]
        assert files[f"{APP}/r1.tar"].count(CANARY) == 2
        assert json.loads(files[f"{APP}/r1.json"])["plain_bytes"] == sum(path.stat().st_size for path in (made / "archive").iterdir())
    head = storage.client.head_object(Bucket=BUCKET, Key="prod/wallet/r1.tar", ChecksumMode="ENABLED")
    assert head["ServerSideEncryption"] == "AES256" and head["ETag"].endswith('-2"')
    assert json.loads(storage.body("prod/wallet/r1.json"))["checksum"].startswith(head["ChecksumSHA256"].partition("-")[0])
    for folder in (site.disk / APP, ssh.disk / APP):
        assert {path.stat().st_mode & 0o077 for path in (folder, *folder.iterdir())} == {0}

    again = site.good(release_id="r1", destinations=everywhere)
    assert not again["changed"] and states(again) == states(result)

    for name in NAMES:
        shutil.rmtree(made)
        planned = site.good(check=True, state="fetched", release_id="r1", destinations=everywhere, source=name)
        assert planned["changed"] and not made.exists()
        assert site.good(state="fetched", release_id="r1", destinations=everywhere, source=name)["changed"]
        assert {key: value for key, value in tree(site.backups).items() if not key.startswith(".")} == was
    assert not site.good(state="fetched", release_id="r1", destinations=everywhere)["changed"]
    (made / "archive" / "toc.dat").write_bytes(b"x")
    assert "is there and damaged" in site.bad(state="fetched", release_id="r1", destinations=everywhere)["msg"]


@pytest.mark.parametrize("kind", ["age", "gpg"])
def test_no_plain_byte_leaves_the_host(kind: str, site: Site, storage: Storage, tmp_path: Path) -> None:
    encryption, identity = keys(tmp_path, kind)
    everywhere = [site.path(), storage.destination()]
    made = site.backup("r1")
    was = tree(made)
    # Shipped in the clear at first: once it is encrypted, the clear file is gone.
    site.good(release_id="r1", destinations=everywhere)
    result = site.good(release_id="r1", destinations=everywhere, encryption=encryption)
    assert result["changed"] and all("is for other recipients (none)" in each for each in result["actions"])
    for files in (lying(site, None, storage)[name] for name in ("disk", "offsite")):
        assert sorted(files) == [f"{APP}/r1.json", f"{APP}/r1.tar.{kind}"]
        assert all(CANARY not in body for body in files.values())
    assert not site.good(release_id="r1", destinations=everywhere, encryption=encryption)["changed"]

    shutil.rmtree(made)
    common = {"state": "fetched", "release_id": "r1", "destinations": everywhere[:1]}
    assert "no identity was given" in site.bad(**common)["msg"]
    identity.chmod(0o640)
    assert "others can read the secrets" in site.bad(**common, identity=str(identity))["msg"]
    (tmp_path / "other").mkdir()
    _other, stranger = keys(tmp_path / "other", kind)
    refused = site.bad(**common, identity=str(stranger))["msg"]
    assert "could not be decrypted" in refused and "damaged" not in refused and not made.exists()
    identity.chmod(0o600)
    for destination in everywhere:
        site.good(**{**common, "destinations": [destination]}, identity=str(identity))
        assert tree(made) == was
        shutil.rmtree(made)


def test_what_age_and_tar_alone_can_read(site: Site, tmp_path: Path) -> None:
    """The day may come when only the copy and the key are left."""
    encryption, identity = keys(tmp_path, "age")
    was = tree(site.backup("r1"))
    site.good(release_id="r1", destinations=[site.path()], encryption=encryption)
    plain, out = tmp_path / "plain.tar", tmp_path / "out"
    out.mkdir()
    subprocess.run(["age", "-d", "-i", identity, "-o", plain, site.disk / APP / "r1.tar.age"], check=True, timeout=30)
    subprocess.run(["tar", "-xf", plain, "-C", out], check=True, timeout=30)
    assert tree(out) == was


def test_damage_over_there_is_found_and_mended(site: Site, ssh: Ssh, storage: Storage, everywhere: list[dict[str, Any]]) -> None:
    made = site.backup("r1")
    site.good(release_id="r1", destinations=everywhere)
    good = lying(site, ssh, storage)["disk"][f"{APP}/r1.tar"]
    bad = good[:20_000] + bytes([good[20_000] ^ 1]) + good[20_001:]
    (site.disk / APP / "r1.tar").write_bytes(bad)
    (ssh.disk / APP / "r1.tar").write_bytes(bad)
    storage.client.put_object(Bucket=BUCKET, Key="prod/wallet/r1.tar", Body=bad, ServerSideEncryption="AES256")

    kept = made.rename(site.folder / "kept")
    for name in NAMES:
        refused = site.bad(state="fetched", release_id="r1", destinations=everywhere, source=name)["msg"]
        assert "is damaged: r1.tar has another" in refused and not made.exists(), refused
    (site.disk / APP / "r1.tar").write_bytes(good)
    result = site.good(state="fetched", release_id="r1", destinations=[everywhere[1], everywhere[0]])
    assert "is damaged" in result["actions"][0] and "from disk" in result["actions"][1]
    shutil.rmtree(kept)

    (ssh.disk / APP / "r1.tar").write_bytes(good[:100])
    result = site.good(release_id="r1", destinations=everywhere)
    assert result["changed"] and "already" in result["actions"][0]
    assert "the copy there has 100 bytes instead of" in result["actions"][1]
    assert "the copy there has another SHA-256" in result["actions"][2]
    assert not site.good(release_id="r1", destinations=everywhere)["changed"]


def test_a_damaged_backup_is_not_shipped(site: Site, ssh: Ssh, storage: Storage, everywhere: list[dict[str, Any]]) -> None:
    made = site.backup("r1")
    body = bytearray((made / "archive" / "toc.dat").read_bytes())
    body[3] ^= 1
    (made / "archive" / "toc.dat").write_bytes(body)
    refused = site.bad(release_id="r1", destinations=everywhere)
    assert refused["msg"].count("toc.dat is not what the manifest says") == 3
    assert not any(lying(site, ssh, storage).values()) and storage.uploads() == []
    (made / "archive" / "toc.dat").unlink()
    assert "toc.dat is missing" in site.bad(release_id="r1", destinations=everywhere[:1])["msg"]
    assert "there is no backup of r9 to ship" in site.bad(release_id="r9", destinations=everywhere)["msg"]


def test_another_backup_under_the_same_id_stays(site: Site, ssh: Ssh, storage: Storage, everywhere: list[dict[str, Any]]) -> None:
    made = site.backup("r1")
    site.good(release_id="r1", destinations=everywhere)
    was = lying(site, ssh, storage)
    shutil.rmtree(made)
    site.backup("r1")
    assert site.bad(release_id="r1", destinations=everywhere)["msg"].count("has another backup under the id r1") == 3
    assert lying(site, ssh, storage) == was


def test_a_bucket_that_strangers_can_read_is_said(site: Site, storage: Storage) -> None:
    site.backup("r1")
    site.good(release_id="r1", destinations=[storage.destination()])
    storage.client.put_object_acl(Bucket=BUCKET, Key="prod/wallet/r1.json", ACL="public-read")
    refused = site.bad(release_id="r1", destinations=[storage.destination()])
    assert "anybody can read r1.json without a key" in refused["msg"]
    assert states(refused) == [("shipped", "pass"), ("private", "fail")]


def test_a_drill_is_noted_in_the_copies(site: Site) -> None:
    everywhere = [site.path()]
    site.backup("r1")
    site.good(release_id="r1", destinations=everywhere)
    (site.backups / "wallet-r1" / "drill.json").write_text('{"manifest_sha256": "of another"}')
    assert not site.good(release_id="r1", destinations=everywhere)["changed"]
    site.drill("r1")
    assert site.good(release_id="r1", destinations=everywhere)["changed"]
    assert not site.good(release_id="r1", destinations=everywhere)["changed"]
    assert not site.good(state="fetched", release_id="r1", destinations=everywhere)["changed"]
    assert [copy["drilled"] for copy in site.good(state="read", destinations=everywhere)["copies"]] == [True, True]


def test_the_age_of_every_place(site: Site, ssh: Ssh, storage: Storage, everywhere: list[dict[str, Any]]) -> None:
    site.backup("r1", days=3)
    site.backup("r1", app="wallet-eu")
    site.good(release_id="r1", destinations=everywhere)
    site.good(state="read", destinations=everywhere, max_age=4 * 86400)
    site.backup("r2")
    late = site.bad(state="read", destinations=everywhere, max_age=86400)
    assert states(late) == [("fresh", "pass"), ("fresh", "fail"), ("fresh", "fail"), ("fresh", "fail")]
    assert "vault" in late["msg"] and "(r1) is 3 days old, the limit is 24 hours" in late["msg"]
    site.backup("r3", days=-2)
    shutil.rmtree(ssh.disk / APP)
    told = site.bad(state="read", destinations=[{**everywhere[0], "path": str(site.folder / "unmounted")}, ssh.destination()], max_age=86400)
    assert states(told) == [("fresh", "inconclusive"), ("fresh", "inconclusive"), ("fresh", "fail")]
    assert "in the future, so its age cannot be told" in told["msg"] and "has no backup" in told["msg"]


def test_pruning_everywhere(site: Site, ssh: Ssh, storage: Storage, everywhere: list[dict[str, Any]]) -> None:
    for day in range(8):
        site.backup(f"d{day}", days=day)
        if day == 6:
            site.drill("d6")
        if day != 5:
            site.good(release_id=f"d{day}", destinations=everywhere[:1])
    shutil.copytree(site.disk / APP, ssh.disk / APP)
    for path in (site.disk / APP).iterdir():
        storage.client.put_object(Bucket=BUCKET, Key=f"prod/{APP}/{path.name}", Body=path.read_bytes())
    site.backup("d1", days=9, app="wallet-eu")
    rules = {"state": "pruned", "destinations": everywhere, "retention": {"last": 2}, "pinned": ["d4"]}
    was = lying(site, ssh, storage), tree(site.backups)
    planned = site.good(check=True, **rules)
    assert (lying(site, ssh, storage), tree(site.backups)) == was
    result = site.good(**rules)
    assert result["changed"] and planned["copies"][0]["reason"] == result["copies"][0]["reason"] == "the newest; last 1 of 2"
    assert [each.replace("would remove", "removed") for each in planned["actions"]] == result["actions"]
    kept = {copy["release_id"]: copy["reason"] for copy in result["copies"] if copy["keep"] and copy["place"] == "offsite"}
    assert kept == {
        "d0": "the newest; last 1 of 2",
        "d1": "last 2 of 2",
        "d4": "the ledger points to its release",
        "d6": "the newest that was restored and compared",
    }
    for files in lying(site, ssh, storage).values():
        assert sorted(files) == sorted(f"{APP}/{name}.{suffix}" for name in kept for suffix in ("json", "tar"))
    # No destination has d5.
    here = sorted(path.name for path in site.backups.iterdir() if path.is_dir())
    assert here == ["wallet-d0", "wallet-d1", "wallet-d4", "wallet-d5", "wallet-d6", "wallet-eu-d1"]
    assert "-offsite d2 " in "".join(f"-{line}\n" for line in set(result["diff"]["before"].splitlines()) - set(result["diff"]["after"].splitlines()))
    assert not site.good(**rules)["changed"]
    more = [{**each, "retention": {"last": 1}} if each["name"] == "vault" else each for each in everywhere]
    removed = site.good(**{**rules, "destinations": more})["actions"]
    assert [each.split(",")[0] for each in removed] == [f"removed d1 from vault (127.0.0.1:{ssh.disk}/{APP})"]


def test_only_what_is_surely_left_over_is_swept(site: Site, ssh: Ssh, storage: Storage, everywhere: list[dict[str, Any]]) -> None:
    site.backup("r1")
    site.good(release_id="r1", destinations=everywhere)
    old = (datetime.now(timezone.utc) - timedelta(days=2)).timestamp()
    for folder in (site.disk / APP, ssh.disk / APP):
        for name, modified in ((".r0.tar.partial", old), ("r0.tar.age", old), ("r2.tar", None), ("notes.txt", old), ("r3.tar", old), ("r3.json", old)):
            (folder / name).write_text("x")
            if modified:
                os.utime(folder / name, (modified, modified))
    (site.backups / ".wallet-r0.removed").mkdir()
    result = site.good(state="pruned", destinations=everywhere, retention={"last": 1})
    assert sum("a run that was cut left it" in each for each in result["actions"]) == 5
    assert sum("r3.json cannot be read" in each for each in result["actions"]) == 2
    for folder in (site.disk / APP, ssh.disk / APP):
        assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "r1.json", "r1.tar", "r2.tar", "r3.json", "r3.tar"]
    assert not (site.backups / ".wallet-r0.removed").exists()
