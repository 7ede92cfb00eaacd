"""Band keys on disk: what is read of a band, over all ranges, is what was written."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.tasks.kernels.duplicates.band_files import BYTES_PER_KEY, BandFiles, ranges_for
from tests.sizes import examples

KEYS = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2**63, 2**64 - 1]))


@given(data=st.data(), sizes=st.lists(st.integers(0, 6), min_size=1, max_size=4), num_ranges=st.sampled_from([1, 2, 8, 64]))
@settings(deadline=None, max_examples=examples(50))
def test_every_key_is_read_once_in_its_range(data: st.DataObject, sizes: list[int], num_ranges: int) -> None:
    num_bands = data.draw(st.integers(1, 3))
    keys = [
        np.array(data.draw(st.lists(KEYS, min_size=num_bands * n, max_size=num_bands * n)), np.uint64).reshape(num_bands, n) for n in sizes
    ]
    with tempfile.TemporaryDirectory() as folder:
        files = BandFiles(Path(folder), num_bands, num_ranges, tuple(np.cumsum([0, *sizes]).tolist()))
        files.seal([files.write(part, of_part) for part, of_part in enumerate(keys)])
        for band in range(num_bands):
            found: dict[int, int] = {}
            for number in range(num_ranges):
                read, rows = files.read(band, number)
                assert all(int(key) * num_ranges >> 64 == number for key in read)
                found |= dict(zip(rows.tolist(), read.tolist(), strict=True))
            assert found == dict(enumerate(np.concatenate(keys, axis=1)[band].tolist()))
        files.remove_keys()
        assert not list(Path(folder).glob("keys-*"))


@pytest.mark.parametrize(
    ("num_rows", "memory", "least", "expected"), [(0, 1, 1, 1), (100, 100 * BYTES_PER_KEY, 1, 1), (101, 100 * BYTES_PER_KEY, 1, 2)]
)
def test_a_range_fits_into_the_memory_that_is_given(num_rows: int, memory: int, least: int, expected: int) -> None:
    assert ranges_for(num_rows, memory, least) == expected
    assert ranges_for(num_rows, memory, 3) == 4
