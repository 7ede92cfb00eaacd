"""A tokenizer opened to encode columns of text: by our kernel, or by `tokenizers` where that does not cover it.

Opening one takes a third of a second, and the kernel's cache is worth keeping: a process keeps the last two.
"""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from starloom.tasks.kernels.text.arrow_bytes import string_buffers
from starloom.tasks.kernels.tokens.byte_level import Ragged, TokenBytes, encode_texts, first_misspelt, heads, load, token_bytes
from starloom.tasks.kernels.tokens.byte_pairs import Encoder, not_covered

if TYPE_CHECKING:
    import pyarrow as pa
    from tokenizers import Tokenizer


class TextEncoder:
    """A tokenizer, what its tokens spell, and the fastest way to encode with it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.spelled: TokenBytes = token_bytes(tokenizer)
        self._heads = heads(self.spelled)
        self.not_covered = not_covered(tokenizer)
        """Why `tokenizers` encodes, many times slower; None where our kernel does."""
        self._kernel = None if self.not_covered else Encoder.of(tokenizer)

    def encode(self, texts: pa.Array | pa.ChunkedArray) -> Ragged:
        """Encode each text by itself; special tokens are never matched inside one."""
        if self._kernel is None:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # parts already keep every core busy; the ids are the same
            return encode_texts(self.tokenizer, texts)
        return self._kernel.encode(*string_buffers(texts))

    def first_misspelt(self, tokens: Ragged, texts: pa.Array | pa.ChunkedArray) -> int:
        """Find the first text that its tokens do not spell, byte by byte; -1 if they spell all."""
        return first_misspelt(tokens, self.spelled, self._heads, *string_buffers(texts))


def open_encoder(path: Path) -> TextEncoder:
    """Open a tokenizer.json, or the one of a folder.

    Raises:
        ValueError: if `tokenizers` cannot read it, or its encoding is random.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    return _opened(str(file), hashlib.sha256(file.read_bytes()).hexdigest())


@functools.lru_cache(maxsize=2)
def _opened(file: str, digest: str) -> TextEncoder:  # noqa: ARG001 - a file of other content is another tokenizer
    return TextEncoder(load(Path(file)))
