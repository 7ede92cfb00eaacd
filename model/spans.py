"""Whose bytes the tokens of packed sequences are, read from Spans: for some sequences of a part, without the others.

Spans of a part are the Parquet file beside that part of Packed; its `sequence` is the row there. What is asked for is found by the
statistics of its row groups, which are in order of sequences.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray


def read_spans(path: Path, rows: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
    """Read the spans of some rows of a part, in order of sequence and token.

    Raises:
        ValueError: the file lacks a column.
    """
    missing = set(columns) - set(pq.read_schema(path).names)
    if missing:
        raise ValueError(f"{path} has no column {', '.join(sorted(missing))}: these Spans were made by an older version; pack again")
    sequence = pc.field("sequence")
    is_wanted = (sequence >= int(rows.min())) & (sequence <= int(rows.max())) & sequence.isin(pa.array(np.unique(rows), pa.int64()))
    return pq.read_table(path, columns=list(columns), filters=is_wanted).sort_by([("sequence", "ascending"), ("token_start", "ascending")])


def documents_of(spans_paths: Sequence[Path], suspects: NDArray[np.int64], limit: int = 5) -> list[str]:
    """Return the documents in some sequences, each once, in their order; at most `limit`, after which nothing more is read.

    Args:
        spans_paths: Spans of each part; none if they are not at hand.
        suspects: part and row of each sequence, [sequences, 2].
        limit: how many are enough.
    """
    found: dict[str, None] = {}
    for part, row in suspects if spans_paths else ():
        spans = read_spans(spans_paths[part], np.array([row]), ["sequence", "token_start", "doc_id"])
        found |= dict.fromkeys(pc.drop_null(spans.column("doc_id")).to_pylist())
        if len(found) >= limit:
            break
    return list(found)[:limit]
