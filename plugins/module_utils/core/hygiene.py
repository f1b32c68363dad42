# Copyright: Contributors to the Sluice project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Source hygiene (C06; S4-002 to S4-006): what must not be in a release's source, found by path, line and kind; a secret is never repeated.

The patterns are the project's own and not a library's: hosts have the standard library only, and the verdict of a gate must not change with the version of
a scanner. What gitleaks or detect-secrets found is taken as an artefact beside.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from ansible_collections.sluice.deploy.plugins.module_utils.core.env_kinds import is_placeholder
from ansible_collections.sluice.deploy.plugins.module_utils.core.errors import SluiceError
from ansible_collections.sluice.deploy.plugins.module_utils.core.gates import failed, listed, passed, plural, unknown, warned
from ansible_collections.sluice.deploy.plugins.module_utils.core.verdict import Gate

CONSOLE, DEBUGGER, COMMENTED = "console.log", "debugger", "commented-out code"
_BITS = 3.3  # per character; words and names stay below, random text of 16 characters and more is above
_BLOCK = 3  # lines of code in a row that make a block of it
_SCRIPT = (".js", ".jsx", ".mjs", ".cjs", ".ts", ".tsx", ".mts", ".cts")
# Neither ours to mend nor read by people.
_FOREIGN = re.compile(r"(?:^|/)(?:node_modules|vendor|third_party)/|\.min\.(?:js|css)$|\.map$")
_TESTS = re.compile(
    r"(?:^|/)(?:tests?|__tests__|__mocks__|specs?|e2e|cypress)/|\.(?:test|spec|stories)\.\w+$|(?:^|/)test_[^/]*$|_test\.py$|(?:^|/)conftest\.py$"
)
_LOCKS = re.compile(r"(?:^|/)(?:package-lock\.json|npm-shrinkwrap\.json|yarn\.lock|pnpm-lock\.yaml|poetry\.lock|Pipfile\.lock|Cargo\.lock)$|\.svg$")
_KEYS = {
    "private key": r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY(?: BLOCK)?-----",
    "aws access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "stripe key": r"\b(?:sk|rk)_(?:live|test)_[0-9A-Za-z]{16,}|\bsk_org_(?:live|test)_[0-9A-Za-z]{16,}",
    "stripe webhook secret": r"\bwhsec_[0-9A-Za-z+/=]{24,}",
    "github token": r"\bgh[pousr]_[0-9A-Za-z]{36,}|\bgithub_pat_[0-9A-Za-z_]{40,}",
    "gitlab token": r"\bglpat-[0-9A-Za-z_-]{20,}",
    "slack token": r"\bxox[abeoprs]-[0-9A-Za-z-]{10,}|hooks\.slack\.com/services/T[0-9A-Z]+/B[0-9A-Z]+/[0-9A-Za-z]{16,}",
    "sendgrid key": r"\bSG\.[0-9A-Za-z_-]{16,32}\.[0-9A-Za-z_-]{32,64}",
    "resend key": r"\bre_[0-9A-Za-z]{6,12}_[0-9A-Za-z]{20,}",
    "twilio key": r"\bSK[0-9a-f]{32}\b",
    "google key": r"\bAIza[0-9A-Za-z_-]{35}|\bGOCSPX-[0-9A-Za-z_-]{20,}",
    "npm token": r"\bnpm_[0-9A-Za-z]{36}\b",
    "pypi token": r"\bpypi-AgEI[0-9A-Za-z_-]{40,}",
    "jwt": r"\beyJ[0-9A-Za-z_-]{10,}\.eyJ[0-9A-Za-z_-]{10,}\.[0-9A-Za-z_-]{16,}",
}
_KEY = re.compile("|".join(f"(?P<k{number}>{pattern})" for number, pattern in enumerate(_KEYS.values())))
_URL = re.compile(r"\b[a-z][a-z0-9+]{2,}://[^\s:/@'\"`<>]*:([^\s/@'\"`<>]{3,})@([^\s/:'\"`<>]+)")
_NAME = r"[\w.-]*(?:secret|token|passw(?:or)?d|pwd|api_?key|private_?key|access_?key|auth_?key|encryption_?key|credential)\w*"
_QUOTED = re.compile(rf"""(?i)\b{_NAME}["']?\]?\s*(?:=>|[:=])\s*["'`]([^"'`\s]{{12,}})["'`]""")
_BARE = re.compile(rf"""(?im)^\s*(?:export\s+)?{_NAME}\s*[:=]\s*([^"'`\s#]{{12,}})\s*$""")
_REFERENCE = re.compile(r"process\.env|os\.environ|import\.meta|getenv|\$\{|\{\{|<[^>]+>|^\$|%\(|lookup\(|secrets\.|vault|\*{4}|x{6}|\.{3}", re.IGNORECASE)
# Comments, strings and regular expressions, so that code is told from text.
_JS = re.compile(
    r"""(?P<line>//[^\n]*)|(?P<block>/\*.*?(?:\*/|\Z))|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*(?:`|\Z)
    |(?:(?<=[(,=:\[!&|?{};\n])|(?<=return))[ \t]*/(?![*/])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+/""",
    re.DOTALL | re.VERBOSE,
)
_PY = re.compile(r"""(?P<line>\#[^\n]*)|(?P<block>\"{3}.*?(?:\"{3}|\Z)|'{3}.*?(?:'{3}|\Z))|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL | re.VERBOSE)
_CONSOLE = re.compile(r"\bconsole\s*\.\s*log\s*\(")
_STOPS = {"js": re.compile(r"(?m)(?:^|[;{}\s])debugger\s*(?:;|$)"), "py": re.compile(r"\b(?:pdb\.set_trace|breakpoint)\s*\(")}
_CODE = {
    "js": re.compile(r"^(?:.*[;{]|[})\];,]+|(?:const|let|var|return|import|export|if|else|for|while|await|function|class)\b.*[({=>].*|<[/A-Za-z][^>]*>.*)$"),
    "py": re.compile(
        r"^(?:(?:def|class|if|elif|else|for|while|try|except|with)\b.*:|(?:return|import|from|raise)\s[\w.( ]+.*|[\w.\[\]'\"]+ ?[-+]?= ?\S.*|[\w.]+\(.*\),?)$"
    ),
}


@dataclass(frozen=True)
class Finding:
    """Something in the source: where, and of which kind; never the text itself."""

    path: str
    line: int
    kind: str


@dataclass(frozen=True)
class Allowed:
    """Findings that are meant: the path with ``*`` and ``?``, the kind, and why."""

    path: str
    kind: str
    reason: str


def allowed_from(data: Any) -> list[Allowed]:
    """Return the allow-list.

    :raises SluiceError: an entry lacks path, kind or reason, or has something else.
    """
    kinds = (CONSOLE, DEBUGGER, COMMENTED, "url with password", "random value", *_KEYS)
    for entry in data:
        if sorted(entry) != ["kind", "path", "reason"] or not all(str(entry[name]).strip() for name in entry):
            raise SluiceError(
                "Each entry of preflight_hygiene_allow needs path, kind and reason, and no more.",
                "Example: {path: 'scripts/*', kind: console.log, reason: a script for the terminal}",
            )
        if entry["kind"] not in kinds:
            raise SluiceError(f"preflight_hygiene_allow knows no kind {entry['kind']}.", f"There are: {', '.join(kinds)}.")
    return [Allowed(str(entry["path"]), entry["kind"], str(entry["reason"])) for entry in data]


def scan(path: str, text: str) -> Iterator[Finding]:
    """Yield what one file holds. Tests may print and stop; foreign files are looked through for keys of known shapes only."""
    yield from _secrets(path, text)
    language = "js" if path.endswith(_SCRIPT) else "py" if path.endswith(".py") else ""
    if not language or _FOREIGN.search(path) or _TESTS.search(path):
        return
    code, comments = _split(text, _JS if language == "js" else _PY)
    if language == "js":
        yield from (Finding(path, _line(code, found.start()), CONSOLE) for found in _CONSOLE.finditer(code))
    yield from (Finding(path, _line(code, found.start(0) + 1), DEBUGGER) for found in _STOPS[language].finditer(code))
    yield from (Finding(path, line, COMMENTED) for line in _blocks(comments, _CODE[language]))


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _secrets(path: str, text: str) -> Iterator[Finding]:
    seen: set[tuple[int, str]] = set()
    kinds, taken = list(_KEYS), set()
    for found in _KEY.finditer(text):
        if not is_placeholder(found.group(0)) and not re.search(r"x{6}|X{6}|\.{3}|0{10}|1234567890", found.group(0)):
            taken.add(_line(text, found.start()))
            seen.add((_line(text, found.start()), kinds[int(str(found.lastgroup)[1:])]))
    for found in _URL.finditer(text):
        local = found.group(2) in ("localhost", "127.0.0.1", "db", "postgres", "redis") or found.group(2).endswith((".local", ".test", ".example"))
        if not _harmless(found.group(1)) and not is_placeholder(found.group(2)) and not local:
            seen.add((_line(text, found.start()), "url with password"))
    if not _FOREIGN.search(path) and not _LOCKS.search(path) and not _TESTS.search(path):
        bare = _BARE.finditer(text) if re.search(r"(?:^|/)\.env[^/]*$|\.(?:env|ini|cfg|properties|ya?ml)$", path) else iter(())
        for found in (*_QUOTED.finditer(text), *bare):
            line = _line(text, found.start(1))
            if line not in taken and not _harmless(found.group(1)) and chance(found.group(1)) >= _BITS:
                seen.add((line, "random value"))
    yield from (Finding(path, line, kind) for line, kind in sorted(seen))


def _harmless(value: str) -> bool:
    return is_placeholder(value) or bool(_REFERENCE.search(value)) or value.lower() in ("password", "postgres", "secret", "user", "pass")


def chance(value: str) -> float:
    """Return the bits of chance in each character; a value without a digit, or made of words, counts as none."""
    if not re.search(r"\d", value) or not re.search(r"[A-Za-z]", value) or re.fullmatch(r"[A-Za-z]+(?:[-_./:][A-Za-z0-9]+)+", value):
        return 0.0
    return -sum(count / len(value) * math.log2(count / len(value)) for count in Counter(value).values())


def _split(text: str, pattern: re.Pattern[str]) -> tuple[str, list[tuple[int, str]]]:
    """Return the code with everything else blanked, and the comments with their first lines."""
    comments: list[tuple[int, str]] = []

    def blank(found: re.Match[str]) -> str:
        if found.lastgroup in ("line", "block"):
            comments.append((_line(text, found.start()), found.group(0)))
        return re.sub(r"[^\n]", " ", found.group(0))

    return pattern.sub(blank, text), comments


def _blocks(comments: Iterable[tuple[int, str]], code: re.Pattern[str]) -> Iterator[int]:
    """Yield the first line of each block of comments that is code: three lines in a row, most of which look like it."""
    lines: list[tuple[int, str]] = []
    for first, text in comments:
        # Documentation comments and strings hold examples.
        if not text.startswith(("/**", '"""', "'''")):
            lines += [(first + offset, re.sub(r"^\s*(?://+|/\*|\*/?|#+)|\*/\s*$", "", each).strip()) for offset, each in enumerate(text.split("\n"))]
    run: list[tuple[int, bool]] = []
    for number, words in [*lines, (-1, "")]:
        if run and number == run[-1][0] + 1 and words:
            run.append((number, bool(code.match(words))))
            continue
        if sum(looks for line, looks in run) >= _BLOCK and sum(looks for line, looks in run) * 3 >= len(run) * 2:
            yield run[0][0]
        run = [(number, bool(code.match(words)))] if words else []


def judge(findings: Sequence[Finding], allowed: Sequence[Allowed], files: int, unread: Sequence[str]) -> list[Gate]:
    """Return the gates over all findings; commented-out code is worth a look and no more (S4-006).

    :param files: how many files were looked through.
    :param unread: files that were too large to be.
    """
    left = [each for each in findings if not any(each.kind == allow.kind and fnmatchcase(each.path, allow.path) for allow in allowed)]
    spared = Counter(each.kind for each in findings) - Counter(each.kind for each in left)
    said = [
        _gate("source console.log", (CONSOLE,), left, spared, files, "Remove it, or write with the logger."),
        _gate("source debugger", (DEBUGGER,), left, spared, files, "Remove it; it stops the process where a debugger is attached."),
    ]
    secrets = [*_KEYS, "url with password", "random value"]
    remedy = "Make it invalid where it was issued, for it stays in the history; then read it from the environment file."
    gate = _gate("source secrets", secrets, left, spared, files, remedy)
    if unread and gate.verdict == "pass":
        gate = unknown(gate.name, f"not looked through, too large: {listed(unread)}", "Take it out of the repository, or give it to another scanner.")
    commented = _gate("source commented-out code", (COMMENTED,), left, spared, files, "Remove it; the history keeps it.")
    if commented.verdict == "fail":
        commented = warned(commented.name, commented.sentence, commented.remedy, value=commented.value, sample=files)
    return [*said, gate, commented]


def _gate(name: str, kinds: Sequence[str], left: Sequence[Finding], spared: Mapping[str, int], files: int, remedy: str) -> Gate:
    found = [each for each in left if each.kind in kinds]
    spare = sum(spared.get(kind, 0) for kind in kinds)
    meant = f" ({spare} allowed)" if spare else ""
    if not files:
        return unknown(name, "the version holds no file that could be read", "Look whether release_version names the right commit.")
    if not found:
        return passed(name, f"none in {plural(files, 'file')}{meant}", value=0, limit=0, sample=files)
    places = [f"{each.path}:{each.line}" + (f" {each.kind}" if len(kinds) > 1 else "") for each in found]
    allow = f"What is meant goes to preflight_hygiene_allow with path, kind ({found[0].kind}) and reason."
    return failed(name, f"{listed(places)}{meant}", f"{remedy} {allow}", value=len(found), limit=0, sample=files)
