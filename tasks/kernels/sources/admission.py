"""Admission of contents as text, the same for every kind of source: what is binary, undecodable or a pointer is left out.

Guarantee: of the rows of a table each is admitted or left out, in order; what is admitted is UTF-8 without NUL. Cost: two scans of the
bytes by pyarrow and numpy, 2 GB/s and more; Python looks only at rows that are not admitted.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from starloom.tasks.kernels.sources.contents import LEFT_OUT
from starloom.tasks.kernels.text.arrow_bytes import string_buffers

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LFS_POINTER_BYTES = 1024
"""Git LFS, docs/spec.md: a pointer begins with its version and is shorter than this."""


class _Refusal(NamedTuple):
    rule: str
    value: float | None
    detail: str


def admit(found: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the rows whose content is text, `content` as string, and the others as rows of LEFT_OUT.

    Args:
        found: of FOUND.
    """
    table = found.combine_chunks()
    column = table.column("content")
    if not column.num_chunks or not len(column):
        return _as_text(table), LEFT_OUT.empty_table()
    refused: dict[int, _Refusal] = {}
    above = 0
    for chunk in column.chunks:
        refused |= {above + row: refusal for row, refusal in _refusals(chunk).items()}
        above += len(chunk)
    if not refused:
        return _as_text(table), LEFT_OUT.empty_table()
    rows = sorted(refused)
    keep = np.ones(len(table), bool)
    keep[rows] = False
    return _as_text(table.filter(pa.array(keep))), _left_out(table.take(pa.array(rows)), [refused[row] for row in rows])


def _as_text(table: pa.Table) -> pa.Table:
    place = table.schema.get_field_index("content")
    return table.set_column(place, "content", table.column("content").cast(pa.string()))


def _left_out(table: pa.Table, refusals: list[_Refusal]) -> pa.Table:
    columns = {
        "source": table.column("source"),
        "repo": table.column("repo"),
        "path": table.column("path"),
        "size": pc.binary_length(table.column("content")).cast(pa.int64()),
        "rule": pa.array([refusal.rule for refusal in refusals], pa.string()),
        "value": pa.array([refusal.value for refusal in refusals], pa.float64()),
        "threshold": pa.nulls(len(refusals), pa.float64()),
        "detail": pa.array([refusal.detail for refusal in refusals], pa.string()),
    }
    return pa.table(columns, schema=LEFT_OUT)


def _refusals(chunk: pa.BinaryArray) -> dict[int, _Refusal]:
    """Return row → why it is no text."""
    refused = {row: _pointer(chunk[row].as_py()) for row in _rows_of_pointers(chunk)}
    for row in _rows_with_nul(chunk):
        position = chunk[row].as_py().find(b"\0")
        refused.setdefault(row, _Refusal("binary", position, f"NUL byte at {position}"))
    try:
        chunk.cast(pa.string())
    except pa.ArrowInvalid:
        for row, value in enumerate(chunk):
            if row not in refused and (error := _decoding_error(value.as_py())) is not None:
                byte = error.object[error.start]
                refused[row] = _Refusal("undecodable", error.start, f"byte 0x{byte:02x} at {error.start} is not UTF-8")
    return refused


def _rows_of_pointers(chunk: pa.BinaryArray) -> list[int]:
    short = pc.less(pc.binary_length(chunk), _LFS_POINTER_BYTES)
    return list(pc.indices_nonzero(pc.and_(short, pc.starts_with(chunk, _LFS_POINTER))).to_pylist())


def _pointer(content: bytes) -> _Refusal:
    """Return the refusal of a pointer: the size that it names, and the whole of it."""
    fields = dict(line.partition(" ")[::2] for line in content.decode("utf-8", "backslashreplace").splitlines())
    size = fields.get("size", "")
    named = float(size) if size.isdecimal() and size.isascii() else None
    return _Refusal("lfs-pointer", named, f"stored elsewhere as {fields.get('oid', 'an object without id')}")


def _rows_with_nul(chunk: pa.BinaryArray) -> list[int]:
    offsets, data = string_buffers(chunk)
    if not len(data) or data.min():
        return []
    rows = np.flatnonzero(np.diff(offsets))
    least = np.minimum.reduceat(data, offsets[rows])
    return [int(row) for row in rows[least == 0]]


def _decoding_error(content: bytes) -> UnicodeDecodeError | None:
    if content.isascii():
        return None
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return error
    return None
