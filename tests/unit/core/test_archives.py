# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an archive of a release may hold, and what stands for its commit."""

from __future__ import annotations

import posixpath

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import archives
from ansible_collections.sluice.deploy.plugins.module_utils.core.archives import FILE, FOLDER, HARDLINK, LINK, OTHER, Member
from hypothesis import given
from hypothesis import strategies as st

GOOD = [
    Member("./", FOLDER),
    Member("bin", FOLDER),
    Member("bin/run", FILE, 3),
    Member("bin/again", HARDLINK, target="bin/run"),
    Member("current", LINK, target="bin"),
    Member("bin/up", LINK, target="../bin/./run"),
    Member("bin", FOLDER),
]


def test_files_folders_and_links_within_are_allowed() -> None:
    assert archives.complaint(GOOD, links_may_lead_out=False) == ""


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([Member("/etc/passwd", FILE)], "would land outside"),
        ([Member("../x", FILE)], "would land outside"),
        ([Member("bin/../../x", FILE)], "would land outside"),
        ([Member("pipe", OTHER)], "is a device or a pipe"),
        ([Member("", FILE)], "has no name"),
        ([Member("bin/run", FILE)], "is in it twice"),
        ([Member("bin", FILE)], "is in it twice"),
        ([Member("bin", LINK, target="/etc")], "would be written through the link"),
        ([Member("current/x", FILE)], 'would be written through the link "current"'),
        ([Member("bin/late/x", FILE), Member("bin/late", LINK, target=".")], "would be written through the link"),
        ([Member("out", LINK, target="/etc/passwd")], "leads outside"),
        ([Member("out", LINK, target="..")], "leads outside"),
        ([Member("bin/out", LINK, target="../../x")], "leads outside"),
        ([Member("self", LINK, target="self")], "leads outside"),
        ([Member("gone", HARDLINK, target="../../etc/shadow")], "which is no file before it"),
        ([Member("gone", HARDLINK, target="current")], "which is no file before it"),
        # Each of the two alone is harmless: by its text, the second one leads to a folder in the archive.
        ([Member("a/b/root", LINK, target="../.."), Member("sly", LINK, target="a/b/root/..")], 'the link "sly" leads outside'),
        ([Member("far", LINK, target="sly/x"), Member("sly", LINK, target="bin/../..")], "leads outside"),
    ],
)
def test_what_would_land_elsewhere_is_named(more: list[Member], said: str) -> None:
    assert said in archives.complaint([*GOOD, *more], links_may_lead_out=False)


def test_what_was_built_here_may_link_to_the_host_but_not_write_there() -> None:
    venv = [Member(".venv/bin/python3", LINK, target="/usr/bin/python3")]
    assert archives.complaint(venv, links_may_lead_out=True) == ""
    assert "through the link" in archives.complaint([Member("etc", LINK, target="/etc"), Member("etc/passwd", FILE)], links_may_lead_out=True)


NAMES = st.lists(st.sampled_from(["a", "b", "c", "..", "."]), min_size=1, max_size=5).map("/".join)


@given(st.dictionaries(NAMES, NAMES, max_size=6))
def test_no_link_that_passes_leads_out_by_itself(links: dict[str, str]) -> None:
    members = [Member(name, LINK, target=target) for name, target in links.items()]
    if archives.complaint(members, links_may_lead_out=False):
        return
    found = {archives.plain(name): target for name, target in links.items()}
    for name, target in found.items():
        where = posixpath.normpath(posixpath.join("/top", posixpath.dirname(name), target))
        # One that passes through another link was followed link by link; one that does not is judged by its text.
        if not any(where == f"/top/{other}" or where.startswith(f"/top/{other}/") for other in found):
            assert where == "/top" or where.startswith("/top/")


def test_the_one_folder_around_everything_is_left_out() -> None:
    wrapped = [Member("shop-1.0", FOLDER), Member("shop-1.0/a", FILE), Member("shop-1.0/b", HARDLINK, target="shop-1.0/a")]
    assert archives.top(wrapped) == "shop-1.0"
    assert archives.below(wrapped, "shop-1.0") == [Member("a", FILE), Member("b", HARDLINK, target="a")]
    assert archives.complaint(archives.below([*wrapped, Member("shop-1.0/up", LINK, target="..")], "shop-1.0"), links_may_lead_out=False)
    for bare in ([Member("server.js", FILE)], [Member("src/a", FILE), Member("package.json", FILE)], [Member("empty", FOLDER)], []):
        assert archives.top(bare) == "" and archives.below(bare, "") == bare


def test_the_content_of_a_folder_has_a_number_of_its_own() -> None:
    entries = [("a", FILE, False, "1" * 64), ("b", FOLDER, False, "")]
    number = archives.number_of(archives.content(entries))
    assert len(number) == 40 and set(number) <= set("0123456789abcdef")
    assert archives.content(reversed(entries)) == archives.content(entries)
    others = [("a", FILE, True, "1" * 64)], [("a", FILE, False, "2" * 64)], [("c", FILE, False, "1" * 64)], [("a", LINK, False, "1" * 64)]
    assert len({archives.content(each) for each in others} | {archives.content(entries[:1])}) == 5


def test_what_was_built_in_another_way_has_another_name() -> None:
    name = archives.package_name("v1.0.0", "c" * 40, [["npm", "ci"]], {"A": "1"})
    assert name.startswith("v1.0.0-cccccccccccc-")
    assert name == archives.package_name("v1.0.0", "c" * 40, [["npm", "ci"]], {"A": 1})  # type: ignore[dict-item]
    assert name != archives.package_name("v1.0.0", "c" * 40, [["npm ci"]], {"A": "1"})
    assert name != archives.package_name("v1.0.0", "c" * 40, [["npm", "ci"]], {})


def test_the_newest_archives_stay() -> None:
    assert archives.prunable([("a", 1.0), ("b", 3.0), ("c", 2.0)], 2) == ["a"]
