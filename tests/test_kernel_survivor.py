"""Elections against sorting in plain Python."""

from __future__ import annotations

import datetime
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.tasks.common.clusters import Preference
from starloom.tasks.kernels.duplicates.survivor import LICENSE_CLASSES, columns, doc_ids, elect, rank, reasons

DATES = [datetime.datetime(2020, 1, day, 12, tzinfo=datetime.UTC) for day in (1, 2, 31)]
ROWS = st.fixed_dictionaries(
    {
        "license_class": st.sampled_from([None, *LICENSE_CLASSES]),
        "stars": st.sampled_from([None, -1, 0, 3, 80]),
        "forks": st.sampled_from([None, 0, 7]),
        "committed_at": st.sampled_from([None, *DATES]),
        "visited_at": st.sampled_from([None, *DATES]),
        "size": st.integers(0, 3),
        "group": st.integers(0, 3),
    }
)
SCHEMA = pa.schema(
    [
        ("doc_id", pa.string()),
        ("license_class", pa.string()),
        ("stars", pa.int64()),
        ("forks", pa.int64()),
        ("committed_at", pa.timestamp("us", tz="UTC")),
        ("visited_at", pa.timestamp("us", tz="UTC")),
        ("size", pa.int64()),
    ]
)


def plain_key(row: dict[str, Any], preferences: list[Preference]) -> list[Any]:
    """What a row is sorted by: missing last, then the value in the direction that wins, at last the id."""
    key: list[Any] = []
    for preference in preferences:
        name, way = preference.split()
        value = row[name]
        if value is None:
            key.append((True, 0))
        else:
            number = LICENSE_CLASSES.index(value) if name == "license_class" else value.timestamp() if name.endswith("_at") else value
            key.append((False, number if way == "asc" else -number))
    return [*key, row["doc_id"]]


@given(
    drawn=st.lists(ROWS, max_size=12),
    preferences=st.lists(st.sampled_from(get_args(Preference)), max_size=4),
    order=st.randoms(use_true_random=False),
)
@settings(deadline=None)
def test_the_first_of_a_group_wins_and_the_reason_is_the_first_difference(
    drawn: list[dict[str, Any]], preferences: list[Preference], order: Any
) -> None:
    rows = [{"doc_id": f"{order.getrandbits(128):032x}", **row} for row in drawn]
    groups = [min(i for i, other in enumerate(rows) if other["group"] == row["group"]) for row in rows]
    documents = pa.Table.from_pylist([{k: v for k, v in row.items() if k != "group"} for row in rows], schema=SCHEMA)
    ranks = rank(documents.select(columns(preferences)), preferences)
    assert doc_ids(ranks).to_pylist() == [row["doc_id"] for row in rows]
    survivors, rivals = elect(np.array(groups, np.int64), ranks)
    said = reasons(ranks[survivors], ranks[rivals], preferences).to_pylist()
    for i, row in enumerate(rows):
        members = sorted((other for other in rows if other["group"] == row["group"]), key=lambda other: plain_key(other, preferences))
        assert rows[survivors[i]] == members[0]
        rival = row if row != members[0] else members[min(1, len(members) - 1)]
        assert rows[rivals[i]] == rival
        assert said[i] == plain_reason(members[0], rival, preferences)


def plain_reason(winner: dict[str, Any], loser: dict[str, Any], preferences: list[Preference]) -> str:
    for preference in preferences:
        name, way = preference.split()
        if winner[name] != loser[name]:
            shown = [
                "unknown" if v is None else f"{v:%Y-%m-%d %H:%M:%S}" if name.endswith("_at") else str(v)
                for v in (winner[name], loser[name])
            ]
            return f"{name} {shown[0]} {'before' if name == 'license_class' else '>' if way == 'desc' else '<'} {shown[1]}"
    return "smallest doc_id"


@pytest.mark.parametrize("doc_id", ["", "abc", "0" * 31 + "g", "A" * 32, "0" * 33])
def test_an_id_of_another_shape_is_refused(doc_id: str) -> None:
    with pytest.raises(ValueError, match="32 lower-case hex digits"):
        rank(pa.table({"doc_id": ["0" * 32, doc_id]}), [])
