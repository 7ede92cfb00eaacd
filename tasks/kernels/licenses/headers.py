"""The licence that a source file states for itself in its first lines.

A tag `SPDX-License-Identifier:` counts before a field (`__license__ =`, `@license`), and that before the standard notices. One
regular expression screens the first 4 kB of every text; only those that it hits are looked at, each distinct one once.
Guarantee: a mention of a licence is no notice; there must be words that put this file under it. Cost: screening at over 1 GB/s.
"""

import functools
import re
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from starloom.tasks.kernels.licenses.names import declared_expression, url_license
from starloom.tasks.kernels.licenses.phrases import ASIDES, RESTRICTED, WORD, conjunction, gnu_licenses, phrase_places
from starloom.tasks.kernels.licenses.statements import TAG, line_of, tag_value

HEADER_LINES = 30
HEADER_BYTES = 4096
NOTICE_SCORE = 90.0
"""What a standard notice counts, beside the 100 of a tag."""


class Header(NamedTuple):
    """Statement of the first lines of a file about its licence."""

    expression: str | None
    """SPDX expression; None: it states none, or none that is understood."""
    line: int
    """From 1."""
    score: float
    rule: str
    """`tag`, `field`, `notice`, `reference` (it points to another file), or `unread` (it looks like a licence)."""
    target: str | None = None
    """The file that it points to, as it is written there."""


_BLANK = re.compile(r"\n(?=[^\w\n]*\n)")
"""The end of a line before one without words: each piece that is split there but the first begins with that line."""
_CUES = (
    *("licen", "notice", "confidential", "proprietary", "trade secret", "unauthori", "permission", "permitted"),
    *("redistribut", "public domain", "unencumbered", "terms", "endorse", "gpl", "warrant", "copying"),
)
"""What a paragraph that speaks of a licence contains, in lower case."""
_SCREEN = (
    r"(?i:SPDX-License-Identifier:|licen[cs]|copyright[^\n]{0,40}notice|confidential|proprietary"
    r"|permission (?:is|to)\b|redistribution and use|redistribute it|public domain|\bterms (?:of|as) )"
)
_FIELD = re.compile(
    r"(?im)^[^\w\n]{0,12}(?:__licen[cs]e__|@licen[cs]e|\\licen[cs]e|:?licen[cs]e)[ \t]*(?:[:=]|(?<=@license)|(?<=@licence))[ \t]*"
    r"[\"'(]?([^\"'\n]{2,120}?)[\"')]?[ \t]*[;,.]?[ \t]*(?:\*+/|-->)?[ \t]*$"
)
_COMMENT = r"(?:[ \t#/*;%!<>.|~+-]|\"\"\"|'''){0,12}"
"""What stands before the first word of a line of a comment, and not of a list of strings."""
_AT_START = re.compile(
    rf"(?im)^{_COMMENT}(?:(?:released|licensed|distributed|published|available)[ ,]+)?(?:under[ ]+)?(?:the[ ]+)?"
    r"(?:MIT|Expat|ISC|(?:new |modified |simplified |[234]-clause )?BSD(?:[ -][234][ -]clause)?"
    r"|Apache|Zlib|Boost Software)[ -]licen[cs]e(?:d)?\b"
)
"""A line that begins with the name of a licence: the title of a notice."""
_URL = re.compile(
    r"(?i)https?://(?:www\.)?(?:opensource\.org|spdx\.org|apache\.org|mozilla\.org|gnu\.org|boost\.org|creativecommons\.org|unlicense\.org)"
    r"/[^\s\"'<>)\],;]*"
)
_GNU_SCREEN = re.compile(r"(?i)(?:General|Mozilla)[^A-Za-z]+Public[^A-Za-z]+Licen|licen[cs]ed?\b[^\n]{0,40}\b[al]?gpl")
_GNU_NOTICE = re.compile(
    r"redistribute it|under the terms|subject to the terms|(?:licensed|released|distributed|covered|available) under"
    r"|\blicen[cs]e (?:is )?(?:the )?(?:gnu )?[al]?gpl"
)
_ALTERNATIVE = re.compile(r"\bdual(?:ly)? licen[cs]ed|\b(?:mit|bsd|apache)(?: \S+){0,3} (?:or|and) (?:the )?(?:gnu )?[al]?gpl")
"""A choice between licences, as jQuery's plugins offer: the notice settles nothing, the repository's licence does."""
_CHOICE = re.compile(r"\beither\b|\bat your (?:option|choice)\b|\bdual(?:ly)? licen[cs]ed\b(?! under both)|\bany of the following\b")
_NAMES = (
    r"(?:mit|expat|isc|x11"
    r"|apache|(?:new |modified |revised |simplified |\d clause )?bsd|boost software|zlib|mozilla|eclipse|common|artistic"
    r"|creative commons|cc|unlicense|universal permissive|academic free|european union|open software|microsoft public|python software"
    r"|psf|zope|university of illinois|mulan|unicode|w3c|postgresql|sil open font|business source|elastic|server side|polyform|wtfpl)\b"
)
_UNDER = re.compile(
    r"\b(?:licen[cs]ed?|released|distribut\w+|available|provided|published|covered|governed|subject|used?|redistributed?|terms|shared)"
    r"(?: \S+){0,9}? (?:under|by|with|of|to)(?: \S+){0,4}? " + _NAMES
)
_LABEL = re.compile(
    rf"(?im)^{_COMMENT}(?:(?:this|the) (?:file|code|program|software|work|module|script|project)(?: is|'s)? )?licen[cs]e[sd]?(?: is| are)?"
    rf"[ \t:-]{{1,6}}(?:the |a |an )?{_NAMES}"
)
"""A line that begins with the word: `License: BSD`."""
_GRANT = re.compile(
    r"\bpermission is hereby granted|\bpermission to use copy modify|\bredistribution and use in source and binary forms"
    r"|\bthis is free and unencumbered software|\b(?:placed|released|is|put|dedicated) (?:in|into|to) the public domain"
    r"|\bthis software is provided as is without any express or implied warranty in no event|\bsame terms as perl\b"
)
_CLOSED = re.compile(
    r"\bconfidential (?:and )?(?:\w+ )?proprietary\b|\bproprietary (?:and |or )?confidential\b"
    r"|\bunauthori[sz]ed (?:copying|reproduction|distribution)\b"
    r"|\bproprietary (?:and )?(?:trade secrets?|information)\b|\bcompany confidential\b"
    r"|\btrade secrets? of\b"
)
_REFERENCES = (
    re.compile(
        r"(?i)\bsee (?:the )?(?:accompanying )?(?:copyright notice|licen[cs]e(?: notice| terms| agreement| information)?"
        r"|copying(?: conditions)?"
        r"|copyright(?: information| and licen[cs]e)?|notice|terms)[ \t]+(?:in|at|of)[ \t]+(?:the )?(?:file )?[\"'`<]?([\w./-]{1,100}\w)"
    ),
    re.compile(
        r"(?i)\blicen[cs]e[^.\n]{0,60}(?:found|described|included|given|stated)[ \t]+in[ \t]+(?:the )?(?:file )?[\"'`<]?([\w./-]{1,100}\w)"
    ),
    re.compile(
        r"(?i)\bsee (?:the )?(?:file )?[\"'`<]?([\w./-]{1,100}\w)[\"'`>]?,? "
        r"(?:file )?for (?:the )?(?:\w+ ){0,3}(?:licen[cs]\w+|copyright|copying)"
    ),
)
_LOOKS_LIKE = re.compile(
    r"\bpermission (?:is|to)\b|\bredistribut|\blicen[cs]ed? (?:under|agreement|terms|to)\b|\bunder the terms\b|\bpublic domain\b"
    r"|\blicen[cs]e (?:is|and)\b|\bunder (?:the |a )?(?:\w+ ){1,4}licen[cs]e\b|\bconfidential\b|\bproprietary\b"
    r"|\bmay (?:not )?be (?:used|copied|reproduced|distributed)\b"
)


def read_headers(column: pa.ChunkedArray) -> dict[int, Header]:
    """Return row → header for all texts whose first lines say something about their licence, or look as if they did."""
    kind = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
    heads = pc.binary_slice(column.cast(kind), 0, HEADER_BYTES)
    rows = pc.indices_nonzero(pc.match_substring_regex(heads, _SCREEN))
    found = ((row, read_header(head_of(head))) for row, head in zip(rows.to_pylist(), heads.take(rows).to_pylist(), strict=True))
    return {row: header for row, header in found if header is not None}


def head_of(content: bytes) -> str:
    """Return the lines of a file in which it may state its licence."""
    return "\n".join(content[:HEADER_BYTES].decode("utf-8", "ignore").splitlines()[:HEADER_LINES])


def read_header(head: str) -> Header | None:
    """Return what the first lines of a file say about its licence; None if they do not speak of one."""
    lines, paragraphs = _paragraphs(head)
    header = _read_paragraphs(paragraphs) if paragraphs else None
    return None if header is None else header._replace(line=lines[header.line - 1])


def _paragraphs(head: str) -> tuple[list[int], str]:
    """Return the paragraphs that may speak of a licence, and the line of `head`, from 1, of each of their lines.

    The rest differs from file to file, these are the same in all files of a repository.
    """
    lines: list[int] = []
    kept: list[str] = []
    begin = 1
    for paragraph in _BLANK.split(head):
        num_lines = paragraph.count("\n") + 1
        lowered = paragraph.lower()
        if any(cue in lowered for cue in _CUES):
            lines += range(begin, begin + num_lines)
            kept.append(paragraph)
        begin += num_lines
    return lines, "\n".join(kept)


@functools.lru_cache(maxsize=8192)
def _read_paragraphs(head: str) -> Header | None:
    if tags := list(TAG.finditer(head)):
        values = [tag_value(tag[1]) for tag in tags]
        expression = " AND ".join(f"({v})" if len(values) > 1 else v for v in values)
        return Header(expression, line_of(head, tags[0].start()), 100.0, "tag")
    words = ASIDES.sub(" ", " ".join(WORD.findall(head.lower())))
    if _ALTERNATIVE.search(words):
        return None
    return _field(head) or _notice(head, words) or _reference(head) or _unread(head, words)


def _field(head: str) -> Header | None:
    for found in _FIELD.finditer(head):
        value = found[1].strip().rstrip("*/ ")
        if expression := declared_expression(value):
            return Header(expression, line_of(head, found.start(1)), 100.0, "field")
    return None


def _notice(head: str, words: str) -> Header | None:
    gnu: set[str] = gnu_licenses(words) if _GNU_SCREEN.search(head) and _GNU_NOTICE.search(words) else set()
    named = {spdx_id for spdx_id in phrase_places(words) if "GPL-" not in spdx_id} if _is_notice(head, words) else set()
    named |= {spdx_id for spdx_id in phrase_places(words) if spdx_id.startswith("MPL-")} if _GNU_NOTICE.search(words) else set()
    named |= {RESTRICTED} if _CLOSED.search(words) else set()
    named |= _addressed(head, words) if not gnu | named else set()
    if _CHOICE.search(words) and not gnu and len(named) > 1 and RESTRICTED not in named:
        expression: str | None = " OR ".join(sorted(named))
    else:
        expression = conjunction(gnu | named)
    return None if expression is None else Header(expression, _line_of_notice(head), NOTICE_SCORE, "notice")


def _is_notice(head: str, words: str) -> bool:
    """Return whether words put this file under a licence, rather than mention one."""
    return any(pattern.search(words) for pattern in (_UNDER, _GRANT)) or any(pattern.search(head) for pattern in (_LABEL, _AT_START))


def _addressed(head: str, words: str) -> set[str]:
    """Return the licences whose addresses stand in a notice that names none."""
    if not re.search(r"\blicen[cs]ed?\b", words):
        return set()
    return {spdx_id for found in _URL.finditer(head) if (spdx_id := url_license(found[0].rstrip("."))) is not None}


_PLACE = re.compile(
    r"(?i)(?:General|Mozilla)[^A-Za-z]+Public|\b[al]?gpl|licen[cs]e|permission (?:is|to)|redistribution and use|confidential|proprietary"
    r"|public domain|free and unencumbered|same terms as perl"
)


def _line_of_notice(head: str) -> int:
    gnu = re.search(r"(?i)(?:General|Mozilla)[^A-Za-z]+Public|\b[al]?gpl", head)
    found = gnu or _PLACE.search(head)
    return line_of(head, found.start() if found else 0)


def _reference(head: str) -> Header | None:
    for pattern in _REFERENCES:
        if found := pattern.search(head):
            return Header(None, line_of(head, found.start()), 0.0, "reference", found[1])
    return None


def _unread(head: str, words: str) -> Header | None:
    """Return a header that looks like a licence and was not understood: a case for a slower detector."""
    return Header(None, _line_of_notice(head), 0.0, "unread") if _LOOKS_LIKE.search(words) else None
