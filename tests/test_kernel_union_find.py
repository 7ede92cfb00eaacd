"""Union-find against a breadth-first search."""

from __future__ import annotations

from collections import deque

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.kernels.union_find import components, unite_buckets, unite_similar


def by_search(n: int, edges: list[tuple[int, int]]) -> list[int]:
    neighbours: list[set[int]] = [set() for _ in range(n)]
    for left, right in edges:
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


def flat(groups: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    members = np.array([node for group in groups for node in group], np.int64)
    return members, np.cumsum([0, *map(len, groups)])


@st.composite
def buckets(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    n = draw(st.integers(1, 30))
    return n, draw(st.lists(st.lists(st.integers(0, n - 1), min_size=2, max_size=5), max_size=20))


@given(case=buckets(), order=st.randoms(use_true_random=False))
@settings(deadline=None)
def test_components_are_those_of_a_search_whatever_the_order(case: tuple[int, list[list[int]]], order: object) -> None:
    n, groups = case
    expected = by_search(n, [(group[0], node) for group in groups for node in group])
    for _ in range(2):
        parent = np.arange(n)
        unite_buckets(parent, *flat(groups))
        assert components(parent).tolist() == expected
        order.shuffle(groups)
        for group in groups:
            order.shuffle(group)


@given(case=buckets(), data=st.data())
@settings(deadline=None)
def test_only_pairs_that_agree_enough_are_joined(case: tuple[int, list[list[int]]], data: st.DataObject) -> None:
    n, groups = case
    signatures = np.array(data.draw(st.lists(st.lists(st.integers(0, 1), min_size=4, max_size=4), min_size=n, max_size=n)), np.uint32)
    min_agreeing = data.draw(st.integers(1, 4))
    alike = [(i, j) for g in groups for i in g for j in g if (signatures[i] == signatures[j]).sum() >= min_agreeing]
    parent = np.arange(n)
    unite_similar(parent, *flat(groups), signatures, min_agreeing)
    assert components(parent).tolist() == by_search(n, alike)


def test_a_chain_of_a_million_is_one_component() -> None:
    n = 1_000_000
    parent = np.arange(n)
    pairs = np.stack([np.arange(n - 1, 0, -1), np.arange(n - 2, -1, -1)], axis=1)
    unite_buckets(parent, pairs.reshape(-1), np.arange(0, 2 * n - 1, 2))
    assert not components(parent).any()
