"""Best fit against the same rule told with lists, and the laws that hold for any rule."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from starloom.tasks.kernels.packing.best_fit import Slices, best_fit, sliced
from starloom.tasks.kernels.packing.roles import EOD, METADATA, TEXT
from starloom.tasks.kernels.packing.sequences import NOWHERE, Pieces

contexts = st.lists(st.lists(st.integers(1, 30), max_size=12), max_size=4)  # sizes by epoch


def _fitted(epochs, length):
    sizes = np.array([size for epoch in epochs for size in epoch], np.int64)
    numbers = np.array([number for number, epoch in enumerate(epochs) for _ in epoch], np.int64)
    return [tuple(row) for row in np.stack(best_fit(sizes, numbers, length), axis=1).tolist()] if len(sizes) else []


def _told_plainly(sizes, length):
    """The longest that fits; else the beginning of one that is split already, or of the longest. Of equal ones who waits the shortest."""
    left, split, full, last = {}, [], [], []
    for item in reversed(range(len(sizes))):
        full += [[(item, start, start + length)] for start in range(0, sizes[item] - length + 1, length)]
        if sizes[item] % length:
            left[item] = sizes[item] % length  # a dictionary keeps the order in which they came to wait
            split += [item] * (sizes[item] > length)
    while left:
        room, sequence = length, []
        while room and left:
            latest = list(reversed(left))
            fitting = [item for item in latest if left[item] <= room]
            split = [item for item in split if item in left] if not fitting else split
            item = max(fitting or split[-1:] or latest, key=left.__getitem__)
            split += [item] * (not fitting and not split)
            waiting = left.pop(item)
            size = min(room, waiting)
            sequence.append((item, sizes[item] - waiting, sizes[item] - waiting + size))
            if size < waiting:
                left[item] = waiting - size
            room -= size
        if room:
            last = [sequence]
        else:
            full.append(sequence)
    return [row for sequence in [*sorted(full, key=lambda sequence: sequence[0][0]), *last] for row in sorted(sequence)]


@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 40))
def test_the_rule_told_with_lists_gives_the_same(sizes, length):
    assert _fitted([sizes], length) == _told_plainly(sizes, length)


@given(contexts, st.integers(1, 40))
def test_every_token_once_and_nothing_short_but_the_last_sequence(epochs, length):
    slices = _fitted(epochs, length)
    sizes = [size for epoch in epochs for size in epoch]
    for item, size in enumerate(sizes):
        mine = sorted((start, stop) for i, start, stop in slices if i == item)
        assert [start for start, _ in mine] == [0, *(stop for _, stop in mine)][: len(mine)]
        assert mine[-1][1] == size
    ends = set(np.cumsum([stop - start for _, start, stop in slices]).tolist())
    assert set(range(length, sum(sizes) + 1, length)) <= ends, "no slice straddles a border"


def test_few_contexts_are_split_that_would_fit_whole():
    sizes = np.random.default_rng(0).lognormal(6, 1.2, 5000).astype(np.int64) + 1
    slices = _fitted([sizes.tolist()], 2048)
    ends = np.cumsum(sizes)
    concatenated = ((ends - sizes) // 2048 != (ends - 1) // 2048) & (sizes <= 2048)
    needless = {item for item, start, stop in slices if stop - start < sizes[item] <= 2048}
    assert concatenated.sum() > 1000
    assert len(needless) < 10


def test_a_perfect_fit_is_found_and_a_gap_is_filled_by_one_that_is_split_already():
    assert _fitted([[3, 7, 6, 4]], 10) == [(0, 0, 3), (1, 0, 7), (2, 0, 6), (3, 0, 4)]
    assert _fitted([[13, 9, 8, 5]], 10) == [(0, 0, 10), (0, 10, 11), (1, 0, 9), (0, 11, 13), (2, 0, 8), (3, 0, 5)]


def test_two_copies_do_not_meet_in_a_sequence_but_where_epochs_meet():
    slices = _fitted([[5, 5, 5, 5, 5, 5]] * 2, 10)
    pairs = [(a[0] % 6, b[0] % 6) for a, b in zip(slices[::2], slices[1::2], strict=True)]
    assert all(a != b for a, b in pairs)


@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=5), max_size=6), st.integers(1, 7), st.randoms())
def test_pieces_are_cut_where_the_slices_are(items, length, random):
    """Each item some pieces of text; every token of the pool is known by its number, and spells as many bytes as its number says."""
    num_tokens = sum(map(sum, items))
    rows, at = [], 0
    for doc, sizes in enumerate(items):
        for place, size in enumerate(sizes):
            role = random.choice([TEXT, METADATA, EOD])
            rows.append((doc, role, 1000 * place if role == TEXT else NOWHERE, at, at + size))
            at += size
    pieces = Pieces(*np.array(rows, np.int64).reshape(-1, 5).T)
    slices = best_fit(np.array([sum(sizes) for sizes in items], np.int64), np.zeros(len(items), np.int64), length)
    cut = sliced(np.arange(num_tokens, dtype=np.uint32), pieces, slices, np.arange(num_tokens))
    origin = {}
    for doc, role, byte, start, stop in rows:
        for token in range(start, stop):
            origin[token] = (doc, role, byte + sum(range(start, token)) if role == TEXT else NOWHERE)
    first = np.cumsum([0, *map(sum, items)])
    expected = [first[i] + t for i, a, b in zip(*(column.tolist() for column in slices), strict=True) for t in range(a, b)]
    found = []
    for doc, role, byte, start, stop in zip(*(column.tolist() for column in cut), strict=True):
        assert (doc, role, byte) == origin[start]
        assert {origin[token][:2] for token in range(start, stop)} == {(doc, role)}
        found += range(start, stop)
    assert found == expected


def test_nothing_to_fit():
    nothing = best_fit(np.zeros(0, np.int64), np.zeros(0, np.int64), 8)
    assert [len(column) for column in nothing] == [0, 0, 0]
    assert isinstance(nothing, Slices)
