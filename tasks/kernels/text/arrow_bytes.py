"""The bytes under an Arrow string column as numpy views, so that kernels read text where it lies.

Guarantee: text i is `data[offsets[i]:offsets[i + 1]]`, `offsets[0] == 0` and `offsets[-1] == len(data)`, whatever slice
or chunking the column came in. The views are read-only and keep the Arrow buffers alive.
Cost: the text of a column in one chunk is never copied (offsets of the 32-bit types are widened, 8 bytes a text); a
column in several chunks is joined once. Layout: Apache Arrow columnar format, "Variable-size Binary Layout".
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types

_Bytes = NDArray[np.uint8]
_Int64s = NDArray[np.int64]


def string_buffers(column: pa.ChunkedArray | pa.Array) -> tuple[_Int64s, _Bytes]:
    """Return (offsets, data) of a string or binary column without copying its text.

    Args:
        column: n texts of any Arrow string or binary type, or a dictionary of such.

    Returns:
        offsets, int64 [n + 1], and data, uint8 [number of bytes].

    Raises:
        ValueError: the column holds nulls, which have no bytes.
        TypeError: the column holds neither strings nor bytes.
    """
    if column.null_count:
        message = f"a column with {column.null_count} nulls among {len(column)} texts has no bytes for them"
        raise ValueError(message)
    array = _one_array(column)
    offsets, data = (np.zeros(1, np.int64), np.zeros(0, np.uint8)) if len(array) == 0 else _views(array)
    for view in (offsets, data):
        view.flags.writeable = False  # always, so that a numba kernel meets one type of array and is compiled once
    return offsets, data


def _views(array: pa.Array) -> tuple[_Int64s, _Bytes]:
    """Return (offsets, data) of an array of at least one text."""
    _, offset_buffer, data_buffer = array.buffers()
    wide = types.is_large_string(array.type) or types.is_large_binary(array.type)
    stored = np.frombuffer(offset_buffer, np.int64 if wide else np.int32)
    offsets: _Int64s = stored[array.offset : array.offset + len(array) + 1].astype(np.int64, copy=False)
    first, last = int(offsets[0]), int(offsets[-1])
    data = np.frombuffer(data_buffer, np.uint8)[first:last] if last > first else np.zeros(0, np.uint8)
    return (offsets - first if first else offsets), data


def _one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return the column as one array with plain offsets; 64-bit ones if joined, as text in chunks may pass 2 GiB."""
    if isinstance(column, pa.ChunkedArray) and column.num_chunks == 1:
        column = column.chunk(0)
    values = column.type.value_type if types.is_dictionary(column.type) else column.type
    is_bytes = types.is_binary(values) or types.is_large_binary(values) or types.is_binary_view(values)
    is_text = types.is_string(values) or types.is_large_string(values) or types.is_string_view(values)
    if not (is_bytes or is_text):
        message = f"a column of type {column.type} holds neither strings nor bytes"
        raise TypeError(message)
    is_view = types.is_binary_view(values) or types.is_string_view(values)
    if isinstance(column, pa.Array) and values == column.type and not is_view:
        return column
    wide = column.cast(pa.large_binary() if is_bytes else pa.large_string())
    return wide.combine_chunks() if isinstance(wide, pa.ChunkedArray) else wide
