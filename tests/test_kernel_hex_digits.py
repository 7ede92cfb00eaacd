"""Identifiers against `bytes.hex`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.tasks.kernels.text.hex_digits import from_hex, to_hex


@given(ids=st.lists(st.binary(min_size=3, max_size=3)), cut=st.integers(0, 9), prefix=st.sampled_from(["", "swh:1:cnt:"]))
def test_there_and_back(ids: list[bytes], cut: int, prefix: str) -> None:
    texts = [prefix + value.hex() for value in ids]
    column = pa.chunked_array([texts[:cut], texts[cut:]], pa.string())
    values = from_hex(column, 6, prefix)
    assert values.tobytes() == b"".join(ids)
    assert [prefix + text for text in to_hex(values).to_pylist()] == texts


@pytest.mark.parametrize("text", ["", "x:abc", "x:abcde", "x:abcg", "x:ABCD", "y:abcd", "abcdef", "x:ab\u00e9"])
def test_another_shape_is_refused_with_the_value(text: str) -> None:
    with pytest.raises(ValueError, match="'x:' and 4 lower-case hex digits") as told:
        from_hex(pa.chunked_array([["x:0123", text]]), 4, "x:")
    assert repr(text) in str(told.value)
    assert np.array_equal(from_hex(pa.chunked_array([["x:0123"]]), 4, "x:"), [[0x01, 0x23]])
