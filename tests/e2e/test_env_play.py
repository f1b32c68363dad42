# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment of an app through playbooks: put in place, fingerprinted, judged; and no value in any output."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.sluice.deploy.plugins.module_utils.core import dotenv

from tests.sandbox.world import CHECKOUT

BIN = Path(sys.executable).parent
SECRETS = {
    "DATABASE_URL": "postgresql://app:kT9w2Xq7Lb8Vn5Kd3Hs6Qm7Zt4@db.shop.test:5432/shop",
    "STRIPE_SECRET_KEY": "sk_live_51N3wAcc0untAbCdEQm7Zt4Rw9Xc2Lb8V",
    "ENCRYPTION_KEY": "n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=",
    "GREETING": "a value with spaces # and a hash",
}
SCHEMA = {
    "DATABASE_URL": {"kind": "postgres-url"},
    "STRIPE_SECRET_KEY": {"kind": "stripe-secret"},
    "ENCRYPTION_KEY": {"kind": "base64", "bytes": 32, "not_staging": True, "stable": True},
    "GREETING": {},
}


class Host:
    """One machine in an inventory of its own, with its files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.target = folder / "etc" / "shop.env"
        self.source = folder / "source.env"
        self.write(SECRETS)
        self.inventory = folder / "hosts.json"
        host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        groups = {name: {"hosts": {"here": None}} for name in ("edges", "apphosts", "databases")}
        variables = {"app_name": "shop", "app_env_file": str(self.target), "app_directory": str(folder / "srv"), "app_env": SCHEMA}
        self.inventory.write_text(json.dumps({"all": {"hosts": {"here": host}, "children": groups, "vars": variables}}))

    def write(self, values: dict[str, str]) -> None:
        self.source.write_text(dotenv.render(values), encoding="utf-8")
        self.source.chmod(0o600)

    def play(self, name: str, *words: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "sluice.deploy.release", "ANSIBLE_NOCOLOR": "1"}
        env["ANSIBLE_LOCAL_TEMP"] = env["ANSIBLE_REMOTE_TEMP"] = str(self.folder / "tmp")
        words = ("ansible-playbook", "-i", str(self.inventory), name, "-e", json.dumps(variables), *words)
        return subprocess.run([str(BIN / words[0]), *words[1:]], env=env, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False)

    def put(self, *words: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        return self.play("sluice.deploy.env", *words, app_env_source=str(self.source), **variables)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def closed(path: Path) -> bool:
    return stat.S_IMODE(path.stat().st_mode) == 0o600


def shown(done: subprocess.CompletedProcess[str], *more: str) -> list[str]:
    """Return which secrets are in an output."""
    return [value for value in (*SECRETS.values(), "kT9w2Xq7Lb8Vn5Kd3Hs6Qm7Zt4", *more) if value in done.stdout + done.stderr]


def test_the_environment_is_put_in_place_once(host: Host) -> None:
    done = host.put("--check", "--diff", "-vvvv")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "would put" in done.stdout and not host.target.exists()
    assert shown(done) == []

    done = host.put("--diff")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"put {host.target} in place: 4 added" in done.stdout and "+ENCRYPTION_KEY" in done.stdout
    assert shown(done) == []
    assert dotenv.parse(host.target.read_text(encoding="utf-8")) == SECRETS and closed(host.target)

    done = host.put("--diff")
    assert (done.returncode, "in place" in done.stdout) == (0, False)

    host.target.chmod(0o644)
    host.write({**{name: value for name, value in SECRETS.items() if name != "GREETING"}, "STRIPE_SECRET_KEY": "sk_live_another"})
    done = host.put("--diff", "-vvvv")
    assert "1 changed, 1 removed, mode or owner set" in done.stdout and "STRIPE_SECRET_KEY (another value)" in done.stdout
    assert shown(done, "sk_live_another") == [] and closed(host.target)
    assert not list(host.target.parent.glob(".*"))


def test_an_encrypted_source_is_put_in_place_in_clear(host: Host, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("of-the-vault\n")
    words = [str(BIN / "ansible-vault"), "encrypt", "--vault-password-file", str(password), str(host.source)]
    subprocess.run(words, check=True, capture_output=True, timeout=30)
    assert host.source.read_text().startswith("$ANSIBLE_VAULT")
    done = host.put("--vault-password-file", str(password), "-vvvv")
    assert done.returncode == 0, done.stdout + done.stderr
    assert dotenv.parse(host.target.read_text(encoding="utf-8")) == SECRETS and closed(host.target)
    assert shown(done) == []
    left = [path for path in (tmp_path / "tmp").rglob("*") if path.is_file() and any(value in path.read_text(errors="replace") for value in SECRETS.values())]
    assert left == [], "a copy in clear was left behind"


@pytest.mark.parametrize(
    ("text", "variables", "words"),
    [
        ("A='sentinel-of-the-file\n", {}, "Line 1 of the environment file opens a ' that is never closed. Close the quote."),
        ('A="sentinel\\t-of-the-file"\n', {}, "Not every reader reads the file alike. A: node 24 --env-file reads 22 characters"),
        ("A=sentinel-of-the-file\n", {"app_env_owner": "nobody-of-this-host"}, "There is no user nobody-of-this-host on this host."),
        ("A=sentinel-of-the-file\n", {"app_env_source": "/nowhere.env"}, "/nowhere.env on the control node cannot be read"),
        ("A=sentinel-of-the-file\n", {"app_env": {"A": {"kimd": "x"}}}, "app_env: A has the unknown key kimd (did you mean kind?)"),
    ],
)
def test_what_is_wrong_is_refused_and_not_shown(host: Host, text: str, variables: dict[str, Any], words: str) -> None:
    host.source.write_text(text)
    done = host.play("sluice.deploy.env", **{"app_env_source": str(host.source), **variables})
    assert done.returncode != 0
    assert words in " ".join(done.stdout.split())
    assert "sentinel" not in done.stdout + done.stderr and not host.target.exists()


@pytest.fixture
def judge(host: Host, tmp_path: Path) -> Callable[..., tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]]:
    """Judge the environment of the host through the role's own task."""
    play, artefact = tmp_path / "judge.yml", tmp_path / "gates.json"
    play.write_text(
        """
- name: Judge
  hosts: apphosts
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {name: sluice.deploy.app, rolespec_validate: false}
    - ansible.builtin.import_role: {name: sluice.deploy.preflight, tasks_from: host, rolespec_validate: false}
      vars: {__preflight_ports: [], preflight_version: '', app_database_var: NONE, backup_client_directory: ''}
    - ansible.builtin.copy: {content: "{{ __preflight_gates | to_json }}", dest: "{{ artefact }}", mode: '0600'}
"""
    )

    def run(*words: str, **variables: Any) -> tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]:
        artefact.unlink(missing_ok=True)
        said = host.play(str(play), *words, **{"preflight_min_free_bytes": 1, "artefact": str(artefact), **variables})
        assert artefact.exists(), said.stdout + said.stderr
        return said, json.loads(artefact.read_text(encoding="utf-8"))["gates"]

    return run


def test_staging_is_compared_by_fingerprints_alone(host: Host, judge: Callable[..., Any], tmp_path: Path) -> None:
    prints = tmp_path / "staging.json"
    host.put()
    done = host.play("sluice.deploy.fingerprint", "-vvvv", preflight_fingerprint_file=str(prints))
    assert done.returncode == 0, done.stdout + done.stderr
    assert closed(prints) and set(json.loads(prints.read_text())["fingerprints"]) == set(SECRETS)
    assert shown(done) == [] and not any(value in prints.read_text() for value in SECRETS.values())
    before = prints.read_text()
    done = host.play("sluice.deploy.fingerprint", preflight_fingerprint_file=str(prints))
    assert (prints.read_text(), "wrote" in done.stdout) == (before, False)

    done, gates = judge(app_env_staging=str(prints), app_env_platform=str(prints))
    told = {gate["name"]: gate["sentence"] for gate in gates if gate["verdict"] == "fail"}
    assert "it is the same as in staging" in told["environment ENCRYPTION_KEY"]
    assert shown(done, json.loads(before)["key"]) == []


def test_no_value_is_in_any_output_of_the_gates(host: Host, judge: Callable[..., Any], tmp_path: Path) -> None:
    """Every variable wrong in another way, each value a sentinel."""
    prints = tmp_path / "staging.json"
    host.put()
    host.play("sluice.deploy.fingerprint", preflight_fingerprint_file=str(prints))
    wrong = {
        "DATABASE_URL": "mysql://app:sentinel-password@sentinel-host/db",
        "STRIPE_SECRET_KEY": "pk_test_sentinelsentinelsentinel",
        "ENCRYPTION_KEY": "sentinel+sentinel+sentinel==",
        "GREETING": "  sentinel in spaces",
        "NEXT_PUBLIC_X": "sk_live_sentinelsentinel",
        "EXPANDED": "sentinel $HOME",
    }
    host.target.write_text(dotenv.render(wrong) + "GREETING='sentinel again'\nsentinel\nQ='sentinel\n", encoding="utf-8")
    host.target.chmod(0o644)
    template = tmp_path / "template.env"
    template.write_text("DATABASE_URL=\nOTHER=\n")
    variables = {"app_env_keys": "live", "app_env_template": str(template), "app_env_staging": str(prints), "app_env_platform": str(prints)}
    done, gates = judge(**variables)
    failed = {gate["name"].replace("environment ", "") for gate in gates if gate["verdict"] == "fail"}
    assert failed >= {*wrong, "file", "line 8", "line 9", "OTHER"}
    assert all(gate["remedy"] for gate in gates if gate["verdict"] == "fail")
    loud, again = judge("-vvvv", "--diff", **variables)
    assert "FAIL" in done.stdout
    assert "sentinel" not in done.stdout + done.stderr + loud.stdout + loud.stderr + json.dumps(gates + again)
    assert shown(done, json.loads(prints.read_text())["key"]) == shown(loud, json.loads(prints.read_text())["key"]) == []
