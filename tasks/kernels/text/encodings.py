"""Encodings of source text: what is no plain UTF-8 is decoded where its encoding is certain, and refused where it is a guess.

In this order: a byte-order mark (Unicode 16, section 23.8); a declaration, by the source or in the first two lines (PEP 263, which Emacs
and Vim read too); charset-normalizer on the lines that are not ASCII, if one family of encodings fits better than all others. Among
Western ones with one score Windows-1252 is taken, as browsers do (WHATWG, Encoding). A text of a licence is never lost: it falls back to
Windows-1252 and Latin-1.
Guarantee: what is decoded was decoded strictly and whole, without its mark; equal bytes, equal text. Cost: a millisecond or more a text;
only texts that are no UTF-8, or begin with a mark, come here.
"""

import codecs
import re
from typing import NamedTuple

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le", "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "utf-16-be"),
)
"""(mark, name of the encoding with it, codec of what follows), the longer before the shorter that it begins with."""

FAMILIES = {
    **dict.fromkeys(("cp1252", "iso8859_15", "cp1250", "cp1254"), "western"),
    **dict.fromkeys(("cp1251", "koi8_r", "cp866"), "cyrillic"),
    **dict.fromkeys(("gb18030", "big5"), "chinese"),
    **dict.fromkeys(("cp932", "euc_jp"), "japanese"),
    "cp949": "korean",
    "cp1253": "greek",
    "cp1255": "hebrew",
}
"""Encodings that are looked for → their family; those of the WHATWG's table that source code is found in."""

_DECLARED = re.compile(rb"\A(?:[^\n]*\n)?[^\n]*?coding[:=][ \t]*([-\w.]{2,30})")
_SAMPLE_BYTES = 1 << 14
_MOST_CHAOS = 0.1
_TIE = 0.02
_ASCII = 0x80
_EVIDENCE_BYTES = 8
"""Bytes that are not ASCII which it takes to tell an encoding that is not Western: any two bytes are a Chinese character."""
_NO_TEXT = frozenset({"idna", "punycode", "raw_unicode_escape", "unicode_escape", "utf_7"})


class Decoded(NamedTuple):
    """A text and the encoding that it was in."""

    text: str
    encoding: str


def decode(content: bytes, *, declared: str | None = None, is_license: bool = False) -> Decoded | None:
    """Return the text of a content; None if its encoding is not certain.

    Args:
        content: no plain UTF-8, or with a byte-order mark.
        declared: what the source says of its encoding.
        is_license: whether it stands under the name of a licence, and is to be read in any case.
    """
    for mark, name, codec in MARKS:
        if content.startswith(mark):
            return _decoded(content[len(mark) :], codec, name)
    in_file = _DECLARED.match(content[:1000])
    told = (_codec(name) for name in (declared, in_file[1].decode() if in_file else None) if name)
    for codec in filter(None, told):
        if found := _decoded(content, codec, codec):
            return found
    likely = (_detected(content), *(("cp1252", "iso8859_1") if is_license else ()))
    return next((found for codec in filter(None, likely) if (found := _decoded(content, codec, codec))), None)


def _decoded(content: bytes, codec: str, name: str) -> Decoded | None:
    try:
        return Decoded(content.decode(codec), name)
    except (UnicodeError, LookupError):  # a LookupError: Python knows it as no encoding of text
        return None


def _codec(name: str) -> str | None:
    """Return Python's name of an encoding of text; Latin-1 and ASCII as browsers read them."""
    try:
        known = codecs.lookup(name).name.replace("-", "_")
    except LookupError:
        return None
    known = "cp1252" if known in ("iso8859_1", "ascii") else known
    return None if known in _NO_TEXT or known.startswith(("utf_8", "utf8")) else known


def _detected(content: bytes) -> str | None:
    """Return the encoding of the one family that fits best."""
    from charset_normalizer import from_bytes

    sample = _sample(content)
    found = from_bytes(sample, cp_isolation=list(FAMILIES), enable_fallback=False)
    matches = [match for match in found if match.encoding in FAMILIES]
    least = min((match.chaos for match in matches), default=1.0)
    if least > _MOST_CHAOS:
        return None
    tied = [match for match in matches if match.chaos <= least + _TIE]
    names = {name for match in tied for name in match.could_be_from_charset if name in FAMILIES}
    families = {FAMILIES[match.encoding] for match in tied}
    if len(families) != 1:
        return None
    if "cp1252" in names:
        return "cp1252"
    evidence = sum(byte >= _ASCII for byte in sample)
    return str(tied[0].encoding) if len(tied) == 1 and evidence >= _EVIDENCE_BYTES else None


def _sample(content: bytes) -> bytes:
    """Return the first lines that are not ASCII; without those that are, they are all that says something."""
    found, size = [], 0
    for line in content.splitlines(keepends=True):
        if not line.isascii():
            found.append(line[:_SAMPLE_BYTES])
            size += len(found[-1])
        if size >= _SAMPLE_BYTES:
            break
    return b"".join(found)
