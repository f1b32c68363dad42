# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The linters, each as one test."""
from __future__ import annotations

import pytest
from ansible_collections.sluice.deploy.tests.harness.checkout import CHECKOUT, alone, files, run


@pytest.mark.timeout(600)
def test_ansible_lint() -> None:
    with alone("ansible-lint"):
        run(["ansible-lint", "--offline", "--nocolor", "-q"])


def test_yamllint() -> None:
    run(["yamllint", "--strict", "--format=parsable", "."])


def test_ruff() -> None:
    run(["ruff", "check", "--quiet", "--output-format=concise", "."])


def test_mypy() -> None:
    run(["mypy", "--no-error-summary"])


def test_shellcheck() -> None:
    scripts = [name for name in files() if name.suffix == ".sh" or (CHECKOUT / name).read_bytes()[:64].startswith((b"#!/usr/bin/env bash", b"#!/bin/sh"))]
    run(["shellcheck", "--external-sources", *scripts])


def test_changelog() -> None:
    run(["antsibull-changelog", "lint"])
