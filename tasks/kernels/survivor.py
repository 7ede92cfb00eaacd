"""Which of several equal documents stays, and the reason in words.

A policy is a list of preferences, the first that tells two documents apart decides; a missing value loses to any
other; the smaller doc_id decides what is left, so the order is total and no result depends on the order of rows.
The Stack v2 ranks by stars, forks and dates (bigcode-dataset near_deduplication/bigcode-v2/intra_dedup.py, --rank).
Cost: one sort of the rows.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Preference = Literal[
    "stars desc",
    "stars asc",
    "forks desc",
    "forks asc",
    "committed_at desc",
    "committed_at asc",
    "size desc",
    "size asc",
]
"""A column of Docs and the direction that wins, as in SQL's ORDER BY."""


def columns(preferences: Sequence[Preference]) -> list[str]:
    """Give the columns that a policy reads, doc_id first."""
    return ["doc_id", *dict.fromkeys(preference.split()[0] for preference in preferences)]


def elect(documents: pa.Table, groups: NDArray[np.int64], preferences: Sequence[Preference]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Elect a survivor in each group.

    Args:
        documents: the `columns` of a policy, n rows.
        groups: rows of one group have one number, [n].
        preferences: the policy, most important first.

    Returns:
        survivors, int64 [n]: the row of the survivor of each row's group; and rivals, int64 [n]: the row that the
        survivor was preferred to: for the survivor itself the runner-up (itself, if it is alone), for others they.
    """
    directions = {"asc": "ascending", "desc": "descending"}
    keys = [(column, directions[way]) for column, way in (preference.split() for preference in preferences)]
    ranked = pc.sort_indices(documents, sort_keys=[*keys, ("doc_id", "ascending")])  # nulls last, whatever the direction
    ranked = ranked.to_numpy().astype(np.int64)
    in_order = ranked[np.argsort(groups[ranked], kind="stable")]  # by group, within it by rank
    is_first = np.append(True, np.diff(groups[in_order]) != 0)[: len(in_order)]
    firsts = np.flatnonzero(is_first)
    survivors, rivals = np.empty_like(groups), np.arange(len(groups), dtype=np.int64)
    survivors[in_order] = in_order[firsts[np.cumsum(is_first) - 1]]
    has_rival = np.append(~is_first[1:], False)[: len(in_order)] & is_first
    rivals[in_order[has_rival]] = in_order[np.flatnonzero(has_rival) + 1]
    return survivors, rivals


def reasons(documents: pa.Table, survivors: NDArray[np.int64], rivals: NDArray[np.int64], preferences: Sequence[Preference]) -> pa.Array:
    """Say why each survivor was preferred to each rival: "stars 120 > 80", "stars 3 > unknown", "smallest doc_id"."""
    text = pa.repeat(pa.scalar("smallest doc_id"), len(survivors))
    for preference in reversed(preferences):
        column, way = preference.split()
        shown = _shown(documents.column(column))
        winner, loser = shown.take(pa.array(survivors)), shown.take(pa.array(rivals))
        said = pc.binary_join_element_wise(column, winner, ">" if way == "desc" else "<", loser, " ")
        text = pc.if_else(pc.equal(winner, loser), text, said)
    return text


def _shown(column: pa.ChunkedArray) -> pa.Array:
    """Give the values as text; equal values, and only they, give equal texts."""
    if pa.types.is_timestamp(column.type):
        column = pc.replace_substring(column.cast(pa.timestamp("us")).cast(pa.string()), ".000000", "")
    text = pc.fill_null(column.cast(pa.string()), "unknown")
    return text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text
