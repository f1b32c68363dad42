# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is recorded of a playbook's tasks: those that ran, and not those that were skipped; and only while the file is the same."""
from __future__ import annotations

import sys
from pathlib import Path

from ansible_collections.sluice.deploy.tests.harness import ran
from ansible_collections.sluice.deploy.tests.harness.checkout import CHECKOUT, run

PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars:
    app_name: wallet
    release_ledger_directory: "{{ playbook_dir }}/ledger"
  tasks:
    - ansible.builtin.include_role: {name: sluice.deploy.release, tasks_from: read, rolespec_validate: false}
    - ansible.builtin.include_role: {name: sluice.deploy.edge, tasks_from: read, rolespec_validate: false}
"""


def test_a_task_that_ran_is_recorded_and_one_that_was_skipped_is_not(tmp_path: Path) -> None:
    (tmp_path / "play.yml").write_text(PLAY)
    (tmp_path / "hosts").write_text("localhost\n[edges]\n")
    records = tmp_path / "ran"
    config = {"ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": "default", "ANSIBLE_LOCAL_TEMP": str(tmp_path / "tmp")}
    run([Path(sys.executable).parent / "ansible-playbook", "-i", tmp_path / "hosts", tmp_path / "play.yml"], deadline=60, **config, **ran.recording(records))
    assert ran.ran(records) == {"roles/release/tasks/read.yml:2"}
    (record,) = records.iterdir()
    record.write_text(record.read_text().replace(" ", " 0"))
    assert ran.ran(records) == set()


def test_what_can_run_is_found_in_blocks_and_what_is_only_read_in_is_not(tmp_path: Path) -> None:
    path = tmp_path / "main.yml"
    path.write_text(
        "---\n- name: Several\n  block:\n    - name: One\n      debug:\n  always:\n    - name: Two\n      debug:\n"
        "- import_tasks: other.yml\n- include_tasks: other.yml\n"
    )
    assert list(ran.tasks(path)) == [(4, "One"), (7, "Two"), (10, "")]
