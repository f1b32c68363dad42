# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator may ask of provisioning, where one input depends on another (M-028, M-029): nothing unpinned, nothing unproven, nothing as root."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_ACCOUNT = r"[a-z_][a-z0-9_-]{0,30}"
_ACCOUNT_WORDS = "up to 31 lower-case letters, digits, dashes and underscores only, beginning with a letter or underscore"
_EXACT = r"\d+\.\d+\.\d+"
_URL = r"https?://[^\s/]+(/\S*)?"
_PACKAGE = r"[a-z0-9][a-z0-9.+-]+"
# Folders that belong to the system: an app in one of them would take it over.
_SYSTEM = ("/bin", "/boot", "/dev", "/etc", "/lib", "/proc", "/root", "/run", "/sbin", "/sys", "/usr", "/var/cache", "/var/log")


def complaints(values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the inputs of the role ``provision`` together; each has the shape that the argument spec asks for.

    :param values: inputs by name; one that is missing is not judged.
    """

    def text(name: str) -> str:
        return str(values.get(name) or "")

    found = [*_accounts(values), *_node(text), *_repository(text), *_places(text)]
    if text("provision_pm2_version") and not re.fullmatch(_EXACT, text("provision_pm2_version")):
        found.append(
            f"provision_pm2_version must be a whole version, so that every host gets the same, not {_shown(text('provision_pm2_version'))}. "
            "Allowed are MAJOR.MINOR.PATCH, and nothing where PM2 comes by other means. Example: provision_pm2_version=7.0.4"
        )
    if text("provision_npm_registry") and not re.fullmatch(_URL, text("provision_npm_registry")):
        found.append(_must("provision_npm_registry", "be the URL of an npm registry", text("provision_npm_registry"), "https://npm.example.org/"))
    if text("provision_logs_size") and not re.fullmatch(r"\d+[kMG]?", text("provision_logs_size")):
        found.append(_must("provision_logs_size", "be bytes, or a number with k, M or G", text("provision_logs_size"), "100M"))
    for name in ("provision_node_packages", "provision_docker_packages", "provision_packages"):
        wrong = [str(each) for each in values.get(name) or () if not re.fullmatch(_PACKAGE, str(each))]
        if wrong:
            found.append(_must(name, "hold names of Debian packages", wrong[0], "[curl, jq]"))
    return found


def _accounts(values: Mapping[str, Any]) -> list[str]:
    found = []
    for name, example, needed in (("provision_user", "wallet", True), ("provision_group", "wallet", True), ("provision_operator", "deploy", False)):
        if name not in values or (not needed and not values[name]):
            continue
        value = str(values[name] or "")
        if not re.fullmatch(_ACCOUNT, value):
            found.append(f"{name} may hold {_ACCOUNT_WORDS}, not {_shown(value)}. Example: {name}={example}")
        elif value == "root":
            why = "has every right without any rule" if name == "provision_operator" else "must not run an app: whoever breaks into it would own the host"
            found.append(f"{name} is root, which {why}. Allowed is every other user. Example: {name}={example}")
    if values.get("provision_operator") and values["provision_operator"] == values.get("provision_user"):
        found.append(
            "provision_operator is the app's own user, so whoever breaks into the app could use the operator's rules. "
            "Allowed is every user but provision_user and root. Example: provision_operator=deploy"
        )
    return found


def _node(text: Any) -> list[str]:
    found = []
    source, version = text("provision_node"), text("provision_node_version")
    if source == "tarball":
        if not re.fullmatch(_EXACT, version):
            found.append(_must("provision_node_version", "be the whole version that is in provision_node_tarball", version, "22.11.0"))
        if not text("provision_node_tarball"):
            found.append(
                "provision_node is tarball, but provision_node_tarball is not set. Allowed are a URL that the app hosts reach and a file on the control node. "
                "Example: provision_node_tarball=files/node-v22.11.0-linux-x64.tar.xz"
            )
        if not re.fullmatch(r"[0-9A-Fa-f]{64}", text("provision_node_sha256")):
            found.append(
                "provision_node is tarball, but provision_node_sha256 is "
                + (f"{_shown(text('provision_node_sha256'))}" if text("provision_node_sha256") else "not set")
                + f". Allowed are the 64 hex digits that the makers publish beside the archive. Example: provision_node_sha256={'0123456789abcdef' * 4}"
            )
    if source == "nodesource":
        if not re.fullmatch(r"\d+", version):
            found.append(_must("provision_node_version", "be the major version of the repository", version, "22"))
        found += _signed(text, "provision_node", "provision_node is nodesource", "https://packages.example.org/node_22.x")
    return found


def _repository(text: Any) -> list[str]:
    if not text("provision_postgresql_repository"):
        return []
    return _signed(text, "provision_postgresql", "provision_postgresql_repository is set", "https://packages.example.org/pgdg")


def _signed(text: Any, prefix: str, why: str, example: str) -> list[str]:
    """Return what is missing of a package repository and the key it is signed with."""
    found = []
    if not re.fullmatch(_URL, text(f"{prefix}_repository")):
        found.append(_must(f"{prefix}_repository", "be the URL of a package repository", text(f"{prefix}_repository"), example))
    if not text(f"{prefix}_key"):
        found.append(
            f"{why}, but {prefix}_key is not set; packages whose maker is not proven are not installed. "
            f"Allowed is a file on the control node. Example: {prefix}_key=files/repository.asc"
        )
    return found


def _places(text: Any) -> list[str]:
    """Judge the app's own folder; only where the app is provisioned, as others may have made it where they like."""
    directory = text("app_directory")
    if not text("provision_user") or not directory:
        return []
    inside = any(directory == place or directory.startswith(f"{place}/") for place in _SYSTEM)
    if re.fullmatch(r"(/[A-Za-z0-9_][A-Za-z0-9._-]*){2,}", directory) and not inside:
        return []
    return [
        f"app_directory is {_shown(directory)}, which cannot be given to the app's user. Allowed is a folder of its own, at least two levels deep, "
        "outside those of the system. Example: app_directory=/srv/wallet"
    ]


def _must(name: str, what: str, value: str, example: str) -> str:
    return f"{name} must {what}, not {_shown(value)}. Example: {name}={example}"


def _shown(value: str) -> str:
    return repr(value[:60]) if value else "empty"
