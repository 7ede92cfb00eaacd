"""Held-out loss by language: the loss of every token joined to the document that it came from.

A token counts if its span is bytes of a document (so not metadata, sentinels, end marks or padding) and if it was
predicted at all (the first of a sequence is not). Bits per byte are what two tokenizers can be compared by
(Gao et al. 2020, "The Pile", arXiv 2101.00027, §3.1): the loss in bits over the bytes that its tokens spell.
Cost: one pass over the losses of a part; sums in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from starloom.tasks.kernels.packing.roles import DOCUMENT_ROLES
from starloom.tasks.kernels.tokens.byte_level import Ragged

_Int64s = NDArray[np.int64]


class SpanLosses(NamedTuple):
    """The losses of spans of documents; spans of sequences that were not measured are left out."""

    doc_id: pa.ChunkedArray
    loss: NDArray[np.float64]
    """Nats, summed over the span's tokens: float64 [spans]."""
    num_tokens: _Int64s
    """Tokens that were predicted: int64 [spans]."""
    num_bytes: _Int64s
    """Bytes that those spell: int64 [spans]."""


def span_losses(rows: _Int64s, losses: pa.ChunkedArray, tokens: pa.ChunkedArray, spans: pa.Table, token_num_bytes: _Int64s) -> SpanLosses:
    """Sum the losses of one part over the spans of its documents.

    Args:
        rows: the part's rows that were measured, rising: int64 [n].
        losses: of each of them, a list of one float a token, null where nothing was predicted.
        tokens: of each of them, the token ids.
        spans: all spans of the part.
        token_num_bytes: bytes that each token id spells, int64 [vocab].

    Raises:
        ValueError: if losses, tokens and spans do not belong together.
    """
    loss = pc.list_flatten(losses).to_numpy().astype(np.float64)
    ids, length = Ragged.of(tokens), len(loss) // max(1, len(rows))
    if len(ids.values) != len(loss) or (np.diff(ids.offsets) != length).any():
        raise ValueError(f"{len(loss)} losses for {len(ids.values)} tokens of {len(rows)} sequences")
    is_measured = ~np.isnan(loss)
    measured = spans.filter(
        pc.and_(pc.is_in(spans["role"], pa.array(DOCUMENT_ROLES)), pc.is_in(spans["sequence"], pa.array(rows, pa.int64())))
    )
    first = np.searchsorted(rows, np.asarray(measured["sequence"])) * length
    begin, end = first + np.asarray(measured["token_start"]), first + np.asarray(measured["token_end"])
    if ((begin < first) | (end < begin) | (end > first + length)).any():
        raise ValueError(f"a span reaches over the ends of its sequence, which has {length} tokens")
    if ids.values.max(initial=0) >= len(token_num_bytes):
        raise ValueError(f"a sequence holds the token {ids.values.max()}, and the tokenizer has {len(token_num_bytes)}")
    per_token = (np.where(is_measured, loss, 0.0), is_measured, np.where(is_measured, token_num_bytes[ids.values], 0))
    running = [np.concatenate([[0], np.cumsum(column)]) for column in per_token]
    return SpanLosses(measured["doc_id"], *(sums[end] - sums[begin] for sums in running))


class GroupLoss(NamedTuple):
    """The loss of one group of documents."""

    loss: float
    """Nats per token."""
    bits_per_byte: float
    num_tokens: int
    num_bytes: int


def by_group(parts: list[SpanLosses], groups: dict[str, str], other: str) -> dict[str | None, GroupLoss]:
    """Return the loss overall (under None) and of each group, in order of name; groups without predicted tokens are left out.

    Args:
        parts: the span losses of each part.
        groups: doc_id → its group.
        other: the group of a document that is not among them.
    """
    doc_ids = pa.chunked_array([chunk for part in parts for chunk in part.doc_id.chunks], pa.string()).combine_chunks()
    doc_ids = doc_ids.fill_null("").dictionary_encode()  # a span whose document nobody names is of the other group
    named = [groups.get(doc_id, other) for doc_id in doc_ids.dictionary.to_pylist()]
    names = sorted(set(named))
    group = np.array([names.index(name) for name in named], np.int64)[np.asarray(doc_ids.indices)]
    loss, num_tokens, num_bytes = (
        np.bincount(group, np.concatenate([part[column] for part in parts]) if parts else None, len(names)) for column in (1, 2, 3)
    )
    rows: list[tuple[str | None, int | slice]] = [(None, slice(None)), *((name, i) for i, name in enumerate(names))]
    sums = ((name, float(loss[at].sum()), int(num_tokens[at].sum()), int(num_bytes[at].sum())) for name, at in rows)
    return {name: GroupLoss(nats / tokens, nats / np.log(2) / max(size, 1), tokens, size) for name, nats, tokens, size in sums if tokens}
