# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""nginx as a program: test a configuration, reload it, count what still drains, and ask on new connections what it serves."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Optional

from ansible_collections.sluice.deploy.plugins.module_utils.adapters.files import read_text
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.process import Result, run
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.sockets import held_by
from ansible_collections.sluice.deploy.plugins.module_utils.adapters.web import ask as knock
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.health import Probe
from ansible_collections.sluice.deploy.plugins.module_utils.core.render import routes
from ansible_collections.sluice.deploy.plugins.module_utils.core.site import Site

QUIET = 0.150  # nginx keeps old workers for 100 ms after it started new ones; one new answer proves nothing
_ANY = range(-64, 256)
_BIND_FAILED = 97
_TEST_BESIDE = f'mount --bind "$1" "$2" || exit {_BIND_FAILED}; shift 2; exec "$@"'


@dataclass(frozen=True)
class Tested:
    """What a passed test tells.

    :param files: every file nginx reads.
    :param pid: process id of its master, None when it does not run.
    :param error_log: file it writes its errors to, empty when that is no file.
    """

    files: frozenset[str]
    pid: Optional[int]
    error_log: str = ""


@dataclass(frozen=True)
class Draining:
    """Workers that only wait for the end of what they serve, and the connections that keep them."""

    workers: int = 0
    connections: int = 0


class Nginx:
    """One nginx.

    :param command: how it is called, with the arguments that name its prefix and configuration.
    :param timeout: seconds it has for a test, and for a reload until only the new files are met.
    :param budget: so many draining workers at most before another reload; each holds its memory until its last connection ends.
    """

    def __init__(self, command: Sequence[str], timeout: float = 10.0, budget: int = 8) -> None:
        self._command = list(command)
        self._budget = budget
        self.timeout = timeout

    def version(self) -> tuple[int, int, int]:
        """Return its version.

        :raises SluiceError: it cannot be called, or does not say one.
        """
        match = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", run([*self._command[:1], "-v"], timeout=self.timeout).stderr)
        if not match:
            raise SluiceError(f"{self._command[0]} does not say that it is an nginx.", "Set edge_nginx_command to how nginx is called on the edge.")
        return int(match.group(1)), int(match.group(2)), int(match.group(3))

    def test(self) -> Tested:
        """Have nginx test the configuration as it lies on disk.

        :raises SluiceError: it does not pass; the message is nginx's own.
        """
        return self._judge(run([*self._command, "-T"], timeout=self.timeout, ok=_ANY))

    def test_beside(self, candidate: str, place: str) -> Optional[Tested]:
        """Have nginx test its real configuration with one folder in place of another, which only that test sees.

        Needs root and the right to mount; None when this cannot be had, and then nothing was tested.
        """
        if os.geteuid() != 0 or not shutil.which("unshare"):
            return None
        words = ["unshare", "--mount", "sh", "-c", _TEST_BESIDE, "sh", candidate, place, *self._command, "-T"]
        result = run(words, timeout=self.timeout, ok=_ANY)
        if result.rc == _BIND_FAILED or result.stderr.startswith("unshare:"):
            return None
        return self._judge(result)

    def reload(self, tested: Tested) -> Callable[[], str]:
        """Tell nginx to read its configuration again; that it did has to be proven by asking.

        :return: asked later, what nginx complained of since then.
        :raises SluiceError: nginx refuses the configuration, does not run, or too many of its workers still drain.
        """
        self._wait_for_budget(tested)
        mark = os.path.getsize(tested.error_log) if tested.error_log else 0
        result = run([*self._command, "-s", "reload"], timeout=self.timeout, ok=_ANY)
        if result.rc != 0:
            raise SluiceError(
                f"nginx could not be reloaded: {_heard(result.stderr)}.", "Put that right and run again.", stderr=result.stderr[-4000:], rc=result.rc
            )
        return lambda: _complaints(tested.error_log, mark)

    def draining(self, pid: Optional[int]) -> Draining:
        """Return what of an earlier configuration is still there."""
        workers = [worker for worker in _children(pid) if b"is shutting down" in _command_line(worker)] if pid else []
        return Draining(len(workers), sum(held_by(worker) for worker in workers))

    def _wait_for_budget(self, tested: Tested) -> None:
        deadline = time.monotonic() + self.timeout
        while True:
            draining = self.draining(tested.pid)
            if draining.workers < self._budget:
                return
            if time.monotonic() >= deadline:
                raise SluiceError(
                    f"{draining.workers} workers of nginx still drain {draining.connections} connections of earlier reloads; the budget is {self._budget}.",
                    "Wait, set worker_shutdown_timeout (not below the longest request), or raise edge_reload_budget.",
                    workers=draining.workers,
                    connections=draining.connections,
                )
            time.sleep(0.1)

    def _judge(self, result: Result) -> Tested:
        if result.rc != 0:
            # The dump on stdout may hold the operator's secrets, so only the words are passed on.
            said = _heard(result.stderr)
            raise SluiceError(f"nginx refuses the configuration: {said}.", "Put that right and run again.", stderr=result.stderr[-4000:], rc=result.rc)
        files = re.findall(r"^# configuration file (.+):$", result.stdout, re.MULTILINE)
        built = run([*self._command[:1], "-V"], timeout=self.timeout).stderr
        default = dict(re.findall(r"--(prefix|pid-path|error-log-path)=(\S+)", built))
        prefix = self._command[self._command.index("-p") + 1] if "-p" in self._command[:-1] else default.get("prefix", "/usr/local/nginx")

        def named(directive: str, otherwise: str) -> str:
            found = re.search(rf"^\s*{directive}\s+[\"']?([^\s;\"']+)", result.stdout, re.MULTILINE)
            return os.path.join(prefix, found.group(1) if found else otherwise)

        error_log = named("error_log", default.get("error-log-path", "logs/error.log"))
        return Tested(
            frozenset(os.path.normpath(name) for name in files),
            _running(named("pid", default.get("pid-path", "logs/nginx.pid"))),
            error_log if os.path.isfile(error_log) else "",
        )


def _heard(stderr: str) -> str:
    """Return nginx's own words without the lines that say nothing: warnings, notices, and that the test failed."""
    lines = [line.strip() for line in stderr.splitlines()]
    kept = [line for line in lines if line and "[warn]" not in line and "[notice]" not in line and not line.endswith("test failed")]
    return " / ".join(kept) or " / ".join(filter(None, lines)) or "it said nothing"


def _complaints(error_log: str, mark: int) -> str:
    try:
        with open(error_log, "rb") as stream:
            stream.seek(mark)
            lines = stream.read(65536).decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    loud = [line.split("] ", 1)[-1] for line in lines if "[emerg]" in line]
    return " / ".join(dict.fromkeys(loud))


def _running(pid_path: str) -> Optional[int]:
    """Return the running master's process id."""
    text = read_text(pid_path) or ""
    if not text.strip().isdecimal():
        return None
    try:
        os.kill(int(text), 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # it runs, as somebody else
    return int(text)


def _children(pid: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            # The name of a program may hold spaces and brackets; the parent is the second word behind the last bracket.
            words = (_read_proc(int(name), "stat").rpartition(b")")[2] or b"").split()
            if len(words) > 1 and words[1] == str(pid).encode():
                found.append(int(name))
    return found


def _command_line(pid: int) -> bytes:
    return _read_proc(pid, "cmdline")


def _read_proc(pid: int, name: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{name}", "rb") as stream:
            return stream.read()
    except OSError:
        return b""  # it has ended meanwhile


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
    return int(answer) if answer and answer.isdecimal() else None


def wait_only_new(site: Site, wanted: int, timeout: float, complaints: Callable[[], str] = lambda: "") -> None:
    """Wait until every new connection has met the wanted generation for ``QUIET`` seconds.

    :param complaints: what nginx wrote into its error log since the reload; asked when the time is over.
    :raises SluiceError: that was not so within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    since: Optional[float] = None
    while True:
        seen = generation(site)
        now = time.monotonic()
        since = (since or now) if seen == wanted else None
        if since is not None and now - since >= QUIET:
            return
        if now >= deadline:
            answer = "did not answer" if seen is None else f"still answered with generation {seen}"
            heard = complaints()
            raise SluiceError(
                f"nginx took the reload, but {answer} on {site.control} after {timeout:g} s instead of generation {wanted}"
                + (f"; its error log says: {heard}." if heard else "."),
                "Often it is a port in use, or a limit_req_zone whose key was changed under its old name.",
                served=seen,
                wanted=wanted,
            )
        time.sleep(0.005)


def wrong_routes(site: Site) -> tuple[str, ...]:
    """Return a sentence for each value of the route maps that nginx does not answer as rendered."""
    wrong: list[str] = []
    for (number, slot, live), right in routes(site).items():
        seen = ask(site, f"/upstream/{number}?slot={slot}&live={live}")
        if seen != right:
            wrong.append(f"a request for {slot} of {site.services[number].name} while {live} is live goes to {seen or 'nowhere'} instead of {right}")
    return tuple(wrong)


def closed(site: Site) -> bool | None:
    """Return whether nginx sees the site closed for maintenance; None when it does not say."""
    return {"on": True, "off": False}.get(ask(site, "/maintenance") or "")


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
