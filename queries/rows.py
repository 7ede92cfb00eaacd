"""Rows of stored artifacts, read by column, part and position: no more than a query needs."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from starloom.lineage import parquet
from starloom.lineage.store import object_name
from starloom.queries.doc_ids import doc_ids

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from starloom.lineage.records import Artifact
    from starloom.lineage.store import Store

FEW = 32
"""Documents that are looked up one by one."""


class Rows:
    """A reader for one question. Manifests are read once; tables are not kept."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._artifacts: dict[str, Artifact] = {}

    def artifact(self, name: str) -> Artifact:
        """Return the artifact of that hash; read once."""
        if name not in self._artifacts:
            self._artifacts[name] = self.store.artifact(name)
        return self._artifacts[name]

    def path(self, name: str, part: int) -> Path:
        """Return the part's file on a local disk."""
        artifact = self.artifact(name)
        return self.store.storage.local(object_name(artifact.type, artifact.parts[part].hash))

    def columns(self, name: str, part: int) -> list[str]:
        """Return names of the columns of a part."""
        return list(pq.read_schema(self.path(name, part)).names)

    def table(self, name: str, part: int, columns: list[str] | None = None) -> pa.Table:
        """Return some columns of a part, all rows."""
        return parquet.read_table(self.path(name, part), columns, self.store.url)

    def tables(self, name: str, columns: list[str] | None, parts: Sequence[int] | None = None) -> Iterator[tuple[int, pa.Table]]:
        """Return (part, its table), in order, read by several threads; `parts` None is all."""
        wanted = range(len(self.artifact(name).parts)) if parts is None else parts
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from zip(wanted, pool.map(lambda part: self.table(name, part, columns), wanted), strict=True)

    def same_parts(self, name: str, like: str, parts: Sequence[int] | None) -> Sequence[int] | None:
        """Return `parts` of `like` if `name` has the same parts, else all of them."""
        return parts if len(self.artifact(name).parts) == len(self.artifact(like).parts) else None

    def take(self, name: str, part: int, positions: Sequence[int] | NDArray[np.int64], columns: list[str] | None = None) -> pa.Table:
        """Return the rows at ascending positions of a part; only the row groups that hold them are read."""
        path, wanted = self.path(name, part), np.asarray(positions, np.int64)
        try:
            with pq.ParquetFile(path, page_checksum_verification=True, memory_map=True) as file:
                sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
                starts = np.cumsum([0, *sizes])
                group_of = np.searchsorted(starts, wanted, side="right") - 1
                groups = np.unique(group_of)
                table = file.read_row_groups(groups.tolist(), columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise parquet.corrupt(path, error, self.store.url) from error
        read_before = np.cumsum([0, *(sizes[group] for group in groups)])
        return table.take(pa.array(wanted - starts[group_of] + read_before[np.searchsorted(groups, group_of)]))

    def of_documents(self, name: str, wanted: pa.Array, columns: list[str], parts: Sequence[int] | None = None) -> pa.Table:
        """Return rows of some documents: `columns` (doc_id among them), and the `part` and `row` of each."""
        found = []
        for part, rows in self._with_ids(name, wanted, parts):
            found.append(_placed(self.take(name, part, rows, columns), part, rows))
        return pa.concat_tables(found) if found else _placed(self._empty(name, columns), 0, np.empty(0, np.int64))

    def of_document(self, name: str, doc_id: str, columns: list[str] | None, part: int | None) -> list[dict[str, Any]]:
        """Return the rows of one document, in order, as dictionaries; searched in `part`, if that is known."""
        parts = None if part is None or part >= len(self.artifact(name).parts) else [part]
        wanted = None if columns is None else list(dict.fromkeys(["doc_id", *columns]))
        rows: list[dict[str, Any]] = []
        for number, positions in self._with_ids(name, pa.array([doc_id]), parts):
            taken = self.take(name, number, positions, wanted)
            rows += [{**row, "part": number, "row": int(at)} for row, at in zip(taken.to_pylist(), positions, strict=True)]
        return rows

    def _with_ids(self, name: str, wanted: pa.Array, parts: Sequence[int] | None) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield (part, ascending rows) of some documents; a few of a whole artifact are found without reading it again."""
        known = doc_ids(self, name) if parts is None and len(wanted) <= FEW else None
        if known is not None:
            places = sorted(place for doc_id in set(wanted.to_pylist()) for place in known.find(doc_id))
            for part in dict.fromkeys(part for part, _ in places):
                yield part, np.array([row for at, row in places if at == part], np.int64)
            return
        for part, table in self.tables(name, ["doc_id"], parts):
            rows = pc.indices_nonzero(pc.is_in(table.column("doc_id"), value_set=wanted)).to_numpy()
            if len(rows):
                yield part, rows

    def _empty(self, name: str, columns: list[str]) -> pa.Table:
        if not self.artifact(name).parts:
            return pa.table({column: pa.array([], pa.string()) for column in columns})
        return self.table(name, 0, columns).slice(0, 0)


def _placed(table: pa.Table, part: int, rows: NDArray[np.int64]) -> pa.Table:
    places = pa.array(np.full(len(rows), part, np.int64)), pa.array(rows.astype(np.int64))
    return table.append_column("part", places[0]).append_column("row", places[1])
