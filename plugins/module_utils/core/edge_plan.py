# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What has to change on an edge to get from what was found there to what is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.render import Header, Rendering, hand_edit, parse_header, render
from ansible_collections.sluice.deploy.plugins.module_utils.core.site import BUCKETS_SWITCH, WEIGHTS_SWITCH, Site
from ansible_collections.sluice.deploy.plugins.module_utils.core.traffic import SLOTS, State, gaining, link_name, parse_link, wanted_state


@dataclass(frozen=True)
class Reading:
    """What was found on the edge.

    :param rendering: the files as they are; None when nothing was rendered yet.
    :param link: the target of the link ``traffic``, None when there is none or its folder is gone.
    :param whole: the folder behind the link holds what it must.
    :param highest: the highest generation number ever used here.
    :param served: the generation nginx answers with, None when it does not answer.
    :param cut: an earlier run was cut short while it changed the configuration.
    :param maintenance: whether the site is closed.
    """

    rendering: Optional[Rendering] = None
    link: Optional[str] = None
    whole: bool = True
    highest: int = 0
    served: Optional[int] = None
    cut: bool = False
    maintenance: bool = False

    @property
    def header(self) -> Optional[Header]:
        """The header comment, None when there is none."""
        return parse_header(self.rendering) if self.rendering else None

    @property
    def state(self) -> Optional[State]:
        """Who serves: what the link says, or the files; without a link, the slot that was live at rendering serves everything."""
        header = self.header
        if header is None:
            return None
        if header.site.switch == WEIGHTS_SWITCH:
            return header.state
        return parse_link(self.link) or State(header.state.live)


@dataclass(frozen=True)
class Wanted:
    """What the caller asks for; None is left as it is."""

    site: Optional[Site] = None
    live: Optional[str] = None
    percent: Optional[int] = None
    salt: Optional[int] = None
    testers: Optional[bool] = None
    maintenance: Optional[bool] = None

    @property
    def nothing(self) -> bool:
        """Whether nothing is asked for, so that all there is to do is to look."""
        return self == Wanted()


@dataclass(frozen=True)
class Plan:
    """What has to change.

    :param site: the site after the change.
    :param state: the state after the change.
    :param generation: the generation after the change.
    :param rendering: files to install, None when those in place stay.
    :param reload: nginx has to read the files again.
    :param relink: the link ``traffic`` has to be set.
    :param flag: the flag of the maintenance mode has to be set (True) or taken away (False); None leaves it.
    :param probes: hosts that must answer first, each with its slot and the path it is asked for.
    """

    site: Site
    state: State
    generation: int
    rendering: Optional[Rendering]
    reload: bool
    relink: bool
    flag: Optional[bool]
    probes: tuple[tuple[str, str, str], ...]
    actions: tuple[str, ...]
    diff: Mapping[str, str]

    @property
    def changed(self) -> bool:
        """Whether anything has to be done."""
        return self.reload or self.relink or self.rendering is not None or self.flag is not None


def plan(reading: Reading, wanted: Wanted, adopt: bool = False, required: bool = True) -> Plan:
    """Return what has to change.

    :param adopt: go on where the generated files were changed by hand.
    :param required: nginx has to run; otherwise its silence is no reason for a reload.
    :raises SluiceError: something is missing for a first rendering, the generated files were changed by hand, or the site is closed.
    """
    header = reading.header
    base = wanted.site or (header.site if header else None)
    if base is None:
        raise SluiceError(
            "Nothing is rendered for this app yet, and services does not say its hosts.",
            "Give services and live.",
            variable="services",
            allowed="one or more, each with its hosts in blue and green",
        )
    before = reading.state
    after = wanted_state(before, wanted.live, wanted.percent, wanted.salt, wanted.testers)
    _refuse_testers(base, after)
    _refuse_rollout(reading, wanted, before, after)
    generation, rendering = (header.generation if header else 0), None
    if wanted.site is not None or (base.switch == WEIGHTS_SWITCH and before != after):
        _refuse_hand_edit(reading, base, adopt or (wanted.site is None and not _grows(before, after)))
        if header is None or render(base, header.generation, after if base.switch == WEIGHTS_SWITCH else header.state) != reading.rendering:
            generation = max(reading.highest, reading.served or 0, generation) + 1
            rendering = render(base, generation, after)
    drifted = reading.served != generation and (required or reading.served is not None)
    reload = rendering is not None or (wanted.site is not None and (reading.cut or drifted))
    relink = base.switch == BUCKETS_SWITCH and (reading.link != link_name(after) or not reading.whole)
    flag = wanted.maintenance if wanted.maintenance is not None and wanted.maintenance != reading.maintenance else None
    return Plan(
        base,
        after,
        generation,
        rendering,
        reload,
        relink,
        flag,
        _probes(base, header, before, after),
        _actions(reading, before, after, base, generation, rendering is not None, reload, relink, flag),
        {
            "before": _picture(base, reading.rendering if rendering else None, before, reading.link),
            "after": _picture(base, rendering, after, link_name(after)),
        },
    )


def _grows(before: Optional[State], after: State) -> bool:
    """Tell whether a canary is let in further: anything else is a way back, which must not wait."""
    return before is None or (before.live == after.live and after.percent > before.percent)


def _refuse_testers(site: Site, after: State) -> None:
    if after.testers and not site.has_testers:
        raise SluiceError(
            "testers is true, but nobody can be one: neither a secret nor an address is known to the edge.",
            "Give edge_tester_secret or edge_tester_addresses and bring the edge up to date with edge.yml.",
            variable="testers",
        )


def _refuse_rollout(reading: Reading, wanted: Wanted, before: Optional[State], after: State) -> None:
    if reading.maintenance and wanted.maintenance is not False and before is not None and _grows(before, after):
        raise SluiceError(
            f"The site is closed for maintenance, so a canary cannot be judged; the share stays at {before.percent} %.",
            "Open it with maintenance.yml -e maintenance_state=off, then run again. A smaller share and a rollback are always allowed.",
        )


def _refuse_hand_edit(reading: Reading, site: Site, adopt: bool) -> None:
    edit = hand_edit(reading.rendering) if reading.rendering else ""
    if edit and not adopt:
        raise SluiceError(
            f"The generated files in {site.folder}/config were changed by hand:\n{edit}Nothing was changed.",
            "Take the change back, or give edge_adopt: true to have the files rendered anew without it.",
            edit=edit,
        )


def _probes(site: Site, header: Optional[Header], before: Optional[State], after: State) -> tuple[tuple[str, str, str], ...]:
    """Return the hosts of a slot that gets more, and hosts that are new in a slot that serves."""
    gains, shares = gaining(before, after), after.shares()
    known = {host for service in header.site.services for slot in SLOTS for host in header.site.hosts(service, slot)} if header else set()
    return tuple(
        (slot, host, service.health_path)
        for service in site.services
        for slot in SLOTS
        for host in site.hosts(service, slot)
        if slot in gains or (shares[slot] and host not in known)
    )


def _actions(
    reading: Reading, before: Optional[State], after: State, site: Site, generation: int, rendered: bool, reload: bool, relink: bool, flag: Optional[bool]
) -> tuple[str, ...]:
    said: list[str] = []
    header = reading.header
    if rendered:
        number = header.generation if header else "none"
        said.append(f"configuration: generation {number} -> {generation}" + (", with a reload" if reading.served is not None else ""))
    elif reload:
        said.append(f"reload: nginx answers with generation {reading.served if reading.served is not None else 'none'}, the files hold {generation}")
    if before != after or relink:
        said.append(_moved(before, after) + ("" if rendered and site.switch == WEIGHTS_SWITCH else ", no reload"))
    if flag is not None:
        said.append("maintenance on: the site is closed, no reload" if flag else "maintenance off: the site is open, no reload")
    return tuple(said)


def _moved(before: Optional[State], after: State) -> str:
    if before is not None and before.live != after.live:
        return f"live slot: {before.live} -> {after.live}; {after.idle} keeps {after.percent} %"
    if before is not None and before.percent != after.percent:
        testers = f", testers go to {after.idle}" if after.testers else ""
        return f"share of {after.idle}: {before.percent} % -> {after.percent} %; {after.live} is live{testers}"
    if before is not None and before.testers != after.testers:
        return f"testers {'go to ' + after.idle if after.testers else 'are treated as everybody'}; {after.sentence()}"
    return f"traffic set: {after.sentence()}"


def _picture(site: Site, rendering: Optional[Rendering], state: Optional[State], link: Optional[str]) -> str:
    text = f"{site.app}: {state.sentence() if state else 'nothing is rendered'}\n"
    if site.switch == BUCKETS_SWITCH:
        text += f"traffic -> {link or 'nothing'}\n"
    return text + (f"--- config/http.conf\n{rendering.http}--- config/server.conf\n{rendering.server}" if rendering else "")
