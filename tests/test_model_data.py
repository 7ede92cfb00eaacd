"""What the trainer sees: an exact shuffle, found at any place, split without overlap, memory-mapped from Parquet."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data import HELDOUT, TRAIN, Order, PackedSequences, Reader, permute, read_split, share_of

sizes = st.integers(1, 3000)
examples = settings(max_examples=40, deadline=None)


def write_part(path: Path, splits: list[str], *, length: int = 4, first: int = 0, kind: pa.DataType | None = None) -> Path:
    """A part file whose row r holds the tokens first + r, first + r + 1 and so on."""
    rows = [[(first + row + at) % 50 for at in range(length)] for row in range(len(splits))]
    table = pa.table({"sequence": np.arange(len(splits)), "split": splits, "tokens": pa.array(rows, pa.list_(kind or pa.uint16()))})
    pq.write_table(table, path, row_group_size=3)
    return path


@examples
@given(sizes, st.text())
def test_a_shuffle_is_a_permutation(size, key):
    assert sorted(permute(np.arange(size), size, key)) == list(range(size))


@examples
@given(sizes, st.text())
def test_a_shuffle_sends_a_number_where_it_would_among_others(size, key):
    everywhere = permute(np.arange(size), size, key)
    some = np.arange(0, size, 7)
    assert (permute(some, size, key) == everywhere[some]).all()


def test_a_shuffle_is_spread_evenly():
    size = 1000
    sent = np.stack([permute(np.arange(size), size, str(key)) for key in range(400)])
    assert np.abs(sent.mean(0) - (size - 1) / 2).max() < 5 * size / np.sqrt(12 * 400)  # each number's mean place is the middle
    neighbours = np.abs(np.diff(sent, axis=1))
    assert neighbours.mean() == pytest.approx(size / 3, rel=0.01)  # as far apart as two independent places


@examples
@given(st.integers(40, 3000), st.integers(0, 2**40), st.integers(0, 3000), st.integers(1, 300))
def test_any_place_of_the_stream_is_found_without_the_ones_before(size, seed, start, count):
    order = Order(size, seed)
    assert (order.places(start, count) == order.places(0, start + count)[start:]).all()


@examples
@given(sizes, st.integers(0, 99))
def test_every_epoch_shows_every_sequence_once_in_an_order_of_its_own(size, seed):
    epochs = Order(size, seed).places(0, 3 * size).reshape(3, size)
    assert (np.sort(epochs, axis=1) == np.arange(size)).all()
    if size > 20:
        assert (epochs[0] != epochs[1]).any()
        assert (epochs[1] != epochs[2]).any()
        assert (epochs[0] != Order(size, seed + 1).places(0, size)).any()


@examples
@given(st.integers(1, 8), st.integers(1, 16))
def test_processes_share_a_batch_without_overlap(world, share):
    batch = Order(1000, 0).places(0, world * share)
    shares = [share_of(batch, rank, world) for rank in range(world)]
    assert {len(each) for each in shares} == {share}
    assert (np.concatenate(shares) == batch).all()


def test_the_order_is_this_one_for_ever():
    """Resuming across versions of this project depends on it."""
    assert Order(10, 0).places(0, 20).tolist() == [5, 2, 0, 3, 1, 8, 4, 6, 7, 9, 3, 0, 1, 2, 4, 6, 9, 8, 7, 5]


@pytest.mark.parametrize("kind", [pa.uint16(), pa.uint32()])
def test_training_sequences_are_mapped_with_their_origin(tmp_path, kind):
    paths = [
        write_part(tmp_path / "a.parquet", [TRAIN, HELDOUT, TRAIN, TRAIN, HELDOUT], kind=kind),
        write_part(tmp_path / "b.parquet", [HELDOUT, HELDOUT], first=10, kind=kind),
        write_part(tmp_path / "c.parquet", [HELDOUT, TRAIN], first=20, kind=kind),
    ]
    sequences = PackedSequences.open(paths, tmp_path, 50)
    assert sequences.origin.tolist() == [[0, 0], [0, 2], [0, 3], [2, 1]]
    assert sequences.tokens.tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [3, 4, 5, 6], [21, 22, 23, 24]]
    assert isinstance(sequences.tokens, np.memmap)
    heldout = [(rows.part, int(number)) for rows in read_split(paths, HELDOUT) for number in rows.numbers]
    assert heldout == [(0, 1), (0, 4), (1, 0), (1, 1), (2, 0)]


def test_the_copy_is_made_once_and_again_for_other_data(tmp_path):
    path = write_part(tmp_path / "a.parquet", [TRAIN] * 5)
    first = PackedSequences.open([path], tmp_path, 50)
    made = (tmp_path / "tokens.bin").stat().st_mtime_ns
    assert PackedSequences.open([path], tmp_path, 50).digest == first.digest
    assert (tmp_path / "tokens.bin").stat().st_mtime_ns == made
    other = write_part(tmp_path / "b.parquet", [TRAIN] * 5, first=1)
    again = PackedSequences.open([other], tmp_path, 50)
    assert again.digest != first.digest
    assert again.tokens[0].tolist() == [1, 2, 3, 4]


def test_data_that_cannot_be_trained_on_is_refused(tmp_path):
    train = write_part(tmp_path / "a.parquet", [TRAIN] * 2)
    longer = write_part(tmp_path / "b.parquet", [HELDOUT, TRAIN], length=5)
    wider = write_part(tmp_path / "c.parquet", [TRAIN], kind=pa.uint32())
    heldout = write_part(tmp_path / "d.parquet", [HELDOUT])
    with pytest.raises(ValueError, match=r"b\.parquet: row 1 has not 4 tokens"):
        PackedSequences.open([train, longer], tmp_path, 50)
    with pytest.raises(ValueError, match=r"c\.parquet: tokens are uint32"):
        PackedSequences.open([train, wider], tmp_path, 50)
    with pytest.raises(ValueError, match="nothing to train on"):
        PackedSequences.open([heldout], tmp_path, 50)
    with pytest.raises(ValueError, match="token 4, but vocab_size is 4"):
        PackedSequences.open([train], tmp_path, 4)
    assert list(tmp_path.glob(".*.partial")) == []


@settings(max_examples=25, deadline=None)
@given(num=st.integers(1, 40), seed=st.integers(0, 9), worlds=st.lists(st.sampled_from([1, 2, 3, 6]), min_size=1, max_size=6))
def test_the_stream_goes_on_whatever_the_number_of_processes(num, seed, worlds):
    """Six sequences a step; each step is read by another number of processes, started anew at that step."""
    tokens = np.arange(num * 2, dtype=np.uint16).reshape(num, 2)
    sequences = PackedSequences(tokens, np.zeros((num, 2), np.int32), "")
    seen = []
    for step, world in enumerate(worlds, start=1):
        readers = [Reader(sequences, seed, 6, rank, world) for rank in range(world)]
        seen += [row for reader in readers for row in reader.read(step).tolist()]
        for reader in readers:
            reader.close()
    assert seen == tokens[Order(num, seed).places(0, 6 * len(worlds))].tolist()


def test_reading_ahead_gives_what_is_asked_for():
    tokens = np.arange(2000, dtype=np.uint16).reshape(1000, 2)
    reader = Reader(PackedSequences(tokens, np.zeros((1000, 2), np.int32), ""), 0, 8)
    for step in [1, 2, 3, 90, 91, 2, 3]:  # also after a leap, for which nothing was read ahead
        assert (reader.read(step) == tokens[reader.batch(step)]).all()
    assert reader.read(4).dtype == np.int64
    reader.close()
