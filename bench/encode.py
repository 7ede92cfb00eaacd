"""Encoding documents with one tokenizer: the stage, `tokenizers` alone, and tiktoken with the same merges."""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

from bench._tool import Corpus, Tool, environment_corpus

TITLE = "encode documents as token ids, one core"
VOCAB_SIZE = 16_384
TRAINING_BYTES = 4_000_000

# GPT-2's pattern with digits apart, as one expression: white space before a digit is not split, as digits are cut off first.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"""


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder that goes with the process."""
    return tempfile.TemporaryDirectory(prefix="starloom-bench-tokenizer-")


@functools.cache
def tokenizer_folder() -> Path:
    """A tokenizer trained on some of the environment, the same for every tool; made in the warm-up."""
    from tasks._stage import Runtime
    from tasks.schemas import Docs
    from tasks.train_tokenizer import TrainTokenizer, train_tokenizer

    docs = Docs.of(environment_corpus(TRAINING_BYTES).table)
    path: Path = train_tokenizer.function(docs, TrainTokenizer(vocab_size=VOCAB_SIZE), Runtime.alone(Path(_scratch().name)))[0].path
    return path


def _ours(corpus: Corpus) -> object:
    """The whole stage, metadata drawn and every token checked against the text."""
    from tasks._stage import Runtime
    from tasks.encode import Encode, encode
    from tasks.schemas import Docs, Tokenizer

    folder = tokenizer_folder()
    return encode.function(Docs.of(corpus.table), Tokenizer.of(folder), Encode(), Runtime.alone(folder))


def _tokenizers(corpus: Corpus) -> object:
    """One call of its batch interface, ids left in its own objects."""
    from tokenizers import Tokenizer

    model = Tokenizer.from_file(str(tokenizer_folder() / "tokenizer.json"))
    model.encode_special_tokens = True
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return [len(encoding) for encoding in model.encode_batch_fast(corpus.texts, add_special_tokens=False)]


def _tiktoken(corpus: Corpus) -> object:
    """The same vocabulary and pattern in tiktoken."""
    import tiktoken
    from tokenizers import Tokenizer

    from tasks.kernels.byte_level import token_bytes
    from tasks.kernels.special_tokens import STARCODER

    spelled = token_bytes(Tokenizer.from_file(str(tokenizer_folder() / "tokenizer.json")))
    ranks = {spelled.data[spelled.offsets[i] : spelled.offsets[i + 1]].tobytes(): i for i in range(len(STARCODER), len(spelled.lengths))}
    encoding = tiktoken.Encoding("starloom", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
    return [len(ids) for ids in encoding.encode_ordinary_batch(corpus.texts, num_threads=1)]


TOOLS = [
    Tool("starloom", _ours, is_ours=True),
    Tool("tokenizers", _tokenizers),
    Tool("tiktoken", _tiktoken, requires=("tiktoken",)),
]
