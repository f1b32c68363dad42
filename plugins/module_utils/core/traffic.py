# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which slot gets a request: shares, buckets, the two generated files, and what has to change to get from one state to another.

The key of a request falls into one of 100 buckets. A share of p % for the idle slot is the buckets 0 to p-1, always the
same ones, so nobody who was in falls out when the share grows. A folder holds one empty file for each bucket, whose
name says the slot (``7.green``), and one for the live slot (``live.blue``); the link ``traffic`` points at such a folder.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError

SLOTS = ("blue", "green")
SPLIT_KEYS = ("visitor", "request")
BUCKETS = 100
MARKER = "# sluice: "

_LINK = re.compile(r"\.traffic/(blue|green)-(blue|green)-(\d{3})")
# Variables of nginx are looked up in a hash of small cells: a longer name would not fit on every machine.
_APP = re.compile(r"[a-z][a-z0-9_-]{0,29}")
_PATH = re.compile(r"/[A-Za-z0-9._/@+-]*")
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?):(?P<port>[0-9]{1,5})")
_LOOPBACK = re.compile(r"(127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\]|localhost)")


def idle_of(slot: str) -> str:
    """Return the other slot."""
    return SLOTS[1 - SLOTS.index(slot)]


@dataclass(frozen=True)
class State:
    """Who serves: the live slot, and the share of the idle one in percent."""

    live: str
    percent: int = 0

    def __post_init__(self) -> None:
        if self.live not in SLOTS:
            raise refuse("live", self.live, "blue or green", "blue")
        if isinstance(self.percent, bool) or not isinstance(self.percent, int) or not 0 <= self.percent <= 100:
            raise refuse("percent", self.percent, "a whole number from 0 to 100", "25")

    @property
    def idle(self) -> str:
        """The slot that is not live."""
        return idle_of(self.live)

    def shares(self) -> dict[str, int]:
        """Return the share of each slot in percent."""
        shares = {self.live: 100 - self.percent, self.idle: self.percent}
        return {slot: shares[slot] for slot in SLOTS}

    def sentence(self) -> str:
        """Return the state in words."""
        return f"{self.live} is live; " + ", ".join(f"{slot} {share} %" for slot, share in self.shares().items())


@dataclass(frozen=True)
class Site:
    """What the generated files depend on, apart from the generation and the live slot."""

    app: str
    directory: str
    slots: Mapping[str, Sequence[str]]
    control: str = "127.0.0.1:8099"
    log: str = ""
    split_key: str = "visitor"
    cookie_secure: bool = True

    @property
    def folder(self) -> str:
        """The folder that holds everything generated for the app."""
        return f"{self.directory.rstrip('/')}/{self.app}"

    @property
    def log_path(self) -> str:
        """The access log of the app's requests."""
        return self.log or f"/var/log/nginx/sluice_{self.app}.log"

    @property
    def word(self) -> str:
        """The app's name as nginx allows it in the name of a variable."""
        return self.app.replace("-", "_")


@dataclass(frozen=True)
class Rendering:
    """The text of the two generated files."""

    http: str
    server: str


@dataclass(frozen=True)
class Header:
    """What the header comment of http.conf says about the rendering."""

    site: Site
    generation: int
    live: str
    sha256: str


# Shapes


def refuse(variable: str, wrong: Any, allowed: str, example: str) -> SluiceError:
    """Return the error for a value of the wrong shape."""
    return SluiceError(
        f"{variable} is {wrong!r}; allowed is {allowed}.", f"For example: {example}.", variable=variable, wrong=wrong, allowed=allowed, example=example
    )


def check_address(variable: str, value: Any) -> str:
    """Return a ``host:port`` as it came, or refuse it."""
    match = _ADDRESS.fullmatch(value) if isinstance(value, str) else None
    if not match or not 1 <= int(match.group("port")) <= 65535:
        raise refuse(variable, value, "host:port with a port from 1 to 65535", "127.0.0.1:4101")
    return str(value)


def check_app(app: str) -> str:
    """Return the app's name as it came, or refuse it."""
    if not _APP.fullmatch(app):
        raise refuse("app", app, "up to 30 small letters, digits, - and _, the first a letter", "wallet")
    return app


def check_path(variable: str, value: str) -> str:
    """Return an absolute path without characters that mean something to nginx, or refuse it."""
    if not _PATH.fullmatch(value) or ".." in value.split("/"):
        raise refuse(variable, value, "an absolute path of letters, digits and . _ / @ + -", "/etc/nginx/sluice")
    return value


def check_site(site: Site) -> Site:
    """Return the site as it came, or refuse the first value of it that has the wrong shape."""
    check_app(site.app)
    check_path("directory", site.directory)
    check_path("log", site.log_path)
    check_address("control", site.control)
    if not _LOOPBACK.fullmatch(site.control.rpartition(":")[0]):
        raise refuse("control", site.control, "an address of the loopback interface", "127.0.0.1:8099")
    if site.split_key not in SPLIT_KEYS:
        raise refuse("split_key", site.split_key, " or ".join(SPLIT_KEYS), "visitor")
    if not isinstance(site.slots, Mapping) or set(site.slots) != set(SLOTS):
        raise refuse("slots", site.slots, "the two slots blue and green, each with its hosts", "{blue: ['127.0.0.1:4101'], green: ['127.0.0.1:4102']}")
    seen: dict[str, str] = {}
    for slot in SLOTS:
        hosts = site.slots[slot]
        if isinstance(hosts, str) or not isinstance(hosts, Sequence) or not hosts:
            raise refuse(f"slots.{slot}", hosts, "a list of one or more host:port", "['127.0.0.1:4101']")
        for place, host in enumerate(hosts):
            name = f"slots.{slot}[{place}]"
            if check_address(name, host) in seen:
                raise refuse(name, host, f"an address of its own; {seen[host]} has the same one", "127.0.0.1:4102")
            seen[host] = name
    return site


# Buckets and links


def link_name(state: State) -> str:
    """Return the target of the link ``traffic`` in a state, as seen from the app's folder."""
    return f".traffic/{state.live}-{state.idle}-{state.percent:03d}"


def parse_link(target: Optional[str]) -> Optional[State]:
    """Return the state a link target stands for, or None when it is no such target."""
    match = _LINK.fullmatch(target or "")
    if not match or match.group(1) == match.group(2) or int(match.group(3)) > 100:
        return None
    return State(match.group(1), int(match.group(3)))


def bucket_slots(state: State) -> tuple[str, ...]:
    """Return the slot of each bucket, in order."""
    return tuple(state.idle if bucket < state.percent else state.live for bucket in range(BUCKETS))


def file_names(state: State) -> frozenset[str]:
    """Return the names of the empty files that make a state."""
    return frozenset({f"{bucket}.{slot}" for bucket, slot in enumerate(bucket_slots(state))} | {f"live.{state.live}"})


def telling_buckets(state: State) -> dict[int, str]:
    """Return the buckets on both sides of the cut and at both ends, with the slot each must be sent to."""
    slots = bucket_slots(state)
    return {bucket: slots[bucket] for bucket in sorted({0, state.percent - 1, state.percent, BUCKETS - 1}) if 0 <= bucket < BUCKETS}


# Rendering


def route_of(site: Site, slot: str, live: str) -> str:
    """Return the name of the upstream for a slot: the live one by itself, the other with the live one behind it."""
    return f"{site.word}_{slot}" if slot == live else f"{site.word}_{slot}_canary"


def include_lines(site: Site) -> tuple[str, str]:
    """Return the two lines an operator's configuration needs: one at http level, one in its ``server``."""
    return (f"include {site.folder}/config/http.conf;", f"include {site.folder}/config/server.conf;")


def render(site: Site, generation: int, live: str) -> Rendering:
    """Return the two generated files.

    :param live: the slot that serves everything while there is no traffic folder.
    """
    server = _server_text(site, live)
    title = f"# Generated by Sluice for {site.app}. A change by hand is found and refused.\n"
    body = _http_text(site, generation, live)
    meta = _meta(site, generation, live)
    stamped = json.dumps({**meta, "sha256": _digest(meta, title + body, server)}, separators=(",", ":"))
    return Rendering(f"{title}{MARKER}{stamped}\n{body}", server)


def parse_header(http: str) -> Optional[Header]:
    """Return what the header comment says, or None when there is none that can be read."""
    for line in http.splitlines()[:5]:
        if not line.startswith(MARKER):
            continue
        try:
            meta = json.loads(line[len(MARKER) :])
            site = check_site(
                Site(
                    meta["app"],
                    meta["directory"],
                    {slot: tuple(meta["slots"][slot]) for slot in SLOTS},
                    meta["control"],
                    meta["log"],
                    meta["split_key"],
                    meta["cookie_secure"],
                )
            )
            return Header(site, int(meta["generation"]), State(meta["live"]).live, str(meta["sha256"]))
        except (ValueError, KeyError, TypeError, SluiceError):
            return None
    return None


def hand_edit(rendering: Rendering) -> str:
    """Return the difference somebody made by hand, as a unified diff; empty when the files are as they were written."""
    header = parse_header(rendering.http)
    lines = rendering.http.splitlines(True)
    if header is None or not lines[1].startswith(MARKER):
        return "the header comment of http.conf cannot be read\n"
    meta = {key: value for key, value in json.loads(lines[1][len(MARKER) :]).items() if key != "sha256"}
    if header.sha256 == _digest(meta, "".join(lines[:1] + lines[2:]), rendering.server):
        return ""
    return _unified(render(header.site, header.generation, header.live), rendering) or "the header comment of http.conf was changed\n"


def _meta(site: Site, generation: int, live: str) -> dict[str, Any]:
    return {
        "app": site.app,
        "generation": generation,
        "live": live,
        "switch": "buckets",
        "slots": {slot: list(site.slots[slot]) for slot in SLOTS},
        "split_key": site.split_key,
        "cookie_secure": site.cookie_secure,
        "control": site.control,
        "log": site.log_path,
        "directory": site.directory,
    }


def _digest(meta: Mapping[str, Any], body: str, server: str) -> str:
    return hashlib.sha256("\0".join((json.dumps(meta, sort_keys=True), body, server)).encode()).hexdigest()


def _unified(old: Rendering, new: Rendering) -> str:
    lines: list[str] = []
    for name, before, after in (("http.conf", old.http, new.http), ("server.conf", old.server, new.server)):
        lines += difflib.unified_diff(before.splitlines(True), after.splitlines(True), f"{name} as rendered", f"{name} as found", n=1)
    return "".join(line if line.endswith("\n") else line + "\n" for line in lines)


def _switch_lines(site: Site, live: str, bucket: str) -> str:
    """Return the two looks at the traffic folder; the slot named here serves when there is no such folder."""
    word, other, folder = site.word, idle_of(live), f"{site.folder}/traffic"
    return (
        f"open_file_cache off;\n"
        f"set ${word}_slot {live};\n"
        f"if (-f {folder}/{bucket}.{other}) {{ set ${word}_slot {other}; }}\n"
        f"set ${word}_live {live};\n"
        f"if (-f {folder}/live.{other}) {{ set ${word}_live {other}; }}\n"
    )


def _upstreams(site: Site) -> str:
    text = ""
    for slot in SLOTS:
        for name, spare in ((route_of(site, slot, slot), ()), (route_of(site, slot, idle_of(slot)), site.slots[idle_of(slot)])):
            servers = "".join(f"    server {host} max_fails=0;\n" for host in site.slots[slot])
            servers += "".join(f"    server {host} max_fails=0 backup;\n" for host in spare)
            # Kept connections end before the five seconds after which Node closes them: a POST on a closing connection is lost.
            text += f"upstream {name} {{\n    zone {name} 64k;\n{servers}    keepalive 32;\n    keepalive_timeout 4s;\n}}\n"
    return text


def _key_lines(site: Site) -> str:
    """Return the maps that make the key of the split; it is never empty, as an empty key would send everybody to one bucket."""
    word = site.word
    if site.split_key == "request":
        key = f'map $remote_addr ${word}_visitor {{ default $remote_addr; }}\nsplit_clients "$request_id" ${word}_bucket {{\n'
    else:
        secure = "; Secure" if site.cookie_secure else ""
        cookie = f"sluice_{word}=$request_id; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax{secure}"
        key = (
            f'map $cookie_sluice_{word} ${word}_visitor {{ default $cookie_sluice_{word}; "" $request_id; }}\n'
            f'map $cookie_sluice_{word} ${word}_set_cookie {{ default ""; "" "{cookie}"; }}\n'
            f'split_clients "${word}_visitor" ${word}_bucket {{\n'
        )
    return key + "".join(f"    1% {bucket};\n" for bucket in range(BUCKETS - 1)) + f"    * {BUCKETS - 1};\n}}\n"


def _http_text(site: Site, generation: int, live: str) -> str:
    word = site.word
    routes = "".join(f"    {slot}:{now} {route_of(site, slot, now)};\n" for slot in SLOTS for now in SLOTS)
    log = (
        f'\'{{"t":$msec,"slot":"${word}_slot","m":"$request_method","u":"$uri","st":$status,"rt":$request_time,\'\n'
        f'    \'"ua":"$upstream_addr","us":"$upstream_status","ut":"$upstream_response_time","v":"${word}_visitor","id":"$request_id"}}\''
    )
    switch = _indented(_switch_lines(site, live, "$arg_bucket"))
    return f"""\
{_upstreams(site)}{_key_lines(site)}map "${word}_slot:${word}_live" ${word}_upstream {{
    default {route_of(site, live, live)};
{routes}}}
map $http_upgrade ${word}_connection {{ default upgrade; "" ""; }}
map $http_host ${word}_host {{ default $http_host; "" $host; }}
log_format sluice_{word} escape=json {log};
# Answers which rendering is in force and where a bucket goes; for this machine only.
server {{
    listen {site.control};
    server_name {site.app}.sluice;
    access_log off;
    default_type text/plain;
    add_header Sluice-App {site.app};
{switch}    location = /generation {{ return 200 "{generation}\\n"; }}
    location = /route {{ return 200 "${word}_slot ${word}_live\\n"; }}
    location = /upstream {{
        set ${word}_slot $arg_slot;
        set ${word}_live $arg_live;
        return 200 "${word}_upstream\\n";
    }}
    location / {{ return 404; }}
}}
"""


def _server_text(site: Site, live: str) -> str:
    word = site.word
    # One try for each host of a slot and one for the other slot behind it; a request that was sent is repeated only when it is idempotent.
    tries = max(len(site.slots[slot]) for slot in SLOTS) + 1
    cookie = f"add_header Set-Cookie ${word}_set_cookie always;\n" if site.split_key == "visitor" else ""
    return f"""\
# Generated by Sluice for {site.app}, together with http.conf beside it.
{_switch_lines(site, live, f"${word}_bucket")}{cookie}location / {{
    access_log {site.log_path} sluice_{word};
    proxy_pass http://${word}_upstream;
    proxy_http_version 1.1;
    proxy_set_header Connection ${word}_connection;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Host ${word}_host;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Host ${word}_host;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Request-Id $request_id;
    proxy_connect_timeout 5s;
    proxy_next_upstream error timeout;
    proxy_next_upstream_tries {tries};
    proxy_next_upstream_timeout 15s;
}}
"""


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


# Plans


@dataclass(frozen=True)
class Reading:
    """What was found on the edge.

    :param rendering: the two files as they are; None when nothing was rendered yet.
    :param link: the target of the link ``traffic``, None when there is none or its folder is gone.
    :param whole: the folder behind the link holds what it must.
    :param highest: the highest generation number ever used here.
    :param served: the generation nginx answers with, None when it does not answer.
    :param cut: an earlier run was cut short while it changed the configuration.
    """

    rendering: Optional[Rendering] = None
    link: Optional[str] = None
    whole: bool = True
    highest: int = 0
    served: Optional[int] = None
    cut: bool = False

    @property
    def header(self) -> Optional[Header]:
        """The header comment, None when there is none."""
        return parse_header(self.rendering.http) if self.rendering else None

    @property
    def state(self) -> Optional[State]:
        """Who serves: what the link says; without it, the slot that was live at rendering serves everything."""
        if self.header is None:
            return None
        return parse_link(self.link) or State(self.header.live)


@dataclass(frozen=True)
class Plan:
    """What has to change.

    :param site: the site after the change.
    :param state: the state after the change.
    :param generation: the generation after the change.
    :param rendering: files to install, None when those in place stay.
    :param reload: nginx has to read the files again.
    :param relink: the link ``traffic`` has to be set.
    :param probes: hosts that must answer first, with their slot.
    """

    site: Site
    state: State
    generation: int
    rendering: Optional[Rendering]
    reload: bool
    relink: bool
    probes: tuple[tuple[str, str], ...]
    actions: tuple[str, ...]
    diff: Mapping[str, str]

    @property
    def changed(self) -> bool:
        """Whether anything has to be done."""
        return self.reload or self.relink or self.rendering is not None


def wanted_state(before: Optional[State], live: Optional[str], percent: Optional[int]) -> State:
    """Return the state asked for; what is not said is kept, but another live slot begins with a share of 0 for the one it replaces."""
    if before is None:
        if live is None:
            raise SluiceError(
                "The edge has no live slot yet, and live does not say which one it is.",
                "Give live: blue or live: green.",
                variable="live",
                allowed="blue or green",
                example="blue",
            )
        return State(live, percent or 0)
    kept = before.percent if live in (None, before.live) else 0
    return State(live or before.live, kept if percent is None else percent)


def gaining(before: Optional[State], after: State) -> tuple[str, ...]:
    """Return the slots that must prove that they answer: one that had nothing, one that becomes live, a canary that grows.

    A live slot that serves, and takes back a part of the rest, is not asked: giving a canary less is always allowed.
    """
    had = before.shares() if before else dict.fromkeys(SLOTS, 0)
    has = after.shares()
    becomes_live = before is not None and before.live != after.live
    return tuple(
        slot for slot in SLOTS if has[slot] and ((becomes_live and slot == after.live) or (has[slot] > had[slot] and (had[slot] == 0 or slot == after.idle)))
    )


def plan(reading: Reading, site: Optional[Site], live: Optional[str], percent: Optional[int], adopt: bool = False, required: bool = True) -> Plan:
    """Return what has to change.

    :param site: the wanted site; None leaves the generated files alone.
    :param adopt: go on where the generated files were changed by hand.
    :param required: nginx has to run; otherwise its silence is no reason for a reload.
    :raises SluiceError: something is missing for a first rendering, or the generated files were changed by hand.
    """
    header = reading.header
    base = site or (header.site if header else None)
    if base is None:
        raise SluiceError(
            "Nothing is rendered for this app yet, and slots does not say its hosts.",
            "Give slots and live.",
            variable="slots",
            allowed="blue and green, each with its hosts",
        )
    before, after = reading.state, wanted_state(reading.state, live, percent)
    generation, rendering = (header.generation if header else 0), None
    if site is not None:
        _refuse_hand_edit(reading, site, adopt)
        if header is None or render(site, header.generation, header.live) != reading.rendering:
            generation = max(reading.highest, reading.served or 0, generation) + 1
            rendering = render(site, generation, after.live)
    drifted = reading.served != generation and (required or reading.served is not None)
    reload = site is not None and (rendering is not None or reading.cut or drifted)
    relink = reading.link != link_name(after) or not reading.whole
    gains = gaining(before, after)
    known = header.site.slots if header else dict.fromkeys(SLOTS, ())
    probes = tuple((slot, host) for slot in SLOTS for host in base.slots[slot] if slot in gains or (after.shares()[slot] and host not in known[slot]))
    return Plan(
        base,
        after,
        generation,
        rendering,
        reload,
        relink,
        probes,
        _actions(reading, before, after, generation, rendering is not None, reload, relink),
        {
            "before": _picture(base.app, reading.rendering if rendering else None, before, reading.link),
            "after": _picture(base.app, rendering, after, link_name(after)),
        },
    )


def _refuse_hand_edit(reading: Reading, site: Site, adopt: bool) -> None:
    edit = hand_edit(reading.rendering) if reading.rendering else ""
    if edit and not adopt:
        raise SluiceError(
            f"The generated files in {site.folder}/config were changed by hand:\n{edit}Nothing was changed.",
            "Take the change back, or give adopt: true to have the files rendered anew without it.",
            edit=edit,
        )


def _actions(reading: Reading, before: Optional[State], after: State, generation: int, rendered: bool, reload: bool, relink: bool) -> tuple[str, ...]:
    said: list[str] = []
    header = reading.header
    if rendered:
        said.append(
            f"configuration: generation {header.generation if header else 'none'} -> {generation}" + (", with a reload" if reading.served is not None else "")
        )
    elif reload:
        said.append(f"reload: nginx answers with generation {reading.served if reading.served is not None else 'none'}, the files hold {generation}")
    if relink and before is not None and before.live != after.live:
        said.append(f"live slot: {before.live} -> {after.live}; {after.idle} keeps {after.percent} %, no reload")
    elif relink and before is not None and before.percent != after.percent:
        said.append(f"share of {after.idle}: {before.percent} % -> {after.percent} %; {after.live} is live, no reload")
    elif relink:
        said.append(f"traffic folder set: {after.sentence()}")
    return tuple(said)


def _picture(app: str, rendering: Optional[Rendering], state: Optional[State], link: Optional[str]) -> str:
    text = f"{app}: {state.sentence() if state else 'nothing is rendered'}\ntraffic -> {link or 'nothing'}\n"
    if rendering:
        text += f"--- config/http.conf\n{rendering.http}--- config/server.conf\n{rendering.server}"
    return text
