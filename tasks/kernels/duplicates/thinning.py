"""Thinning of clusters: only documents similar to a kept one are dropped; cluster by cluster, by workers.

A cluster is connected by pairs that are similar, so its ends may not be. Its members are gone through from the best to
the worst; whoever resembles none that was kept before is kept (`linking.keep_apart`, whose bounds hold). Of identical
members the best stands for all. Guarantee: the result depends on the clusters, what their members hold and their order
alone, not on the number of workers. Memory: a job holds 150 bytes for each member of its clusters; the index of a
cluster of more than `linking.MOST_COMPARISONS` is mapped from a file that goes with it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from starloom.tasks.kernels.duplicates import linking, survivor
from starloom.tasks.kernels.duplicates.workspace import Contenders, Nodes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from starloom.tasks.kernels.duplicates.array_files import ArrayFiles
    from starloom.tasks.kernels.duplicates.connecting import Evidence, Mapper

    _Int64s = NDArray[np.int64]

_CONTENDERS_A_JOB = 1 << 16


@dataclass(frozen=True)
class _Job:
    arrays: ArrayFiles
    evidence: Evidence
    policy: tuple[survivor.Preference, ...]
    first: int
    end: int


def thin(
    arrays: ArrayFiles,
    groups: _Int64s,
    copies: _Int64s,
    mapper: Mapper,
    *,
    evidence: Evidence,
    policy: Sequence[survivor.Preference],
) -> _Int64s:
    """Return for each node the node that is kept for it.

    Args:
        arrays: hold `Nodes` and what the evidence asks for.
        groups: for each node the first of its cluster.
        copies: for each node the first that is identical.
        mapper: runs a function over items, in this process or others, in order.
        evidence: what pairs are compared by.
        policy: by which nodes are ranked.

    Returns:
        For each node the first kept one that it resembles; itself, if it is kept. Of those that the policy spares each
        but the best of identical ones is said to go too.
    """
    best, _ = survivor.elect(copies, arrays.get(Nodes).ranks)
    standing = np.flatnonzero(best == np.arange(len(best)))
    nodes = standing[np.argsort(groups[standing], kind="stable")]
    starts = np.append(np.flatnonzero(np.diff(groups[nodes], prepend=-1)), len(nodes))
    arrays.put(Contenders(nodes, starts, np.arange(len(groups))))
    jobs = [_Job(arrays, evidence, tuple(policy), first, end) for first, end in _batches(starts)]
    mapper(_thin, jobs)
    keepers: _Int64s = arrays.get(Contenders).keepers[best]
    return keepers


def _batches(starts: _Int64s) -> list[tuple[int, int]]:
    """Cut clusters into runs of some size, a large cluster by itself."""
    large = np.flatnonzero(np.diff(starts) > linking.MOST_COMPARISONS)
    full = np.flatnonzero(np.diff(starts[:-1] // _CONTENDERS_A_JOB)) + 1
    cuts = np.unique(np.concatenate([[0], full, large, large + 1, [len(starts) - 1]])).tolist()
    return list(itertools.pairwise(cuts))


def _thin(job: _Job) -> None:
    contenders = job.arrays.get(Contenders, writable=True)
    starts = contenders.starts[job.first : job.end + 1]
    nodes = contenders.nodes[starts[0] : starts[-1]]
    ranks, sizes = job.arrays.get(Nodes).ranks[nodes], np.diff(starts)
    order = np.lexsort((*ranks.T[::-1], np.repeat(np.arange(len(sizes)), sizes)))
    nodes, is_spared = nodes[order], survivor.are_spared(ranks[order], job.policy)
    num_slots, num_entries = linking.index_sizes(int(sizes.max()), job.evidence.banding[0])
    names = [f"index-{job.first}-{name}" for name in linking.Index._fields]
    kinds = [(np.int64, num_slots), (np.uint64, num_entries), (np.int64, num_entries)]
    index = linking.Index(*(job.arrays.create(name, *kind) for name, kind in zip(names, kinds, strict=True)))
    kept_by = linking.keep_apart(nodes, starts - starts[0], is_spared, job.evidence.open(job.arrays), job.evidence.banding, index)
    contenders.keepers[nodes] = nodes[kept_by]
    for name in names:
        job.arrays.path(name).unlink()
