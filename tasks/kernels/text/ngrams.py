"""How much a text repeats itself, by its words: characters in the most frequent n-gram, and in n-grams that occur twice or more.

OpenCoder (Huang et al. 2024, arXiv 2411.04905; opc_data_filtering, `qsc_code_frac_chars_top_…` and `…_dupe_…`), which took them from
RedPajama-V2: over words in lower case without punctuation, white space not counted; overlapping n-grams count once.
A word is a run of letters, digits and underscores, or of bytes beyond ASCII; A to Z are lowered.
Guarantee: equal to counting with a dictionary, but for two n-grams of one 64-bit hash: 10^-9 of a text of 100,000 words. Of the most
frequent, the first is taken.
Cost: 8 ns a byte: by far the dearest signals, and measured only on request.
"""

# ruff: noqa: PLR2004 - the numbers are ASCII, and sizes of n-grams

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from starloom.tasks.kernels.compiled import njit
from starloom.tasks.kernels.text.arrow_bytes import string_buffers

_Bytes = NDArray[np.uint8]
_Int64s = NDArray[np.int64]
_Uint64s = NDArray[np.uint64]

TOP = (2, 3, 4)
DUPLICATE = (5, 6, 7, 8, 9, 10)


def ngram_signals(column: pa.ChunkedArray) -> dict[str, NDArray[np.float64]]:
    """Return top_2gram_fraction to top_4gram_fraction and duplicate_5gram_fraction to duplicate_10gram_fraction, float64 [n] each.

    Args:
        column: n texts without nulls.
    """
    offsets, data = string_buffers(column)
    shares = _measure(offsets, data, _word_bytes())
    names = [f"top_{n}gram_fraction" for n in TOP] + [f"duplicate_{n}gram_fraction" for n in DUPLICATE]
    return {name: shares[:, number].copy() for number, name in enumerate(names)}


def _word_bytes() -> _Bytes:
    """Return what each byte is of a word, A to Z as a to z, and 0 for what is of none: uint8 [256]."""
    found = np.zeros(256, np.uint8)
    for byte in range(256):
        is_word = byte >= 0x80 or chr(byte).isalnum() or byte == 0x5F
        found[byte] = ord(chr(byte).lower()) if byte < 0x80 and is_word else byte * is_word
    return found


@njit(cache=True, nogil=True)
def _measure(offsets: _Int64s, data: _Bytes, word_bytes: _Bytes) -> NDArray[np.float64]:
    """Return the nine shares of each text, float64 [n, 9]."""
    shares = np.zeros((len(offsets) - 1, 9))
    for i in range(len(offsets) - 1):
        text = data[offsets[i] : offsets[i + 1]]
        hashes, lengths = _words(text, word_bytes)
        total = lengths.sum()
        size = 4
        while size < 2 * len(hashes):
            size *= 2
        slots, counts = np.empty(size, np.int64), np.empty(len(hashes), np.int64)
        grams = hashes.copy()
        for n in range(2, 11):
            num = len(hashes) - n + 1
            if num < 2:
                break
            for at in range(num):
                grams[at] = _mix(grams[at], hashes[at + n - 1])
            first = _count(grams[:num], slots, counts)
            if n <= 4:
                shares[i, n - 2] = _top(first, counts, lengths, n) / total
            else:
                shares[i, n - 2] = _duplicate(first, counts, lengths, n) / total
    return shares


@njit(cache=True, nogil=True)
def _words(text: _Bytes, word_bytes: _Bytes) -> tuple[_Uint64s, _Int64s]:
    """Return the hash and the number of characters of each word."""
    hashes, lengths = np.empty(len(text) // 2 + 1, np.uint64), np.empty(len(text) // 2 + 1, np.int64)
    num, at = 0, 0
    while at < len(text):
        state, length = np.uint64(0xCBF29CE484222325), 0
        while at < len(text) and word_bytes[text[at]]:
            state = (state ^ np.uint64(word_bytes[text[at]])) * np.uint64(0x100000001B3)
            length += text[at] & 0xC0 != 0x80
            at += 1
        if length:
            hashes[num], lengths[num] = state, length
            num += 1
        at += 1
    return hashes[:num], lengths[:num]


@njit(cache=True, nogil=True)
def _mix(one: np.uint64, other: np.uint64) -> np.uint64:
    """Return a hash of two, in this order."""
    state = (one ^ (one >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15) + other
    state = (state ^ (state >> np.uint64(32))) * np.uint64(0xBF58476D1CE4E5B9)
    return state ^ (state >> np.uint64(31))


@njit(cache=True, nogil=True)
def _count(grams: _Uint64s, slots: _Int64s, counts: _Int64s) -> _Int64s:
    """Return for each n-gram the first equal one; at that, `counts` says how many there are."""
    first = np.empty(len(grams), np.int64)
    slots[:] = -1
    mask = np.int64(len(slots) - 1)
    for number in range(len(grams)):
        at = np.int64(grams[number] >> np.uint64(20)) & mask
        while slots[at] >= 0 and grams[slots[at]] != grams[number]:
            at = (at + 1) & mask
        if slots[at] < 0:
            slots[at], counts[number] = number, 0
        first[number] = slots[at]
        counts[slots[at]] += 1
    return first


@njit(cache=True, nogil=True)
def _top(first: _Int64s, counts: _Int64s, lengths: _Int64s, n: int) -> int:
    """Return the characters of all that are the most frequent n-gram; 0 if none occurs twice."""
    most = -1
    for number in range(len(first)):
        if first[number] == number and (most < 0 or counts[number] > counts[most]):
            most = number
    return lengths[most : most + n].sum() * counts[most] if counts[most] > 1 else 0


@njit(cache=True, nogil=True)
def _duplicate(first: _Int64s, counts: _Int64s, lengths: _Int64s, n: int) -> int:
    """Return the characters of the words that are in an n-gram that occurs twice or more."""
    found, until = 0, 0
    for number in range(len(first)):
        if counts[first[number]] > 1:
            for word in range(max(number, until), number + n):
                found += lengths[word]
            until = number + n
    return found
