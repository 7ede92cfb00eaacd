"""Where documents stand in an artifact, by doc_id, kept in memory for the next question.

An artifact never changes, so that what was read of it stays true. A million doc_ids take 16 MB; the artifacts asked for last stay, up to
`KEPT_BYTES`. Finding one takes a millisecond for a million of them, where reading the column again takes a hundred.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from starloom.tasks.kernels.text.arrow_bytes import string_buffers

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from starloom.queries.rows import Rows

KEPT_BYTES = 96_000_000
DIGITS = 32
"""Of a doc_id: 128 bits in hexadecimal."""
_HALF = DIGITS // 2
_kept: OrderedDict[tuple[str, str], DocIds | None] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class DocIds:
    """The doc_ids of an artifact, in order, as two numbers each, and the row at which each part begins."""

    high: NDArray[np.uint64]
    low: NDArray[np.uint64]
    starts: NDArray[np.int64]

    @property
    def num_bytes(self) -> int:
        """Bytes of memory that this takes."""
        return self.high.nbytes + self.low.nbytes + self.starts.nbytes

    def find(self, prefix: str) -> list[tuple[int, int]]:
        """Return (part, row) of the doc_ids that begin with some hexadecimal digits, in order."""
        if not 0 < len(prefix) <= DIGITS or not set(prefix) <= set("0123456789abcdef"):
            return []
        first, last = int(prefix.ljust(DIGITS, "0"), 16), int(prefix.ljust(DIGITS, "f"), 16)
        bits, mask = 64, 2**64 - 1
        high = (self.high >= np.uint64(first >> bits)) & (self.high <= np.uint64(last >> bits))
        rows = np.flatnonzero(high)
        if len(prefix) > _HALF:
            rows = rows[(self.low[rows] >= np.uint64(first & mask)) & (self.low[rows] <= np.uint64(last & mask))]
        parts = np.searchsorted(self.starts, rows, side="right") - 1
        return list(zip(parts.tolist(), (rows - self.starts[parts]).tolist(), strict=True))


def doc_ids(rows: Rows, artifact: str) -> DocIds | None:
    """Return the doc_ids of an artifact; None if some are no doc_ids of ours, or there are too many to keep."""
    key = (rows.store.url, artifact)
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    num_rows = sum(part.num_rows for part in rows.artifact(artifact).parts)
    found = _read(rows, artifact) if num_rows * DIGITS // 2 <= KEPT_BYTES else None
    with _lock:
        _kept[key] = found
        while len(_kept) > 1 and sum(each.num_bytes for each in _kept.values() if each) > KEPT_BYTES:
            _kept.popitem(last=False)
    return found


def _read(rows: Rows, artifact: str) -> DocIds | None:
    halves, starts = [], [0]
    for part in range(len(rows.artifact(artifact).parts)):
        for chunk in rows.table(artifact, part, ["doc_id"]).column("doc_id").chunks:
            numbers = _numbers(chunk)
            if numbers is None:
                return None
            halves.append(numbers)
        starts.append(sum(map(len, halves)))
    both = np.concatenate(halves) if halves else np.empty((0, 2), np.uint64)
    return DocIds(both[:, 0].copy(), both[:, 1].copy(), np.array(starts[:-1] or [0], np.int64))


def _numbers(ids: pa.Array) -> NDArray[np.uint64] | None:
    """Return doc_ids as numbers [ids, 2]; None if one of them is not 32 digits in lower case."""
    if ids.null_count:
        return None
    offsets, data = string_buffers(ids)
    if (np.diff(offsets) != DIGITS).any():
        return None
    digits = data[offsets[0] : offsets[-1]]
    is_digit, is_letter = (digits >= ord("0")) & (digits <= ord("9")), (digits >= ord("a")) & (digits <= ord("f"))
    if not (is_digit | is_letter).all():
        return None
    values = np.where(is_digit, digits - ord("0"), digits - (ord("a") - 10)).astype(np.uint8)
    halves: NDArray[np.uint64] = (values[0::2] << 4 | values[1::2]).view(">u8").astype(np.uint64).reshape(-1, 2)
    return halves
