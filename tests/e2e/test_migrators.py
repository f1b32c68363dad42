# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Migrators that are programs: real Alembic, Django and Knex, and a command of one's own, under the same lock and the same timeouts."""

# ruff: noqa: F811
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.e2e.test_database import (  # noqa: F401  # pylint: disable=unused-import
    CHECKOUT,
    PASSWORD,
    Holder,
    Site,
    Watcher,
    collections,
    server,
    site,
    wait_for,
)

ALEMBIC = {
    "alembic.ini": "[alembic]\nscript_location = %(here)s\n",
    "env.py": """
import os
from alembic import context
from sqlalchemy import create_engine
url = os.environ["DATABASE_URL"]
if context.is_offline_mode():
    context.configure(url=url, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(url).connect() as connection:
        context.configure(connection=connection, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()
""",
}
DJANGO = {
    "manage.py": "import os\nfrom django.core.management import execute_from_command_line\nimport sys\n"
    "os.environ['DJANGO_SETTINGS_MODULE'] = 'settings'\nexecute_from_command_line(sys.argv)\n",
    "settings.py": """
import os
from urllib.parse import unquote, urlsplit
url = urlsplit(os.environ["DATABASE_URL"])
INSTALLED_APPS, SECRET_KEY = ["till"], "x"
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": unquote(url.path[1:]), "USER": url.username,
                         "PASSWORD": unquote(url.password), "HOST": url.hostname, "PORT": url.port}}
""",
    "till/__init__.py": "",
    "till/migrations/__init__.py": "",
}
KNEX = {"knexfile.js": "module.exports = { client: 'pg', connection: process.env.DATABASE_URL };\n"}


def alembic(name: str, before: str | None, up: str, down: str) -> dict[str, str]:
    text = f'"""{name}"""\nfrom alembic import op\nrevision, down_revision, branch_labels, depends_on = {name!r}, {before!r}, None, None\n'
    text += f"def upgrade():\n    op.execute({up!r})\ndef downgrade():\n    op.execute({down!r})\n"
    return {f"versions/{name}.py": text}


def django(name: str, before: str | None, up: str, down: str) -> dict[str, str]:
    needs = [("till", before)] if before else []
    return {
        f"till/migrations/{name}.py": "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n"
        f"    dependencies = {needs!r}\n    operations = [migrations.RunSQL({up!r}, {down!r})]\n"
    }


def knex(name: str, _before: str | None, up: str, down: str) -> dict[str, str]:
    return {f"migrations/{name}.js": f"exports.up = (k) => k.raw({json.dumps(up)});\nexports.down = (k) => k.raw({json.dumps(down)});\n"}


class Project:
    """A release's folder with a tool's files."""

    def __init__(self, site: Site, tool: str) -> None:
        self.site, self.tool = site, tool
        self.folder = site.folder / "release"
        self.folder.mkdir()
        self.write({"alembic": ALEMBIC, "django": DJANGO, "knex": KNEX}[tool])
        # Node's driver decodes a URL with a bare space otherwise than everybody else.
        site.use(site.server.url(quote(site.database)).replace("postgresql+psycopg", "postgresql").partition("?")[0])
        commands = {"alembic": {"program": [sys.executable, "-m", "alembic"]}, "django": {"program": [sys.executable, "manage.py"]}, "knex": {}}[tool]
        state = site.folder / "state"
        state.mkdir()
        self.arguments: dict[str, Any] = {"directory": str(self.folder), "tool": tool, "commands": commands, "state_dir": str(state), "timeout": 120}
        if tool == "knex":
            (self.folder / "node_modules").symlink_to(knex_modules())
        self.names = {"alembic": ("a1", "a2", "a3"), "django": ("0001_a", "0002_b", "0003_c"), "knex": ("2026_a", "2026_b", "2026_c")}[tool]

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def add(self, number: int, up: str, down: str) -> str:
        """Add a migration, and return what the tool calls it."""
        name, before = self.names[number], self.names[number - 1] if number else None
        self.write({"alembic": alembic, "django": django, "knex": knex}[self.tool](name, before, up, down))
        return {"alembic": name, "django": f"till.{name}", "knex": f"{name}.js"}[self.tool]

    def role_settings(self) -> str:
        return self.site.sql(
            "SELECT coalesce(string_agg(array_to_string(setconfig, ' '), ';'), '') FROM pg_db_role_setting WHERE setrole <> 0"
            " AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )


def knex_modules() -> Path:
    """Return node_modules with Knex and its driver, installed once."""
    folder = CHECKOUT / ".cache" / "tools" / "knex"
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        words = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), "knex@3.1.0", "pg@8.16.3"]
        subprocess.run(words, check=True, capture_output=True, timeout=120)
        (folder / "done").touch()
    return folder / "node_modules"


@pytest.mark.parametrize("tool", ["alembic", "knex"])
def test_a_tool_is_rehearsed_migrates_and_goes_back_to_what_was_recorded(site: Site, tool: str) -> None:
    project = Project(site, tool)
    arguments = project.arguments
    first = project.add(0, "CREATE TABLE till (id int)", "DROP TABLE till")
    assert [entry["name"] for entry in site.good("migrate", **arguments)["applied"]] == [first]
    second, third = project.add(1, "ALTER TABLE till ADD cents int", "ALTER TABLE till DROP cents"), project.add(2, "CREATE TABLE more ()", "DROP TABLE more")
    site.good("drill", backup=site.backup()["backup"]["path"])
    rehearsed = site.good("rehearsal", lint="off", **arguments)
    assert rehearsed["reversible"] == "down", rehearsed["gates"]
    # Alembic prints the SQL it would run; Knex does not, and the gate says so.
    assert rehearsed["rehearsal"]["classes"] == (["expand"] if tool == "alembic" else [])
    done = site.good("migrate", expected=rehearsed["rehearsal"], rehearsal=rehearsed["database"], **arguments)
    assert [entry["name"] for entry in rehearsed["pending"]] == [second, third] == [entry["name"] for entry in done["applied"]]
    assert {gate["verdict"] for gate in done["gates"]} == {"pass"} and len(done["gates"]) == 3 and done["after"] == [third] and done["pending"] == []
    assert project.role_settings() == "" and os.listdir(arguments["state_dir"]) == []
    back = site.good("migrate", down_to=done["before"], **arguments)
    assert back["after"] == [first] and back["pending"] == [second, third]
    assert site.sql("SELECT string_agg(attname, ' ') FROM pg_attribute WHERE attrelid = 'till'::regclass AND attnum > 0 AND NOT attisdropped") == "id"


def test_django_migrates_and_goes_back(site: Site) -> None:
    project = Project(site, "django")
    names = [project.add(0, "CREATE TABLE till (id int)", "DROP TABLE till"), project.add(1, "CREATE TABLE more ()", "DROP TABLE more")]
    planned = site.good("migrate", check=True, **project.arguments)
    assert planned["pending"] == names and planned["before"] == [] and project.role_settings() == ""
    assert site.good("migrate", **project.arguments)["after"] == names[1:]
    assert site.good("migrate", down_to=names[:1], **project.arguments)["pending"] == names[1:]


def test_no_argument_shows_the_password(site: Site) -> None:
    project = Project(site, "knex")
    project.add(0, "CREATE TABLE till (id int)", "DROP TABLE till")
    watcher = Watcher()
    watcher.start()
    try:
        site.good("migrate", **project.arguments)
    finally:
        watcher.done.set()
        watcher.join()
    # A tool has the URL in its environment, as the app has it; that is its user's alone.
    assert not [leak for leak in watcher.leaks if leak.startswith("cmdline")]


def test_the_timeouts_hold_for_a_tool_and_are_put_back(site: Site) -> None:
    project = Project(site, "knex")
    arguments = project.arguments
    project.add(0, "CREATE TABLE till (id int)", "DROP TABLE till")
    site.good("migrate", **arguments)
    project.add(1, "ALTER TABLE till ADD cents int", "ALTER TABLE till DROP cents")
    site.sql(f"ALTER ROLE postgres IN DATABASE \"{site.database}\" SET statement_timeout = '7min'")
    before = project.role_settings()
    holder = Holder(site, "SELECT count(*) FROM till")
    message = site.bad("migrate", retries=1, **arguments)
    assert "did not get its lock in 2 attempts" in message and "Nothing of it was applied" in message
    assert f"blocked by pid {holder.pid} (nightly report" in message
    assert PASSWORD not in message and project.role_settings() == before
    # Killed in the middle: the tool and the timeouts stay until the next run.
    process = site.start("migrate", lock_timeout_ms=900, **arguments)
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sluice:migrate:wallet:work' AND wait_event_type = 'Lock'"
        " AND datname = current_database()"
    )
    wait_for(lambda: site.sql(waiting) != "0", 30)
    process.kill()
    process.communicate(timeout=10)
    assert "lock_timeout=900" in project.role_settings() and len(os.listdir(arguments["state_dir"])) == 1
    holder.end()
    result = site.good("migrate", **arguments)
    assert "undid what a cut run had left" in result["actions"] and project.role_settings() == before and os.listdir(arguments["state_dir"]) == []
    wait_for(lambda: site.sql(waiting) == "0")


def test_a_tool_that_fails_half_way_says_what_it_left(site: Site) -> None:
    project = Project(site, "knex")
    project.add(0, "CREATE TABLE till (id int)", "DROP TABLE till")
    project.write({"migrations/2026_b.js": "exports.config = { transaction: false };\nexports.up = async (k) => {"
                   " await k.raw('CREATE TABLE half ()'); await k.raw('SELECT 1 / 0'); };\nexports.down = () => {};\n"})
    message = site.bad("migrate", **project.arguments)
    assert "Migration 2026_b.js failed" in message and "division by zero" in message and "It left: + table public.half" in message
    assert "Applied before it: 2026_a.js." in message and project.role_settings() == ""


def test_several_heads_are_refused(site: Site) -> None:
    project = Project(site, "alembic")
    project.add(0, "CREATE TABLE till (id int)", "DROP TABLE till")
    project.add(1, "SELECT 1", "SELECT 1")
    project.write(alembic("b2", "a1", "SELECT 1", "SELECT 1"))
    for check in (True, False):
        assert "The migrations have 2 heads: a2, b2." in site.bad("migrate", check, **project.arguments)


def test_a_command_of_ones_own(site: Site) -> None:
    folder = site.folder / "release"
    folder.mkdir()
    tool = folder / "db"
    tool.write_text(
        "#!/bin/sh\ncd \"$(dirname \"$0\")\"\ncase $1 in\napplied) cat done ;;\ndue) grep -vxFf done all || true ;;\n"
        "up) echo \"$2\" >> done ;;\ndown) grep -vxF \"$2\" done > left; mv left done ;;\nesac\n"
    )
    tool.chmod(0o755)
    (folder / "done").write_text("one\n")
    (folder / "all").write_text("one\ntwo\nthree\n")
    state = site.folder / "state"
    state.mkdir()
    arguments = {"directory": str(folder), "tool": "command", "state_dir": str(state)}
    assert "needs current, pending and up" in site.bad("migrate", commands={"up": ["./db", "up"]}, **arguments)
    assert "later is unknown; allowed are program" in site.bad("migrate", commands={"later": ["x"]}, **arguments)
    commands = {"current": ["./db", "applied"], "pending": ["./db", "due"], "up": ["./db", "up", "{name}"], "down": ["./db", "down", "{name}"]}
    done = site.good("migrate", commands=commands, **arguments)
    assert [entry["name"] for entry in done["applied"]] == ["two", "three"] and done["before"] == ["one"] and done["after"] == ["three"]
    site.good("migrate", commands=commands, down_to=["one"], **arguments)
    assert (folder / "done").read_text() == "one\n"
    assert "state_dir is missing" in site.bad("migrate", commands=commands, directory=str(folder), tool="command")
