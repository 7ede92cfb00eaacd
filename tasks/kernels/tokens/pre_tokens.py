r"""Pre-tokens of UTF-8 text: where byte-level BPE cuts before it merges, as one bit a byte.

Sources: GPT-2's pattern (Radford et al. 2019), `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
StarCoder's and StarCoder2's, the same on what lies between single digits; GPT-4's (cl100k_base), `GPT4_PATTERN`.
Guarantee: for valid UTF-8 the starts are those of `tokenizers`, as its classes of characters are asked of itself, so that
another version, with another Unicode, is followed. What is no UTF-8 is cut somewhere, and no byte is lost.
Cost: GPT-2 and StarCoder 0.1 ns a byte of source, sixty-four bytes at a time with a bit a byte for each class (as Langdale
and Lemire, "Parsing gigabytes of JSON per second", 2019); GPT-4, character by character, 2.4 ns. One bit a byte of memory.
The GIL is released. The classes: 0.2 s and 1 MB once a process.
"""

# ruff: noqa: PLR2004, PLR0911 - the numbers are UTF-8's bounds and masks, and ASCII; a pattern has many ends

from __future__ import annotations

import functools
import sys
from typing import Any, Literal

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # comes with numba
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from starloom.tasks.kernels.compiled import njit

Split = Literal["starcoder", "gpt2", "gpt4"]

GPT4_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_Bytes = NDArray[np.uint8]
_Int64s = NDArray[np.int64]
_Uint64s = NDArray[np.uint64]

LETTER, NUMBER, SPACE, DIGIT = 1, 2, 4, 8
"""Bits of a character's class: `\\p{L}`, `\\p{N}` and `\\s` of the patterns, and what StarCoder sets apart as a digit."""

_PLANES = (0, 1, 2, 3, 14)  # the others hold private use and nothing: neither letters nor numbers nor spaces

_ZERO, _ONE, _LAST = np.uint64(0), np.uint64(1), np.uint64(63)


@functools.cache
def character_classes() -> _Bytes:
    """Return the class of each code point as the installed `tokenizers` has it, uint8 [0x110000]."""
    from tokenizers import Regex, pre_tokenizers

    patterns = {LETTER: r"\p{L}", NUMBER: r"\p{N}", SPACE: r"\s"}
    runs = pre_tokenizers.Split(Regex("|".join(f"{pattern}+" for pattern in patterns.values())), "isolated")
    digits = pre_tokenizers.Digits(individual_digits=False)
    points = np.concatenate([np.arange(plane << 16, (plane + 1) << 16, dtype=np.uint32) for plane in _PLANES])
    points = points[(points < 0xD800) | (points >= 0xE000)]
    text = points.tobytes().decode("utf-32-le" if sys.byteorder == "little" else "utf-32-be")
    starts = [start for _, (start, _) in pre_tokenizers.Sequence([digits, runs]).pre_tokenize_str(text)]
    removed = {mark: pre_tokenizers.Split(Regex(pattern), "removed") for mark, pattern in patterns.items()}

    def class_of(character: str) -> int:
        found = sum(mark for mark, cut in removed.items() if not cut.pre_tokenize_str(character))
        return found | DIGIT * (len(digits.pre_tokenize_str(f"\0{character}")) > 1)

    table = np.zeros(sys.maxunicode + 1, np.uint8)
    classes = np.array([class_of(text[start]) for start in starts], np.uint8)
    table[points] = np.repeat(classes, np.diff([*starts, len(text)]))
    table.flags.writeable = False
    return table


def start_bits(offsets: _Int64s, data: _Bytes, split: Split) -> _Uint64s:
    """Mark the first byte of every pre-token of every text.

    Args:
        offsets: text i is `data[offsets[i]:offsets[i + 1]]`, int64 [texts + 1], from 0 to the end of data.
        data: UTF-8, uint8 [bytes].
        split: whose pre-tokenisation.

    Returns:
        Bit `at % 64` of word `at // 64` for byte `at`, uint64; the end of each text is marked too.
    """
    starts, classes = np.zeros(data.size // 64 + 2, np.uint64), character_classes()  # one word more, to look ahead
    _mark_borders(offsets, starts)
    if split == "gpt4":
        _split_gpt4(offsets, data, classes, starts)
    else:
        tail = np.zeros(64, np.uint8)
        tail[: data.size % 64] = data[data.size - data.size % 64 :]
        _split_gpt2(data, tail, classes, split == "starcoder", np.zeros(5, np.uint64), starts)
    return starts


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
def _load(_typing: Any, _address: Any) -> Any:
    """Load eight bytes as a little-endian number."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), align=1)

    return types.uint64(types.int64), build


@intrinsic
def _store(_typing: Any, _address: Any, _value: Any) -> Any:
    """Store eight bytes."""

    def build(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        builder.store(arguments[1], builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), build


@intrinsic
def _lowest(_typing: Any, _bits: Any) -> Any:
    """Return the position of the lowest bit set."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), build


@njit(cache=True, nogil=True)
def _mark_borders(offsets: _Int64s, starts: _Uint64s) -> None:
    """Mark where texts start and end."""
    for at in offsets:
        starts[at >> 6] |= _ONE << np.uint64(at & 63)


@njit(cache=True, nogil=True)
def _split_gpt2(data: _Bytes, tail: _Bytes, classes: _Bytes, digits_apart: bool, spill: _Uint64s, starts: _Uint64s) -> None:
    """Mark starts block by block; each block looks one bit back into the one before and one ahead into the next.

    What is called here is given addresses: an array that is handed on has its references counted, up and down in atomic
    steps, which took four fifths of the time. `tail` is what is left of the data after the last whole block.
    """
    text, end, table, spilt = np.int64(data.ctypes.data), data.size, np.int64(classes.ctypes.data), np.int64(spill.ctypes.data)
    last_block, marks = np.int64(tail.ctypes.data), np.int64(starts.ctypes.data)
    # Every variable below is 64 bits, one for each byte of the block; bit 0 is its first byte. `x << 1 | last_x` moves each bit to the
    # byte after it, with the top bit of the block before carried in; `x >> 1 | next_x << 63` moves it to the byte before.
    num_blocks = end // 64 + 1
    border = starts[0]
    block_at = text if num_blocks > 1 else last_block
    letter, number, space, digit, inner, blank, quote, suffix = _classify(block_at, 0, text, end, table, digits_apart, spilt)
    last_letter, last_number, last_other, last_space, last_blank = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
    marked, unmarked = _ZERO, _ZERO
    for block in range(num_blocks):
        next_border = starts[block + 1]
        ahead = (block + 1) * 64
        block_at = text + ahead if ahead + 64 <= end else last_block
        following = _classify(block_at, ahead, text, end, table, digits_apart, spilt)
        # bytes of the same class as the byte before, which go on with its run
        same = letter & (letter << _ONE | last_letter) | number & (number << _ONE | last_number)
        other = ~(letter | number | space | digit)
        same |= other & (other << _ONE | last_other) | space & (space << _ONE | last_space)
        # " ?" of the pattern: what follows a blank belongs to its pre-token, unless that is a space or a digit set apart
        joined = (blank << _ONE | last_blank) & ~(space | digit)
        found = ~(same | joined) & ~inner | border
        # of a run of spaces, the last is left for what follows, unless that is a digit, which is cut off before
        solid = ~(space | digit | border)
        next_solid = ~(following[2] | following[3] | next_border)
        last = space & (solid >> _ONE | next_solid << _LAST)
        found |= last & ~inner
        wide = last & inner  # a space of several bytes: the mark belongs on its first byte, which is looked up below
        found = found & ~unmarked | marked  # what a contraction at the end of the block before changed in this one
        marked, unmarked = _ZERO, _ZERO
        quoted = found & quote & (suffix >> _ONE | following[7] << _LAST)
        while quoted != _ZERO:
            at = block * 64 + _lowest(quoted)
            quoted &= quoted - _ONE  # clears the lowest bit set
            stop = at + _contraction(text, at, end, marks)
            if stop > at:
                here, there = _bit(at + 1 - block * 64)
                found, unmarked = found & ~here, unmarked | there
                here, there = _bit(stop - block * 64)
                found, marked = found | here, marked | there
        starts[block] = found
        while wide != _ZERO:
            at = block * 64 + _lowest(wide)
            wide &= wide - _ONE
            while _byte(text + at) & 0xC0 == 0x80:
                at -= 1
            starts[at >> 6] |= _ONE << np.uint64(at & 63)
        last_letter, last_number, last_other, last_space = letter >> _LAST, number >> _LAST, other >> _LAST, space >> _LAST
        last_blank = blank >> _LAST
        letter, number, space, digit, inner, blank, quote, suffix = following
        border = next_border


@njit(cache=True, nogil=True, forceinline=True)
def _classify(
    block: int, at: int, text: int, end: int, table: int, digits_apart: bool, spill: int
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64, np.uint64, np.uint64, np.uint64, np.uint64]:
    """Classify 64 bytes, as bits: letters, numbers, spaces, digits apart, not first of a character, ' ', "'", and may follow "'"."""
    letter = _bits_in_range(block, 0x61, 26, 0x20)  # 0x20 or-ed in turns A-Z into a-z
    number = _bits_in_range(block, 0x30, 10, 0)
    blank = _bits_in_range(block, 0x20, 1, 0)
    space = _bits_in_range(block, 0x09, 5, 0) | blank  # \t \n \v \f \r
    quote = _bits_in_range(block, 0x27, 1, 0)
    # the letters that may follow an apostrophe in a contraction: r s t, l m, d, v
    suffix = _bits_in_range(block, 0x72, 3, 0) | _bits_in_range(block, 0x6C, 2, 0)
    suffix |= _bits_in_range(block, 0x64, 1, 0) | _bits_in_range(block, 0x76, 1, 0)
    wide = _bits_in_range(block, 0x80, 128, 0)
    digit, inner = _ZERO, _ZERO
    if digits_apart:
        digit, number = number, _ZERO
    if wide != _ZERO:
        letter, number, space, digit, inner = _classify_wide(at, wide, letter, number, space, digit, text, end, table, digits_apart, spill)
    return letter, number, space, digit, inner, blank, quote, suffix


@njit(cache=True, nogil=True)
def _classify_wide(
    start: int,
    wide: np.uint64,
    letter: np.uint64,
    number: np.uint64,
    space: np.uint64,
    digit: np.uint64,
    text: int,
    end: int,
    table: int,
    digits_apart: bool,
    spill: int,
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64, np.uint64]:
    """Add the characters beyond ASCII, each byte in its character's class; what passes the end of the block is spilt."""
    letter, number, space, digit = letter | _load(spill), number | _load(spill + 8), space | _load(spill + 16), digit | _load(spill + 24)
    inner = _load(spill + 32)
    wide &= ~inner
    over_letter, over_number, over_space, over_digit, over_inner = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
    while wide != _ZERO and start < end:
        low = _lowest(wide)
        point, width = _decode(text, start + low, end)
        kind = _byte(table + point)
        whole = (_ONE << np.uint64(width)) - _ONE  # as many ones as the character has bytes
        bits, over = whole << np.uint64(low), _ZERO
        if low + width > 64:
            over = whole >> np.uint64(64 - low)
            over_inner = over
        wide &= ~bits
        inner |= bits & ~(_ONE << np.uint64(low))
        if digits_apart and kind & DIGIT:
            digit |= bits
            over_digit |= over
        elif kind & LETTER:
            letter |= bits
            over_letter |= over
        elif kind & NUMBER:
            number |= bits
            over_number |= over
        elif kind & SPACE:
            space |= bits
            over_space |= over
    _store(spill, over_letter)
    _store(spill + 8, over_number)
    _store(spill + 16, over_space)
    _store(spill + 24, over_digit)
    _store(spill + 32, over_inner)
    return letter, number, space, digit, inner


@njit(cache=True, nogil=True, forceinline=True)
def _decode(text: int, at: int, end: int) -> tuple[np.int64 | int, int]:
    """Return the code point at a byte and its number of bytes; each byte that is no UTF-8 becomes one NUL."""
    lead, left = _byte(text + at), end - at
    if lead < 0x80:
        return lead, 1
    if 0xC0 <= lead < 0xE0 and left > 1:
        return (lead & 0x1F) << 6 | _low_six(text + at + 1), 2
    if 0xE0 <= lead < 0xF0 and left > 2:
        return (lead & 0x0F) << 12 | _low_six(text + at + 1) << 6 | _low_six(text + at + 2), 3
    if 0xF0 <= lead < 0xF5 and left > 3 and (lead < 0xF4 or 0x80 <= _byte(text + at + 1) < 0x90):
        high = (lead & 0x07) << 18 | _low_six(text + at + 1) << 12
        return high | _low_six(text + at + 2) << 6 | _low_six(text + at + 3), 4
    return 0, 1


@njit(cache=True, nogil=True, forceinline=True)
def _low_six(address: int) -> Any:
    """Return the six bits that a continuation byte adds to a code point."""
    return _byte(address) & 0x3F


@njit(cache=True, nogil=True, forceinline=True)
def _contraction(text: int, at: int, end: int, borders: int) -> int:
    """Return the bytes of 's, 't, 'm, 'd, 're, 've or 'll, all of one text, at an apostrophe; else 0."""
    if _is_marked(borders, at + 1):
        return 0
    first = _byte(text + at + 1)
    if first in (0x73, 0x74, 0x6D, 0x64):
        return 2
    if at + 2 >= end or _is_marked(borders, at + 2):
        return 0
    second = _byte(text + at + 2)
    return 3 if (first in (0x72, 0x76) and second == 0x65) or (first == 0x6C and second == 0x6C) else 0


@njit(cache=True, nogil=True, forceinline=True)
def _bit(low: int) -> tuple[np.uint64, np.uint64]:
    """Return the bit of a position in this block or the next."""
    bit = _ONE << np.uint64(low & 63)
    return (bit, _ZERO) if low < 64 else (_ZERO, bit)


@njit(cache=True, nogil=True, forceinline=True)
def _is_marked(bits: int, at: int) -> bool:
    return bool(_load(bits + (at >> 6 << 3)) >> np.uint64(at & 63) & _ONE)


@njit(cache=True, nogil=True)
def _split_gpt4(offsets: _Int64s, data: _Bytes, classes: _Bytes, starts: _Uint64s) -> None:
    """Mark starts one pre-token after the other, as the pattern's alternatives come."""
    address, table = np.int64(data.ctypes.data), np.int64(classes.ctypes.data)
    for text in range(offsets.size - 1):
        at, end = offsets[text], offsets[text + 1]
        while at < end:
            starts[at >> 6] |= _ONE << np.uint64(at & 63)
            at = _end_gpt4(address, at, end, table)


@njit(cache=True, nogil=True, forceinline=True)
def _end_gpt4(text: int, at: int, end: int, table: int) -> Any:
    """Return the end of the pre-token at a byte."""
    byte = _byte(text + at)
    if byte == 0x27:
        length = _contraction_any_case(text, at, end)
        if length > 0:
            return at + length
    kind, after = _kind(text, at, end, table)
    if kind & LETTER:
        return _run(text, after, end, table, LETTER)
    if kind & NUMBER:
        for _ in range(2):
            kind, following = _kind(text, after, end, table)
            if not kind & NUMBER:
                break
            after = following
        return after
    kind_after, _ = _kind(text, after, end, table)
    if kind_after & LETTER and byte not in (0x0A, 0x0D):
        return _run(text, after, end, table, LETTER)
    if not kind & SPACE:
        return _line_ends(text, _run(text, after, end, table, 0), end)
    if byte == 0x20 and kind_after == 0 and after < end:
        return _line_ends(text, _run(text, after, end, table, 0), end)
    return _end_of_space(text, at, end, table)


@njit(cache=True, nogil=True, forceinline=True)
def _kind(text: int, at: int, end: int, table: int) -> tuple[np.int64 | int, int]:
    """Return the class of the character at a byte, without the digit's bit, and where the next one starts."""
    if at >= end:
        return 0, at
    point, width = _decode(text, at, end)
    return np.int64(_byte(table + point) & (LETTER | NUMBER | SPACE)), min(at + width, end)


@njit(cache=True, nogil=True, forceinline=True)
def _run(text: int, at: int, end: int, table: int, kind: int) -> int:
    """Return the end of a run of characters of one class."""
    while at < end:
        if _byte(text + at) < 0x80:
            if _byte(table + _byte(text + at)) & (LETTER | NUMBER | SPACE) != kind:
                return at
            at += 1
        else:
            found, after = _kind(text, at, end, table)
            if found != kind:
                return at
            at = after
    return at


@njit(cache=True, nogil=True, forceinline=True)
def _line_ends(text: int, at: int, end: int) -> int:
    while at < end and (_byte(text + at) == 0x0A or _byte(text + at) == 0x0D):
        at += 1
    return at


@njit(cache=True, nogil=True, forceinline=True)
def _end_of_space(text: int, at: int, end: int, table: int) -> int:
    r"""Return the end of what `\s*[\r\n]+|\s+(?!\S)|\s+` matches."""
    start, last, line_end = at, at, at
    while at < end:
        kind, after = _kind(text, at, end, table)
        if kind != SPACE:
            break
        last = at
        if _byte(text + at) == 0x0A or _byte(text + at) == 0x0D:
            line_end = after
        at = after
    if line_end > start:
        return line_end
    return at if at == end or last == start else last


@njit(cache=True, nogil=True, forceinline=True)
def _contraction_any_case(text: int, at: int, end: int) -> int:
    """Return the bytes of a contraction at an apostrophe, in either case; the long s is an s in the other case."""
    if at + 1 >= end:
        return 0
    first = _byte(text + at + 1) | 0x20
    if _byte(text + at + 1) >= 0x40 and first in (0x73, 0x74, 0x6D, 0x64):
        return 2
    if at + 2 >= end:
        return 0
    if _byte(text + at + 1) == 0xC5 and _byte(text + at + 2) == 0xBF:
        return 3
    second = _byte(text + at + 2) | 0x20
    is_letters = _byte(text + at + 1) >= 0x40 and _byte(text + at + 2) >= 0x40
    return 3 if is_letters and ((first in (0x72, 0x76) and second == 0x65) or (first == 0x6C and second == 0x6C)) else 0
