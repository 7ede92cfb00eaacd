"""Views of artifacts: parts read lazily with verdicts applied, files as a local folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Self

import pyarrow as pa
import pyarrow.compute as pc

from starloom.lineage import parquet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Stored:
    """A Parquet file of the store (or of the user): its place is opened only when it is read."""

    url: str | None
    """The store's URL; None for a plain local file."""
    name: str

    def local(self) -> Path:
        """Return the file on a local disk, fetched if necessary."""
        from pathlib import Path as LocalPath

        from starloom.lineage.storage import open_storage

        return LocalPath(self.name) if self.url is None else open_storage(self.url).local(self.name)


@dataclass(frozen=True)
class PartSource:
    """One part: a table in memory or a stored file, and the verdicts that say which of its rows are still in."""

    data: pa.Table | Stored
    verdicts: pa.Table | Stored | None = None

    @cached_property
    def keep(self) -> pa.ChunkedArray | None:
        """Row-aligned booleans: the rows kept, read once. None if no verdict was passed."""
        if self.verdicts is None:
            return None
        return pc.fill_null(_load(self.verdicts, ["keep"]).column("keep"), fill_value=False)

    def read(self, columns: list[str] | None) -> pa.Table:
        """Return the rows kept."""
        table, keep = _load(self.data, columns), self.keep
        return table if keep is None else table.filter(keep)

    def batches(self, columns: list[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the rows kept, batch by batch."""
        keep, start = self.keep, 0
        for batch in _stream(self.data, columns, rows):
            live = batch if keep is None else batch.filter(keep.slice(start, batch.num_rows).combine_chunks())
            start += batch.num_rows
            if live.num_rows:
                yield live

    def num_rows(self) -> int:
        """Return the number of rows kept."""
        keep = self.keep
        if keep is not None:
            return int(pc.sum(keep, min_count=0).as_py())
        if isinstance(self.data, pa.Table):
            return int(self.data.num_rows)
        return parquet.num_rows(self.data.local(), self.data.url)


def _load(data: pa.Table | Stored, columns: list[str] | None) -> pa.Table:
    if isinstance(data, pa.Table):
        return data if columns is None else data.select(columns)
    return parquet.read_table(data.local(), columns, data.url)


def _stream(data: pa.Table | Stored, columns: list[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
    if isinstance(data, pa.Table):
        yield from (data if columns is None else data.select(columns)).to_batches(max_chunksize=rows)
    else:
        yield from parquet.read_batches(data.local(), columns, rows, data.url)


class Tabular:
    """An ordered list of parts in one schema. Subclasses name the columns."""

    SCHEMA: ClassVar[pa.Schema]
    ROWS_PER_GROUP: ClassVar[int] = 65_536
    LOOSE: ClassVar[frozenset[str]] = frozenset()
    """Columns whose integer width the writer may choose (token ids)."""
    OPEN: ClassVar[bool] = False
    """Whether a writer may add columns of its own."""

    def __init__(self, sources: Sequence[PartSource]) -> None:
        self.sources = tuple(sources)

    @classmethod
    def of(cls, table: pa.Table) -> Self:
        """Return an artifact of one part, in memory."""
        return cls([PartSource(cls.conform(table))])

    @classmethod
    def of_parts(cls, tables: Iterable[pa.Table]) -> Self:
        """Return an artifact with one part for each table, in memory."""
        return cls([PartSource(cls.conform(table)) for table in tables])

    @classmethod
    def in_files(cls, paths: Iterable[Path]) -> Self:
        """Return an artifact with one part for each Parquet file on a local disk."""
        return cls([PartSource(Stored(None, str(path))) for path in paths])

    @classmethod
    def conform(cls, table: pa.Table) -> pa.Table:
        """Return `table` with this schema's columns, order and types.

        Raises:
            ValueError: for a missing or unknown column, or a type that cannot be cast.
        """
        names = set(table.column_names)
        missing, extra = [n for n in cls.SCHEMA.names if n not in names], names - set(cls.SCHEMA.names)
        if missing or (extra and not cls.OPEN):
            raise ValueError(f"{cls.__name__} has the columns {cls.SCHEMA.names}; missing {missing}, unknown {sorted(extra)}")
        fields = [table.schema.field(f.name) if f.name in cls.LOOSE else f for f in cls.SCHEMA]
        fields += [table.schema.field(name) for name in table.column_names if name in extra]
        schema = pa.schema([f.remove_metadata() for f in fields])
        return table.select(schema.names).replace_schema_metadata(None).cast(schema)

    @property
    def parts(self) -> tuple[Self, ...]:
        """One-part views, in order."""
        return tuple(type(self)([source]) for source in self.sources)

    @property
    def num_rows(self) -> int:
        """Rows that a read would give."""
        return sum(source.num_rows() for source in self.sources)

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """Return all rows (of Docs: those still in) of all parts, in order."""
        if not self.sources:
            return (self.SCHEMA if columns is None else pa.schema([self.SCHEMA.field(c) for c in columns])).empty_table()
        return pa.concat_tables([source.read(columns) for source in self.sources])

    def batches(self, columns: list[str] | None = None, rows: int = 4096) -> Iterator[pa.RecordBatch]:
        """Yield the same rows, streamed: memory is bounded by the batch."""
        for source in self.sources:
            yield from source.batches(columns, rows)

    def local_paths(self, folder: Path) -> list[Path]:
        """Return a local Parquet file for each part, for other processes; parts in memory are written below `folder`."""
        files = []
        for number, source in enumerate(self.sources):
            if isinstance(source.data, Stored) and source.verdicts is None:
                files.append(source.data.local())
            else:
                files.append(folder / f"{type(self).__name__.lower()}-{number}.parquet")
                parquet.write_table(source.read(None), files[-1], self.ROWS_PER_GROUP)
        return files


class Files:
    """An artifact that is a folder of files (a tokenizer, a checkpoint)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, path: Path) -> Self:
        """Return the files below a local folder."""
        return cls(path)

    def names(self) -> list[str]:
        """Return the relative names of the files, sorted."""
        return sorted(p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file())
