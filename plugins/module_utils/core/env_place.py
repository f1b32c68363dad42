# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where an environment file lies, and who can read, change or replace it."""

from __future__ import annotations

from dataclasses import dataclass

from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, PASS, Gate


@dataclass(frozen=True)
class Place:
    """What the file system tells of one path.

    :param kind: ``file``, ``folder``, ``other`` or ``none``; of what a link points at.
    :param target: where a symbolic link ends; empty when the path is none.
    :param inside: whether that is in the path's own folder.
    :param mode: permission bits.
    :param owner: name of the owner, or the number where it has none.
    :param links: hard links.
    :param open_folders: folders above it in which everybody may rename.
    """

    path: str
    kind: str = "none"
    target: str = ""
    inside: bool = True
    mode: int = 0
    owner: str = ""
    links: int = 1
    open_folders: tuple[str, ...] = ()


def judge(place: Place, owner: str) -> Gate:
    """Return the gate of the file itself; everything that is wrong with it is told at once (S3-123, S3-124, M-029).

    :param owner: who must own it; empty when that is not judged.
    """
    if place.kind != "file":
        what = "is not there" if place.kind == "none" else "is no plain file"
        return Gate("environment file", FAIL, f"{place.path} {what} (S3-093)", remedy="Set app_env_file to the file with the app's variables, mode 0600.")
    file, wrong, remedies = place.target or place.path, [], []
    if place.target and not place.inside:
        wrong.append(f"it is a link to {place.target}, outside its folder, where other rules hold")
        remedies.append("Put the file itself there.")
    if place.mode & 0o177:
        wrong.append(f"it has mode {place.mode:04o}, so others can read it or it can be run" if place.mode & 0o077 else f"it has mode {place.mode:04o}")
        remedies.append(f"chmod 0600 {file}")
    if owner and place.owner != owner:
        wrong.append(f"it belongs to {place.owner}, and the app runs as {owner}")
        remedies.append(f"chown {owner} {file}")
    if place.links > 1:
        wrong.append(f"it has {place.links} hard links, so it can be read and changed under another name")
        remedies.append(f"Write it anew with env.yml, or copy it over: cp -p {file} {file}.new && mv {file}.new {file}")
    if place.open_folders:
        wrong.append(f"everybody may replace it, since {', '.join(place.open_folders)} is open to all")
        remedies.append(f"chmod o-w {' '.join(place.open_folders)}")
    if wrong:
        return Gate("environment file", FAIL, f"{place.path}: {'; '.join(wrong)} (S3-123, S3-124)", f"{place.mode:04o}", "0600", remedy="; ".join(remedies))
    whose = f", of {place.owner}" if owner else ""
    return Gate("environment file", PASS, f"{place.path} is there with mode {place.mode:04o}{whose}", value=f"{place.mode:04o}", limit="0600")
