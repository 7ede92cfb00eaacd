"""MinHash signatures on one core: 256 permutations over 5-grams, from texts, and over shingles that are there already."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

from starloom.bench._tool import Corpus, Tool
from starloom.bench.near_dedup import NGRAM, NUM_PERM, SEED, shingle_list

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

TITLE = "MinHash signatures, one core"


def _ours(corpus: Corpus, words: Literal["ascii", "unicode"] = "ascii") -> NDArray[np.uint32]:
    from starloom.tasks.kernels.duplicates.minhash import sign_texts
    from starloom.tasks.kernels.text.arrow_bytes import string_buffers

    offsets, data = string_buffers(corpus.table.column("content"))
    return sign_texts(offsets, data, num_perm=NUM_PERM, ngram=NGRAM, seed=SEED, words=words)[0]


def _ours_unicode(corpus: Corpus) -> NDArray[np.uint32]:
    return _ours(corpus, words="unicode")


def _lists(corpus: Corpus, _folder: Path) -> list[list[str]]:
    return [shingle_list(text) for text in corpus.texts]


def _sets(corpus: Corpus, _folder: Path) -> list[set[bytes]]:
    return [{shingle.encode() for shingle in shingle_list(text)} for text in corpus.texts]


def _datasketch(sets: Any) -> object:
    from datasketch import MinHash

    return MinHash.bulk(sets, num_perm=NUM_PERM, seed=SEED)


def _datasketch_xxh32(sets: Any) -> object:
    from datasketch import MinHash
    from xxhash import xxh32_intdigest

    return MinHash.bulk(sets, num_perm=NUM_PERM, seed=SEED, hashfunc=xxh32_intdigest)


def _rensa(lists: Any) -> object:
    os.environ["RAYON_NUM_THREADS"] = "1"  # read when rensa starts its pool; this process runs nothing else
    from rensa import RMinHash

    return RMinHash.digest_matrix_from_token_sets(lists, NUM_PERM, SEED)


def _rensa_from_texts(corpus: Corpus) -> object:
    return _rensa(shingle_list(text) for text in corpus.texts)


def _datasketch_from_texts(corpus: Corpus) -> object:
    return _datasketch_xxh32({shingle.encode() for shingle in shingle_list(text)} for text in corpus.texts)


TOOLS = [
    Tool("starloom, from bytes", _ours, is_ours=True),
    Tool("starloom, Unicode words", _ours_unicode),
    Tool("rensa, shingles ready", _rensa, requires=("rensa",), prepare=_lists),
    Tool("rensa, from texts", _rensa_from_texts, requires=("rensa",)),
    Tool("datasketch, shingles ready, sha1", _datasketch, requires=("datasketch",), prepare=_sets),
    Tool("datasketch, shingles ready, xxh32", _datasketch_xxh32, requires=("datasketch", "xxhash"), prepare=_sets),
    Tool("datasketch, from texts, xxh32", _datasketch_from_texts, requires=("datasketch", "xxhash")),
]
