"""near_dedup's decision over made-up signatures, with its time, disk and memory.

The stage runs as it is. Only its inputs are made up, while they are read: 52 in 100 documents resemble none; the
others are copies of a fifth as many templates, spread over the corpus, equal to theirs in 100, 95, 85 or 75 of 100
positions; and one in a thousand belongs to one of 100 large clusters. Signatures are 256 positions, all of one language.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from numba import njit

from starloom.tasks.frame.stage import Runtime
from starloom.tasks.frame.workers import Workers
from starloom.tasks.kernels.text.hex_digits import to_hex
from starloom.tasks.near_dedup import NearDedup, near_dedup
from starloom.tasks.schemas import Docs, Signatures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

NUM_PERM = 256
BATCH_ROWS = 8192


@dataclass(frozen=True)
class SyntheticPart:
    """One part of a synthetic corpus: its columns are generated when they are read."""

    first: int
    count: int
    num_documents: int

    def keep(self) -> None:
        """Return None: no document is dropped."""

    def num_rows(self) -> int:
        """Return the number of documents."""
        return self.count

    @property
    def data(self) -> pa.Table:
        """The doc_ids that a verdict is aligned with."""
        return self.read(["doc_id"])

    def read(self, columns: list[str] | None) -> pa.Table:
        """Return columns of all documents."""
        return pa.Table.from_batches(list(self.batches(columns, BATCH_ROWS)))

    def batches(self, columns: list[str] | None, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield columns of documents, batch by batch."""
        for start in range(self.first, self.first + self.count, rows):
            numbers = np.arange(start, min(start + rows, self.first + self.count), dtype=np.uint64)
            names = columns or []
            yield pa.record_batch([self._column(name, numbers) for name in names], names=names)

    def _column(self, name: str, numbers: NDArray[np.uint64]) -> pa.Array:
        if name == "signature":
            lanes = _signatures(int(numbers[0]), len(numbers), self.num_documents).reshape(-1)
            return pa.ListArray.from_arrays(pa.array(np.arange(0, lanes.size + 1, NUM_PERM, dtype=np.int32)), pa.array(lanes))
        if name == "doc_id":
            spread = numbers * np.uint64(0x9E3779B97F4A7C15)  # odd, so that no two are equal
            return to_hex(np.stack([spread, numbers], axis=1).astype(">u8").view(np.uint8).reshape(len(numbers), 16))
        if name in ("stars", "forks"):
            return pa.array((numbers * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(60)).astype(np.int64))
        if name in ("committed_at", "visited_at"):
            return pa.nulls(len(numbers), Docs.SCHEMA.field(name).type)
        return pa.repeat(pa.scalar("made-up"), len(numbers))


@njit(nogil=True, cache=True)
def _mixed(value: np.uint64) -> np.uint64:
    """Spread a number over 64 bits (splitmix64)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@njit(nogil=True, cache=True)
def _signatures(first: int, count: int, num_documents: int) -> NDArray[np.uint32]:
    signatures = np.empty((count, NUM_PERM), np.uint32)
    limits = np.array([1.0, 0.95, 0.85, 0.75]) * 2.0**32
    for i in range(count):
        drawn = _mixed(np.uint64(first + i) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1))
        in_thousand, which = drawn % np.uint64(1000), _mixed(drawn)
        own = np.uint64(first + i) << np.uint64(9)
        template, limit = own, np.uint64(0)
        if in_thousand >= np.uint64(520):
            large = in_thousand == np.uint64(999)
            template = (np.uint64(num_documents) + which % np.uint64(100 if large else max(1, num_documents // 5))) << np.uint64(9)
            template += np.uint64(1) << np.uint64(63) if large else np.uint64(0)
            limit = np.uint64(limits[np.int64(which >> np.uint64(62))])
        for lane in range(NUM_PERM):
            mine = _mixed((own + np.uint64(lane) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
            theirs = _mixed((template + np.uint64(lane) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
            taken = theirs if (mine >> np.uint64(32)) < limit else mine
            signatures[i, lane] = np.uint32(taken & np.uint64(0xFFFFFFFF))
    return signatures


@dataclass
class Watch:
    """Disk and memory use while the work goes on, sampled every half second."""

    folder: Path
    disk_bytes: int = 0
    private_bytes: dict[str, int] = field(default_factory=lambda: {"command": 0, "worker": 0})
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(0.5):
            self.disk_bytes = max(self.disk_bytes, sum(_allocated(file) for file in self.folder.rglob("*")))
            self._note("command", "self")
            for child in Path("/proc/self/task").glob("*/children"):
                for number in child.read_text().split():
                    self._note("worker", number)

    def _note(self, who: str, number: str) -> None:
        """Add up private memory only: the system may drop pages of mapped files."""
        try:
            status = Path(f"/proc/{number}/status").read_text()
        except OSError:
            return  # it has just ended
        anonymous = int(status.partition("RssAnon:")[2].split(maxsplit=1)[0]) * 1024
        self.private_bytes[who] = max(self.private_bytes[who], anonymous)


def _allocated(file: Path) -> int:
    try:
        return file.stat().st_blocks * 512
    except OSError:
        return 0  # removed between the listing and now


def simulate(num_documents: int, scratch: Path, workers: int, memory_bytes: int, part_documents: int) -> dict[str, Any]:
    """Run the decision and give its figures."""
    bounds = [*range(0, num_documents, part_documents), num_documents]
    sources: Any = [SyntheticPart(low, high - low, num_documents) for low, high in itertools.pairwise(bounds)]
    cfg = NearDedup(scope="global", memory_bytes=memory_bytes)
    started, stamps = time.perf_counter(), []

    def on_progress(done: int, total: int, _unit: str, _metrics: dict[str, Any]) -> None:
        stamps.append(time.perf_counter() - started)
        if sys.stderr.isatty():
            print(f"\r{done} of {total} bands, {stamps[-1]:.0f} s ", end="", file=sys.stderr, flush=True)

    with Watch(scratch) as watch, Workers(workers) as pool:
        runtime = Runtime(scratch, workers=workers, mapper=pool.map, on_progress=on_progress)
        verdicts, clusters = near_dedup.function(Docs(sources), Signatures(sources), None, cfg, runtime)
        seconds = time.perf_counter() - started
        kept = sum(int(np.count_nonzero(part.read(["keep"]).column("keep").to_numpy())) for part in verdicts.parts)
    return {
        "documents": num_documents,
        "kept": kept,
        "in_clusters": clusters.num_rows,
        "workers": workers,
        "seconds": round(seconds, 1),
        "seconds_until_first_band": round(stamps[0], 1),
        "seconds_until_last_band": round(stamps[-1], 1),
        "disk_bytes_a_document": round(watch.disk_bytes / num_documents, 1),
        "private_bytes": watch.private_bytes,
        **runtime.notes,
    }
