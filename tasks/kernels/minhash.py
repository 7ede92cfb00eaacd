"""MinHash signatures of texts, from bytes to `num_perm` minima without Python per document.

A text is split at every character outside `[A-Za-z_0-9]`, empty words kept; `ngram` consecutive words joined by a
space are a shingle (The Stack, StarCoder: bigcode-dataset near_deduplication/minhash_deduplication.py). A text of
fewer words than `ngram` is one shingle, its own bytes: identical short texts still unite, different ones do not
(upstream gave all of them one signature, so that only one short file of a language survived).

Guarantee: row i equals, bit for bit, `datasketch.MinHash(num_perm, seed, scheme="affine32", hashfunc=shingle_hash)`
after `update_batch(shingles(text_i, ngram))`, with datasketch 2; so any signature can be checked there, and its LSH
works on them. Agreeing positions of two rows estimate the Jaccard similarity of the shingle sets without bias, with
variance J (1 - J) / num_perm (Broder, "On the resemblance and containment of documents", 1997).
Cost: O(bytes + distinct shingles x num_perm) time; 4 x num_perm bytes a text and 100 KB of scratch, whatever the
length of a text. The GIL is released.

Words are hashed by FNV-1a (64 bit), shingles by a polynomial over their words' hashes modulo 2^64, finished by
MurmurHash3's fmix64 and cut to 32 bits: a function of the shingle alone, but with work once a word, not n times.
"""

import re

import numpy as np
from numba import njit
from numpy.typing import NDArray

_Bytes = NDArray[np.uint8]
_Int64s = NDArray[np.int64]
_Uint32s = NDArray[np.uint32]
_Uint64s = NDArray[np.uint64]

_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_POLYNOMIAL_BASE = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, as in splitmix64
_FMIX64_1, _FMIX64_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_FMIX32_1, _FMIX32_2 = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)
_LOW_32_BITS = np.uint64(0xFFFFFFFF)
_EMPTY = np.uint32(0xFFFFFFFF)
_SPACE = np.uint8(0x20)

_IS_WORD = np.array([chr(byte).isascii() and (chr(byte).isalnum() or byte == ord("_")) for byte in range(256)])
# A character is one separator however many bytes it has: the continuation bytes of UTF-8 end no further word.
_IS_CONTINUATION = np.array([byte in range(0x80, 0xC0) for byte in range(256)])
_ENDS_WORD = (~_IS_WORD & ~_IS_CONTINUATION).astype(np.uint8)

_BLOCK_BYTES = 2048  # of text at a time: every buffer of a block stays in the first-level cache
_NUM_RECENT = 2048


def shingles(text: str, ngram: int) -> list[bytes]:
    """Give the shingles of a text: the plain definition, to check a signature with datasketch."""
    words = re.split("[^A-Za-z_0-9]", text)
    if len(words) < ngram:
        return [text.encode()]
    return [" ".join(words[i : i + ngram]).encode() for i in range(len(words) - ngram + 1)]


def shingle_hash(shingle: bytes) -> int:
    """Give the 32-bit hash of a shingle: the plain definition, for datasketch's `hashfunc`."""
    total = 0
    for word in shingle.split(b" "):
        value = int(_FNV_OFFSET)
        for byte in word:
            value = (value ^ byte) * int(_FNV_PRIME) % 2**64
        total = (total * int(_POLYNOMIAL_BASE) + value) % 2**64
    for multiplier in (int(_FMIX64_1), int(_FMIX64_2)):
        total = (total ^ total >> 33) * multiplier % 2**64
    return (total ^ total >> 33) % 2**32


def permutations(num_perm: int, seed: int) -> tuple[_Uint32s, _Uint32s]:
    """Give datasketch's "affine32" permutations h -> a h + b mod 2^32: (a, b), uint32 [num_perm], a odd."""
    random = np.random.RandomState(seed)  # numpy froze this stream (NEP 19); datasketch draws from it
    odd = random.randint(0, 1 << 31, num_perm, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return odd, random.randint(0, 1 << 32, num_perm, dtype=np.uint32)


def sign_texts(offsets: _Int64s, data: _Bytes, *, num_perm: int, ngram: int, seed: int) -> tuple[_Uint32s, _Int64s]:
    """Sign n texts of UTF-8.

    Args:
        offsets: [n + 1]; text i is `data[offsets[i]:offsets[i + 1]]`.
        data: the bytes of all texts.
        num_perm: length of a signature.
        ngram: words in a shingle.
        seed: of the permutations.

    Returns:
        signatures, uint32 [n, num_perm], and the number of shingles of each text, repeated ones included, int64 [n].
    """
    multipliers, increments = permutations(num_perm, seed)
    signatures, num_shingles = _sign_texts(offsets, data, ngram, multipliers, increments)
    return signatures, num_shingles


@njit(cache=True, nogil=True)
def estimated_jaccard(signatures: _Uint32s, left: _Int64s, right: _Int64s) -> NDArray[np.float64]:
    """Estimate the Jaccard similarity of pairs of rows.

    Args:
        signatures: [n, num_perm].
        left: row number of one side of each pair, [pairs].
        right: row number of the other side, [pairs].

    Returns:
        The fraction of agreeing positions, float64 [pairs].
    """
    num_perm = signatures.shape[1]
    estimates = np.empty(left.size, np.float64)
    for pair in range(left.size):
        one, other = signatures[left[pair]], signatures[right[pair]]
        agreeing = 0
        for lane in range(num_perm):
            agreeing += one[lane] == other[lane]
        estimates[pair] = agreeing / num_perm
    return estimates


@njit(cache=True, nogil=True)
def _sign_texts(offsets: _Int64s, data: _Bytes, ngram: int, multipliers: _Uint32s, increments: _Uint32s) -> tuple[_Uint32s, _Int64s]:
    signatures = np.full((offsets.size - 1, multipliers.size), _EMPTY, np.uint32)
    num_shingles = np.zeros(offsets.size - 1, np.int64)
    words = np.empty(_BLOCK_BYTES + ngram + 1, np.uint64)
    sums = np.empty_like(words)
    hashes = np.empty(words.size, np.uint32)
    recent = np.empty(_NUM_RECENT, np.uint32)
    for text in range(offsets.size - 1):
        for slot in range(_NUM_RECENT):
            recent[slot] = slot ^ 1  # a hash that belongs into another slot: equal to none that is looked up here
        start, stop = offsets[text], offsets[text + 1]
        word, num_words = _FNV_OFFSET, 0
        while True:
            end = min(start + _BLOCK_BYTES, stop)
            word, num_words = _split_words(data[start:end], word, words, num_words)
            start = end
            if start == stop:
                words[num_words] = word
                num_words += 1
            if num_words >= ngram:
                found = _hash_shingles(words, num_words, ngram, sums, hashes)
                num_shingles[text] += found
                found = _drop_repeated(hashes, found, recent)
                _lower(signatures[text], hashes, found, multipliers, increments)
                words[: ngram - 1] = words[num_words - ngram + 1 : num_words]
                num_words = ngram - 1
            if start == stop:
                break
        if num_shingles[text] == 0:
            num_shingles[text] = 1
            hashes[0] = _hash_whole(data[offsets[text] : stop])
            _lower(signatures[text], hashes, 1, multipliers, increments)
    return signatures, num_shingles


@njit(cache=True, nogil=True)
def _split_words(text: _Bytes, word: np.uint64, words: _Uint64s, num_words: int) -> tuple[np.uint64, int]:
    """Append the hashes of the words that end in a piece of text; carry the open one, without a branch a byte."""
    for byte in text:
        words[num_words] = word
        num_words += _ENDS_WORD[byte]
        word = (word ^ np.uint64(byte)) * _FNV_PRIME if _IS_WORD[byte] else _FNV_OFFSET
    return word, num_words


@njit(cache=True, nogil=True)
def _hash_shingles(words: _Uint64s, num_words: int, ngram: int, sums: _Uint64s, hashes: _Uint32s) -> int:
    """Hash every run of `ngram` words; word by word of all shingles, as that is what vectorises."""
    found = num_words - ngram + 1
    for i in range(found):
        sums[i] = words[i]
    for j in range(1, ngram):
        for i in range(found):
            sums[i] = sums[i] * _POLYNOMIAL_BASE + words[i + j]
    for i in range(found):
        hashes[i] = _premix(_finish(sums[i]))
    return found


@njit(cache=True, nogil=True)
def _hash_whole(text: _Bytes) -> np.uint32:
    """Hash a text as one shingle; the words of a shingle are what lies between its spaces."""
    total, word = np.uint64(0), _FNV_OFFSET
    for byte in text:
        if byte == _SPACE:
            total = total * _POLYNOMIAL_BASE + word
            word = _FNV_OFFSET
        else:
            word = (word ^ np.uint64(byte)) * _FNV_PRIME
    return np.uint32(_premix(_finish(total * _POLYNOMIAL_BASE + word)))


@njit(cache=True, nogil=True)
def _finish(total: np.uint64) -> np.uint32:
    """Spread a sum over all its bits (fmix64 of MurmurHash3) and cut it to 32."""
    total = (total ^ (total >> np.uint64(33))) * _FMIX64_1
    total = (total ^ (total >> np.uint64(33))) * _FMIX64_2
    return np.uint32((total ^ (total >> np.uint64(33))) & _LOW_32_BITS)


@njit(cache=True, nogil=True)
def _premix(value: np.uint32) -> np.uint32:
    """Apply fmix32, as datasketch does once before its permutations."""
    # numba widens 32-bit arithmetic to 64 bits: each step is cut back, which also keeps the vectors narrow
    value = np.uint32((value ^ (value >> np.uint32(16))) * _FMIX32_1)
    value = np.uint32((value ^ (value >> np.uint32(13))) * _FMIX32_2)
    return np.uint32(value ^ (value >> np.uint32(16)))


@njit(cache=True, nogil=True)
def _drop_repeated(hashes: _Uint32s, found: int, recent: _Uint32s) -> int:
    """Compact hashes[:found] to those not met lately; a repeated shingle lowers no minimum, and most of code repeats."""
    num_kept = 0
    for i in range(found):
        value = hashes[i]
        slot = value & np.uint32(_NUM_RECENT - 1)
        hashes[num_kept] = value
        num_kept += recent[slot] != value
        recent[slot] = value
    return num_kept


@njit(cache=True, nogil=True)
def _lower(signature: _Uint32s, hashes: _Uint32s, found: int, multipliers: _Uint32s, increments: _Uint32s) -> None:
    """Lower a signature to the minima over hashes[:found], eight at a time so that a lane's parameters load once."""
    whole = found - found % 8
    for i in range(0, whole, 8):
        h0, h1, h2, h3 = hashes[i], hashes[i + 1], hashes[i + 2], hashes[i + 3]
        h4, h5, h6, h7 = hashes[i + 4], hashes[i + 5], hashes[i + 6], hashes[i + 7]
        for lane in range(signature.size):
            a, b = multipliers[lane], increments[lane]
            low = min(np.uint32(a * h0 + b), np.uint32(a * h1 + b), np.uint32(a * h2 + b), np.uint32(a * h3 + b))
            high = min(np.uint32(a * h4 + b), np.uint32(a * h5 + b), np.uint32(a * h6 + b), np.uint32(a * h7 + b))
            signature[lane] = min(signature[lane], low, high)
    for i in range(whole, found):
        for lane in range(signature.size):
            signature[lane] = min(signature[lane], np.uint32(multipliers[lane] * hashes[i] + increments[lane]))
