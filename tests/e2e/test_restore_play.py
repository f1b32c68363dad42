# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The operator's call of the restore: shown, refused, agreed to, done once, and taken back."""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.store import Store

from tests.e2e.test_database import APP, CHECKOUT, RELEASE, Server, collections, server  # noqa: F401  # pylint: disable=unused-import
from tests.e2e.test_restore_swap import Shop, shop, spoil
from tests.harness.ran import recording


@pytest.fixture
def site(server: Server, collections: Path, tmp_path: Path) -> Iterator[Shop]:  # noqa: F811
    yield from shop(server, collections, tmp_path, "played")


def play(site: Shop, *words: str, name: str = "restore", more: dict[str, Any] | None = None) -> tuple[int, str]:
    variables = {
        "app_name": APP,
        "app_env_file": str(site.env),
        "app_directory": str(site.folder / "app"),
        "backup_directory": str(site.backups),
        "backup_client_directory": str(site.server.programs),
        "release_ledger_directory": str(site.folder / "ledger"),
        **(more or {}),
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
    }
    inventory = site.folder / "hosts.json"
    inventory.write_text(json.dumps({"databases": {"hosts": {"here": {}}, "vars": variables}}))
    (site.folder / "app").mkdir(exist_ok=True)
    env = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(site.folder),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"),
        "ANSIBLE_LOCAL_TEMP": str(site.folder / "tmp"),
        "ANSIBLE_REMOTE_TEMP": str(site.folder / "tmp"),
        "ANSIBLE_NOCOLOR": "1",
        "TMPDIR": str(site.folder),
        "COLUMNS": "2000",
        **recording(),
    }
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(inventory), f"sluice.deploy.{name}", *words]
    done = subprocess.run(command, env=env, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def told(site: Shop) -> list[dict[str, Any]]:
    """Return the restores in the ledger, whose chain is proven by reading it."""
    records = Store(str(site.folder / "ledger")).records()
    return [{**record["data"], "release": record.get("release", ""), "operator": record["operator"]} for record in records if record["event"] == "restore"]


def remember(site: Shop, *releases: str, last: str = "promote") -> None:
    """Put releases into the ledger as a run would."""
    store = Store(str(site.folder / "ledger"))
    with store.lock():
        for release in releases:
            begun = {"app": APP, "at": 1.0, "operator": "ann@control", "release": release, "fence": 1}
            store.append({**begun, "event": "claim", "data": {"version": "v1"}}, *([{**begun, "event": last, "data": {}}] if last else []))


def copies(site: Shop) -> list[str]:
    """Return the release ids of the backups that lie here."""
    return sorted(path.name.removeprefix(f"{APP}-") for path in site.backups.glob(f"{APP}-*"))


def test_the_playbook_shows_refuses_restores_once_and_goes_back(site: Shop) -> None:
    good = site.state()
    spoil(site)
    bad = site.state()
    wanted = ("-e", f"restore_backup={RELEASE}")
    rc, said = play(site, *wanted, "--check")
    assert rc and f"add -e restore_accept_loss={RELEASE}; nothing was changed" in said and "public.entry: 3 inserted, 2 updated, 1 deleted" in said, said
    assert site.state() == bad
    agreed = (*wanted, "-e", f"restore_accept_loss={RELEASE}")
    site.good("drill", state="absent")  # the playbook makes the copy when the release's is gone
    rc, first = play(site, *agreed)
    assert rc == 0 and site.state() == good, first
    rc, said = play(site, *agreed)
    assert rc == 0 and "is the restored copy of r1 since" in said and "would" not in said, said
    rc, said = play(site, "-e", "restore_state=swapped_back")
    assert rc == 0 and site.state() == bad, said
    # The ledger has each of the two once, with what was lost; the ones that were shown, refused or already done are not in it.
    there, back = told(site)
    who = f"{getpass.getuser()}@{socket.gethostname()}"
    assert (there["backup"], there["back"], there["operator"], back["backup"], back["back"]) == (RELEASE, False, who, RELEASE, True)
    lost = {row["table"]: [row[kind] for kind in ("inserted", "updated", "deleted")] for row in there["lost"]}
    assert lost == {"public.born": [4, 0, 0], "public.entry": [3, 2, 1], "public.sluice_migrations": [1, 0, 0]} and there["rows_lost"] == 11
    assert back["lost"] == [] and 0 < there["seconds"] < 120 and there["swap_ms"] > 0 and there["kept"] != back["kept"]
    assert "11 rows written since were lost" in first and "nothing was lost" in said


def test_the_account_of_the_release_tells_it_and_a_cut_run_is_told_by_the_next(site: Shop) -> None:
    remember(site, "r0", RELEASE)
    spoil(site)
    site.good("restore", backup=RELEASE, directory=str(site.backups), accept_loss=RELEASE)  # a run that was killed before it wrote anything
    words = ("-e", f"restore_backup={RELEASE}", "-e", f"restore_accept_loss={RELEASE}")
    rc, said = play(site, *words)
    assert rc == 0 and "by a run that was cut before it could write what was lost" in said, said
    rc, said = play(site, *words)
    (one,) = told(site)
    assert rc == 0 and one["release"] == RELEASE and one["lost"] is None
    rc, said = play(site, "-e", "restore_state=swapped_back")
    assert rc == 0 and len(told(site)) == 2, said
    account = json.loads((site.folder / "ledger" / "reports" / f"{RELEASE}.json").read_text())
    assert [each["back"] for each in account["restores"]] == [False, True] and account["result"] == "promoted" and account["closed"].startswith("1970")
    assert not (site.folder / "ledger" / "reports" / "r0.json").exists()


def test_retention_leaves_what_the_ledger_points_to(site: Shop) -> None:
    for name in ("r2", "r3", "r4", "r5", "r6", "r7"):
        site.backup(name)
    (site.backups / f"{APP}-{RELEASE}" / "drill.json").unlink()  # or it would stay as the newest one that was restored
    remember(site, RELEASE, "r2", last="promote")  # r1 is the fourth last that was promoted
    remember(site, "r3", "r4", last="promote")
    remember(site, "r5", last="refuse")
    remember(site, "r6", last="")
    keep = {"backup_retention": {"last": 1}, "backup_drill": False}
    broken = site.folder / "ledger" / "ledger.jsonl"
    whole = broken.read_bytes()
    broken.write_bytes(whole.replace(b"promote", b"refused", 1))
    rc, said = play(site, name="backup", more=keep)
    assert rc and "was changed after it was written" in said, said
    assert len(copies(site)) == 8  # nobody knows what may go, so nothing goes
    broken.write_bytes(whole)
    rc, said = play(site, "--check", name="backup", more=keep)
    assert rc == 0 and len(copies(site)) == 8, said
    rc, said = play(site, name="backup", more={**keep, "backup_pinned": ["r5"]})
    assert rc == 0, said
    assert copies(site)[1:] == ["r2", "r3", "r4", "r5", "r6"] and copies(site)[0].startswith("by-hand-")
