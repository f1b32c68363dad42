# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of the project that no linter knows."""
from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.sluice.deploy.tests.harness.checkout import CHECKOUT, files

# Written in pieces, so that this file does not offend itself.
HOSTS = ("pypi" + ".org", "files.python" + "hosted.org", "registry.npm" + "js.org", "deb.debian" + ".org", "ghcr" + ".io", "hub.docker" + ".com")
FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.\-}$~])/(?:work" + r"/|root" + r"/|home/(?!ops\b)[a-z]+/)"),
    "a registry's host": re.compile("|".join(re.escape(host) for host in HOSTS)),
}
MODULES = sorted(path.stem for path in (CHECKOUT / "plugins/modules").glob("*.py") if path.stem != "__init__")


def _text(name: Path) -> str:
    try:
        return (CHECKOUT / name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_file_names_this_machine_or_a_registry(what: str) -> None:
    lines = [(f"{name}:{number}", line) for name in files() for number, line in enumerate(_text(name).splitlines(), 1)]
    found = [f"{place} {line.strip()[:120]}" for place, line in lines if FORBIDDEN[what].search(line)]
    assert found == [], f"{what} has no place in the project"


@pytest.mark.parametrize("name", [name for name in files() if name.suffix == ".py" and _text(name).strip()], ids=str)
def test_python_files_begin_alike(name: Path) -> None:
    head = _text(name)[:2000]
    assert "# SPDX-License-Identifier: GPL-3.0-or-later" in head
    assert "GNU General Public License v3.0+" in head
    assert "from __future__ import annotations" in _text(name)


def test_whole_action_group() -> None:
    """Every module that changes something for a release takes the defaults of the group."""
    group = re.findall(r"^    - (\w+)$", _text(Path("meta/runtime.yml")), flags=re.MULTILINE)
    assert sorted(group) == sorted(set(group)), "meta/runtime.yml names a module twice"
    assert [name for name in group if name not in MODULES] == [], "meta/runtime.yml names modules that do not exist"
