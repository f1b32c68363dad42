# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes the wallet's git repository: the files beside this one are v0.9.9, and versions/TAG.patch leads to each other version.

To change a version, make the repository, check out its parent there, edit, and write `git diff` into the patch.
"""
from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = (
    ".gitignore", "package.json", "package-lock.json", "server.js", "worker.js", "wallet.js", "pages.js", "requests.js", "webhook.js", "shutdown.js",
    "migrations/0001_wallet.sql", "public/wallet.css",
)
# Tag, the tag it stands on, and the subject of its commit.
VERSIONS = (
    ("v0.9.9", None, "Wallet: pages, recharge, webhook"),
    ("v1.0.0", "v0.9.9", "Notes on transactions"),
    ("v1.1.0-bad", "v1.0.0", "Count requests"),
    ("v1.2.0-crash", "v1.0.0", "Feature matrix"),
    ("v1.3.0-breaking", "v1.0.0", "Rename the balance"),
    ("v1.4.0-slow", "v1.0.0", "Risk check"),
    ("v1.5.0-dead", "v1.0.0", "New session store"),
    ("v1.6.0-sick", "v1.0.0", "Deeper health"),
    ("v1.7.0-restless", "v1.0.0", "Give memory back"),
    ("v1.8.0-workshy", "v1.0.0", "Lock the queue"),
)
CHECKED_OUT = "v1.0.0"


def build(target: Path, state_file: Path | None = None) -> dict[str, str]:
    """Make the repository at ``target``, or leave it alone when it already holds what the sources say.

    :param state_file: where the digest of the sources is kept; inside the repository's own .git when not given.
    :returns: the commit of each tag.
    """
    target = Path(target).resolve()
    state_file = Path(state_file).resolve() if state_file else target / ".git" / "wallet-history.json"
    digest = _digest_of_sources()
    state = _read_state(state_file)
    if target.exists() and any(target.iterdir()):
        if not state:
            raise FileExistsError(f"{target} is not empty and {state_file} does not say that it was made here. Name another folder.")
        if state["sources"] == digest and _tags(target) == state["tags"]:
            return dict(state["tags"])

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".wallet-history-") as folder:
        repository = Path(folder) / "repository"
        tags = _make(repository)
        # Written before the swap: a run that is killed in between leaves something the next one may replace.
        written = repository / state_file.relative_to(target) if state_file.is_relative_to(target) else state_file
        written.write_text(json.dumps({"sources": digest, "tags": tags}, indent=2) + "\n")
        if target.exists():
            shutil.rmtree(target)
        repository.rename(target)
    return tags


def _make(repository: Path) -> dict[str, str]:
    repository.mkdir()
    _git(repository, "init", "--quiet")
    _git(repository, "symbolic-ref", "HEAD", "refs/heads/main")
    for day, (tag, parent, subject) in enumerate(VERSIONS, start=1):
        if parent is None:
            _copy_sources(repository)
        else:
            _git(repository, "checkout", "--quiet", "--detach", parent)
            _git(repository, "apply", "--whitespace=nowarn", str(HERE / "versions" / f"{tag}.patch"))
        _stamp(repository, tag)
        _git(repository, "add", "--all")
        _git(repository, "commit", "--quiet", "--no-verify", f"--message={subject}", day=day)
        _git(repository, "tag", tag)
    _git(repository, "checkout", "--quiet", "-B", "main", CHECKED_OUT)
    return _tags(repository)


def _copy_sources(repository: Path) -> None:
    for name in SOURCES:
        destination = repository / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        destination.write_bytes((HERE / name).read_bytes())


def _stamp(repository: Path, tag: str) -> None:
    """Write the tag's version where npm keeps it: the app reports what package.json says."""
    for name in ("package.json", "package-lock.json"):
        path = repository / name
        content = json.loads(path.read_text())
        content["version"] = tag[1:]
        if "packages" in content:
            content["packages"][""]["version"] = tag[1:]
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _tags(repository: Path) -> dict[str, str]:
    try:
        lines = _git(repository, "for-each-ref", "--format=%(refname:short) %(objectname)", "refs/tags").splitlines()
    except subprocess.CalledProcessError:
        return {}
    return dict(line.split(" ") for line in lines)


def _git(repository: Path, *arguments: str, day: int = 1) -> str:
    """Run git so that the outcome depends on the sources alone, not on the user's configuration, clock or umask."""
    date = f"2024-03-{day:02d}T10:00:00+00:00"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment.update({
        "GIT_DIR": str(repository / ".git"), "GIT_WORK_TREE": str(repository),
        "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_ATTR_NOSYSTEM": "1", "GIT_TEMPLATE_DIR": "", "GIT_DEFAULT_HASH": "sha1",
        "GIT_AUTHOR_NAME": "Wallet", "GIT_AUTHOR_EMAIL": "wallet@example.com", "GIT_AUTHOR_DATE": date,
        "GIT_COMMITTER_NAME": "Wallet", "GIT_COMMITTER_EMAIL": "wallet@example.com", "GIT_COMMITTER_DATE": date,
        "LC_ALL": "C",
    })
    options = ["core.fileMode=false", "core.autocrlf=false", f"core.excludesFile={os.devnull}", f"core.attributesFile={os.devnull}", "commit.gpgSign=false"]
    command = ["git", *(word for option in options for word in ("-c", option)), *arguments]
    return subprocess.run(command, cwd=repository, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout


def _digest_of_sources() -> str:
    digest = hashlib.sha256()
    patches = [f"versions/{tag}.patch" for tag, parent, _subject in VERSIONS if parent]
    for name in ("history.py", *SOURCES, *patches):
        content = (HERE / name).read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _read_state(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("Usage: python history.py TARGET_DIR")
    try:
        for name, commit in build(Path(sys.argv[1])).items():
            print(name, commit)
    except FileExistsError as error:
        sys.exit(str(error))
