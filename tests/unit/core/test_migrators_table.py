# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What tools are asked, how their answers are read, and in which order they go back."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import migrators
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.migrators import TOOLS, answers

HISTORY = "b2 -> c3 (head), Third -> really\na1, x9 -> b2 (mergepoint), second\n<base> -> a1, first\n"
PLAN = "[X]  auth.0001_initial\n[X]  till.0001_initial (2 squashed migrations)\n[ ]  till.0002_more\n"
KNEX = "Found 1 Completed Migration file/files.\n2026_a.js \nFound 2 Pending Migration file/files.\n2026_b.js \n2026_c.ts \n\n"
PRISMA = (
    "2 migrations found in prisma/migrations\n\nFollowing migrations have not yet been applied:\n20260101_init\n20260102_more\n\n"
    "To apply migrations in production run prisma migrate deploy.\n"
)


@pytest.mark.parametrize(
    ("tool", "question", "said", "found"),
    [
        ("alembic", "pending", HISTORY, ["a1", "b2", "c3"]),
        ("alembic", "current", "b2\n", ["b2"]),
        ("alembic", "current", "c3 (head)\n", ["c3"]),
        ("alembic", "current", "", []),
        ("alembic", "heads", "c3 (head)\nd4 (other) (head)\n", ["c3", "d4"]),
        ("django", "current", PLAN, ["auth.0001_initial", "till.0001_initial"]),
        ("django", "pending", PLAN, ["till.0002_more"]),
        ("knex", "current", KNEX, ["2026_a.js"]),
        ("knex", "pending", KNEX, ["2026_b.js", "2026_c.ts"]),
        ("knex", "pending", "Found 1 Completed Migration file/files.\n2026_a.js\nNo Pending Migration files Found.\n", []),
        ("knex", "current", "No Completed Migration files Found.\nFound 1 Pending Migration file/files.\n2026_a.js\n", []),
        ("prisma", "pending", PRISMA, ["20260101_init", "20260102_more"]),
        ("prisma", "pending", "Database schema is up to date!\n", []),
        ("command", "pending", "one\ntwo words\n\nthree\n", ["one", "three"]),
    ],
)
def test_answers(tool: str, question: str, said: str, found: list[str]) -> None:
    assert answers(getattr(TOOLS[tool], question), said) == found


def test_several_heads_are_refused() -> None:
    migrators.check_heads(["a"])
    with pytest.raises(SluiceError, match="2 heads: a, b"):
        migrators.check_heads(["a", "b"])


@pytest.mark.parametrize(
    ("tool", "applied", "heads"),
    [("alembic", ["b", "a"], ["a", "b"]), ("django", ["x.1", "y.1", "x.2"], ["x.2", "y.1"]), ("knex", ["1", "2"], ["2"]), ("prisma", [], [])],
)
def test_heads_are_what_the_ledger_keeps(tool: str, applied: list[str], heads: list[str]) -> None:
    assert migrators.heads_of(TOOLS[tool], applied) == heads


@pytest.mark.parametrize(
    ("tool", "applied", "wanted", "calls"),
    [
        ("alembic", ["c3"], ["a1"], [["downgrade", "a1"]]),
        ("alembic", ["c3"], [], [["downgrade", "base"]]),
        ("alembic", ["c3"], ["c3"], []),
        ("knex", ["1.js", "2.js", "3.js"], ["1.js"], [["migrate:down", "3.js"], ["migrate:down", "2.js"]]),
        ("django", ["a.1", "b.1", "a.2", "b.2"], ["a.1", "b.2"], [["migrate", "--no-input", "a", "1"]]),
        ("django", ["a.1", "b.1"], ["a.1"], [["migrate", "--no-input", "b", "zero"]]),
    ],
)
def test_the_way_back(tool: str, applied: list[str], wanted: list[str], calls: list[list[str]]) -> None:
    assert [words for _name, words in migrators.backs(TOOLS[tool], applied, wanted)] == calls


def test_a_way_back_that_is_none() -> None:
    with pytest.raises(SluiceError, match="cannot take a migration back"):
        migrators.backs(TOOLS["prisma"], ["a"], [])
    with pytest.raises(SluiceError, match=r"9\.js is not applied"):
        migrators.backs(TOOLS["knex"], ["1.js"], ["9.js"])


def test_steps_are_one_by_one_where_the_tool_can() -> None:
    assert migrators.ups(TOOLS["django"], ["till.0002_x"]) == [("till.0002_x", ["migrate", "--no-input", "till", "0002_x"])]
    assert migrators.ups(TOOLS["prisma"], ["a", "b"]) == [("a, b", ["migrate", "deploy"])]
    assert migrators.ups(TOOLS["prisma"], []) == []


@pytest.mark.parametrize(
    ("tool", "commands", "words"),
    [
        ("alembic", {"programm": ["x"]}, "programm is unknown; allowed are program"),
        ("alembic", {"program": "x y"}, "program is no list of words"),
        ("alembic", {"up": []}, "up is no list of words"),
        ("command", {"up": ["x"]}, "needs current, pending and up"),
    ],
)
def test_commands_that_are_refused(tool: str, commands: dict[str, Any], words: str) -> None:
    with pytest.raises(SluiceError, match=words):
        migrators.tool_from(tool, commands)


def test_a_tool_is_called_as_one_likes() -> None:
    tool = migrators.tool_from("alembic", {"program": [".venv/bin/alembic", "-n", "prod"], "current": ["current", "-v"]})
    assert tool.program[0] == ".venv/bin/alembic" and tool.current.words == ("current", "-v") and tool.current.line == TOOLS["alembic"].current.line


def test_what_prisma_remembers_as_failed_is_refused() -> None:
    migrators.check_settled([])
    with pytest.raises(SluiceError, match="20260101_a, 20260102_b began and did not end") as caught:
        migrators.check_settled(["20260101_a", "20260102_b"])
    assert "prisma migrate resolve --rolled-back 20260101_a" in caught.value.remedy
