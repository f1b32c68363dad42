# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A pytest plugin: what was left out is named last, where it is seen, not only counted."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Add the last section before the closing line."""
    yield
    skipped = (report.longrepr for report in terminalreporter.stats.get("skipped", []))
    reasons = Counter(str(longrepr[2] if isinstance(longrepr, tuple) else longrepr).removeprefix("Skipped: ") for longrepr in skipped)
    if reasons:
        terminalreporter.section("NOT RUN", sep="!", yellow=True, bold=True)
        for reason, count in reasons.items():
            terminalreporter.line(f"{count} test{'s' if count > 1 else ''}: {reason}", yellow=True)
