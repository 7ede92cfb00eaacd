"""Contents of units as a reader hands them over: tables of what was found, tables of what was left out.

A reader is a function `read(unit, max_file_bytes) -> Iterator[Batch]`. It knows where the bytes lie, and leaves out what it need not
read to reject (a link, a file over the limit). What the bytes themselves decide (NUL, encoding, pointers) is decided for all
kinds alike, in `admission`. A reader of tables hands over columns as it got them; one of files collects them here.
Guarantee: every file of a unit is in exactly one row of exactly one table. Cost: memory of BATCH_BYTES and one file.
"""

import hashlib
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

BATCH_BYTES = 32 << 20
"""Bytes of content after which a batch is handed over."""

FOUND = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("repo", pa.string(), nullable=False),
        pa.field("revision", pa.string()),
        pa.field("path", pa.string(), nullable=False),
        pa.field("content", pa.binary(), nullable=False),
        pa.field("blob", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("language", pa.string()),
        pa.field("declared_license", pa.string()),
        pa.field("stars", pa.int64()),
        pa.field("forks", pa.int64()),
        pa.field("committed_at", pa.timestamp("us", tz="UTC")),
        pa.field("visited_at", pa.timestamp("us", tz="UTC")),
        pa.field("url", pa.string()),
        pa.field("encoding", pa.string()),
        pa.field("is_vendor", pa.bool_()),
        pa.field("is_generated", pa.bool_()),
    ]
)
"""Columns of what was found: `content` as stored, `blob` its Git hash, `encoding` as the source declares it. What is null, or
missing from a table, is found out from path and content where it can be."""

LEFT_OUT = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("repo", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("threshold", pa.float64()),
        pa.field("detail", pa.string()),
    ]
)
"""Columns of what was left out, those of Skipped: the rule, what was measured against which limit, more in words."""


class Batch(NamedTuple):
    """Some files of a unit."""

    found: pa.Table
    """Of FOUND."""
    left_out: pa.Table
    """Of LEFT_OUT."""


class Collector:
    """The files of a unit, collected one by one into batches. `facts` are columns that all of them share."""

    def __init__(self, source: str, repo: str, **facts: Any) -> None:
        self._whose = {"source": source, "repo": repo}
        self._facts = facts
        self._found: dict[str, list[Any]] = {"path": [], "content": [], "blob": []}
        self._left_out: dict[str, list[Any]] = {name: [] for name in LEFT_OUT.names if name not in self._whose}
        self._num_bytes = 0

    @property
    def is_full(self) -> bool:
        """True when a batch should be handed over."""
        return self._num_bytes >= BATCH_BYTES

    def add(self, path: str, content: bytes, blob: str | None) -> None:
        """Add a file with its content and Git's hash of it."""
        for name, value in (("path", path), ("content", content), ("blob", blob)):
            self._found[name].append(value)
        self._num_bytes += len(content)

    def leave_out(
        self, path: str, size: int, rule: str, *, value: float | None = None, threshold: float | None = None, detail: str | None = None
    ) -> None:
        """Add a file that is not read, with the reason."""
        row = {"path": path, "size": size, "rule": rule, "value": value, "threshold": threshold, "detail": detail}
        for name, field in row.items():
            self._left_out[name].append(field)

    def batch(self) -> Batch:
        """Return what was collected since the last batch."""
        content = {"content": _joined(self._found["content"])}
        found = whole(FOUND, {**self._found, **self._whose, **self._facts, **content}, len(self._found["path"]))
        left_out = whole(LEFT_OUT, {**self._left_out, **self._whose}, len(self._left_out["path"]))
        for column in (*self._found.values(), *self._left_out.values()):
            column.clear()
        self._num_bytes = 0
        return Batch(found, left_out)


def _joined(contents: list[bytes]) -> pa.Array:
    """Return contents as an array: copied once, into a buffer that is as large as they are."""
    offsets = np.zeros(len(contents) + 1, np.int64)
    np.cumsum([len(content) for content in contents], out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(b"".join(contents))]
    return pa.Array.from_buffers(pa.binary(), len(contents), buffers)


def with_blobs(found: pa.Table) -> pa.Table:
    """Return the table with Git's hash of each content whose source did not tell it."""
    column = found.column("blob")
    if not column.null_count:
        return found
    known = zip(column.to_pylist(), found.column("content"), strict=True)
    blobs = [blob_id(content.as_buffer()) if blob is None else blob for blob, content in known]
    return found.set_column(found.schema.get_field_index("blob"), "blob", pa.array(blobs, pa.string()))


def blob_id(content: bytes | pa.Buffer) -> str:
    """Return Git's hash of a file with this content."""
    state = hashlib.sha1(b"blob %d\0" % len(content), usedforsecurity=False)
    state.update(content)
    return state.hexdigest()


def whole(schema: pa.Schema, columns: dict[str, Any], num_rows: int) -> pa.Table:
    """Return a table with all columns of a schema; a single value, or none, stands in every row."""
    given = [_column(columns.get(field.name), field.type, num_rows) for field in schema]
    return pa.Table.from_arrays(given, schema=schema)


def _column(values: Any, kind: pa.DataType, num_rows: int) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, list):
        return pa.array(values, kind)
    if isinstance(values, (pa.Array, pa.ChunkedArray)):
        return values.cast(kind)
    return pa.nulls(num_rows, kind) if values is None else pa.repeat(pa.scalar(values, kind), num_rows)
