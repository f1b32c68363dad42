# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shape of the generated files: whole, told apart from a hand edit, and nothing in them but the app's own."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.render import Rendering, hand_edit, include_lines, parse_header, render
from ansible_collections.sluice.deploy.plugins.module_utils.core.site import Maintenance, Service, Site, check_site
from ansible_collections.sluice.deploy.plugins.module_utils.core.traffic import SLOTS, State
from ansible_collections.sluice.deploy.plugins.module_utils.core.vhost import vhost_from
from hypothesis import given
from hypothesis import strategies as st

WEB = Service("web", {"blue": ("127.0.0.1:4101",), "green": ("127.0.0.1:4102",)}, "/", "/health")
API = Service("api", {"blue": ("127.0.0.1:5101",), "green": ("127.0.0.1:5102",)}, "/api/")
SITE = Site("wallet", "/etc/nginx/sluice", (WEB,))
SECRET = "s3cret-of-the-testers"

states = st.builds(State, st.sampled_from(SLOTS), st.integers(0, 100), st.integers(0, 999))
addresses = st.integers(1, 65535).map(lambda port: f"127.0.0.1:{port}") | st.from_regex(r"\A[a-z][a-z0-9-]{0,10}[a-z]\.internal:80\Z")
sites = st.builds(
    lambda app, hosts, cut, key, secure, switch, secret, assets, closed: Site(
        app,
        "/etc/nginx/sluice",
        (Service("web", {"blue": tuple(hosts[:cut]), "green": tuple(hosts[cut:])}, "/", "/health"),),
        "127.0.0.1:8099",
        "/var/log/a.log",
        switch,
        key,
        secure,
        (),
        assets,
        secret,
        ("192.0.2.0/24",) if secret else (),
        closed,
        nginx=(1, 22, 1),
    ),
    st.from_regex(r"\A[a-z][a-z0-9_-]{0,29}\Z"),
    st.lists(addresses, min_size=4, max_size=6, unique=True),
    st.integers(1, 3),
    st.sampled_from(["visitor", "request"]),
    st.booleans(),
    st.sampled_from(["buckets", "weights"]),
    st.sampled_from(["", SECRET]),
    st.sampled_from([(), ("/assets/",), ("/assets/", "/_next/static/")]),
    st.sampled_from([Maintenance(), Maintenance(("203.0.113.7",), ("/hooks/",), "<p>closed</p>", 60)]),
)


@given(sites, st.integers(1, 10**6), states)
def test_header_round_trip(site: Site, generation: int, state: State) -> None:
    rendering = render(check_site(site), generation, state)
    header = parse_header(rendering)
    assert header is not None
    assert (header.site, header.generation, header.state.live) == (site, generation, state.live)
    assert header.state == (state if site.switch == "weights" else State(state.live))
    assert render(header.site, header.generation, header.state) == rendering
    assert hand_edit(rendering) == ""


def test_header_round_trip_of_a_whole_site() -> None:
    vhost = vhost_from({"names": ["wallet.example.org"], "certificate": "/etc/ssl/w.crt", "key": "/etc/ssl/w.key", "cors_origins": ["https://a.example.org"]})
    site = check_site(replace(SITE, vhost=vhost, nginx=(1, 26, 0), log="/var/log/a.log"))
    header = parse_header(render(site, 1, State("blue")))
    assert header is not None
    assert header.site == site


@given(sites, st.data())
def test_any_edit_by_hand_is_found(site: Site, data: st.DataObject) -> None:
    rendering = render(site, 3, State("blue"))
    name = data.draw(st.sampled_from(["http", "server"] + ["testers"] * bool(rendering.testers)))
    text = getattr(rendering, name)
    place = data.draw(st.integers(0, len(text) - 1))
    edited = text[:place] + data.draw(st.sampled_from(["#", " ", "x", "\n"])) + text[place + 1 :]
    changed = replace(rendering, **{name: edited})
    assert bool(hand_edit(changed)) == (changed != rendering)


@given(sites, states)
def test_what_testers_show_stands_in_no_file_but_its_own(site: Site, state: State) -> None:
    rendering = render(replace(site, tester_secret=SECRET), 1, state)
    assert SECRET in rendering.testers
    assert SECRET not in rendering.http + rendering.server
    assert SECRET not in hand_edit(replace(rendering, testers=rendering.testers + "#", http=rendering.http + "# more"))


@given(sites)
def test_every_name_in_the_files_is_the_apps_own(site: Site) -> None:
    text = render(site, 1, State("green", 25)).http
    ends = [f"{slot}{end}" for slot in SLOTS for end in ("", "_canary")] + ["public"] * (site.switch == "weights")
    assert set(re.findall(r"^upstream (\S+)", text, re.MULTILINE)) == {f"{site.word}_web_{end}" for end in ends}
    variables = set(re.findall(r"^(?:map \S+|map \"[^\"]*\"|geo|split_clients \S+) \$(\w+) ", text, re.MULTILINE))
    assert variables
    assert all(name.startswith(f"{site.word}_") for name in variables)
    assert "non_idempotent" not in text


def test_the_live_slot_stands_behind_the_canary() -> None:
    text = render(SITE, 1, State("blue")).http
    assert "    server 127.0.0.1:4102 max_fails=0;\n    server 127.0.0.1:4101 backup max_fails=0;\n" in text
    assert text.count("backup") == 2


def test_a_canary_of_several_hosts_has_tries_left_for_the_live_slot() -> None:
    hosts = {"blue": ("127.0.0.1:1",), "green": ("127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4")}
    many = replace(SITE, services=(replace(WEB, slots=hosts),))
    assert "proxy_next_upstream_tries 4;" in render(many, 1, State("blue")).server
    assert "proxy_next_upstream_tries 2;" in render(SITE, 1, State("blue")).server


def test_a_host_that_is_out_stands_in_no_upstream() -> None:
    two = replace(SITE, services=(replace(WEB, slots={"blue": ("127.0.0.1:1", "127.0.0.1:2"), "green": ("127.0.0.1:3",)}),), hosts_out=("127.0.0.1:2",))
    for switch in ("buckets", "weights"):
        assert "server 127.0.0.1:2 " not in render(replace(two, switch=switch), 1, State("blue", 25)).http


@pytest.mark.parametrize(("percent", "lines"), [(0, ["4101 weight=100"]), (5, ["4102 weight=5", "4101 weight=95"]), (100, ["4102 weight=100"])])
def test_weights_leave_out_who_has_nothing(percent: int, lines: list[str]) -> None:
    text = render(replace(SITE, switch="weights"), 1, State("blue", percent)).http
    upstream = text[text.index("upstream wallet_web_public") :].split("}")[0]
    assert re.findall(r"server 127.0.0.1:(.*) max_fails=0;", upstream) == lines


def test_the_cookie_is_secure_when_asked_and_missing_for_requests() -> None:
    assert "HttpOnly; SameSite=Lax; Secure" in render(SITE, 1, State("blue")).http
    assert "Secure" not in render(replace(SITE, cookie_secure=False), 1, State("blue")).http
    assert "Set-Cookie" not in render(replace(SITE, split_key="request"), 1, State("blue")).server


@pytest.mark.parametrize(("version", "kept"), [((1, 22, 1), False), ((1, 27, 3), False), ((1, 27, 4), True), ((1, 31, 0), True)])
def test_kept_connections_outlive_a_reload_where_nginx_can(version: tuple[int, int, int], kept: bool) -> None:
    site = replace(SITE, switch="weights", nginx=version)
    for switch in ("buckets", "weights"):
        assert ("keepalive_min_timeout 3s;" in render(replace(site, switch=switch), 1, State("blue")).server) == kept


def test_the_include_lines_name_both_files() -> None:
    assert include_lines(SITE) == ("include /etc/nginx/sluice/wallet/config/http.conf;", "include /etc/nginx/sluice/wallet/config/server.conf;")


@pytest.mark.parametrize("text", ["", "# sluice: {}\n", "# sluice: [1]\n", "# sluice: {\n", "title\n# sluice: 7\n"])
def test_a_file_without_a_header_has_none(text: str) -> None:
    assert parse_header(Rendering(text, "")) is None
    assert "cannot be read" in hand_edit(Rendering(text + "\n\n", ""))


# Shapes


def _with(**changes: object) -> dict[str, object]:
    return {"services": (replace(WEB, **changes),)}


@pytest.mark.parametrize(
    ("change", "variable"),
    [
        ({"app": "Wallet"}, "app"),
        ({"app": "w" * 31}, "app"),
        ({"app": "wallet;"}, "app"),
        ({"directory": "etc/nginx"}, "directory"),
        ({"directory": "/etc/ng inx"}, "directory"),
        ({"directory": "/etc/nginx/../x"}, "directory"),
        ({"log": "/var/log/x.log; evil"}, "log"),
        ({"control": "0.0.0.0:8099"}, "control"),
        ({"control": "8099"}, "control"),
        ({"switch": "dice"}, "switch"),
        ({"split_key": "address"}, "split_key"),
        ({"services": ()}, "services"),
        (_with(name="Web"), "services[0].name"),
        (_with(path="api"), "services[0].path"),
        (_with(path="/a {"), "services[0].path"),
        (_with(health_path="/x;"), "services[0].health_path"),
        (_with(slots={"blue": ("127.0.0.1:1",)}), "services[0].green"),
        (_with(slots={"blue": ("127.0.0.1:1",), "green": ()}), "services[0].green"),
        (_with(slots={"blue": ("127.0.0.1:1",), "green": ("127.0.0.1",)}), "services[0].green[0]"),
        (_with(slots={"blue": ("127.0.0.1:1",), "green": ("127.0.0.1:65536",)}), "services[0].green[0]"),
        (_with(slots={"blue": ("127.0.0.1:1",), "green": ("127.0.0.1:2 weight=5",)}), "services[0].green[0]"),
        (_with(slots={"blue": ("127.0.0.1:1",), "green": ("127.0.0.1:2", "127.0.0.1:1")}), "services[0].green[1]"),
        ({"services": (WEB, replace(API, path="/"))}, "services[1].path"),
        ({"services": (WEB, replace(API, name="web"))}, "services[1].name"),
        ({"services": (WEB, replace(API, slots=WEB.slots))}, "services[1].blue[0]"),
        ({"hosts_out": ("127.0.0.1:4101",)}, "hosts_out"),
        ({"hosts_out": ("127.0.0.1:9",)}, "hosts_out[0]"),
        ({"assets": ("assets",)}, "assets[0]"),
        ({"tester_secret": "short"}, "tester_secret"),
        ({"tester_secret": "x" * 20 + '"'}, "tester_secret"),
        ({"tester_addresses": ("everybody",)}, "tester_addresses[0]"),
        ({"maintenance": Maintenance(addresses=("192.0.2.1/24",))}, "maintenance.addresses[0]"),
        ({"maintenance": Maintenance(paths=("~ .*",))}, "maintenance.paths[0]"),
        ({"maintenance": Maintenance(page="$host")}, "maintenance.page"),
        ({"maintenance": Maintenance(page="x" * 3501)}, "maintenance.page"),
        ({"maintenance": Maintenance(retry_after=0)}, "maintenance.retry_after"),
    ],
)
def test_wrong_shapes_are_refused_by_name(change: dict[str, object], variable: str) -> None:
    with pytest.raises(SluiceError) as error:
        check_site(replace(SITE, **change))  # type: ignore[arg-type]
    assert error.value.facts["variable"] == variable
    assert {"wrong", "allowed", "example"} <= set(error.value.facts)
    assert "x" * 20 not in str(error.value) or variable != "tester_secret"
