"""The bytes under every kind of Arrow string column, against the texts themselves."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.tasks.kernels.text.arrow_bytes import string_buffers

TYPES = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
    pa.dictionary(pa.int32(), pa.string()),
]


@given(
    texts=st.lists(st.text(max_size=8), max_size=8),
    kind=st.sampled_from(TYPES),
    cuts=st.lists(st.integers(0, 8), max_size=3),
    data=st.data(),
)
def test_views_hold_the_texts_whatever_the_type_slice_and_chunks(
    texts: list[str], kind: pa.DataType, cuts: list[int], data: st.DataObject
) -> None:
    encoded = [text.encode() for text in texts]
    whole = pa.array(texts).cast(kind) if kind == TYPES[-1] else pa.array(encoded if "binary" in str(kind) else texts, kind)
    bounds = [0, *sorted(min(cut, len(texts)) for cut in cuts), len(texts)]
    chunked = pa.chunked_array([whole.slice(a, b - a) for a, b in itertools.pairwise(bounds)], kind)
    start = data.draw(st.integers(0, len(texts)))
    for column in (whole, chunked, whole.slice(start), chunked.slice(start)):
        offsets, buffer = string_buffers(column)
        expected = encoded[len(texts) - len(column) :]
        assert (offsets.dtype, buffer.dtype) == (np.dtype(np.int64), np.dtype(np.uint8))
        assert (offsets[0], offsets[-1]) == (0, len(buffer))
        assert [bytes(buffer[a:b]) for a, b in itertools.pairwise(offsets)] == expected
        assert not offsets.flags.writeable
        assert not buffer.flags.writeable


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_the_text_of_one_chunk_is_not_copied(kind: pa.DataType) -> None:
    column = pa.chunked_array([pa.array(["ab", "cd", "ef"], kind)])
    _, buffer = string_buffers(column.slice(1))
    assert buffer.ctypes.data == column.chunk(0).buffers()[2].address + 2


def test_a_column_without_chunks_is_empty() -> None:
    offsets, buffer = string_buffers(pa.chunked_array([], pa.string()))
    assert (offsets.tolist(), buffer.tolist()) == ([0], [])


def test_nulls_and_other_types_are_refused() -> None:
    with pytest.raises(ValueError, match="1 nulls among 2"):
        string_buffers(pa.array(["a", None]))
    for column in (pa.array([1, 2]), pa.array([["a"]])):
        with pytest.raises(TypeError, match="neither strings nor bytes"):
            string_buffers(column)
