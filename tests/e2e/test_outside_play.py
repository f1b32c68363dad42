# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role's tasks for network and services, played whole: few module runs, little time, and no secret at the highest verbosity."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.servers import CHECKOUT, Authority, Cache, Mail, Names, Web, context_of, serving
from tests.e2e.test_network_gates import GOOD as SITE
from tests.e2e.test_network_gates import HOST, QUESTIONS, ZONE, Nginx
from tests.e2e.test_services_gates import ENV, PATHS, SECRET, SENTINEL, USER
from tests.e2e.test_services_gates import GOOD as ANSWERS

PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - {name: Know the app, ansible.builtin.import_role: {name: sluice.deploy.app, rolespec_validate: false}}
    - {name: From outside, ansible.builtin.import_role: {name: sluice.deploy.preflight, tasks_from: network, rolespec_validate: false}}
    - {name: Services, ansible.builtin.import_role: {name: sluice.deploy.preflight, tasks_from: services, rolespec_validate: false}}
    - name: Keep what was said
      ansible.builtin.copy:
        content: "{{ [__preflight_certificate, __preflight_network, __preflight_services] | map(attribute='gates') | flatten | to_json }}"
        dest: "{{ kept }}"
        mode: '0600'
"""


def played(folder: Path, variables: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """Play the tasks and return what was said, and the gates."""
    (folder / "play.yml").write_text(PLAYBOOK, encoding="utf-8")
    (folder / "vars.json").write_text(json.dumps({"kept": str(folder / "gates.json"), **variables}), encoding="utf-8")
    hosts = {group: {"hosts": {"box": {}}} for group in ("edges", "apphosts", "databases")}
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (folder / "inventory.json").write_text(json.dumps({"all": {"children": hosts, "vars": local}}), encoding="utf-8")
    words = ["ansible-playbook", "-i", str(folder / "inventory.json"), str(folder / "play.yml"), "-e", f"@{folder / 'vars.json'}", "-vvvv"]
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "LC_ALL": "C.UTF-8"}
    env.update({"ANSIBLE_LOCAL_TEMP": str(folder / "local"), "ANSIBLE_REMOTE_TEMP": str(folder / "remote"), "ANSIBLE_COLLECTIONS_PATH": collections()})
    done = subprocess.run(words, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr, json.loads((folder / "gates.json").read_text(encoding="utf-8"))


def collections() -> str:
    """Return where the checkout is linked under its collection's name."""
    return str(Path(sys.executable).parent.parent / "collections")


def test_both_sides_in_few_runs_and_no_secret_anywhere(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    site, local = authority.issue("site", [HOST]), authority.issue("local", ["127.0.0.1"])
    answers = dict(ANSWERS)

    def answer(request: Any) -> tuple[int, list[tuple[str, str]], str]:
        name = request.path[1:].partition("/")[0]
        status, said = answers[name]
        return status, [], json.dumps({**said, "echo": PATHS[name][3]})

    servers = (
        Nginx(tmp_path / "nginx", site, SITE, "return 301 https://$host$request_uri;"),
        Names({**ZONE, (HOST, "A"): ["127.0.0.1"]}),
        Cache(tmp_path, SENTINEL.format("redis")),
        Mail(USER, SECRET, context_of(local)),
        Web(answer, context_of(local)),
    )
    with serving(*servers) as (nginx, names, cache, mail, web):
        values = {"SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(mail.port), "SMTP_USER": USER, "SMTP_PASSWORD": SECRET, "REDIS_URL": cache.url}
        values.update({"NEXT_PUBLIC_SUPABASE_URL": "https://abcd.supabase.co", **ENV})
        env_file = tmp_path / "app.env"
        env_file.write_text("".join(f"{name}='{value}'\n" for name, value in values.items()), encoding="utf-8")
        env_file.chmod(0o600)
        variables = {
            "app_name": "shop",
            "app_source": "/srv/shop.git",
            "app_services": [{"name": "web", "entry": "server.js", "ports": {"blue": 1, "green": 2, "rehearsal": 3}}],
            "app_public_url": QUESTIONS["url"],
            "app_env_file": str(env_file),
            "edge_site": {"names": [HOST], "certificate": str(site), "key": str(site), "address": "127.0.0.1", "https_port": nginx.secure},
            **{f"preflight_{name}": value for name, value in QUESTIONS.items() if name != "url"},
            "preflight_connect_to": nginx.places,
            "preflight_tls_ca": str(authority.ca),
            "preflight_resolvers": [names.address],
            "preflight_dns": [{"name": HOST, "values": ["127.0.0.1"]}],
            "preflight_mail": [{"domain": HOST, "spf": ["mail.test"]}],
            "preflight_domains": [HOST],
            "preflight_redis": {"window": 1.0},
            "preflight_smtp": {"ca": str(authority.ca)},
            "preflight_sentry_var": "SENTRY_DSN",
            "preflight_apis": {name: {"base": f"{web.url}/{name}", "ca": str(authority.ca)} for name in answers},
        }
        said, found = played(tmp_path, variables)
        assert [gate for gate in found if gate["verdict"] != "pass"] == []
        assert len(found) == 36, sorted(gate["name"] for gate in found)
        # The copy at the end is the test's own.
        assert len(re.findall(r"^<\S+> EXEC .*AnsiballZ_(?:network|services)\.py", said, re.MULTILINE)) <= 6
        assert mail.mails == []

        answers.update(dict.fromkeys(answers, (401, {"message": "wrong"})))
        env_file.write_text(env_file.read_text().replace(cache.url, cache.url.replace("redis-", "other-")).replace(SECRET, SECRET[::-1]), encoding="utf-8")
        worse, failing = played(tmp_path, {**variables, "preflight_dns": [{"name": HOST, "values": ["192.0.2.1"]}]})
    bad = [gate["name"] for gate in failing if gate["verdict"] != "pass"]
    assert len(bad) == 2 + len(answers) + 1, bad
    kept = (tmp_path / "gates.json").read_text(encoding="utf-8")
    secrets = [SECRET[::-1], SENTINEL[:8], "0f0f0f0f", *(value for name, value in ENV.items() if name != "NEXT_PUBLIC_FROM_EMAIL")]
    assert [secret for secret in secrets for text in (said, worse, kept) if secret in text] == []
    for path in (tmp_path / "local", tmp_path / "remote"):
        assert not any(secret.encode() in each.read_bytes() for each in path.rglob("*") if each.is_file() for secret in secrets)
