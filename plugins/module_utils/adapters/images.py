# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images of releases: pulled by digest, loaded from an archive or built, and remembered in the release folder."""

from __future__ import annotations

import json
import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import release_dir
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.docker import Docker
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import read_text, sha256_of, write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.image_names import BUILD, LOAD, Wanted, registry_of, tag_of
from ansible_collections.sluice.deploy.plugins.module_utils.core.slots import SLOTS, Plan

# In the release folder: which image the release is started from. Written when the image is there.
RECORD = ".sluice-image.json"
_PULL_SECONDS = 1800.0


def recorded(folder: str) -> str:
    """Return the image of the release that a folder belongs to, which may lie below it; empty when none is recorded."""
    while folder and folder != posixpath.dirname(folder):
        text = read_text(os.path.join(folder, RECORD))
        if text is not None:
            return str(json.loads(text)["image"])
        folder = posixpath.dirname(folder)
    return ""


class Images:
    """The images of one app's releases on one host.

    :param directory: the app's folder.
    :param wanted: where the image comes from; None on a host that starts nothing.
    """

    def __init__(self, docker: Docker, app: str, directory: str, wanted: Wanted | None) -> None:
        self._docker, self._app, self._directory, self._wanted = docker, app, directory, wanted

    def ensure(self, plan: Plan, check: bool) -> list[str]:
        """Have the image of a release, and remember it; return what was done, in words.

        :raises SluiceError: it cannot be had, or is not the one that is wanted.
        """
        wanted = self._wanted
        if wanted is None:
            return []
        known = recorded(plan.folder)
        if known and self._docker.image_id(known) and (not wanted.name or known == wanted.name):
            return []
        tag = tag_of(self._app, plan.version, plan.commit)
        if check:
            return [f"would {wanted.how} the image {wanted.name or tag}"]
        if wanted.how == BUILD:
            image = self._built(plan.folder, wanted.build, tag)
        elif wanted.how == LOAD:
            image = self._loaded(wanted)
        else:
            image = self._pulled(wanted)
        self._docker.run("tag", image, tag)
        write_atomic(os.path.join(plan.folder, RECORD), json.dumps({"image": image, "id": self._docker.image_id(image), "tag": tag}) + "\n")
        return [f"{wanted.done} the image {tag} ({image[:80]})"]

    def remove(self, folder: str) -> None:
        """Take away the image of a release, unless a slot, another release or a container still uses it."""
        text = read_text(os.path.join(folder, RECORD))
        if text is None or not self._docker.installed:
            return
        known: Mapping[str, Any] = json.loads(text)
        held = [release_dir.record(self._directory, slot).get("image", "") for slot in SLOTS]
        others = [recorded(other) for other in release_dir.folders(self._directory) if other != folder]
        if known["image"] in held or self._docker.run("ps", "--all", "--quiet", "--filter", f"ancestor={known['id']}").stdout.strip():
            return
        names = [known["tag"]] if known["image"] in others or known["image"] == known["id"] else [known["tag"], known["image"]]
        # An image that is gone already, or that something else holds, is no error.
        self._docker.run("image", "rm", *names, timeout=120, ok=(0, 1))

    def _built(self, folder: str, context: str, tag: str) -> str:
        where = posixpath.normpath(posixpath.join(folder, context))
        self._docker.run("build", "--quiet", "--tag", tag, where, timeout=_PULL_SECONDS)
        return self._docker.image_id(tag)

    def _loaded(self, wanted: Wanted) -> str:
        if not os.path.exists(wanted.archive):
            raise SluiceError(f"The image archive {wanted.archive} is not there.", "Put it on the app hosts before the release, or correct app_image_archive.")
        found = sha256_of(wanted.archive)
        if found != wanted.sha256:
            raise SluiceError(
                f"The image archive {wanted.archive} has the SHA-256 {found}, not {wanted.sha256}.", "It is another file than the one that was approved."
            )
        said = self._docker.run("load", "--quiet", "--input", wanted.archive, timeout=_PULL_SECONDS).stdout
        names = [line.partition(": ")[2].strip() for line in said.splitlines() if line.startswith("Loaded image")]
        if len(names) != 1:
            raise SluiceError(f"The image archive {wanted.archive} holds {len(names)} images.", "Save one image: `docker save NAME:TAG`.")
        return self._docker.image_id(names[0])

    def _pulled(self, wanted: Wanted) -> str:
        if not self._docker.image_id(wanted.name):
            with self.signed_in() as words:
                self._docker.run(*words, "pull", "--quiet", wanted.name, timeout=_PULL_SECONDS)
        return wanted.name

    @contextmanager
    def signed_in(self) -> Iterator[Sequence[str]]:
        """Be signed in at the image's registry; gives the words that make a command use it. Nothing of it stays on disk."""
        wanted = self._wanted
        if wanted is None or not wanted.user:
            yield ()
            return
        private = tempfile.mkdtemp(prefix="sluice-docker-")
        try:
            words = ("--config", private)
            secret = (wanted.password,)
            registry = registry_of(wanted.name)
            self._docker.run(*words, "login", "--username", wanted.user, "--password-stdin", *registry, stdin=wanted.password, secrets=secret)
            yield words
        finally:
            shutil.rmtree(private, ignore_errors=True)


def one_off(command: Sequence[str], network: str, image: str, variables: Sequence[str], program: Sequence[str]) -> list[str]:
    """Return the words that run a program once in a container of an image.

    :param variables: names only: the command line takes the values from its own environment, never from its arguments.
    """
    named = [word for name in sorted(variables) for word in ("--env", name)]
    joined = ["--network", network] if network else ["--add-host", "host.docker.internal:host-gateway"]
    return [*command, "run", "--rm", "--init", "--pull", "never", *joined, *named, image, *program]
