"""All pairs of texts whose shingle sets are similar, exactly: the truth that approximate deduplication is held against.

Prefix filtering (Bayardo, Ma, Srikant, "Scaling up all pairs similarity search", WWW 2007): with shingles ordered from
rare to common, two sets of Jaccard similarity t or more share one among the first |x| - ceil(t |x|) + 1 of either.
Candidates are found by an index of those, and counted in full.
Guarantee: every pair, and its similarity, without error but for collisions of Python's 64-bit hash (one set of 10^7
shingles in 10^5). Cost: about a second for a megabyte of text, nearly all of it to make the shingles; 30 bytes a shingle.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from numpy.typing import NDArray


def shingle_sets(texts: Iterable[str], shingles: Callable[[str], Iterable[Hashable]]) -> list[NDArray[np.int64]]:
    """Return the distinct hashes of each text's shingles. They are valid in this process only."""
    return [np.unique(np.array([hash(shingle) for shingle in shingles(text)], np.int64)) for text in texts]


def similar_pairs(sets: Sequence[NDArray[np.int64]], threshold: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return pairs of sets with a Jaccard similarity of `threshold` or more.

    Args:
        sets: distinct values of each, none empty.
        threshold: above 0.

    Returns:
        Positions of both, [pairs, 2], the smaller first, in order; and the similarities.
    """
    if not sets:
        return np.empty((0, 2), np.int64), np.empty(0)
    sizes = np.array([len(values) for values in sets], np.int64)
    by_size = np.argsort(sizes, kind="stable")
    _, token, counts = np.unique(np.concatenate([sets[i] for i in by_size]), return_inverse=True, return_counts=True)
    rank = np.empty(len(counts), np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(len(counts))  # rare ones first
    offsets = np.concatenate(([0], np.cumsum(sizes[by_size])))
    tokens = rank[token]
    _sort_each(tokens, offsets)
    prefixes = np.array([size - math.ceil(threshold * size - 1e-9) + 1 for size in sizes[by_size].tolist()], np.int64)
    pairs, similarities = _pairs(tokens, offsets, prefixes, len(counts), threshold)
    pairs = np.sort(by_size[pairs], axis=1)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return pairs[order], similarities[order]


@njit(cache=True, nogil=True)
def _sort_each(tokens: NDArray[np.int64], offsets: NDArray[np.int64]) -> None:
    for i in range(len(offsets) - 1):
        tokens[offsets[i] : offsets[i + 1]].sort()


@njit(cache=True, nogil=True)
def _pairs(
    tokens: NDArray[np.int64], offsets: NDArray[np.int64], prefixes: NDArray[np.int64], num_tokens: int, threshold: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Look each set up among those before it, which are no larger, then add its prefix to the index."""
    num_sets = len(prefixes)
    last = np.full(num_tokens, -1, np.int64)  # of each token, its latest entry; an entry is a set and the entry before it
    entry_set, entry_before = np.empty(prefixes.sum(), np.int64), np.empty(prefixes.sum(), np.int64)
    num_entries = 0
    seen = np.full(num_sets, -1, np.int64)
    pairs, similarities, found = np.empty((1024, 2), np.int64), np.empty(1024), 0
    for i in range(num_sets):
        mine = tokens[offsets[i] : offsets[i + 1]]
        for token in mine[: prefixes[i]]:
            entry = last[token]
            while entry >= 0:
                j = entry_set[entry]
                entry = entry_before[entry]
                theirs = tokens[offsets[j] : offsets[j + 1]]
                if len(theirs) < threshold * len(mine) - 1e-9:
                    break  # those before it are smaller still
                if seen[j] != i:
                    seen[j] = i
                    shared = _num_shared(mine, theirs)
                    similarity = shared / (len(mine) + len(theirs) - shared)
                    if similarity >= threshold:
                        if found == len(pairs):
                            pairs, similarities = np.concatenate((pairs, pairs)), np.concatenate((similarities, similarities))
                        pairs[found, 0], pairs[found, 1], similarities[found] = i, j, similarity
                        found += 1
            entry_set[num_entries], entry_before[num_entries] = i, last[token]
            last[token] = num_entries
            num_entries += 1
    return pairs[:found], similarities[:found]


@njit(cache=True, nogil=True)
def _num_shared(left: NDArray[np.int64], right: NDArray[np.int64]) -> int:
    i = j = shared = 0
    while i < len(left) and j < len(right):
        if left[i] == right[j]:
            shared += 1
            i += 1
            j += 1
        elif left[i] < right[j]:
            i += 1
        else:
            j += 1
    return shared
