r"""Runs of encoded data in a text: base64, hexadecimal bytes and Unicode escapes, as StarCoder2 looked for them.

The expressions are those of arXiv 2402.19173 §2.1 (and of opc_data_filtering, quality_signals/code.py, which counts as here):

    base64    [a-zA-Z0-9+/\n=]{64,}
    hex       (?:\b(?:0x|\\x)?[0-9a-fA-F]{2}(?:,|\b\s*)){8,}
    unicode   (?:\\u[0-9a-fA-F]{4}){8,}

Guarantee: the matches of Python's `re.finditer` on the decoded text, whose `\b` and `\s` are Unicode's. Each is found without going back:
at a place where a unit of the second or third begins it can end in one way only, so that a chain of units is a match or holds none.
Cost: 0.3 ns a byte of source code, sixty-four bytes at a time with a bit a byte for each class, as in text_signals.
"""

# ruff: noqa: PLR2004 - the numbers are those of the expressions

import functools
from typing import Any

import numpy as np
import pyarrow as pa
from llvmlite import ir  # type: ignore[import-untyped]  # comes with numba
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from starloom.tasks.kernels.compiled import njit
from starloom.tasks.kernels.text.arrow_bytes import string_buffers

_Bytes = NDArray[np.uint8]
_Int64s = NDArray[np.int64]

PATTERNS = {
    "base64": r"[a-zA-Z0-9+/\n=]{64,}",
    "hex": r"(?:\b(?:0x|\\x)?[0-9a-fA-F]{2}(?:,|\b\s*)){8,}",
    "unicode_escape": r"(?:\\u[0-9a-fA-F]{4}){8,}",
}
"""Kind → the published expression: what the kernel finds, and what a page marks."""

_WORD, _SPACE = 1, 2


def encoded_data(column: pa.ChunkedArray) -> dict[str, NDArray[np.int64]]:
    """Measure encoded data.

    Args:
        column: n texts without nulls.

    Returns:
        int64 [n], in characters: max_base64_length, max_hex_length, max_unicode_escape_length of the longest match of each kind, and
        encoded_chars of all matches of all kinds; what two expressions match counts twice, as published.
    """
    offsets, data = string_buffers(column)
    found = _measure(offsets, data, _characters())
    names = ("max_base64_length", "max_hex_length", "max_unicode_escape_length", "encoded_chars")
    return dict(zip(names, found.T, strict=True))


@functools.cache
def _characters() -> _Bytes:
    """Return flags of every code point as `re` knows them, uint8 [0x110000]: of a word 1, white space 2."""
    points = np.arange(0x110000, dtype=np.uint32).view("<U1")
    flags = (np.strings.isalnum(points) * _WORD + np.strings.isspace(points) * _SPACE).astype(np.uint8)
    flags[ord("_")] |= _WORD
    return flags


@intrinsic
def _bits_in_range(_typing: Any, _address: Any, _low: Any, _count: Any, _case: Any) -> Any:
    """Return 64 bits: which of the bytes at an address, or-ed with `case`, lie in low .. low + count - 1."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        byte, number, vector = ir.IntType(8), ir.IntType(32), ir.VectorType(ir.IntType(8), 64)

        def spread(value: Any) -> Any:
            undefined = ir.Constant(vector, ir.Undefined)
            lone = builder.insert_element(undefined, builder.trunc(value, byte), number(0))
            return builder.shuffle_vector(lone, undefined, ir.Constant(ir.VectorType(number, 64), None))

        address, low, count, case = arguments
        block = builder.load(builder.inttoptr(address, vector.as_pointer()), align=1)
        # x - low < count, unsigned: one comparison checks both ends, as what is below `low` wraps around to a large number
        shifted = builder.sub(builder.or_(block, spread(case)), spread(low))
        return builder.bitcast(builder.icmp_unsigned("<", shifted, spread(count)), ir.IntType(64))

    return types.uint64(types.int64, types.int64, types.int64, types.int64), build


@intrinsic
def _byte(_typing: Any, _address: Any) -> Any:
    """Return a byte as a number."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.zext(builder.load(builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())), ir.IntType(64))

    return types.int64(types.int64), build


@intrinsic
def _lowest(_typing: Any, _bits: Any) -> Any:
    """Return the position of the lowest bit set."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), build


@intrinsic
def _highest(_typing: Any, _bits: Any) -> Any:
    """Return the position of the highest bit set."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        zeros = builder.ctlz(arguments[0], ir.Constant(ir.IntType(1), 1))
        return builder.sub(ir.Constant(ir.IntType(64), 63), zeros)

    return types.int64(types.uint64), build


@njit(cache=True, nogil=True)
def _measure(offsets: _Int64s, data: _Bytes, characters: _Bytes) -> _Int64s:  # noqa: C901, PLR0912 - one loop over the blocks
    """Return per text, int64 [n, 4]: the longest match of each expression, and the characters of all.

    Of each block of 64 bytes, a bit for each byte of the class of base64, for each that may begin the two digits of a hex unit, and for
    each backslash before a `u`. A run of 64 of base64 reaches across a border of blocks or fills one. The last two of a text and the
    first are looked at in any case: what is beside them is of another text.
    """
    found = np.zeros((len(offsets) - 1, 4), np.int64)
    padded, one = np.zeros(192, np.uint8), np.uint64(1)
    text, table, size, padding = np.int64(data.ctypes.data), np.int64(characters.ctypes.data), len(data), np.int64(padded.ctypes.data)
    for i in range(len(offsets) - 1):
        begin, end = text + offsets[i], text + offsets[i + 1]
        at, run, hex_from, escape_from = begin, begin, begin, begin
        while at < end:
            block = at
            if at == text or at + 67 > text + size:
                for byte in range(-1 if at > text else 0, min(67, text + size - at)):
                    padded[64 + byte] = data[at - text + byte]
                block = padding + 64
            width = min(np.int64(64), end - at)
            valid = (one << np.uint64(width)) - one if width < 64 else ~np.uint64(0)
            other = ~_base64(block) & valid
            if other != 0:
                if at + _lowest(other) - run >= 64:
                    _count(found[i], 0, at + _lowest(other) - run)
                run = at + _highest(other) + 1
            digits = _hex_begins(block) & valid
            if at == begin:
                digits |= one | (one << np.uint64(2))  # the second after a prefix
            if end - at <= 64:
                digits |= (one << np.uint64(width - 1)) | (one << np.uint64(max(width, np.int64(2)) - 2))
            if end - at == 65:
                digits |= one << np.uint64(63)
            while digits != 0:
                first = at + _lowest(digits)
                digits &= digits - one
                if first - 2 >= begin and _byte(first - 1) == 0x78 and (_byte(first - 2) == 0x30 or _byte(first - 2) == 0x5C):
                    first -= 2
                if first >= hex_from:
                    after = _hex_chain(begin, first, end, table, found[i])
                    hex_from = after if after > first else hex_from
            backslashes = _bits_in_range(block, 0x5C, 1, 0) & _bits_in_range(block + 1, 0x75, 1, 0) & valid
            while backslashes != 0:
                first = at + _lowest(backslashes)
                backslashes &= backslashes - one
                if first >= escape_from:
                    escape_from = first
                    while _is_escape(escape_from, end):
                        escape_from += 6
                    if escape_from - first >= 48:
                        _count(found[i], 2, escape_from - first)
            at += width
        if end - run >= 64:
            _count(found[i], 0, end - run)
    return found


@njit(cache=True, nogil=True)
def _count(found: _Int64s, kind: int, length: int) -> None:
    """Count a match."""
    found[kind] = max(found[kind], length)
    found[3] += length


@njit(cache=True, nogil=True, forceinline=True)
def _base64(block: int) -> np.uint64:
    """Return which of 64 bytes are in the class of base64."""
    inside = _bits_in_range(block, 0x61, 26, 0x20) | _bits_in_range(block, 0x2F, 11, 0)  # a-z A-Z, then / and 0-9
    return np.uint64(inside | _bits_in_range(block, 0x2B, 1, 0) | _bits_in_range(block, 0x3D, 1, 0) | _bits_in_range(block, 0x0A, 1, 0))


@njit(cache=True, nogil=True, forceinline=True)
def _hex_begins(block: int) -> np.uint64:
    """Return which of 64 bytes may be the first of two hex digits: of ASCII no word goes on behind them or before, but for an x."""
    digit = _bits_in_range(block, 0x30, 10, 0) | _bits_in_range(block, 0x61, 6, 0x20)
    digit &= _bits_in_range(block + 1, 0x30, 10, 0) | _bits_in_range(block + 1, 0x61, 6, 0x20)
    before = _bits_in_range(block - 1, 0x30, 10, 0) | _bits_in_range(block - 1, 0x61, 26, 0x20) | _bits_in_range(block - 1, 0x5F, 1, 0)
    after = _bits_in_range(block + 2, 0x30, 10, 0) | _bits_in_range(block + 2, 0x61, 26, 0x20) | _bits_in_range(block + 2, 0x5F, 1, 0)
    return np.uint64(digit & (~before | _bits_in_range(block - 1, 0x78, 1, 0)) & ~after)


@njit(cache=True, nogil=True)
def _hex_chain(begin: int, at: int, end: int, table: int, found: _Int64s) -> int:
    """Count the match of hex that begins here, if one does; return where its units end."""
    start, units, beyond = at, 0, 0
    while True:
        after, wide = _unit(begin, at, end, table)
        if after < 0:
            break
        units, beyond, at = units + 1, beyond + wide, after
    if units >= 8:
        _count(found, 1, at - start - beyond)
    return at


@njit(cache=True, nogil=True)
def _unit(begin: int, at: int, end: int, table: int) -> tuple[int, int]:
    """Return where a unit of hex that begins here ends, and its bytes that continue a character; (-1, 0) if none begins here."""
    digits = at
    if at + 2 <= end and (_byte(at) == 0x30 or _byte(at) == 0x5C) and _byte(at + 1) == 0x78:
        digits = at + 2
    if digits + 2 > end or not _is_hex(_byte(digits)) or not _is_hex(_byte(digits + 1)):
        return -1, 0
    if _is_word(at, end, table) == (at > begin and _was_word(at, table)):
        return -1, 0
    after = digits + 2
    if after < end and _byte(after) == 0x2C:
        return after + 1, 0
    if _is_word(after, end, table):
        return -1, 0
    beyond = 0
    while after < end:
        point, width = _decode(after)
        if not _byte(table + point) & 2:
            break
        after += width
        beyond += width - 1
    return after, beyond


@njit(cache=True, nogil=True)
def _is_hex(byte: int) -> bool:
    """Return whether a byte is a hex digit."""
    return 0x30 <= byte <= 0x39 or 0x61 <= byte | 0x20 <= 0x66


@njit(cache=True, nogil=True)
def _is_word(at: int, end: int, table: int) -> bool:
    """Return whether the character at a place is of a word."""
    return bool(at < end and _byte(table + _decode(at)[0]) & 1 == 1)


@njit(cache=True, nogil=True)
def _was_word(at: int, table: int) -> bool:
    """Return whether the character before a place is of a word."""
    before = at - 1
    while _byte(before) & 0xC0 == 0x80:
        before -= 1
    return bool(_byte(table + _decode(before)[0]) & 1 == 1)


@njit(cache=True, nogil=True)
def _is_escape(at: int, end: int) -> bool:
    r"""Return whether `\uXXXX` stands here."""
    if at + 6 > end or _byte(at) != 0x5C or _byte(at + 1) != 0x75:
        return False
    return bool(_is_hex(_byte(at + 2)) and _is_hex(_byte(at + 3)) and _is_hex(_byte(at + 4)) and _is_hex(_byte(at + 5)))


@njit(cache=True, nogil=True)
def _decode(at: int) -> tuple[int, int]:
    """Return the code point at an address of valid UTF-8, and its number of bytes."""
    lead = _byte(at)
    if lead < 0x80:
        return lead, 1
    if lead < 0xE0:
        return ((lead & 0x1F) << 6) | (_byte(at + 1) & 0x3F), 2
    if lead < 0xF0:
        return ((lead & 0x0F) << 12) | ((_byte(at + 1) & 0x3F) << 6) | (_byte(at + 2) & 0x3F), 3
    high = ((lead & 0x07) << 18) | ((_byte(at + 1) & 0x3F) << 12)
    return high | ((_byte(at + 2) & 0x3F) << 6) | (_byte(at + 3) & 0x3F), 4
