# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Going back to a backup by swap on a real PostgreSQL: what would be lost is counted, refused, carried over, kept, and brought back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import migrations

from tests.e2e.pgbouncers import Clients, PgBouncer
from tests.e2e.test_database import APP, BASE, MORE, PASSWORD, RELEASE, Server, Site, collections, server  # noqa: F401  # pylint: disable=unused-import

pytestmark = pytest.mark.usefixtures("server", "collections")


class Shop(Site):
    """An app whose backup is restored beside it, and whose live database was broken since."""

    def restore(self, **arguments: Any) -> dict[str, Any]:
        return self.good("restore", **{"backup": RELEASE, "directory": str(self.backups), "accept_loss": RELEASE, **arguments})

    def refused(self, **arguments: Any) -> str:
        before = self.names()
        message = self.bad("restore", **{"backup": RELEASE, "directory": str(self.backups), "accept_loss": RELEASE, **arguments})
        assert self.names() == before
        return message

    def drill(self) -> None:
        self.good("drill", backup=str(self.backups / f"{APP}-{RELEASE}"))

    def names(self) -> list[str]:
        """Return the databases of this app with their oid, mark and door."""
        rows = self.server.sql(
            "SELECT datname, oid, datallowconn, shobj_description(oid, 'pg_database') FROM pg_database"
            f" WHERE left(datname, {len(self.database[:10])}) = {migrations.literal(self.database[:10])} ORDER BY 1"
        )
        return rows.splitlines()


def shop(server: Server, collections: Path, folder: Path, name: str) -> Iterator[Shop]:  # noqa: F811
    server.sql(f"CREATE DATABASE {migrations.identifier(name)}")
    found = Shop(server, collections, folder, name)
    found.migrate(BASE)
    found.backup()
    found.drill()
    yield found
    if server.process:
        for line in found.names():
            server.sql(f"DROP DATABASE {migrations.identifier(line.split('|')[0])} WITH (FORCE)")


@pytest.fixture
def site(server: Server, collections: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Shop]:  # noqa: F811
    yield from shop(server, collections, tmp_path, f"Sw {abs(hash(request.node.name)) % 10**8} é")


def spoil(site: Site) -> None:
    """Insert 3 rows, change 2, delete 1, add a table with 4, and migrate."""
    site.sql(
        "INSERT INTO entry (account, cents) SELECT 1, n FROM generate_series(1, 3) n; UPDATE entry SET cents = -1 WHERE id IN (5, 6);"
        "DELETE FROM entry WHERE id = 9; CREATE TABLE born (id int); INSERT INTO born SELECT generate_series(1, 4)"
    )
    site.migrate(MORE)


def test_a_loss_is_shown_and_refused_until_it_is_agreed_to(site: Shop) -> None:
    good = site.state()
    spoil(site)
    bad = site.state()
    for words in ({"accept_loss": ""}, {"accept_loss": "another"}, {"accept_loss": "", "check": True}):
        message = site.refused(**words)
        assert "throws away" in message and f"add -e restore_accept_loss={RELEASE}" in message
        assert "public.entry: 3 inserted, 2 updated, 1 deleted" in message and "public.born: 4 inserted" in message
    assert site.state() == bad
    planned = site.restore(check=True)
    assert planned["changed"] and not planned["done"] and "would put" in planned["actions"][0] and site.state() == bad
    result = site.restore()
    entry = next(row for row in result["lost"] if row["table"] == "public.entry")
    assert entry == {"table": "public.entry", "inserted": 3, "updated": 2, "deleted": 1, "how": "exact"}
    # The migration wrote its row in the version table; the added column alone changed no row.
    assert sorted(row["table"] for row in result["lost"]) == ["public.born", "public.entry", "public.sluice_migrations"]
    assert {gate["name"]: gate["verdict"] for gate in result["gates"]} == {
        "restore_rights": "pass",
        "backup": "pass",
        "restore_blockers": "pass",
        "restore_loss": "waived",
    }
    assert site.state() == good and result["swap_ms"] < 1000
    assert site.server.sql(f"SELECT datallowconn FROM pg_database WHERE datname = {migrations.literal(result['kept'])}") == "f"
    # Once more: nothing happens, and nothing written since is lost.
    site.sql("INSERT INTO entry (account, cents) VALUES (1, 77)")
    again = site.restore()
    assert not again["changed"] and again["done"] and "set again: true" in again["actions"][0]
    # The way back, which wants to know about the row that came since.
    message = site.bad("restore", state="swapped_back")
    assert "throws away 1 rows" in message and "1 inserted" in message
    assert site.good("restore", state="swapped_back", check=True, accept_loss=RELEASE)["changed"]
    back = site.good("restore", state="swapped_back", accept_loss=RELEASE)
    assert back["changed"] and site.state() == bad
    assert not site.good("restore", state="swapped_back")["changed"] and site.state() == bad


def test_nothing_lost_needs_no_agreement(site: Shop) -> None:
    good = site.state()
    result = site.restore(accept_loss="")
    assert result["changed"] and result["lost"] == [] and site.state() == good
    assert not site.restore(accept_loss="")["changed"]
    assert "no proven copy" in site.refused(again=True)
    site.drill()
    assert site.restore(again=True)["changed"] and site.state() == good


def test_everything_beside_the_contents_is_carried_over(site: Shop) -> None:
    role = f"o'w\"ner {site.database[3:9]}"
    quoted, base = migrations.identifier(role), migrations.identifier(site.database)
    site.sql(
        f"CREATE ROLE {quoted} LOGIN CREATEDB; ALTER DATABASE {base} OWNER TO {quoted}; ALTER DATABASE {base} CONNECTION LIMIT 17;"
        f"REVOKE ALL ON DATABASE {base} FROM PUBLIC; GRANT CONNECT ON DATABASE {base} TO {quoted} WITH GRANT OPTION; GRANT CREATE ON DATABASE {base} TO PUBLIC;"
        f"""ALTER DATABASE {base} SET search_path TO "$user", public, "odd, one"; ALTER DATABASE {base} SET work_mem = '7MB';"""
        f"ALTER DATABASE {base} SET app.x = 'it''s';"
        f"ALTER ROLE {quoted} IN DATABASE {base} SET statement_timeout = '9s'; COMMENT ON DATABASE {base} IS 'the shop''s own'"
    )
    facts = (
        "SELECT pg_get_userbyid(datdba), datconnlimit, datallowconn, shobj_description(d.oid, 'pg_database'),"
        " (SELECT string_agg(a::text, ' ' ORDER BY a::text)"
        " FROM aclexplode(datacl) a), (SELECT string_agg(setrole || ' ' || each, E'\\n' ORDER BY setrole, each)"
        " FROM pg_db_role_setting CROSS JOIN LATERAL unnest(setconfig) AS each"
        " WHERE setdatabase = d.oid) FROM pg_database d WHERE datname = current_database(); SHOW search_path"
    )
    try:
        before = site.sql(facts)
        spoil(site)
        site.restore()
        assert site.sql(facts) == before
        site.good("restore", state="swapped_back", accept_loss=RELEASE)
        assert site.sql(facts) == before
    finally:
        for line in site.names():
            site.server.sql(f"ALTER DATABASE {migrations.identifier(line.split('|')[0])} OWNER TO postgres")
            site.server.sql(f"ALTER ROLE {quoted} IN DATABASE {migrations.identifier(line.split('|')[0])} RESET ALL")
            site.server.sql(f"REVOKE ALL ON DATABASE {migrations.identifier(line.split('|')[0])} FROM {quoted}")
        site.server.sql(f"DROP ROLE {quoted}")


@pytest.mark.parametrize("name", ["a \"quoted\" 'n'a\\me", "n" * 63, "ö" * 31])
def test_odd_and_long_names(server: Server, collections: Path, tmp_path: Path, name: str) -> None:  # noqa: F811
    for site in shop(server, collections, tmp_path, name):
        good = site.state()
        spoil(site)
        result = site.restore()
        assert site.state() == good and len(result["kept"].encode()) <= 63
        assert sorted(line.split("|")[0] for line in site.names()) == sorted([name, result["kept"]])


def test_clients_past_the_pool_are_cut_and_counted(site: Shop) -> None:
    spoil(site)
    with Clients(site.server, site.server.port, site.database) as clients:
        result = site.restore()
        done = clients.done
        while clients.done < done + 20:
            pass
    assert result["cut"] >= 3 and clients.cut >= 3 and result["swap_ms"] < 2000
    assert site.sql("SELECT count(*) FROM entry") == "2000"


def test_rows_written_while_it_is_prepared_are_not_lost_silently(site: Shop) -> None:
    writes = "INSERT INTO entry (account, cents) VALUES (1, 1);"
    with Clients(site.server, site.server.port, site.database, count=1, sql=writes):
        message = site.refused(accept_loss="")
        assert "throws away" in message
        result = site.restore()
    assert result["gates"][-1]["verdict"] == "waived"


def test_through_pgbouncer_no_transaction_fails(site: Shop) -> None:
    good = site.state()
    spoil(site)
    pool = PgBouncer(site.server, site.database)
    try:
        site.env.write_text(
            site.env.read_text() + f"PGBOUNCER_URL={pool.url}\nSELF={pool.url.replace('admin', 'postgres')}\nOTHER_URL=postgresql://a:b@127.0.0.1:1/pgbouncer\n"
        )
        with Clients(site.server, pool.port, pool.name) as clients:
            result = site.restore(pgbouncer_vars=["PGBOUNCER_URL"])
            after = clients.done
            while clients.done < after + 20:
                pass
        assert clients.cut == 0 and result["held_ms"] < 1000 and "held its clients" in result["actions"][0], (clients.cut, result)
        assert site.state() == good
        # A transaction that does not end: nothing is changed, and everybody else goes on at once.
        site.drill()
        holder = pool.client()
        assert holder.stdin and holder.stdout
        holder.stdin.write("BEGIN; SELECT 1;\n")
        holder.stdin.flush()
        holder.stdout.readline()
        with Clients(site.server, pool.port, pool.name) as clients:
            message = site.refused(pgbouncer_vars=["PGBOUNCER_URL"], again=True, pause_seconds=0.5)
            after = clients.done
            while clients.done < after + 20:
                pass
        assert f"{pool.name} of PgBouncer at 127.0.0.1:{pool.port}/pgbouncer could not be paused within 0.5 s" in message
        assert clients.cut == 0 and clients.slowest < 3
        holder.communicate("ROLLBACK;", timeout=10)
        assert "Connection refused" in site.refused(pgbouncer_vars=["OTHER_URL"])
        # A run that was killed left it paused: the next one lets the clients go on, though it has nothing else to do.
        assert pool.console(f"PAUSE {pool.name}") is not None
        again = site.restore(pgbouncer_vars=["PGBOUNCER_URL"])
        assert again["changed"] and "left paused by a run that was killed" in again["actions"][0]
        assert not site.restore(pgbouncer_vars=["PGBOUNCER_URL"])["changed"]
    finally:
        pool.stop()


def test_what_holds_on_to_the_database_is_found_before(site: Shop) -> None:
    spoil(site)
    bad = site.state()
    site.drill()
    # Prepared transactions are off on this server; their gate has a unit test.
    site.server.sql(f"GRANT CONNECT ON DATABASE {migrations.identifier(site.database)} TO PUBLIC")
    role = f"plain {site.database[3:9]}"
    quoted = migrations.identifier(role)
    site.server.sql(f"CREATE ROLE {quoted} LOGIN PASSWORD {migrations.literal(PASSWORD)}")
    try:
        site.use(site.server.url(site.database, role.replace(" ", "%20")))
        message = site.refused()
        assert "belongs to postgres" in message and f"GRANT postgres TO {quoted}" in message
        site.server.sql(f"ALTER DATABASE {migrations.identifier(site.database)} OWNER TO {quoted}")
        assert f"ALTER ROLE {quoted} CREATEDB;" in site.refused()
        site.server.sql(f"ALTER ROLE {quoted} CREATEDB")
        other = site.server.client(site.database)
        assert other.stdin and other.stdout
        other.stdin.write("SELECT 1;\n")
        other.stdin.flush()
        other.stdout.readline()
        message = site.refused()
        assert "connections that this user may not end: pid " in message and "pg_signal_backend" in message
        other.communicate(timeout=10)
        assert site.server.sql(f"SELECT count(*) FROM pg_database WHERE datname = {migrations.literal(site.database)}") == "1"
    finally:
        site.use(site.server.url(site.database))
        for line in site.names():
            site.server.sql(f"ALTER DATABASE {migrations.identifier(line.split('|')[0])} OWNER TO postgres")
        site.server.sql(f"DROP ROLE {quoted}")
    assert site.state() == bad
    assert "could not" not in site.refused(maintenance_database=site.database) and "none can rename itself" in site.refused(maintenance_database=site.database)


def test_what_is_kept_is_dropped_by_number_and_never_somebody_elses(site: Shop) -> None:
    mine = migrations.identifier(f"{site.database}_before_mine")
    site.server.sql(f"CREATE DATABASE {mine}")
    for _time in range(3):
        spoil_again = "INSERT INTO entry (account, cents) VALUES (1, 1)"
        site.sql(spoil_again)
        result = site.restore(again=True, keep=2)
        site.drill()
    assert "dropped" in result["actions"][-1]
    kept = [line for line in site.names() if "sluice kept" in line]
    assert len(kept) == 2 and any("_before_mine|" in line for line in site.names())
    assert site.good("restore", state="pruned", keep=0, check=True)["changed"]
    pruned = site.good("restore", state="pruned", keep=0)
    assert len(pruned["actions"]) == 1 and len([line for line in site.names() if "sluice kept" in line]) == 1  # the way back stays
    assert not site.good("restore", state="pruned", keep=0)["changed"]
