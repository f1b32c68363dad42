# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be asked of provisioning: each refusal names the variable, what is wrong, what is allowed and an example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.sluice.deploy.plugins.module_utils.core import inputs, provisioning

CHECKOUT = Path(__file__).resolve().parents[3]

SPECS = yaml.safe_load((CHECKOUT / "roles/provision/meta/argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]["main"]["options"]
SHA = "0123456789abcdef" * 4
GOOD: dict[str, Any] = {
    "app_directory": "/srv/wallet",
    "provision_user": "wallet",
    "provision_group": "wallet",
    "provision_operator": "",
    "provision_node": "distribution",
    "provision_pm2_version": "7.0.4",
    "provision_logs_size": "100M",
    "provision_packages": ["curl", "libc6-dev"],
}
TARBALL = {"provision_node": "tarball", "provision_node_version": "22.11.0", "provision_node_tarball": "node.tar.xz", "provision_node_sha256": SHA}
NODESOURCE = {
    "provision_node": "nodesource",
    "provision_node_version": "22",
    "provision_node_repository": "https://packages.example.org/node_22.x",
    "provision_node_key": "nodesource.asc",
}
PGDG = {"provision_postgresql_repository": "https://packages.example.org/pgdg", "provision_postgresql_key": "pgdg.asc"}


@pytest.mark.parametrize(
    "asked",
    [
        {},
        TARBALL,
        {**TARBALL, "provision_node_tarball": "https://example.org/node.tar.xz"},
        NODESOURCE,
        PGDG,
        {"provision_pm2_version": ""},
        {"provision_user": "www-data", "provision_group": "www-data", "provision_operator": "deploy"},
        {"app_directory": "/var/lib/wallet"},
    ],
)
def test_what_is_right_is_not_complained_of(asked: dict[str, Any]) -> None:
    assert provisioning.complaints({**GOOD, **asked}) == []


@pytest.mark.parametrize(
    ("asked", "named", "said"),
    [
        ({"provision_user": "root"}, "provision_user", "is root, which must not run an app"),
        ({"provision_user": ""}, "provision_user", "not empty"),
        ({"provision_user": "a b"}, "provision_user", "lower-case letters"),
        ({"provision_user": "x\nroot ALL=(ALL) NOPASSWD: ALL"}, "provision_user", "lower-case letters"),
        ({"provision_group": "root"}, "provision_group", "is root"),
        ({"provision_operator": "root"}, "provision_operator", "has every right"),
        ({"provision_operator": "wallet"}, "provision_operator", "the app's own user"),
        ({"provision_operator": "%sudo"}, "provision_operator", "lower-case letters"),
        ({**TARBALL, "provision_node_sha256": ""}, "provision_node_sha256", "not set"),
        ({**TARBALL, "provision_node_sha256": "abc"}, "provision_node_sha256", "64 hex digits"),
        ({**TARBALL, "provision_node_tarball": ""}, "provision_node_tarball", "not set"),
        ({**TARBALL, "provision_node_version": "22"}, "provision_node_version", "whole version"),
        ({**NODESOURCE, "provision_node_version": "lts"}, "provision_node_version", "major version"),
        ({**NODESOURCE, "provision_node_repository": ""}, "provision_node_repository", "URL"),
        ({**NODESOURCE, "provision_node_key": ""}, "provision_node_key", "not set"),
        ({**PGDG, "provision_postgresql_key": ""}, "provision_postgresql_key", "not set"),
        ({**PGDG, "provision_postgresql_repository": "pgdg"}, "provision_postgresql_repository", "URL"),
        ({"provision_pm2_version": "latest"}, "provision_pm2_version", "whole version"),
        ({"provision_pm2_version": "^7.0.4"}, "provision_pm2_version", "whole version"),
        ({"provision_npm_registry": "--global"}, "provision_npm_registry", "URL"),
        ({"provision_logs_size": "much"}, "provision_logs_size", "number"),
        ({"provision_packages": ["curl", "-oDebug=1"]}, "provision_packages", "names of Debian packages"),
        ({"app_directory": "/srv"}, "app_directory", "two levels"),
        ({"app_directory": "/etc/wallet"}, "app_directory", "outside those of the system"),
        ({"app_directory": "/srv/../etc"}, "app_directory", "two levels"),
        ({"app_directory": "/srv/a b"}, "app_directory", "two levels"),
    ],
)
def test_what_is_wrong_is_refused_with_an_example(asked: dict[str, Any], named: str, said: str) -> None:
    (complaint,) = provisioning.complaints({**GOOD, **asked})
    assert complaint.startswith(named) or f"but {named} is" in complaint
    assert said in complaint
    assert f"Example: {named}=" in complaint
    assert "\n" not in complaint


def test_the_check_of_a_run_s_input_asks_it() -> None:
    specs = {**SPECS, "app_directory": {"type": "path"}}
    assert inputs.wrong(GOOD, specs) == []
    assert "is root" in inputs.wrong({**GOOD, "provision_user": "root"}, specs)[0]
    assert "must be one of distribution, nodesource, tarball, none, not 'nvm'" in inputs.wrong({**GOOD, "provision_node": "nvm"}, specs)[0]
    assert "from 0 to 99" in inputs.wrong({**GOOD, "provision_postgresql_major": 150}, specs)[0]


def test_what_other_playbooks_know_of_it_is_judged_alone() -> None:
    """An inventory may say one of its inputs; the others are not known outside provision.yml."""
    assert provisioning.complaints({"provision_operator": "deploy", "app_directory": "/opt"}) == []
