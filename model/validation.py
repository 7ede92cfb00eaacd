"""Held-out sequences to measure the loss on while training goes on, and the loss of each group of documents.

The same sequences as the evaluator's, read once and kept: a thousand of 8,192 tokens are 50 MB. The group of a token is the language
of the document whose bytes it spells; what the template adds (metadata, sentinels, ends of text, padding) has none and counts in
the loss of all only.

Shapes: B sequences, T tokens of each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from starloom.model.data import HELDOUT, Batch, Starts, document_offsets, ranges, read_rows
from starloom.model.spans import read_spans

NO_GROUP = -1
"""A token that counts in the loss of all only."""
FILLER = -2
"""A token that does not count: of a sequence that only makes a batch as large as the others."""
UNKNOWN = "unknown"
"""Name of the group of documents whose language is not known."""


def choose_rows(paths: Sequence[Path], max_sequences: int) -> NDArray[np.int64]:
    """Choose part and row of the held-out sequences to measure, spread evenly over all of them."""
    found = [np.empty((0, 2), np.int64)]
    for part, path in enumerate(paths):
        is_heldout = pc.equal(pq.read_table(path, columns=["split"]).column("split"), HELDOUT)
        rows = np.flatnonzero(is_heldout.to_numpy())
        found.append(np.stack([np.full_like(rows, part), rows], axis=1))
    everything = np.concatenate(found)
    count = min(len(everything), max_sequences)
    return everything[np.arange(count) * len(everything) // max(count, 1)]


@dataclass(frozen=True)
class ValidationSet:
    """Held-out sequences in memory, and the group of each of their tokens."""

    tokens: NDArray[np.unsignedinteger[Any]]
    """[sequences, T]."""
    origin: NDArray[np.int64]
    """Part and row of each sequence."""
    starts: Starts
    groups: NDArray[np.int32]
    """For each token the place of its group in `names`, or `NO_GROUP`: [sequences, T]."""
    names: tuple[str, ...]
    """Languages, in order of name; none if there are no Spans."""

    @classmethod
    def open(cls, packed_paths: Sequence[Path], spans_paths: Sequence[Path], max_sequences: int) -> "ValidationSet":
        """Read at most so many held-out sequences, spread evenly over all that there are.

        Args:
            packed_paths: part files of Packed.
            spans_paths: those of Spans, one for each of Packed; or none, and then there are no groups.
            max_sequences: largest number of sequences.

        Raises:
            ValueError: sequences differ in length, or Spans and Packed do not belong together; the message names the file.
        """
        if spans_paths and len(spans_paths) != len(packed_paths):
            raise ValueError(f"{len(spans_paths)} part files of Spans do not belong to {len(packed_paths)} of Packed; give both of one run")
        origin = choose_rows(packed_paths, max_sequences)
        read = list(read_rows(packed_paths, origin))
        tokens = np.concatenate([rows.tokens for rows in read]) if read else np.empty((0, 0), np.uint16)
        counts = [np.diff(rows.starts.offsets) for rows in read]
        offsets = np.cumsum(np.concatenate([[0], *counts]), dtype=np.int64)
        positions = np.concatenate([np.empty(0, np.int32), *(rows.starts.positions for rows in read)])
        groups, names = _groups(spans_paths, origin, tokens.shape[1]) if spans_paths else (np.full(tokens.shape, NO_GROUP, np.int32), ())
        return cls(tokens, origin, Starts(offsets, positions), groups, names)

    def batches(self, batch_sequences: int, rank: int = 0, world: int = 1) -> Iterator[tuple[Batch, NDArray[np.int32]]]:
        """Yield the share of one of `world` processes: batches, and for each position the group of the next token, `FILLER` at the last.

        All processes get equally many, for a network spread over them is run by all at once; one that has no sequence left
        is given the first again, as a filler.
        """
        num_sequences = len(self.tokens)
        batch_sequences = min(batch_sequences, -(-num_sequences // world)) or 1
        for first in range(0, num_sequences, batch_sequences * world):
            mine = np.arange(num_sequences)[first + rank * batch_sequences :][:batch_sequences]
            groups_BT = np.full((max(len(mine), 1), self.tokens.shape[1]), FILLER, np.int32)
            groups_BT[: len(mine), :-1] = self.groups[mine, 1:]
            taken = mine if len(mine) else np.zeros(1, np.int64)
            offsets_N = document_offsets(self.starts.of(taken), self.tokens.shape[1])
            yield Batch(self.tokens[taken].astype(np.int64), taken, offsets_N), groups_BT


def _groups(spans_paths: Sequence[Path], origin: NDArray[np.int64], length: int) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Return the group of each token of some sequences, whose part and row rise, and the names of the groups."""
    columns = ["sequence", "token_start", "token_end", "byte_start", "language"]
    groups = np.full(len(origin) * length, NO_GROUP, np.int32)
    begin, lengths, languages = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [pa.array([], pa.string())]
    for part in np.unique(origin[:, 0]).tolist():
        places = np.flatnonzero(origin[:, 0] == part)
        spans = read_spans(spans_paths[part], origin[places, 1], columns)
        sequence, start, end = (spans.column(name).to_numpy().astype(np.int64) for name in columns[:3])
        place = np.searchsorted(origin[places, 1], sequence)
        _check_cover(place, start, end, length, spans_paths[part], origin[places, 1])
        has_bytes = spans.column("byte_start").is_valid().to_numpy()
        begin.append(((places[0] + place) * length + start)[has_bytes])
        lengths.append((end - start)[has_bytes])
        languages.append(pc.fill_null(spans.column("language").filter(pa.array(has_bytes)).cast(pa.string()), UNKNOWN).combine_chunks())
    encoded = pa.concat_arrays(languages).dictionary_encode()
    found = encoded.dictionary.to_pylist()
    names = tuple(sorted(found))
    codes = np.array([names.index(name) for name in found], np.int32)[encoded.indices.to_numpy()]
    num_tokens = np.concatenate(lengths)
    groups[ranges(np.concatenate(begin), num_tokens)] = np.repeat(codes, num_tokens)
    return groups.reshape(len(origin), length), names


def _check_cover(
    place: NDArray[np.int64], start: NDArray[np.int64], end: NDArray[np.int64], length: int, path: Path, rows: NDArray[np.int64]
) -> None:
    """Refuse spans that do not cover each sequence from end to end, each beginning where the one before ends."""
    is_first = np.diff(place, prepend=-1) > 0
    is_wrong = start != np.where(is_first, 0, np.roll(end, 1))
    is_wrong |= np.append(is_first[1:], True)[: len(end)] & (end != length)
    wrong = np.append(place[is_wrong], np.setdiff1d(np.arange(len(rows)), place))
    if len(wrong):
        raise ValueError(f"{path}: its spans do not cover the {length} tokens of row {rows[wrong.min()]} of Packed; give both of one run")


def add_up(
    losses_BT: NDArray[np.floating[Any]], is_target_BT: NDArray[np.bool_], groups_BT: NDArray[np.int32], num_groups: int
) -> NDArray[np.float64]:
    """Return the sum of the losses and their number: of each group, and last of all tokens; [groups + 1, 2].

    Those of several batches and processes are to be added.

    Args:
        losses_BT: of predicting the token after each position.
        is_target_BT: whether it was predicted at all; padding and what follows the last token are not.
        groups_BT: the group of that token, as `ValidationSet.batches` gives it.
        num_groups: how many groups there are.
    """
    counts = is_target_BT & (groups_BT != FILLER)
    losses, groups = losses_BT[counts].astype(np.float64), groups_BT[counts]
    in_group = groups != NO_GROUP
    totals = np.empty((num_groups + 1, 2))
    totals[:-1, 0] = np.bincount(groups[in_group], losses[in_group], num_groups)
    totals[:-1, 1] = np.bincount(groups[in_group], minlength=num_groups)
    totals[-1] = losses.sum(), len(losses)
    return totals


def means(totals: NDArray[np.float64], names: Sequence[str]) -> list[tuple[str | None, float, int]]:
    """Return name, mean loss and number of tokens: of all tokens, without a name, then of each group in order that predicted any."""
    order = [(None, len(names)), *((name, group) for group, name in enumerate(names))]
    return [(name, float(totals[at, 0] / totals[at, 1]), int(totals[at, 1])) for name, at in order if totals[at, 1]]
