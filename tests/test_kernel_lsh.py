"""Banding against datasketch, keys and buckets against dictionaries."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from datasketch.lsh import _optimal_param
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.tasks.kernels.duplicates.lsh import among, band_keys, buckets, optimal_bands, set_keys


@pytest.mark.parametrize(("threshold", "num_perm", "expected"), [(0.7, 256, (25, 10)), (0.7, 250, (25, 10)), (0.85, 256, (13, 19))])
def test_the_banding_of_bigcode(threshold: float, num_perm: int, expected: tuple[int, int]) -> None:
    assert optimal_bands(threshold, num_perm) == expected


@given(threshold=st.integers(1, 100).map(lambda n: n / 100), num_perm=st.integers(1, 160), weight=st.sampled_from([0.5, 0.4, 0.1]))
@settings(deadline=None)
def test_the_banding_of_datasketch(threshold: float, num_perm: int, weight: float) -> None:
    assert optimal_bands(threshold, num_perm, weight) == _optimal_param(threshold, num_perm, weight, 1 - weight)


@given(st.data())
@settings(deadline=None)
def test_keys_agree_exactly_where_band_and_scope_agree(data: st.DataObject) -> None:
    bands, rows, n = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3)), data.draw(st.integers(0, 12))
    spare = data.draw(st.integers(0, 2))
    values = data.draw(st.lists(st.integers(0, 2), min_size=n * (bands * rows + spare), max_size=n * (bands * rows + spare)))
    signatures = np.array(values, np.uint32).reshape(n, bands * rows + spare)
    scopes = np.array(data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)), np.uint64)
    keys = band_keys(signatures, scopes, bands, rows)
    assert keys.shape == (bands, n)
    for band in range(bands):
        plain = [(scopes[i], signatures[i, band * rows : (band + 1) * rows].tobytes()) for i in range(n)]
        for i in range(n):
            for j in range(n):
                assert (keys[band, i] == keys[band, j]) == (plain[i] == plain[j])


@given(keys=st.lists(st.integers(0, 6), max_size=20), data=st.data())
def test_buckets_hold_those_who_share_a_key(keys: list[int], data: st.DataObject) -> None:
    groups = defaultdict(list)
    for i, key in enumerate(keys):
        groups[key].append(i)
    plain = {frozenset(group) for group in groups.values() if len(group) > 1}

    members, starts = buckets(np.array(keys, np.uint64))
    found = [members[starts[k] : starts[k + 1]].tolist() for k in range(len(starts) - 1)]
    assert starts[0] == 0
    assert starts[-1] == len(members)
    assert {frozenset(group) for group in found} == plain
    assert len(found) == len(plain)

    chosen = data.draw(st.sets(st.sampled_from(keys and range(len(keys)))) if keys else st.just(set()))
    thinned, bounds = among(members, starts, np.isin(members, sorted(chosen)))
    left = [thinned[bounds[k] : bounds[k + 1]].tolist() for k in range(len(bounds) - 1)]
    assert left == [[i for i in group if i in chosen] for group in found]


@given(st.lists(st.tuples(st.sets(st.integers(0, 3)), st.integers(0, 1)), max_size=10))
@settings(deadline=None)
def test_set_keys_agree_exactly_where_set_and_scope_agree(cases: list[tuple[set[int], int]]) -> None:
    hashes = np.array([item for items, _ in cases for item in sorted(items)], np.uint64)
    starts = np.cumsum([0, *(len(items) for items, _ in cases)])
    keys = set_keys(starts, hashes, np.array([scope for _, scope in cases], np.uint64))
    for i, one in enumerate(cases):
        for j, other in enumerate(cases):
            assert (keys[i] == keys[j]) == (one == other)
