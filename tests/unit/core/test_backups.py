# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups: the manifest survives being written, and every difference from it is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import backups
from ansible_collections.sluice.deploy.plugins.module_utils.core.backups import FileFact, Manifest
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, PASS
from hypothesis import given
from hypothesis import strategies as st

FILES = {"archive/toc.dat": FileFact(10, "aa"), "archive/1.dat.gz": FileFact(20, "bb")}
MANIFEST = Manifest("wallet", "r1", "db", "2026-01-01T00:00:00Z", "16.4", "16", "0/1", "gzip:1", {"public.a": 3, "public.b": 0}, ("0001_x",), FILES)
FACTS = st.builds(FileFact, st.integers(0, 2**40), st.text(max_size=64))


@given(st.dictionaries(st.text(max_size=20), st.integers(0, 2**40)), st.dictionaries(st.text(max_size=20), FACTS), st.lists(st.text(max_size=20)))
def test_a_manifest_is_read_back(tables: dict[str, int], files: dict[str, FileFact], heads: list[str]) -> None:
    manifest = replace(MANIFEST, tables=tables, files=files, heads=tuple(heads))
    text = backups.to_json(manifest)
    assert backups.from_json(text, "m") == manifest
    assert backups.to_json(backups.from_json(text, "m")) == text


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "1", "{}", '{"format": 2}', backups.to_json(MANIFEST).replace('"lsn"', '"lns"'), backups.to_json(MANIFEST)[:-20]]
)
def test_a_damaged_manifest_is_named(text: str) -> None:
    with pytest.raises(SluiceError, match="The manifest /b/manifest.json is damaged"):
        backups.from_json(text, "/b/manifest.json")


def test_a_manifest_of_another_format_is_refused() -> None:
    with pytest.raises(SluiceError, match="has the format 1; this version reads 2"):
        backups.from_json(backups.to_json(replace(MANIFEST, format=1)), "m")


@given(st.dictionaries(st.sampled_from("abcdef"), FACTS), st.dictionaries(st.sampled_from("abcdef"), FACTS))
def test_files_pass_only_when_they_are_equal(wanted: dict[str, FileFact], seen: dict[str, FileFact]) -> None:
    gates = backups.check_files(replace(MANIFEST, files=wanted), seen)
    differ = {name for name in {*wanted, *seen} if wanted.get(name) != seen.get(name)}
    if differ:
        assert len(gates) == len(differ) and {gate.verdict for gate in gates} == {FAIL} and {gate.sentence.split()[0] for gate in gates} == differ
    else:
        assert [gate.verdict for gate in gates] == [PASS]


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        (None, "archive/1.dat.gz is missing"),
        (FileFact(0, "e"), "archive/1.dat.gz is empty: 0 bytes, the manifest says 20"),
        (FileFact(7, "e"), "archive/1.dat.gz is cut short"),
        (FileFact(70, "e"), "archive/1.dat.gz is too long"),
        (FileFact(20, "e"), "archive/1.dat.gz is damaged"),
    ],
)
def test_damage_is_named(fact: FileFact | None, words: str) -> None:
    seen = {**FILES, "archive/1.dat.gz": fact}
    gates = backups.check_files(MANIFEST, {name: found for name, found in seen.items() if found})
    assert len(gates) == 1 and words in gates[0].sentence
    with pytest.raises(SluiceError, match="is damaged: archive/1.dat.gz") as caught:
        backups.refuse_failed(gates, "The backup is damaged")
    assert caught.value.facts["gates"][0]["verdict"] == "fail"


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=70).filter(lambda name: len(name.encode()) <= 63))
def test_a_rehearsal_never_has_the_name_of_the_real_database(database: str) -> None:
    name = backups.rehearsal_name(database)
    assert name != database and len(name.encode()) <= 63 and name.endswith("_rehearsal")


def test_names_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(SluiceError, match="is the real database"):
        backups.rehearsal_name("db", "db")
    with pytest.raises(SluiceError, match="64 bytes"):
        backups.rehearsal_name("db", "d" * 64)


@pytest.mark.parametrize("comment", ["", "a note", "sluice rehearsals"])
def test_a_database_without_the_mark_is_left_alone(comment: str) -> None:
    with pytest.raises(SluiceError, match="no rehearsal made it"):
        backups.check_marker("x", comment)


def test_the_mark_is_known() -> None:
    backups.check_marker("x", backups.marker("wallet", "r1"))
    backups.check_marker("x", None)


def test_room() -> None:
    backups.check_room(100, 200, 0, "/b")
    with pytest.raises(SluiceError, match="the limit is 99 bytes. Nothing was started"):
        backups.check_room(100, 200, 99, "/b")
    with pytest.raises(SluiceError, match="/b has 99 bytes free"):
        backups.check_room(100, 99, 0, "/b")


def test_versions() -> None:
    backups.check_client(17, 16)
    with pytest.raises(SluiceError, match="clients are version 15, the server is version 16"):
        backups.check_client(15, 16)
    backups.check_server(MANIFEST, 16)
    with pytest.raises(SluiceError, match="this server is version 15"):
        backups.check_server(MANIFEST, 15)


def test_a_backup_of_something_else_is_refused() -> None:
    backups.check_origin(MANIFEST, "wallet", "db")
    with pytest.raises(SluiceError, match="of the app wallet, not of shop"):
        backups.check_origin(MANIFEST, "shop", "db")
    with pytest.raises(SluiceError, match="of the database db, not of other"):
        backups.check_origin(MANIFEST, "wallet", "other")


@pytest.mark.parametrize("release_id", ["", "../x", "a/b", ".x", "a b", "x" * 101])
def test_names_of_folders(release_id: str) -> None:
    with pytest.raises(SluiceError, match="cannot be part of a file name"):
        backups.folder_name("wallet", release_id)


@pytest.mark.parametrize("wanted", ["brotli", "zstd:", "gzip:1;x", ""])
def test_compressions(wanted: str) -> None:
    assert backups.compressions("auto") == ("zstd:1", "lz4", "gzip:1")
    assert backups.compressions("zstd:9") == ("zstd:9",)
    with pytest.raises(SluiceError, match="is no compression"):
        backups.compressions(wanted)
