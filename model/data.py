"""What the trainer sees, in which order: packed sequences on a memory map, shuffled by arithmetic.

The training sequences of all part files are copied once into one flat file, which the operating system pages in as needed; so memory
does not grow with the corpus. The order of an epoch is a permutation that is computed, not stored: the sequence at any place of
the endless stream is found in constant time and memory, which makes resuming at a step as cheap as starting.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.files import replacing

ROWS_AT_ONCE = 1024
PLACES_AT_ONCE = 4096
ROUNDS = 8
"""Passes of the shuffle's Feistel network; four make it a pseudo-random permutation (Luby and Rackoff 1988)."""
TRAIN, HELDOUT = "train", "heldout"


@dataclass(frozen=True)
class Rows:
    """Some rows of one part file: `tokens[i]` is the sequence in row `numbers[i]`."""

    part: int
    numbers: NDArray[np.int64]
    tokens: NDArray[np.unsignedinteger[Any]]


def read_split(paths: Sequence[Path], split: str) -> Iterator[Rows]:
    """The rows of one split, part by part, holding about a thousand sequences at a time.

    Raises:
        ValueError: sequences differ in length, naming the first file and row.
    """
    length = None
    for part, path in enumerate(paths):
        start = 0
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=["split", "tokens"]):
                numbers = start + np.flatnonzero(pc.equal(batch.column("split"), split).to_numpy(zero_copy_only=False))
                start += batch.num_rows
                if not len(numbers):
                    continue
                tokens = batch.column("tokens").take(pa.array(numbers - (start - batch.num_rows)))
                lengths = pc.list_value_length(tokens).to_numpy(zero_copy_only=False)
                length = length or int(lengths[0])
                if (lengths != length).any():
                    row = int(numbers[np.argmax(lengths != length)])
                    raise ValueError(f"{path}: row {row} has not {length} tokens like the rows before it; all must be equally long")
                yield Rows(part, numbers, tokens.flatten().to_numpy().reshape(len(numbers), length))


@dataclass(frozen=True)
class PackedSequences:
    """All training sequences, on disk."""

    tokens: NDArray[np.unsignedinteger[Any]]
    """One row for each sequence; a read-only memory map."""
    origin: NDArray[np.int32]
    """Part and row of each sequence; a read-only memory map."""
    digest: str
    """SHA-256 of every token and origin: which data this is."""

    @classmethod
    def open(cls, paths: Sequence[Path], work: Path, vocab_size: int) -> "PackedSequences":
        """Map the training sequences of these part files, copying them into `work` unless that was done before.

        Raises:
            ValueError: there is no training sequence, one has another length, or one holds a token outside the vocabulary.
        """
        described = work / "sequences.json"
        sources = [[str(path), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
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
        return cls(tokens, origin, description["digest"])


def _flatten(paths: Sequence[Path], work: Path) -> dict[str, Any]:
    """Copy the training sequences into `tokens.bin` and where they came from into `origin.bin`."""
    num_sequences, length, largest, dtype = 0, 0, 0, np.dtype(np.uint16)
    digest = hashlib.sha256()
    with replacing(work / "tokens.bin") as tokens_file, replacing(work / "origin.bin") as origin_file:
        for rows in read_split(paths, TRAIN):
            if num_sequences and rows.tokens.dtype != dtype:
                raise ValueError(f"{paths[rows.part]}: tokens are {rows.tokens.dtype}, those of the parts before it {dtype}")
            dtype, length = rows.tokens.dtype, rows.tokens.shape[1]
            origin = np.stack([np.full_like(rows.numbers, rows.part), rows.numbers], axis=1).astype(np.int32)
            for file, array in ((tokens_file, rows.tokens), (origin_file, origin)):
                data = np.ascontiguousarray(array).tobytes()
                digest.update(data)
                file.write(data)
            num_sequences += len(rows.numbers)
            largest = max(largest, int(rows.tokens.max()))
        if not num_sequences:
            raise ValueError(f"none of the {len(paths)} packed part files has a row whose split is {TRAIN!r}: there is nothing to train on")
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
        """The sequences at `count` places of the stream from `start` on."""
        epochs, offsets = np.divmod(np.arange(start, start + count, dtype=np.int64), self.num_sequences)
        sequences = np.empty_like(offsets)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            sequences[here] = permute(offsets[here], self.num_sequences, f"{self.seed}/{epoch}")
        return sequences


def permute(offsets: NDArray[np.int64], size: int, key: str) -> NDArray[np.int64]:
    """Where a keyed permutation of 0..size-1 sends these numbers.

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
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit sways every output bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def share_of(batch: NDArray[np.int64], rank: int, world: int) -> NDArray[np.int64]:
    """The part of a batch that one of `world` processes takes; the parts are disjoint, equal and cover the batch."""
    share = len(batch) // world
    return batch[rank * share : (rank + 1) * share]


class Reader:
    """What one of `world` processes takes of each batch, read ahead by a thread while the step before is computed.

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
        self._ahead: dict[int, Future[NDArray[np.int64]]] = {}
        self.waited_seconds = 0.0
        """Time that training has stood still for its data."""

    def batch(self, step: int) -> NDArray[np.int64]:
        """Numbers of all sequences of a step, counted from 1, of all processes."""
        block, at = divmod(step - 1, self._block_steps)
        held = self._block  # which the other thread may replace
        if held[0] != block:  # many places at once cost little more than one
            size = self._block_steps * self.batch_sequences
            self._block = held = block, self.order.places(block * size, size)
        return held[1][at * self.batch_sequences : (at + 1) * self.batch_sequences]

    def read(self, step: int) -> NDArray[np.int64]:
        """This process's tokens of a step, [sequences, length]; those of the next are read from now on."""
        began = time.perf_counter()
        wanted = self._ahead.pop(step, None)
        tokens = self._gather(step) if wanted is None else wanted.result()
        self.waited_seconds += time.perf_counter() - began
        self._ahead = {step + 1: self._thread.submit(self._gather, step + 1)}
        return tokens

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(cancel_futures=True)

    def _gather(self, step: int) -> NDArray[np.int64]:
        return self.sequences.tokens[share_of(self.batch(step), self.rank, self.world)].astype(np.int64)
