"""Licences that ScanCode finds: for texts and headers that no exact rule knows.

Source: scancode-toolkit (nexB), with its index of about 40,000 rules. Guarantee: no time limit, so that the same text gives the same
answer on any machine; each distinct text once a process. Cost: seconds to load the index, about 76 ms a licence text.
"""

from __future__ import annotations

import functools
import importlib.metadata
import warnings
from typing import Any

from starloom.tasks.kernels.licenses.statements import Statement

DISTRIBUTION = "scancode-toolkit-mini"
MAX_SCANNED = 300_000
"""Characters of a text that are scanned: seconds of work at most; what follows is left to the exact rules."""


def installed_version() -> str | None:
    """Return the version of ScanCode on this machine; None if it is not there."""
    for name in (DISTRIBUTION, "scancode-toolkit"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


@functools.lru_cache(maxsize=20_000)
def scanned(text: str) -> tuple[Statement, ...]:
    """Return the licences that ScanCode detects, by expression, each at its first place; nothing of a text without one.

    The score is that of the worst match of a detection, in percent.
    """
    best: dict[str, Statement] = {}
    for detection in _detector()(query_string=text[:MAX_SCANNED].replace("\0", " ")):
        matches = sorted(detection.matches, key=lambda match: (match.start_line, match.rule.identifier))
        expression = detection.license_expression_spdx or ""  # none: it matches too little of any rule
        line, score = matches[0].start_line, float(min(match.score() for match in matches))
        if expression not in best or line < best[expression].line:
            best[expression] = Statement(expression or None, line, score, f"scancode:{matches[0].rule.identifier}")
    return tuple(best[expression] for expression in sorted(best))


@functools.cache
def _detector() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says which libmagic it found, which it will not need
        from licensedcode.cache import get_index
        from licensedcode.detection import detect_licenses

        index = get_index()
    return functools.partial(detect_licenses, index=index)
