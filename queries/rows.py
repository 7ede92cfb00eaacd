"""Rows of stored artifacts, read by column, part and position: no more than a query needs."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from starloom.lineage import parquet
from starloom.lineage.store import object_name
from starloom.queries.places import SHORTEST_PREFIX, candidates, hashes_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from starloom.lineage.records import Artifact
    from starloom.lineage.store import Store

KEPT_FOOTERS_BYTES = 3_000_000
"""Of Parquet footers as they are stored: what is made of them in memory is some ten times as large."""
_footers: OrderedDict[Path, tuple[pq.FileMetaData, NDArray[np.int64]]] = OrderedDict()
_lock = threading.Lock()


class Rows:
    """A reader for one question. Manifests are read once; tables are not kept."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._artifacts: dict[str, Artifact] = {}
        self._taken: dict[tuple[str, int, int, tuple[str, ...] | None] | None, pa.Table] = {}

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
        if len(wanted) == 1:
            yield wanted[0], self.table(name, wanted[0], columns)
            return
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from zip(wanted, pool.map(lambda part: self.table(name, part, columns), wanted), strict=True)

    def same_parts(self, name: str, like: str, parts: Sequence[int] | None) -> Sequence[int] | None:
        """Return `parts` of `like` if `name` has the same parts, else all of them."""
        return parts if len(self.artifact(name).parts) == len(self.artifact(like).parts) else None

    def take(self, name: str, part: int, positions: Sequence[int] | NDArray[np.int64], columns: list[str] | None = None) -> pa.Table:
        """Return the rows at ascending positions of a part; only the row groups that hold them are read. A single row is kept."""
        asked = (name, part, int(positions[0]), tuple(columns) if columns is not None else None) if len(positions) == 1 else None
        if asked in self._taken:
            return self._taken[asked]
        table = self._take(name, part, positions, columns)
        if asked is not None:
            self._taken[asked] = table
        return table

    def _take(self, name: str, part: int, positions: Sequence[int] | NDArray[np.int64], columns: list[str] | None) -> pa.Table:
        path, wanted = self.path(name, part), np.asarray(positions, np.int64)
        try:
            opened, starts = self._opened(path)
            with opened as file:
                group_of = np.searchsorted(starts, wanted, side="right") - 1
                groups = np.unique(group_of)
                table = file.read_row_groups(groups.tolist(), columns=columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise parquet.corrupt(path, error, self.store.url) from error
        read_before = np.concatenate([[0], np.cumsum(starts[groups + 1] - starts[groups])])
        return table.take(pa.array(wanted - starts[group_of] + read_before[np.searchsorted(groups, group_of)]))

    def where(self, name: str, part: int, column: str, value: int, columns: list[str]) -> pa.Table:
        """Return the rows of a part that have a number in a column (of `columns`); row groups without it are passed over."""
        path, found = self.path(name, part), []
        try:
            with self._opened(path)[0] as file:
                leaves = range(file.metadata.num_columns)
                at = next(leaf for leaf in leaves if file.metadata.schema.column(leaf).path == column)
                for group in range(file.metadata.num_row_groups):
                    known = file.metadata.row_group(group).column(at).statistics
                    if known is None or not known.has_min_max or known.min <= value <= known.max:
                        table = file.read_row_group(group, columns=columns, use_threads=False)
                        found.append(table.filter(pc.equal(table.column(column), value)))
                empty = file.schema_arrow.empty_table().select(columns)
        except (OSError, pa.ArrowException) as error:
            raise parquet.corrupt(path, error, self.store.url) from error
        return pa.concat_tables([empty, *found])

    def of_documents(
        self, name: str, wanted: pa.Array, columns: list[str], parts: Sequence[int] | None = None, like: str | None = None
    ) -> pa.Table:
        """Return rows of some documents: `columns` (doc_id among them), and the `part` and `row` of each.

        Args:
            name: of the artifact.
            wanted: doc_ids.
            columns: to return.
            parts: to search; None for all.
            like: an artifact with the same document in each row, in which to look where they stand; by default this one.
        """
        found = []
        for part, at in self._may_be(like or name, "doc_id", wanted, parts):
            table = _placed(self.take(name, part, at, columns), part, at)
            found.append(table.filter(pc.is_in(table.column("doc_id"), value_set=wanted)))
        found = [table for table in found if len(table)]
        return pa.concat_tables(found) if found else _placed(self._empty(name, columns), 0, np.empty(0, np.int64))

    def of_document(self, name: str, doc_id: str, columns: list[str] | None, part: int | None) -> list[dict[str, Any]]:
        """Return the rows of one document, in order, as dictionaries; searched in `part`, if that is known."""
        parts = None if part is None or part >= len(self.artifact(name).parts) else [part]
        wanted = None if columns is None else list(dict.fromkeys(["doc_id", *columns]))
        rows: list[dict[str, Any]] = []
        for number, positions in self._may_be(name, "doc_id", pa.array([doc_id]), parts):
            taken = self.take(name, number, positions, wanted).to_pylist()
            rows += [{**row, "part": number, "row": int(at)} for row, at in zip(taken, positions, strict=True) if row["doc_id"] == doc_id]
        return rows

    def equal(self, name: str, column: str, value: str) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield (part, ascending rows) of the rows that have a value in a column of `starloom.queries.places.KEYS`."""
        for part, at in self._may_be(name, column, pa.array([value]), None):
            told = self.take(name, part, at, [column]).column(column)
            yield from _some(part, at, pc.equal(told, value))

    def beginning(self, name: str, column: str, prefix: str) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield (part, ascending rows) of the rows whose doc_id or cluster_id begins with something; quick from eight characters on."""
        if len(prefix.encode()) < SHORTEST_PREFIX:
            for part, table in self.tables(name, [column]):
                yield from _some(part, np.arange(len(table)), pc.starts_with(table.column(column), prefix))
            return
        for part, at in self._may_be(name, column, pa.array([prefix]), None):
            yield from _some(part, at, pc.starts_with(self.take(name, part, at, [column]).column(column), prefix))

    def files(self, name: str, key: str, value: str) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Yield (part, ascending rows) of the rows that may have a repository/path (`file`) or last piece of a path (`name`)."""
        yield from self._may_be(name, key, pa.array([value]), None)

    def _may_be(self, name: str, key: str, wanted: pa.Array, parts: Sequence[int] | None) -> Iterator[tuple[int, NDArray[np.int64]]]:
        hashes = hashes_of(key, wanted)
        for part in range(len(self.artifact(name).parts)) if parts is None else parts:
            at = candidates(self, name, part, key, hashes)
            if len(at):
                yield part, at

    def _opened(self, path: Path) -> tuple[pq.ParquetFile, NDArray[np.int64]]:
        """Open a part; return it with the rows at which its row groups begin, and their end. A footer is read once: parts never change."""
        with _lock:
            known = _footers.get(path)
            if known is not None:
                _footers.move_to_end(path)
        file = pq.ParquetFile(path, metadata=known and known[0], page_checksum_verification=True, memory_map=True)
        if known is not None:
            return file, known[1]
        starts = np.cumsum([0, *(file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups))])
        with _lock:
            _footers[path] = file.metadata, starts
            total = sum(footer.serialized_size for footer, _ in _footers.values())
            while total > KEPT_FOOTERS_BYTES and len(_footers) > 1:
                total -= _footers.popitem(last=False)[1][0].serialized_size
        return file, starts

    def _empty(self, name: str, columns: list[str]) -> pa.Table:
        if not self.artifact(name).parts:
            return pa.table({column: pa.array([], pa.string()) for column in columns})
        return self.table(name, 0, columns).slice(0, 0)


def _placed(table: pa.Table, part: int, rows: NDArray[np.int64]) -> pa.Table:
    places = pa.array(np.full(len(rows), part, np.int64)), pa.array(rows.astype(np.int64))
    return table.append_column("part", places[0]).append_column("row", places[1])


def _some(part: int, rows: NDArray[np.int64], chosen: pa.ChunkedArray) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield the chosen rows of a part, if there are any."""
    found = rows[pc.indices_nonzero(chosen).to_numpy()]
    if len(found):
        yield part, found
