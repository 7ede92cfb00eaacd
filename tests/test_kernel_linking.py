"""Links of buckets against all pairs and a breadth-first search; exact similarity against Python's sets."""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from starloom.tasks.kernels.duplicates import linking
from starloom.tasks.kernels.duplicates.linking import by_sets, by_signatures, jaccard, link_similar, link_trusting

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def link_estimated(parent, members, starts, signatures, min_agreeing) -> np.ndarray:
    return link_similar(parent, members, starts, by_signatures(signatures, min_agreeing))


def link_exact(parent, members, starts, set_starts, hashes, threshold) -> np.ndarray:
    return link_similar(parent, members, starts, by_sets(set_starts, hashes, threshold))


SETS = st.sets(st.integers(0, 12), min_size=1, max_size=10)
THRESHOLDS = st.one_of(
    st.floats(0.01, 1),
    st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9, 1.0]),
    st.tuples(st.integers(1, 20), st.integers(1, 20)).map(lambda p: min(p) / max(p)),
)


def reach(one: set[int], other: set[int], threshold: float) -> bool:
    hashes, set_starts = flat([sorted(one), sorted(other)], np.uint64)
    return len(link_exact(np.arange(2), np.arange(2), np.array([0, 2]), set_starts, hashes, threshold)) == 1


def flat(groups: Sequence[Collection[int]], kind: type = np.int64) -> tuple[np.ndarray, np.ndarray]:
    """All members of all groups, and where each group starts."""
    return np.array([member for group in groups for member in group], kind), np.cumsum([0, *map(len, groups)])


def by_search(n: int, links) -> list[int]:
    neighbours: list[set[int]] = [set() for _ in range(n)]
    for left, right in links:
        neighbours[left].add(right)
        neighbours[right].add(left)
    smallest = [-1] * n
    for start in range(n):
        queue = deque([start] if smallest[start] < 0 else [])
        while queue:
            node = queue.popleft()
            if smallest[node] < 0:
                smallest[node] = start
                queue.extend(neighbours[node])
    return smallest


@st.composite
def rounds(draw: st.DrawFn) -> tuple[int, list[int], list[list[int]]]:
    """Number of nodes, a root of each as earlier rounds left it, and buckets."""
    n = draw(st.integers(1, 24))
    known = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=10))
    bucket = st.lists(st.integers(0, n - 1), min_size=2, max_size=n + 2)  # a node may be there twice
    return n, by_search(n, known), draw(st.lists(bucket, max_size=6))


def check(case, links: np.ndarray, is_similar) -> None:
    """Links are similar pairs of one bucket that were not connected, each joins two clusters, and no component is missed."""
    n, parent, groups = case
    known = list(enumerate(parent))
    alike = {(i, j) for group in groups for i in group for j in group if is_similar(i, j)}
    pairs = [tuple(link) for link in links.tolist()]
    assert set(pairs) <= alike
    assert by_search(n, known + pairs) == by_search(n, [*known, *alike])
    assert all(parent[i] != parent[j] for i, j in pairs)


@given(case=rounds(), order=st.randoms(use_true_random=False), data=st.data())
@settings(deadline=None)
def test_estimated_links_connect_what_all_pairs_connect_whatever_the_order(case, order, data) -> None:
    n, parent, groups = case
    signatures = np.array(data.draw(st.lists(st.lists(st.integers(0, 1), min_size=4, max_size=4), min_size=n, max_size=n)), np.uint32)
    min_agreeing = data.draw(st.integers(1, 4))
    for kind in (np.int64, np.uint32):
        links = link_estimated(np.array(parent, kind), *flat(groups, kind), signatures, min_agreeing)
        check(case, links, lambda i, j: (signatures[i] == signatures[j]).sum() >= min_agreeing)
        order.shuffle(groups)
        for group in groups:
            order.shuffle(group)


@given(case=rounds(), order=st.randoms(use_true_random=False), data=st.data(), threshold=THRESHOLDS)
@settings(deadline=None)
def test_exact_links_connect_what_all_pairs_connect_whatever_the_order(case, order, data, threshold) -> None:
    n, parent, groups = case
    sets = data.draw(st.lists(SETS, min_size=n, max_size=n))
    hashes, set_starts = flat([sorted(members) for members in sets], np.uint64)
    for _ in range(2):
        links = link_exact(np.array(parent), *flat(groups), set_starts, hashes, threshold)
        check(case, links, lambda i, j: len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold)
        order.shuffle(groups)
        for group in groups:
            order.shuffle(group)


@given(case=rounds())
@settings(deadline=None)
def test_trusting_links_connect_each_bucket(case) -> None:
    _, parent, groups = case
    links = link_trusting(np.array(parent), *flat(groups))
    check(case, links, lambda _i, _j: True)
    assert len(links) == sum(len({parent[node] for node in group}) - 1 for group in groups)


@given(case=rounds(), data=st.data())
@settings(deadline=None)
def test_a_bucket_gives_one_link_for_each_union(case, data) -> None:
    n, parent, groups = case
    colours = data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    signatures = np.array(colours, np.uint32)[:, None]
    for group in groups:
        links = link_estimated(np.array(parent), *flat([group]), signatures, 1).tolist()
        before = {by_search(n, enumerate(parent))[node] for node in group}
        after = {by_search(n, [*enumerate(parent), *links])[node] for node in group}
        assert len(links) == len(before) - len(after)


def comparisons(monkeypatch, parent: np.ndarray, groups: list[list[int]], signatures: np.ndarray) -> int:
    """Run the same code in Python and count the pairs it looks at."""
    seen = []

    def count(signatures, one, other, min_agreeing) -> bool:
        seen.append((one, other))
        return (signatures[one] == signatures[other]).sum() >= min_agreeing

    with monkeypatch.context() as patch:
        patch.setattr(linking, "_agree", count)
        for name in ("_link_similar", "_search", "_are_alike"):
            patch.setattr(linking, name, getattr(linking, name).py_func)
        link_estimated(parent, *flat(groups), signatures, signatures.shape[1])
    return len(seen)


def test_copies_cost_one_comparison_each_and_what_is_connected_none(monkeypatch) -> None:
    n = 500
    copies, apart = np.zeros((n, 2), np.uint32), np.arange(2 * n, dtype=np.uint32).reshape(n, 2)
    nobody, everybody = np.arange(n), np.zeros(n, np.int64)
    assert comparisons(monkeypatch, nobody, [list(range(n))], copies) == n - 1
    assert comparisons(monkeypatch, everybody, [list(range(n))], apart) == 0
    assert comparisons(monkeypatch, nobody, [list(range(9))], apart) == 9 * 8 // 2
    two_by_two = np.arange(n) // 2 * 2
    assert comparisons(monkeypatch, two_by_two, [list(range(10))], copies) == 4


def test_members_that_stay_apart_cost_no_more_than_a_bound_each(monkeypatch) -> None:
    """The worst bucket: everybody shares its key and nobody resembles anybody, or only a neighbour."""
    n, bound = 400, 20
    apart = np.arange(2 * n, dtype=np.uint32).reshape(n, 2)
    monkeypatch.setattr(linking, "MOST_COMPARISONS", bound)
    assert comparisons(monkeypatch, np.arange(n), [list(range(n))], apart) <= n * bound
    pairs = apart[np.arange(n) // 2]
    assert comparisons(monkeypatch, np.arange(n), [list(range(n))], pairs) <= n * (bound + 1)
    assert len(link_estimated(np.arange(n), *flat([list(range(n))]), pairs, 2)) == n // 2


@pytest.mark.parametrize("num_bands", [1, 3])
def test_keeping_apart_costs_no_more_than_a_bound_each(monkeypatch, num_bands) -> None:
    """The worst cluster: all share their first bands, so that an index finds everybody, and nobody resembles anybody."""
    n, bound, seen = 200, 15, []
    signatures = np.zeros((n, 8), np.uint32)
    signatures[:, num_bands:] = np.arange(n, dtype=np.uint32)[:, None]
    signatures[-1] = signatures[-2]
    nodes, starts, none = np.arange(n), np.array([0, n]), np.zeros(n, np.bool_)

    def count(signatures, one, other, min_agreeing) -> bool:
        seen.append((one, other))
        return (signatures[one] == signatures[other]).sum() >= min_agreeing

    def keep() -> list[int]:
        slots, entries = linking.index_sizes(n, num_bands)
        index = linking.Index(np.zeros(slots, np.int64), np.zeros(entries, np.uint64), np.zeros(entries, np.int64))
        return linking.keep_apart(nodes, starts, none, by_signatures(signatures, 8), (num_bands, 1), index).tolist()

    monkeypatch.setattr(linking, "MOST_COMPARISONS", bound)
    compiled = keep()
    monkeypatch.setattr(linking, "_agree", count)
    for name in ("_keep_apart", "_first_alike", "_first_in_bands", "_are_alike", "_slot"):
        monkeypatch.setattr(linking, name, getattr(linking, name).py_func)
    assert keep() == compiled == [*range(n - 1), n - 2]
    assert n * bound / 2 < len(seen) <= n * bound


def test_five_thousand_copies_in_many_buckets_are_linked() -> None:
    n = 5_000
    signatures = np.zeros((n, 256), np.uint32)
    for groups in ([list(range(n))], [list(range(start, start + 10)) for start in range(0, n, 10)]):
        links = link_estimated(np.arange(n), *flat(groups), signatures, 256)
        assert len(links) == n - len(groups)


def test_memory_maps_and_read_only_arrays_are_read_where_they_lie(tmp_path) -> None:
    sets, set_starts = flat([[1, 2], [1, 2], [3]], np.uint64)
    arrays = {
        "parent": np.arange(3, dtype=np.uint32),
        "members": np.array([0, 1, 2]),
        "starts": np.array([0, 3]),
        "sets": sets,
        "set_starts": set_starts,
    }
    for name, values in arrays.items():
        np.save(tmp_path / f"{name}.npy", values)
    mapped = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in arrays}
    known = mapped["parent"], mapped["members"], mapped["starts"]
    assert link_exact(*known, mapped["set_starts"], mapped["sets"], 0.5).tolist() == [[0, 1]]
    assert link_estimated(*known, mapped["sets"][:3, None].astype(np.uint32), 1).tolist() == [[0, 2]]
    assert link_trusting(*known).tolist() == [[0, 1], [0, 2]]


@given(order=st.permutations(range(40)), cut=st.integers(1, 39))
@settings(deadline=None)
def test_clusters_that_grow_together_lose_no_member(order: list[int], cut: int) -> None:
    """Two paths, each node like its neighbours only: pieces of them meet in every way."""
    sets = [[2 * node, 2 * node + 2] if node != cut - 1 else [2 * node, 2 * node + 1] for node in range(40)]
    hashes, set_starts = flat(sets, np.uint64)
    links = link_exact(np.arange(40), *flat([order]), set_starts, hashes, 1 / 3)
    assert by_search(40, links.tolist()) == [0] * cut + [cut] * (40 - cut)
    assert len(links) == 38


def test_no_buckets_no_links() -> None:
    empty, starts = np.zeros(0, np.int64), np.zeros(1, np.int64)
    assert link_trusting(np.arange(3), empty, starts).shape == (0, 2)
    assert link_estimated(np.arange(3), empty, starts, np.zeros((3, 4), np.uint32), 1).shape == (0, 2)


@given(sets=st.lists(SETS, min_size=1, max_size=8), data=st.data())
@settings(deadline=None)
def test_similarity_is_that_of_pythons_sets(sets, data) -> None:
    hashes, starts = flat([sorted(members) for members in sets], np.uint64)
    pairs = data.draw(st.lists(st.tuples(*[st.integers(0, len(sets) - 1)] * 2), max_size=9))
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    expected = [len(sets[i] & sets[j]) / len(sets[i] | sets[j]) for i, j in pairs]
    assert jaccard(starts, hashes, left, right).tolist() == expected


@given(one=SETS, other=SETS, threshold=THRESHOLDS)
@example(one={1, 2, 3}, other={1}, threshold=1 / 3)
@example(one={1}, other={2}, threshold=1.0)
@settings(deadline=None)
def test_a_threshold_is_reached_when_the_quotient_reaches_it(one, other, threshold) -> None:
    assert reach(one, other, threshold) == (len(one & other) / len(one | other) >= threshold)


@given(shared=st.integers(1, 1000), only=st.integers(1, 1000), step=st.integers(-1, 1))
@example(shared=7, only=3, step=0)
@settings(deadline=None)
def test_a_threshold_is_met_to_the_last_bit(shared: int, only: int, step: int) -> None:
    quotient = shared / (shared + only)
    threshold = float(np.nextafter(quotient, quotient + step))
    assert reach(set(range(shared + only)), set(range(shared)), threshold) == (step <= 0)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.85])
def test_every_size_of_an_intersection_is_judged_like_its_quotient(threshold: float) -> None:
    for size, other in itertools.product([1, 2, 3, 10, 37, 100], repeat=2):
        for shared in range(min(size, other) + 1):
            one, two = set(range(size)), set(range(size - shared, size - shared + other))
            assert reach(one, two, threshold) == (shared / (size + other - shared) >= threshold)


def test_a_similarity_that_is_out_of_reach_is_left_early(monkeypatch) -> None:
    class Counted(np.ndarray):
        reads = 0

        def __getitem__(self, index):
            Counted.reads += 1
            return super().__getitem__(index)

    monkeypatch.setattr(linking, "_shared", linking._shared.py_func)
    hashes = np.concatenate([np.arange(60), np.arange(100), np.arange(1000, 1060)]).astype(np.uint64).view(Counted)
    assert not linking._reach.py_func(hashes, 0, 60, 60, 160, 0.7)  # by their sizes
    assert Counted.reads == 0
    assert not linking._reach.py_func(hashes, 0, 60, 160, 220, 0.7)
    assert Counted.reads == 2 * 11  # 50 of 60 would have to be shared: the eleventh miss rules that out
