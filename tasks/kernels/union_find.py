"""Connected components by union-find over an array of parents.

The smaller number always becomes the parent, and paths are halved on the way (Tarjan and van Leeuwen, "Worst-case
analysis of set union algorithms", 1984). Guarantee: `components` names each component by its smallest member, so the
result depends on the edges only, not on their order or direction. Cost: O((n + edges) log n) time, 8 bytes a node.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def unite_buckets(parent: NDArray[np.int64], members: NDArray[np.int64], starts: NDArray[np.int64]) -> None:
    """Join all members of each bucket, in place.

    Args:
        parent: [n]; `arange(n)` before the first union.
        members: of all buckets, one after the other.
        starts: bucket k is `members[starts[k]:starts[k + 1]]`.
    """
    for bucket in range(starts.size - 1):
        for i in range(starts[bucket] + 1, starts[bucket + 1]):
            _unite(parent, members[starts[bucket]], members[i])


@njit(cache=True, nogil=True)
def unite_similar(
    parent: NDArray[np.int64],
    members: NDArray[np.int64],
    starts: NDArray[np.int64],
    signatures: NDArray[np.uint32],
    min_agreeing: int,
) -> None:
    """Join those pairs of each bucket whose signatures agree in enough positions, in place.

    Pairs that are connected already are not compared, which changes no component. A bucket of m members that stay
    apart costs m^2 / 2 comparisons.

    Args:
        parent: [n]; `arange(n)` before the first union.
        members: of all buckets, one after the other.
        starts: bucket k is `members[starts[k]:starts[k + 1]]`.
        signatures: [n, num_perm].
        min_agreeing: positions that must agree, of num_perm.
    """
    for bucket in range(starts.size - 1):
        for i in range(starts[bucket] + 1, starts[bucket + 1]):
            for j in range(starts[bucket], i):
                one, other = members[i], members[j]
                if _find(parent, one) != _find(parent, other) and _agreeing(signatures[one], signatures[other]) >= min_agreeing:
                    _unite(parent, one, other)


@njit(cache=True, nogil=True)
def components(parent: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give for each node the smallest member of its component, int64 [n]."""
    smallest = np.empty_like(parent)
    for node in range(parent.size):
        smallest[node] = _find(parent, node)
    return smallest


@njit(cache=True, nogil=True)
def _find(parent: NDArray[np.int64], node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@njit(cache=True, nogil=True)
def _unite(parent: NDArray[np.int64], left: int, right: int) -> None:
    left, right = _find(parent, left), _find(parent, right)
    parent[max(left, right)] = min(left, right)


@njit(cache=True, nogil=True)
def _agreeing(one: NDArray[np.uint32], other: NDArray[np.uint32]) -> int:
    count = 0
    for lane in range(one.size):
        count += one[lane] == other[lane]
    return count
