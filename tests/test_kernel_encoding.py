"""Columns of text through the kernel, and through `tokenizers` where it does not cover a tokenizer: the same ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, pre_tokenizers, trainers

from starloom.tasks.kernels.tokens import byte_pairs
from starloom.tasks.kernels.tokens.byte_level import encode_texts, untrained
from starloom.tasks.kernels.tokens.encoding import TextEncoder, open_encoder
from starloom.tasks.kernels.tokens.special_tokens import STARCODER

if TYPE_CHECKING:
    from pathlib import Path


def trained(size: int = 400) -> Tokenizer:
    model = untrained()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model.train_from_iterator(
        ["def area(self):\n    return self.pi * 2\n" * 3],
        trainers.BpeTrainer(vocab_size=size, special_tokens=list(STARCODER), initial_alphabet=alphabet, show_progress=False),
    )
    model.encode_special_tokens = True
    return model


TEXTS = st.lists(st.one_of(st.text(max_size=30), st.sampled_from(["", "<|endoftext|>", "é" * 40, "\r\n \t", "١٢"])), max_size=12)


@given(texts=TEXTS, cut=st.integers(0, 12), chunk_bytes=st.sampled_from([1, 7, 1 << 22]))
@settings(deadline=None)
def test_a_column_is_encoded_as_tokenizers_does_however_it_is_cut(texts: list[str], cut: int, chunk_bytes: int) -> None:
    column = pa.chunked_array([texts[:cut], texts[cut:]], pa.string())
    expected = [ENCODER.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(byte_pairs, "CHUNK_BYTES", chunk_bytes)
        found = ENCODER.encode(column)
    assert found.to_arrow().to_pylist() == expected
    assert encode_texts(ENCODER.tokenizer, column).to_arrow().to_pylist() == expected


ENCODER = TextEncoder(trained())


def test_what_is_not_covered_is_encoded_by_tokenizers_and_said() -> None:
    assert ENCODER.not_covered is None
    model = trained()
    model.normalizer = normalizers.Lowercase()
    other = TextEncoder(model)
    assert other.not_covered == "it normalises text (Lowercase)"
    assert other.encode(pa.array(["DEF"])).values.tolist() == model.encode("def").ids


def test_a_file_is_opened_once_and_again_when_it_changes(tmp_path: Path) -> None:
    trained(280).save(str(tmp_path / "tokenizer.json"))
    first = open_encoder(tmp_path)
    assert open_encoder(tmp_path / "tokenizer.json") is first
    trained(290).save(str(tmp_path / "tokenizer.json"))
    assert len(open_encoder(tmp_path).spelled.lengths) == 290


def test_one_whose_ids_would_differ_from_run_to_run_is_refused(tmp_path: Path) -> None:
    tokenizer = trained(280)
    tokenizer.model.dropout = 0.1
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"encodes at random \(model.dropout 0.1\)"):
        open_encoder(tmp_path)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="is not a tokenizer.json"):
        open_encoder(tmp_path)
