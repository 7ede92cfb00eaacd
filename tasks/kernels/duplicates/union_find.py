"""Connected components by union-find over an array of parents, which may be a memory map.

The smaller number always becomes the parent, and paths are halved on the way (Tarjan and van Leeuwen, "Worst-case
analysis of set union algorithms", 1984). Guarantee: after `compress`, each node's parent is the smallest member of its
component, so the result depends on the edges only, not on their order or direction. Cost: O((n + edges) log n) time;
4 bytes a node, 8 from 2^32 nodes on.
"""

import numpy as np
from numpy.typing import NDArray

from starloom.tasks.kernels.compiled import njit

_Nodes = NDArray[np.uint32] | NDArray[np.uint64]
_MOST_NARROW = 2**32


def width(num_nodes: int) -> type[np.uint32] | type[np.uint64]:
    """Return the narrowest type of a parent."""
    return np.uint32 if num_nodes < _MOST_NARROW else np.uint64


@njit(cache=True, nogil=True)
def unite(parent: _Nodes, edges: NDArray[np.int64]) -> None:
    """Join the ends of each edge, in place.

    Args:
        parent: [n], as `part` leaves it before the first edge.
        edges: [e, 2].
    """
    for edge in range(edges.shape[0]):
        left, right = np.int64(edges[edge, 0]), np.int64(edges[edge, 1])
        while np.int64(parent[left]) != left:
            parent[left] = parent[parent[left]]
            left = np.int64(parent[left])
        while np.int64(parent[right]) != right:
            parent[right] = parent[parent[right]]
            right = np.int64(parent[right])
        parent[max(left, right)] = min(left, right)


@njit(cache=True, nogil=True)
def compress(parent: _Nodes) -> None:
    """Point every node at the smallest member of its component, in place: parents are smaller, so one pass upwards is enough."""
    for node in range(parent.size):
        parent[node] = parent[parent[node]]


@njit(cache=True, nogil=True)
def part(parent: _Nodes) -> None:
    """Make every node a component of its own, in place."""
    for node in range(parent.size):
        parent[node] = node


@njit(cache=True, nogil=True)
def connected_nodes(parent: _Nodes) -> NDArray[np.int64]:
    """Return the nodes that share a component with another, ascending; `parent` is compressed."""
    has_other = np.zeros(parent.size, np.bool_)
    for node in range(parent.size):
        if np.int64(parent[node]) != node:
            has_other[node] = True
            has_other[parent[node]] = True
    return np.flatnonzero(has_other)
