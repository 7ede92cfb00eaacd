"""Connected components of documents that share a band key, band by band, out of core.

Every band is one round: ranges of its keys are searched for buckets by workers, which see the components of the rounds
before and tell only what is new; then one process joins. Without evidence a shared key is trusted. With evidence only
those pairs of a bucket are joined whose similarity reaches the threshold, and pairs that are connected already are not
compared. In a bucket of more than `linking.MOST_COMPARISONS` members each is compared with no more than so many: those
beside it when they are ordered by the positions of the signature that follow the band's, where like stands beside like,
and other bands have other neighbours. Guarantee: the components are those of the graph of all (similar) pairs that
share a key, but for pairs that only met in such large buckets, and in any case one result, whatever the number of
ranges and workers and the order of documents. Cost: bands x n keys read and sorted; in memory one range and its edges,
and a number a document that may be paged out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from starloom.tasks.kernels.duplicates import linking, lsh, union_find
from starloom.tasks.kernels.duplicates.workspace import Distinct, DocumentParents, NodeParents, Nodes, Sets, Signed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from starloom.tasks.kernels.duplicates.array_files import ArrayFiles
    from starloom.tasks.kernels.duplicates.band_files import BandFiles

    Parents = type[DocumentParents | NodeParents]
    Mapper = Callable[[Callable[[Any], Any], list[Any]], list[Any]]


_ORDERING_LANES = 8


@dataclass(frozen=True)
class Evidence:
    """The data by which pairs of nodes are compared: `Signed` of all nodes, and `Sets`, beside the band files.

    Of identical nodes the first alone takes part (`Distinct`), and is joined with them already.
    """

    threshold: float
    is_exact: bool
    """By `Sets`; else by `Signed`."""
    banding: tuple[int, int]
    """Bands of a signature, and rows of each."""

    def open(self, arrays: ArrayFiles) -> linking.Evidence:
        """Map what pairs are judged by."""
        signatures = arrays.get(Signed).signatures
        if self.is_exact:
            sets = arrays.get(Sets)
            return linking.by_sets(sets.starts, sets.hashes, self.threshold, signatures)
        return linking.by_signatures(signatures, least_agreeing(self.threshold, signatures.shape[1]))


@dataclass(frozen=True)
class _Job:
    files: BandFiles
    parents: Parents
    evidence: Evidence | None
    band: int
    number: int


def connect(
    files: BandFiles, parents: Parents, mapper: Mapper, *, evidence: Evidence | None = None, on_band: Callable[[int], None] | None = None
) -> None:
    """Join all documents that are connected.

    Args:
        files: the keys.
        parents: which parents, of all documents or of nodes; compressed before and after.
        mapper: runs a function over items, in this process or others, in order.
        evidence: what pairs are compared by; None trusts every shared key.
        on_band: is told how many bands are done.
    """
    parent = files.arrays.get(parents, writable=True).parents
    for band in range(files.num_bands):
        for found in mapper(_write_new_edges, [_Job(files, parents, evidence, band, number) for number in range(files.num_ranges)]):
            union_find.unite(parent, np.load(found))
            found.unlink()
        union_find.compress(parent)
        if on_band is not None:
            on_band(band + 1)


def _write_new_edges(job: _Job) -> Path:
    """Find the edges that one range of one band adds."""
    keys, rows = job.files.read(job.band, job.number)
    members, starts = lsh.buckets(keys)
    parent, members = job.files.arrays.get(job.parents).parents, rows[members]
    if job.evidence is not None:
        edges = _similar(job, job.evidence, parent, members, starts)
    else:
        edges = linking.link_trusting(parent, members, starts)
    job.files.arrays.save(f"edges-{job.number}", edges)
    return job.files.arrays.path(f"edges-{job.number}")


def _similar(
    job: _Job, evidence: Evidence, parent: NDArray[Any], members: NDArray[np.int64], starts: NDArray[np.int64]
) -> NDArray[np.int64]:
    arrays = job.files.arrays
    distinct, judged_by = arrays.get(Distinct), evidence.open(arrays)
    nodes = np.searchsorted(arrays.get(Nodes).rows, members)  # whoever shares a key is a node
    nodes, starts = lsh.among(nodes, starts, distinct.is_compared[nodes])
    for bucket in np.flatnonzero(np.diff(starts) > linking.MOST_COMPARISONS).tolist():
        here = slice(starts[bucket], starts[bucket + 1])
        nodes[here] = _neighbours(nodes[here], judged_by.signatures, distinct.identities, (job.band + 1) * evidence.banding[1])
    return linking.link_similar(parent, nodes, starts, judged_by)


def _neighbours(nodes: NDArray[np.int64], signatures: NDArray[Any], identities: NDArray[np.uint64], lane: int) -> NDArray[np.int64]:
    """Order the members of a bucket by what they are: by the positions of their signatures from `lane` on, at last by identity."""
    lanes = [(lane + i) % signatures.shape[1] for i in range(_ORDERING_LANES)]
    order = np.lexsort((identities[nodes], *(signatures[nodes, each] for each in reversed(lanes))))
    ordered: NDArray[np.int64] = nodes[order]
    return ordered


def least_agreeing(threshold: float, num_perm: int) -> int:
    """Return the number of positions of two signatures that must agree for their estimate to reach a threshold."""
    least = int(threshold * num_perm)
    while least / num_perm < threshold:
        least += 1
    return least
