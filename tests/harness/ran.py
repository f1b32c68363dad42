# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many of the roles' tasks ran in the tests, and which never did; bin/coverage tells it and writes docs/coverage.md."""
from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]
RECORDS = CHECKOUT / ".cache" / "ran"
PAGE = CHECKOUT / "docs" / "coverage.md"
# What is read in, not run.
_STATIC = ("import_tasks", "import_role", "meta")
# Why nothing here runs them, by the beginning of their place.
WHY = {
    "roles/provision/tasks/docker.yml": "starts an engine, which a test host that is a container itself may not",
    "roles/provision/tasks/node_nodesource.yml": "asks the repository of NodeSource, which a test must not depend on",
    "roles/provision/tasks/repository.yml": "asks a repository that somebody else runs",
}


def recording(folder: Path = RECORDS) -> dict[str, str]:
    """Return the environment of a test's playbook: its tasks are written down in ``folder``, and its modules are packed once for all playbooks."""
    return {
        "SLUICE_RAN": str(folder),
        "SLUICE_PAYLOADS": str(CHECKOUT / ".cache" / "payloads"),
        "ANSIBLE_CALLBACK_PLUGINS": str(CHECKOUT / "tests/harness/callbacks"),
        "ANSIBLE_CALLBACKS_ENABLED": "ran,payloads",
    }


def tasks(path: Path) -> Iterator[tuple[int, str]]:
    """Return line and name of each task of a file that can run; a block is not one, those in it are."""
    yield from _within(yaml.compose(path.read_text(encoding="utf-8")))


def _within(listed: yaml.Node) -> Iterator[tuple[int, str]]:
    for entry in listed.value:
        held = {key.value: value for key, value in entry.value}
        parts = [held[name] for name in ("block", "rescue", "always") if name in held]
        for part in parts:
            yield from _within(part)
        if not parts and not any(key.rpartition(".")[2] in _STATIC for key in held):
            yield entry.start_mark.line + 1, held["name"].value if "name" in held else ""


def ran(folder: Path = RECORDS) -> set[str]:
    """Return the places ``FILE:LINE`` of the tasks that ran, as far as their files are still what they were."""
    digests: dict[str, str] = {}
    found = set()
    for line in {line for record in folder.glob("*") for line in record.read_text(encoding="utf-8").splitlines()}:
        place, _space, digest = line.partition(" ")
        name = place.rpartition(":")[0]
        if name not in digests:
            path = CHECKOUT / name
            digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:12] if path.exists() else ""
        if digests[name] == digest:
            found.add(place)
    return found


def page(every: dict[str, str], left: list[str]) -> str:
    """Return the text of the page.

    :param every: name of each task by its place.
    :param left: places of those that never ran.
    """
    rows = [f"| `{place}` | {every[place]} | {next((why for start, why in WHY.items() if place.startswith(start)), '')} |" for place in left]
    share = 100 * (len(every) - len(left)) / len(every)
    return "\n".join([
        "# Which tasks the tests run", "",
        "Written by `bin/coverage` from what `bin/test e2e molecule` recorded: a task counts when it ran on some host in some playbook, well or badly;",
        "what was skipped everywhere does not. Modules and the code below them have tests of their own.", "",
        f"{len(every) - len(left)} of the {len(every)} tasks of the roles ran: {share:.1f} %.", *([
            "", "| never ran | task | why |", "| --- | --- | --- |", *rows,
        ] if left else []), "",
    ])


def main() -> int:
    every = {
        f"{path.relative_to(CHECKOUT)}:{line}": name
        for path in sorted([*CHECKOUT.glob("roles/*/tasks/*.yml"), *CHECKOUT.glob("roles/*/handlers/*.yml")])
        for line, name in tasks(path)
    }
    left = [place for place in every if place not in ran()]
    PAGE.write_text(page(every, left), encoding="utf-8")
    for place in left:
        print(f"{place}  {every[place]}")
    print(json.dumps({"tasks": len(every), "ran": len(every) - len(left), "coverage": round((len(every) - len(left)) / len(every), 3)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
