"""Locality-sensitive hashing of MinHash signatures: the best banding for a threshold, and the buckets of a band.

Two sets of Jaccard similarity s share at least one of b bands of r rows with probability 1 - (1 - s^r)^b (Leskovec,
Rajaraman, Ullman, "Mining of Massive Datasets", chapter 3). `optimal_bands` picks the b and r that datasketch picks.

Guarantee: documents that agree in a whole band, within one scope, get the same key for it. Others share a 64-bit key
by accident with probability 2^-64 a pair and band (100 million documents, 25 bands: 0.7 % that any such pair exists).
Cost: keys O(n x bands x rows); buckets one sort of n keys, 40 bytes a key.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from starloom.tasks.kernels.compiled import njit

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, as in splitmix64
_HALF = np.uint64(32)


@functools.cache
def optimal_bands(threshold: float, num_perm: int, false_positive_weight: float = 0.5) -> tuple[int, int]:
    """Return the (bands, rows) with the least weighted area of false positives and false negatives.

    datasketch's `lsh._optimal_param` integrates numerically; the integrand is a polynomial of degree b r <= num_perm,
    so Gauss-Legendre with num_perm // 2 + 1 points is exact.

    Args:
        threshold: Jaccard similarity that should separate pairs found from pairs missed.
        num_perm: length of a signature; bands x rows does not exceed it.
        false_positive_weight: weight of pairs found below the threshold; the rest weighs those missed above it.
    """
    points, weights = np.polynomial.legendre.leggauss(num_perm // 2 + 1)
    below, above = threshold * (points + 1) / 2, threshold + (1 - threshold) * (points + 1) / 2
    powers_below = below ** np.arange(1, num_perm + 1)[:, None]  # [rows, points]
    powers_above = above ** np.arange(1, num_perm + 1)[:, None]
    best, least = (0, 0), np.inf
    for bands in range(1, num_perm + 1):
        most_rows = num_perm // bands
        false_positive = (1 - (1 - powers_below[:most_rows]) ** bands) @ weights * threshold / 2
        false_negative = (1 - powers_above[:most_rows]) ** bands @ weights * (1 - threshold) / 2
        error = false_positive_weight * false_positive + (1 - false_positive_weight) * false_negative
        if error.min() < least:
            best, least = (bands, int(error.argmin()) + 1), error.min()
    return best


@njit(cache=True, nogil=True)
def band_keys(signatures: NDArray[np.uint32], scopes: NDArray[np.uint64], bands: int, rows: int) -> NDArray[np.uint64]:
    """Hash each band of each signature, together with the scope that its document may be compared in.

    Args:
        signatures: [n, num_perm], num_perm >= bands * rows.
        scopes: equal for documents that may be duplicates of each other, [n].
        bands: number of bands.
        rows: positions of the signature in a band.

    Returns:
        uint64 [bands, n].
    """
    keys = np.empty((bands, signatures.shape[0]), np.uint64)
    for i in range(signatures.shape[0]):
        for band in range(bands):
            key = scopes[i] * _MULTIPLIER  # spread first: rows have 32 bits, and must not undo what tells scopes apart
            for row in range(band * rows, (band + 1) * rows):
                key = (key ^ np.uint64(signatures[i, row])) * _MULTIPLIER
                key ^= key >> _HALF
            keys[band, i] = key
    return keys


@njit(cache=True, nogil=True)
def set_keys(starts: NDArray[np.int64], hashes: NDArray[np.uint64], scopes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash sorted sets, each together with its scope.

    Args:
        starts: set i is `hashes[starts[i]:starts[i + 1]]`, [n + 1].
        hashes: of all sets, one after the other.
        scopes: [n].

    Returns:
        uint64 [n]; equal sets of one scope have equal keys.
    """
    keys = np.empty(scopes.size, np.uint64)
    for i in range(scopes.size):
        key = (scopes[i] * _MULTIPLIER ^ np.uint64(starts[i + 1] - starts[i])) * _MULTIPLIER  # a hash of 0 at the start adds nothing else
        for j in range(starts[i], starts[i + 1]):
            key = (key ^ hashes[j]) * _MULTIPLIER
            key ^= key >> _HALF
        keys[i] = key
    return keys


def buckets(keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group the documents that share a key.

    Args:
        keys: of one band, [n].

    Returns:
        members and starts: bucket k is `members[starts[k]:starts[k + 1]]`; only buckets of two or more.
    """
    order = np.argsort(keys)
    in_order = keys[order]
    like_previous = np.zeros(len(keys) + 1, np.bool_)
    like_previous[1:-1] = in_order[1:] == in_order[:-1]
    shared = like_previous[:-1] | like_previous[1:]
    starts = np.flatnonzero(~like_previous[:-1][shared])
    return order[shared], np.append(starts, np.count_nonzero(shared))


def among(members: NDArray[np.int64], starts: NDArray[np.int64], is_in: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Thin out buckets to some of their members; a bucket may be left with one or none.

    Args:
        members: of all buckets, one after the other.
        starts: bucket k is `members[starts[k]:starts[k + 1]]`.
        is_in: which of `members` stay.

    Returns:
        members and starts, as before.
    """
    before = np.append(0, np.cumsum(is_in))
    return members[is_in], before[starts]
