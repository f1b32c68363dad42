# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A module that could not do its work ends with a sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.failures import in_words


@pytest.fixture
def module() -> Iterator[AnsibleModule]:
    with patch_module_args({}):
        yield AnsibleModule(argument_spec={})


def test_what_the_collection_refuses_is_told_with_its_remedy(module: AnsibleModule, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), in_words(module):
        raise SluiceError("The slot is held.", "End it.", port=3001)
    told = json.loads(capsys.readouterr().out)
    assert (told["failed"], told["msg"], told["remedy"], told["port"]) == (True, "The slot is held. End it.", "End it.", 3001)


def test_what_the_system_refuses_names_the_file(module: AnsibleModule, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), in_words(module):
        (tmp_path / "none").read_text()
    told = json.loads(capsys.readouterr().out)
    assert told["msg"].startswith(f"{tmp_path}/none could not be used: No such file or directory. Check its owner") and told["remedy"] in told["msg"]


def test_work_that_is_done_ends_nothing(module: AnsibleModule) -> None:
    with in_words(module):
        done = True
    assert done


def test_a_defect_stays_one(module: AnsibleModule) -> None:
    with pytest.raises(KeyError), in_words(module):
        raise KeyError("defect")
