# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pages that are made from the code, so that they cannot say anything else: bin/docs writes them, a lint test compares them."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.sluice.deploy.plugins.module_utils.core import gate_table, states

CHECKOUT = Path(__file__).resolve().parents[2]
# A longer default is better read where it is written.
_WIDEST = 60


def pages() -> dict[Path, str]:
    """Return the text of every page that is made, by its path in the checkout."""
    roles = sorted(path.parents[1] for path in CHECKOUT.glob("roles/*/meta/argument_specs.yml"))
    made = {Path("docs/states.md"): states.as_markdown(), Path("docs/preflight.md"): _between("docs/preflight.md", "gates", gate_table.as_markdown())}
    return {**made, **{role.relative_to(CHECKOUT) / "README.md": _role(role) for role in roles}}


def _between(name: str, mark: str, text: str) -> str:
    """Return a page with what stands between two marks made anew."""
    before, _mark, rest = (CHECKOUT / name).read_text(encoding="utf-8").partition(f"<!-- {mark} -->")
    return f"{before}<!-- {mark} -->\n\n{text}\n<!-- /{mark} -->{rest.partition(f'<!-- /{mark} -->')[2]}"


def _role(role: Path) -> str:
    spec = yaml.safe_load((role / "meta/argument_specs.yml").read_text(encoding="utf-8"))["argument_specs"]["main"]
    lines = [f"# {spec['short_description']}", "", f"Role `sluice.deploy.{role.name}`. {_text(spec['description'])}", ""]
    lines += ["Generated from `meta/argument_specs.yml` by `bin/docs`.", "", "| name | type | default | what |", "| --- | --- | --- | --- |"]
    lines += [_row(name, option) for name, option in (spec.get("options") or {}).items()]
    return "\n".join(lines) + "\n"


def _row(name: str, option: dict[str, Any]) -> str:
    choices = f"One of {', '.join(f'`{choice}`' for choice in option['choices'])}. " if "choices" in option else ""
    kind = f"{option['type']} of {option['elements']}" if "elements" in option else option["type"]
    cells = (f"`{name}`", kind, _default(option), choices + _text(option["description"]))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _default(option: dict[str, Any]) -> str:
    if option.get("required"):
        return "required"
    value = option.get("default")
    if value is None:
        return "unset"
    shown = (value or "''") if isinstance(value, str) else json.dumps(value)
    return f"`{shown}`" if len(shown) <= _WIDEST else "[see there](defaults/main.yml)"


def _text(description: str | list[str]) -> str:
    return " ".join([description] if isinstance(description, str) else description)


def main() -> None:
    """Write the pages that differ from what they should say."""
    for name, text in pages().items():
        path = CHECKOUT / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")


if __name__ == "__main__":
    main()
