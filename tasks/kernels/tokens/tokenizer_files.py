"""Tokenizers made elsewhere: checks that one can be used here, and the files that transformers reads beside a tokenizer.json.

Guarantee: with a tokenizer that `misfit` passes, tokens spell the bytes of a probe that the usual normalisers change;
what a single document needs beyond that, `encode` checks. The files' bytes depend on the special tokens alone.
Source of their fields: huggingface.co/docs/transformers, PreTrainedTokenizerFast.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from starloom.tasks.kernels.text.arrow_bytes import string_buffers
from starloom.tasks.kernels.tokens.byte_level import byte_of_character, encode_texts, first_misspelt, heads, token_bytes
from starloom.tasks.kernels.tokens.special_tokens import END_OF_TEXT, FIM_PAD

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tokenizers import Tokenizer

PROBE = "\ufeffe\u0301 \ufb01 \u2460 \uff8a\uff9f\u00a0 \u00bd 12\r\n\tIf  x<|endoftext|>"


def special_tokens(tokenizer: Tokenizer) -> list[str]:
    """Return the names of its special tokens, in order of their ids."""
    return [token.content for _, token in sorted(tokenizer.get_added_tokens_decoder().items()) if token.special]


def misfit(tokenizer: Tokenizer) -> str | None:
    """Return why a tokenizer could not encode any document byte for byte; None if it could."""
    alphabet, added = set(byte_of_character()), {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    words = tokenizer.get_vocab(with_added_tokens=False).keys() - added
    strange = sorted(word for word in words if not alphabet.issuperset(word))
    if strange:
        return f"is not a byte-level BPE: its token {strange[0]!r} is not written in bytes"
    if not words >= alphabet:
        return f"is not a byte-level BPE: {len(alphabet - words)} of the 256 bytes have no token"
    probe = pa.array([PROBE])
    spelled = token_bytes(tokenizer)
    is_misspelt = first_misspelt(encode_texts(tokenizer, probe), spelled, heads(spelled), *string_buffers(probe)) >= 0
    return f"changes text: the tokens of {PROBE!r} spell other bytes" if is_misspelt else None


def write_maps(names: Sequence[str], folder: Path) -> None:
    """Write tokenizer_config.json and special_tokens_map.json for special tokens in the order of their ids."""
    named = {**dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT), "pad_token": FIM_PAD}
    special: dict[str, Any] = {**named, "additional_special_tokens": [name for name in names if name not in named.values()]}
    config = {
        **special,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,  # it would eat spaces before punctuation
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    for name, content in (("special_tokens_map.json", special), ("tokenizer_config.json", config)):
        (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
