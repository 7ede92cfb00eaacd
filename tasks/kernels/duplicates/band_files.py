"""Band keys on disk, cut by hash range, so that buckets are found with memory for one range of one band.

Each part of the corpus writes one file; a reader of (band, range) takes its slice out of every file. Documents that
share a key are in one range, wherever they come from. Guarantee: what is read of a band, over all ranges, is what was
written. Cost: 12 bytes a document and band on disk, written once and read once a pass; `bytes_per_key` in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from starloom.tasks.kernels.compiled import njit
from starloom.tasks.kernels.duplicates.array_files import ArrayFiles

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

BYTES_PER_KEY = 48
"""Of memory while the buckets of a range are found: keys, rows, order, sorted keys, flags."""
_KEY_BYTES, _ROW_BYTES = 8, 4


@dataclass(frozen=True)
class BandFiles:
    """A folder of band keys of a corpus."""

    folder: Path
    num_bands: int
    num_ranges: int
    """A power of two."""
    first_rows: tuple[int, ...]
    """Part i holds the documents from first_rows[i] up to first_rows[i + 1]; the last is their number."""

    @property
    def num_rows(self) -> int:
        """Documents of the corpus."""
        return self.first_rows[-1]

    @property
    def arrays(self) -> ArrayFiles:
        """The other arrays of the folder."""
        return ArrayFiles(self.folder)

    def write(self, part: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Write the keys of a part, [bands, rows]; return where each range begins, [bands, ranges + 1]."""
        starts = np.zeros((self.num_bands, self.num_ranges + 1), np.int64)
        with self._path(part).open("wb") as file:
            for band in range(self.num_bands):
                ordered, rows, starts[band] = _by_range(keys[band], self.num_ranges, np.uint64(64 - self.num_ranges.bit_length()))
                file.write(memoryview(ordered))
                file.write(memoryview(rows))
        return starts

    def seal(self, starts: list[NDArray[np.int64]]) -> None:
        """Record where the ranges of all parts begin, as `write` returned."""
        self.arrays.save("starts", np.stack(starts))

    def read(self, band: int, number: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Read one range of a band from all parts: the keys, and the documents they are of."""
        bounds = self.arrays.open("starts")[:, band, number : number + 2]
        ends = np.cumsum(bounds[:, 1] - bounds[:, 0])
        keys, rows = np.empty(ends[-1], np.uint64), np.empty(ends[-1], np.int64)
        for part, ((low, high), end) in enumerate(zip(bounds.tolist(), ends.tolist(), strict=True)):
            if low < high:
                here = slice(end - (high - low), end)
                keys[here], rows[here] = self._slice(part, band, low, high)
                rows[here] += self.first_rows[part]
        return keys, rows

    def remove_keys(self) -> None:
        """Free the disk of all keys: nothing can be read any more."""
        for part in range(len(self.first_rows) - 1):
            self._path(part).unlink()

    def _slice(self, part: int, band: int, low: int, high: int) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
        num_rows = self.first_rows[part + 1] - self.first_rows[part]
        start, count = band * num_rows * (_KEY_BYTES + _ROW_BYTES), high - low
        keys = np.fromfile(self._path(part), np.uint64, count, offset=start + low * _KEY_BYTES)
        rows = np.fromfile(self._path(part), np.uint32, count, offset=start + num_rows * _KEY_BYTES + low * _ROW_BYTES)
        return keys, rows

    def _path(self, part: int) -> Path:
        return self.folder / f"keys-{part:05}.bin"


def ranges_for(num_rows: int, memory_bytes: int, least: int = 1) -> int:
    """Return the number of ranges in which one range of a band fits into memory: a power of two, `least` or more."""
    wanted = max(least, -(-num_rows * BYTES_PER_KEY // memory_bytes))
    return 1 << (wanted - 1).bit_length()


@njit(cache=True, nogil=True)
def _by_range(
    keys: NDArray[np.uint64], num_ranges: int, shift: np.uint64
) -> tuple[NDArray[np.uint64], NDArray[np.uint32], NDArray[np.int64]]:
    """Sort keys by `key >> 1 >> shift`, by counting: (keys, the row of each, where each range begins)."""
    starts = np.zeros(num_ranges + 1, np.int64)
    for key in keys:
        starts[np.int64(key >> np.uint64(1) >> shift) + 1] += 1
    for each in range(num_ranges):
        starts[each + 1] += starts[each]
    ordered, rows, slots = np.empty_like(keys), np.empty(keys.size, np.uint32), starts[:-1].copy()
    for row in range(keys.size):
        number = np.int64(keys[row] >> np.uint64(1) >> shift)
        ordered[slots[number]] = keys[row]
        rows[slots[number]] = row
        slots[number] += 1
    return ordered, rows, starts
