"""Choosing what to hold out: whole groups of a corpus whose bytes come nearest to a share of it, never over twice the share.

Every group has a place in an order by a hash of (seed, name). In that order they are taken, but for those over the share by themselves,
until one does not fit below it; then, if it comes nearer, the one more of all that comes nearest; and if that is still a tenth off, the
best exchange of one taken for one left. Filling up with whatever still fits would come nearer, and hold out nearly all that are small.
Guarantees: a pure function of names, sizes, share and seed; never over twice the share, nor everything; at least one group, where one
is small enough; a new group moves others only where the share is nearly full. The nearest of all subsets (subset sum) would be nearer by
a hair, and every new group would shuffle it. Cost: two sorts, and two passes over the groups.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from starloom.tasks.kernels.compiled import njit
from starloom.tasks.kernels.text.draws import draw

if TYPE_CHECKING:
    import pyarrow as pa

_Int64s = NDArray[np.int64]
_Floats = NDArray[np.float64]
_Flags = NDArray[np.bool_]


TOLERANCE = 0.1
"""Of the share: as near as that is near enough to exchange nothing."""


def hold_out(names: pa.Array | pa.ChunkedArray, num_bytes: _Int64s, share: float, seed: int) -> _Flags:
    """Choose groups to hold out; never one without bytes.

    Args:
        names: of n groups, all different.
        num_bytes: of each, int64 [n].
        share: of all bytes, 0 to 1.
        seed: of the order.

    Returns:
        Which are held out, bool [n]: none, if every group is over twice the share.
    """
    order = np.lexsort((num_bytes, draw(names, seed, "heldout")[:, 0])) if len(num_bytes) else np.zeros(0, np.int64)
    is_chosen: _Flags = _chosen(num_bytes.astype(np.float64), order, share)
    return is_chosen


@njit(cache=True, nogil=True)
def _chosen(num_bytes: _Floats, order: _Int64s, share: float) -> _Flags:
    is_chosen, total = np.zeros(len(num_bytes), np.bool_), num_bytes.sum()
    wanted, held = share * total, 0.0
    for group in order:
        if num_bytes[group] == 0 or num_bytes[group] > wanted:
            continue
        if num_bytes[group] > wanted - held:
            break
        is_chosen[group] = True
        held += num_bytes[group]
    nearest, distance = -1, wanted - held
    for group in order:
        with_it = held + num_bytes[group]
        if is_chosen[group] or num_bytes[group] == 0 or with_it == total or with_it > 2 * wanted:
            continue
        if abs(with_it - wanted) < distance or (held == 0 and nearest < 0):
            nearest, distance = group, abs(with_it - wanted)
    if nearest >= 0:
        is_chosen[nearest] = True
        held += num_bytes[nearest]
    if held > 0 and abs(held - wanted) > TOLERANCE * wanted:
        _exchange_one(num_bytes, order, is_chosen, held, wanted)
    return is_chosen


@njit(cache=True, nogil=True)
def _exchange_one(num_bytes: _Floats, order: _Int64s, is_chosen: _Flags, held: float, wanted: float) -> None:
    """Exchange one group for another, if that comes nearer to the share and stays below twice the share."""
    inside = order[is_chosen[order]]
    inside = inside[np.argsort(num_bytes[inside], kind="mergesort")]
    sizes, distance, leaves, comes = num_bytes[inside], abs(held - wanted), -1, -1
    for group in order:
        if is_chosen[group] or num_bytes[group] == 0:
            continue
        at = np.searchsorted(sizes, held + num_bytes[group] - wanted)  # what should leave for it, were there one of that size
        for place in range(max(at - 1, 0), min(at + 1, len(sizes))):
            with_it = held + num_bytes[group] - sizes[place]
            if abs(with_it - wanted) < distance and with_it < num_bytes.sum():
                distance, leaves, comes = abs(with_it - wanted), inside[place], group
    if comes >= 0:
        is_chosen[leaves], is_chosen[comes] = False, True


@njit(cache=True, nogil=True)
def spelled_bytes(values: NDArray[np.unsignedinteger], offsets: _Int64s, token_num_bytes: _Int64s) -> _Int64s:
    """Return the bytes that each list of tokens spells: int64 [lists].

    Args:
        values: token ids of all lists, end to end.
        offsets: where each begins, int64 [lists + 1].
        token_num_bytes: bytes of each token id, int64 [vocab].
    """
    found = np.zeros(len(offsets) - 1, np.int64)
    for row in range(len(found)):
        for token in values[offsets[row] : offsets[row + 1]]:
            found[row] += token_num_bytes[token]
    return found
