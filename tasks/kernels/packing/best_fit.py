"""Contexts packed whole where they fit, so that few are split and nothing is padded but the last sequence.

Method: first-fit decreasing, one sequence after the other, each taking the longest context that still fits (Johnson 1973,
"Near-optimal bin packing algorithms"; for training sequences Ding et al. 2024, arXiv 2404.10830, "Fewer truncations improve
language modeling"). Ours differs where theirs pads: the gap that no whole context fits is filled with the beginning of
one that is split already, or else of the longest; its rest is packed like any other. Contexts longer than a sequence
are cut at whole sequences first.
Guarantee: every token of every context is placed once; every sequence but the last is full; a context that is not split
lies in one sequence; epochs are packed one after the other, so that two copies of a context can meet only in the
sequence where one ends and the next begins. Depends on the sizes and their order alone. Cost: a few operations a context and a sequence.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from starloom.tasks.kernels.compiled import njit
from starloom.tasks.kernels.packing.sequences import Pieces, chosen

_Int64s = NDArray[np.int64]
_Uint64s = NDArray[np.uint64]
_Tokens = NDArray[np.unsignedinteger]

NONE = -1
WORD_BITS = 64


class Slices(NamedTuple):
    """Stretches of contexts in the order in which they are to be laid end to end; all arrays int64 [slices]."""

    item: _Int64s
    start: _Int64s
    """First token, counted in the context."""
    stop: _Int64s


def best_fit(sizes: _Int64s, epochs: _Int64s, sequence_length: int) -> Slices:
    """Choose which contexts share a sequence.

    Args:
        sizes: tokens of each of n contexts, int64 [n].
        epochs: of each, int64 [n].
        sequence_length: tokens of a sequence.

    Returns:
        What to lay; sequences in the order of the longest context of each, contexts of a sequence in their own order.
    """
    num, num_tokens, by_epoch = len(sizes), int(sizes.sum()), np.argsort(epochs, kind="stable")
    found = np.empty((3, num + num_tokens // sequence_length + 1), np.int64)  # every slice ends a context or a sequence
    first, words = np.full(sequence_length, NONE, np.int64), np.zeros(sequence_length // WORD_BITS + 1, np.uint64)
    before, after = np.empty((2, num), np.int64)
    line = _Line(sizes[by_epoch], np.zeros(num, np.int64), first, before, after, words, np.zeros(num + 1, np.int64))
    item, start, stop = found[:, : _best_fit(epochs[by_epoch], sequence_length, line, found)]
    item = by_epoch[item]
    sequence = (np.cumsum(stop - start) - (stop - start)) // sequence_length
    leader = item[np.append(True, sequence[1:] != sequence[:-1])[: len(sequence)]]
    if num_tokens % sequence_length:
        leader[-1] = num  # the one that is not full stays last
    order = np.lexsort((item, sequence, leader[sequence])) if len(item) else item
    return Slices(item[order], start[order], stop[order])


class _Line(NamedTuple):
    """Contexts that wait for a place, found by how much of them is left; [n] where nothing else is said."""

    sizes: _Int64s
    done: _Int64s
    """Tokens that have a place."""
    first: _Int64s
    """Of those of which so much is left, the first, or NONE: [sequence length]."""
    before: _Int64s
    """Its neighbours of which as much is left, or NONE."""
    after: _Int64s
    words: _Uint64s
    """A bit for each size that waits."""
    split: _Int64s
    """How many are split already, and which they are: [n + 1]. Some of those have their place by now."""


@njit(cache=True, nogil=True)
def _best_fit(epochs: _Int64s, length: int, line: _Line, out: _Int64s) -> int:
    """Write the slices in the order of finding; return their number."""
    num, begin, waiting = 0, 0, 0
    while begin < len(epochs):
        end = begin
        while end < len(epochs) and epochs[end] == epochs[begin]:
            end += 1
        for item in range(end - 1, begin - 1, -1):  # backwards, so that of equally long ones the first comes first
            while line.sizes[item] - line.done[item] >= length:
                num = _place(item, length, line, out, num)
            if line.done[item]:
                line.split[0] += 1
                line.split[line.split[0]] = item
            waiting += line.sizes[item] - line.done[item]
            _wait(item, line)
        begin = end
        while waiting >= length or (begin == len(epochs) and waiting):
            num = _fill(length, line, out, num)
            waiting = max(0, waiting - length)
    return num


@njit(cache=True, nogil=True)
def _fill(length: int, line: _Line, out: _Int64s, num: int) -> int:
    """Fill one sequence."""
    room = length
    while room:
        size = _longest(line.words, min(room, length - 1))
        item = line.first[size] if size else _to_split(length, line)
        if item == NONE:
            break
        _wait_no_more(item, line)
        size = size or room
        num = _place(item, size, line, out, num)
        _wait(item, line)
        room -= size
    return num


@njit(cache=True, nogil=True)
def _place(item: int, size: int, line: _Line, out: _Int64s, num: int) -> int:
    out[0, num], out[1, num], out[2, num] = item, line.done[item], line.done[item] + size
    line.done[item] += size
    return num + 1


@njit(cache=True, nogil=True)
def _to_split(length: int, line: _Line) -> int:
    """Return a context that is split already, or else the longest; NONE if nothing waits."""
    split = line.split  # a stack, whose height is split[0]; those that have their place by now are dropped when they come to the top
    while split[0] and line.done[split[split[0]]] == line.sizes[split[split[0]]]:
        split[0] -= 1
    if not split[0]:
        size = _longest(line.words, length - 1)
        if not size:
            return NONE
        split[0], split[1] = 1, line.first[size]
    return int(split[split[0]])


@njit(cache=True, nogil=True)
def _wait(item: int, line: _Line) -> None:
    """Put a context in line, if anything is left of it."""
    size = line.sizes[item] - line.done[item]
    if size:
        # a doubly linked list of the contexts of each size, so that one can be taken out from the middle in constant time
        line.before[item], line.after[item] = NONE, line.first[size]
        if line.first[size] != NONE:
            line.before[line.first[size]] = item
        line.first[size] = item
        line.words[size // WORD_BITS] |= np.uint64(1) << np.uint64(size % WORD_BITS)


@njit(cache=True, nogil=True)
def _wait_no_more(item: int, line: _Line) -> None:
    size = line.sizes[item] - line.done[item]
    if line.before[item] == NONE:
        line.first[size] = line.after[item]
    else:
        line.after[line.before[item]] = line.after[item]
    if line.after[item] != NONE:
        line.before[line.after[item]] = line.before[item]
    if line.first[size] == NONE:
        line.words[size // WORD_BITS] &= ~(np.uint64(1) << np.uint64(size % WORD_BITS))


@njit(cache=True, nogil=True)
def _longest(words: _Uint64s, most: int) -> int:
    """Return the longest waiting size of at most `most`; 0 if there is none."""
    # a bit set of sizes; shifting up and down again clears the bits above `most`
    word, unused = most // WORD_BITS, np.uint64(WORD_BITS - 1 - most % WORD_BITS)
    bits = (words[word] << unused) >> unused
    while not bits and word:
        word -= 1
        bits = words[word]
    if not bits:
        return 0
    bit = 0  # position of the highest bit set, by bisection
    for step in (32, 16, 8, 4, 2, 1):
        if bits >> np.uint64(bit + step):
            bit += step
    return word * WORD_BITS + bit


def sliced(pool: _Tokens, pieces: Pieces, slices: Slices, token_num_bytes: _Int64s) -> Pieces:
    """Return the pieces in the order of the slices, cut where those cut.

    Args:
        pool: token ids that the pieces point into.
        pieces: those of each item together, items in order.
        slices: together every token of every item.
        token_num_bytes: bytes that each token id spells, int64 [vocab].
    """
    by_item = np.lexsort((slices.start, slices.item))
    lengths = (slices.stop - slices.start)[by_item]
    found = np.empty((len(Pieces._fields), len(pieces.doc) + len(lengths)), np.int64)
    slice_of = np.empty(found.shape[1], np.int64)
    num = _sliced(pool, *pieces, lengths, token_num_bytes, found, slice_of)
    return chosen(Pieces(*found), np.argsort(by_item[slice_of[:num]], kind="stable"))


@njit(cache=True, nogil=True)
def _sliced(
    pool: _Tokens,
    doc: _Int64s,
    role: _Int64s,
    byte_start: _Int64s,
    start: _Int64s,
    stop: _Int64s,
    lengths: _Int64s,
    token_num_bytes: _Int64s,
    out: _Int64s,
    slice_of: _Int64s,
) -> int:
    """Cut the pieces, which end to end are as long as the slices; return their number then."""
    piece, at, byte, num = 0, start[0] if len(start) else 0, byte_start[0] if len(start) else 0, 0
    for which in range(len(lengths)):
        left = lengths[which]
        while left:
            take = min(left, stop[piece] - at)
            out[0, num], out[1, num], out[2, num], out[3, num], out[4, num] = doc[piece], role[piece], byte, at, at + take
            slice_of[num] = which
            num += 1
            left -= take
            if at + take == stop[piece]:
                piece += 1
                if piece < len(start):
                    at, byte = start[piece], byte_start[piece]
                continue
            if byte >= 0:  # or it is nowhere
                for token in pool[at : at + take]:
                    byte += token_num_bytes[token]
            at += take
    return num
