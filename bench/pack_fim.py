"""Fill-in-the-middle and packing of encoded documents: the stage, and the plain method of Megatron-LM.

Speed is bytes of content; divide by the bytes a token (about three) for tokens.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from bench._tool import Corpus, Tool
from bench.encode import tokenizer_folder

if TYPE_CHECKING:
    from numpy.random import RandomState
    from tokenizers import Tokenizer

    from tasks.schemas import Tokens

TITLE = "fill-in-the-middle at rate 0.5 and packing, one core"
SEQUENCE_LENGTH = 2048
RATE = 0.5

_encoded: dict[int, Tokens] = {}


def _tokens(corpus: Corpus) -> Tokens:
    """The corpus as token ids; encoded in the first round, so that the best round is without."""
    from tasks._stage import Runtime
    from tasks.encode import Encode, encode
    from tasks.schemas import Docs, Tokenizer

    if corpus.num_bytes not in _encoded:
        folder = tokenizer_folder()
        _encoded[corpus.num_bytes] = encode.function(Docs.of(corpus.table), Tokenizer.of(folder), Encode(), Runtime.alone(folder))
    return _encoded[corpus.num_bytes]


def _ours(corpus: Corpus) -> object:
    """The whole stage, spans included."""
    from tasks._stage import Runtime
    from tasks.pack_fim import PackFim, pack_fim
    from tasks.schemas import Tokenizer

    folder = tokenizer_folder()
    config = PackFim(sequence_length=SEQUENCE_LENGTH, fim_rate=RATE)
    return pack_fim.function(_tokens(corpus), Tokenizer.of(folder), config, Runtime.alone(folder))


@functools.cache
def _id_lists(num_bytes: int) -> list[list[int]]:
    """The token ids as lists, which the plain method starts from."""
    ids: list[list[int]] = _encoded[num_bytes].read().column("tokens").to_pylist()
    return ids


def _plain(corpus: Corpus) -> object:
    """Decode each chosen document, cut its text, encode three pieces, and concatenate; keeps no origins."""
    import numpy as np
    from tokenizers import Tokenizer

    _tokens(corpus)
    model = Tokenizer.from_file(str(tokenizer_folder() / "tokenizer.json"))
    model.encode_special_tokens = True
    random = np.random.RandomState(0)
    stream: list[int] = []
    for ids in _id_lists(corpus.num_bytes):
        stream += _permuted(ids, model, random) if random.binomial(1, RATE) else ids
        stream.append(0)
    return np.array(stream[: len(stream) // SEQUENCE_LENGTH * SEQUENCE_LENGTH], np.uint16).reshape(-1, SEQUENCE_LENGTH)


def _permuted(ids: list[int], model: Tokenizer, random: RandomState) -> list[int]:
    """One document in the order of PSM or of the second variant of SPM."""
    text = model.decode(ids, skip_special_tokens=False)
    low, high = sorted(random.randint(0, len(text) + 1, 2).tolist())
    prefix, middle, suffix = (model.encode(piece).ids for piece in (text[:low], text[low:high], text[high:]))
    if random.binomial(1, 0.5):
        return [1, 3, *suffix, 2, *prefix, *middle]
    return [1, *prefix, 3, *suffix, 2, *middle]


TOOLS = [Tool("starloom", _ours, is_ours=True), Tool("plain (Megatron-LM)", _plain)]
