# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nginx and the folder generated for an app: test, reload, ask on new connections, install files, set the traffic link.

<folder>/config   -> .config-<generation>/   http.conf and server.conf, exchanged together by one rename
<folder>/traffic  -> .traffic/<live>-<idle>-<percent>/   empty files, prepared completely before the rename
<folder>/.pending  -> .config-<generation>   the configuration to go back to while a change is under way; renamed over
                      ``config`` it takes the change back, even on a full disk
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import link_atomic, link_target, make_folder, read_text, sync_directory, write_atomic
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.process import Result, run
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.web import ask as knock
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Probe
from ansible_collections.sluice.deploy.plugins.module_utils.core.traffic import (
    SLOTS,
    Reading,
    Rendering,
    Site,
    State,
    file_names,
    include_lines,
    link_name,
    route_of,
)

QUIET = 0.150  # nginx keeps old workers for 100 ms after it started new ones; one new answer proves nothing
_ANY = range(-64, 256)
_BIND_FAILED = 97
_NOTHING = "nothing"  # where .pending points when there was no configuration before
_TEST_BESIDE = f'mount --bind "$1" "$2" || exit {_BIND_FAILED}; shift 2; exec "$@"'
_TEMPORARY = re.compile(r"\.(config|traffic|fence)\.\d+\.tmp")


# The program


@dataclass(frozen=True)
class Tested:
    """What a passed test tells: every file nginx reads, and the process id of its master (None when it does not run)."""

    files: frozenset[str]
    pid: Optional[int]


def words(stderr: str) -> str:
    """Return nginx's own words without the lines that say nothing: warnings, notices, and that the test failed."""
    lines = [line.strip() for line in stderr.splitlines()]
    kept = [line for line in lines if line and "[warn]" not in line and "[notice]" not in line and not line.endswith("test failed")]
    return " / ".join(kept) or " / ".join(filter(None, lines)) or "it said nothing"


def test(command: Sequence[str], timeout: float) -> Tested:
    """Have nginx test the configuration as it lies on disk.

    :raises SluiceError: it does not pass; the message is nginx's own.
    """
    return _judge(command, run([*command, "-T"], timeout=timeout, ok=_ANY))


def test_beside(command: Sequence[str], timeout: float, candidate: str, place: str) -> Optional[Tested]:
    """Have nginx test its real configuration with one folder in place of another, which only that test sees.

    Needs root and the right to mount; None when this cannot be had, and then nothing was tested.
    """
    if os.geteuid() != 0 or not shutil.which("unshare"):
        return None
    result = run(["unshare", "--mount", "sh", "-c", _TEST_BESIDE, "sh", candidate, place, *command, "-T"], timeout=timeout, ok=_ANY)
    if result.rc == _BIND_FAILED or result.stderr.startswith("unshare:"):
        return None
    return _judge(command, result)


def _judge(command: Sequence[str], result: Result) -> Tested:
    if result.rc != 0:
        # The dump on stdout may hold the operator's secrets, so only the words are passed on.
        said = words(result.stderr)
        raise SluiceError(f"nginx refuses the configuration: {said}.", "Put that right and run again.", stderr=result.stderr[-4000:], rc=result.rc)
    files = re.findall(r"^# configuration file (.+):$", result.stdout, re.MULTILINE)
    pid_paths = re.findall(r"^\s*pid\s+[\"']?([^\s;\"']+)", result.stdout, re.MULTILINE)
    return Tested(frozenset(os.path.normpath(name) for name in files), _master(command, pid_paths[0] if pid_paths else None))


def _master(command: Sequence[str], pid_path: Optional[str]) -> Optional[int]:
    """Return the running master's process id, from the pid file named in the configuration or built into nginx."""
    built = run([*command[:1], "-V"], timeout=10).stderr
    default = dict(re.findall(r"--(prefix|pid-path)=(\S+)", built))
    prefix = command[command.index("-p") + 1] if "-p" in command[:-1] else default.get("prefix", "/usr/local/nginx")
    text = read_text(os.path.join(prefix, pid_path or default.get("pid-path", "logs/nginx.pid"))) or ""
    if not text.strip().isdigit():
        return None
    try:
        os.kill(int(text), 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # it runs, as somebody else
    return int(text)


def reload(command: Sequence[str], timeout: float) -> None:
    """Tell nginx to read its configuration again; that it did has to be proven by asking.

    :raises SluiceError: nginx refuses the configuration, or does not run.
    """
    result = run([*command, "-s", "reload"], timeout=timeout, ok=_ANY)
    if result.rc != 0:
        raise SluiceError(f"nginx could not be reloaded: {words(result.stderr)}.", "Put that right and run again.", stderr=result.stderr[-4000:], rc=result.rc)


# The control listener


def ask(site: Site, path: str, timeout: float = 2.0) -> Optional[str]:
    """Return what the app's control listener answers on a new connection, None when it does not answer."""
    host, _dummy, port = site.control.rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=timeout)
    try:
        connection.request("GET", path, headers={"Host": f"{site.app}.sluice", "Connection": "close"})
        answer = connection.getresponse()
        body = answer.read(4096).decode("utf-8", "replace").strip()
        return body if answer.status == 200 and answer.getheader("Sluice-App") == site.app else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def generation(site: Site) -> Optional[int]:
    """Return the generation nginx answers with, None when it does not answer."""
    answer = ask(site, "/generation")
    return int(answer) if answer and answer.isdigit() else None


def wait_only_new(site: Site, wanted: int, timeout: float, quiet: float = QUIET) -> None:
    """Wait until every new connection has met the wanted generation for ``quiet`` seconds.

    :raises SluiceError: that was not so within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    since: Optional[float] = None
    while True:
        seen = generation(site)
        now = time.monotonic()
        since = (since or now) if seen == wanted else None
        if since is not None and now - since >= quiet:
            return
        if now >= deadline:
            answer = "did not answer" if seen is None else f"still answered with generation {seen}"
            raise SluiceError(
                f"nginx took the reload without a complaint, but {answer} on {site.control} after {timeout:g} s instead of generation {wanted}.",
                "nginx's error log says why: often a port in use, or a limit_req_zone whose key was changed under its old name.",
                served=seen,
                wanted=wanted,
            )
        time.sleep(0.005)


def wrong_routes(site: Site) -> tuple[str, ...]:
    """Return a sentence for each value of the route map that nginx does not answer as rendered."""
    wrong: list[str] = []
    for slot in SLOTS:
        for live in SLOTS:
            seen, right = ask(site, f"/upstream?slot={slot}&live={live}"), route_of(site, slot, live)
            if seen != right:
                wrong.append(f"a request for {slot} while {live} is live goes to {seen or 'nowhere'} instead of {right}")
    return tuple(wrong)


def wrong_buckets(site: Site, live: str, buckets: dict[int, str]) -> tuple[str, ...]:
    """Return a sentence for each bucket that nginx sends elsewhere than said."""
    wrong: list[str] = []
    for bucket, slot in buckets.items():
        seen = ask(site, f"/route?bucket={bucket}")
        if seen != f"{slot} {live}":
            wrong.append(f"bucket {bucket} is answered with {seen or 'nothing'} instead of {slot} {live}")
    return tuple(wrong)


def silence(address: str, path: str, timeout: float) -> str:
    """Return why an app's host does not answer, empty when it does: it takes connections and, with a path, says 2xx."""
    if path:
        answer = knock(f"http://{address}", Probe(name="", path=path), timeout)
        return answer.error or ("" if 200 <= answer.status < 300 else f"GET {path} says {answer.status}")
    host, _dummy, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""


# The app's folder


def read(site: Site) -> Reading:
    """Read what is on the edge for an app; changes nothing.

    :param site: names the folder; nginx is asked where the file found there says it listens.
    """
    folder = site.folder
    pending = link_target(f"{folder}/.pending")
    config = link_target(f"{folder}/config") if pending in (None, _NOTHING) else pending
    rendering = None
    if config:
        http_text, server_text = read_text(f"{folder}/{config}/http.conf"), read_text(f"{folder}/{config}/server.conf")
        rendering = Rendering(http_text, server_text) if http_text is not None and server_text is not None else None
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
    )


def clean(folder: str) -> None:
    """Take back what a run that was killed left half-way: a configuration that was not proven, and temporary names."""
    if link_target(f"{folder}/.pending") is not None:
        _take_back(folder)
    for place, names in ((folder, _TEMPORARY), (f"{folder}/.traffic", re.compile(r"\..*\.tmp"))):
        for name in os.listdir(place) if os.path.isdir(place) else ():
            if names.fullmatch(name):
                _remove(f"{place}/{name}")


def install(site: Site, rendering: Rendering, number: int, before: Reading, command: Sequence[str], timeout: float, required: bool) -> str:
    """Put a rendering in place: test it, exchange it, reload nginx, prove it; on any failure the former one is back, and proven.

    :param required: nginx must run and include the files; otherwise they are put in place for its next start.
    :return: what is left to do, as a sentence; empty when the rendering is in force.
    """
    folder, name = site.folder, f".config-{number}"
    old = link_target(f"{folder}/config")
    tested: Optional[Tested] = None
    try:
        make_folder(f"{folder}/{name}")
        write_atomic(f"{folder}/{name}/http.conf", rendering.http)
        write_atomic(f"{folder}/{name}/server.conf", rendering.server)
        if old:
            tested = test_beside(command, timeout, f"{folder}/{name}", f"{folder}/{old}")
        os.symlink(old or _NOTHING, f"{folder}/.pending")
        link_atomic(name, f"{folder}/config")
        left = enforce(site, number, before, command, timeout, required, tested)
    except (SluiceError, OSError) as error:
        raise _restored(site, name, before, command, timeout, _plain(error)) from error
    os.unlink(f"{folder}/.pending")
    for _dummy, stale in _configs(folder):
        if stale not in (name, old):
            shutil.rmtree(f"{folder}/{stale}", ignore_errors=True)
    return left


def enforce(site: Site, number: int, before: Reading, command: Sequence[str], timeout: float, required: bool, tested: Optional[Tested] = None) -> str:
    """Have nginx read the files that lie there, and prove that it did.

    :param tested: what a test of just these files told; None to test them first.
    :return: what is left to do when nginx need not run or include the files yet; empty when they are in force.
    """
    tested = tested or test(command, timeout)
    left = _left_to_do(site, number, tested, required or before.served is not None)
    if left:
        return left
    reload(command, timeout)
    wait_only_new(site, number, timeout)
    wrong = wrong_routes(site)
    if wrong:
        raise SluiceError(f"nginx serves generation {number}, but {'; '.join(wrong)}.")
    return ""


def set_traffic(site: Site, state: State) -> Optional[str]:
    """Point the link at the state's folder, prepared completely before; return the former target."""
    folder, target = site.folder, link_name(state)
    make_folder(f"{folder}/.traffic")
    _prepare(f"{folder}/{target}", file_names(state))
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


def keep(site: Site) -> None:
    """Make what was renamed in the app's folder survive a power cut."""
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


def _restored(site: Site, name: str, before: Reading, command: Sequence[str], timeout: float, error: SluiceError) -> SluiceError:
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
                _reload_quietly(command, timeout)
            wait_only_new(header.site, before.served, timeout)
        except SluiceError as unproven:
            proof = f"The old configuration is in place, but it is not proven that it serves: {unproven.message}"
    return SluiceError(f"{error.message} {proof}", error.remedy, **error.facts)


def _reload_quietly(command: Sequence[str], timeout: float) -> None:
    # Where the operator's own files are broken nginx refuses this reload too; it then never left the old configuration.
    with contextlib.suppress(SluiceError):
        reload(command, timeout)


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
    """Make a folder hold exactly these empty files; a new one appears with all of them at once."""
    there = frozenset(os.listdir(path)) if os.path.isdir(path) else None
    if there == names:
        return
    place = path if there is not None else os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.getpid()}.tmp")
    try:
        make_folder(place)
        for name in names - (there or frozenset()):
            os.close(os.open(f"{place}/{name}", os.O_WRONLY | os.O_CREAT, 0o644))
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
