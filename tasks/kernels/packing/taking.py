"""Documents taken as often as a mixture says, the copies of each spread over the order.

Guarantee: how often a document is taken depends on the seed, its name and its weight; raising a weight takes no copy away. Of
n copies of a context one stands in each n-th of the order, at a place drawn by seed, name and number of the copy (its epoch); so
epochs of all follow each other, and what is taken once is mixed with what is taken often. Documents of a context stay
together, in the order of the rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from starloom.tasks.kernels.text.draws import GOLDEN_GAMMA, draw, mix64

if TYPE_CHECKING:
    from starloom.tasks.kernels.tokens.byte_level import Ragged

_Int64s = NDArray[np.int64]
_Uint64s = NDArray[np.uint64]
_Flags = NDArray[np.bool_]


LAST_PLACE = np.uint64(2**64 - 1)


class Copies(NamedTuple):
    """Documents as often as they are taken, in the order of packing; all arrays int64 [copies]."""

    row: _Int64s
    """Which document."""
    epoch: _Int64s
    """Which copy of it, from 0."""
    context: _Int64s
    """Number of the context, rising; another one in each epoch."""


def take(weights: _Int64s, doc_ids: pa.ChunkedArray, contexts: pa.ChunkedArray, seed: int) -> Copies:
    """Take documents in order.

    Args:
        weights: times that each is taken, float64 [documents]: 2.3 is twice, and once more by a chance of 0.3.
        doc_ids: of each.
        contexts: the context of each.
        seed: of the draws.
    """
    chance = (draw(doc_ids, seed, "copies")[:, 0] >> np.uint64(11)).astype(np.float64) * 2.0**-53
    counts = np.ceil(weights - chance).astype(np.int64)
    row = np.repeat(np.arange(len(counts)), counts)
    epoch = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    number = contexts.combine_chunks().dictionary_encode().indices.to_numpy() if len(counts) else np.zeros(0, np.int64)
    often = np.zeros(len(counts), np.int64)
    np.maximum.at(often, number, counts)
    often, number = often[number][row].astype(np.uint64), number[row]
    place = epoch.astype(np.uint64) * (LAST_PLACE // often) + further(draw(contexts, seed, "order")[row], epoch)[:, 0] // often
    order = np.lexsort((row, epoch, number, place))
    row, epoch, number = row[order], epoch[order], number[order]
    is_new = np.append(True, (number[1:] != number[:-1]) | (epoch[1:] != epoch[:-1]))[: len(row)]
    return Copies(row, epoch, np.cumsum(is_new) - 1)


def split_contexts(contexts: pa.ChunkedArray, is_heldout: _Flags) -> pa.ChunkedArray:
    """Split contexts of which some documents are held out and others not: those held out become one of another name.

    Args:
        contexts: of each of n documents.
        is_heldout: bool [n].
    """
    if not len(contexts):
        return contexts
    number = contexts.combine_chunks().dictionary_encode().indices.to_numpy()
    num_heldout = np.bincount(number, is_heldout)
    is_parted = is_heldout & (num_heldout < np.bincount(number))[number]
    return pc.if_else(pa.array(is_parted), pc.binary_join_element_wise(contexts, "heldout", "/"), contexts)


def draws_of_copies(names: pa.ChunkedArray, copies: Copies, seed: int, purpose: str, num: int) -> _Uint64s:
    """Draw `num` numbers for each copy, which depend on the name (one for each document) and the epoch: uint64 [copies, num]."""
    out = np.empty((len(copies.row), num), np.uint64)
    for epoch in np.unique(copies.epoch).tolist():
        mine = copies.epoch == epoch
        out[mine] = draw(names.take(pa.array(copies.row[mine])), seed, f"{purpose}, epoch {epoch}", num)
    return out


def further(draws: _Uint64s, number: _Int64s) -> _Uint64s:
    """Draw anew for number 1, 2 … of what was drawn for; number 0 has the draws as they are: uint64 like `draws` [m, num]."""
    anew = mix64(draws + number.astype(np.uint64)[:, None] * GOLDEN_GAMMA)
    return np.where(number[:, None] == 0, draws, anew)


class Headers(NamedTuple):
    """The tokens before all files of a context (`<repo_name>NAME`), kept whichever of them are taken; all arrays [documents]."""

    first_row: _Int64s
    """The first document of the context."""
    length: _Int64s
    """Of such a first document, how many tokens of its metadata are the context's; else 0."""
    has_separator: _Flags
    """Whether `<file_sep>` opens the document: then its metadata up to there may be the context's."""


def headers(metadata: Ragged, contexts: pa.ChunkedArray, separator: int | None) -> Headers:
    """Find the context's share of the metadata: what stands before `<file_sep>` in that of its first document.

    Args:
        metadata: of each document.
        contexts: its context.
        separator: id of `<file_sep>`, if there is one.
    """
    num = len(contexts)
    number = contexts.combine_chunks().dictionary_encode().indices.to_numpy() if num else np.zeros(0, np.int64)
    _, first, inverse = np.unique(number, return_index=True, return_inverse=True)
    first_row = first[inverse]
    at = np.flatnonzero(metadata.values == separator) if separator is not None else np.zeros(0, np.int64)
    row, which = np.unique(np.searchsorted(metadata.offsets, at, side="right") - 1, return_index=True)
    length, has_separator = np.zeros(num, np.int64), np.zeros(num, bool)
    length[row], has_separator[row] = at[which] - metadata.offsets[row], True
    length[first_row != np.arange(num)] = 0
    return Headers(first_row, length, has_separator)
