"""Near-deduplication, from texts to verdicts on one core: 5-grams, 256 permutations, Jaccard 0.7, one language."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench._tool import Corpus, Tool

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

TITLE = "near-duplicates by MinHash and LSH, one core"

THRESHOLD, NUM_PERM, NGRAM, SEED = 0.7, 256, 5, 42
RENSA_BANDS = 32
"""rensa's best setting: it has no optimum of its own."""


def _ours(corpus: Corpus, verify: Literal["none", "estimated"] = "none") -> object:
    """Signatures and decision, through the stage."""
    from tasks._stage import Runtime
    from tasks.near_dedup import NearDedup, near_dedup, signatures
    from tasks.schemas import Docs

    docs = Docs.of(corpus.table)
    cfg = NearDedup(threshold=THRESHOLD, num_perm=NUM_PERM, ngram=NGRAM, seed=SEED, scope="global", verify=verify)
    with tempfile.TemporaryDirectory() as folder:
        runtime = Runtime.alone(Path(folder, "scratch"))
        signed = signatures.function(docs, near_dedup.prepared_config(cfg), runtime)
        return near_dedup.function(docs, signed, cfg, runtime)


def _ours_verified(corpus: Corpus) -> object:
    return _ours(corpus, verify="estimated")


def _our_signatures(corpus: Corpus) -> NDArray[np.uint32]:
    """From bytes to signatures, and no further."""
    from tasks.kernels.arrow_bytes import string_buffers
    from tasks.kernels.minhash import sign_texts

    offsets, data = string_buffers(corpus.table.column("content"))
    return sign_texts(offsets, data, num_perm=NUM_PERM, ngram=NGRAM, seed=SEED)[0]


def _shingles(corpus: Corpus) -> Iterator[set[bytes]]:
    """Shingles as every peer needs them: made in Python (bigcode-dataset, minhash_deduplication.py), the fastest way we know."""
    separator = re.compile(rb"[^A-Za-z_0-9]")
    for text in corpus.texts:
        words = separator.split(text.encode())
        yield set(map(b" ".join, zip(*(words[i:] for i in range(NGRAM)), strict=False))) or {text.encode()}


def _datasketch(corpus: Corpus) -> object:
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=THRESHOLD, num_perm=NUM_PERM)
    collisions = []
    for row, sketch in enumerate(MinHash.generator(_shingles(corpus), num_perm=NUM_PERM, seed=SEED)):
        collisions.append(index.query(sketch))
        index.insert(row, sketch)
    return collisions


def _rensa(corpus: Corpus) -> object:
    os.environ["RAYON_NUM_THREADS"] = "1"  # read when rensa starts its pool; this process runs nothing else
    from rensa import RMinHash, RMinHashLSH

    matrix = RMinHash.digest_matrix_from_token_byte_sets(_shingles(corpus), NUM_PERM, SEED)
    index = RMinHashLSH(threshold=THRESHOLD, num_perm=NUM_PERM, num_bands=RENSA_BANDS)
    return index.query_duplicate_flags_matrix_one_shot(matrix)


TOOLS = [
    Tool("starloom", _ours, is_ours=True),
    Tool("starloom, verify: estimated", _ours_verified),
    Tool("starloom, signatures only", _our_signatures),
    Tool("datasketch, batches and LSH", _datasketch, requires=("datasketch",)),
    Tool(f"rensa, {RENSA_BANDS} bands", _rensa, requires=("rensa",)),
]
