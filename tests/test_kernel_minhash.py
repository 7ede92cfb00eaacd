"""MinHash signatures against datasketch, and against the theory of their error."""

# ruff: noqa: RUF001 - letters that look alike are the point

from __future__ import annotations

import itertools
import re
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash
from hypothesis import example, given, settings
from hypothesis import strategies as st

from starloom.tasks.kernels.duplicates.minhash import (
    Words,
    estimated_jaccard,
    permutations,
    shingle_hash,
    shingle_sets,
    shingles,
    sign_texts,
)
from starloom.tasks.kernels.text.arrow_bytes import string_buffers
from tests.sizes import examples

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
    "İIıi",  # Turkish: the first is the one character with a lower case of two
    "ΟΔΟΣ ς",
    "e\u0301",  # a combining mark separates
    "\u200d👩",
    "\xa0",
    "²٣Ⅷ",
    "ẞȺ\u212a",  # lower cases of another length in UTF-8
    "\U0001e900\U0001e922",  # letters of four bytes, one the lower case of the other
    "\ufeff",
]
WORDS = st.sampled_from(["ascii", "unicode", "runs"])
TEXTS = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=80).map("".join))


def sign(texts, *, num_perm=256, ngram=5, seed=42, words="ascii") -> tuple[np.ndarray, np.ndarray]:
    return sign_texts(*string_buffers(pa.array(texts, pa.string())), num_perm=num_perm, ngram=ngram, seed=seed, words=words)


def by_datasketch(text: str, *, num_perm=256, ngram=5, seed=42, words="ascii") -> np.ndarray:
    sketch = MinHash(num_perm=num_perm, seed=seed, scheme="affine32", hashfunc=shingle_hash)
    sketch.update_batch(set(shingles(text, ngram, words)))
    return sketch.hashvalues


def sets(texts: list[str], *, ngram=5, words="ascii") -> list[list[int]]:
    starts, hashes = shingle_sets(*string_buffers(pa.array(texts, pa.string())), ngram=ngram, words=words)
    assert starts[0] == 0
    assert starts[-1] == len(hashes)
    return [hashes[start:end].tolist() for start, end in itertools.pairwise(starts)]


def whole_hash(shingle: bytes) -> int:
    """The hash of a shingle before it is cut to the 32 bits of `shingle_hash`."""
    total = 0
    for word in shingle.split(b" "):
        value = 0xCBF29CE484222325
        for byte in word:
            value = (value ^ byte) * 0x100000001B3 % 2**64
        total = (total * 0x9E3779B97F4A7C15 + value) % 2**64
    total = (total ^ total >> 33) * 0xFF51AFD7ED558CCD % 2**64
    total = (total ^ total >> 33) * 0xC4CEB9FE1A85EC53 % 2**64
    return total ^ total >> 33


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
        ("a é,b c", [b"a  ", b"  b", b" b c"]),  # one separator a character; the empty words between them stay
        ("a\r\nb c", [b"a  b", b" b c"]),
        ("", [b""]),
        ("x+y", [b"x+y"]),  # too short: its own bytes
        ("x++y", [b"\0x++y"]),  # empty words do not make it longer
        ("日本 a b c", [b"  ", b"  a", b" a b", b"a b c"]),
        ("日本語語 a b c", ["日本語語 a b c".encode()]),  # mostly of another script: its own bytes
    ],
)
def test_shingles_are_runs_of_words_with_empty_ones_kept(text: str, expected: list[bytes]) -> None:
    assert shingles(text, 2 if text == "a b" else 3) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A b", [b"a b"]),
        ("ÉA.Ⅷ日本", ["éa ⅷ日本".encode()]),
        ("a\xa0b_²", ["a b_²".encode()]),
        ("ΟΔΟΣ ΣΑΣ", ["οδοσ σασ".encode()]),  # no final sigma
        ("İ ıI", ["İ ıi".encode()]),
        ("e\u0301A", [b"e a"]),
        ("👩\u200d👩", ["\0👩\u200d👩".encode()]),  # no word at all
        ("日本 a語 👩", ["日本 a語".encode(), "a語 ".encode(), b" "]),
        ("İI", ["İI".encode()]),  # too short: its own bytes, not lowered
    ],
)
def test_unicode_words_are_lowered_and_end_where_python_says(text: str, expected: list[bytes]) -> None:
    assert shingles(text, 2, "unicode") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a.b-+c d", [b"a b c", b"b c d"]), ("a +- b", [b"a +- b"]), ("日本語語語 a b c", ["日本語語語 a b c".encode()]), ("", [b""])],
)
def test_runs_are_words_without_the_empty_ones(text: str, expected: list[bytes]) -> None:
    assert shingles(text, 3, "runs") == expected


@given(text=TEXTS, ngram=st.integers(1, 4))
@example(text="ΟΔΟΣ İI ẞ", ngram=1)
def test_unicode_shingles_are_those_of_the_stack_v2_but_for_two_letters(text: str, ngram: int) -> None:
    text = text.replace("İ", "").replace("Σ", "") + " of some words" * 2
    upstream = [" ".join(run).encode() for run in zip(*(re.split(r"\W", text.lower())[i:] for i in range(ngram)), strict=False)]
    assert shingles(text, ngram, "unicode") == upstream


@given(texts=st.lists(TEXTS, max_size=5), num_perm=st.integers(1, 40), ngram=st.integers(1, 9), seed=st.integers(0, 2**32 - 1), words=WORDS)
@example(texts=["", "a", "a b c d", "a b c d e", "a b c d e f"], num_perm=256, ngram=5, seed=42, words="ascii")
@example(texts=["", "日", "日日a b c d e", "日" * 6 + "a b c d e", "+" * 9, "a++b c d"], num_perm=8, ngram=5, seed=42, words="ascii")
@example(texts=["", "日", "日日a b c d e", "日" * 6 + "a b c d e", "+" * 9, "a++b c d e"], num_perm=8, ngram=5, seed=42, words="runs")
@example(texts=["", "É", "A B C D", "İ b\xa0c é e", "Σ Σ 日本 \U0001e900 Ⅷ ẞ"], num_perm=256, ngram=5, seed=42, words="unicode")
@settings(deadline=None)
def test_signatures_are_those_of_datasketch(texts: list[str], num_perm: int, ngram: int, seed: int, words: Words) -> None:
    signatures, num_shingles = sign(texts, num_perm=num_perm, ngram=ngram, seed=seed, words=words)
    assert signatures.shape == (len(texts), num_perm)
    for text, signature, count in zip(texts, signatures, num_shingles, strict=True):
        np.testing.assert_array_equal(signature, by_datasketch(text, num_perm=num_perm, ngram=ngram, seed=seed, words=words))
        assert count == len(shingles(text, ngram, words))


@given(texts=st.lists(TEXTS, max_size=5), ngram=st.integers(1, 9), words=WORDS)
@example(texts=["a b a b a b a b", "", "a"], ngram=2, words="ascii")
@settings(deadline=None)
def test_sets_hold_each_shingle_once_in_order(texts: list[str], ngram: int, words: Words) -> None:
    expected = [sorted({whole_hash(shingle) for shingle in shingles(text, ngram, words)}) for text in texts]
    assert sets(texts, ngram=ngram, words=words) == expected


def test_the_hash_of_a_shingle_is_the_end_of_that_in_its_set() -> None:
    assert shingle_hash(b"foo  bar") == whole_hash(b"foo  bar") % 2**32


@pytest.mark.parametrize("words", ["ascii", "unicode", "runs"])
@pytest.mark.parametrize("size", [2046, 2047, 2048, 2049, 4096, 6143])
@pytest.mark.parametrize("piece", ["x", "+", "ab ", "é", "É日\U0001e900", "𝔘 ", "word1 word2(word3)\r\n"])
def test_blocks_of_a_long_text_join_without_a_seam(size: int, piece: str, words: Words) -> None:
    text = (piece * size)[:size] + " end of it all now"
    np.testing.assert_array_equal(sign([text], num_perm=16, words=words)[0][0], by_datasketch(text, num_perm=16, words=words))
    assert sets([text], words=words) == [sorted({whole_hash(shingle) for shingle in shingles(text, 5, words)})]


@given(filler=st.integers(1950, 2050), texts=st.lists(TEXTS, min_size=1, max_size=6), words=WORDS)
@settings(deadline=None, max_examples=examples(60))
def test_what_lies_across_the_end_of_a_block_is_read_whole(filler: int, texts: list[str], words: Words) -> None:
    text = "+" * filler + "".join(texts) * 3 + " z" * 9
    assert sets([text], words=words, ngram=3) == [sorted({whole_hash(shingle) for shingle in shingles(text, 3, words)})]


@pytest.mark.slow
@pytest.mark.parametrize("words", ["ascii", "unicode"])
def test_real_files_are_signed_like_datasketch_signs_them(words: Words) -> None:
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[::6]
    texts = [path.read_text(encoding="utf-8")[:20_000] for path in paths]
    assert len(texts) > 10
    signatures, _ = sign(texts, words=words)
    for text, signature, found in zip(texts, signatures, sets(texts, words=words), strict=True):
        np.testing.assert_array_equal(signature, by_datasketch(text, words=words))
        assert found == sorted({whole_hash(shingle) for shingle in shingles(text, 5, words)})


@given(
    texts=st.lists(
        st.binary(max_size=40) | st.sampled_from([b"\xf0", b"\xe6\x97", b"\xff" * 9, b"\xc3A", b"x y \xf0\x90\x90", b"\x80" * 2050]),
        max_size=5,
    )
)
@example(texts=[b"x y \xf0\x90\x90"])
@example(texts=[b"x y \xe6\x97", b"\xa5 z"])
@settings(deadline=None)
def test_what_is_no_utf_8_harms_nobody_else(texts: list[bytes]) -> None:
    """The bytes after a text are another's: a character that is cut off must not take them."""
    for words in ("ascii", "unicode", "runs"):
        options: dict[str, Any] = {"num_perm": 4, "ngram": 2, "seed": 42, "words": words}
        together, _ = sign_texts(*string_buffers(pa.array([*texts, b"a b c d"], pa.binary())), **options)
        for text, signature in zip([*texts, b"a b c d"], together, strict=True):
            alone, _ = sign_texts(*string_buffers(pa.array([text], pa.binary())), **options)
            np.testing.assert_array_equal(signature, alone[0])
        shingle_sets(*string_buffers(pa.array(texts, pa.binary())), ngram=2, words=words)


def test_hashes_that_are_not_spread_are_sorted_all_the_same() -> None:
    """Alternating shingles of one slot of memory fill one bucket; as many as there are, the set holds each once."""
    slots: dict[int, int] = {}
    for i in itertools.count():
        other = slots.setdefault(whole_hash(b"w%d" % i) % 2048, i)
        if other != i:
            break
    assert sets([f"w{i} w{other} " * 500], ngram=1) == [sorted(whole_hash(word) for word in (b"", b"w%d" % i, b"w%d" % other))]


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


@pytest.mark.slow
@pytest.mark.parametrize("words", ["ascii", "unicode"])
@pytest.mark.parametrize("text", ["x" * 1_000_000, "\0" * 1_000_000, "\r\n" * 500_000, "\u202eé" * 200_000, "日" * 300_000])
def test_a_monstrous_line_is_signed(text: str, words: Words) -> None:
    signatures, num_shingles = sign([text, "a b c d e f"], num_perm=8, words=words)
    np.testing.assert_array_equal(signatures[0], by_datasketch(text, num_perm=8, words=words))
    np.testing.assert_array_equal(signatures[1], by_datasketch("a b c d e f", num_perm=8))
    assert num_shingles[0] == len(shingles(text, 5, words))
    assert list(map(len, sets([text, "a b c d e f"], words=words))) == [len(set(shingles(text, 5, words))), 2]


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


@pytest.mark.parametrize("words", ["ascii", "unicode"])
@pytest.mark.parametrize("jaccard", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_the_error_of_an_estimate_is_what_theory_says(jaccard: float, words: Words) -> None:
    size, num_pairs, num_perm = 400, 400, 256
    shared = round(jaccard * size)
    only = (size - shared) // 2
    texts = []
    for pair in range(num_pairs):  # 1-grams: the set of words is the set of shingles
        common = [f"c{pair}_{i}" if words == "ascii" else f"日É{pair}_{i}" for i in range(shared)]
        texts += [" ".join(common + [f"{side}{pair}_{i}" for i in range(only)]) for side in "lr"]
    signatures, _ = sign(texts, num_perm=num_perm, ngram=1, words=words)
    assert list(map(len, sets(texts, ngram=1, words=words))) == [shared + only] * len(texts)
    evens = np.arange(0, 2 * num_pairs, 2)
    estimates = estimated_jaccard(signatures, evens, evens + 1)
    exact = shared / (shared + 2 * only)
    variance = exact * (1 - exact) / num_perm
    assert abs(estimates.mean() - exact) < 4 * (variance / num_pairs) ** 0.5
    # Sets are finite: sampling their members without replacement lowers the variance a little.
    assert 0.7 < estimates.var() / variance < 1.3
