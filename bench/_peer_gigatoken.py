"""gigatoken's batch interface on one thread, which returns one array of all ids; its tokenizer is read from tokenizer.json.

Special tokens are left out of that file, for it would match them inside text and cannot be told not to.
It keeps pre-tokens that it has met: `cold` takes a tokenizer for each round that has met none, opened beforehand.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

ROUNDS = 3
LOADED: dict[str, tuple[list[Any], list[Any]]] = {}
"""By folder: texts, and tokenizers that are not used yet."""


def run(
    *, step: Literal["load", "encode"], folder: str, scratch: str, wants_ids: bool, kind: Literal["bytes", "str"], cold: bool
) -> object:
    """Make ready, or encode; the ids of each text, where they are wanted."""
    del scratch
    os.environ["RAYON_NUM_THREADS"] = "1"
    import gigatoken  # type: ignore[import-not-found,unused-ignore]

    if step == "load":
        file = Path(folder, "tokenizer.json")
        file.write_text(json.dumps(json.loads(file.read_text()) | {"added_tokens": []}))
        texts = json.loads(Path(folder, "texts.json").read_text())
        tokenizers = [gigatoken.Tokenizer(file) for _ in range(ROUNDS if cold else 1)]
        LOADED.clear()
        LOADED[folder] = ([text.encode() for text in texts] if kind == "bytes" else texts, tokenizers)
        return None
    texts, tokenizers = LOADED[folder]
    tokenizer = tokenizers.pop() if cold else tokenizers[0]
    encoded = tokenizer.encode_batch(texts, parallel=False)
    return encoded.tolist() if wants_ids else None
