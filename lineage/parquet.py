"""Canonical Parquet files: the same rows give the same bytes, and checksums detect a flipped bit on reading."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from starloom.lineage.errors import CorruptError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def write_table(table: pa.Table, path: Path, rows_per_group: int) -> None:
    """Write `table` in row groups of fixed length, so that the bytes do not depend on how it was chunked."""
    table = table.combine_chunks()
    with pq.ParquetWriter(
        path, table.schema, compression="zstd", compression_level=3, version="2.6", data_page_version="2.0", write_page_checksum=True
    ) as writer:
        for start in range(0, table.num_rows, rows_per_group):
            writer.write_table(table.slice(start, rows_per_group), row_group_size=rows_per_group)


def read_table(path: Path, columns: list[str] | None = None, store: str | None = None) -> pa.Table:
    """Read a part, checking its page checksums; `store` is the URL that an error names."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, memory_map=True) as file:
            return file.read(columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise corrupt(path, error, store) from error


def read_batches(path: Path, columns: list[str] | None, rows: int, store: str | None = None) -> Iterator[pa.RecordBatch]:
    """Stream a part in batches of at most `rows` rows, checking its page checksums."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True, memory_map=True) as file:
            yield from file.iter_batches(batch_size=rows, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise corrupt(path, error, store) from error


def corrupt(path: Path, error: Exception, store: str | None) -> CorruptError:
    """Return the error for a part that cannot be read, with its hint."""
    reason, named = str(error).splitlines()[0], "" if store is None else f" --store {shlex.quote(store)}"
    return CorruptError(
        f"the part {path.name} cannot be read: {reason}",
        hint=f"`starloom verify --repair{named}` removes damaged parts; the next run makes them again",
    )


def num_rows(path: Path, store: str | None = None) -> int:
    """Return the number of rows of a part, from its footer."""
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise corrupt(path, error, store) from error
