"""MinHash signatures against datasketch, and against the theory of their error."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tasks.kernels.arrow_bytes import string_buffers
from tasks.kernels.minhash import estimated_jaccard, permutations, shingle_hash, shingles, sign_texts

PIECES = [
    "",
    "a",
    "Ab_9",
    "foo",
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\0",
    ".",
    "+-",
    "é",
    "日本",
    "\U0001d518",
    "\u202e",
    "x" * 70,
    "a b c d e f",
]
TEXTS = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=80).map("".join))


def sign(texts: list[str], *, num_perm: int = 256, ngram: int = 5, seed: int = 42) -> tuple[np.ndarray, np.ndarray]:
    return sign_texts(*string_buffers(pa.array(texts, pa.string())), num_perm=num_perm, ngram=ngram, seed=seed)


def by_datasketch(text: str, *, num_perm: int = 256, ngram: int = 5, seed: int = 42) -> np.ndarray:
    sketch = MinHash(num_perm=num_perm, seed=seed, scheme="affine32", hashfunc=shingle_hash)
    sketch.update_batch(set(shingles(text, ngram)))
    return sketch.hashvalues


def test_a_word_is_hashed_by_fnv_1a_and_a_shingle_by_its_words() -> None:
    def finished(total: int) -> int:
        total ^= total >> 33
        total = total * 0xFF51AFD7ED558CCD % 2**64
        total ^= total >> 33
        total = total * 0xC4CEB9FE1A85EC53 % 2**64
        return (total ^ total >> 33) & 0xFFFFFFFF

    # The vectors of the FNV reference: "", "a", "foobar".
    empty, a, foobar = 0xCBF29CE484222325, 0xAF63DC4C8601EC8C, 0x85944171F73967E8
    base = 0x9E3779B97F4A7C15
    assert shingle_hash(b"foobar") == finished(foobar)
    assert shingle_hash(b"a  foobar") == finished((a * base**2 + empty * base + foobar) % 2**64)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b", [b"a b"]),
        ("a.b-c", [b"a b c"]),
        ("a é,b", [b"a  ", b"  b"]),  # one separator a character; the empty words between them stay
        ("a\r\nb", [b"a  b"]),
        ("", [b""]),
        ("x+y", [b"x+y"]),  # too short: its own bytes
    ],
)
def test_shingles_are_runs_of_words_with_empty_ones_kept(text: str, expected: list[bytes]) -> None:
    assert shingles(text, 2 if text == "a b" else 3) == expected


@given(texts=st.lists(TEXTS, max_size=5), num_perm=st.integers(1, 40), ngram=st.integers(1, 9), seed=st.integers(0, 2**32 - 1))
@example(texts=["", "a", "a b c d", "a b c d e", "a b c d e f"], num_perm=256, ngram=5, seed=42)
@settings(deadline=None)
def test_signatures_are_those_of_datasketch(texts: list[str], num_perm: int, ngram: int, seed: int) -> None:
    signatures, num_shingles = sign(texts, num_perm=num_perm, ngram=ngram, seed=seed)
    assert signatures.shape == (len(texts), num_perm)
    for text, signature, count in zip(texts, signatures, num_shingles, strict=True):
        np.testing.assert_array_equal(signature, by_datasketch(text, num_perm=num_perm, ngram=ngram, seed=seed))
        assert count == max(1, len(re.split("[^A-Za-z_0-9]", text)) - ngram + 1)


@pytest.mark.parametrize("size", [2047, 2048, 2049, 4096, 6143])
@pytest.mark.parametrize("piece", ["x", "+", "ab ", "é", "word1 word2(word3)\r\n"])
def test_blocks_of_a_long_text_join_without_a_seam(size: int, piece: str) -> None:
    text = (piece * size)[:size] + " end of it all now"
    np.testing.assert_array_equal(sign([text], num_perm=16)[0][0], by_datasketch(text, num_perm=16))


def test_real_files_are_signed_like_datasketch_signs_them() -> None:
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[::6]
    texts = [path.read_text(encoding="utf-8")[:20_000] for path in paths]
    assert len(texts) > 10
    signatures, _ = sign(texts)
    for text, signature in zip(texts, signatures, strict=True):
        np.testing.assert_array_equal(signature, by_datasketch(text))


@given(texts=st.lists(TEXTS, min_size=1, max_size=8))
@settings(deadline=None)
def test_a_signature_does_not_depend_on_the_texts_around_it(texts: list[str]) -> None:
    together, counts = sign(texts, num_perm=32)
    for i, text in enumerate(texts):
        alone, count = sign([text], num_perm=32)
        np.testing.assert_array_equal(together[i], alone[0])
        assert counts[i] == count[0]


def test_short_texts_unite_only_with_their_copies() -> None:
    texts = ["", "{}\n", "[]\n", "a", "b", "a b", "a.b", "a b c d", "a"]
    signatures, _ = sign(texts)
    assert len({signature.tobytes() for signature in signatures}) == len(set(texts))
    np.testing.assert_array_equal(signatures[3], signatures[8])


@pytest.mark.parametrize("text", ["x" * 1_000_000, "\0" * 1_000_000, "\r\n" * 500_000, "\u202eé" * 200_000])
def test_a_monstrous_line_is_signed(text: str) -> None:
    signatures, num_shingles = sign([text, "a b c d e f"], num_perm=8)
    np.testing.assert_array_equal(signatures[0], by_datasketch(text, num_perm=8))
    np.testing.assert_array_equal(signatures[1], by_datasketch("a b c d e f", num_perm=8))
    assert num_shingles[0] == max(1, len(re.split("[^A-Za-z_0-9]", text)) - 4)


@given(num_perm=st.integers(1, 300), seed=st.integers(0, 2**32 - 1))
def test_permutations_are_those_of_datasketch(num_perm: int, seed: int) -> None:
    expected = MinHash(num_perm=num_perm, seed=seed, scheme="affine32").permutations
    np.testing.assert_array_equal(np.array(permutations(num_perm, seed)), expected)


@given(left=TEXTS, right=TEXTS)
@settings(deadline=None)
def test_estimates_are_those_of_datasketch(left: str, right: str) -> None:
    signatures, _ = sign([left, right], ngram=1)
    sketches = [MinHash(scheme="affine32", seed=42, hashvalues=signature) for signature in signatures]
    (estimate,) = estimated_jaccard(signatures, np.array([0]), np.array([1]))
    assert estimate == sketches[0].jaccard(sketches[1])


@pytest.mark.parametrize("jaccard", [0.1, 0.5, 0.7, 0.9])
def test_the_error_of_an_estimate_is_what_theory_says(jaccard: float) -> None:
    size, num_pairs, num_perm = 400, 400, 256
    shared = round(jaccard * size)
    only = (size - shared) // 2
    texts = []
    for pair in range(num_pairs):  # 1-grams: the set of words is the set of shingles
        common = [f"c{pair}_{i}" for i in range(shared)]
        texts += [" ".join(common + [f"{side}{pair}_{i}" for i in range(only)]) for side in "lr"]
    signatures, _ = sign(texts, num_perm=num_perm, ngram=1)
    evens = np.arange(0, 2 * num_pairs, 2)
    estimates = estimated_jaccard(signatures, evens, evens + 1)
    exact = shared / (shared + 2 * only)
    variance = exact * (1 - exact) / num_perm
    assert abs(estimates.mean() - exact) < 4 * (variance / num_pairs) ** 0.5
    # Sets are finite: sampling their members without replacement lowers the variance a little.
    assert 0.7 < estimates.var() / variance < 1.3
