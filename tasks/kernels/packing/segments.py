"""Text inside packed sequences, to be permuted there: Megatron-LM's fill-in-the-middle after packing.

Source: megatron/data/gpt_dataset.py of BigCode's Megatron-LM. What lies between two ends of text in one packed sequence is
a segment; it is permuted by itself, and the sequence is cut to its length again. Ours differ: metadata is not permuted,
a character that a border splits stays where it is, and no piece is permuted that would get shorter by it (encoding
again may save tokens), so that nothing is padded; what is cut off is counted.
Guarantee: the number of a piece depends on the document, its epoch and the piece's place in it, not on its sequence.
Cost: a sort of the spans of text, and a pass over their tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from starloom.tasks.kernels.compiled import njit
from starloom.tasks.kernels.packing.fim import NUM_PIECES, Stretches
from starloom.tasks.kernels.packing.roles import METADATA, PAD, TEXT
from starloom.tasks.kernels.packing.sequences import Layout, Pieces, chosen, in_order, runs

if TYPE_CHECKING:
    from starloom.tasks.kernels.tokens.byte_level import TokenBytes

_Bytes = NDArray[np.uint8]
_Int64s = NDArray[np.int64]
_Flags = NDArray[np.bool_]
_Tokens = NDArray[np.unsignedinteger]

# The first byte of a character of two, three and four bytes is at least this.
LEADS_TWO, LEADS_THREE, LEADS_FOUR = 0xC0, 0xE0, 0xF0

CONTINUATION_MASK, CONTINUATION = 0xC0, 0x80
"""How the bytes of UTF-8 that begin no character look."""


class Texts(NamedTuple):
    """The text of each segment, in the order of reading; all arrays [m]."""

    span: _Int64s
    """Row of the layout's spans."""
    doc: _Int64s
    number: _Int64s
    """Which piece of its document it is, from 0."""
    segment_number: _Int64s
    """Which piece of its context its segment is, from 0."""
    has_separator: _Flags
    """Whether `<file_sep>` stands in its segment."""
    stretches: Stretches
    """Its whole characters, in the tokens of all sequences end to end."""
    byte_start: _Int64s
    """Where those begin in the document, and"""
    byte_end: _Int64s
    """where they end."""

    def chosen(self, which: _Flags) -> Texts:
        """Return some of them, by flag."""
        stretches = Stretches._make(array[which] for array in self.stretches)
        rest = {name: array[which] for name, array in self._asdict().items() if name != "stretches"}
        return Texts(stretches=stretches, **rest)


class _Spans(NamedTuple):
    """Spans of a layout by column, and where each lies in all tokens end to end; all arrays int64 [spans]."""

    sequence: _Int64s
    doc: _Int64s
    byte_start: _Int64s
    role: _Int64s
    first: _Int64s
    last: _Int64s

    @classmethod
    def of(cls, layout: Layout) -> _Spans:
        sequence, token_start, token_end, doc, byte_start, _, role = layout.spans.T
        base = sequence * layout.tokens.shape[1]
        return cls(sequence, doc, byte_start, role, base + token_start, base + token_end)


def texts_of(layout: Layout, context: _Int64s, separator: int | None, spelled: TokenBytes) -> Texts:
    """Find the text of each segment.

    Args:
        layout: sequences without fill-in-the-middle.
        context: of each document, int64 [documents].
        separator: the token between files, if there is one.
        spelled: what the tokens spell.
    """
    spans = _Spans.of(layout)
    found = np.flatnonzero(spans.role == TEXT)
    found = found[np.lexsort((spans.byte_start[found], spans.doc[found]))]
    doc, byte_start, first, last = spans.doc[found], spans.byte_start[found], spans.first[found], spans.last[found]
    skipped, num_bytes = np.zeros((2, len(found)), np.int64)
    _trim(layout.tokens.reshape(-1), *spelled, first, last, skipped, num_bytes)
    key = context[doc] * len(layout.tokens) + spans.sequence[found]
    segment, place = np.cumsum(_is_new(key)) - 1, np.arange(len(found))
    number, segment_number = place - _at_last(_is_new(doc), place), segment - _at_last(_is_new(context[doc]), segment)
    has_separator = np.isin(key, _separated(layout, spans, context, separator))
    stretches = Stretches(first, last, byte_start == 0, np.append(_is_new(doc), True)[1:])
    return Texts(found, doc, number, segment_number, has_separator, stretches, byte_start + skipped, byte_start + skipped + num_bytes)


def _is_new(values: _Int64s) -> _Flags:
    """Return which values differ from the one before."""
    return np.append(True, values[1:] != values[:-1])[: len(values)]


def _at_last(flags: _Flags, values: _Int64s) -> _Int64s:
    """Return for each place the value at the last flag until there; the first is flagged."""
    at_last: _Int64s = values[flags][np.cumsum(flags) - 1]
    return at_last


def _separated(layout: Layout, spans: _Spans, context: _Int64s, separator: int | None) -> _Int64s:
    """Return numbers (context · sequences + sequence) of the segments in which the separator stands; in text it never does."""
    if separator is None:
        return np.zeros(0, np.int64)
    metadata = np.flatnonzero(spans.role == METADATA)
    count = np.append(0, np.cumsum(layout.tokens.reshape(-1) == separator))
    metadata = metadata[count[spans.last[metadata]] > count[spans.first[metadata]]]
    segments: _Int64s = context[spans.doc[metadata]] * len(layout.tokens) + spans.sequence[metadata]
    return segments


@njit(cache=True, nogil=True)
def _trim(
    values: _Tokens,
    offsets: _Int64s,
    data: _Bytes,
    first: _Int64s,
    last: _Int64s,
    skipped: _Int64s,
    num_bytes: _Int64s,
) -> None:
    """Leave out tokens at both ends that spell part of a character, and count bytes: left out in front, and left."""
    for row in range(len(first)):
        while first[row] < last[row] and data[offsets[values[first[row]]]] & CONTINUATION_MASK == CONTINUATION:
            skipped[row] += offsets[values[first[row]] + 1] - offsets[values[first[row]]]
            first[row] += 1
        while last[row] > first[row] and not _is_whole(values[first[row] : last[row]], offsets, data):
            last[row] -= 1
        for token in values[first[row] : last[row]]:
            num_bytes[row] += offsets[token + 1] - offsets[token]


@njit(cache=True, nogil=True)
def _is_whole(values: _Tokens, offsets: _Int64s, data: _Bytes) -> bool:
    """Return whether the last character is complete, of text that begins with a character."""
    num_continuations = 0
    for at in range(len(values) - 1, -1, -1):
        for byte in data[offsets[values[at]] : offsets[values[at] + 1]][::-1]:
            if byte & CONTINUATION_MASK != CONTINUATION:
                return bool(num_continuations == (byte >= LEADS_TWO) + (byte >= LEADS_THREE) + (byte >= LEADS_FOUR))
            num_continuations += 1
    return True


class Permuted(NamedTuple):
    """The sequences after permuting."""

    pieces: Pieces
    """Of as many tokens as there were; but the last sequence, if it was not full, may have more."""
    is_permuted: _Flags
    """Which of the texts were, bool [m]."""
    num_dropped: int
    """Tokens that had no room any more."""


def permute(layout: Layout, texts: Texts, arranged: Pieces) -> Permuted:
    """Put the arranged pieces in the place of the spans that they were cut from, and cut every sequence to its length.

    Args:
        layout: sequences without fill-in-the-middle; the pool begins with their tokens.
        texts: the m texts that were cut.
        arranged: NUM_PIECES for each of them; `doc` is the row in the layout's spans.
    """
    spans = _Spans.of(layout)
    num_tokens = (arranged.stop - arranged.start).reshape(-1, NUM_PIECES).sum(axis=1)
    is_permuted = num_tokens >= texts.stretches.last - texts.stretches.first
    texts = texts.chosen(is_permuted)
    stays = spans.role != PAD
    stays[texts.span] = False
    others, cut, stretches = np.flatnonzero(stays), texts.span, texts.stretches
    pieces = in_order(
        [
            runs(others, spans.role[others], spans.byte_start[others], spans.first[others], spans.last[others]),
            runs(cut, TEXT, spans.byte_start[cut], spans.first[cut], stretches.first),
            chosen(arranged, np.repeat(is_permuted, NUM_PIECES)),
            runs(cut, TEXT, texts.byte_end, stretches.last, spans.last[cut]),
        ]
    )
    num_tokens, sequence = pieces.stop - pieces.start, spans.sequence[pieces.doc]
    before = np.cumsum(num_tokens) - num_tokens
    fits = np.clip(layout.tokens.shape[1] - (before - _at_last(_is_new(sequence), before)), 0, num_tokens)
    kept = pieces._replace(doc=spans.doc[pieces.doc], stop=pieces.start + fits)
    return Permuted(chosen(kept, fits > 0), is_permuted, int((num_tokens - fits).sum()))
