"""The places in a text that a verdict is about: one table, rule → how its place is found.

Every rule that a stage can name stands in `RULES`; a rule about a text as a whole, its file or its repository says so, and what was
measured. Places are half-open, in characters of the text that the step read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starloom.queries.leaks import find_leak
from starloom.queries.offending_places import offending_places

if TYPE_CHECKING:
    from collections.abc import Callable

HEADER_CHARACTERS = 4096
"""In which a licence's tag is looked for, as `starloom.tasks.kernels.licenses.statements` does."""
NOTICE_LINES = 24
"""Of a licence notice in a header, at most."""
NOT_NAMED = "how its place is found is not known here"
_TAG = re.compile(r"SPDX-License-Identifier:[^\r\n]*", re.IGNORECASE)
_LICENCE_LINE = re.compile(r"[^\n]*\blicen[cs]ed?\b[^\n]*", re.IGNORECASE)
_IN_HEADER = re.compile(r"\((?:header|header notice), line (\d+)")


@dataclass(frozen=True, slots=True)
class Case:
    """A verdict on a text."""

    text: str
    rule: str
    value: float | None = None
    detail: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    """Of the step that judged."""


@dataclass(frozen=True, slots=True)
class Found:
    """Places that are pointed at."""

    places: list[tuple[int, int, str]] = field(default_factory=list)
    """Start, end, and what is said of each."""
    measured: str | None = None
    """What was measured, where that is more than a verdict's value."""
    other: dict[str, Any] | None = None
    """The text that it was compared with: `title` and `text`."""


@dataclass(frozen=True, slots=True)
class Finder:
    """Way in which the place of a rule is found."""

    how: str
    find: Callable[[Case], Found] | None = None
    """None: no single place."""


def offence(case: Case) -> dict[str, Any]:
    """Return what a verdict is about, as plain values: `rule`, `how`, `places` (start, end, label), `measured`, `other`."""
    finder = RULES.get(case.rule, Finder(NOT_NAMED))
    found = Found() if finder.find is None else finder.find(case)
    places = [{"start": start, "end": end, "label": label} for start, end, label in found.places]
    return {"rule": case.rule, "how": finder.how, "places": places, "measured": found.measured, "other": found.other}


# Finders


def _of_quality(case: Case) -> Found:
    return Found([(place.start, place.end, place.label) for place in offending_places(case.text, case.rule)], _share(case))


def _share(case: Case) -> str | None:
    """Return the characters behind a share of them."""
    counted = {"alnum-fraction": (str.isalnum, "letters and digits"), "alpha-fraction": (str.isalpha, "letters")}.get(case.rule)
    if counted is None or not case.text:
        return None
    number = sum(map(counted[0], case.text))
    return f"{counted[1]} are {number:,} of {len(case.text):,} characters"


def _license(case: Case) -> Found:
    """Point at the tag or notice of a header. What is stated elsewhere has no place in this text."""
    detail = case.detail or ""
    line = _IN_HEADER.search(detail)
    if line is not None:
        return Found([(*_statement(case.text, int(line[1])), detail)])
    if "(" in detail:
        return Found(measured=f"stated outside of this file: {detail}")
    found = _TAG.search(case.text, 0, HEADER_CHARACTERS) or _LICENCE_LINE.search(case.text, 0, HEADER_CHARACTERS)
    return Found([(*found.span(), detail or case.rule)]) if found else Found(measured="no statement in this file or above it")


def _statement(text: str, line: int) -> tuple[int, int]:
    """Return the tag that stands in a line, or the notice that begins there: the lines until an empty one, or one without a word."""
    lines = text.splitlines(keepends=True)
    start = sum(map(len, lines[: line - 1]))
    tag = _TAG.search(text, start, start + len("".join(lines[line - 1 : line])))
    if tag is not None:
        return tag.span()
    end = start
    for each in lines[line - 1 : line - 1 + NOTICE_LINES]:
        if end > start and not re.search(r"\w", each):
            break
        end += len(each)
    return start, max(start, len(text[:end].rstrip()))


def _leak(case: Case) -> Found:
    leak = find_leak(case.config, case.text, case.detail, case.value)
    if leak.string is None:
        return Found(measured=f"{leak.source}: {leak.note}")
    return Found([(leak.start, leak.end, f"stands in {leak.source}")], other={"title": leak.source, "text": leak.string})


def _whole_document(case: Case) -> Found:
    return Found(measured=None if case.detail is None else f"evidence: {case.detail}")


# The table

_SOMEWHERE = "the place that the signal was measured at, found again in the text"
_OTHER_TEXT = "no single place: the text as a whole resembles another; the difference to it stands on the document's page"
_FILE = "no single place: it is about the path, the language or the repository, not the text"
_COUNT = "no single place: it is about the length of the whole text"
_MEASURE = "no single place: it is a share of the whole text"
_REPEATED = "the words or lines that are repeated"
_ENCODED = "the longest run of encoded data"

RULES: dict[str, Finder] = {
    # quality_filter: signals
    "num-chars": Finder(_COUNT),
    "num-lines": Finder("the last line, with its number", _of_quality),
    "max-line-length": Finder("the longest line", _of_quality),
    "avg-line-length": Finder("the longest lines, which make the average", _of_quality),
    "alnum-fraction": Finder("the longest stretch without letters or digits, and how many there are in all", _of_quality),
    "alpha-fraction": Finder("the longest stretch without letters, and how many there are in all", _of_quality),
    "has-xml-declaration": Finder("the declaration", _of_quality),
    "is-generated": Finder("the phrase in the first lines; none if the path says it", _of_quality),
    "duplicate-line-fraction": Finder(_REPEATED, _of_quality),
    "duplicate-line-char-fraction": Finder(_REPEATED, _of_quality),
    "max-base64-length": Finder(_ENCODED, _of_quality),
    "max-hex-length": Finder(_ENCODED, _of_quality),
    "max-unicode-escape-length": Finder(_ENCODED, _of_quality),
    "encoded-fraction": Finder("the longest runs of encoded data", _of_quality),
    "visible-chars": Finder("no single place: it is about what a browser would show of the whole page"),
    "visible-fraction": Finder("no single place: it is about what a browser would show of the whole page"),
    "comment-fraction": Finder(_MEASURE),
    **{f"top-{n}gram-fraction": Finder(_REPEATED, _of_quality) for n in (2, 3, 4)},
    **{f"duplicate-{n}gram-fraction": Finder(_REPEATED, _of_quality) for n in range(5, 11)},
    "is-malware": Finder("no single place: a scanner names what the file holds, not where", _whole_document),
    "stars": Finder(_FILE),
    "has-known-name": Finder(_FILE),
    "excluded-by-starcoder": Finder(_FILE),
    "outside-starcoder": Finder(_FILE),
    "excluded-by-starcoder2": Finder(_FILE),
    "outside-starcoder2": Finder(_FILE),
    "language-cap": Finder("no single place: a draw left it out of its language's share"),
    # license_filter, license_gate
    "permissive": Finder("the licence's tag or notice in the header", _license),
    "non-permissive": Finder("the licence's tag or notice in the header", _license),
    "unknown-license": Finder("the licence's tag or notice in the header", _license),
    "no-license": Finder("no single place: nothing was found", _whole_document),
    "contradicting-header": Finder("the licence's tag or notice in the header, which the repository's licence contradicts", _license),
    "sibling-header": Finder("no single place: another file of the repository states the licence; the evidence names it", _whole_document),
    "license-text": Finder("no single place: the whole file is a licence, evidence and no training text"),
    "unjudged": Finder("no single place: no step above judged its licence"),
    # exact_dedup, near_dedup
    "exact-duplicate": Finder("no single place: every byte is the survivor's, which is linked"),
    "near-duplicate": Finder(_OTHER_TEXT),
    "license-conflict": Finder("no single place: copies of it are under licences of another class; its cluster tells which"),
    "survivor": Finder("no single place: it is kept for its whole cluster"),
    # decontaminate
    "benchmark-leak": Finder("the string of the benchmark, in both texts", _leak),
}
"""Rule → how its place is found. `tests/test_offences.py` walks all rules that stages can name."""
