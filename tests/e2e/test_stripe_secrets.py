# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates of Stripe as tasks of the role, at the highest verbosity, passing and failing; then every output surface is searched for a secret."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import ansible_runner
import pytest

from tests.e2e.test_secrets import ProcessWatch
from tests.e2e.test_stripe_gates import CALLBACK, CLIENT, EVENTS, Shop
from tests.e2e.test_webhook_proof import TESTERS, hooks
from tests.sandbox.world import CHECKOUT
from tests.standins.stripe import Stripe

pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="node is not on this machine")
PLAYBOOK = """
- name: Judge Stripe
  hosts: apphosts
  gather_facts: false
  tasks:
    - {name: Ask, ansible.builtin.include_role: {name: sluice.deploy.preflight, tasks_from: stripe, rolespec_validate: false}}
    - {name: Prove, ansible.builtin.include_role: {name: sluice.deploy.preflight, tasks_from: webhook, rolespec_validate: false}}
    - name: Fail when a gate did not pass
      ansible.builtin.assert:
        that: (__preflight_stripe.gates + __preflight_webhook.gates) | rejectattr('severity', 'defined') | rejectattr('verdict', 'eq', 'pass') | list == []
        fail_msg: "{{ (__preflight_stripe.gates + __preflight_webhook.gates) | to_json }}"
"""


def play(folder: Path, shop: Shop, address: str, **changed: Any) -> tuple[int, dict[str, Any]]:
    """Run the two task files and return the exit code, and the results by task."""
    folder.mkdir()
    (folder / "judge.yml").write_text(PLAYBOOK, encoding="utf-8")
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "app_env_file": str(shop.path),
        "app_public_url": f"http://{address}",
        "app_services": [{"name": "web", "ports": {}}],
        "app_version_key": "version",
        "edge_tester_secret": TESTERS,
        "slot_name": "green",
        "slot_version": "v1.0.0",
        "slot_release": "20261121T101112-v1.0.0",
        "preflight_stripe_mode": shop.mode,
        "preflight_stripe_webhooks": [{"path": "/hook", "events": EVENTS}],
        "preflight_stripe_client_id_var": "STRIPE_CONNECT_CLIENT_ID",
        "preflight_stripe_redirect_path": CALLBACK,
        "preflight_stripe_api_base": shop.stripe.url,
        "preflight_stripe_connect_base": shop.stripe.url,
        **changed,
    }
    vault = folder.parent / f"{folder.name}.inventory.json"
    vault.touch(mode=0o600)
    vault.write_text(json.dumps({"apphosts": {"hosts": {"app": variables}}}), encoding="utf-8")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    settings = {"PATH": path, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / ".venv/collections")}
    done = ansible_runner.run(
        private_data_dir=str(folder),
        project_dir=str(folder),
        playbook="judge.yml",
        inventory=str(vault),
        envvars={**settings, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_STDOUT_CALLBACK": "sluice.deploy.release"},
        verbosity=4,
        quiet=True,
    )
    results = {
        event["event_data"]["task"]: event["event_data"].get("res", {}) for event in done.events if event["event"] in ("runner_on_ok", "runner_on_failed")
    }
    return done.rc, results


def test_no_secret_of_stripe_reaches_any_output(tmp_path: Path) -> None:
    with Stripe().running() as stripe, hooks("good", "whsec_" + "w" * 32) as good, hooks("open") as wide:
        shop = Shop(stripe, tmp_path, "test")
        stripe.endpoint(shop.account, f"http://{good}/hook", [*EVENTS, "charge.refunded", "charge.dispute.created"], "test")
        stripe.clients[CLIENT].add(f"http://{good}{CALLBACK}")
        secrets = [shop.values[name].encode() for name in ("STRIPE_SECRET_KEY", "STRIPE_PUBLISHABLE_KEY", "STRIPE_WEBHOOK_SECRET")] + [TESTERS.encode()]
        shop.judge()  # writes the file
        with ProcessWatch(secrets) as watch:
            rc, passing = play(tmp_path / "good", shop, good)
            assert rc == 0, json.dumps([result.get("gates") for result in passing.values()])
            assert {gate["verdict"] for gate in passing["Prove the webhook of the idle slot"]["gates"]} == {"pass"}
            # A key that is not known, a secret where everybody can read it, an app that takes everything.
            stripe.keys.clear()
            shop.values["VITE_KEY"] = shop.values["STRIPE_SECRET_KEY"]
            shop.judge()
            rc, failing = play(tmp_path / "failing", shop, wide)
            assert rc != 0
            told = json.dumps([failing[task]["gates"] for task in ("Judge Stripe", "Prove the webhook of the idle slot")])
            for said in ("(401)", "VITE_KEY holds a secret key", "it verifies nothing"):
                assert said in told
            # A file that cannot be read is a failure of the module itself.
            with shop.path.open("a", encoding="utf-8") as file:
                file.write(f"BROKEN='{shop.values['STRIPE_SECRET_KEY']}\n")
            rc, broken = play(tmp_path / "broken", shop, good)
            assert rc != 0
            assert "that is never closed" in broken["Judge Stripe"]["msg"]
    assert watch.looks > 50
    assert not watch.found
    places = [path for path in tmp_path.rglob("*") if path.is_file() and path != shop.path and not path.name.endswith(".inventory.json")]
    assert len(places) > 15
    assert [str(path) for path in places if any(secret in path.read_bytes() for secret in secrets)] == []
