"""The training data and its order: packed sequences on a memory map, shuffled by a computed permutation.

The training sequences of all part files are copied once into one flat file, which the operating system pages in as needed; so memory
does not grow with the corpus. The order of an epoch is a permutation that is computed, not stored: the sequence at any place of
the endless stream is found in constant time and memory, which makes resuming at a step as cheap as starting.

A document here is what attention may be kept within: a context of Packed, or the padding behind the last one.

Shapes: B sequences, T tokens of each, N documents and one more.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from starloom.model.files import replacing

ROWS_AT_ONCE = 1024
PLACES_AT_ONCE = 4096
ROUNDS = 8
"""Passes of the shuffle's Feistel network; four make it a pseudo-random permutation (Luby and Rackoff 1988)."""
TRAIN, HELDOUT = "train", "heldout"
COLUMNS = ["split", "tokens", "starts"]
"""The columns read of Packed; where there are no `starts`, a sequence is one document."""


class Starts(NamedTuple):
    """The positions in each sequence at which another document begins, rising: `positions[offsets[i] : offsets[i + 1]]` of sequence i.

    None is 0, where every sequence begins one. The first offset of a slice need not be 0.
    """

    offsets: NDArray[np.int64]
    positions: NDArray[np.int32]

    def of(self, sequences: NDArray[np.int64]) -> "Starts":
        """Return the starts of some sequences, in this order."""
        begin = self.offsets[sequences]
        lengths = self.offsets[sequences + 1] - begin
        return Starts(np.append(0, np.cumsum(lengths)), self.positions[ranges(begin, lengths)])


def ranges(begin: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers from begin[0] on, lengths[0] of them, then from begin[1] on, and so forth."""
    before = np.cumsum(lengths) - lengths
    numbers: NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(begin - before, lengths)
    return numbers


def document_offsets(starts: Starts, length: int) -> NDArray[np.int32]:
    """Return the start of each document in all sequences laid end to end, then the total length; strictly rising, [N]."""
    counts = np.diff(starts.offsets)
    of_sequence = starts.offsets - starts.offsets[0] + np.arange(len(starts.offsets))  # place of each sequence's own beginning
    is_inner = np.ones(of_sequence[-1] + 1, bool)
    is_inner[of_sequence] = False
    offsets = np.empty(len(is_inner), np.int32)
    offsets[of_sequence] = np.arange(0, len(of_sequence) * length, length)
    inside = starts.positions[starts.offsets[0] : starts.offsets[-1]]
    offsets[is_inner] = inside + np.repeat(offsets[of_sequence[:-1]], counts)
    return offsets


@dataclass(frozen=True)
class Rows:
    """Some rows of one part file: `tokens[i]` is the sequence in row `numbers[i]`."""

    part: int
    numbers: NDArray[np.int64]
    tokens: NDArray[np.unsignedinteger[Any]]
    starts: Starts


def read_split(paths: Sequence[Path], split: str) -> Iterator[Rows]:
    """Yield the rows of one split, part by part, holding about a thousand sequences at a time.

    Raises:
        ValueError: sequences differ in length, or documents do not begin in order within theirs; the message names file and row.
    """
    length = 0
    for part, path in enumerate(paths):
        start = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=COLUMNS):
                places = np.flatnonzero(pc.equal(batch.column("split"), split).to_numpy(zero_copy_only=False))
                if len(places):
                    rows = _as_rows(batch.take(pa.array(places)), start + places, length, part, path)
                    length = rows.tokens.shape[1]
                    yield rows
                start += batch.num_rows


def read_rows(paths: Sequence[Path], chosen: NDArray[np.int64]) -> Iterator[Rows]:
    """Yield rows by number, each named by part and row, rising; of the files only the row groups that hold them are read.

    Raises:
        ValueError: as `read_split`.
    """
    length = 0
    for part in np.unique(chosen[:, 0]).tolist():
        wanted = chosen[chosen[:, 0] == part, 1]
        with pq.ParquetFile(paths[part]) as file:
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            ends = np.cumsum(sizes)
            for group in np.unique(np.searchsorted(ends, wanted, side="right")).tolist():
                start = int(ends[group]) - sizes[group]
                for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=COLUMNS):
                    numbers = wanted[(wanted >= start) & (wanted < start + batch.num_rows)]
                    if len(numbers):
                        rows = _as_rows(batch.take(pa.array(numbers - start)), numbers, length, part, paths[part])
                        length = rows.tokens.shape[1]
                        yield rows
                    start += batch.num_rows


def _as_rows(batch: pa.RecordBatch, numbers: NDArray[np.int64], length: int, part: int, path: Path) -> Rows:
    """Return a batch as arrays, if its sequences have the length of those before; 0 if there were none."""
    lengths = pc.list_value_length(batch.column("tokens")).to_numpy(zero_copy_only=False)
    length = length or int(lengths[0])
    if (lengths != length).any():
        row = int(numbers[np.argmax(lengths != length)])
        raise ValueError(f"{path}: row {row} has not {length} tokens like the rows before it; all must be equally long")
    starts, wrong = _read_starts(batch, length)
    if len(wrong):
        raise ValueError(f"{path}: the starts of row {numbers[wrong[0]]} do not rise within its {length} tokens; pack it again")
    return Rows(part, numbers, batch.column("tokens").flatten().to_numpy().reshape(-1, length), starts)


def _read_starts(batch: pa.RecordBatch, length: int) -> tuple[Starts, NDArray[np.int64]]:
    """Return the document starts of these rows, and the rows whose starts are out of order or beyond their end."""
    if "starts" not in batch.schema.names:
        return Starts(np.zeros(batch.num_rows + 1, np.int64), np.empty(0, np.int32)), np.empty(0, np.int64)
    column = batch.column("starts")
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    row = np.repeat(np.arange(len(counts)), counts)
    positions = pc.fill_null(column.flatten().cast(pa.int64()), -1).to_numpy()
    is_wrong = (positions < 0) | (positions >= length)
    is_wrong[1:] |= (row[1:] == row[:-1]) & (positions[1:] <= positions[:-1])
    is_inner = positions > 0
    offsets = np.append(0, np.cumsum(np.bincount(row[is_inner], minlength=len(counts))))
    return Starts(offsets, positions[is_inner].astype(np.int32)), row[is_wrong]


@dataclass(frozen=True)
class PackedSequences:
    """All training sequences, on disk."""

    tokens: NDArray[np.unsignedinteger[Any]]
    """One row for each sequence; a read-only memory map."""
    origin: NDArray[np.int32]
    """Part and row of each sequence; a read-only memory map."""
    starts: Starts
    """Read-only memory maps."""
    digest: str
    """SHA-256 of every token, origin and start: the identity of the data."""

    @classmethod
    def open(cls, paths: Sequence[Path], work: Path, vocab_size: int) -> "PackedSequences":
        """Map the training sequences of these part files, copying them into `work` unless that was done before.

        Raises:
            ValueError: there is no training sequence, one has another length, or one holds a token outside the vocabulary.
        """
        described = work / "sequences.json"
        files = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
        sources = {"columns": COLUMNS, "files": files}
        description = json.loads(described.read_text()) if described.exists() else {}
        if description.get("sources") != sources:
            described.unlink(missing_ok=True)  # first, so that it never describes the other files of somebody else's data
            description = {"sources": sources, **_flatten(paths, work)}
            with replacing(described) as file:
                file.write(json.dumps(description).encode())
        if description["largest_token"] >= vocab_size:
            raise ValueError(f"the packed sequences hold token {description['largest_token']}, but vocab_size is {vocab_size}")
        num_sequences, length = description["num_sequences"], description["length"]
        tokens = np.memmap(work / "tokens.bin", description["dtype"], "r", shape=(num_sequences, length))
        origin = np.memmap(work / "origin.bin", np.int32, "r", shape=(num_sequences, 2))
        offsets, positions = _mapped(work / "starts_offsets.bin", np.int64), _mapped(work / "starts.bin", np.int32)
        return cls(tokens, origin, Starts(offsets, positions), description["digest"])


def _mapped(path: Path, dtype: type[Any]) -> NDArray[Any]:
    """Return a file as an array; nothing can be mapped of an empty one."""
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)


def _flatten(paths: Sequence[Path], work: Path) -> dict[str, Any]:
    """Copy the training sequences into `tokens.bin`, where they came from into `origin.bin`, their starts into two more."""
    num_sequences, num_starts, length, largest, dtype = 0, 0, 0, 0, np.dtype(np.uint16)
    digest = hashlib.sha256()
    with ExitStack() as stack:
        files = [stack.enter_context(replacing(work / f"{name}.bin")) for name in ("tokens", "origin", "starts_offsets", "starts")]
        for rows in read_split(paths, TRAIN):
            if num_sequences and rows.tokens.dtype != dtype:
                raise ValueError(f"{paths[rows.part]}: tokens are {rows.tokens.dtype}, those of the parts before it {dtype}")
            dtype, length = rows.tokens.dtype, rows.tokens.shape[1]
            origin = np.stack([np.full_like(rows.numbers, rows.part), rows.numbers], axis=1).astype(np.int32)
            begin = num_starts + rows.starts.offsets[:-1]
            for file, array in zip(files, (rows.tokens, origin, begin, rows.starts.positions), strict=True):
                data = np.ascontiguousarray(array).data
                digest.update(data)
                file.write(data)
            num_sequences += len(rows.numbers)
            num_starts += len(rows.starts.positions)
            largest = max(largest, int(rows.tokens.max()))
        if not num_sequences:
            raise ValueError(f"none of the {len(paths)} packed part files has a row whose split is {TRAIN!r}: there is nothing to train on")
        files[2].write(np.int64(num_starts).tobytes())
    return {
        "num_sequences": num_sequences,
        "length": length,
        "dtype": dtype.str,
        "largest_token": largest,
        "digest": digest.hexdigest(),
    }


@dataclass(frozen=True)
class Order:
    """An endless stream of epochs, each a shuffle of all sequences that depends on the seed and the epoch only."""

    num_sequences: int
    seed: int

    def places(self, start: int, count: int) -> NDArray[np.int64]:
        """Return the sequences at `count` places of the stream from `start` on."""
        epochs, offsets = np.divmod(np.arange(start, start + count, dtype=np.int64), self.num_sequences)
        sequences = np.empty_like(offsets)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            sequences[here] = permute(offsets[here], self.num_sequences, f"{self.seed}/{epoch}")
        return sequences


def permute(offsets: NDArray[np.int64], size: int, key: str) -> NDArray[np.int64]:
    """Apply a keyed permutation of 0..size-1 to these numbers.

    A Feistel network permutes the next power of four; a number that lands outside is sent on until it lands inside ("cycle
    walking", Black and Rogaway 2002, Ciphers with Arbitrary Finite Domains). Exact for every size; about two walks for each number.
    """
    half = max(2, ((size - 1).bit_length() + 1) // 2)
    digest = hashlib.blake2b(key.encode(), digest_size=8 * ROUNDS).digest()
    keys = np.frombuffer(digest, dtype="<u8")
    numbers = _feistel(offsets.astype(np.uint64), half, keys)
    while (outside := numbers >= size).any():
        numbers[outside] = _feistel(numbers[outside], half, keys)
    return numbers.astype(np.int64)


def _feistel(numbers: NDArray[np.uint64], half: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = numbers >> bits, numbers & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return (left << bits) | right


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply SplitMix64's finaliser (Steele, Lea and Flood 2014): every input bit affects every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def share_of(batch: NDArray[np.int64], rank: int, world: int) -> NDArray[np.int64]:
    """Return the share of a batch that one of `world` processes takes; shares are disjoint, equal and cover the batch."""
    share = len(batch) // world
    return batch[rank * share : (rank + 1) * share]


@dataclass(frozen=True)
class Batch:
    """Some sequences to train on, and the starts of their documents."""

    tokens_BT: NDArray[np.int64]
    sequences: NDArray[np.int64]
    """Numbers of the sequences: [B]."""
    offsets_N: NDArray[np.int32]
    """Where each document begins in the line of all B*T tokens, then B*T."""

    def rows(self, start: int, stop: int) -> "Batch":
        """Return some of its sequences as a batch; nothing is copied but the offsets."""
        stop, length = min(stop, len(self.sequences)), self.tokens_BT.shape[1]
        first, last = np.searchsorted(self.offsets_N, [start * length, stop * length])
        offsets_N = self.offsets_N[first : last + 1] - np.int32(start * length)
        return Batch(self.tokens_BT[start:stop], self.sequences[start:stop], offsets_N)


class Reader:
    """A reader of one process's share of each batch, which a thread reads ahead while the step before is computed.

    A step's sequences follow from its number alone: training may go on at any step, with any number of processes that
    divides the batch, and every sequence is seen in its turn.
    """

    def __init__(self, sequences: PackedSequences, seed: int, batch_sequences: int, rank: int = 0, world: int = 1) -> None:
        self.sequences, self.rank, self.world = sequences, rank, world
        self.batch_sequences = batch_sequences
        self.order = Order(len(sequences.tokens), seed)
        self._block_steps = max(1, min(PLACES_AT_ONCE, len(sequences.tokens)) // batch_sequences)
        self._block: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._ahead: dict[int, Future[Batch]] = {}
        self.waited_seconds = 0.0
        """Seconds that training has waited for its data."""

    def batch(self, step: int) -> NDArray[np.int64]:
        """Return the numbers of all sequences of a step, counted from 1, of all processes."""
        block, at = divmod(step - 1, self._block_steps)
        held = self._block  # which the other thread may replace
        if held[0] != block:  # many places at once cost little more than one
            size = self._block_steps * self.batch_sequences
            self._block = held = block, self.order.places(block * size, size)
        return held[1][at * self.batch_sequences : (at + 1) * self.batch_sequences]

    def read(self, step: int) -> Batch:
        """Return this process's share of a step's batch, and start to read that of the next."""
        began = time.perf_counter()
        wanted = self._ahead.pop(step, None)
        batch = self._gather(step) if wanted is None else wanted.result()
        self.waited_seconds += time.perf_counter() - began
        self._ahead = {step + 1: self._thread.submit(self._gather, step + 1)}
        return batch

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _gather(self, step: int) -> Batch:
        mine = share_of(self.batch(step), self.rank, self.world)
        tokens, starts = self.sequences.tokens, self.sequences.starts.of(mine)
        return Batch(tokens[mine].astype(np.int64), mine, document_offsets(starts, tokens.shape[1]))
