# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an archive of a release may hold, and by which number a release without a git commit is known."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ansible_collections.sluice.deploy.plugins.module_utils.core.ledger import digest

FILE, FOLDER, LINK, HARDLINK, OTHER = "file", "folder", "link", "hard link", "device or pipe"
KINDS = ("git", "archive", "directory")
TARGET, CONTROL = "target", "control"
# Links through links are followed so often before they are taken for a circle.
_HOPS = 1000


@dataclass(frozen=True)
class Member:
    """One entry of an archive.

    :param name: its path as the archive has it.
    :param kind: FILE, FOLDER, LINK, HARDLINK or OTHER.
    :param size: bytes of a file.
    :param target: where a link leads, as the archive has it.
    """

    name: str
    kind: str
    size: int = 0
    target: str = ""


def plain(name: str) -> str:
    """Return a member's path without what means nothing: ``./a//b/`` is ``a/b``, and the folder itself is empty."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def top(members: Sequence[Member]) -> str:
    """Return the one folder that everything lies in, as ``git archive --prefix`` and ``npm pack`` make it; empty when there is none."""
    names = [plain(member.name) for member in members if plain(member.name)]
    firsts = {name.partition("/")[0] for name in names}
    first = firsts.pop() if len(firsts) == 1 else ""
    lone = any(plain(member.name) == first and member.kind != FOLDER for member in members)
    return "" if lone or not any("/" in name for name in names) else first


def below(members: Sequence[Member], folder: str) -> list[Member]:
    """Return the members as they are seen from a folder that all of them lie in; links lead where they led before."""
    if not folder:
        return list(members)
    seen = []
    for member in members:
        name = plain(member.name)
        if not name or name == folder:
            continue
        target = member.target
        if member.kind == HARDLINK and plain(target).startswith(f"{folder}/"):
            target = plain(target)[len(folder) + 1 :]
        seen.append(replace(member, name=name[len(folder) + 1 :], target=target))
    return seen


def complaint(members: Sequence[Member], links_may_lead_out: bool) -> str:
    """Return why an archive must not be unpacked into a release folder; empty when it may.

    Members that would land elsewhere are refused by their own name and by where links take them.

    :param links_may_lead_out: what was built here may hold such links (``.venv/bin/python3``): building it on the host would have made them too.
    """
    links = {plain(member.name): member.target for member in members if member.kind == LINK}
    kinds: dict[str, str] = {}
    for member in members:
        name, shown = plain(member.name), json.dumps(member.name[:200])
        if member.name.startswith("/") or ".." in member.name.split("/") or "\0" in member.name:
            return f"{shown} would land outside of the release folder"
        if member.kind == OTHER:
            return f"{shown} is a device or a pipe"
        if not name:
            if member.kind != FOLDER:
                return f"{shown} has no name"
            continue
        if name in kinds and not kinds[name] == member.kind == FOLDER:
            return f"{shown} is in it twice"
        way = next((folder for folder in _folders(name) if folder in links), "")
        if way:
            return f"{shown} would be written through the link {json.dumps(way)}"
        if member.kind == LINK and not links_may_lead_out and _leads_out(name, member.target, links):
            return f"the link {shown} leads outside of the release folder, to {json.dumps(member.target[:200])}"
        if member.kind == HARDLINK and kinds.get(plain(member.target)) != FILE:
            return f"the hard link {shown} leads to {json.dumps(member.target[:200])}, which is no file before it"
        kinds[name] = member.kind
    return ""


def _folders(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _leads_out(name: str, target: str, links: Mapping[str, str]) -> bool:
    """Tell whether a link ends outside, following the other links on its way as the system would: ``a/link/..`` is not ``a``."""
    if target.startswith("/"):
        return True
    where, rest = name.split("/")[:-1], target.split("/")
    for _hop in range(_HOPS):
        if not rest:
            return False
        part = rest.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            if not where:
                return True
            where.pop()
            continue
        where.append(part)
        onward = links.get("/".join(where))
        if onward is None:
            continue
        if onward.startswith("/"):
            return True
        where.pop()
        rest = onward.split("/") + rest
    return True


def number_of(sha256: str) -> str:
    """Return what stands for the commit of a release that was not fetched from git: 40 hex digits of the SHA-256 of its content."""
    return sha256[:40]


def content(entries: Iterable[tuple[str, str, bool, str]]) -> str:
    """Return the SHA-256 of a folder's content, whatever the order, the owners and the times of its files.

    :param entries: path, kind, whether it can be executed, and SHA-256 of a file or target of a link.
    """
    return digest(sorted([list(entry) for entry in entries]))


def package_name(version: str, commit: str, build: Sequence[Sequence[str]], env: Mapping[str, str]) -> str:
    """Return the name of a built version: another one when it was built in another way."""
    way = digest({"build": [list(map(str, words)) for words in build], "env": {str(key): str(value) for key, value in env.items()}})
    return f"{version}-{commit[:12]}-{way[:8]}"


def prunable(names: Iterable[tuple[str, float]], keep: int) -> list[str]:
    """Return which of some files may go: all but the newest.

    :param names: path and time of each.
    """
    return [name for name, _time in sorted(names, key=lambda entry: (entry[1], entry[0]), reverse=True)[keep:]]
