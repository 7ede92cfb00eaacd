"""Byte-level BPE as arrays: texts to token ids, token ids to the bytes that they spell.

Source: Radford et al. 2019 (GPT-2), whose vocabulary writes each byte as a printable character; StarCoder's
pre-tokeniser, digits apart and then GPT-2's pattern, is that of bigcode-tokenizer, starcoder/train_bpe_tokenizer.py.
Guarantee: special tokens are never matched inside a text: a literal <|endoftext|> in a file is text, like any other.
Cost: encoding that of `tokenizers`, 3 to 5 MB/s a core (`encoding` has a faster way); the check of spelling 1 ns a byte.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from starloom.tasks.kernels.compiled import njit
from starloom.tasks.kernels.text.arrow_bytes import string_buffers

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_Bytes = NDArray[np.uint8]
_Int64s = NDArray[np.int64]
_Uint64s = NDArray[np.uint64]
_Tokens = NDArray[np.unsignedinteger]

CHUNK_BYTES = 1 << 18
"""Text given to one call of `tokenizers`, whose encodings take some four hundred bytes a token."""

DRAWN_BY = ("dropout", "alpha", "nbest_size")
"""Knobs of a model (of BPE; of Unigram) that make its encoding random."""
_HEAD_BYTES = 8
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(_HEAD_BYTES + 1)], np.uint64)


class TokenBytes(NamedTuple):
    """The bytes that each token id spells: `data[offsets[id] : offsets[id + 1]]`."""

    offsets: _Int64s
    """int64 [vocab + 1]."""
    data: _Bytes
    """uint8."""

    @property
    def lengths(self) -> _Int64s:
        """Bytes of each token: int64 [vocab]."""
        return np.diff(self.offsets)


class Ragged(NamedTuple):
    """Lists of token ids, end to end: list i is `values[offsets[i] : offsets[i + 1]]`."""

    values: _Tokens
    """uint32."""
    offsets: _Int64s
    """int64 [lists + 1]."""

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> Ragged:
        """Return the lists of an Arrow column, without a copy where it is one chunk."""
        lists = column.chunk(0) if column.num_chunks == 1 else pa.chunked_array(column.chunks, column.type).combine_chunks()
        offsets = np.asarray(lists.offsets).astype(np.int64)
        return cls(np.asarray(lists.flatten()), offsets - offsets[0])

    def to_arrow(self) -> pa.ListArray:
        """Return the same lists as an Arrow array."""
        return pa.ListArray.from_arrays(pa.array(self.offsets, pa.int32()), pa.array(self.values))


def untrained() -> Tokenizer:
    """Return StarCoder's tokenizer before training: no normaliser, single digits, GPT-2's pattern."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def load(path: Path) -> Tokenizer:
    """Load a tokenizer.json, or the one of a folder, so that it encodes every text whole, as text.

    Raises:
        ValueError: if `tokenizers` cannot read it, or its encoding is random: one text must have one encoding.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json" if path.is_dir() else path))
    except Exception as error:
        if type(error) is not Exception:  # that is all that `tokenizers` says of a file that it cannot read
            raise
        message = f"{path} is not a tokenizer.json: {error}"
        raise ValueError(message) from error
    lots = [f"model.{knob} {value:g}" for knob in DRAWN_BY if (value := getattr(tokenizer.model, knob, None))]
    if lots:
        message = f"{path} encodes at random ({lots[0]}), so one text would have other tokens each time; set it to null in that file"
        raise ValueError(message)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def byte_of_character() -> dict[str, int]:
    """Return GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for 256 and up, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def token_bytes(tokenizer: Tokenizer) -> TokenBytes:
    """Return the bytes of every token; those of an added one are its name's."""
    alphabet = byte_of_character()
    added = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    spelled = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for token, index in vocabulary.items():
        spelled[index] = token.encode() if token in added else bytes(alphabet[character] for character in token)
    offsets = np.concatenate([[0], np.cumsum([len(word) for word in spelled], dtype=np.int64)])
    return TokenBytes(offsets, np.frombuffer(b"".join(spelled), np.uint8))


def encode_texts(tokenizer: Tokenizer, texts: pa.Array | pa.ChunkedArray) -> Ragged:
    """Encode each text by itself, a bounded number of bytes at a time."""
    ids: list[NDArray[np.uint32]] = []
    for chunk in _chunks(texts):
        encodings = tokenizer.encode_batch_fast(chunk.to_pylist(), add_special_tokens=False)
        ids += [np.array(encoding.ids, np.uint32) for encoding in encodings]
    lengths = np.fromiter((len(row) for row in ids), np.int64, len(ids))
    values = np.concatenate(ids) if ids else np.zeros(0, np.uint32)
    return Ragged(values, np.concatenate([[0], np.cumsum(lengths)]))


def _chunks(texts: pa.Array | pa.ChunkedArray) -> Iterator[pa.Array | pa.ChunkedArray]:
    """Slice texts where their bytes, summed, pass a multiple of the bound."""
    offsets, _ = string_buffers(texts)
    borders = [0, *(np.flatnonzero(np.diff(offsets[:-1] // CHUNK_BYTES)) + 1).tolist(), len(texts)]
    for start, stop in pairwise(borders):
        yield texts.slice(start, stop - start)


def heads(spelled: TokenBytes) -> _Uint64s:
    """Return the first eight bytes of every token as a little-endian number, zeros after a shorter one: uint64 [vocab]."""
    starts, lengths = spelled.offsets[:-1], spelled.lengths
    padded, numbers = np.append(spelled.data, np.zeros(_HEAD_BYTES, np.uint8)), np.zeros(len(lengths), np.uint64)
    for place in range(_HEAD_BYTES):
        numbers |= np.where(lengths > place, padded[starts + place], 0).astype(np.uint64) << np.uint64(8 * place)
    return numbers


def first_misspelt(tokens: Ragged, spelled: TokenBytes, token_heads: _Uint64s, offsets: _Int64s, data: _Bytes) -> int:
    """Find the first list of tokens that does not spell its text, byte by byte; -1 if all do.

    Args:
        tokens: n lists.
        spelled: what tokens spell.
        token_heads: `heads(spelled)`.
        offsets: text i is `data[offsets[i]:offsets[i + 1]]`, int64 [n + 1].
        data: uint8.
    """
    return int(_first_misspelt(*tokens, *spelled, token_heads, _MASKS, offsets, data))


@njit(cache=True, nogil=True)
def _first_misspelt(
    values: _Tokens,
    lists: _Int64s,
    token_offsets: _Int64s,
    token_data: _Bytes,
    token_heads: _Uint64s,
    masks: _Uint64s,
    text_offsets: _Int64s,
    text_data: _Bytes,
) -> int:
    for row in range(len(lists) - 1):
        at, end = text_offsets[row], text_offsets[row + 1]
        for token in values[lists[row] : lists[row + 1]]:
            start, size = token_offsets[token], token_offsets[token + 1] - token_offsets[token]
            if at + size > end:
                return row
            if size <= _HEAD_BYTES and at + _HEAD_BYTES <= text_data.size:  # most are short: one comparison
                if (_eight_bytes(text_data, np.uint64(at)) ^ token_heads[token]) & masks[size]:
                    return row
            else:
                for place in range(size):
                    if text_data[at + place] != token_data[start + place]:
                        return row
            at += size
        if at != end:
            return row
    return -1


@njit(cache=True, nogil=True)
def _eight_bytes(data: _Bytes, at: np.uint64) -> np.uint64:
    """Read a little-endian number; the compiler makes one load of it."""
    low = np.uint64(data[at]) | np.uint64(data[at + np.uint64(1)]) << np.uint64(8) | np.uint64(data[at + np.uint64(2)]) << np.uint64(16)
    low |= np.uint64(data[at + np.uint64(3)]) << np.uint64(24) | np.uint64(data[at + np.uint64(4)]) << np.uint64(32)
    low |= np.uint64(data[at + np.uint64(5)]) << np.uint64(40) | np.uint64(data[at + np.uint64(6)]) << np.uint64(48)
    return low | np.uint64(data[at + np.uint64(7)]) << np.uint64(56)
