"""Comparison of candidate pairs by exact or estimated Jaccard similarity: links in buckets, and the survivors of a cluster.

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

`keep_apart` goes through the members of a cluster from the best to the worst and keeps each that resembles none that it
kept before: greedily, a maximal independent set. Each is compared with those kept in their order, until one is similar.
Once more than MOST_COMPARISONS are kept, an index tells which of them share a band with a member, and it is compared
with MOST_COMPARISONS of these at most, the latest first: of so many, one that shares no band may stay beside its like.
Cost: MOST_COMPARISONS a member at most; 24 bytes a member and, in the index, 32 to 48 a band for each member of a
cluster that is larger than that.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from starloom.tasks.kernels.compiled import njit

_Flags = NDArray[np.bool_]

_Integers = NDArray[np.integer]
_Int64s = NDArray[np.int64]
_Uint32s = NDArray[np.uint32]
_Uint64s = NDArray[np.uint64]

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, as in splitmix64
_NONE = -1

MOST_COMPARISONS = 1000
"""Most comparisons of a member of a bucket that finds no similar one."""


class Evidence(NamedTuple):
    """The data by which pairs of nodes are judged: sets, or signatures where the threshold is negative."""

    signatures: _Uint32s
    min_agreeing: int
    set_starts: _Int64s
    hashes: _Uint64s
    threshold: float


class Index(NamedTuple):
    """Room for the bands of those kept of one cluster, all zero; entry k x bands + b is of band b of the k-th."""

    table: _Int64s
    """The latest entry of a key plus one, by a hash of it, [a power of two, twice the entries or more]."""
    keys: _Uint64s
    """Of the entries."""
    before: _Int64s
    """The entry of the same key before each, plus one."""


def by_signatures(signatures: _Uint32s, min_agreeing: int) -> Evidence:
    """Judge by signatures of which `min_agreeing` positions must agree.

    Args:
        signatures: of the nodes, [n, num_perm].
        min_agreeing: positions that must agree, of num_perm.
    """
    return Evidence(_frozen(signatures), int(min_agreeing), _frozen(np.zeros(1, np.int64)), _frozen(np.zeros(0, np.uint64)), -1.0)


def by_sets(set_starts: _Int64s, hashes: _Uint64s, threshold: float, signatures: _Uint32s | None = None) -> Evidence:
    """Judge by sets whose Jaccard similarity must be `threshold`.

    Args:
        set_starts: the set of node x is `hashes[set_starts[x]:set_starts[x + 1]]`, [n + 1].
        hashes: each set ascending and distinct, none empty.
        threshold: above 0, at most 1.
        signatures: of the nodes, [n, num_perm], for an index.
    """
    signed = np.zeros((0, 0), np.uint32) if signatures is None else signatures
    return Evidence(_frozen(signed), 0, _frozen(set_starts), _frozen(hashes), float(threshold))


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


def link_similar(parent: _Integers, members: _Integers, starts: _Int64s, evidence: Evidence) -> _Int64s:
    """Link those members of each bucket that are similar.

    Args:
        parent: root of each node as known so far, [n].
        members: nodes of all buckets, one bucket after the other.
        starts: bucket k is `members[starts[k]:starts[k + 1]]`.
        evidence: what they are judged by.

    Returns:
        Links, int64 [links, 2]: pairs of nodes.
    """
    links: _Int64s = _link_similar(_frozen(parent), _frozen(members), _frozen(starts), evidence, MOST_COMPARISONS)
    return links


def keep_apart(nodes: _Int64s, starts: _Int64s, is_spared: _Flags, evidence: Evidence, banding: tuple[int, int], index: Index) -> _Int64s:
    """Keep those members of each cluster that are similar to none kept before.

    Args:
        nodes: of all clusters, one cluster after the other, the best of each first.
        starts: cluster k is `nodes[starts[k]:starts[k + 1]]`.
        is_spared: of the nodes; these are kept whomever they resemble, and stand first.
        evidence: what they are judged by; with signatures, if there is a cluster of more than MOST_COMPARISONS.
        banding: bands of a signature, and rows of each.
        index: with room for the one cluster that there is, if it is larger than MOST_COMPARISONS; else it may be empty.

    Returns:
        For each of `nodes` the number in `nodes` of the first kept one that it resembles; of one that is kept its own.
    """
    kept_by: _Int64s = _keep_apart(_frozen(nodes), _frozen(starts), _frozen(is_spared), evidence, *banding, MOST_COMPARISONS, index)
    return kept_by


def index_sizes(num_members: int, num_bands: int) -> tuple[int, int]:
    """Return the size of the index of a cluster: its table, and its entries; none where none is needed."""
    if num_members <= MOST_COMPARISONS:
        return 0, 0
    return _num_slots(num_members * num_bands), num_members * num_bands


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
    """Return whether the Jaccard similarity of hashes[one:one_end] and hashes[other:other_end] is at least `threshold`."""
    total = one_end - one + other_end - other
    # shared / (total - shared) >= t means shared >= t total / (1 + t); started one lower, for the rounding of floats
    needed = max(int(threshold * total / (1 + threshold)) - 1, 0)
    while needed < total and needed / (total - needed) < threshold:  # rounding decides as it does where the quotient is taken
        needed += 1
    return bool(_shared(hashes, one, one_end, other, other_end, needed) >= needed)


@njit(cache=True, nogil=True)
def _shared(hashes: _Uint64s, one: int, one_end: int, other: int, other_end: int, needed: int) -> int:
    """Count what two sets share, or less than `needed` as soon as that cannot be reached."""
    shared = 0
    while one < one_end and other < other_end and shared + min(one_end - one, other_end - other) >= needed:
        left, right = hashes[one], hashes[other]  # a merge without a branch: the smaller moves on, equal ones both
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
        table[:] = _NONE
        for i in range(nodes.size):
            if _first_of_root(parent, nodes, i, table) == i and i > 0:
                links[num_links, 0], links[num_links, 1] = nodes[0], nodes[i]
                num_links += 1
    return links[:num_links].copy()


@njit(cache=True, nogil=True)
def _link_similar(parent: _Integers, members: _Integers, starts: _Int64s, evidence: Evidence, most_comparisons: int) -> _Int64s:
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
        table[:] = _NONE
        num_heads = 0
        for i in range(nodes.size):
            above[i], after[i], last[i] = i, _NONE, i
            own = i
            known = _first_of_root(parent, nodes, i, table)
            if known != i:
                own = _head(above, known)
                _join(own, i, above, after, last)
            k, left = num_heads - 1, most_comparisons
            while k >= 0:
                k, similar, left = _search(nodes, i, own, heads, k, after, evidence, left)
                if similar == _NONE:
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
    nodes: _Integers, i: int, own: int, heads: _Int64s, k: int, after: _Int64s, evidence: Evidence, left: int
) -> tuple[int, int, int]:
    """Return the next cluster, from the k-th down, with a member similar to member i, that member, and the comparisons left."""
    signatures, min_agreeing, set_starts, hashes, threshold = evidence
    one = nodes[i]
    while k >= 0:
        member = heads[k] if heads[k] != own else _NONE
        while member != _NONE:
            if left == 0:
                return k, _NONE, left
            if _are_alike(signatures, min_agreeing, set_starts, hashes, threshold, one, nodes[member]):
                return k, member, left
            left -= 1
            member = after[member]
        k -= 1
    return k, _NONE, left


@njit(cache=True, nogil=True)
def _keep_apart(
    nodes: _Int64s,
    starts: _Int64s,
    is_spared: _Flags,
    evidence: Evidence,
    bands: int,
    rows: int,
    most_comparisons: int,
    index: Index,
) -> _Int64s:
    largest = _most_members(starts)
    kept, met, kept_by = np.empty(largest, np.int64), np.full(largest, _NONE, np.int64), np.empty(nodes.size, np.int64)
    for cluster in range(starts.size - 1):
        is_indexed, num_kept = starts[cluster + 1] - starts[cluster] > most_comparisons, 0
        for i in range(starts[cluster], starts[cluster + 1]):
            like = _NONE
            if not is_spared[i] and num_kept <= most_comparisons:
                like = _first_alike(nodes, i, kept[:num_kept], evidence)
            elif not is_spared[i]:
                like = _first_in_bands(nodes, i, kept, met, evidence, bands, rows, most_comparisons, index)
            if like != _NONE:
                kept_by[i] = kept[like]
                continue
            kept_by[i] = kept[num_kept] = i
            if is_indexed:
                _add_bands(evidence.signatures, nodes[i], num_kept, bands, rows, index)
            num_kept += 1
    return kept_by


@njit(cache=True, nogil=True)
def _first_alike(nodes: _Int64s, i: int, kept: _Int64s, evidence: Evidence) -> int:
    """Return the first kept member that is similar to member i."""
    signatures, min_agreeing, set_starts, hashes, threshold = evidence
    for k in range(kept.size):
        if _are_alike(signatures, min_agreeing, set_starts, hashes, threshold, nodes[i], nodes[kept[k]]):
            return k
    return _NONE


@njit(cache=True, nogil=True)
def _first_in_bands(
    nodes: _Int64s,
    i: int,
    kept: _Int64s,
    met: _Int64s,
    evidence: Evidence,
    bands: int,
    rows: int,
    left: int,
    index: Index,
) -> int:
    """Return the first kept member that shares a band with member i and is similar to it; `met` notes which pairs were compared."""
    signatures, min_agreeing, set_starts, hashes, threshold = evidence
    first = _NONE
    for band in range(bands):
        entry = index.table[_slot(index, _band_key(signatures, nodes[i], band, rows))] - 1
        while entry >= 0 and left > 0:
            k = entry // bands
            if met[k] != i and (first == _NONE or k < first):
                left -= 1
                if _are_alike(signatures, min_agreeing, set_starts, hashes, threshold, nodes[i], nodes[kept[k]]):
                    first = k
            met[k] = i  # a stamp: members come in turn, so nothing has to be cleared between them
            entry = index.before[entry] - 1
    return first


@njit(cache=True, nogil=True)
def _add_bands(signatures: _Uint32s, node: int, k: int, bands: int, rows: int, index: Index) -> None:
    for band in range(bands):
        key = _band_key(signatures, node, band, rows)
        slot, entry = _slot(index, key), k * bands + band
        index.keys[entry], index.before[entry] = key, index.table[slot]
        index.table[slot] = entry + 1


@njit(cache=True, nogil=True)
def _slot(index: Index, key: np.uint64) -> int:
    """Return the place in the table that a key has, or would have."""
    slot = np.int64(key >> np.uint64(1)) & (index.table.size - 1)
    while index.table[slot] > 0 and index.keys[index.table[slot] - 1] != key:
        slot = (slot + 1) & (index.table.size - 1)
    return int(slot)


@njit(cache=True, nogil=True)
def _band_key(signatures: _Uint32s, node: int, band: int, rows: int) -> np.uint64:
    key = np.uint64(band)
    for lane in range(band * rows, (band + 1) * rows):
        key = (key ^ np.uint64(signatures[node, lane])) * _MULTIPLIER
        key ^= key >> np.uint64(32)
    return key


@njit(cache=True, nogil=True)
def _are_alike(
    signatures: _Uint32s, min_agreeing: int, set_starts: _Int64s, hashes: _Uint64s, threshold: float, one: int, other: int
) -> bool:
    """Judge a pair; by positions, not slices: a view in an inner loop would be reference-counted, which costs more than the test."""
    if threshold < 0:
        return bool(_agree(signatures, one, other, min_agreeing))
    return bool(_reach(hashes, set_starts[one], set_starts[one + 1], set_starts[other], set_starts[other + 1], threshold))


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
    """Return the first member whose node has the same root as that of member i, and remember i if it is the first."""
    root = parent[nodes[i]]
    # open addressing with linear probes; multiplying spreads consecutive roots over the table (Fibonacci hashing)
    slot = np.int64(np.uint64(root) * _MULTIPLIER >> np.uint64(32)) & (table.size - 1)
    while table[slot] != _NONE and parent[nodes[table[slot]]] != root:
        slot = (slot + 1) & (table.size - 1)
    if table[slot] == _NONE:
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
    """Return the size of a hash table that stays half empty."""
    slots = 2
    while slots < 2 * num_members:
        slots *= 2
    return slots


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    """Return a read-only plain view, memory map or not, so that a kernel meets one type of array and is compiled once."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view
