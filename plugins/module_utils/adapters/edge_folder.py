# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder generated for an app on an edge: read it, install files, set the traffic link, close and open the site.

<folder>/config       -> .config-<generation>/   the generated files, exchanged together by one rename
<folder>/traffic      -> .traffic/<live>-<idle>-<percent>-<salt>/   empty files, prepared completely before the rename
<folder>/maintenance     there while the site is closed
<folder>/.pending     -> .config-<generation>   the configuration to go back to while a change is under way; renamed over
                         ``config`` it takes the change back, even on a full disk
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from typing import Optional

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import link_atomic, link_target, make_folder, read_text, sync_directory, write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.nginx import Nginx, Tested, generation, wait_only_new, wrong_routes
from ansible_collections.sluice.deploy.plugins.module_utils.core.edge_plan import Reading
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.render import Rendering, include_lines
from ansible_collections.sluice.deploy.plugins.module_utils.core.site import Site
from ansible_collections.sluice.deploy.plugins.module_utils.core.traffic import State, file_names, link_name

_NOTHING = "nothing"  # where .pending points when there was no configuration before
_TEMPORARY = re.compile(r"\.(config|traffic|fence|maintenance)\.\d+\.tmp")


def read(site: Site) -> Reading:
    """Read what is on the edge for an app; changes nothing.

    :param site: names the folder; nginx is asked where the file found there says it listens.
    """
    folder = site.folder
    pending = link_target(f"{folder}/.pending")
    config = link_target(f"{folder}/config") if pending in (None, _NOTHING) else pending
    rendering = None
    if config:
        http_text, server_text, testers_text = (read_text(f"{folder}/{config}/{name}.conf") for name in ("http", "server", "testers"))
        rendering = Rendering(http_text, server_text, testers_text or "") if http_text is not None and server_text is not None else None
    reading = Reading(rendering=rendering)
    link = link_target(f"{folder}/traffic")
    there = link is not None and os.path.isdir(f"{folder}/{link}")
    header, state = reading.header, Reading(rendering=rendering, link=link if there else None).state
    return Reading(
        rendering=rendering,
        link=link if there else None,
        whole=state is None or (there and frozenset(os.listdir(f"{folder}/{link}")) == file_names(state)),
        highest=max((number for number, _dummy in _configs(folder)), default=0),
        served=generation(header.site if header else site),
        cut=pending is not None,
        maintenance=os.path.lexists(f"{folder}/maintenance"),
    )


def clean(folder: str) -> None:
    """Take back what runs that were killed left half-way: a configuration that was not proven, its folder, and temporary names."""
    if link_target(f"{folder}/.pending") is not None:
        _take_back(folder)
    current = link_target(f"{folder}/config")
    numbers = dict(_configs(folder))
    if current in numbers.values():
        below = [name for number, name in numbers.items() if f".config-{number}" != current and number < int(str(current)[len(".config-") :])]
        for name in numbers.values():
            if name not in (current, *below[-1:]):
                _remove(f"{folder}/{name}")
    for place, names in ((folder, _TEMPORARY), (f"{folder}/.traffic", re.compile(r"\..*\.tmp"))):
        for name in os.listdir(place) if os.path.isdir(place) else ():
            if names.fullmatch(name):
                _remove(f"{place}/{name}")


def try_out(site: Site, rendering: Rendering, number: int, nginx: Nginx) -> Optional[Tested]:
    """Have nginx test a rendering inside its real configuration, and take it away again; None where only the real place could tell."""
    folder, name = site.folder, f".config-{number}"
    old = link_target(f"{folder}/config")
    try:
        _write(f"{folder}/{name}", rendering)
        return nginx.test_beside(f"{folder}/{name}", f"{folder}/{old}") if old else None
    finally:
        shutil.rmtree(f"{folder}/{name}", ignore_errors=True)


def install(site: Site, rendering: Rendering, number: int, before: Reading, nginx: Nginx, required: bool, include_file: str = "") -> str:
    """Put a rendering in place: test it, exchange it, reload nginx, prove it; on any failure the former one is back, and proven.

    :param required: nginx must run and include the files; otherwise they are put in place for its next start.
    :param include_file: a file of the operator's configuration that is to include ``http.conf``; made where it is missing.
    :return: what is left to do, as a sentence; empty when the rendering is in force.
    """
    folder, name = site.folder, f".config-{number}"
    old = link_target(f"{folder}/config")
    tested: Optional[Tested] = None
    hooked = False
    try:
        _write(f"{folder}/{name}", rendering)
        if old:
            tested = nginx.test_beside(f"{folder}/{name}", f"{folder}/{old}")
        os.symlink(old or _NOTHING, f"{folder}/.pending")
        link_atomic(name, f"{folder}/config")
        hooked = bool(include_file) and not os.path.lexists(include_file)
        if hooked:
            write_atomic(include_file, f"# Written by Sluice: the site of {site.app}.\n{include_lines(site)[0]}\n")
            tested = None
        left = enforce(site, number, before, nginx, required, tested)
    except (SluiceError, OSError) as error:
        if hooked:
            with contextlib.suppress(OSError):
                os.unlink(include_file)
        raise _restored(site, name, before, nginx, _plain(error)) from error
    os.unlink(f"{folder}/.pending")
    for _dummy, stale in _configs(folder):
        if stale not in (name, old):
            shutil.rmtree(f"{folder}/{stale}", ignore_errors=True)
    return left


def _write(place: str, rendering: Rendering) -> None:
    make_folder(place)
    write_atomic(f"{place}/http.conf", rendering.http)
    write_atomic(f"{place}/server.conf", rendering.server)
    if rendering.testers:
        write_atomic(f"{place}/testers.conf", rendering.testers, 0o600)


def enforce(site: Site, number: int, before: Reading, nginx: Nginx, required: bool, tested: Optional[Tested] = None) -> str:
    """Have nginx read the files that lie there, and prove that it did.

    :param tested: what a test of just these files told; None to test them first.
    :return: what is left to do when nginx need not run or include the files yet; empty when they are in force.
    """
    tested = tested or nginx.test()
    left = _left_to_do(site, number, tested, required or before.served is not None)
    if left:
        return left
    complaints = nginx.reload(tested)
    wait_only_new(site, number, nginx.timeout, complaints)
    wrong = wrong_routes(site)
    if wrong:
        raise SluiceError(f"nginx serves generation {number}, but {'; '.join(wrong)}.")
    heard = complaints()
    if heard:
        raise SluiceError(f"nginx serves generation {number}, but its error log says: {heard}.", "Put that right and run again.")
    return ""


def set_traffic(site: Site, state: State) -> Optional[str]:
    """Point the link at the state's folder, prepared completely before; return the former target."""
    folder, target = site.folder, link_name(state)
    prepare_traffic(site, state)
    former = link_target(f"{folder}/traffic")
    try:
        link_atomic(target, f"{folder}/traffic")
    except OSError as error:
        raise SluiceError(f"The link {folder}/traffic could not be set: {error.strerror}. The share is as it was.", "Check free space and owner.") from error
    return former


def put_traffic_back(site: Site, former: Optional[str]) -> None:
    """Undo ``set_traffic``."""
    if former is None:
        os.unlink(f"{site.folder}/traffic")
    else:
        link_atomic(former, f"{site.folder}/traffic")


def keep(site: Site, former: Optional[str]) -> None:
    """Make what was renamed in the app's folder survive a power cut, and forget the traffic folders before the former one."""
    sync_directory(site.folder)
    kept = {link_target(f"{site.folder}/traffic"), former}
    for name in os.listdir(f"{site.folder}/.traffic"):
        if f".traffic/{name}" not in kept:
            _remove(f"{site.folder}/.traffic/{name}")


def prepare_traffic(site: Site, state: State) -> None:
    """Make the folder of a state, so that setting it is one rename."""
    make_folder(f"{site.folder}/.traffic")
    _prepare(f"{site.folder}/{link_name(state)}", file_names(state))


def set_maintenance(site: Site, on: bool) -> None:
    """Close or open the site: nginx looks for the flag at every request."""
    path = f"{site.folder}/maintenance"
    if on:
        write_atomic(path, "closed\n")
    elif os.path.lexists(path):
        os.unlink(path)
        sync_directory(site.folder)


def _left_to_do(site: Site, number: int, tested: Tested, required: bool) -> str:
    http_line, server_line = include_lines(site)
    missing = [line for line in (http_line, server_line) if not _included(line, tested)]
    if missing:
        said = f"nginx does not include the files of {site.app}: `{http_line}` belongs into `http {{}}`, `{server_line}` into the site's `server {{}}`"
        remedy = "Add what is missing and run again; nginx_running: optional renders the files before nginx knows of them."
        if required:
            raise SluiceError(f"{said}; missing: {' '.join(missing)}", remedy, missing=missing)
        return f"{said}; the files are ready for that."
    if tested.pid is None:
        if required:
            raise SluiceError("nginx does not run, so nothing can be proven.", "Start it, or render for its next start with nginx_running: optional.")
        return f"nginx does not run; it will serve generation {number} from its next start."
    return ""


def _included(line: str, tested: Tested) -> bool:
    path = line[len("include ") : -1]
    if path in tested.files:
        return True
    # The operator may name the same folder another way, through a link.
    ending, folder = "/".join(["", *path.split("/")[-2:]]), _app_folder(path)
    return any(name.endswith(ending) and _app_folder(name) == folder for name in tested.files)


def _app_folder(path: str) -> str:
    return os.path.realpath(os.path.dirname(os.path.dirname(path)))


def _restored(site: Site, name: str, before: Reading, nginx: Nginx, error: SluiceError) -> SluiceError:
    """Go back to the former configuration and return the error to raise, which says whether that is proven."""
    folder, header = site.folder, before.header
    exchanged = link_target(f"{folder}/config") == name
    if link_target(f"{folder}/.pending") is not None:
        _take_back(folder)
    if exchanged and link_target(f"{folder}/config") == name:
        os.unlink(f"{folder}/config")
    shutil.rmtree(f"{folder}/{name}", ignore_errors=True)
    if header is None:
        proof = "Nothing of it is left in place, and nginx goes on with what it had."
    elif before.served is None:
        proof = "The old configuration is in place; nginx did not answer before either."
    else:
        proof = "The old configuration is in place and serves."
        try:
            if exchanged:
                # Where the operator's own files are broken nginx refuses this reload too; it then never left the old configuration.
                with contextlib.suppress(SluiceError):
                    nginx.reload(Tested(frozenset(), None))
            wait_only_new(header.site, before.served, nginx.timeout)
        except SluiceError as unproven:
            proof = f"The old configuration is in place, but it is not proven that it serves: {unproven.message}"
    return SluiceError(f"{error.message} {proof}", error.remedy, **error.facts)


def _take_back(folder: str) -> None:
    """Let ``config`` point where ``.pending`` says; a first configuration stays, as there is nothing to go back to."""
    old = link_target(f"{folder}/.pending")
    if old and os.path.isdir(f"{folder}/{old}"):
        os.replace(f"{folder}/.pending", f"{folder}/config")
    else:
        os.unlink(f"{folder}/.pending")


def _plain(error: Exception) -> SluiceError:
    if isinstance(error, SluiceError):
        return error
    said = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
    return SluiceError(f"The configuration could not be exchanged: {said}.", "Check owner, mode and free space.")


def _prepare(path: str, names: frozenset[str]) -> None:
    """Make a folder hold exactly these names, all of one empty file; a new folder appears with all of them at once.

    A hundred files of their own take ten times as long on ext4, and longer the more files were deleted lately.
    """
    there = frozenset(os.listdir(path)) if os.path.isdir(path) else None
    if there == names:
        return
    place = path if there is not None else os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.getpid()}.tmp")
    try:
        make_folder(place)
        first, *others = sorted(names)
        if not os.path.exists(f"{place}/{first}"):
            os.close(os.open(f"{place}/{first}", os.O_WRONLY | os.O_CREAT, 0o644))
        for name in frozenset(others) - (there or frozenset()):
            os.link(f"{place}/{first}", f"{place}/{name}")
        for name in (there or frozenset()) - names:
            _remove(f"{place}/{name}")
        if place != path:
            os.rename(place, path)
    except OSError as error:
        said = f"The traffic folder {path} could not be prepared: {error.strerror}. No share was changed."
        raise SluiceError(said, "Check free space and owner.", path=path) from error


def _configs(folder: str) -> list[tuple[int, str]]:
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted((int(name[len(".config-") :]), name) for name in names if re.fullmatch(r"\.config-\d+", name))


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        os.unlink(path)
