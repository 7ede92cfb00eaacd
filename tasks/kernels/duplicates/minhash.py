r"""MinHash signatures and shingle sets of texts, from bytes without Python per document.

Words are "ascii" (The Stack, StarCoder: bigcode-dataset near_deduplication/minhash_deduplication.py), where every
character outside `[A-Za-z_0-9]` separates, or "unicode" (The Stack v2: bigcode-v2/intra_dedup.py), where the text is
lower-cased first and every character that Python's `\W` matches separates. Between two separators lies an empty word,
and empty words are kept: so it was published. "runs" are those of "ascii" without the empty ones. `ngram` consecutive
words joined by a space are a shingle. Lower case is taken character by character, see `unicode_words.lower_case`.

A text whose words say too little is one shingle, its own bytes: it resembles its copies and nothing else. That is a
text of fewer words than `ngram`, empty ones not counted, and without "unicode" a text that has more characters beyond
ASCII than ASCII letters, digits and underscores. Upstream gives all short texts one signature, and all texts of another
script one shingle, of empty words: of each language one such file survives it.

Guarantee: row i equals, bit for bit, `datasketch.MinHash(num_perm, seed, scheme="affine32", hashfunc=shingle_hash)`
after `update_batch(shingles(text_i, ngram, words))`, with datasketch 2; so any signature can be checked there, and its
LSH works on them. Agreeing positions of two rows estimate the Jaccard similarity of the shingle sets without bias, with
variance J (1 - J) / num_perm (Broder, "On the resemblance and containment of documents", 1997). Bytes that are no
UTF-8 separate words.
Cost: O(bytes + distinct shingles x num_perm) time; 4 x num_perm bytes a text and 70 KB of scratch, whatever the
length of a text; 2 ns a byte of Python source at 256 permutations (one core of an EPYC 9005). The GIL is released.

Words are hashed by FNV-1a (64 bit), shingles by a polynomial over their words' hashes modulo 2^64, finished by
MurmurHash3's fmix64 and, for signatures, cut to 32 bits: a function of the shingle alone, but with work once a word,
not n times.
"""

# ruff: noqa: PLR2004 - the numbers are UTF-8's bounds and masks

import re
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from starloom.tasks.kernels.compiled import njit
from starloom.tasks.kernels.text.unicode_words import lower_case, word_characters

Words = Literal["ascii", "unicode", "runs"]

_Bytes = NDArray[np.uint8]
_Int64s = NDArray[np.int64]
_Uint32s = NDArray[np.uint32]
_Uint64s = NDArray[np.uint64]

_FNV_OFFSET = np.uint64(0xCBF29CE484222325)  # FNV-1a, 64 bits; so this is also the hash of an empty word
_FNV_PRIME = np.uint64(0x100000001B3)
_POLYNOMIAL_BASE = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, as in splitmix64
_FMIX64_1, _FMIX64_2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)
_FMIX32_1, _FMIX32_2 = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)
_LOW_32_BITS = np.uint64(0xFFFFFFFF)
_EMPTY = np.uint32(0xFFFFFFFF)  # the identity of min: a signature of nothing yet
_SPACE = np.uint8(0x20)

# Of each byte: what is hashed of it, whether it belongs to a word, whether it ends one. A character is one separator
# however many bytes it has: the continuation bytes of UTF-8 do neither. "unicode" decodes what is beyond ASCII.
_IS_WORD = [chr(byte).isascii() and (chr(byte).isalnum() or byte == ord("_")) for byte in range(256)]
_ENDS_WORD = [not _IS_WORD[byte] and byte not in range(0x80, 0xC0) for byte in range(256)]
_ALPHABETS = {
    "ascii": np.array([range(256), _IS_WORD, _ENDS_WORD], np.uint8),
    "unicode": np.array([[*bytes(range(256)).lower()], _IS_WORD, _ENDS_WORD], np.uint8),
}
_ALPHABETS["runs"] = _ALPHABETS["ascii"]

_BLOCK_BYTES = 2048  # of text at a time: every buffer of a block stays in the first-level cache
_NUM_RECENT = 2048
_MOST_IN_BUCKET = 64


def shingles(text: str, ngram: int, words: Words = "ascii") -> list[bytes]:
    """Return the shingles of a text: the plain definition, to check a signature with datasketch."""
    split = re.split(r"\W", lower_case(text)) if words == "unicode" else re.split("[^A-Za-z_0-9]", text)
    if words == "runs":
        split = [word for word in split if word]
    num_foreign = 0 if words == "unicode" else sum(not character.isascii() for character in text)
    if len(split) < ngram or num_foreign > len(re.findall("[A-Za-z_0-9]", text)):
        return [text.encode()]
    if sum(word != "" for word in split) < ngram:
        return [b"\0" + text.encode()]  # no shingle of another text, though spaces part its bytes into as many words
    return [" ".join(split[i : i + ngram]).encode() for i in range(len(split) - ngram + 1)]


def shingle_hash(shingle: bytes) -> int:
    """Return the 32-bit hash of a shingle: the plain definition, for datasketch's `hashfunc`."""
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
    """Return datasketch's "affine32" permutations h -> a h + b mod 2^32: (a, b), uint32 [num_perm], a odd."""
    random = np.random.RandomState(seed)  # numpy froze this stream (NEP 19); datasketch draws from it
    odd = random.randint(0, 1 << 31, num_perm, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    return odd, random.randint(0, 1 << 32, num_perm, dtype=np.uint32)


def sign_texts(offsets: _Int64s, data: _Bytes, *, num_perm: int, ngram: int, seed: int, words: Words = "ascii") -> tuple[_Uint32s, _Int64s]:
    """Sign n texts of UTF-8.

    Args:
        offsets: [n + 1]; text i is `data[offsets[i]:offsets[i + 1]]`.
        data: the bytes of all texts.
        num_perm: length of a signature.
        ngram: words in a shingle.
        seed: of the permutations.
        words: what a word is.

    Returns:
        signatures, uint32 [n, num_perm], and the number of shingles of each text, repeated ones included, int64 [n].
    """
    multipliers, increments = permutations(num_perm, seed)
    alphabet, folding = _ALPHABETS[words], _folding(words)
    signatures, num_shingles = _sign_texts(offsets, data, alphabet, folding, words != "runs", ngram, multipliers, increments)
    return signatures, num_shingles


def shingle_sets(offsets: _Int64s, data: _Bytes, *, ngram: int, words: Words = "ascii") -> tuple[_Int64s, _Uint64s]:
    """Return the sets that signatures are estimates of, for exact comparison.

    Args:
        offsets: [n + 1]; text i is `data[offsets[i]:offsets[i + 1]]`.
        data: the bytes of all texts.
        ngram: words in a shingle.
        words: what a word is.

    Returns:
        starts, int64 [n + 1], and hashes, uint64: `hashes[starts[i]:starts[i + 1]]` are the 64-bit hashes of the distinct
        shingles of text i, ascending, at least one. Two shingles share a hash by accident with probability 2^-64.
    """
    starts, hashes = _shingle_sets(offsets, data, _ALPHABETS[words], _folding(words), words != "runs", ngram)
    return starts, hashes


def _folding(words: Words) -> _Uint32s:
    """Return the lower case of word characters, or nothing where bytes alone decide."""
    return word_characters() if words == "unicode" else np.zeros(0, np.uint32)


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
def _sign_texts(
    offsets: _Int64s,
    data: _Bytes,
    alphabet: _Bytes,
    folding: _Uint32s,
    keeps_empty: bool,
    ngram: int,
    multipliers: _Uint32s,
    increments: _Uint32s,
) -> tuple[_Uint32s, _Int64s]:
    signatures = np.full((offsets.size - 1, multipliers.size), _EMPTY, np.uint32)
    num_shingles = np.zeros(offsets.size - 1, np.int64)
    words, second, sums = _buffers(ngram)
    hashes = np.empty(sums.size, np.uint32)
    recent = np.empty(_NUM_RECENT, np.uint32)
    for text in range(offsets.size - 1):
        _forget(recent)
        start, stop = offsets[text], offsets[text + 1]
        word, num_words, num_real = _FNV_OFFSET, 0, 0
        is_foreign = folding.size == 0 and _is_foreign(data[start:stop], alphabet[1])
        while not is_foreign:
            held = num_words
            start, word, num_words = _read_block(data, start, stop, word, words, num_words, second, alphabet, folding)
            num_words, num_real = _weigh(words, held, num_words, num_real, keeps_empty, ngram)
            if num_words >= ngram:
                found = _roll(words, num_words, ngram, sums)
                for i in range(found):
                    hashes[i] = _premix(np.uint32(_finish(sums[i]) & _LOW_32_BITS))
                num_shingles[text] += found
                found = _drop_repeated(hashes, found, recent)
                _update_minima(signatures[text], hashes, found, multipliers, increments)
                num_words = ngram - 1
            if start == stop:
                break
        if num_real < ngram:
            whole = _hash_whole(data[offsets[text] : stop], num_shingles[text] > 0)
            signatures[text], num_shingles[text] = _EMPTY, 1
            hashes[0] = _premix(np.uint32(whole & _LOW_32_BITS))
            _update_minima(signatures[text], hashes, 1, multipliers, increments)
    return signatures, num_shingles


@njit(cache=True, nogil=True)
def _shingle_sets(
    offsets: _Int64s, data: _Bytes, alphabet: _Bytes, folding: _Uint32s, keeps_empty: bool, ngram: int
) -> tuple[_Int64s, _Uint64s]:
    starts = np.zeros(offsets.size, np.int64)
    hashes = np.empty(data.size + offsets.size, np.uint64)  # more than there can be: pages that are not written cost nothing
    words, second, sums = _buffers(ngram)
    recent = np.empty(_NUM_RECENT, np.uint64)
    for text in range(offsets.size - 1):
        _forget(recent)
        start, stop, end = offsets[text], offsets[text + 1], starts[text]
        word, num_words, num_real = _FNV_OFFSET, 0, 0
        is_foreign = folding.size == 0 and _is_foreign(data[start:stop], alphabet[1])
        while not is_foreign:
            held = num_words
            start, word, num_words = _read_block(data, start, stop, word, words, num_words, second, alphabet, folding)
            num_words, num_real = _weigh(words, held, num_words, num_real, keeps_empty, ngram)
            if num_words >= ngram:
                found = _roll(words, num_words, ngram, sums)
                for i in range(found):
                    sums[i] = _finish(sums[i])
                found = _drop_repeated(sums, found, recent)
                hashes[end : end + found] = sums[:found]
                end += found
                num_words = ngram - 1
            if start == stop:
                break
        if num_real < ngram:
            hashes[starts[text]] = _hash_whole(data[offsets[text] : stop], end > starts[text])
            end = starts[text] + 1
        starts[text + 1] = starts[text] + _distinct(hashes[starts[text] : end])
    return starts, hashes[: starts[-1]].copy()


@njit(cache=True, nogil=True)
def _buffers(ngram: int) -> tuple[_Uint64s, _Uint64s, _Uint64s]:
    """Return buffers for the words of a block, those of its second half, and the sums of its shingles."""
    most_words = _BLOCK_BYTES + ngram + 1
    return np.empty(most_words, np.uint64), np.empty(_BLOCK_BYTES + 1, np.uint64), np.empty(most_words, np.uint64)


@njit(cache=True, nogil=True)
def _is_foreign(text: _Bytes, is_word: _Bytes) -> bool:
    """Return whether more characters are beyond ASCII than are ASCII word characters: such a text is not represented by its ASCII words."""
    num_foreign = 0
    for byte in text:
        num_foreign += byte >= 0xC0  # the first byte of a character beyond ASCII; those after it are 0x80 to 0xBF
    if num_foreign == 0:
        return False
    num_ascii = 0
    for byte in text:
        num_ascii += is_word[byte]
    return num_foreign > num_ascii


@njit(cache=True, nogil=True)
def _weigh(words: _Uint64s, held: int, num_words: int, num_real: int, keeps_empty: bool, ngram: int) -> tuple[int, int]:
    """Drop empty words from `held` on if they do not count; return the number of words, and of real ones, up to ngram."""
    if not keeps_empty:
        kept = held
        for i in range(held, num_words):
            words[kept] = words[i]
            kept += words[i] != _FNV_OFFSET
        return kept, num_real + kept - held
    for i in range(held, num_words):
        if num_real >= ngram:
            break
        num_real += words[i] != _FNV_OFFSET
    return num_words, num_real


@njit(cache=True, nogil=True)
def _read_block(
    data: _Bytes,
    start: int,
    stop: int,
    word: np.uint64,
    words: _Uint64s,
    num_words: int,
    second: _Uint64s,
    alphabet: _Bytes,
    folding: _Uint32s,
) -> tuple[int, np.uint64, int]:
    """Append the hashes of the words that end in the next block of a text, the open one too where the text ends."""
    end = min(start + _BLOCK_BYTES, stop)
    if end < stop:
        for _ in range(3):  # to the start of a character
            end -= data[end] & 0xC0 == 0x80
    block = data[start:end]
    if folding.size > 0 and not _is_ascii(block):
        word, num_words = _split_characters(block, word, words, num_words, alphabet, folding)
    else:
        word, num_words = _split_bytes(block, word, words, num_words, second, alphabet)
    if end == stop:
        words[num_words] = word
        num_words += 1
    return end, word, num_words


@njit(cache=True, nogil=True)
def _is_ascii(text: _Bytes) -> bool:
    seen = np.uint8(0)
    for byte in text:
        seen |= byte
    return bool(seen < 0x80)


@njit(cache=True, nogil=True)
def _split_bytes(
    text: _Bytes, word: np.uint64, words: _Uint64s, num_words: int, second: _Uint64s, alphabet: _Bytes
) -> tuple[np.uint64, int]:
    """Split without a branch a byte, both halves at once: FNV-1a waits for its multiplication, and two can wait together."""
    values, is_word, ends_word = alphabet[0], alphabet[1], alphabet[2]
    middle = text.size // 2  # then on to the end of a word, so that the second half starts a word of its own
    while middle < text.size and not ends_word[text[middle]]:
        middle += 1
    middle = min(middle + 1, text.size)
    left, right = text[:middle], text[middle:]
    other, num_others = _FNV_OFFSET, 0
    both = min(left.size, right.size)
    for i in range(both):
        one, two = left[i], right[i]
        # written at every byte, and written over by the next unless the count goes up: cheaper than a branch that code mispredicts
        words[num_words], second[num_others] = word, other
        num_words += ends_word[one]
        num_others += ends_word[two]
        value, other_value = np.uint64(values[one]), np.uint64(values[two])  # outside the choice, or it becomes a branch
        word = (word ^ value) * _FNV_PRIME if is_word[one] else _FNV_OFFSET
        other = (other ^ other_value) * _FNV_PRIME if is_word[two] else _FNV_OFFSET
    word, num_words = _split_run(left[both:], word, words, num_words, alphabet)
    other, num_others = _split_run(right[both:], other, second, num_others, alphabet)
    words[num_words : num_words + num_others] = second[:num_others]
    return other if right.size > 0 else word, num_words + num_others


@njit(cache=True, nogil=True)
def _split_run(text: _Bytes, word: np.uint64, words: _Uint64s, num_words: int, alphabet: _Bytes) -> tuple[np.uint64, int]:
    """Split byte by byte: what one half is longer than the other, or what stands between other characters."""
    values, is_word, ends_word = alphabet[0], alphabet[1], alphabet[2]
    for byte in text:
        words[num_words] = word
        num_words += ends_word[byte]
        value = np.uint64(values[byte])
        word = (word ^ value) * _FNV_PRIME if is_word[byte] else _FNV_OFFSET
    return word, num_words


@njit(cache=True, nogil=True)
def _split_characters(
    text: _Bytes, word: np.uint64, words: _Uint64s, num_words: int, alphabet: _Bytes, folding: _Uint32s
) -> tuple[np.uint64, int]:
    """Split a text that has characters beyond ASCII: those one by one, what lies between them byte by byte."""
    at = 0
    while at < text.size:
        end = at
        while end < text.size and text[end] < 0x80:
            end += 1
        if end > at:
            word, num_words = _split_run(text[at:end], word, words, num_words, alphabet)
            at = end
        while at < text.size and text[at] >= 0x80:
            point, width = _decode(text, at)
            at += width
            lower = folding[point] if point < folding.size else np.uint32(0)
            words[num_words] = word
            num_words += lower == 0
            word = _append(word, np.uint64(lower)) if lower > 0 else _FNV_OFFSET
    return word, num_words


@njit(cache=True, nogil=True)
def _decode(text: _Bytes, at: int) -> tuple[int, int]:
    """Return the code point at a byte beyond ASCII and its number of bytes; each byte that is no UTF-8 becomes one NUL."""
    lead, left = np.int64(text[at]), text.size - at
    if 0xC0 <= lead < 0xE0 and left > 1:
        return (lead & 0x1F) << 6 | text[at + 1] & 0x3F, 2
    if 0xE0 <= lead < 0xF0 and left > 2:
        return (lead & 0x0F) << 12 | np.int64(text[at + 1] & 0x3F) << 6 | text[at + 2] & 0x3F, 3
    if lead >= 0xF0 and left > 3:
        high = (lead & 0x07) << 18 | np.int64(text[at + 1] & 0x3F) << 12
        return high | np.int64(text[at + 2] & 0x3F) << 6 | text[at + 3] & 0x3F, 4
    return 0, 1


@njit(cache=True, nogil=True)
def _append(word: np.uint64, point: np.uint64) -> np.uint64:
    """Hash the UTF-8 of a character into a word."""
    six, low = np.uint64(6), np.uint64(0x3F)
    if point < 0x80:
        return (word ^ point) * _FNV_PRIME
    if point < 0x800:
        word = (word ^ (np.uint64(0xC0) | point >> six)) * _FNV_PRIME
    else:
        if point < 0x10000:
            word = (word ^ (np.uint64(0xE0) | point >> np.uint64(12))) * _FNV_PRIME
        else:
            word = (word ^ (np.uint64(0xF0) | point >> np.uint64(18))) * _FNV_PRIME
            word = (word ^ (np.uint64(0x80) | point >> np.uint64(12) & low)) * _FNV_PRIME
        word = (word ^ (np.uint64(0x80) | point >> six & low)) * _FNV_PRIME
    return (word ^ (np.uint64(0x80) | point & low)) * _FNV_PRIME


@njit(cache=True, nogil=True)
def _roll(words: _Uint64s, num_words: int, ngram: int, sums: _Uint64s) -> int:
    """Sum every run of `ngram` words, word by word of all shingles, as that is what vectorises; keep the last words."""
    found = num_words - ngram + 1
    for i in range(found):
        sums[i] = words[i]
    for j in range(1, ngram):
        for i in range(found):
            sums[i] = sums[i] * _POLYNOMIAL_BASE + words[i + j]
    words[: ngram - 1] = words[found:num_words]
    return found


@njit(cache=True, nogil=True)
def _hash_whole(text: _Bytes, is_marked: bool) -> np.uint64:
    """Hash a text as one shingle, after a NUL if it is marked; the words of a shingle are what lies between its spaces."""
    total, word = np.uint64(0), _FNV_OFFSET
    if is_marked:
        word *= _FNV_PRIME
    for byte in text:
        if byte == _SPACE:
            total = total * _POLYNOMIAL_BASE + word
            word = _FNV_OFFSET
        else:
            word = (word ^ np.uint64(byte)) * _FNV_PRIME
    whole: np.uint64 = _finish(total * _POLYNOMIAL_BASE + word)
    return whole


@njit(cache=True, nogil=True)
def _finish(total: np.uint64) -> np.uint64:
    """Spread a sum over all its bits (fmix64 of MurmurHash3)."""
    total = (total ^ (total >> np.uint64(33))) * _FMIX64_1
    total = (total ^ (total >> np.uint64(33))) * _FMIX64_2
    return total ^ (total >> np.uint64(33))


@njit(cache=True, nogil=True)
def _premix(value: np.uint32) -> np.uint32:
    """Apply fmix32, as datasketch does once before its permutations."""
    # numba widens 32-bit arithmetic to 64 bits: each step is cut back, which also keeps the vectors narrow
    value = np.uint32((value ^ (value >> np.uint32(16))) * _FMIX32_1)
    value = np.uint32((value ^ (value >> np.uint32(13))) * _FMIX32_2)
    return np.uint32(value ^ (value >> np.uint32(16)))


@njit(cache=True, nogil=True)
def _forget(recent: NDArray[np.unsignedinteger]) -> None:
    for slot in range(_NUM_RECENT):
        recent[slot] = slot ^ 1  # a hash that belongs into another slot: equal to none that is looked up here


@njit(cache=True, nogil=True)
def _drop_repeated(hashes: NDArray[np.unsignedinteger], found: int, recent: NDArray[np.unsignedinteger]) -> int:
    """Compact hashes[:found] to those not met lately; a repeated shingle lowers no minimum, and most of code repeats."""
    num_kept = 0
    for i in range(found):
        value = hashes[i]
        # a direct-mapped cache: the low bits choose the slot; as above, the write stands only if the count goes up
        slot = value & np.uint32(_NUM_RECENT - 1)
        hashes[num_kept] = value
        num_kept += recent[slot] != value
        recent[slot] = value
    return num_kept


@njit(cache=True, nogil=True)
def _distinct(hashes: _Uint64s) -> int:
    """Sort hashes and compact them to the distinct ones; return their number."""
    _sort(hashes)
    num_kept = 1
    for i in range(1, hashes.size):
        hashes[num_kept] = hashes[i]
        num_kept += hashes[i] != hashes[num_kept - 1]
    return num_kept


@njit(cache=True, nogil=True)
def _sort(hashes: _Uint64s) -> None:
    """Sort evenly spread numbers in linear time: into as many buckets by their first bits, then by insertion."""
    bits = 1
    while 2 << bits <= hashes.size:
        bits += 1
    shift = np.uint64(64 - bits)  # the first bits of a hash are as good as random: about one hash a bucket
    ends = np.zeros((1 << bits) + 1, np.int64)
    for value in hashes:
        ends[(value >> shift) + np.uint64(1)] += 1
    if ends.max() > _MOST_IN_BUCKET:  # not spread, by whatever trick: insertion would take quadratic time
        hashes.sort()
        return
    for bucket in range(1 << bits):
        ends[bucket + 1] += ends[bucket]
    in_buckets = np.empty_like(hashes)
    for value in hashes:
        in_buckets[ends[value >> shift]] = value
        ends[value >> shift] += 1
    for i in range(hashes.size):
        value, at = in_buckets[i], i
        while at > 0 and hashes[at - 1] > value:
            hashes[at] = hashes[at - 1]
            at -= 1
        hashes[at] = value


@njit(cache=True, nogil=True)
def _update_minima(signature: _Uint32s, hashes: _Uint32s, found: int, multipliers: _Uint32s, increments: _Uint32s) -> None:
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
