# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a database holds, as data; the drill that compares it; and what stands in a dump's way."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import backups, blockers, drills, facts
from ansible_collections.sluice.deploy.plugins.module_utils.core.backups import FileFact, Manifest
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.facts import Schema, TableFact
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, PASS
from hypothesis import given
from hypothesis import strategies as st

MANIFEST = Manifest(
    "wallet",
    "r1",
    "db",
    "2026-01-01T00:00:00Z",
    "16.4",
    "16",
    "0/1",
    "gzip:1",
    {"public.a": 3, "public.b": 0},
    ("0001_x",),
    {"archive/toc.dat": FileFact(1, "a")},
)
WRITTEN = "CHECK (((s)::text = ANY ((ARRAY['new'::character varying, 'it''s'::character varying])::text[])))"
RESTORED = "CHECK (((s)::text = ANY (ARRAY[('new'::character varying)::text, ('it''s'::character varying)::text])))"
ROWS = [
    {"kind": "table", "name": "public.a", "definition": "owner x"},
    {"kind": "function", "name": "public.f()", "definition": "owner x\nBEGIN\n\n  RETURN 1; END"},
    {"kind": "column", "name": 'public."a: b"', "definition": "place 1"},
]
LISTING = """;
; Archive created at 2026-01-01
;     dbname: my db
;     TOC Entries: 9
;     Dumped from database version: 16.14
;     Dumped by pg_dump version: 17.11 (Debian)
;
3340; 0 16386 TABLE DATA public with space owner name
3341; 0 16387 TABLE DATA public b postgres
"""


@given(st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)), st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)))
def test_the_drill_passes_only_when_every_table_is_equal(wanted: dict[str, int], seen: dict[str, int]) -> None:
    gates = drills.check_tables(replace(MANIFEST, tables=wanted), seen)
    assert all(gate.name == "drill" and gate.verdict == FAIL for gate in gates)
    assert (gates == []) == (wanted == seen)


def test_contents_sequences_large_objects_and_extensions_are_compared() -> None:
    manifest = replace(MANIFEST, checksums={"public.a": "7"}, sequences={"s": (3, 9), "d": (9, 3)}, large_objects=2, extensions={"x": "1"})
    seen = {"public.a": TableFact(3, 10, "7"), "public.b": TableFact(0, 1)}
    assert drills.check_checksums(manifest, seen) == []
    assert "with another content" in drills.check_checksums(manifest, {**seen, "public.a": TableFact(3, 10, "8")})[0].sentence
    assert drills.check_sequences(manifest, {"s": 3, "d": 9, "other": 1}) == []
    assert [gate.limit for gate in drills.check_sequences(manifest, {"s": 10})] == ["from 3 to 9", "from 3 to 9"]
    assert drills.check_rest(manifest, 2, {"x": "2", "y": "1"}) == []
    assert [gate.value for gate in drills.check_rest(manifest, 1, {})] == [1, ""]


def test_a_schema_is_text_that_is_read_back_whatever_the_names_are() -> None:
    schema = facts.schema(ROWS)
    assert schema == facts.schema(reversed(ROWS)) and schema.sha256 == facts.schema(ROWS).sha256
    assert set(schema.objects()) == {"table public.a", "function public.f()", 'column public."a:\\ b"'}
    assert "RETURN 1; END" in schema.objects()["function public.f()"]
    assert facts.schema([]).objects() == {}


def test_how_a_definition_is_printed_does_not_fail_a_drill_and_a_missing_object_does() -> None:
    before = facts.schema(ROWS)
    after = facts.schema([*ROWS[1:], {**ROWS[0], "definition": "owner y"}])
    assert drills.check_schema(before, after) == []
    assert "1 definitions read otherwise since the restore (table public.a)" in drills.passed(MANIFEST, 1.5, before, after).sentence
    gates = drills.check_schema(before, facts.schema([*ROWS[1:], {**ROWS[0], "name": "public.c"}]))
    assert gates[0].verdict == FAIL and "table public.a is missing; table public.c is new" in gates[0].sentence
    assert drills.passed(MANIFEST, 1.5, before, before).verdict == PASS
    assert [line[:1] for line in facts.schema_changes(before, after)] == ["~"] and facts.schema_changes(before, before) == []


def test_a_list_of_words_reads_the_same_before_and_after_a_restore() -> None:
    assert facts.normal(WRITTEN) == facts.normal(RESTORED) == RESTORED


@given(st.dictionaries(st.text(min_size=1), st.integers(0, 99)), st.integers(0, 300))
def test_only_the_smallest_tables_are_hashed(sizes: dict[str, int], limit: int) -> None:
    chosen = facts.cheap_tables(sizes, limit)
    assert sum(sizes[name] for name in chosen) <= limit
    left = [sizes[name] for name in sizes if name not in chosen]
    assert not left or sum(sizes[name] for name in chosen) + min(left) > limit


def test_an_archive_s_listing_is_judged() -> None:
    listing = backups.parse_listing(LISTING)
    assert (listing.database, listing.server, listing.client) == ("my db", 16, 17)
    backups.check_listing(listing, "my db", 16, 17, ["public with space", "public b"])
    for database, server, client, tables, words in (
        ("other", 16, 17, [], "of the database my db, not of other"),
        ("my db", 15, 17, [], "of the PostgreSQL version 16, not of 15"),
        ("my db", 16, 16, [], "of the pg_dump version 17, not of 16"),
        ("my db", 16, 17, ["public gone"], "leaves out public gone"),
    ):
        with pytest.raises(SluiceError, match=words):
            backups.check_listing(listing, database, server, client, tables)
    assert backups.parse_listing("nonsense") == backups.Listing("", 0, 0, ())


def test_a_proven_copy_is_known_by_its_comment() -> None:
    comment = backups.restored_marker("wallet", "r1", "abc", 12.5)
    assert backups.restored_seconds(comment, "wallet", "r1", "abc") == 12.5
    for other in (None, "", backups.restored_marker("wallet", "r1"), comment + "x"):
        assert backups.restored_seconds(other, "wallet", "r1", "abc") is None
    assert backups.restored_seconds(comment, "wallet", "r2", "abc") is None and backups.restored_seconds(comment, "wallet", "r1", "abd") is None
    backups.check_marker("x", comment)
    assert backups.restored_name("é" * 31) == "é" * 27 + "_restored"
    with pytest.raises(SluiceError, match="a drill never runs there"):
        backups.restored_name("db", "db")


def test_an_archive_of_newer_clients_is_refused() -> None:
    backups.check_restorer(MANIFEST, 17, 16)
    with pytest.raises(SluiceError, match="written by pg_dump 17; pg_restore here is version 16"):
        backups.check_restorer(replace(MANIFEST, client_version="17"), 16, 16)


def test_who_is_in_the_way_is_named() -> None:
    blockers.refuse_locks([], 1)
    holders = [
        {"pid": 7, "application_name": "report", "state": "active", "relation": "a", "granted": True, "prepared": None},
        {"pid": None, "application_name": "", "state": "", "relation": "b", "granted": True, "prepared": "two-phase"},
        {"pid": 9, "application_name": "", "state": "", "relation": "c", "granted": False, "prepared": None},
        {"pid": 10, "application_name": "", "state": "", "relation": "d", "granted": False, "prepared": None},
    ]
    with pytest.raises(SluiceError) as caught:
        blockers.refuse_locks(holders, 2)
    for words in (
        "pid 7 (report, active) holds an exclusive lock on a",
        "the prepared transaction two-phase holds",
        "pid 9 (no application name) waits for",
        "and 1 more; waited 2 s",
    ):
        assert words in str(caught.value)
    blockers.refuse_few_connections(3, 3, "The dump")
    with pytest.raises(SluiceError, match="The dump needs 3 connections, and 0 are free"):
        blockers.refuse_few_connections(-2, 3, "The dump")
    busy = blockers.Sessions([{"pid": 1, "application_name": "pg_dump"}], [{"pid": 2, "application_name": "x", "state": "idle", "seconds": 400}], 9)
    assert "another dump runs (pid 1 (pg_dump)); pid 2 (x, idle) has a transaction open for 400 s" in blockers.gate(busy).sentence
    assert blockers.gate(blockers.Sessions([], [], 9)).value == 0
    with pytest.raises(SluiceError, match="may not read a, b, c, d, e and 1 more"):
        backups.check_rights(list("abcdef"))


def test_an_empty_schema_file_is_an_empty_schema() -> None:
    assert Schema("").objects() == {}
