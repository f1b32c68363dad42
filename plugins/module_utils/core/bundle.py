# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must not be in the files that browsers load: each server-only value in every spelling a bundler may give it, and keys nobody listed."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import FAIL, INCONCLUSIVE, PASS, Gate

LEAST = 8  # characters; what is shorter is found by accident
MIB = 1024 * 1024
# What is a secret whoever's it is; a test key in a bundle that takes live money is a build with the wrong environment (M-030).
SECRETS: Mapping[str, bytes] = {
    "a Stripe secret key": rb"[sr]k_(?:live|test|org)_[A-Za-z0-9_]{10,}",
    "a Stripe webhook secret": rb"whsec_[A-Za-z0-9+/=]{16,}",
}
TEST_KEY = rb"pk_test_[A-Za-z0-9]{10,}"


@dataclass(frozen=True)
class Scan:
    """What was looked through.

    :param found: variable, or what was found -> files, relative to the release.
    :param missing: folders that are not there.
    """

    files: int = 0
    size: int = 0
    found: Mapping[str, tuple[str, ...]] = ()  # type: ignore[assignment]
    missing: tuple[str, ...] = ()


def spellings(value: str) -> set[bytes]:
    """Return a value in clear, URL-encoded, inside JSON, and in base64 at each of the three places it can begin."""
    raw = value.encode()
    found = {raw, quote(value, safe="").encode(), quote(value).encode(), json.dumps(value)[1:-1].encode(), json.dumps(value, ensure_ascii=False)[1:-1].encode()}
    for shift in range(3):
        # Only the letters that come from the value alone: those at the ends also carry bits of its neighbours.
        begin, end = -(-shift * 8 // 6), (shift + len(raw)) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(b"\0" * shift + raw)[begin:end])
    return {text for text in found if len(text) >= LEAST}


def needles(values: Mapping[str, str]) -> dict[str, set[bytes]]:
    """Return what to look for: variable -> its spellings, without values too short to tell."""
    return {name: spellings(value) for name, value in values.items() if len(value) >= LEAST}


def patterns(keys: str) -> dict[str, re.Pattern[bytes]]:
    """Return what to look for by its form.

    :param keys: ``live`` where the release takes real money.
    """
    wanted = {**SECRETS, **({"a Stripe test key": TEST_KEY} if keys == "live" else {})}
    return {name: re.compile(form) for name, form in wanted.items()}


def judge(scan: Scan, folders: Sequence[str], looked_for: int) -> Gate:
    """Return the gate of the client bundle (S3-086, S3-122, M-030)."""
    if scan.found:
        told = "; ".join(f"{name} is in {_files(files)}" for name, files in sorted(scan.found.items()))
        return Gate(
            "client bundle",
            FAIL,
            f"{told}. Everybody who opens the page can read it (S3-086, S3-122)",
            value=len(scan.found),
            limit=0,
            sample=scan.files,
            remedy="Take it out of the client's code, change the secret if it was ever published, and build anew.",
        )
    if scan.missing or not scan.files:
        what = f"{', '.join(scan.missing)} is not in the release" if scan.missing else f"{', '.join(folders)} holds no file"
        return Gate("client bundle", INCONCLUSIVE, f"{what}, so not everything was looked through", remedy="Set app_bundle to the folders the build writes.")
    sentence = f"{scan.files} files of {', '.join(folders)} ({scan.size / MIB:.1f} MiB) hold none of {looked_for} server-only values"
    return Gate("client bundle", PASS, sentence, value=0, limit=0, sample=scan.files)


def _files(files: Sequence[str]) -> str:
    return f"{', '.join(files[:3])}{f' and {len(files) - 3} more' if len(files) > 3 else ''}"
