# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A version's source: a git repository, read through a mirror of its own, so that the operator's clone is never touched."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.process import clean_environment, run
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

_ENV = {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1"}
_COMMIT = re.compile(r"^[0-9a-f]{40}$")


def resolve(source: str, version: str) -> str:
    """Return the commit a tag or branch of the source stands for, as 40 hex digits.

    :raises SluiceError: there is no such version; the message names the newest tags there are.
    """
    if _COMMIT.match(version):
        return version
    said = run(["git", "ls-remote", "--tags", "--heads", source], timeout=60, env=_ENV).stdout
    refs = {ref: commit for commit, tab, ref in (line.partition("\t") for line in said.splitlines()) if tab}
    for name in (f"refs/tags/{version}^{{}}", f"refs/tags/{version}", f"refs/heads/{version}"):
        if name in refs:
            return refs[name]
    tags = sorted(ref.rpartition("/")[2] for ref in refs if ref.startswith("refs/tags/") and not ref.endswith("^{}"))
    raise SluiceError(f"release_version {version} is no tag or branch of {source}.", f"Known tags: {', '.join(tags[-10:]) or 'none'}.", tags=tags[-50:])


def unpack(source: str, commit: str, mirror: str, folder: str) -> None:
    """Put the files of one commit into ``folder`` (which is made), without history."""
    if not os.path.isdir(mirror):
        partial = mirror + ".partial"
        shutil.rmtree(partial, ignore_errors=True)
        run(["git", "clone", "-q", "--mirror", source, partial], timeout=600, env=_ENV)
        os.rename(partial, mirror)
    else:
        run(["git", "-C", mirror, "remote", "set-url", "origin", source], timeout=10, env=_ENV)
        run(["git", "-C", mirror, "fetch", "-q", "--prune", "--force", "origin", "+refs/*:refs/*"], timeout=600, env=_ENV)
    os.makedirs(folder)
    archive = ["git", "-C", mirror, "archive", "--format=tar", commit]
    # run_command has no pipe from one program to the next, and no deadline.
    # pylint: disable-next=ansible-bad-function
    with subprocess.Popen(archive, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment(_ENV)) as reader:
        # pylint: disable-next=ansible-bad-function
        done = subprocess.run(["tar", "-x", "-C", folder], stdin=reader.stdout, capture_output=True, text=True, timeout=300, check=False)
        said = reader.stderr.read().decode("utf-8", "replace") if reader.stderr else ""
    if reader.returncode or done.returncode:
        raise SluiceError(
            f"Commit {commit} of {source} could not be unpacked: {(said or done.stderr).strip()}",
            "Check that the commit is reachable from a tag or branch of the source.",
        )
