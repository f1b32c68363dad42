# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A database with one of nearly everything is backed up, restored beside itself and compared; what is changed in the copy or in a file is named."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import facts

from tests.e2e.test_database import Server, Site, collections, server  # noqa: F401  # pylint: disable=unused-import

RICH = """
CREATE SCHEMA "Ärger & Co";
CREATE TYPE mood AS ENUM ('sad', 'it''s ok', 'glad');
CREATE DOMAIN cents AS bigint CHECK (VALUE >= 0);
CREATE TYPE pair AS (a int, b text);
CREATE TABLE "Ärger & Co"."Tab ""elle"": x" ("Spalte é" int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  "t" text, twice int GENERATED ALWAYS AS (7 * 2) STORED);
INSERT INTO "Ärger & Co"."Tab ""elle"": x" (t) SELECT 'zeile ' || n FROM generate_series(1, 50) n;
CREATE TABLE a (id serial PRIMARY KEY, b int, state varchar(9) CHECK (state IN ('new', 'paid', 'it''s')), f float8,
  m mood, j jsonb, p pair, w money, ts timestamptz);
CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b DEFERRABLE INITIALLY DEFERRED, ADD dropped int, ADD later cents DEFAULT 3;
ALTER TABLE a DROP dropped;
BEGIN;
INSERT INTO a (b, state, f, m, j, p, w, ts)
  SELECT n, 'paid', random(), 'glad', jsonb_build_object('n', n), ROW(n::int, 'x')::pair, 12.5, now() FROM generate_series(1, 200) n;
INSERT INTO b SELECT n, n FROM generate_series(1, 200) n;
COMMIT;
CREATE TABLE part (id int, region text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE part_n PARTITION OF part FOR VALUES IN ('n');
CREATE TABLE part_s PARTITION OF part FOR VALUES IN ('s') PARTITION BY RANGE (id);
CREATE TABLE part_s1 PARTITION OF part_s FOR VALUES FROM (0) TO (100);
INSERT INTO part SELECT n, CASE n % 2 WHEN 0 THEN 'n' ELSE 's' END FROM generate_series(0, 99) n;
CREATE TABLE parent (x int); CREATE TABLE child (y int) INHERITS (parent); INSERT INTO child VALUES (1, 2); INSERT INTO parent VALUES (7);
CREATE VIEW v AS SELECT id, state, later FROM a WHERE state IN ('new', 'paid') WITH LOCAL CHECK OPTION;
CREATE MATERIALIZED VIEW mv AS SELECT state, count(*) FROM a GROUP BY state; CREATE UNIQUE INDEX ON mv (state);
CREATE MATERIALIZED VIEW empty_mv AS SELECT 1 AS one WITH NO DATA;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.later := coalesce(NEW.later, 0);

  RETURN NEW;
END $$;
CREATE TRIGGER touch BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION touch();
CREATE PROCEDURE nothing() LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE total (bigint) (SFUNC = int8pl, STYPE = bigint, INITCOND = '0');
CREATE RULE quiet AS ON DELETE TO parent DO INSTEAD NOTHING;
ALTER TABLE b ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON b FOR SELECT TO public USING (a > 0);
CREATE INDEX "Idx partial" ON a (lower(state)) WHERE state IN ('new', 'it''s');
CREATE STATISTICS st (dependencies) ON id, b FROM a;
CREATE SEQUENCE down_seq INCREMENT -2 START 10 MINVALUE -100 MAXVALUE 10; SELECT nextval('down_seq'); SELECT nextval('down_seq');
CREATE SEQUENCE fresh_seq CYCLE;
CREATE UNLOGGED TABLE gone (x int); CREATE TABLE nothing_in ();
COMMENT ON TABLE a IS 'two
lines'; COMMENT ON COLUMN a.b IS 'b: or not';
GRANT SELECT ON a TO PUBLIC; GRANT UPDATE (b) ON a TO PUBLIC; REVOKE ALL ON FUNCTION touch() FROM PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA "Ärger & Co" GRANT SELECT ON TABLES TO PUBLIC;
CREATE EXTENSION vector;
CREATE COLLATION german FROM "C"; CREATE PUBLICATION everything FOR TABLE a;
SELECT lo_from_bytea(0, decode(repeat('ab', 9000), 'hex')) FROM generate_series(1, 3);
DO $$ BEGIN FOR n IN 1..300 LOOP EXECUTE format('CREATE TABLE many_%s (id int, v text)', n); END LOOP; END $$;
INSERT INTO many_7 VALUES (1, 'seven');
"""


@pytest.fixture(scope="module")
def rich(server: Server, collections: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:  # noqa: F811
    """A database with one of nearly everything, and a backup of it."""
    name = 'Rich "DB" é'
    quoted = '"Rich ""DB"" é"'
    server.sql(f"CREATE DATABASE {quoted}")
    site = Site(server, collections, tmp_path_factory.mktemp("rich"), name)
    site.use(server.url("Rich%20%22DB%22%20%C3%A9"))
    site.sql(RICH)
    site.sql(f"ALTER DATABASE {quoted} SET \"app.key\" = 'hush hush'; ALTER DATABASE {quoted} SET work_mem = '7MB'")
    yield site
    for each in (name, f"{name}_restored", f"{name}_rehearsal"):
        each = each.replace('"', '""')
        server.sql(f'DROP DATABASE IF EXISTS "{each}" WITH (FORCE)')


@pytest.fixture(scope="module")
def backup(rich: Site) -> Path:
    """Return the folder of the backup."""
    return Path(rich.backup()["backup"]["path"])


def test_the_manifest_says_what_is_in_it(rich: Site, backup: Path) -> None:
    manifest: dict[str, Any] = json.loads((backup / "manifest.json").read_text())
    assert manifest["tables"]['"Ärger & Co"."Tab ""elle"": x"'] == 50 and manifest["tables"]["public.a"] == 200 and manifest["tables"]["public.parent"] == 1
    assert len(manifest["tables"]) == 309 and set(manifest["checksums"]) == set(manifest["tables"])
    assert manifest["large_objects"] == 3 and set(manifest["extensions"]) == {"vector", "plpgsql"}
    assert manifest["sequences"]["public.down_seq"] == [6, 6] and manifest["sequences"]["public.fresh_seq"] == [1, 1]
    assert manifest["settings"]["encoding"] == "UTF8" and "app.key=(not shown)" in manifest["settings"].values()
    assert "work_mem=7MB" in manifest["settings"].values() and "hush" not in json.dumps(manifest)
    assert "superuser" in manifest["roles"]["postgres"] and "SCRAM" not in json.dumps(manifest)
    assert manifest["globals"] == "roles with their passwords' verifiers" and "SCRAM-SHA-256$" in (backup / "globals.sql").read_text()
    assert {stat.S_IMODE(path.stat().st_mode) for path in backup.rglob("*") if path.is_file()} == {0o600}
    assert {"globals.sql", "schema.txt"} < set(manifest["files"])


def test_everything_comes_back_and_the_copy_is_closed(rich: Site, backup: Path) -> None:
    copy = f"{rich.database}_restored"
    planned = rich.good("drill", check=True, backup=str(backup))
    assert planned["changed"] and copy not in rich.databases()
    result = rich.good("drill", backup=str(backup))
    assert [gate["verdict"] for gate in result["gates"]] == ["pass", "pass"] and result["database"] == copy
    assert "309 tables have the" in result["gates"][1]["sentence"] and "read otherwise" not in result["gates"][1]["sentence"], result["gates"]
    assert set(result["seconds"]) == {"files", "restore", "compare"}
    assert json.loads((backup / "drill.json").read_text())["seconds"] == result["seconds"]
    again = rich.good("drill", backup=str(backup))
    assert not again["changed"] and again["actions"] == [] and again["seconds"]["restore"] == result["seconds"]["restore"]
    with pytest.raises(AssertionError, match="not currently accepting connections"):
        rich.server.sql("SELECT 1", copy)
    # What the rehearsal does with it, in any encoding and with the settings that were carried over.
    rich.sql('CREATE DATABASE "try" TEMPLATE "Rich ""DB"" é_restored" STRATEGY file_copy')
    assert rich.server.sql('SELECT count(*) FROM "Ärger & Co"."Tab ""elle"": x"', "try") == "50"
    rich.sql('DROP DATABASE "try"')


def test_whatever_differs_from_the_manifest_fails_the_drill_by_name(rich: Site, backup: Path, tmp_path: Path) -> None:
    fake = tmp_path / "fake"
    shutil.copytree(backup, fake)
    manifest = json.loads((fake / "manifest.json").read_text())
    manifest["tables"]["public.many_7"] = 2
    manifest["checksums"]["public.a"] = "7"
    manifest["sequences"]["public.down_seq"] = [99, 100]
    manifest["large_objects"] = 4
    manifest["extensions"]["lost"] = "1"
    (fake / "manifest.json").write_text(json.dumps(manifest))
    message = rich.bad("drill", backup=str(fake))
    for words in (
        "public.many_7: 2 rows in the manifest, 1 rows in the restored copy",
        "public.a: as many rows as in the manifest, with another content",
        "public.down_seq: the next value was from 99 to 100 during the backup, and is 6",
        "4 large objects were backed up, 3 are in the restored copy",
        "Extensions are missing in the restored copy: lost",
    ):
        assert words in message
    assert f"{rich.database}_restored" not in rich.databases()


def test_the_schema_text_is_the_same_for_the_copy_and_shows_a_change(rich: Site, backup: Path) -> None:
    text = (backup / "schema.txt").read_text()
    found = facts.Schema(text).objects()
    assert found["enum public.mood"].startswith("'sad' 'it''s ok' 'glad'") and "identity a" in found['column "Ärger & Co"."Tab ""elle"":\\ x"."Spalte é"']
    for start in (
        "view public.v",
        "materialized view public.mv",
        "policy public.b.mine",
        "trigger public.a.touch",
        "statistics public.st",
        "rule public.parent.quiet",
    ):
        assert start in found, start
    lines = facts.schema_changes(
        facts.Schema(text),
        facts.Schema(text.replace("enum public.mood: 'sad'", "enum public.mood: 'bad'").replace("policy public.b.mine", "policy public.b.yours")),
    )
    assert [line[0] for line in lines] == ["~", "-", "+"] and "enum public.mood" in lines[0]
