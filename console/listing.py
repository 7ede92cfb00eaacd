"""Text of documents as numbered, highlighted lines, with marks where something stands.

The text is data: each character is escaped, and those that cannot be seen become chips. Highlighting is of what is shown only, so that a
page costs no more than its own size.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from starloom.console.formats import chips

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pygments.lexer import Lexer

SHOWN_LINES = 400
SHOWN_WIDTH = 600
"""Characters of a line that are shown."""
BEFORE_MARK = 80
LINES_BEFORE = 100
"""Lines above the first one shown that are read for the highlighting: it may begin within a string or comment."""
_MAX_HIGHLIGHTED = 120_000
"""Characters beyond which a text is shown without colours: lexers are slow."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a text, in characters, half-open."""

    start: int
    end: int
    kind: str
    """`redaction`, `offence` …: the class of its markup."""
    label: str
    """Said of it."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line as it is shown."""

    number: int
    html: Markup
    marks: tuple[str, ...] = ()
    """Labels of the marks that begin in it."""
    left_out: int = 0
    """Characters of it that are not shown."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Lines of a text from `first` on."""

    lines: list[Line]
    first: int
    num_lines: int

    @property
    def next_line(self) -> int | None:
        """Number of the first line after those shown; None at the end."""
        after = self.first + len(self.lines)
        return after if after <= self.num_lines else None


@dataclass(frozen=True, slots=True)
class _Cut:
    """The stretch of a line that is shown: from `start` on in the whole text."""

    number: int
    start: int
    text: str
    left_out: int


def listing(
    text: str,
    path: str,
    language: str | None,
    *,
    marks: Sequence[Mark] = (),
    first: int = 1,
    num_lines: int = SHOWN_LINES,
    width: int = SHOWN_WIDTH,
) -> Listing:
    """Return lines of a text, numbered from 1; long ones are cut, around their first mark.

    Args:
        text: of a document.
        path: of it, and
        language: of it, which choose the highlighting.
        marks: places in it.
        first: line to begin with.
        num_lines: lines to show at most.
        width: characters of a line to show at most.
    """
    starts = line_starts(text)
    begin = max(1, min(first, len(starts)))
    cuts = [
        _cut(text, number, starts[number - 1], _end(text, starts, number), marks, width)
        for number in range(begin, min(begin + num_lines, len(starts) + 1))
    ]
    before = [
        _cut(text, number, starts[number - 1], _end(text, starts, number), (), width)
        for number in range(max(1, begin - LINES_BEFORE), begin)
    ]
    painted = _painted(before, cuts, path, language)
    lines = [_line(cut, pieces, marks) for cut, pieces in zip(cuts, painted, strict=True)]
    return Listing(lines, begin, len(starts))


def line_starts(text: str) -> list[int]:
    """Return the position at which each line begins; a line feed ends one, and nothing else does."""
    starts, at = [0], text.find("\n")
    while at >= 0 and at + 1 < len(text):
        starts.append(at + 1)
        at = text.find("\n", at + 1)
    return starts


def line_of(starts: Sequence[int], position: int) -> int:
    """Return the number of the line that holds a position."""
    return bisect.bisect_right(starts, position)


def _end(text: str, starts: Sequence[int], number: int) -> int:
    """Return the end of a line, without its line end."""
    end = starts[number] - 1 if number < len(starts) else len(text)
    end -= end > starts[number - 1] and text[end - 1 : end] == "\n"
    return end - (end > starts[number - 1] and text[end - 1] == "\r")


def _cut(text: str, number: int, start: int, end: int, marks: Sequence[Mark], width: int) -> _Cut:
    marked = min((mark.start for mark in marks if start <= mark.start < end), default=start)
    begin = start if end - start <= width or marked - start < width - BEFORE_MARK else marked - BEFORE_MARK
    shown = text[begin : min(end, begin + width)]
    return _Cut(number, begin, shown, end - start - len(shown))


def _painted(before: Sequence[_Cut], cuts: Sequence[_Cut], path: str, language: str | None) -> list[list[tuple[str, str]]]:
    """Return of each line its pieces: (class of highlighting, text); those `before` are read, not returned."""
    plain = [[("", cut.text)] for cut in cuts]
    if sum(len(cut.text) for cut in cuts) > _MAX_HIGHLIGHTED:
        return plain
    from pygments.token import STANDARD_TYPES

    code = "\n".join(cut.text for cut in (*before, *cuts))
    lines: list[list[tuple[str, str]]] = [[]]
    reached = 0
    for at, kind, value in lexer_of(path, language).get_tokens_unprocessed(code):
        if at != reached:  # a lexer that leaves something out or says it twice: its colours are not worth a wrong text
            return plain
        reached = at + len(value)
        name = next((STANDARD_TYPES[each] for each in reversed(kind.split()) if each in STANDARD_TYPES), "")
        first, *rest = value.split("\n")
        lines[-1].append((name, first))
        lines += [[(name, piece)] for piece in rest]
    return lines[len(before) :] if reached == len(code) else plain


def lexer_of(path: str, language: str | None) -> Lexer:
    """Return the lexer for a language, or for what the path says, or one that colours nothing."""
    from pygments.lexers import get_lexer_by_name, get_lexer_for_filename
    from pygments.lexers.special import TextLexer
    from pygments.util import ClassNotFound

    try:
        return get_lexer_by_name((language or "").lower().replace(" ", "-"))
    except ClassNotFound:
        pass
    try:
        return get_lexer_for_filename(path.rpartition("/")[2])
    except ClassNotFound:
        return TextLexer()


def _line(cut: _Cut, pieces: Iterable[tuple[str, str]], marks: Sequence[Mark]) -> Line:
    end = cut.start + len(cut.text)
    mine = [mark for mark in marks if mark.start < end and mark.end > cut.start]
    labels = tuple(dict.fromkeys(mark.label for mark in mine if mark.start >= cut.start))
    html = Markup("").join(_spelt(cut, pieces, mine))
    return Line(cut.number, html, labels, cut.left_out)


def _spelt(cut: _Cut, pieces: Iterable[tuple[str, str]], marks: Sequence[Mark]) -> Iterator[Markup]:
    """Yield the pieces of a line, cut where marks begin and end."""
    borders = sorted({border for mark in marks for border in (mark.start, mark.end)})
    at = cut.start
    for name, text in pieces:
        inner = [border for border in borders if at < border < at + len(text)]
        for begin, end in zip([at, *inner], [*inner, at + len(text)], strict=True):
            if begin == end:
                continue
            shown: Markup = chips(text[begin - at : end - at])
            if name:
                shown = Markup('<span class="{}">{}</span>').format(name, shown)
            mark = next((mark for mark in marks if mark.start <= begin < mark.end), None)
            if mark is not None:
                shown = Markup('<mark class="{}" title="{}">{}</mark>').format(mark.kind, mark.label, shown)
            yield shown
        at += len(text)
