"""Replace spans of many texts at once, byte by byte, and keep the map from old to new.

Guarantee: bytes outside the spans are copied unchanged and in order; span i of the old text becomes span i of the new.
Cost: one copy of the text at memory speed; nothing happens per document in Python.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from starloom.tasks.kernels.compiled import njit

_Bytes = NDArray[np.uint8]
_Int64s = NDArray[np.int64]


class Spans(NamedTuple):
    """Spans of texts: disjoint, ordered by text and start. Starts and ends are bytes from the start of their text."""

    text: _Int64s
    start: _Int64s
    end: _Int64s


class Texts(NamedTuple):
    """Texts one after another: text i is data[offsets[i]:offsets[i + 1]]."""

    offsets: _Int64s
    data: _Bytes


def merge_overlaps(start: _Int64s, end: _Int64s, text: _Int64s, rank: _Int64s) -> tuple[Spans, _Int64s]:
    """Join spans that share a byte into their union.

    Args:
        start: int64 [k], of spans in any order.
        end: int64 [k].
        text: int64 [k].
        rank: int64 [k], distinct for what should win a tie: of joined spans the longest speaks for all, then the lowest rank.

    Returns:
        The m disjoint spans, and for each the number (0 to k-1) of the span that speaks for it: int64 [m].
    """
    order = np.lexsort((rank, -end, start, text))
    start, end, text, rank = start[order], end[order], text[order], rank[order]
    group = _groups(text, start, end)
    num = int(group[-1]) + 1 if len(group) else 0
    union_end = np.zeros(num, np.int64)
    np.maximum.at(union_end, group, end)
    first = np.flatnonzero(np.diff(group, prepend=-1))
    representative = np.lexsort((rank, start - end, group))[first]
    return Spans(text[first], start[first], union_end), order[representative]


@njit(cache=True, nogil=True)
def _groups(text: _Int64s, start: _Int64s, end: _Int64s) -> _Int64s:
    """Number the groups of overlapping spans, which come ordered by text and start."""
    group = np.zeros(len(text), np.int64)
    reach = end[0] if len(end) else 0
    for row in range(1, len(text)):
        apart = text[row] != text[row - 1] or start[row] >= reach
        group[row] = group[row - 1] + apart
        reach = end[row] if apart else max(reach, end[row])
    return group


def replace_spans(texts: Texts, spans: Spans, replacements: Texts) -> tuple[Texts, Spans]:
    """Put replacement i in place of span i.

    Args:
        texts: n texts.
        spans: k disjoint, ordered spans of them.
        replacements: k texts.

    Returns:
        The n new texts, and where the replacements lie in them: k spans.
    """
    growth = np.diff(replacements.offsets) - (spans.end - spans.start)
    sizes = np.diff(texts.offsets)
    np.add.at(sizes, spans.text, growth)
    new_offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    new_data = np.empty(int(new_offsets[-1]), np.uint8)
    new_start = np.empty(len(spans.text), np.int64)
    new_texts = Texts(new_offsets, new_data)
    _splice(texts, spans, replacements, new_texts, new_start)
    return new_texts, Spans(spans.text, new_start, new_start + np.diff(replacements.offsets))


@njit(cache=True, nogil=True)
def _splice(texts: Texts, spans: Spans, replacements: Texts, new_texts: Texts, new_start: _Int64s) -> None:
    (offsets, data), (text, start, end) = texts, spans
    (piece_offsets, pieces), (new_offsets, new_data) = replacements, new_texts
    read, written = 0, 0
    for row in range(len(text)):
        stop = offsets[text[row]] + start[row]
        written = _copy(data, read, stop, new_data, written)
        new_start[row] = written - new_offsets[text[row]]
        written = _copy(pieces, piece_offsets[row], piece_offsets[row + 1], new_data, written)
        read = offsets[text[row]] + end[row]
    _copy(data, read, len(data), new_data, written)


@njit(cache=True, nogil=True)
def _copy(source: _Bytes, start: int, stop: int, target: _Bytes, written: int) -> int:
    """Append a span to what is written; a loop over views is compiled to vectors, assigning slices compiles for seconds."""
    end = written + stop - start
    read, write = source[start:stop], target[written:end]
    for at in range(len(read)):
        write[at] = read[at]
    return end
