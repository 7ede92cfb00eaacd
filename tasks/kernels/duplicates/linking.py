"""Links between the members of buckets: which pairs that may be similar are, by exact or estimated Jaccard similarity.

A pair that is connected already, in earlier rounds or by this bucket's own links, is not compared; each link joins two
clusters, so that links are evidence and no more of them exist than nodes. Guarantee: the connected components of the
links, on top of what was known, are those of all pairs in a bucket that are similar enough, whatever the order of
buckets and members; which pairs stand for them does depend on it. Two sets are similar enough when
`jaccard(...) >= threshold` in float64, exactly.
A member gives up after MOST_COMPARISONS that found nothing, the latest members first: what a larger bucket guarantees
is less (a link may be missed that no other bucket finds) and depends on the order of its members, which is the
caller's to settle, the likely ones side by side. In the worst case all pairs decide whether any is similar.
Cost: a member is compared with each local cluster until one of its members is similar: m comparisons for m that are
alike; for m that stay apart m^2 / 2, and m x MOST_COMPARISONS at most. Memory: 16 bytes a member (touched only
as links are found) and 64 a member of the largest bucket.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

_Integers = NDArray[np.integer]
_Int64s = NDArray[np.int64]
_Uint32s = NDArray[np.uint32]
_Uint64s = NDArray[np.uint64]

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, as in splitmix64
_NOBODY = -1

MOST_COMPARISONS = 1000
"""What a member of a bucket may cost that finds nobody."""


class _Evidence(NamedTuple):
    """What pairs of nodes are judged by: sets, or signatures where the threshold is negative."""

    signatures: _Uint32s
    min_agreeing: int
    set_starts: _Int64s
    hashes: _Uint64s
    threshold: float


def link_trusting(parent: _Integers, members: _Integers, starts: _Int64s) -> _Int64s:
    """Link the first member of each bucket to one of each other cluster in it.

    Args:
        parent: root of each node as known so far, [n].
        members: nodes of all buckets, one bucket after the other.
        starts: bucket k is `members[starts[k]:starts[k + 1]]`.

    Returns:
        Links, int64 [links, 2]: pairs of nodes.
    """
    links: _Int64s = _link_trusting(_frozen(parent), _frozen(members), _frozen(starts))
    return links


def link_estimated(parent: _Integers, members: _Integers, starts: _Int64s, signatures: _Uint32s, min_agreeing: int) -> _Int64s:
    """Link those members of each bucket whose signatures agree in enough positions.

    Args:
        parent: root of each node as known so far, [n].
        members: nodes of all buckets, one bucket after the other.
        starts: bucket k is `members[starts[k]:starts[k + 1]]`.
        signatures: of the nodes, [n, num_perm].
        min_agreeing: positions that must agree, of num_perm.

    Returns:
        Links, int64 [links, 2]: pairs of nodes.
    """
    no_sets, no_hashes = _frozen(np.zeros(1, np.int64)), _frozen(np.zeros(0, np.uint64))
    evidence = _Evidence(_frozen(signatures), int(min_agreeing), no_sets, no_hashes, -1.0)
    links: _Int64s = _link_similar(_frozen(parent), _frozen(members), _frozen(starts), evidence, MOST_COMPARISONS)
    return links


def link_exact(parent: _Integers, members: _Integers, starts: _Int64s, set_starts: _Int64s, hashes: _Uint64s, threshold: float) -> _Int64s:
    """Link those members of each bucket whose sets have a Jaccard similarity of at least `threshold`.

    Args:
        parent: root of each node as known so far, [n].
        members: nodes of all buckets, one bucket after the other.
        starts: bucket k is `members[starts[k]:starts[k + 1]]`.
        set_starts: the set of node x is `hashes[set_starts[x]:set_starts[x + 1]]`, [n + 1].
        hashes: each set ascending and distinct, none empty.
        threshold: above 0, at most 1.

    Returns:
        Links, int64 [links, 2]: pairs of nodes.
    """
    no_signatures = _frozen(np.zeros((0, 0), np.uint32))
    evidence = _Evidence(no_signatures, 0, _frozen(set_starts), _frozen(hashes), float(threshold))
    links: _Int64s = _link_similar(_frozen(parent), _frozen(members), _frozen(starts), evidence, MOST_COMPARISONS)
    return links


@njit(cache=True, nogil=True)
def jaccard(starts: _Int64s, hashes: _Uint64s, left: _Int64s, right: _Int64s) -> NDArray[np.float64]:
    """Compute the Jaccard similarity of pairs of sets.

    Args:
        starts: set x is `hashes[starts[x]:starts[x + 1]]`, [n + 1].
        hashes: each set ascending and distinct, none empty.
        left: one side of each pair, [pairs].
        right: the other side, [pairs].

    Returns:
        Size of the intersection by size of the union, float64 [pairs].
    """
    similarities = np.empty(left.size, np.float64)
    for pair in range(left.size):
        one, one_end = starts[left[pair]], starts[left[pair] + 1]
        other, other_end = starts[right[pair]], starts[right[pair] + 1]
        shared = _shared(hashes, one, one_end, other, other_end, 0)
        similarities[pair] = shared / (one_end - one + other_end - other - shared)
    return similarities


@njit(cache=True, nogil=True)
def _reach(hashes: _Uint64s, one: int, one_end: int, other: int, other_end: int, threshold: float) -> bool:
    """Whether the Jaccard similarity of hashes[one:one_end] and hashes[other:other_end] is at least `threshold`."""
    total = one_end - one + other_end - other
    needed = max(int(threshold * total / (1 + threshold)) - 1, 0)
    while needed < total and needed / (total - needed) < threshold:  # rounding decides as it does where the quotient is taken
        needed += 1
    return bool(_shared(hashes, one, one_end, other, other_end, needed) >= needed)


@njit(cache=True, nogil=True)
def _shared(hashes: _Uint64s, one: int, one_end: int, other: int, other_end: int, needed: int) -> int:
    """Count what two sets share, or less than `needed` as soon as that cannot be reached."""
    shared = 0
    while one < one_end and other < other_end and shared + min(one_end - one, other_end - other) >= needed:
        left, right = hashes[one], hashes[other]
        one += left <= right
        other += right <= left
        shared += left == right
    return shared


@njit(cache=True, nogil=True)
def _agree(signatures: _Uint32s, one: int, other: int, min_agreeing: int) -> bool:
    agreeing = 0
    for lane in range(signatures.shape[1]):
        agreeing += signatures[one, lane] == signatures[other, lane]
    return agreeing >= min_agreeing


@njit(cache=True, nogil=True)
def _link_trusting(parent: _Integers, members: _Integers, starts: _Int64s) -> _Int64s:
    links = np.empty((members.size, 2), np.int64)
    num_links = 0
    slots = np.empty(_num_slots(_most_members(starts)), np.int64)
    for bucket in range(starts.size - 1):
        nodes = members[starts[bucket] : starts[bucket + 1]]
        table = slots[: _num_slots(nodes.size)]
        table[:] = _NOBODY
        for i in range(nodes.size):
            if _first_of_root(parent, nodes, i, table) == i and i > 0:
                links[num_links, 0], links[num_links, 1] = nodes[0], nodes[i]
                num_links += 1
    return links[:num_links].copy()


@njit(cache=True, nogil=True)
def _link_similar(parent: _Integers, members: _Integers, starts: _Int64s, evidence: _Evidence, most_comparisons: int) -> _Int64s:
    """Link what is similar; members are numbered from 0 within their bucket.

    A local cluster is a chain of members, `after` its head up to its `last`, and a tree `above`, whose root is the head.
    """
    links = np.empty((members.size, 2), np.int64)
    num_links, most = 0, _most_members(starts)
    slots = np.empty(_num_slots(most), np.int64)
    above, after, last, heads = np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64)
    for bucket in range(starts.size - 1):
        nodes = members[starts[bucket] : starts[bucket + 1]]
        table = slots[: _num_slots(nodes.size)]
        table[:] = _NOBODY
        num_heads = 0
        for i in range(nodes.size):
            above[i], after[i], last[i] = i, _NOBODY, i
            own = i
            known = _first_of_root(parent, nodes, i, table)
            if known != i:
                own = _head(above, known)
                _join(own, i, above, after, last)
            k, left = num_heads - 1, most_comparisons
            while k >= 0:
                k, similar, left = _search(nodes, i, own, heads, k, after, evidence, left)
                if similar == _NOBODY:
                    break
                links[num_links, 0], links[num_links, 1] = nodes[similar], nodes[i]
                num_links += 1
                if own == i:  # alone until now: it joins, and no cluster is gone
                    own = heads[k]
                    _join(own, i, above, after, last)
                else:
                    _join(own, heads[k], above, after, last)
                    num_heads -= 1
                    heads[k] = heads[num_heads]
                k -= 1
            if own == i:
                heads[num_heads] = i
                num_heads += 1
    return links[:num_links].copy()


@njit(cache=True, nogil=True)
def _search(
    nodes: _Integers, i: int, own: int, heads: _Int64s, k: int, after: _Int64s, evidence: _Evidence, left: int
) -> tuple[int, int, int]:
    """Give the number of the next cluster, from the k-th down, that has a member similar to member i, that member, and comparisons left."""
    signatures, min_agreeing, set_starts, hashes, threshold = evidence
    one = nodes[i]
    while k >= 0:
        member = heads[k] if heads[k] != own else _NOBODY
        while member != _NOBODY:
            if left == 0:
                return k, _NOBODY, left
            other = nodes[member]
            if threshold < 0:
                is_similar = _agree(signatures, one, other, min_agreeing)
            else:  # positions, not slices: a view in the inner loop would be counted in and out, which costs more than the test
                is_similar = _reach(hashes, set_starts[one], set_starts[one + 1], set_starts[other], set_starts[other + 1], threshold)
            if is_similar:
                return k, member, left
            left -= 1
            member = after[member]
        k -= 1
    return k, _NOBODY, left


@njit(cache=True, nogil=True)
def _join(cluster: int, gone: int, above: _Int64s, after: _Int64s, last: _Int64s) -> None:
    """Append the cluster of head `gone` to another."""
    above[gone] = cluster
    after[last[cluster]] = gone
    last[cluster] = last[gone]


@njit(cache=True, nogil=True)
def _head(above: _Int64s, member: int) -> int:
    while above[member] != member:
        above[member] = above[above[member]]
        member = above[member]
    return member


@njit(cache=True, nogil=True)
def _first_of_root(parent: _Integers, nodes: _Integers, i: int, table: _Int64s) -> int:
    """Give the first member whose node has the same root as that of member i, and remember i if it is the first."""
    root = parent[nodes[i]]
    slot = np.int64(np.uint64(root) * _MULTIPLIER >> np.uint64(32)) & (table.size - 1)
    while table[slot] != _NOBODY and parent[nodes[table[slot]]] != root:
        slot = (slot + 1) & (table.size - 1)
    if table[slot] == _NOBODY:
        table[slot] = i
    return int(table[slot])


@njit(cache=True, nogil=True)
def _most_members(starts: _Int64s) -> int:
    most = 0
    for bucket in range(starts.size - 1):
        most = max(most, starts[bucket + 1] - starts[bucket])
    return most


@njit(cache=True, nogil=True)
def _num_slots(num_members: int) -> int:
    """Give the size of a hash table that stays half empty."""
    slots = 2
    while slots < 2 * num_members:
        slots *= 2
    return slots


def _frozen(array: np.ndarray) -> np.ndarray:
    """Give a read-only plain view, memory map or not, so that a kernel meets one type of array and is compiled once."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view
