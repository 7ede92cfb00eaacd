"""The licences that a licence file states, each with the place and the rule that says so.

Licence texts are recognised by the reference texts that they contain; what no reference covers is searched for names and
standard phrases, as ScanCode does for references to a licence.
Guarantee: a copy of a reference text is recognised as that licence. Cost: about 5 ms for 10 kB of licence text.
"""

import html
import re
from typing import NamedTuple

from starloom.tasks.kernels.licenses.phrases import WORD, phrase_places
from starloom.tasks.kernels.licenses.policy import parse_expression
from starloom.tasks.kernels.licenses.references import covering_references, license_words, without_copyright_lines

MAX_TEXT = 500_000
"""Characters of a licence file that are read: five times the longest licence; a longer file is a list of other people's."""

TAG = re.compile(r"SPDX-License-Identifier:[ \t]*([^\r\n]*)", re.IGNORECASE)
_TAG_END = re.compile(r"(?:(?<!\*)\*+/|-->|#\}|\*\)|\]\]|-\}|%>|(?<!\")\"+|(?<!')'+|(?<!`)`+|;;|\\n.*)$")
_MARKUP = re.compile(r"<(?:style|script)\b.{0,100000}?</(?:style|script)>|<[^<>]{0,2000}>", re.DOTALL | re.IGNORECASE)
_RICH_TEXT = re.compile(r"\\'[0-9a-fA-F]{2}|\\[a-zA-Z]+-?\d* ?|[{}]")
_PHRASE_SCORE = 80.0
"""What a name or a standard phrase counts, beside the 100 of a whole text: it may be part of a sentence that says otherwise."""


class Statement(NamedTuple):
    """A licence that a text states."""

    expression: str | None
    """SPDX expression; None: terms that nobody identified."""
    line: int
    """From 1."""
    score: float
    """Percent: of a reference text, how much of it is there; 100 of a tag or a declaration."""
    rule: str
    """What recognised it, such as `text:MIT`, `phrase:MIT`, `tag`, `package.json` or `scancode:mit_14.RULE`."""


def text_statements(text: str) -> list[Statement]:
    """Return all licences that a licence file states, ordered by SPDX id; of a long one, its first half million characters."""
    return read_text(text)[0]


def read_text(text: str) -> tuple[list[Statement], int]:
    """Return the same statements, and how many words no reference text covers."""
    text = text[:MAX_TEXT]
    places = {
        str(parsed.render()): Statement(str(parsed.render()), line_of(text, tag.start()), 100.0, "tag")
        for tag in reversed(list(TAG.finditer(text)))
        if (parsed := parse_expression(tag_value(tag[1]))) is not None
    }
    words = license_words(text)
    found, covered = covering_references(words)
    left = [number for number, is_covered in enumerate(covered) if not is_covered]
    rest = " ".join(words[number] for number in left)
    named = {spdx_id: left[rest.count(" ", 0, place)] for spdx_id, place in phrase_places(rest).items()}
    lines = _lines_of_words(text, {reference.first for reference in found} | set(named.values()))
    stated = {spdx_id: Statement(spdx_id, lines[number], _PHRASE_SCORE, f"phrase:{spdx_id}") for spdx_id, number in named.items()}
    stated |= {each.spdx_id: Statement(each.spdx_id, lines[each.first], each.score, f"text:{each.spdx_id}") for each in found}
    return [statement for _, statement in sorted((stated | places).items())], len(left)


def text_licenses(text: str) -> tuple[str, ...]:
    """Return the SPDX expressions of all licences that a licence file states, sorted."""
    return tuple(str(statement.expression) for statement in text_statements(text))


def readable_text(name: str, text: str) -> str:
    """Return a licence file without the markup that its name announces (HTML, XML, RTF), its lines where they were."""
    ending = name.rpartition(".")[2].lower()
    text = text[: 2 * MAX_TEXT]
    if ending in ("html", "htm", "xhtml", "xml"):
        return html.unescape(_MARKUP.sub(lambda found: " " + "\n" * found[0].count("\n"), text))
    return _RICH_TEXT.sub(" ", text) if ending == "rtf" else text


def tag_value(rest_of_line: str) -> str:
    """Return the expression of a tag, without the end of the comment that it stands in."""
    return _TAG_END.sub("", rest_of_line.strip()).strip()


def line_of(text: str, position: int) -> int:
    """Return the line of a position, from 1."""
    return text.count("\n", 0, position) + 1


def _lines_of_words(text: str, numbers: set[int]) -> dict[int, int]:
    """Return the line, from 1, of each of some words of a licence text."""
    stripped = without_copyright_lines(text)
    last = max(numbers, default=-1)
    starts = {number: found.start() for number, found in zip(range(last + 1), WORD.finditer(stripped), strict=False) if number in numbers}
    return {number: line_of(stripped, start) for number, start in starts.items()}
