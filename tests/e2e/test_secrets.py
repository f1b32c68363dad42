# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every playbook with sentinel secrets at the highest verbosity, when it works and when it fails; then every output surface is searched."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.e2e.conftest import QUICK
from tests.sandbox.demo import Load
from tests.sandbox.runner import Run
from tests.sandbox.world import World

# Where a secret has to lie: the operator's own file, what PM2 starts the processes with, the database's own folder, the world's facts.
ALLOWED = ("wallet.env", "world.json", "slots/blue.web.ecosystem.json", "slots/green.web.ecosystem.json", "pm2/dump.pm2", "pm2/dump.pm2.bak", "/testers.conf")


def sentinels(world: World) -> list[bytes]:
    """Return every secret of the world in each spelling it can be met in."""
    values = [world.facts["password"], quote(world.facts["password"], safe="")]
    for line in Path(world.facts["env_file"]).read_text(encoding="utf-8").splitlines():
        name, _equals, value = line.partition("=")
        if name != "DATABASE_URL":
            values.append(value)
    return [value.encode() for value in values]


class ProcessWatch:
    """Reads the arguments of every process on the machine, again and again, until it is told to stop."""

    def __init__(self, secrets: list[bytes]) -> None:
        self._secrets = secrets
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.looks = 0
        self.found: set[str] = set()

    def _look(self) -> None:
        while not self._done.is_set():
            self.looks += 1
            for name in os.listdir("/proc"):
                if name.isdigit():
                    self._read(name)
            time.sleep(0.02)

    def _read(self, pid: str) -> None:
        try:
            words = Path("/proc", pid, "cmdline").read_bytes()
        except OSError:
            return
        if any(secret in words for secret in self._secrets):
            self.found.add(words.split(b"\0")[0].decode("utf-8", "replace"))

    def __enter__(self) -> ProcessWatch:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._done.set()
        self._thread.join()


@pytest.mark.timeout(900)
def test_no_secret_reaches_any_output(world: World, play: Callable[..., Run], load: Load, tmp_path: Path) -> None:
    tester = "s3cret-of-the-testers"
    testers = tmp_path / "testers.yml"
    testers.write_text(f"edge_tester_secret: {tester}\n", encoding="utf-8")
    secrets = [*sentinels(world), tester.encode()]
    assert len(secrets) == 5
    open_env = tmp_path / "open.env"
    open_env.write_text(Path(world.facts["env_file"]).read_text(encoding="utf-8") + "SENTRY_DSN='stray\n", encoding="utf-8")
    open_env.chmod(0o644)
    runs = {}
    with ProcessWatch(secrets) as watch:
        for name, words, variables in (
            ("preflight", (), {"release_version": "v1.0.0"}),
            ("preflight", (), {"app_env_file": str(open_env)}),
            ("release", ("--check", "--diff"), {"release_version": "v1.0.0", **QUICK}),
            ("release", ("--diff",), {"release_version": "v1.2.0-crash", **QUICK}),
            ("release", ("--diff",), {"release_version": "v1.3.0-breaking", **QUICK}),
            ("release", ("--diff",), {"release_version": "v1.0.0", **QUICK}),
            ("edge", ("--check", "--diff", "-e", f"@{testers}"), {}),
            ("edge", ("--diff", "-e", f"@{testers}"), {}),
            ("maintenance", ("-e", f"@{testers}"), {"maintenance_state": "on"}),
            ("maintenance", ("-e", f"@{testers}"), {"maintenance_state": "off"}),
            ("watch", ("-e", f"@{testers}"), {}),
            ("status", (), {}),
            ("verify", (), {"release_version": "v1.0.0"}),
            ("backup", (), {}),
            ("migrate", ("--diff",), {"release_version": "v1.0.0"}),
            ("canary", (), {"canary_percent": 5}),
            ("promote", (), {}),
            ("rollback", ("--diff",), {}),
            ("rollback", (), {}),
        ):
            runs[f"{name} {words} {len(runs)}"] = play(name, *words, verbosity=4, **variables)
    assert watch.looks > 100
    assert not watch.found, f"a secret was in the arguments of {watch.found}"
    failed = [name for name, run in runs.items() if run.rc != 0]
    expected = ["preflight () 1", "release ('--diff',) 3", "release ('--diff',) 4", "canary () 15", "promote () 16", "rollback () 18"]
    assert failed == expected, "\n".join(runs[name].text[-3000:] for name in failed if name not in expected)

    said = {name: run.text.encode() for name, run in runs.items()}
    looked = 0
    places = [path for root in (world.folder, tmp_path) for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in places:
        relative = str(path.relative_to(world.folder)) if path.is_relative_to(world.folder) else path.name
        if relative.startswith("postgres/") or relative.endswith(ALLOWED) or path in (open_env, testers):
            continue
        said[str(path)] = path.read_bytes()
        looked += 1
    assert looked > 50
    leaks = [name for name, text in said.items() if any(secret in text for secret in secrets)]
    assert leaks == []


def test_files_with_secrets_are_closed_to_others(world: World) -> None:
    """The ones that may hold a secret have mode 0600."""
    checked = [path for path in world.folder.rglob("*") if str(path).endswith(ALLOWED) and path.is_file()]
    assert len(checked) >= 4
    assert {oct(path.stat().st_mode & 0o777) for path in checked} == {"0o600"}
