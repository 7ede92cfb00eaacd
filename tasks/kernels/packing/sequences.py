"""Token pieces laid end to end and cut into sequences of one length, with the origin of every token kept.

Concatenate and split, as in GPT-3 and Megatron-LM (megatron/data/gpt_dataset.py), without its overlap of one token: a
trainer shifts inside the sequence. The record of origins is our own.
Guarantee: every token of every piece is placed exactly once and in order; the spans of a sequence are ordered,
disjoint and cover it; neighbouring pieces that continue each other share a span; only a last sequence is padded.
Cost: one pass over the tokens, no temporary of their size but the result.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from starloom.tasks.kernels.compiled import njit
from starloom.tasks.kernels.packing.roles import PAD

_Int64s = NDArray[np.int64]
_Tokens = NDArray[np.unsignedinteger]

NOWHERE = -1
"""In `doc`: of no document. In `byte_start`: not bytes of the document."""


class Pieces(NamedTuple):
    """Runs of tokens in the order in which they are to be laid; all arrays int64 [pieces]."""

    doc: _Int64s
    role: _Int64s
    byte_start: _Int64s
    start: _Int64s
    stop: _Int64s
    """The run is `pool[start:stop]`."""


class Layout(NamedTuple):
    """The sequences and the sources of their tokens."""

    tokens: _Tokens
    """[sequences, sequence length]."""
    spans: _Int64s
    """int64 [spans, 7], its columns as named by SPAN_COLUMNS."""


SPAN_COLUMNS = ("sequence", "token_start", "token_end", "doc", "byte_start", "byte_end", "role")
_SEQUENCE, _TOKEN_START, _TOKEN_END, _DOC, _BYTE_START, _BYTE_END, _ROLE = range(len(SPAN_COLUMNS))


def runs(docs: _Int64s, role: _Int64s | int, byte_start: _Int64s | int, start: _Int64s | int, stop: _Int64s | int) -> Pieces:
    """Return one piece for each document; a single number stands for all."""
    return Pieces(*np.broadcast_arrays(docs, role, byte_start, start, stop))


def in_order(groups: list[Pieces]) -> Pieces:
    """Join groups of pieces by document, within a document by group; empty pieces vanish."""
    joined = Pieces(*map(np.concatenate, zip(*groups, strict=True)))
    filled = np.flatnonzero(joined.start < joined.stop)
    return chosen(joined, filled[np.argsort(joined.doc[filled], kind="stable")])


def chosen(pieces: Pieces, which: _Int64s | NDArray[np.bool_]) -> Pieces:
    """Return some of the pieces, by number or by flag."""
    return Pieces(*(array[which] for array in pieces))


def lay_out(
    pool: _Tokens, pieces: Pieces, token_num_bytes: _Int64s, sequence_length: int, pad: int, dtype: type[np.unsignedinteger]
) -> Layout:
    """Lay the pieces end to end, cut every `sequence_length` tokens, and fill up the last sequence.

    Args:
        pool: token ids that the pieces point into.
        pieces: what to lay.
        token_num_bytes: bytes that each token id spells, int64 [vocab].
        sequence_length: tokens of a sequence.
        pad: the token that fills up the last sequence.
        dtype: type of the tokens in the result.
    """
    num_tokens = int((pieces.stop - pieces.start).sum())
    num_sequences = -(-num_tokens // sequence_length)
    tokens = np.full((num_sequences, sequence_length), pad, dtype)
    spans = np.empty((len(pieces.doc) + num_sequences + 1, len(SPAN_COLUMNS)), np.int64)
    num_spans = _lay_out(pool, pieces, token_num_bytes, sequence_length, tokens.reshape(-1), spans)
    if num_tokens % sequence_length:
        spans[num_spans] = num_sequences - 1, num_tokens % sequence_length, sequence_length, NOWHERE, NOWHERE, NOWHERE, PAD
        num_spans += 1
    return Layout(tokens, spans[:num_spans])


@njit(cache=True, nogil=True)
def _lay_out(pool: _Tokens, pieces: Pieces, token_num_bytes: _Int64s, sequence_length: int, tokens: _Tokens, spans: _Int64s) -> int:
    """Fill `tokens` and `spans`; return the number of spans. There are at most as many as pieces and borders."""
    doc, role, byte_start, start, stop = pieces
    position, last = 0, -1
    for piece in range(len(doc)):
        source, at_byte = start[piece], byte_start[piece]
        while source < stop[piece]:
            column = position % sequence_length
            num = min(stop[piece] - source, sequence_length - column)
            num_bytes = 0
            for token in pool[source : source + num]:
                tokens[position] = token
                num_bytes += token_num_bytes[token]
                position += 1
            end_byte = at_byte + num_bytes if at_byte != NOWHERE else NOWHERE
            continues = column > 0 and last >= 0 and spans[last, _DOC] == doc[piece] and spans[last, _ROLE] == role[piece]
            if continues and spans[last, _BYTE_END] == at_byte:
                spans[last, _TOKEN_END] += num
                spans[last, _BYTE_END] = end_byte
            else:
                last += 1
                spans[last, _SEQUENCE] = (position - num) // sequence_length
                spans[last, _TOKEN_START] = column
                spans[last, _TOKEN_END] = column + num
                spans[last, _DOC] = doc[piece]
                spans[last, _BYTE_START] = at_byte
                spans[last, _BYTE_END] = end_byte
                spans[last, _ROLE] = role[piece]
            source += num
            at_byte = end_byte
    return last + 1


class Starts(NamedTuple):
    """The positions at which another context begins in each sequence, 0 first; padding counts as one."""

    offsets: _Int64s
    """int32 [sequences + 1]."""
    positions: _Int64s
    """Of sequence i `positions[offsets[i] : offsets[i + 1]]`: int32."""


def context_starts(layout: Layout, context: _Int64s) -> Starts:
    """Find the positions at which the context changes, so that attention can stop there.

    Args:
        layout: the sequences.
        context: of each document, int64 [documents].
    """
    sequence, token_start, doc = (layout.spans[:, column] for column in (_SEQUENCE, _TOKEN_START, _DOC))
    of_span = np.append(context, NOWHERE)[doc]  # NOWHERE, -1, is also the place of the last
    is_start = token_start == 0
    is_start[1:] |= of_span[1:] != of_span[:-1]
    counts = np.bincount(sequence[is_start], minlength=len(layout.tokens))
    return Starts(np.append(0, np.cumsum(counts)).astype(np.int32), token_start[is_start].astype(np.int32))
