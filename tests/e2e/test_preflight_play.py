# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole preflight as an operator plays it: everything at once, waivers with a name and an end, and no secret at the highest verbosity."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import dotenv

from tests.e2e.conftest import QUICK
from tests.sandbox.runner import Run
from tests.sandbox.world import World

Play = Callable[..., Run]
# Nobody visits while the ground is proven.
BLIND = {"canary_accept_blind": True}
FULL = {"preflight_min_free_bytes": 2**60, **BLIND}
WAIVER = {"gate": "disk", "who": "Jo Doe", "why": "the disk is being enlarged", "until": "2999-12-31"}
HOOK = "/api/business/wallet/webhook"
BROKEN = {
    **FULL,
    "release_version": "v7.7.7",
    "preflight_redis": {"var": "REDIS_URL"},
    "preflight_stripe_mode": "live",
    "preflight_stripe_online": False,
    "preflight_dns": [{"name": "shop.test", "values": ["192.0.2.1"]}],
    "preflight_resolvers": ["127.0.0.1:1"],
    "preflight_timeout": 0.5,
}


def judged(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the findings of the report by their gates."""
    told = json.loads((folder / "preflight.json").read_text(encoding="utf-8"))
    return {each["gate"]: each for each in told["findings"]}


def test_what_is_right_passes_and_leaves_its_reports(play: Play, tmp_path: Path) -> None:
    run = play("preflight", release_version="v1.0.0", preflight_report=str(tmp_path / "told"), **BLIND)
    assert run.rc == 0, run.text
    assert "nothing stops." in run.flat
    # A container knows of no time service, and the machine may have other work.
    assert {name for name, each in judged(tmp_path / "told").items() if each["verdict"] != "pass"} <= {"power", "clock", "cpu"}
    for name in ("preflight.json", "preflight.junit.xml"):
        assert (tmp_path / "told" / name).stat().st_mode & 0o777 == 0o600


def test_everything_that_is_wrong_is_told_at_once_and_no_secret(world: World, play: Play, tmp_path: Path) -> None:
    values = dotenv.parse(Path(world.facts["env_file"]).read_text(encoding="utf-8"))
    run = play("preflight", preflight_report=str(tmp_path / "told"), **BROKEN)
    assert run.rc != 0
    found = judged(tmp_path / "told")
    bad = {name for name, each in found.items() if each["stops"]}
    assert {"source", "disk", "redis", "stripe mode", "dns A shop.test"} <= bad, found
    assert found["dns A shop.test"]["verdict"] == "inconclusive"
    assert all(name in run.flat for name in bad)
    assert f"{len(bad)} of them stop." in run.flat
    suites = ElementTree.parse(tmp_path / "told" / "preflight.junit.xml").getroot()
    assert sum(int(suite.get("failures", 0)) for suite in suites) == len(bad)
    loud = [
        play("preflight", verbosity=4, preflight_report=str(tmp_path / "loud"), **BROKEN),
        play("preflight", verbosity=4, preflight_report=str(tmp_path / "loud"), release_version="v1.0.0", **BLIND),
    ]
    secrets = [world.facts["password"], *values.values()]
    artefacts = [path.read_text(encoding="utf-8") for folder in ("told", "loud") for path in (tmp_path / folder).iterdir()]
    assert not [secret for secret in secrets for text in (run.text, *(each.text for each in loud), *artefacts) if secret in text]


@pytest.mark.parametrize(
    ("changed", "passes", "said"),
    [
        ({"preflight_waivers": [WAIVER]}, True, "Waived by Jo Doe until 2999-12-31: the disk is being enlarged"),
        ({"preflight_waivers": [{**WAIVER, "until": "2026-01-01"}]}, False, "ended on 2026-01-01 and counts no more; mend the gate."),
        ({"preflight_waivers": [{**WAIVER, "gate": "disc"}]}, False, "is for a gate that was not asked"),
        ({"preflight_waivers": [{**WAIVER, "gate": "source"}]}, False, "preflight_never_waived keeps from being waived by anybody"),
        ({"preflight_severities": {"disk": "warning"}}, True, "warning disk: "),
    ],
)
def test_what_is_passed_over_has_a_name_and_an_end(play: Play, changed: dict[str, Any], passes: bool, said: str) -> None:
    run = play("preflight", **FULL, **changed)
    assert (run.rc == 0) == passes, run.text
    assert said in run.flat


def test_a_release_writes_its_waiver_to_the_ledger_and_proves_the_webhook(world: World, play: Play) -> None:
    stripe = {"preflight_stripe_mode": "test", "preflight_stripe_online": False, "preflight_stripe_publishable_vars": []}
    proof = {**stripe, "preflight_stripe_webhooks": [{"path": HOOK, "events": ["payment_intent.succeeded"]}]}
    quick = {**QUICK, **FULL, "canary_steps": [{"percent": 100, "min": 0, "max": 0, "then": "promote"}], "canary_watch_seconds": 0}
    run = play("release", release_version="v1.0.0", preflight_waivers=[WAIVER], **proof, **quick)
    ends = {record["phase"]: record["data"]["gates"] for record in world.ledger() if record["event"] in ("end", "stop")}
    assert "start" in ends, run.text
    waived = [gate["sentence"] for gate in ends["preflight"] if gate["name"] == "disk"]
    assert len(waived) == 1 and "Waived by Jo Doe until 2999-12-31" in waived[0], (run.text, ends)
    assert [gate["verdict"] for gate in ends["start"] if gate["name"].startswith("webhook ")] == ["pass"], (run.text, ends["start"])
    assert run.rc == 0, run.text
