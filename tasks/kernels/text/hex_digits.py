"""Identifiers in hex digits as bytes and back, a column at a time."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from starloom.tasks.kernels.text.arrow_bytes import string_buffers

_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_NO_DIGIT = 255
_VALUES = np.full(256, _NO_DIGIT, np.uint8)
_VALUES[_DIGITS] = np.arange(16)


def from_hex(column: pa.ChunkedArray, num_digits: int, prefix: str = "") -> NDArray[np.uint8]:
    """Return the bytes of identifiers.

    Args:
        column: n texts, each `prefix` and `num_digits` lower-case hex digits.
        num_digits: of each, even.
        prefix: ASCII, before the digits.

    Returns:
        uint8 [n, num_digits / 2].

    Raises:
        ValueError: a text of another shape.
    """
    offsets, data = string_buffers(column)
    width = len(prefix) + num_digits
    if (np.diff(offsets) == width).all():
        texts = data.reshape(-1, width)
        values = _VALUES[texts[:, len(prefix) :]]
        if (texts[:, : len(prefix)] == np.frombuffer(prefix.encode(), np.uint8)).all() and (values != _NO_DIGIT).all():
            found: NDArray[np.uint8] = (values[:, 0::2] << np.uint8(4)) | values[:, 1::2]
            return found
    wrong = next(text for text in column.to_pylist() if not _fits(text, num_digits, prefix))
    message = (
        f"{wrong!r} is not {prefix!r} and {num_digits} lower-case hex digits"
        if prefix
        else f"{wrong!r} is not {num_digits} lower-case hex digits"
    )
    raise ValueError(message)


def _fits(text: str, num_digits: int, prefix: str) -> bool:
    digits = text.removeprefix(prefix)
    return text.startswith(prefix) and len(digits) == num_digits and not set(digits) - set("0123456789abcdef")


def to_hex(values: NDArray[np.uint8]) -> pa.StringArray:
    """Return identifiers in lower-case hex digits from their bytes, uint8 [n, width]."""
    digits = np.stack([_DIGITS[values >> 4], _DIGITS[values & 15]], axis=-1)
    offsets = np.arange(0, 2 * values.size + 1, 2 * values.shape[1], dtype=np.int64)
    return pa.LargeStringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(digits.tobytes())).cast(pa.string())
