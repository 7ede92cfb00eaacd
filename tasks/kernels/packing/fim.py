"""Fill-in-the-middle at character level, for whole documents or pieces of them, without encoding them again.

Method: Bavarian et al. 2022, "Efficient training of language models to fill in the middle"; the details are StarCoder's
(Megatron-LM of BigCode, megatron/data/gpt_dataset.py): two cuts uniform over 0 … number of characters, both ends
included; prefix, middle and suffix encoded apart; SPM in its second variant. Ours differ where upstream is at fault:
the randomness is the caller's draws, never order, and nothing is lost or padded.

An encoding is only redone around the cuts. In the patterns of GPT-2, StarCoder and GPT-4 a run of letters ends before
a character that is no letter, and as none looks behind, what follows is split as if the text began there. So behind an
ASCII letter that an ASCII non-letter follows, tokens left and right do not depend on each other: a *joint*. Between the
first and the last joint of a piece its tokens are those of the whole document. At an end that is the document's own,
its tokens are those of the piece too; at an end that a packed sequence's border made, they need not be.
Guarantee: token for token what encoding the three pieces gives (tests compare the two). Cost: one pass over the
bytes of the documents that are cut, and encoding a few bytes beside each cut; with another pre-tokeniser
(`has_joints` false), encoding all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from starloom.tasks.kernels.compiled import njit
from starloom.tasks.kernels.packing.roles import MIDDLE, PREFIX, SENTINEL, SUFFIX
from starloom.tasks.kernels.packing.sequences import NOWHERE, Pieces

if TYPE_CHECKING:
    from starloom.tasks.kernels.tokens.byte_level import Ragged, TokenBytes

_Bytes = NDArray[np.uint8]
_Int64s = NDArray[np.int64]
_Uint64s = NDArray[np.uint64]
_Flags = NDArray[np.bool_]
_Tokens = NDArray[np.unsignedinteger]


# UTF-8: bytes 10xxxxxx continue a character; those from 0x80 are no ASCII.
CONTINUATION_MASK, CONTINUATION, FIRST_NON_ASCII = 0xC0, 0x80, 0x80
LETTER_A, LETTER_Z, LOWER_CASE = 0x61, 0x7A, 0x20


class Stretches(NamedTuple):
    """Runs of tokens to cut, each of whole characters of one document: `values[first:last]`; all arrays [m]."""

    first: _Int64s
    last: _Int64s
    is_start: _Flags
    """Whether the document begins here."""
    is_end: _Flags
    """Whether it ends here."""

    @classmethod
    def whole(cls, tokens: Ragged, docs: _Int64s) -> Stretches:
        """Return these documents as stretches, whole."""
        every = np.ones(len(docs), bool)
        return cls(tokens.offsets[docs], tokens.offsets[docs + 1], every, every)


class Cuts(NamedTuple):
    """The cuts of m stretches. Axis 1 is prefix, middle, suffix."""

    kept_tokens: _Int64s
    """int64 [m, 3, 2]: the run of the stretch's own tokens that stays as it is."""
    bytes: _Int64s
    """int64 [m, 3, 4]: where the piece begins, its kept run begins and ends, and the piece ends, in the stretch."""
    snippets: pa.Array
    """Texts [m, 3, 2], flat, to encode: before and after the kept run of each piece."""


class _Room(NamedTuple):
    """The arrays that `_cut` fills: the text of a stretch, then what `Cuts` has, snippets as offsets and bytes."""

    text: _Bytes
    kept: _Int64s
    at: _Int64s
    snippet_offsets: _Int64s
    snippet_data: _Bytes


def cut(values: _Tokens, stretches: Stretches, spelled: TokenBytes, draws: _Uint64s, *, has_joints: bool) -> Cuts:
    """Cut stretches of documents in three where the draws say.

    Args:
        values: token ids that the stretches point into.
        stretches: what to cut.
        spelled: what the tokens spell.
        draws: two numbers for each, uniform over 64 bits: uint64 [m, 2].
        has_joints: whether the tokenizer is one that `byte_pairs` covers: of one of those patterns, and nothing added to text.

    Raises:
        ValueError: if the tokens are no such tokenizer's.
    """
    num = len(stretches.first)
    kept, at = np.zeros((num, 3, 2), np.int64), np.zeros((num, 3, 4), np.int64)
    num_bytes = _num_bytes(values, stretches.first, stretches.last, spelled.lengths)
    text = np.empty(num_bytes.max(initial=0), np.uint8)
    snippet_offsets = np.zeros(num * 6 + 1, np.int64)
    snippet_data = np.empty(num_bytes.sum(), np.uint8)
    room = _Room(text, kept, at, snippet_offsets, snippet_data)
    if not _cut(values, stretches, *spelled, draws, has_joints, room):
        raise ValueError("a token reaches over a place where this tokenizer never joins text")
    offset_buffer, data_buffer = pa.py_buffer(snippet_offsets), pa.py_buffer(snippet_data[: snippet_offsets[-1]])
    return Cuts(kept, at, pa.LargeStringArray.from_buffers(num * 6, offset_buffer, data_buffer))


@njit(cache=True, nogil=True)
def _num_bytes(values: _Tokens, first: _Int64s, last: _Int64s, lengths: _Int64s) -> _Int64s:
    out = np.zeros(len(first), np.int64)
    for row in range(len(first)):
        for token in values[first[row] : last[row]]:
            out[row] += lengths[token]
    return out


@njit(cache=True, nogil=True)
def _cut(
    values: _Tokens, stretches: Stretches, token_offsets: _Int64s, token_data: _Bytes, draws: _Uint64s, has_joints: bool, room: _Room
) -> bool:
    (first, last, is_start, is_end), (text, kept, at, snippet_offsets, snippet_data) = stretches, room
    written, snippet = 0, 0
    for row in range(len(first)):
        size = _spell(values[first[row] : last[row]], token_offsets, token_data, text)
        low, high = _cut_bytes(text[:size], draws[row, 0], draws[row, 1])
        borders = (0, low, high, size)
        token, token_byte = first[row], 0
        for piece in range(3):
            begin, end = borders[piece], borders[piece + 1]
            keeps_head, keeps_tail = begin == 0 and is_start[row], end == size and is_end[row]
            head, tail = _kept_run(text[:size], begin, end, keeps_head, keeps_tail) if has_joints else (end, end)
            at[row, piece, 0], at[row, piece, 1], at[row, piece, 2], at[row, piece, 3] = begin, head, tail, end
            for side, byte in enumerate((head, tail)):
                while token_byte < byte:
                    token_byte += token_offsets[values[token] + 1] - token_offsets[values[token]]
                    token += 1
                if head != tail and token_byte != byte:  # a token spans the joint, which tokens of a covered tokenizer never do
                    return False
                kept[row, piece, side] = token
            for left, right in ((begin, head), (tail, end)):
                snippet_data[written : written + right - left] = text[left:right]
                written += right - left
                snippet += 1
                snippet_offsets[snippet] = written
    return True


@njit(cache=True, nogil=True)
def _spell(tokens: _Tokens, offsets: _Int64s, data: _Bytes, out: _Bytes) -> int:
    """Write the bytes of some tokens to `out` and return how many; `offsets` and `data` are those of TokenBytes."""
    at = 0
    for token in tokens:
        for source in range(offsets[token], offsets[token + 1]):
            out[at] = data[source]
            at += 1
    return at


@njit(cache=True, nogil=True)
def _cut_bytes(text: _Bytes, draw_1: np.uint64, draw_2: np.uint64) -> tuple[int, int]:
    """Turn two draws into two sorted cuts between characters, as byte offsets."""
    num_chars = 0
    for byte in text:
        num_chars += (byte & CONTINUATION_MASK) != CONTINUATION
    # the upper 32 bits of a draw, as a fraction, times the number of places: uniform but for 2^-32, without a division (Lemire 2019)
    places = np.uint64(num_chars + 1)
    a = np.int64(((draw_1 >> np.uint64(32)) * places) >> np.uint64(32))
    b = np.int64(((draw_2 >> np.uint64(32)) * places) >> np.uint64(32))
    return _byte_of_char(text, min(a, b)), _byte_of_char(text, max(a, b))


@njit(cache=True, nogil=True)
def _byte_of_char(text: _Bytes, char: int) -> int:
    chars = -1
    for byte in range(len(text)):
        chars += (text[byte] & CONTINUATION_MASK) != CONTINUATION
        if chars == char:
            return byte
    return len(text)


@njit(cache=True, nogil=True)
def _kept_run(text: _Bytes, begin: int, end: int, keeps_head: bool, keeps_tail: bool) -> tuple[int, int]:
    """Find the first and the last joint of text[begin:end]; (end, end) if nothing between them can be kept."""
    head, tail = begin, end
    while not keeps_head and head < end and not _is_joint(text, head):
        head += 1
    while not keeps_tail and tail > head and not _is_joint(text, tail):
        tail -= 1
    return (head, tail) if head < tail else (end, end)


@njit(cache=True, nogil=True)
def _is_joint(text: _Bytes, at: int) -> bool:
    return 0 < at < len(text) and _is_letter(text[at - 1]) and text[at] < FIRST_NON_ASCII and not _is_letter(text[at])


@njit(cache=True, nogil=True)
def _is_letter(byte: int) -> bool:
    return LETTER_A <= (byte | LOWER_CASE) <= LETTER_Z  # one bit tells the cases of ASCII apart


class Sentinels(NamedTuple):
    """The position of each sentinel in the pool."""

    prefix: int
    middle: int
    suffix: int
    eod: int


# The order of the six blocks <prefix> P <suffix> S <middle> M, numbered 0 … 5 in this order.
PSM = (0, 1, 2, 3, 4, 5)
SPM = (0, 2, 3, 4, 1, 5)
"""Variant 2: <prefix> <suffix> S <middle> P M."""
_BLOCK_ROLES = (SENTINEL, PREFIX, SENTINEL, SUFFIX, SENTINEL, MIDDLE)
NUM_PIECES, NUM_SENTINELS = 3 * len(_BLOCK_ROLES), _BLOCK_ROLES.count(SENTINEL)
"""Of a stretch, as `arrange` gives them."""


def arrange(
    docs: _Int64s, byte_base: _Int64s, cuts: Cuts, encoded: Ragged, encoded_at: int, is_spm: _Flags, sentinels: Sentinels
) -> Pieces:
    """Order the pieces of what was cut, those of a stretch between its sentinels.

    Args:
        docs: of which document each of the m stretches is.
        byte_base: the byte of the document at which each begins, int64 [m].
        cuts: how each is cut.
        encoded: the tokens of the cuts' snippets.
        encoded_at: where the pool holds them.
        is_spm: which stretches are written suffix first, bool [m].
        sentinels: where the pool holds the sentinels.

    Returns:
        18 pieces a stretch: six blocks of up to three runs each, many of them empty.
    """
    start, stop = np.zeros((2, len(docs), 6, 3), np.int64)
    byte_start = np.full((len(docs), 6, 3), NOWHERE, np.int64)
    ends = encoded.offsets[1:].reshape(-1, 3, 2) + encoded_at
    begins = encoded.offsets[:-1].reshape(-1, 3, 2) + encoded_at
    for piece, block in enumerate((1, 5, 3)):
        byte_start[:, block] = cuts.bytes[:, piece, :3] + byte_base[:, None]
        start[:, block] = np.stack([begins[:, piece, 0], cuts.kept_tokens[:, piece, 0], begins[:, piece, 1]], axis=1)
        stop[:, block] = np.stack([ends[:, piece, 0], cuts.kept_tokens[:, piece, 1], ends[:, piece, 1]], axis=1)
    for block, where in ((0, sentinels.prefix), (2, sentinels.suffix), (4, sentinels.middle)):
        start[:, block, 0], stop[:, block, 0] = where, where + 1
    order = np.where(is_spm[:, None], SPM, PSM)[:, :, None]
    role = np.broadcast_to(np.array(_BLOCK_ROLES)[None, :, None], start.shape)
    ordered = [np.take_along_axis(array, order, axis=1).ravel() for array in (role, byte_start, start, stop)]
    return Pieces(np.repeat(docs, NUM_PIECES), *ordered)
