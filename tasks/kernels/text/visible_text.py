"""The visible text of HTML: how many characters of a file a reader would see.

As StarCoder measured it (bigcode-dataset preprocessing/filtering.py, `filter_html`, with BeautifulSoup's "html.parser"): all text outside
of tags, comments and declarations, without what `script` and `style` hold; white space counts, but white space alone between two tags as
one character, unless `pre` or `textarea` keep it; a character reference is one character.
Guarantee: equal to Python's `html.parser` on well-formed HTML. It differs where a tag or comment is never closed, or a name behind `&` is
none of HTML's or stands for two characters. Of 332 files of an environment and its documentation, BeautifulSoup gives 330 the same
number and all the same verdict (decision 42).
Cost: 4 ns a byte, of HTML alone.
"""

# ruff: noqa: PLR2004 - the numbers are ASCII

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from starloom.tasks.kernels.compiled import njit
from starloom.tasks.kernels.text.arrow_bytes import string_buffers

_Bytes = NDArray[np.uint8]
_Int64s = NDArray[np.int64]

_NAMES = tuple(np.frombuffer(name, np.uint8) for name in (b"script", b"style", b"pre", b"textarea"))
"""Of elements whose text is hidden, the first two, and of those whose white space is kept."""


def visible_chars(column: pa.ChunkedArray | pa.Array) -> _Int64s:
    """Return how many characters of each text are visible, int64 [n].

    Args:
        column: n HTML texts without nulls.
    """
    offsets, data = string_buffers(column)
    visible: _Int64s = _measure(offsets, data, *_NAMES)
    return visible


@njit(cache=True, nogil=True)
def _measure(offsets: _Int64s, data: _Bytes, script: _Bytes, style: _Bytes, pre: _Bytes, textarea: _Bytes) -> _Int64s:
    """Return the characters outside of markup of each text. A piece of white space alone is one character, unless it is kept."""
    visible = np.zeros(len(offsets) - 1, np.int64)
    for i in range(len(offsets) - 1):
        at, end = offsets[i], offsets[i + 1]
        piece, is_blank, kept = 0, True, 0
        while at < end:
            byte = data[at]
            if byte == 0x3C:  # <
                after = _markup(data, at, end, script, style)
                if after > at:
                    visible[i] += min(piece, 1) if is_blank and kept == 0 else piece
                    piece, is_blank = 0, True
                    if _is_named(data, at + 1, after, pre) or _is_named(data, at + 1, after, textarea):
                        kept += 1
                    elif _is_named(data, at + 2, after, pre) or _is_named(data, at + 2, after, textarea):
                        kept = max(kept - 1, 0)
                    at = after
                    continue
            elif byte == 0x26:  # &
                after = _reference(data, at, end)
                if after > at:
                    piece, is_blank, at = piece + 1, False, after
                    continue
            piece += byte & 0xC0 != 0x80
            is_blank &= byte in (0x20, 0x09, 0x0A, 0x0C, 0x0D)
            at += 1
        visible[i] += min(piece, 1) if is_blank and kept == 0 else piece
    return visible


@njit(cache=True, nogil=True)
def _markup(data: _Bytes, at: int, end: int, script: _Bytes, style: _Bytes) -> int:  # noqa: PLR0911 - one for each kind of markup
    """Return where the tag, comment or declaration that begins here ends, with the contents of script and style; `at` if it is text."""
    if at + 1 >= end:
        return at
    byte = data[at + 1]
    if byte == 0x21 and at + 3 < end and data[at + 2] == 0x2D and data[at + 3] == 0x2D:  # <!--
        return int(_comment_end(data, at + 4, end))
    if byte in (0x21, 0x3F):  # <! <?
        return int(_find(data, at + 2, end, 0x3E))
    if byte == 0x2F:  # </
        return int(_find(data, at + 2, end, 0x3E)) if at + 2 < end and _is_letter(data[at + 2]) else at
    if not _is_letter(byte):
        return at
    after = int(_tag_end(data, at + 1, end))
    if data[after - 2] == 0x2F:  # <script/> holds nothing
        return after
    for hidden in (script, style):
        if _is_named(data, at + 1, after, hidden):
            return int(_hidden_end(data, after, end, hidden))
    return after


@njit(cache=True, nogil=True)
def _comment_end(data: _Bytes, at: int, end: int) -> int:
    """Return where a comment ends: behind `-->`, or with the text."""
    while at + 2 < end:
        if data[at] == 0x2D and data[at + 1] == 0x2D and data[at + 2] == 0x3E:
            return at + 3
        at += 1
    return end


@njit(cache=True, nogil=True)
def _find(data: _Bytes, at: int, end: int, byte: int) -> int:
    """Return the place behind the next such byte, or the end."""
    while at < end and data[at] != byte:
        at += 1
    return min(at + 1, end)


@njit(cache=True, nogil=True)
def _tag_end(data: _Bytes, at: int, end: int) -> int:
    """Return the place behind the `>` of a tag; one inside a quoted value does not count."""
    while at < end and data[at] != 0x3E:
        if data[at] == 0x3D:  # =
            at += 1
            while at < end and data[at] in (0x20, 0x09, 0x0A, 0x0D):
                at += 1
            if at < end and data[at] in (0x22, 0x27):
                at = _find(data, at + 1, end, data[at])
            continue
        at += 1
    return min(at + 1, end)


@njit(cache=True, nogil=True)
def _is_named(data: _Bytes, at: int, end: int, name: _Bytes) -> bool:
    """Return whether a tag has a name."""
    if at + len(name) >= end:
        return False
    for letter in range(len(name)):
        if data[at + letter] | 0x20 != name[letter]:
            return False
    return data[at + len(name)] in (0x20, 0x09, 0x0A, 0x0C, 0x0D, 0x2F, 0x3E)


@njit(cache=True, nogil=True)
def _hidden_end(data: _Bytes, at: int, end: int, name: _Bytes) -> int:
    """Return where the closing tag of script or style begins, or the end."""
    while at + 1 < end:
        if data[at] == 0x3C and data[at + 1] == 0x2F and _is_named(data, at + 2, end, name):
            return at
        at += 1
    return end


@njit(cache=True, nogil=True)
def _reference(data: _Bytes, at: int, end: int) -> int:
    """Return where a character reference that begins here ends; `at` if none does."""
    after = at + 1
    while after < end and after - at < 32 and (_is_letter(data[after]) or 0x30 <= data[after] <= 0x39 or data[after] == 0x23):
        after += 1
    return after + 1 if after > at + 1 and after < end and data[after] == 0x3B else at


@njit(cache=True, nogil=True)
def _is_letter(byte: int) -> bool:
    """Return whether a byte is a letter of ASCII."""
    return 0x61 <= byte | 0x20 <= 0x7A
