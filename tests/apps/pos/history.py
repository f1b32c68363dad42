# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the till's git repository: the files beside this one are v0.9.0, and versions/TAG.patch leads to each other version."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = (
    "Dockerfile", "alembic.ini", "app.py", "compose.yml", "healthcheck.py", "migrations/env.py", "migrations/script.py.mako",
    "migrations/versions/0001_pos.py",
)  # fmt: skip
# Tag, the tag it stands on, and the subject of its commit.
VERSIONS = (
    ("v0.9.0", None, "Till: sales, worker, health"),
    ("v1.0.0", "v0.9.0", "Notes on sales"),
    ("v1.1.0-bad", "v1.0.0", "Count customers"),
    ("v1.2.0-crash", "v1.0.0", "Receipt printer"),
    ("v1.3.0-sick", "v1.0.0", "Deeper health check"),
)
_PERSON = {"NAME": "Pos", "EMAIL": "pos@example.com", "DATE": "2024-03-01T10:00:00+00:00"}


def build(target: Path) -> dict[str, str]:
    """Make the repository at ``target``, a folder that is not there yet, and return the commit of each tag, the same every time."""
    target.mkdir(parents=True)
    _git(target, "init", "--quiet")
    tags: dict[str, str] = {}
    for tag, parent, subject in VERSIONS:
        if parent is None:
            for name in SOURCES:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(HERE / name, target / name)
        else:
            _git(target, "checkout", "--quiet", "--detach", parent)
            _git(target, "apply", "--whitespace=nowarn", str(HERE / "versions" / f"{tag}.patch"))
        (target / "version.json").write_text(json.dumps({"version": tag}) + "\n", encoding="utf-8")
        _git(target, "add", "--all")
        _git(target, "commit", "--quiet", "--no-verify", f"--message={subject}")
        _git(target, "tag", tag)
        tags[tag] = _git(target, "rev-parse", "HEAD").strip()
    return tags


def _git(repository: Path, *arguments: str) -> str:
    """Run git so that the outcome depends on the sources alone, not on the user's configuration or clock."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    person = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in _PERSON.items()}
    env = {**kept, **person, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_DEFAULT_HASH": "sha1", "LC_ALL": "C"}
    words = ["git", "-c", "core.fileMode=false", "-c", "core.autocrlf=false", *arguments]
    return subprocess.run(words, cwd=repository, env=env, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Usage: python history.py TARGET_DIR")
    for name, commit in build(Path(sys.argv[1])).items():
        print(name, commit)
