# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The release folders of a host: built or unpacked, kept, put aside, removed."""

from __future__ import annotations

import os

from ansible_collections.sluice.deploy.plugins.module_utils.adapters import archive, bundle, git, release_dir
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import sha256_of
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.package import OWN
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.slot_host import Host
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.slot_processes import stopped
from ansible_collections.sluice.deploy.plugins.module_utils.core import bundle as bundle_rules
from ansible_collections.sluice.deploy.plugins.module_utils.core import slots
from ansible_collections.sluice.deploy.plugins.module_utils.core.env_schema import rules_from
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError


def prepared(host: Host, check: bool) -> bool:
    params = host.params
    folder = slots.release_folder(host.directory, params["version"], params["commit"])
    if release_dir.is_built(folder):
        host.actions.append(f"{folder} is built already")
        look_through(host, folder, check=False)
        done = host.runtime.prepare(host.plan(""), check)
        host.actions += done
        return bool(done)
    package = params["package"]
    if package and not package["path"] and not check:
        host.wanted = True
        return False
    built = bool(package and package["built"])
    if not check:
        env = release_dir.build_environment(params["build_env"], params["path"], host.directory)
        commands = [] if built else params["build"]
        host.actions += release_dir.build(folder, params["version"], params["commit"], lambda partial: fetch(host, partial), commands, env)
    host.actions.append(f"{'unpacked' if built else 'built'} {params['version']} ({params['commit'][:12]}) in {folder}")
    look_through(host, folder, check)
    host.actions += host.runtime.prepare(host.plan(""), check)
    return True


def fetch(host: Host, folder: str) -> None:
    """Put the files of the release into a folder, from git or from what was handed over."""
    params, package = host.params, host.params["package"]
    if not package:
        git.unpack(params["source"], params["commit"], os.path.join(host.directory, "repository.git"), folder)
        return
    if sha256_of(package["path"]) != package["sha256"]:
        raise SluiceError(f"The files of {params['version']} did not arrive whole.", "Run it again.")
    archive.unpack(package["path"], folder, packed_here=package["built"], skip=OWN)


def look_through(host: Host, folder: str, check: bool) -> None:
    """Judge what browsers load of a built release."""
    folders = host.params["bundle"]
    if not folders or check:
        return
    values = host.environment()
    looked_for = bundle_rules.needles({rule.name: values.get(rule.name, "") for rule in rules_from(host.params["env"]) if rule.server_only})
    found = bundle.scan(folder, folders, looked_for, bundle_rules.patterns(host.params["env_keys"]))
    host.gates.append(bundle_rules.judge(found, folders, len(looked_for)))


def absent(host: Host, check: bool) -> bool:
    changed = stopped(host, check) if host.slot else False
    folder = slots.release_folder(host.directory, host.params["version"], host.params["commit"])
    if release_dir.is_built(folder) and folder not in {release_dir.record(host.directory, slot).get("folder") for slot in slots.SLOTS}:
        keep = host.params["keep_failed"]
        if not check:
            host.runtime.remove(folder)
            release_dir.quarantine(folder, keep)
        host.actions.append(f"put {folder} aside, beside at most {keep - 1} failed ones" if keep else f"removed {folder}")
        return True
    return changed


def saved(host: Host, check: bool) -> bool:
    held = {slot: release_dir.record(host.directory, slot).get("folder", "") for slot in slots.SLOTS}
    folders = release_dir.folders(host.directory)
    good = [folder for commit in host.params["good"] for folder in folders if folder.endswith(f"-{commit[:12]}")]
    old = slots.prunable(folders, good, list(held.values()), host.params["keep"])
    save = not host.runtime.kept(host.slot)
    if not check:
        for folder in old:
            host.runtime.remove(folder)
            release_dir.remove(folder)
        if save:
            host.runtime.keep(host.slot)
    host.actions += [f"removed {folder}" for folder in old] + ([f"{host.slot} comes back after a reboot"] if save else [])
    return bool(old or save)
