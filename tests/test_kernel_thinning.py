"""Thinning of clusters against a plain walk from the best to the worst; the files that its workers share."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from starloom.tasks.kernels.duplicates.array_files import ArrayFiles
from starloom.tasks.kernels.duplicates.connecting import Evidence, least_agreeing
from starloom.tasks.kernels.duplicates.thinning import thin
from starloom.tasks.kernels.duplicates.workspace import Nodes, Sets, Signed
from tests.sizes import examples

BANDING = (8, 1)
MEMBERS = st.lists(st.tuples(st.sets(st.integers(0, 7), min_size=1), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=14)
"""Nodes: what each holds, its rank, and the number of its cluster."""


def stored(folder: str, sets: list[set[int]], ranks: list[int]) -> ArrayFiles:
    """The nodes, as near_dedup leaves them; a node's signature says exactly what it holds."""
    arrays, num = ArrayFiles(Path(folder)), len(sets)
    lanes = np.array([[rank, i] for i, rank in enumerate(ranks)], np.uint64)
    arrays.put(Nodes(np.arange(num), lanes, np.zeros(num, np.uint8)))
    signatures = np.array([[number in one for number in range(8)] for one in sets], np.uint32)
    arrays.put(Signed(np.arange(num), signatures, np.zeros(num, np.uint64)))
    hashes = [number for one in sets for number in sorted(one)]
    arrays.put(Sets(np.cumsum([0, *map(len, sets)]), np.array(hashes, np.uint64)))
    return arrays


def by_hand(sets: list[set[int]], ranks: list[int], groups: list[int], threshold: float) -> list[int]:
    """For each node the first kept one of its cluster that it resembles, from the best to the worst."""
    kept: list[int] = []
    keeper = {}
    for node in sorted(range(len(sets)), key=lambda i: (ranks[i], i)):
        alike = [k for k in kept if groups[k] == groups[node] and len(sets[k] & sets[node]) >= threshold * len(sets[k] | sets[node])]
        keeper[node] = alike[0] if alike else node
        kept += [] if alike else [node]
    return [keeper[node] for node in range(len(sets))]


@given(members=MEMBERS, threshold=st.sampled_from([0.3, 0.5, 0.75, 1.0]), is_reversed=st.booleans())
@example(members=[({0, 1}, 0, 0), ({1, 2}, 0, 0), ({2, 3}, 0, 0)], threshold=0.3, is_reversed=False)
@settings(deadline=None, max_examples=examples(150))
def test_who_stays_is_who_resembles_none_that_was_kept_before(members: Any, threshold: float, is_reversed: bool) -> None:
    sets, ranks, numbers = ([member[column] for member in members] for column in range(3))
    groups = [numbers.index(number) for number in numbers]  # a cluster is called by its first
    copies = [next(j for j in range(len(sets)) if sets[j] == sets[i] and groups[j] == groups[i]) for i in range(len(sets))]

    def mapper(function, jobs):
        done = [(at, function(job)) for at, job in sorted(enumerate(jobs), reverse=is_reversed, key=lambda pair: pair[0])]
        return [result for _, result in sorted(done, key=lambda pair: pair[0])]

    with tempfile.TemporaryDirectory() as folder:
        arrays = stored(folder, sets, ranks)
        evidence = Evidence(threshold, is_exact=True, banding=BANDING)
        keepers = thin(arrays, np.array(groups), np.array(copies), mapper, evidence=evidence, policy=())
        assert not list(Path(folder).glob("index-*")), "room of the jobs goes with them"
    assert keepers.tolist() == by_hand(sets, ranks, groups, threshold)


@given(threshold=st.floats(0.01, 1), num_perm=st.integers(1, 300))
def test_so_many_positions_agree_at_least_as_make_the_threshold_and_one_less_does_not(threshold: float, num_perm: int) -> None:
    least = least_agreeing(threshold, num_perm)
    assert least / num_perm >= threshold
    assert (least - 1) / num_perm < threshold


# The files


@dataclass(frozen=True)
class Phase:
    """Two arrays."""

    numbers: np.ndarray
    flags: np.ndarray


@pytest.mark.parametrize("shape", [(0,), (3,), (2, 3), (0, 4)])
def test_what_is_put_is_what_is_mapped(tmp_path, shape):
    arrays = ArrayFiles(tmp_path)
    phase = Phase(np.arange(np.prod(shape), dtype=np.uint32).reshape(shape), np.asfortranarray(np.ones(shape, bool)))
    arrays.put(phase)
    found = arrays.get(Phase)
    for name in ("numbers", "flags"):
        one, other = getattr(found, name), getattr(phase, name)
        assert (one.dtype, one.shape, one.tolist()) == (other.dtype, other.shape, other.tolist())
        assert not one.flags.writeable


def test_who_opens_a_file_to_write_is_seen_by_who_reads_it(tmp_path):
    arrays = ArrayFiles(tmp_path)
    made = arrays.make(Phase, numbers=(np.int64, 3), flags=(bool, 2, 2))
    assert made.numbers.tolist() == [0, 0, 0]
    assert made.flags.tolist() == [[False, False], [False, False]]
    reader = arrays.get(Phase).numbers
    arrays.get(Phase, writable=True).numbers[1] = 7
    assert reader.tolist() == [0, 7, 0]


def test_what_was_not_written_is_named(tmp_path):
    with pytest.raises(LookupError, match=r"Phase\.numbers\.npy of Phase is read before it was written"):
        ArrayFiles(tmp_path).get(Phase)
