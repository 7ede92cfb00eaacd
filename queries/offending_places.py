"""Where in a text a rule of quality_filter is about: its places, found again in that one document. A pure function of the text.

A signal is stored as a number; the place behind it is not, and is looked for when a document is looked at. Rules about a text as a whole,
such as the share of its comments, have none.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starloom.tasks.kernels.text.encoded_data import PATTERNS
from starloom.tasks.kernels.text.text_signals import GENERATED_PHRASES, HEAD_LINES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MOST_PLACES = 5
_XML = re.compile(r"<\?xml version=[^\n]*")
_GENERATED = re.compile("|".join(GENERATED_PHRASES), re.IGNORECASE | re.ASCII)
_NOT_ALNUM, _NOT_ALPHA = re.compile(r"[\W_]+"), re.compile(r"[\W\d_]+")
_WORD = re.compile(r"(?:[0-9A-Za-z_]|[^\x00-\x7f])+")
_NGRAM = re.compile(r"(?:top|duplicate)-(\d+)gram-fraction")


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of a text that a rule is about."""

    start: int
    """Its first character."""
    end: int
    """The character behind its last."""
    byte_start: int
    """The same in UTF-8."""
    byte_end: int
    line: int
    """In which it begins, counted from 1 as `str.splitlines` has them."""
    label: str


def offending_places(text: str, rule: str) -> list[Place]:
    """Return the places that a rule is about, in the order of the text, at most five; none for a rule about the text as a whole.

    Args:
        text: of the document.
        rule: as verdicts spell it, such as `max-line-length`.
    """
    ngram = _NGRAM.fullmatch(rule)
    found = _repeated_words(text, int(ngram[1])) if ngram is not None else _FINDERS.get(rule, _nothing)(text)
    return [_place(text, *each) for each in sorted(found)[:MOST_PLACES]]


_Found = list[tuple[int, int, str]]


def _place(text: str, start: int, end: int, label: str) -> Place:
    byte_start = len(text[:start].encode())
    line = len((text[:start] + "x").splitlines())  # the x stands in the line of the place, even at its beginning
    return Place(start, end, byte_start, byte_start + len(text[start:end].encode()), line, label)


def _nothing(_text: str) -> _Found:
    return []


def _lines(text: str) -> list[tuple[int, int]]:
    """Return where each line begins and ends, without its end."""
    found, at = [], 0
    for line in text.splitlines(keepends=True):
        found.append((at, at + len(line.splitlines()[0])))
        at += len(line)
    return found


def _longest_lines(number: int) -> Callable[[str], _Found]:
    def find(text: str) -> _Found:
        lines = sorted(_lines(text), key=lambda line: (line[0] - line[1], line[0]))[:number]
        return [(start, end, f"{end - start:,} characters in this line") for start, end in lines]

    return find


def _last_line(text: str) -> _Found:
    lines = _lines(text)
    return [(*lines[-1], f"line {len(lines):,}, the last")] if lines else []


def _longest(patterns: Iterable[str | re.Pattern[str]], number: int, what: str) -> Callable[[str], _Found]:
    def find(text: str) -> _Found:
        spans = [match.span() for pattern in patterns for match in re.finditer(pattern, text)]
        longest = sorted(spans, key=lambda span: (span[0] - span[1], span[0]))[:number]
        return [(start, end, f"{end - start:,} characters of {what}") for start, end in longest]

    return find


def _first(pattern: re.Pattern[str], label: str, *, head: bool) -> Callable[[str], _Found]:
    def find(text: str) -> _Found:
        lines = text.splitlines(keepends=True)
        match = pattern.search("".join(lines[:HEAD_LINES]) if head else text)
        return [(*match.span(), label)] if match else []

    return find


def _repeated_lines(text: str) -> _Found:
    """Return the second and later of equal lines, as OpenCoder counts them."""
    rows, at = [], 0
    for line in text.split("\n"):
        stripped = line.strip()
        start = at + line.index(stripped) if stripped else at
        rows.append((start, start + len(stripped), stripped))
        at += len(line) + 1
    times = Counter(row[2] for row in rows)
    return [(start, end, f"stands here {times[line]:,} times") for start, end, line in rows if line and times[line] > 1]


def _repeated_words(text: str, n: int) -> _Found:
    """Return the most frequent n-gram, where it stands first."""
    words = list(_WORD.finditer(text))
    grams = Counter(tuple(word.group().lower() for word in words[at : at + n]) for at in range(len(words) - n + 1))
    gram, times = grams.most_common(1)[0] if grams else ((), 0)
    at = next((at for at in range(len(words)) if tuple(word.group().lower() for word in words[at : at + n]) == gram), 0)
    return [(words[at].start(), words[at + n - 1].end(), f"these {n} words stand here {times:,} times")] if times > 1 else []


_FINDERS: dict[str, Callable[[str], _Found]] = {
    "max-line-length": _longest_lines(1),
    "avg-line-length": _longest_lines(3),
    "num-lines": _last_line,
    "has-xml-declaration": _first(_XML, "XML declaration", head=False),
    "is-generated": _first(_GENERATED, "written by a program, it says", head=True),
    "alnum-fraction": _longest([_NOT_ALNUM], 1, "neither letters nor digits"),
    "alpha-fraction": _longest([_NOT_ALPHA], 1, "no letters"),
    "max-base64-length": _longest([PATTERNS["base64"]], 1, "base64"),
    "max-hex-length": _longest([PATTERNS["hex"]], 1, "hexadecimal bytes"),
    "max-unicode-escape-length": _longest([PATTERNS["unicode_escape"]], 1, "Unicode escapes"),
    "encoded-fraction": _longest(list(PATTERNS.values()), MOST_PLACES, "encoded data"),
    "duplicate-line-fraction": _repeated_lines,
    "duplicate-line-char-fraction": _repeated_lines,
}
