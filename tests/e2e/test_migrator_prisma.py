# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real Prisma, with the engine that comes in its npm package, since its native one lies on a host of its own."""

# ruff: noqa: F811
from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import dotenv

from tests.e2e.test_database import CHECKOUT, PASSWORD, Holder, Site, collections, server, site  # noqa: F401  # pylint: disable=unused-import

FILES = {
    "prisma/schema.prisma": 'datasource db {\n  provider = "postgresql"\n  url      = env("DATABASE_URL")\n}\n\nmodel till {\n  id Int @id\n}\n',
    "prisma/migrations/migration_lock.toml": 'provider = "postgresql"\n',
    # The engine asks for columns of the type name, which this driver does not know; text reads the same.
    "prisma.config.ts": """
import { defineConfig } from 'prisma/config';
import { PrismaPg } from '@prisma/adapter-pg';
import Result from 'pg/lib/result.js';
const add = Result.prototype.addFields;
Result.prototype.addFields = function (fields) {
  for (const field of fields) if (field.dataTypeID === 19) field.dataTypeID = 25;
  return add.call(this, fields);
};
export default defineConfig({
  experimental: { adapter: true },
  engine: 'js',
  schema: 'prisma/schema.prisma',
  adapter: async () => new PrismaPg({ connectionString: process.env.DATABASE_URL }),
});
""",
}


def modules() -> Path:
    """Return node_modules with Prisma and its driver, installed once and without the scripts that fetch the native engines."""
    folder = CHECKOUT / ".cache" / "tools" / "prisma"
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        packages = ["prisma@6.19.3", "@prisma/client@6.19.3", "@prisma/adapter-pg@6.19.3", "pg@8.16.3"]
        words = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), *packages]
        subprocess.run(words, check=True, capture_output=True, timeout=200)
        (folder / "done").touch()
    return folder / "node_modules"


@pytest.fixture
def arguments(site: Site) -> dict[str, Any]:
    """Make a release's folder, and return how its migrations are run."""
    folder, state = site.folder / "release", site.folder / "state"
    state.mkdir()
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "node_modules").symlink_to(modules())
    unused = folder / "no-engine"
    unused.touch()
    url = site.server.url(quote(site.database)).replace("postgresql+psycopg", "postgresql").partition("?")[0]
    engines = {name: str(unused) for name in ("PRISMA_QUERY_ENGINE_LIBRARY", "PRISMA_SCHEMA_ENGINE_BINARY")}
    site.env.write_text(dotenv.render({"DATABASE_URL": url, "CHECKPOINT_DISABLE": "1", **engines}))
    return {"directory": str(folder), "tool": "prisma", "state_dir": str(state), "timeout": 120}


def add(site: Site, name: str, sql: str) -> str:
    folder = site.folder / "release" / "prisma" / "migrations" / name
    folder.mkdir()
    (folder / "migration.sql").write_text(sql + ";\n")
    return name


def test_prisma_is_rehearsed_and_migrates_to_what_was_rehearsed(site: Site, arguments: dict[str, Any]) -> None:
    # Prisma wants an empty database or its own table; the tables that the fixture made belong to nobody here.
    site.sql("DROP TABLE entry, account, sluice_migrations")
    first = add(site, "20260101_till", "CREATE TABLE till (id int PRIMARY KEY)")
    assert site.good("migrate", **arguments)["after"] == [first]
    second, third = add(site, "20260102_cents", "ALTER TABLE till ADD cents int"), add(site, "20260103_more", "CREATE TABLE more (id int PRIMARY KEY)")
    assert site.good("migrate", check=True, **arguments)["pending"] == [second, third]
    site.good("drill", backup=site.backup()["backup"]["path"])
    rehearsed = site.good("rehearsal", lint="off", **arguments)
    # Prisma has no way back, so only the backup is one.
    assert rehearsed["reversible"] == "restore" and rehearsed["rehearsal"]["classes"] == ["expand"], rehearsed["gates"]
    done = site.good("migrate", expected=rehearsed["rehearsal"], rehearsal=rehearsed["database"], **arguments)
    assert done["before"] == [first] and done["after"] == [third] and done["pending"] == [] and {gate["verdict"] for gate in done["gates"]} == {"pass"}
    assert not site.good("migrate", **arguments)["changed"] and os.listdir(arguments["state_dir"]) == []


def test_prisma_that_fails_says_what_it_left(site: Site, arguments: dict[str, Any]) -> None:
    site.sql("DROP TABLE entry, account, sluice_migrations")
    add(site, "20260101_till", "CREATE TABLE till (id int PRIMARY KEY)")
    site.good("migrate", **arguments)
    add(site, "20260102_bad", "ALTER TABLE till ADD cents int;\nALTER TABLE nowhere ADD x int")
    message = site.bad("migrate", **arguments)
    print(message)
    assert "Migration 20260102_bad failed: " in message and "It left: + column public.till.cents" in message and PASSWORD not in message
    # Prisma itself would say that nothing is pending.
    for check in (True, False):
        message = site.bad("migrate", check, **arguments)
        assert "Prisma's table says that 20260102_bad began and did not end" in message and "prisma migrate resolve --rolled-back 20260102_bad" in message


def test_prisma_that_gets_no_lock_is_tried_again_and_can_be_run_again(site: Site, arguments: dict[str, Any]) -> None:
    site.sql("DROP TABLE entry, account, sluice_migrations")
    add(site, "20260101_till", "CREATE TABLE till (id int PRIMARY KEY)")
    site.good("migrate", **arguments)
    name = add(site, "20260102_cents", "ALTER TABLE till ADD cents int")
    holder = Holder(site, "SELECT count(*) FROM till")
    message = site.bad("migrate", retries=1, **arguments)
    assert "did not get its lock in 2 attempts" in message and f"blocked by pid {holder.pid}" in message and "Nothing of it was applied" in message
    holder.end()
    assert site.good("migrate", **arguments)["after"] == [name]
