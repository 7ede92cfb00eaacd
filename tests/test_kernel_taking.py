"""Documents taken by weight: how often, in which order, and what stands before a context whichever of its files are taken."""

import hashlib

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from starloom.tasks.kernels.packing.taking import draws_of_copies, further, headers, take
from starloom.tasks.kernels.tokens.byte_level import Ragged

SEPARATOR = 6


def _names(values):
    return pa.chunked_array([pa.array([hashlib.md5(str(value).encode()).hexdigest() for value in values], pa.string())])


@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(0, 4)), max_size=20).map(lambda rows: sorted(rows, key=lambda row: row[0])),
    st.integers(0, 9),
)
def test_a_document_is_taken_as_often_as_its_weight_says_and_stays_with_its_context(rows, seed):
    contexts, weights = [context for context, _ in rows], np.array([weight for _, weight in rows])
    copies = take(weights, _names(range(len(rows))), _names(contexts), seed)
    counts = np.bincount(copies.row, minlength=len(rows))
    assert ((np.floor(weights) <= counts) & (counts <= np.ceil(weights))).all()
    assert len({*zip(copies.row.tolist(), copies.epoch.tolist(), strict=True)}) == len(copies.row)
    together = {}
    for row, epoch, number in zip(*(column.tolist() for column in copies), strict=True):
        together.setdefault(number, []).append((contexts[row], epoch, row))
    assert list(together) == list(range(len(together))), "contexts stand one after the other"
    for group in together.values():
        assert len({(context, epoch) for context, epoch, _ in group}) == 1
        assert [row for *_, row in group] == sorted(row for *_, row in group)
    assert len({group[0][:2] for group in together.values()}) == len(together)


def test_copies_are_spread_and_mixed():
    weights = np.repeat([1.0, 3.0], 300)
    copies = take(weights, _names(range(600)), _names(range(600)), 0)
    place = np.arange(1200) / 1200
    for epoch in range(3):
        mine = place[(copies.row >= 300) & (copies.epoch == epoch)]
        assert (abs(mine - (epoch + 0.5) / 3) < 0.2).all(), "one copy in each third, give or take what is taken once"
    thirds = np.bincount((place[copies.row < 300] * 3).astype(int))
    assert (abs(thirds - 100) < 35).all(), "what is taken once is everywhere; four standard deviations"
    assert (copies.row[1:] != copies.row[:-1]).all()


def test_the_order_of_what_is_taken_once_is_that_of_its_draws():
    names = _names(range(50))
    copies = take(np.ones(50, np.int64), names, names, 3)
    assert sorted(copies.row.tolist()) == list(range(50))
    backwards = take(np.ones(50, np.int64), _names(range(49, -1, -1)), _names(range(49, -1, -1)), 3)
    assert (49 - backwards.row).tolist() == copies.row.tolist(), "the order of the rows is none of it"


def test_draws_differ_by_copy_and_by_piece_and_nothing_else():
    names = _names(range(4))
    copies = take(np.full(4, 3.0), names, names, 0)
    draws = draws_of_copies(names, copies, 0, "fim", 2)
    assert len({tuple(row) for row in draws.tolist()}) == 12
    fewer = take(np.full(4, 2.0), names, names, 0)
    told = {(r, e): row for r, e, row in zip(copies.row.tolist(), copies.epoch.tolist(), draws.tolist(), strict=True)}
    for r, e, row in zip(fewer.row.tolist(), fewer.epoch.tolist(), draws_of_copies(names, fewer, 0, "fim", 2).tolist(), strict=True):
        assert told[r, e] == row
    pieces = [further(draws, np.full(12, number)) for number in range(3)]
    assert (pieces[0] == draws).all()
    assert len({tuple(row) for piece in pieces for row in piece.tolist()}) == 36


def test_what_stands_before_the_first_separator_is_the_contexts():
    metadata = [[5, 9, 9, SEPARATOR, 8], [SEPARATOR, 8], [SEPARATOR], [7, 7], [], [5, SEPARATOR, SEPARATOR]]
    offsets = np.cumsum([0, *map(len, metadata)])
    ragged = Ragged(np.array([i for ids in metadata for i in ids], np.uint32), offsets)
    contexts = _names(["a", "a", "b", "c", "d", "e"])
    found = headers(ragged, contexts, SEPARATOR)
    assert found.length.tolist() == [3, 0, 0, 0, 0, 1]
    assert found.first_row.tolist() == [0, 0, 2, 3, 4, 5]
    assert found.has_separator.tolist() == [True, True, True, False, False, True]
    assert headers(ragged, contexts, None).length.tolist() == [0] * 6
    assert headers(ragged, contexts, None).has_separator.tolist() == [False] * 6
