"""The arrays of a deduplication stage, phase by phase: each phase is written as a whole and read by all workers.

In this order: `DocumentParents` while documents are connected; `Nodes`, those that are connected with another, numbered
anew in the order of the corpus; where pairs are compared `Signed`, `Sets` (exactly), `Distinct`, `NodeParents` while
nodes are connected, `Contenders` (where only a kept file's likes go); `Elected`. Without comparison `Signed` comes last,
and is of the survivors alone. Arrays have a row a node unless they say otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class DocumentParents:
    """Components of documents, of which some are connected."""

    parents: NDArray[Any]
    """Of each document another of its component, or itself."""


@dataclass(frozen=True)
class Nodes:
    """Documents that are connected with another."""

    rows: NDArray[np.int64]
    """Their rows in the corpus, ascending."""
    ranks: NDArray[np.uint64]
    """Their places by the survivor policy, [nodes, lanes]."""
    classes: NDArray[np.uint8]
    """Their licence classes."""


@dataclass(frozen=True)
class Signed:
    """Signatures of nodes."""

    nodes: NDArray[np.int64]
    """Of which, ascending."""
    signatures: NDArray[np.uint32]
    """[of these, num_perm]."""
    scopes: NDArray[np.uint64]
    """In which they may be compared, [of these]."""


@dataclass(frozen=True)
class Sets:
    """Distinct shingles of all nodes."""

    starts: NDArray[np.int64]
    """Those of node i are `hashes[starts[i]:starts[i + 1]]`."""
    hashes: NDArray[np.uint64]


@dataclass(frozen=True)
class Distinct:
    """The nodes that are compared: the first of each group of identical ones."""

    identities: NDArray[np.uint64]
    """Equal for identical nodes."""
    is_compared: NDArray[np.bool_]


@dataclass(frozen=True)
class NodeParents:
    """Components of nodes, of which some are connected."""

    parents: NDArray[Any]
    """Of each node another of its component, or itself."""


@dataclass(frozen=True)
class Contenders:
    """The best of each group of identical nodes, cluster by cluster."""

    nodes: NDArray[np.int64]
    """[contenders]."""
    starts: NDArray[np.int64]
    """Those of cluster k are `nodes[starts[k]:starts[k + 1]]`."""
    keepers: NDArray[np.int64]
    """Of each node that contends the first kept one that it resembles: itself, if it is kept."""


@dataclass(frozen=True)
class Elected:
    """The survivors."""

    heads: NDArray[np.int64]
    """The best of each node's cluster: it names the cluster."""
    survivors: NDArray[np.int64]
    """The node that is kept for each node; itself, if it is kept."""
    rivals: NDArray[np.int64]
    """Of a kept node, the best that is dropped for it; of another, and of one for which none is dropped, itself."""
    is_member: NDArray[np.bool_]
    """Whether its cluster has another member."""
    has_conflict: NDArray[np.bool_]
    """Whether members of its cluster are of different licence classes."""
