"""The choice of a cluster's survivor, and the reason in words.

A policy is a list of preferences, each a column and the direction that wins ("stars desc", as in SQL's ORDER BY) or
sources in the order that wins (`BySource`), and first of all it may spare the documents of some sources (`Spared`). The
first that tells two documents apart decides; a missing value loses to any other; the smaller doc_id decides what is
left, so the order is total and no result depends on the order of rows.
The Stack v2 ranks by licence class, stars, forks, revision date and visit date (bigcode-dataset
near_deduplication/bigcode-v2/intra_dedup.py, --rank).

A document's place is a row of 64-bit numbers, one for each preference and two for the doc_id, that compare as the
policy does: rows can be written to a file and mapped, and values are read back from them.
Cost: 8 bytes a preference and 16 a document; an election is one pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from starloom.tasks.kernels.compiled import njit
from starloom.tasks.kernels.text.hex_digits import from_hex, to_hex

LICENSE_CLASSES = ("permissive", "no-license", "unknown-license", "non-permissive")
"""From the least to the most strict: the order of `license_class asc`."""


@dataclass(frozen=True)
class BySource:
    """Sources in the order in which they win; the others come after them, none before another."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Spared:
    """A criterion by which the documents of all but these sources win, and are not dropped."""

    names: tuple[str, ...]


Preference = str | BySource | Spared

_Ranks = NDArray[np.uint64]
_Int64s = NDArray[np.int64]

_NO_CLASS = 255
_MISSING = np.uint64(2**64 - 1)
_SIGN = np.uint64(2**63)
_NUM_ID_LANES = 2
_ID_DIGITS = 32


def columns(preferences: Sequence[Preference]) -> list[str]:
    """Return the columns that a policy reads, doc_id first."""
    return ["doc_id", *dict.fromkeys(_parted(preference)[0] for preference in preferences)]


def _parted(preference: Preference) -> tuple[str, str]:
    """Return the column and the direction that wins."""
    if isinstance(preference, str):
        name, way = preference.split()
        return name, way
    return "source", "asc"


def num_lanes(preferences: Sequence[Preference]) -> int:
    """Return the number of columns of a rank."""
    return len(preferences) + _NUM_ID_LANES


def rank(documents: pa.Table, preferences: Sequence[Preference]) -> _Ranks:
    """Turn documents into rows that compare as the policy does: the smaller row wins.

    Args:
        documents: the `columns` of a policy; doc_id is 32 hex digits.
        preferences: the policy, most important first.

    Returns:
        uint64 [n, len(preferences) + 2]. The largest number stands for a missing value.
    """
    ranks = np.empty((documents.num_rows, num_lanes(preferences)), np.uint64)
    for lane, preference in enumerate(preferences):
        name, way = _parted(preference)
        numbers, is_missing = _numbers(documents.column(name), preference)
        values = numbers.view(np.uint64) ^ _SIGN
        ranks[:, lane] = np.where(is_missing, _MISSING, values if way == "asc" else ~values)
    ranks[:, len(preferences) :] = from_hex(documents.column("doc_id"), _ID_DIGITS).view(">u8")
    return ranks


def class_numbers(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    """Return licence classes as numbers; 255 for none."""
    numbers: NDArray[np.uint8] = pc.fill_null(pc.index_in(column, pa.array(LICENSE_CLASSES)), _NO_CLASS).to_numpy().astype(np.uint8)
    return numbers


def class_names(numbers: NDArray[np.uint8]) -> pa.Array:
    """Return the names of licence classes, null for none."""
    return pa.array(LICENSE_CLASSES).take(pa.array(numbers, mask=numbers == _NO_CLASS))


def disagree(groups: _Int64s, classes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Find the groups whose members are of different licence classes.

    Args:
        groups: the number of each row's group, which is the number of one of its rows, [n].
        classes: of the rows, [n]; rows without one say nothing.

    Returns:
        For each row whether its group is one, [n].
    """
    lowest, highest = np.full(len(groups), _NO_CLASS, np.uint8), np.zeros(len(groups), np.uint8)
    told = classes != _NO_CLASS
    np.minimum.at(lowest, groups[told], classes[told])
    np.maximum.at(highest, groups[told], classes[told])
    is_mixed: NDArray[np.bool_] = (lowest < highest)[groups]
    return is_mixed


@njit(cache=True, nogil=True)
def elect(groups: _Int64s, ranks: _Ranks) -> tuple[_Int64s, _Int64s]:
    """Elect a survivor in each group.

    Args:
        groups: the number of each row's group, which is the number of one of its rows, [n].
        ranks: [n, lanes].

    Returns:
        survivors, int64 [n]: the row of the survivor of each row's group; and rivals, int64 [n]: the row that the
        survivor was preferred to: for the survivor itself the runner-up (itself, if it is alone), for others they.
    """
    best, second = np.full(groups.size, -1, np.int64), np.full(groups.size, -1, np.int64)
    for row in range(groups.size):
        group = groups[row]
        if best[group] < 0 or _precedes(ranks[row], ranks[best[group]]):
            second[group] = best[group]
            best[group] = row
        elif second[group] < 0 or _precedes(ranks[row], ranks[second[group]]):
            second[group] = row
    survivors, rivals = best[groups], np.arange(groups.size)
    for row in range(groups.size):
        if survivors[row] == row and second[groups[row]] >= 0:
            rivals[row] = second[groups[row]]
    return survivors, rivals


@njit(cache=True, nogil=True)
def _precedes(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> bool:
    for lane in range(one.size):
        if one[lane] != other[lane]:
            return bool(one[lane] < other[lane])
    return False


def repeated_id(ranks: _Ranks) -> str | None:
    """Return a doc_id that two rows have, if there is one."""
    ids = ranks[:, -_NUM_ID_LANES:]
    ids = ids[np.lexsort(ids.T[::-1])]
    twice = np.flatnonzero((ids[1:] == ids[:-1]).all(axis=1))
    return str(doc_ids(ids[twice[:1]])[0].as_py()) if len(twice) else None


def are_spared(ranks: _Ranks, preferences: Sequence[Preference]) -> NDArray[np.bool_]:
    """Return which documents a policy spares; none, if it does not begin with that."""
    if not preferences or not isinstance(preferences[0], Spared):
        return np.zeros(len(ranks), np.bool_)
    spared: NDArray[np.bool_] = ranks[:, 0] == _SIGN  # that is zero
    return spared


def reasons(winners: _Ranks, losers: _Ranks, preferences: Sequence[Preference]) -> pa.Array:
    """Return why each winner was preferred to each loser: "stars 120 > 80", "stars 3 > unknown", "source A before B", "smallest doc_id"."""
    text = pa.repeat(pa.scalar("smallest doc_id"), len(winners))
    for lane, preference in reversed(list(enumerate(preferences))):
        name, way = _parted(preference)
        sign = "before" if name in ("license_class", "source") else ">" if way == "desc" else "<"
        winner, loser = (_shown(ranks[:, lane], preference) for ranks in (winners, losers))
        said = pc.binary_join_element_wise(name, winner, sign, loser, " ")
        if isinstance(preference, Spared):
            said = pa.scalar(f"of sources {', '.join(preference.names)} alone documents are dropped")
        text = pc.if_else(pa.array(winners[:, lane] == losers[:, lane]), text, said)
    return text


def doc_ids(ranks: _Ranks) -> pa.Array:
    """Return the doc_id of each row, as text."""
    lanes = np.ascontiguousarray(ranks[:, -_NUM_ID_LANES:]).astype(">u8")
    return to_hex(lanes.view(np.uint8).reshape(len(ranks), _ID_DIGITS // 2))


def _numbers(column: pa.ChunkedArray, preference: Preference) -> tuple[_Int64s, NDArray[np.bool_]]:
    """Return a column as numbers in its ascending order, and which of them are missing."""
    if isinstance(preference, BySource):
        column = pc.index_in(column, pa.array(preference.names))
    elif isinstance(preference, Spared):
        column = pc.is_in(column, pa.array(preference.names)).cast(pa.uint8())
    elif _parted(preference)[0] == "license_class":
        column = pc.index_in(column, pa.array(LICENSE_CLASSES))
    elif pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz))
    return pc.fill_null(column.cast(pa.int64()), 0).to_numpy(), pc.is_null(column).to_numpy()


def _shown(lane: NDArray[np.uint64], preference: Preference) -> pa.Array:
    """Read values back from their numbers, as text."""
    name, way = _parted(preference)
    values = pa.array(((lane if way == "asc" else ~lane) ^ _SIGN).view(np.int64), mask=lane == _MISSING)
    if isinstance(preference, BySource):
        return pc.fill_null(pa.array(preference.names).take(values), "another")
    if name == "license_class":
        text = pa.array(LICENSE_CLASSES).take(values)
    elif name.endswith("_at"):
        text = pc.replace_substring(values.cast(pa.timestamp("us")).cast(pa.string()), ".000000", "")
    else:
        text = values.cast(pa.string())
    return pc.fill_null(text, "unknown")
