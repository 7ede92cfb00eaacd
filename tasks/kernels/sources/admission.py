"""Admission of contents as text, the same for every kind of source: what is binary, undecodable or a pointer is left out.

Guarantee: of the rows of a table each is admitted or left out, in order; what is admitted is UTF-8 without NUL or byte-order mark, and
`encoding` says what else it was, null if nothing. Cost: two scans of the bytes by pyarrow and numpy, 2 GB/s and more; Python
looks only at rows that are not plain UTF-8.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from starloom.tasks.kernels.sources.contents import LEFT_OUT
from starloom.tasks.kernels.sources.languages import classify
from starloom.tasks.kernels.text.arrow_bytes import string_buffers
from starloom.tasks.kernels.text.encodings import MARKS, Decoded, decode

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_LFS_POINTER_BYTES = 1024
"""Git LFS, docs/spec.md: a pointer begins with its version and is shorter than this."""


class _Refusal(NamedTuple):
    rule: str
    value: float | None
    detail: str


_Fates = dict[int, _Refusal | Decoded]
"""Row → why it is left out, or the text that it was decoded to."""


def admit(found: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the rows whose content is text, `content` as string, and the others as rows of LEFT_OUT.

    Args:
        found: of FOUND.
    """
    table = found.combine_chunks()
    column = table.column("content")
    fates: _Fates = {}
    above = 0
    for chunk in column.chunks:
        fates |= {above + row: fate for row, fate in _fates(chunk, table.slice(above, len(chunk))).items()}
        above += len(chunk)
    refused = {row: fate for row, fate in sorted(fates.items()) if isinstance(fate, _Refusal)}
    decoded = {row: fate for row, fate in sorted(fates.items()) if isinstance(fate, Decoded)}
    plain = np.ones(len(table), bool)
    plain[list(fates)] = False
    if not fates:
        return _as_text(table), LEFT_OUT.empty_table()
    rows = np.concatenate([np.flatnonzero(plain), np.array(list(decoded), np.int64)])
    texts = _as_text(table.filter(pa.array(plain)))
    if decoded:
        texts = pa.concat_tables([texts, _rewritten(table.take(pa.array(list(decoded))), list(decoded.values()))])
        texts = texts.take(pa.array(np.argsort(rows)))
    return texts, _left_out(table.take(pa.array(list(refused), pa.int64())), list(refused.values()))


def _as_text(table: pa.Table) -> pa.Table:
    return _with(table, content=table.column("content").cast(pa.string()), encoding=pa.nulls(len(table), pa.string()))


def _rewritten(table: pa.Table, texts: list[Decoded]) -> pa.Table:
    content, encoding = ([text[i] for text in texts] for i in range(2))
    return _with(table, content=pa.array(content, pa.string()), encoding=pa.array(encoding, pa.string()))


def _with(table: pa.Table, **columns: pa.Array | pa.ChunkedArray) -> pa.Table:
    for name, column in columns.items():
        table = table.set_column(table.schema.get_field_index(name), pa.field(name, column.type), column)
    return table


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


def _fates(chunk: pa.BinaryArray, table: pa.Table) -> _Fates:
    """Return the fate of each row that is not plain UTF-8."""
    fates: _Fates = {row: _pointer(chunk[row].as_py()) for row in _rows_of_pointers(chunk)}
    for row in _rows_with_mark(chunk):
        fates.setdefault(row, _decoded(chunk[row].as_py(), row, table))
    for row in _rows_with_nul(chunk):
        if row not in fates:
            position = chunk[row].as_py().find(b"\0")
            fates[row] = _Refusal("binary", position, f"NUL byte at {position}")
    try:
        chunk.cast(pa.string())
    except pa.ArrowInvalid:
        for row, value in enumerate(chunk):
            if row not in fates and _decoding_error(content := value.as_py()) is not None:
                fates[row] = _decoded(content, row, table)
    return fates


def _decoded(content: bytes, row: int, table: pa.Table) -> Decoded | _Refusal:
    """Return the text of a content that is not plain UTF-8."""
    kind = table.column("kind")[row].as_py() or (classify(table.column("path")[row].as_py()) or ("code", None))[0]
    found = decode(content, declared=table.column("encoding")[row].as_py(), is_license=kind == "license")
    if found is None:
        error = _decoding_error(content)
        start = 0 if error is None else error.start
        return _Refusal("undecodable", start, f"byte 0x{content[start]:02x} at {start} is not UTF-8, and no other encoding is certain")
    if (position := found.text.find("\0")) >= 0:
        return _Refusal("binary", position, f"NUL at character {position} of {found.encoding}")
    return found


def _rows_with_mark(chunk: pa.BinaryArray) -> list[int]:
    rows: set[int] = set()
    for mark, _, _ in MARKS:
        rows.update(pc.indices_nonzero(pc.starts_with(chunk, mark)).to_pylist())
    return sorted(rows)


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
