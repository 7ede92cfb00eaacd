"""Union-find against a breadth-first search."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.tasks.kernels.duplicates.union_find import compress, connected_nodes, part, unite, width

if TYPE_CHECKING:
    import random


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


@st.composite
def graphs(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    n = draw(st.integers(1, 30))
    return n, draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=40))


@pytest.mark.parametrize("kind", [np.uint32, np.uint64])
@given(graph=graphs(), order=st.randoms(use_true_random=False), cut=st.integers(0, 40))
@settings(deadline=None)
def test_components_are_those_of_a_search_whatever_the_order(
    kind: type[np.generic], graph: tuple[int, list[tuple[int, int]]], order: random.Random, cut: int
) -> None:
    n, edges = graph
    expected = by_search(n, edges)
    for _ in range(2):
        parent = np.empty(n, kind)
        part(parent)
        for some in (edges[:cut], edges[cut:]):
            unite(parent, np.array(some, np.int64).reshape(-1, 2))
            compress(parent)
        assert parent.tolist() == expected
        assert connected_nodes(parent).tolist() == [node for node in range(n) if expected.count(expected[node]) > 1]
        order.shuffle(edges)
        edges = [edge[::-1] if order.random() < 0.5 else edge for edge in edges]


def test_a_chain_of_a_million_is_one_component() -> None:
    n = 1_000_000
    parent = np.empty(n, np.uint32)
    part(parent)
    unite(parent, np.stack([np.arange(n - 1, 0, -1), np.arange(n - 2, -1, -1)], axis=1))
    compress(parent)
    assert not parent.any()


def test_a_parent_is_as_wide_as_the_number_of_nodes_demands() -> None:
    assert (width(0), width(2**32 - 1), width(2**32)) == (np.uint32, np.uint32, np.uint64)
