"""What the trainer sees: an exact shuffle, found at any place, split without overlap, memory-mapped from Parquet."""

import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.model.data import (
    HELDOUT,
    TRAIN,
    Batch,
    Order,
    PackedSequences,
    Reader,
    Starts,
    document_offsets,
    permute,
    read_rows,
    read_split,
    share_of,
)
from tests.sizes import examples

sizes = st.integers(1, 3000)
thoroughly = settings(max_examples=examples(40), deadline=None)


def write_part(path: Path, splits: list[str], *, length: int = 4, first: int = 0, kind: pa.DataType | None = None, starts=None) -> Path:
    """A part file whose row r holds the tokens first + r, first + r + 1 and so on; with the column `starts` if it is given."""
    rows = [[(first + row + at) % 50 for at in range(length)] for row in range(len(splits))]
    table = pa.table({"sequence": np.arange(len(splits)), "split": splits, "tokens": pa.array(rows, pa.list_(kind or pa.uint16()))})
    if starts is not None:
        table = table.append_column("starts", starts if isinstance(starts, pa.Array) else pa.array(starts, pa.list_(pa.int32())))
    pq.write_table(table, path, row_group_size=3)
    return path


def lists(starts: Starts) -> list[list[int]]:
    return [starts.positions[start:stop].tolist() for start, stop in pairwise(starts.offsets)]


def starts_of(rows: list[list[int]]) -> Starts:
    return Starts(np.cumsum([0, *map(len, rows)]), np.array([position for row in rows for position in row], np.int32))


def sequences_of(tokens, starts=None) -> PackedSequences:
    """Sequences in memory, each one document unless told otherwise."""
    return PackedSequences(tokens, np.zeros((len(tokens), 2), np.int32), starts_of(starts or [[]] * len(tokens)), "")


def documents_of(tokens: np.ndarray, starts: list[list[int]]) -> list[list[int]]:
    """The documents of some sequences in order, by plain slices."""
    return [row[begin:end].tolist() for row, inner in zip(tokens, starts, strict=True) for begin, end in pairwise([0, *inner, len(row)])]


def cut(batch: Batch) -> list[list[int]]:
    """The documents of a batch, by its offsets."""
    line = batch.tokens_BT.reshape(-1)
    return [line[begin:end].tolist() for begin, end in pairwise(batch.offsets_N)]


@st.composite
def sets_of_starts(draw) -> tuple[int, list[list[int]]]:
    """A length, and for each of some sequences of it where documents begin inside."""
    length = draw(st.integers(2, 12))
    return length, draw(st.lists(st.sets(st.integers(1, length - 1)).map(sorted), min_size=1, max_size=20))


@thoroughly
@given(sizes, st.text())
def test_a_shuffle_is_a_permutation(size, key):
    assert sorted(permute(np.arange(size), size, key)) == list(range(size))


@thoroughly
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


@thoroughly
@given(st.integers(40, 3000), st.integers(0, 2**40), st.integers(0, 3000), st.integers(1, 300))
def test_any_place_of_the_stream_is_found_without_the_ones_before(size, seed, start, count):
    order = Order(size, seed)
    assert (order.places(start, count) == order.places(0, start + count)[start:]).all()


@thoroughly
@given(sizes, st.integers(0, 99))
def test_every_epoch_shows_every_sequence_once_in_an_order_of_its_own(size, seed):
    epochs = Order(size, seed).places(0, 3 * size).reshape(3, size)
    assert (np.sort(epochs, axis=1) == np.arange(size)).all()
    if size > 20:
        assert (epochs[0] != epochs[1]).any()
        assert (epochs[1] != epochs[2]).any()
        assert (epochs[0] != Order(size, seed + 1).places(0, size)).any()


@thoroughly
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


@pytest.mark.slow
@settings(max_examples=examples(25), deadline=None)
@given(num=st.integers(1, 40), seed=st.integers(0, 9), worlds=st.lists(st.sampled_from([1, 2, 3, 6]), min_size=1, max_size=6))
def test_the_stream_goes_on_whatever_the_number_of_processes(num, seed, worlds):
    """Six sequences a step; each step is read by another number of processes, started anew at that step."""
    tokens = np.arange(num * 2, dtype=np.uint16).reshape(num, 2)
    starts = [[1] if row % 3 else [] for row in range(num)]
    sequences = sequences_of(tokens, starts)
    seen, cuts = [], []
    for step, world in enumerate(worlds, start=1):
        readers = [Reader(sequences, seed, 6, rank, world) for rank in range(world)]
        batches = [reader.read(step) for reader in readers]
        seen += [row for batch in batches for row in batch.tokens_BT.tolist()]
        cuts += [document for batch in batches for document in cut(batch)]
        assert np.concatenate([batch.sequences for batch in batches]).tolist() == readers[0].batch(step).tolist()
        for reader in readers:
            reader.close()
    order = Order(num, seed).places(0, 6 * len(worlds))
    assert seen == tokens[order].tolist()
    assert cuts == documents_of(tokens[order], [starts[place] for place in order])


def test_reading_ahead_gives_what_is_asked_for():
    tokens = np.arange(2000, dtype=np.uint16).reshape(1000, 2)
    reader = Reader(sequences_of(tokens), 0, 8)
    for step in [1, 2, 3, 90, 91, 2, 3]:  # also after a leap, for which nothing was read ahead
        batch = reader.read(step)
        assert (batch.tokens_BT == tokens[reader.batch(step)]).all()
        assert batch.offsets_N.tolist() == list(range(0, 17, 2)), "without starts a sequence is one document"
    assert (batch.tokens_BT.dtype, batch.offsets_N.dtype) == (np.dtype(np.int64), np.dtype(np.int32))
    reader.close()


@thoroughly
@given(sets_of_starts(), st.data())
def test_documents_of_a_batch_are_those_of_its_sequences(drawn, data):
    length, starts = drawn
    tokens = np.arange(len(starts) * length, dtype=np.uint16).reshape(-1, length)
    chosen = np.array(data.draw(st.lists(st.integers(0, len(starts) - 1), min_size=1, max_size=30)))
    mine = [starts[number] for number in chosen]
    some = starts_of(starts).of(chosen)
    assert lists(some) == mine
    batch = Batch(tokens[chosen].astype(np.int64), chosen, document_offsets(some, length))
    expected = documents_of(tokens[chosen], mine)
    assert cut(batch) == expected
    assert (batch.offsets_N.dtype, batch.offsets_N[0], batch.offsets_N[-1]) == (np.dtype(np.int32), 0, len(chosen) * length)
    begin = data.draw(st.integers(0, len(chosen) - 1))
    end = data.draw(st.integers(begin + 1, len(chosen) + 2))  # a last microbatch may ask for more than there is
    part = batch.rows(begin, end)
    assert cut(part) == documents_of(tokens[chosen[begin:end]], mine[begin:end])
    assert part.offsets_N[0] == 0
    assert part.sequences.tolist() == chosen[begin:end].tolist()
    assert np.shares_memory(part.tokens_BT, batch.tokens_BT)
    sliced = Starts(some.offsets[begin : min(end, len(chosen)) + 1], some.positions)
    assert document_offsets(sliced, length).tolist() == part.offsets_N.tolist()


@settings(max_examples=examples(25), deadline=None)
@given(sets_of_starts(), sets_of_starts(), st.booleans())
def test_starts_are_mapped_as_they_were_packed(drawn, other, says_zero):
    """Whether or not the column says that a document begins at 0; a part without the column has none."""
    length, starts = drawn
    second = [[at for at in row if at < length] for row in other[1]]
    splits = [TRAIN if row % 4 else HELDOUT for row in range(len(starts))] + [TRAIN]
    written = [[0, *row] if says_zero else row for row in [*starts, []]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = [
            write_part(folder / "a.parquet", splits, length=length, starts=written),
            write_part(folder / "b.parquet", [TRAIN] * 2, length=length),
            write_part(folder / "c.parquet", [TRAIN] * len(second), length=length, starts=pa.array(second, pa.large_list(pa.int64()))),
        ]
        sequences = PackedSequences.open(paths, folder, 50)
        train = [row for row, split in zip([*starts, []], splits, strict=True) if split == TRAIN]
        assert lists(sequences.starts) == [*train, [], [], *second]
        heldout = [row for rows in read_split(paths, HELDOUT) for row in lists(rows.starts)]
        assert heldout == [row for row, split in zip(starts, splits, strict=False) if split == HELDOUT]


def test_other_starts_are_other_data(tmp_path):
    digests = set()
    for number, starts in enumerate([None, [[1], [2]], [[1, 2], []], [[], [1, 2]], [[0, 1], [0, 2]], [[1], None], [[1], []]]):
        path = write_part(tmp_path / f"{number}.parquet", [TRAIN] * 2, starts=starts)
        digests.add(PackedSequences.open([path], tmp_path / str(number), 50).digest)
    assert len(digests) == 5, "a start at 0 says nothing, and neither does none"


@pytest.mark.parametrize("wrong", [[2, 1], [1, 1], [4], [-1], [1, None]])
def test_starts_that_make_no_sense_are_refused(tmp_path, wrong):
    path = write_part(tmp_path / "a.parquet", [TRAIN] * 5, starts=[[0, 3], [1], [3], wrong, []])
    with pytest.raises(ValueError, match=r"a\.parquet: the starts of row 3 do not rise within its 4 tokens"):
        PackedSequences.open([path], tmp_path, 50)


@thoroughly
@given(st.sets(st.tuples(st.integers(0, 2), st.integers(0, 9))).map(sorted))
def test_chosen_rows_are_read_with_their_neighbours_left_out(tmp_path_factory, chosen):
    folder = tmp_path_factory.mktemp("rows")
    starts = [[row % 3 + 1] for row in range(10)]
    paths = [write_part(folder / f"{part}.parquet", [TRAIN] * 10, first=10 * part, starts=starts) for part in range(3)]
    found = [
        ((rows.part, int(number)), tokens.tolist(), starts)
        for rows in read_rows(paths, np.array(chosen, np.int64).reshape(-1, 2))
        for number, tokens, starts in zip(rows.numbers, rows.tokens, lists(rows.starts), strict=True)
    ]
    assert found == [((p, r), [(10 * p + r + at) % 50 for at in range(4)], starts[r]) for p, r in chosen]
