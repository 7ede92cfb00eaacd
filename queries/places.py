"""Where values stand in a part: an index of its column, made once, kept in a file and mapped into memory.

A part never changes, so that its index follows from its name; the files are caches, in the store where it can be written, and may be
deleted at any time. An index is three rows of 32-bit numbers, [hash, first row, rows] for each stretch of rows whose values have one hash,
ordered by hash: twelve bytes a stretch. It tells where a value may be; whoever asks reads those rows and looks.
Cost: a lookup is a binary search, some twenty microseconds a part; making one reads the column, a tenth of a second for half a million
rows.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from starloom.lineage import parquet
from starloom.tasks.kernels.text.arrow_bytes import string_buffers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from starloom.lineage.records import Run
    from starloom.queries.rows import Rows

    Hashes = NDArray[np.uint32]

FOLDER = "places-1"
"""Of the files; the number changes with what is in them."""
KEPT_BYTES = 48_000_000
"""Of indices that stay mapped; the ones asked for last."""
KEPT_INDICES = 200
"""Each that is mapped holds a file open, of which a process may have a thousand."""
SMALL_BYTES = 65_536
"""Of an index that is read rather than mapped."""
SHORTEST_PREFIX = 8
"""Characters of an id that are hashed, so that it is found by its beginning."""
_ROWS_AT_ONCE = 65_536
_WORD = 8
_HASHED_BYTES = 256
"""Of a longer text, at its end."""
_FACTORS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))
_kept: OrderedDict[tuple[str, str, str], NDArray[np.uint32]] = OrderedDict()
_lock = threading.Lock()
_making = threading.Lock()
"""One index is made at a time: whoever asks for it meanwhile finds it made."""


@dataclass(frozen=True, slots=True)
class Key:
    """A value of each row that can be looked for."""

    columns: tuple[str, ...]
    """Joined by a slash."""
    bounds: Callable[[NDArray[np.int64], NDArray[np.uint8]], tuple[NDArray[np.int64], NDArray[np.int64]]]
    """What of a text is hashed: (offsets, data) → first byte of each, and the one after the last."""


def _beginnings(offsets: NDArray[np.int64], _data: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return offsets[:-1], np.minimum(offsets[:-1] + SHORTEST_PREFIX, offsets[1:])


def _whole(offsets: NDArray[np.int64], _data: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.maximum(offsets[:-1], offsets[1:] - _HASHED_BYTES), offsets[1:]


def _last_pieces(offsets: NDArray[np.int64], data: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    slashes = np.concatenate([[-1], np.flatnonzero(data == ord("/"))])
    begins = slashes[np.searchsorted(slashes, offsets[1:], side="left") - 1] + 1
    return np.maximum(np.maximum(offsets[:-1], begins), offsets[1:] - _HASHED_BYTES), offsets[1:]


KEYS = {
    "doc_id": Key(("doc_id",), _beginnings),
    "cluster_id": Key(("cluster_id",), _beginnings),
    "repo": Key(("repo",), _whole),
    "file": Key(("repo", "path"), _whole),
    "name": Key(("path",), _last_pieces),
}
"""`file` is repository/path, `name` the last piece of a path."""

PREPARED = {
    "Docs": ("doc_id", "repo", "file", "name"),
    "Skipped": ("repo", "file", "name"),
    "Clusters": ("doc_id", "cluster_id"),
    **dict.fromkeys(("Licenses", "Signals", "Redactions", "Tokens", "Spans"), ("doc_id",)),
}
"""Type → keys that are asked for. Verdicts have none: they stand row by row beside their documents."""


def hashes_of(key: str, values: pa.Array | pa.ChunkedArray) -> Hashes:
    """Return the hash of each value, as the indices of a key have it; null is as the empty text."""
    offsets, data = string_buffers(pc.fill_null(values, ""))
    begins, ends = KEYS[key].bounds(offsets, data)
    length = ends - begins
    order = np.argsort(-length, kind="stable")
    begins, length = begins[order], length[order]
    state = length.astype(np.uint64) * _FACTORS[1]
    padded = np.concatenate([data, np.zeros(_WORD, np.uint8)])
    for at in range(0, int(length[0]) if len(length) else 0, _WORD):
        number = int(np.searchsorted(-length, -at, side="left"))  # of those that are longer
        room = np.minimum(length[:number] - at, _WORD).astype(np.uint64)
        words = padded[(begins[:number] + at)[:, None] + np.arange(_WORD)].view("<u8")[:, 0]
        words = words & (np.uint64(2**64 - 1) >> ((np.uint64(_WORD) - room) * np.uint64(8)))
        mixed = (state[:number] ^ words) * _FACTORS[0]
        state[:number] = mixed ^ (mixed >> np.uint64(29))
    state = (state ^ (state >> np.uint64(32))) * _FACTORS[1]
    found = np.empty(len(state), np.uint32)
    found[order] = (state >> np.uint64(32)).astype(np.uint32)
    return found


def candidates(rows: Rows, name: str, part: int, key: str, wanted: Hashes) -> NDArray[np.int64]:
    """Return the ascending rows of a part at which values with some hashes may be; no other row has such a value."""
    hashes, firsts, lengths = _index(rows, name, part, key)
    asked = np.unique(wanted)
    low, high = np.searchsorted(hashes, asked, side="left"), np.searchsorted(hashes, asked, side="right")
    hits = _stretched(low, high - low)
    return np.sort(_stretched(firsts[hits].astype(np.int64), lengths[hits].astype(np.int64)))


def _stretched(firsts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers of all stretches, one after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(firsts - (ends - lengths), lengths) + np.arange(total)


def prepare(rows: Rows, run: Run) -> None:
    """Make the indices that questions about a run ask for, where they are not there, so that nobody waits for them."""
    wanted = {(out["artifact"], key) for step in run.steps for kind, out in step.outputs.items() for key in PREPARED.get(kind, ())}
    for name, key in sorted(wanted):
        for part in range(len(rows.artifact(name).parts)):
            _index(rows, name, part, key)


def _index(rows: Rows, name: str, part: int, key: str) -> NDArray[np.uint32]:
    digest = rows.artifact(name).parts[part].hash
    asked = (rows.store.url, digest, key)
    with _lock:
        if asked in _kept:
            _kept.move_to_end(asked)
            return _kept[asked]
    with _making:
        found = _read_or_make(rows, name, part, key)
    with _lock:
        _kept[asked] = found
        total = sum(each.nbytes for each in _kept.values())
        while (total > KEPT_BYTES or len(_kept) > KEPT_INDICES) and len(_kept) > 1:
            total -= _kept.popitem(last=False)[1].nbytes
    return found


def _read_or_make(rows: Rows, name: str, part: int, key: str) -> NDArray[np.uint32]:
    described = rows.artifact(name).parts[part]
    file = rows.store.storage.shelf() / FOLDER / described.hash[:2] / f"{described.hash}.{key}.npy"
    found = _mapped(file)
    if found is None:
        made = _make(rows.path(name, part), key, rows.store.url)
        found = _mapped(file) if _write(file, made) else None
        return made if found is None else found
    return found


def _mapped(file: Path) -> NDArray[np.uint32] | None:
    """Return what a file holds, mapped; None if it is not there, or no index."""
    try:
        is_small = file.stat().st_size <= SMALL_BYTES
        found = np.load(file, mmap_mode=None if is_small else "r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found.view(np.ndarray) if found.dtype == np.uint32 and found.ndim == 2 and len(found) == 3 else None  # noqa: PLR2004 - as written


def _make(path: Path, key: str, store: str) -> NDArray[np.uint32]:
    columns = KEYS[key].columns
    pieces = [np.empty(0, np.uint32)]
    for batch in parquet.read_batches(path, list(columns), _ROWS_AT_ONCE, store):
        values = [pc.fill_null(batch.column(column), "") for column in columns]
        pieces.append(hashes_of(key, values[0] if len(values) == 1 else pc.binary_join_element_wise(*values, "/")))
    hashes = np.concatenate(pieces)
    firsts = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]])) if len(hashes) else np.empty(0, np.int64)
    lengths = np.diff(np.append(firsts, len(hashes)))
    order = np.argsort(hashes[firsts], kind="stable")
    return np.stack([hashes[firsts][order], firsts[order].astype(np.uint32), lengths[order].astype(np.uint32)])


def _write(file: Path, made: NDArray[np.uint32]) -> bool:
    """Write an index aside and rename it into place; returns whether it could be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_name(f"{file.name}.{os.getpid()}-{threading.get_ident()}")
        with aside.open("wb") as out:
            np.save(out, made)
            out.flush()
            os.fsync(out.fileno())
        os.replace(aside, file)
    except OSError:  # a full disk, a store that is only read: it stays in memory
        return False
    return True
