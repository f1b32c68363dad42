# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which image a release is started from, and what it is called (catalogue C45, M-027)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

PULL, LOAD, BUILD = "pull", "load", "build"
_DONE = {PULL: "pulled", LOAD: "loaded", BUILD: "built"}
_PINNED = re.compile(r"^[a-z0-9][\w./:-]*@sha256:[0-9a-f]{64}\Z")
_SHA256 = re.compile(r"^[0-9a-f]{64}\Z")
_KEYS = ("name", "archive", "sha256", "build", "user", "password")


@dataclass(frozen=True)
class Wanted:
    """Where the image of a release comes from.

    :param name: of an image in a registry, with its digest.
    :param archive: file that ``docker save`` wrote, and its SHA-256.
    :param build: folder of the Dockerfile below the release folder.
    :param user: who signs in at the registry, with ``password``; empty for nobody.
    """

    name: str = ""
    archive: str = ""
    sha256: str = ""
    build: str = ""
    user: str = ""
    password: str = ""

    @property
    def how(self) -> str:
        """Return ``pull``, ``load`` or ``build``."""
        return PULL if self.name else LOAD if self.archive else BUILD

    @property
    def done(self) -> str:
        """Return the same, once it was done."""
        return _DONE[self.how]


def wanted_from(data: Mapping[str, Any]) -> Wanted | None:
    """Return where an image comes from; None for an empty mapping, on a host that starts nothing.

    :raises SluiceError: nothing or too much is named, or a tag that can move.
    """
    if not data:
        return None
    values = {key: str(data.get(key) or "") for key in _KEYS}
    ways = [f"app_image{'' if key == 'name' else '_' + key}" for key in ("name", "archive", "build") if values[key]]
    if len(ways) != 1:
        given = f"{' and '.join(ways)} are set" if ways else "none is"
        raise SluiceError(
            f"One of app_image, app_image_archive and app_image_build says where the image comes from; {given}.",
            "Set app_image to NAME@sha256:DIGEST, or app_image_archive with app_image_sha256, or app_image_build to the folder of the Dockerfile.",
        )
    if values["name"] and not _PINNED.match(values["name"]):
        raise SluiceError(
            f"app_image: {values['name']} names no digest, so it can be another image tomorrow.",
            "Set it to NAME@sha256:DIGEST, as `docker buildx imagetools inspect NAME:TAG` and the registry show it.",
        )
    if values["archive"] and not _SHA256.match(values["sha256"]):
        raise SluiceError(
            "app_image_sha256 must hold the SHA-256 of app_image_archive, 64 hex digits.", "Take it where the archive was made: `sha256sum FILE`."
        )
    if values["build"].startswith("/") or ".." in values["build"].split("/"):
        raise SluiceError(f"app_image_build: {values['build']} must be a folder of the release.", "Example: app_image_build: .")
    if bool(values["user"]) != bool(values["password"]):
        raise SluiceError("app_image_user and app_image_password go together; one of them is empty.", "Set both, or neither.")
    return Wanted(**values)


def tag_of(app: str, version: str, commit: str) -> str:
    """Return the name by which the engine shows the image of a release: ``wallet:v1.0.0-0f3c1a2b4d5e``."""
    return f"{app.strip('_')}:{re.sub(r'[^A-Za-z0-9_.-]', '-', version)[:100]}-{commit[:12]}"


def registry_of(name: str) -> list[str]:
    """Return the host of an image's registry as ``docker login`` wants it; nothing for Docker's own."""
    first = name.partition("/")[0]
    return [first] if "/" in name and ("." in first or ":" in first or first == "localhost") else []
