"""What is held out follows bytes: as near to the share as whole groups come, never over twice it, and moved little by a new group."""

from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.tasks.kernels.packing.holding_out import hold_out, spelled_bytes
from starloom.tasks.kernels.text.draws import draw

SIZES = st.lists(st.one_of(st.integers(0, 20), st.integers(0, 10_000), st.integers(0, 10**9)), max_size=30)
SHARES = st.sampled_from([0.0, 0.001, 0.02, 0.1, 0.3, 0.5, 0.9])


def named(num):
    return pa.array([f"o/r{i}" for i in range(num)], pa.string())


def plainly(names, sizes, share, seed):
    """The same in plain Python."""
    order = sorted(range(len(sizes)), key=lambda i: (int(draw(names, seed, "heldout")[i, 0]), sizes[i]))
    total = sum(sizes)
    wanted, held, chosen = share * total, 0, set()
    for i in order:
        if sizes[i] and sizes[i] <= wanted:
            if held + sizes[i] > wanted:
                break
            chosen.add(i)
            held += sizes[i]
    may = [i for i in order if i not in chosen and sizes[i] and held + sizes[i] < total and held + sizes[i] <= 2 * wanted]
    best = min(may, key=lambda i: abs(held + sizes[i] - wanted), default=None)
    if best is not None and (not held or abs(held + sizes[best] - wanted) < wanted - held):
        chosen.add(best)
        held += sizes[best]
    if abs(held - wanted) > 0.1 * wanted and held:
        inside = sorted((i for i in order if i in chosen), key=lambda i: sizes[i])
        swaps = [(i, j) for i in order if i not in chosen and sizes[i] for j in inside]
        swap = min(swaps, key=lambda ij: abs(held + sizes[ij[0]] - sizes[ij[1]] - wanted), default=None)
        if swap and abs(held + sizes[swap[0]] - sizes[swap[1]] - wanted) < abs(held - wanted):
            chosen = chosen - {swap[1]} | {swap[0]}
    return sorted(sizes[i] for i in chosen)


@given(sizes=SIZES, share=SHARES, seed=st.integers(0, 3))
def test_is_what_the_plain_method_gives_and_keeps_its_promises(sizes, share, seed):
    names, num_bytes = named(len(sizes)), np.array(sizes, np.int64)
    is_held = hold_out(names, num_bytes, share, seed)
    assert sorted(num_bytes[is_held].tolist()) == plainly(names, sizes, share, seed)
    held, total = int(num_bytes[is_held].sum()), sum(sizes)
    assert held <= 2 * share * total + 1e-6
    assert held < total or not held
    assert (num_bytes[is_held] > 0).all()
    fits = [size for size in sizes if 0 < size <= 2 * share * total and size < total]
    assert held or not fits, "one at least, where one is small enough"
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    assert hold_out(names.take(pa.array(shuffled)), num_bytes[shuffled], share, seed).tolist() == is_held[shuffled].tolist()


def test_is_near_the_nearest_of_all_choices():
    misses, best = [], []
    for seed in range(60):
        sizes = np.random.default_rng(seed).lognormal(8, 1.5, 10).astype(np.int64)
        wanted = 0.1 * sizes.sum()
        chosen = int(sizes[hold_out(named(10), sizes, 0.1, seed)].sum())
        sums = [int(sum(some)) for n in range(1, 10) for some in combinations(sizes.tolist(), n)]
        misses.append(abs(chosen - wanted) / wanted if chosen else 1.0)
        best.append(min(abs(total - wanted) / wanted for total in sums))
    assert np.median(best) < np.median(misses) < 0.1, "and of all subsets the nearest would be nearer still"


def test_of_ten_repositories_the_two_giants_are_not_held_out():
    sizes = np.array([430, 440, 30, 20, 20, 15, 15, 10, 10, 10]) * 1000
    for seed in range(50):
        is_held = hold_out(named(10), sizes, 0.1, seed)
        assert not is_held[:2].any()
        assert 0.075 <= sizes[is_held].sum() / sizes.sum() <= 0.125


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_a_new_repository_moves_little(share):
    moved = []
    for seed in range(100):
        sizes = np.random.default_rng(seed).lognormal(8, 1.5, 201).astype(np.int64)
        before, after = hold_out(named(200), sizes[:200], share, 0), hold_out(named(201), sizes, share, 0)
        moved.append(sizes[:200][before != after[:200]].sum() / sizes.sum())
    assert np.median(moved) < share / 5
    assert np.mean(moved) < share / 3


def test_raising_the_share_keeps_what_fits_below_the_old_one_in_the_order():
    sizes = np.full(1000, 7)
    less, more = (hold_out(named(1000), sizes, share, 5) for share in (0.1, 0.2))
    assert (less.sum(), more.sum()) == (100, 200)
    assert not (less & ~more).any()


def test_bytes_of_tokens_are_counted_list_by_list():
    values, offsets = np.array([0, 2, 2, 1], np.uint32), np.array([0, 2, 2, 4])
    assert spelled_bytes(values, offsets, np.array([1, 2, 5])).tolist() == [6, 0, 7]
