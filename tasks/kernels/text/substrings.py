"""Exact search for many strings in each of many texts, in one pass over the bytes.

A hashed-window search in the sense of Karp and Rabin 1987 ("Efficient randomized pattern-matching algorithms") and Wu
and Manber 1994 ("A fast algorithm for multi-pattern searching"): the last eight bytes read are one 64-bit word, a table
of 2^16 flags tells whether any pattern has such a word where it is rarest, and what passes is compared byte by byte.
Guarantee: the answer is that of Python's `in` for every pair of text and pattern; hashing only decides what is compared.
Cost: 0.5 to 0.6 GB/s a core for HumanEval's 324 strings, whatever their number while the table of flags is mostly empty;
normalising does 0.2 GB/s. An Aho-Corasick automaton (the package ahocorasick-rs) does 0.4 to 0.5 GB/s built as a DFA, 0.15
as it comes, and is one dependency more; Python's `in` for each string 0.02.

Texts are compared as bytes of UTF-8, where a string stands in another if and only if its bytes do.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from starloom.tasks.kernels.compiled import njit
from starloom.tasks.kernels.text.arrow_bytes import string_buffers

if TYPE_CHECKING:
    import pyarrow as pa

_Bytes = NDArray[np.uint8]
_Int64s = NDArray[np.int64]
_Uint64s = NDArray[np.uint64]
_Flags = NDArray[np.bool_]

MAX_WINDOW = 8
FLAG_BITS = 16
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
BEYOND_ASCII = 0x80
UPPER_A, UPPER_Z, TO_LOWER = ord("A"), ord("Z"), ord("a") - ord("A")


class Patterns(NamedTuple):
    """Strings to look for, prepared for `first_matches`."""

    window: int
    """Bytes of a word, at most eight and at most the length of the shortest pattern."""
    flags: _Bytes
    """uint8 [2^16], by hash of a word: whether some pattern has it."""
    words: _Uint64s
    """uint64 [m], the patterns' words, ascending."""
    numbers: _Int64s
    """int64 [m], which pattern each word belongs to."""
    ends: _Int64s
    """int64 [m], where in its pattern each word ends."""
    offsets: _Int64s
    data: _Bytes
    """Pattern i is data[offsets[i]:offsets[i + 1]]."""


def prepare_patterns(patterns: list[bytes]) -> Patterns:
    """Prepare m strings, none of them empty, for `first_matches`."""
    window = min([MAX_WINDOW, *map(len, patterns)])
    ends = _rarest_windows(patterns, window)
    words = np.array([int.from_bytes(p[end - window : end], "big") for p, end in zip(patterns, ends, strict=True)], np.uint64)
    order = np.argsort(words, kind="stable")
    flags = np.zeros(1 << FLAG_BITS, np.uint8)
    flags[(words * MULTIPLIER) >> np.uint64(64 - FLAG_BITS)] = 1
    offsets = np.cumsum([0, *map(len, patterns)]).astype(np.int64)
    data = np.frombuffer(b"".join(patterns), np.uint8)
    return Patterns(window, flags, words[order], order, np.array(ends, np.int64)[order], offsets, data)


def _rarest_windows(patterns: list[bytes], window: int) -> list[int]:
    """Choose where in each pattern to look: where its bytes are rare, so that `    return` asks for no comparison."""
    counts = Counter(b"".join(patterns))
    bits = {byte: -math.log2(count / counts.total()) for byte, count in counts.items()}
    ends = []
    for pattern in patterns:
        sums = np.cumsum([0.0] + [bits[byte] for byte in pattern])
        ends.append(window + int(np.argmax(np.round(sums[window:] - sums[:-window], 6))))
    return ends


@njit(cache=True, nogil=True)
def _first_matches(offsets: _Int64s, data: _Bytes, patterns: Patterns, first: _Int64s) -> None:
    window, flags, words, numbers, ends, pattern_offsets, pattern_data = patterns
    mask = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - 8 * window)
    for text in range(len(first)):
        start, stop, word = offsets[text], offsets[text + 1], np.uint64(0)
        for at in range(start, stop):
            word = ((word << np.uint64(8)) | np.uint64(data[at])) & mask
            if not flags[(word * MULTIPLIER) >> np.uint64(64 - FLAG_BITS)]:
                continue
            row = np.searchsorted(words, word)
            while row < len(words) and words[row] == word:
                number = numbers[row]
                begin = at + 1 - ends[row]
                length = pattern_offsets[number + 1] - pattern_offsets[number]
                if (first[text] < 0 or number < first[text]) and begin >= start and begin + length <= stop:
                    same = 0
                    while same < length and data[begin + same] == pattern_data[pattern_offsets[number] + same]:
                        same += 1
                    if same == length:
                        first[text] = number
                row += 1


def first_matches(offsets: _Int64s, data: _Bytes, patterns: Patterns) -> _Int64s:
    """Find for each of n texts the lowest number of a pattern that stands in it, or -1: int64 [n].

    Args:
        offsets: int64 [n + 1].
        data: uint8; text i is data[offsets[i]:offsets[i + 1]].
        patterns: what to look for.
    """
    first = np.full(len(offsets) - 1, -1, np.int64)
    if len(patterns.numbers):
        _first_matches(offsets, data, patterns, first)
    return first


@njit(cache=True, nogil=True)
def _all_matches(text: _Bytes, patterns: Patterns, found: _Int64s) -> int:
    window, flags, words, numbers, ends, pattern_offsets, pattern_data = patterns
    mask = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - 8 * window)
    free_from = np.zeros(len(numbers), np.int64)  # a pattern does not overlap itself
    num, word = 0, np.uint64(0)
    for at in range(len(text)):
        word = ((word << np.uint64(8)) | np.uint64(text[at])) & mask
        if not flags[(word * MULTIPLIER) >> np.uint64(64 - FLAG_BITS)]:
            continue
        row = np.searchsorted(words, word)
        while row < len(words) and words[row] == word:
            number = numbers[row]
            begin = at + 1 - ends[row]
            length = pattern_offsets[number + 1] - pattern_offsets[number]
            if begin >= free_from[number] and begin + length <= len(text):
                same = 0
                while same < length and text[begin + same] == pattern_data[pattern_offsets[number] + same]:
                    same += 1
                if same == length:
                    if num < len(found):
                        found[num, 0], found[num, 1] = begin, number
                    num += 1
                    free_from[number] = begin + length
            row += 1
    return num


def all_matches(text: bytes, patterns: Patterns) -> _Int64s:
    """Find all places of all patterns in one text: int64 [k, 2], (byte, number of the pattern); no pattern overlaps itself."""
    data, found = np.frombuffer(text, np.uint8), np.empty((1024, 2), np.int64)
    num = _all_matches(data, patterns, found)
    if num > len(found):
        found = np.empty((num, 2), np.int64)
        _all_matches(data, patterns, found)
    return found[:num]


def normalised(text: str, *, keep_whitespace: bool) -> str:
    """Lower-case a text, removing whitespace if asked. `normalised_column` does the same for a whole column."""
    return text.lower() if keep_whitespace else "".join(text.lower().split())


def normalised_column(column: pa.Array, *, keep_whitespace: bool) -> tuple[_Int64s, _Bytes]:
    """Return (offsets, data) of the normalised texts of a column, exactly as Python would.

    ASCII is folded in one pass over the bytes. Texts with other characters (6 % of the files of Python packages)
    go through Python one by one: lower case beyond ASCII may be longer or shorter and depend on the next letter.
    """
    offsets, data = string_buffers(column)
    sizes, is_ascii = np.zeros(len(offsets) - 1, np.int64), np.zeros(len(offsets) - 1, np.bool_)
    folded = np.empty(len(data), np.uint8)
    _fold(offsets, data, keep_whitespace, _is_whitespace(), folded, sizes, is_ascii)
    others = {i: normalised(column[i].as_py(), keep_whitespace=keep_whitespace).encode() for i in np.flatnonzero(~is_ascii).tolist()}
    if not others:
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]), folded[: sizes.sum()]
    return _interleaved(folded, sizes, others)


def _interleaved(folded: _Bytes, sizes: _Int64s, others: dict[int, bytes]) -> tuple[_Int64s, _Bytes]:
    """Put the texts that Python normalised where they belong among the others."""
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    pieces, at = [], 0
    for number, other in others.items():
        pieces += [folded[at : starts[number]], np.frombuffer(other, np.uint8)]
        at = starts[number]
        sizes[number] = len(other)
    pieces.append(folded[at : starts[-1]])
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]), np.concatenate(pieces)


def _is_whitespace() -> _Flags:
    """Return for each byte of ASCII whether Python takes it for whitespace: bool [256]."""
    return np.array([byte < BEYOND_ASCII and chr(byte).isspace() for byte in range(256)])


@njit(cache=True, nogil=True)
def _fold(
    offsets: _Int64s, data: _Bytes, keep_whitespace: bool, is_whitespace: _Flags, folded: _Bytes,
    sizes: _Int64s, is_ascii: _Flags,
) -> None:  # fmt: skip
    written = 0
    for text in range(len(sizes)):
        start = written
        is_ascii[text] = True
        for at in range(offsets[text], offsets[text + 1]):
            byte = data[at]
            if byte >= BEYOND_ASCII:
                is_ascii[text] = False
                written = start
                break
            if keep_whitespace or not is_whitespace[byte]:
                folded[written] = byte + TO_LOWER if UPPER_A <= byte <= UPPER_Z else byte
                written += 1
        sizes[text] = written - start
