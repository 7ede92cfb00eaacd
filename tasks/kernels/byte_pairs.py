"""Byte-level BPE of whole columns of text: pre-tokens looked up in a cache, merged by rank where they are new.

Sources: Sennrich et al. 2016 (BPE), Radford et al. 2019 (on bytes); what is in the cache is what `tokenizers` keeps too.
Guarantee: ids equal those of `tokenizers` with `encode_special_tokens = True` and `add_special_tokens = False`, for every
tokenizer of which `not_covered` says nothing: special tokens are never matched inside a text. No hash stands for a
text: the bytes of a pre-token are compared. Memory is bounded: 16 MB for pre-tokens of up to fifteen bytes, two a bucket,
and 12 MB for longer ones, forgotten when full; while encoding, four bytes a byte of text and forty a byte of the longest
pre-token above 256. The GIL is released; threads take turns at one encoder.
Cost: with pre-tokenisation, 3.3 ns a byte of source where all pre-tokens are known and 4.5 ns over the first 100 MB, on one
core of an EPYC 9005. A new pre-token of n bytes takes O(n^2) steps up to 256 bytes and O(n log n), 0.4 to 0.9 us a byte, above.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # comes with numba
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from tasks.kernels.byte_level import Ragged, byte_of_character
from tasks.kernels.pre_tokens import GPT4_PATTERN, Split, start_bits

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_Bytes = NDArray[np.uint8]
_Int64s = NDArray[np.int64]
_Uint32s = NDArray[np.uint32]
_Uint64s = NDArray[np.uint64]

_ALL, _ZERO, _ONE = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0), np.uint64(1)
_SPREAD_1, _SPREAD_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)  # of splitmix64 and rrmxmx: odd, bits even

_RANK_BITS = np.uint64(24)
_ID_BITS = np.uint64(20)
_ID_MASK = np.uint64((1 << 20) - 1)
_RANK_MASK = np.uint64((1 << 24) - 1)
_NO_MERGE = np.uint32(0xFFFFFFFF)
_NOBODY = np.uint32((1 << 20) - 1)  # an id that no token has

# A bucket is a cache line of two slots, a slot four words: the bytes of a pre-token and, in the last one, its length;
# two token ids; two more, of which the last has 24 bits, and their number.
_SHORT_BYTES, _SHORT_IDS = 15, 4
_BUCKET_BYTES = 64
_COUNT_SHIFT = np.uint64(56)
_IDS_MASK = np.uint64((1 << 56) - 1)

# Longer ones: a slot is hash, length, place of the bytes, place of the ids and their number.
_LONG_BYTES = 256

_CHUNK_BYTES = 1024  # of text at a time: keys and the buckets asked for in advance stay in the first-level cache


class _Cache(NamedTuple):
    """Pre-tokens met lately."""

    short: _Uint64s
    long: _Uint64s
    texts: _Bytes
    ids: _Uint32s
    used: _Int64s
    """Slots, bytes and ids in use by the longer ones."""

    @classmethod
    def empty(cls, bucket_bits: int = 18, long_slots: int = 1 << 17, text_bytes: int = 1 << 22, num_ids: int = 1 << 20) -> _Cache:
        """Make room: a power of two of buckets and of slots for longer ones, and for at least one of those."""
        words = _BUCKET_BYTES // 8 << bucket_bits
        room = np.zeros(words + 8, np.uint64)
        first = -room.ctypes.data // 8 % 8  # buckets on cache lines
        long, texts, ids = np.zeros(4 * long_slots, np.uint64), np.zeros(text_bytes, np.uint8), np.zeros(num_ids, np.uint32)
        return cls(room[first : first + words], long, texts, ids, np.zeros(3, np.int64))


class _Scratch(NamedTuple):
    """Room for the symbols of one pre-token and two neighbours, each array [258]."""

    ids: _Uint32s
    heads: _Uint32s
    before: _Uint32s
    after: _Uint32s


class Model(NamedTuple):
    """A vocabulary and its merges."""

    byte_ids: _Uint32s
    """Token id of each byte, [256]."""
    merges: _Uint64s
    """Left id, right id and rank of each pair that merges, 20, 20 and 24 bits, where its hash and factor say; else all ones."""
    factors: _Uint32s
    """Of each group of pairs."""
    merged: _Uint32s
    """Id that the merge of each rank makes."""

    @classmethod
    def of(cls, state: dict[str, Any]) -> Model:
        """Take them from the `model` of a tokenizer.json."""
        vocabulary, alphabet = state["vocab"], byte_of_character()
        byte_ids = np.zeros(256, np.uint32)
        byte_ids[[*alphabet.values()]] = [vocabulary[character] for character in alphabet]
        pairs = [pair if isinstance(pair, list) else pair.split(" ") for pair in state["merges"]]
        ids = np.array([(vocabulary[left], vocabulary[right], vocabulary[left + right]) for left, right in pairs], np.uint64)
        left, right, merged = ids.reshape(-1, 3).T
        merges, factors = _pair_tables(left << _ID_BITS | right)
        return cls(byte_ids, merges, factors, merged.astype(np.uint32))


@dataclass(frozen=True)
class Encoder:
    """A tokenizer as arrays, with what it has encoded lately."""

    split: Split
    model: Model
    cache: _Cache = field(default_factory=_Cache.empty, compare=False, repr=False)
    _turn: Any = field(default_factory=threading.Lock, compare=False, repr=False)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Encoder:
        """Take the arrays of a tokenizer that `not_covered` has nothing against.

        Raises:
            ValueError: it is not covered.
        """
        state = json.loads(tokenizer.to_str())
        reason = _reason(state)
        if reason is not None:
            raise ValueError(f"this tokenizer is not covered: {reason}")
        split = _split(state["pre_tokenizer"])
        assert split is not None
        return cls(split, Model.of(state["model"]))

    def encode(self, offsets: _Int64s, data: _Bytes) -> Ragged:
        """Encode texts, each by itself.

        Args:
            offsets: text i is `data[offsets[i]:offsets[i + 1]]`, int64 [texts + 1], from 0 to the end of data.
            data: UTF-8, uint8 [bytes].
        """
        starts = start_bits(offsets, data, self.split)
        values, scratch = np.empty(data.size + 8, np.uint32), _Scratch(*np.empty((4, _LONG_BYTES + 2), np.uint32))
        with self._turn:
            lists = _encode(offsets, data, starts, self.model, self.cache, scratch, values)
        return Ragged(values[: lists[-1]].copy(), lists)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel without the cache."""
        return Encoder, (self.split, self.model)


def not_covered(tokenizer: Tokenizer) -> str | None:
    """Say why a tokenizer's ids could differ from those of an `Encoder`; None if they cannot."""
    return _reason(json.loads(tokenizer.to_str()))


def _reason(state: dict[str, Any]) -> str | None:
    model, pre_tokenizer, normalizer = state["model"], state["pre_tokenizer"], state["normalizer"]
    if model["type"] != "BPE":
        return f"its model is {model['type']}, not BPE"
    knobs = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    changed = [f"{knob} = {model[knob]}" for knob in knobs if model.get(knob)]
    plain = [token["content"] for token in state["added_tokens"] if not token["special"]]
    missing = [byte for character, byte in byte_of_character().items() if character not in model["vocab"]]
    reasons = {
        f"its model has {', '.join(changed)}": changed,
        f"it normalises text ({(normalizer or {}).get('type')})": normalizer is not None,
        "it truncates or pads": state["truncation"] is not None or state["padding"] is not None,
        "its pre-tokeniser is none of StarCoder's, GPT-2's and GPT-4's": _split(pre_tokenizer) is None,
        f"it has added tokens that are not special, such as {plain[:1]}": plain,
        f"its vocabulary lacks {len(missing)} of the 256 bytes, such as {missing[:1]}": missing,
        f"it has ids of {_NOBODY} and above": max(model["vocab"].values(), default=0) >= _NOBODY,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _split(state: dict[str, Any] | None) -> Split | None:
    """Tell whose pre-tokenisation it is."""
    steps = [_told(step) for step in (state or {}).get("pretokenizers", [state] if state else [])]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    isolated = {"type": "Split", "pattern": {"Regex": GPT4_PATTERN}, "behavior": "Isolated", "invert": False}
    kept = isolated | {"behavior": "Removed", "invert": True}
    if steps == [byte_level]:
        return "gpt2"
    if steps == [{"type": "Digits", "individual_digits": True}, byte_level]:
        return "starcoder"
    whole = byte_level | {"use_regex": False}
    return "gpt4" if steps in ([isolated, whole], [kept, whole]) else None


def _told(step: dict[str, Any]) -> dict[str, Any]:
    """Leave out what moves no border: `trim_offsets` is about the offsets that `tokenizers` reports."""
    return {key: value for key, value in step.items() if key != "trim_offsets"}


@intrinsic
def _load(_typing: Any, _address: Any) -> Any:
    """Give eight bytes as a little-endian number."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), align=1)

    return types.uint64(types.int64), build


@intrinsic
def _store(_typing: Any, _address: Any, _value: Any) -> Any:
    """Put eight bytes."""

    def build(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        builder.store(arguments[1], builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.uint64), build


@intrinsic
def _prefetch(_typing: Any, _address: Any) -> Any:
    """Ask for a cache line."""

    def build(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        ask = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        pointer = builder.inttoptr(arguments[0], byte)
        builder.call(builder.module.declare_intrinsic("llvm.prefetch", [byte], ask), [pointer, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(types.int64), build


@intrinsic
def _lowest(_typing: Any, _bits: Any) -> Any:
    """Give the position of the lowest bit set."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), build


@njit(cache=True, nogil=True)
def _encode(offsets: _Int64s, data: _Bytes, starts: _Uint64s, model: Model, cache: _Cache, scratch: _Scratch, values: _Uint32s) -> _Int64s:
    """Encode chunk by chunk: where pre-tokens start, their keys, asking for their buckets, then what the buckets hold."""
    lists = np.zeros(offsets.size, np.int64)
    positions = np.empty(_CHUNK_BYTES + 1, np.int64)
    keys = np.empty((3, _CHUNK_BYTES + 1), np.uint64)
    copied = np.zeros(_CHUNK_BYTES + 16, np.uint8)
    masks, output, shift = _key_masks(), values.ctypes.data, np.uint64(64)
    while 1 << np.int64(np.uint64(64) - shift) < cache.short.size * 8 // _BUCKET_BYTES:
        shift -= _ONE
    num_values = 0
    for text in range(offsets.size - 1):
        at, stop = offsets[text], offsets[text + 1]
        while at < stop:
            count = _pre_tokens(starts, at, stop, positions)
            end, address = positions[count], data.ctypes.data
            if end + 16 > data.size:  # keys are read sixteen bytes at a time
                size = min(end - at, _CHUNK_BYTES)
                copied[:size] = data[at : at + size]
                address = copied.ctypes.data - at
            _find_buckets(address, positions, count, masks, cache.short.ctypes.data, shift, keys)
            i = 0
            while True:
                i, num_values = _emit_known(keys, i, count, output, num_values)
                if i == count:
                    break
                start, size, num_known = positions[i], positions[i + 1] - positions[i], num_values
                num_values = _look_up(data, start, size, model, cache, scratch, values, num_known)
                if size <= _SHORT_BYTES and num_values - num_known <= _SHORT_IDS:
                    _keep(keys[0, i], keys[1, i], np.int64(keys[2, i]), values, num_known, num_values)
                i += 1
            at = end
        lists[text + 1] = num_values
    return lists


@njit(cache=True, nogil=True, forceinline=True)
def _pre_tokens(starts: _Uint64s, at: int, stop: int, positions: _Int64s) -> int:
    """Give how many pre-tokens of a text lie in the next chunk, at least one, and where they start and end."""
    end = min(stop, at + _CHUNK_BYTES)
    first, last = at >> 6, (end - 1) >> 6
    count = 0
    for word in range(first, last + 1):
        rest = starts[word]
        if word == first:
            rest &= _ALL << np.uint64(at & 63)
        if word == last:
            rest &= _ALL >> np.uint64(63 - ((end - 1) & 63))
        while rest != _ZERO:
            positions[count] = word * 64 + _lowest(rest)
            rest &= rest - _ONE
            count += 1
    if end == stop:
        positions[count] = stop
    elif count > 1:
        count -= 1  # where the last one ends is not known yet
    else:
        positions[1] = _next_start(starts, end)
    return count


@njit(cache=True, nogil=True)
def _next_start(starts: _Uint64s, at: int) -> Any:
    """Give the first start at or after a byte."""
    word = at >> 6
    rest = starts[word] & (_ALL << np.uint64(at & 63))
    while rest == _ZERO:
        word += 1
        rest = starts[word]
    return word * 64 + _lowest(rest)


@njit(cache=True, nogil=True)
def _key_masks() -> _Uint64s:
    """Give what of sixteen bytes belongs to a pre-token of each size; the last byte is for the size itself."""
    masks = np.zeros((_SHORT_BYTES + 2, 2), np.uint64)
    for size in range(1, _SHORT_BYTES + 2):
        for byte in range(min(size, _SHORT_BYTES)):
            masks[size, byte >> 3] |= np.uint64(0xFF) << np.uint64(8 * (byte & 7))
    return masks


@njit(cache=True, nogil=True, forceinline=True)
def _find_buckets(address: int, positions: _Int64s, count: int, masks: _Uint64s, table: int, shift: np.uint64, keys: _Uint64s) -> None:
    """Give the two words of each pre-token's key and the address of its bucket; a longer one has a key that is nobody's."""
    for i in range(count):
        start = positions[i]
        size = min(positions[i + 1] - start, _SHORT_BYTES + 1)
        low = _load(address + start) & masks[size, 0]
        high = _load(address + start + 8) & masks[size, 1] | np.uint64(size) << _COUNT_SHIFT
        mixed = (low ^ high * _SPREAD_2) * _SPREAD_1
        mixed = (mixed ^ mixed >> np.uint64(32)) * _SPREAD_2
        bucket = table + np.int64(mixed >> shift) * _BUCKET_BYTES
        _prefetch(bucket)
        keys[0, i], keys[1, i], keys[2, i] = low, high, np.uint64(bucket)


@njit(cache=True, nogil=True, forceinline=True)
def _emit_known(keys: _Uint64s, first: int, count: int, output: int, num_values: Any) -> tuple[int, Any]:
    """Append the ids of pre-tokens up to the first that is not in its bucket; give its number and that of all ids."""
    for i in range(first, count):
        low, high, slot = keys[0, i], keys[1, i], np.int64(keys[2, i])
        if (_load(slot) ^ low | _load(slot + 8) ^ high) != _ZERO:
            if (_load(slot + 32) ^ low | _load(slot + 40) ^ high) != _ZERO:
                return i, num_values
            for word in range(slot, slot + 32, 8):  # asked for again: first from now on
                first_way, second_way = _load(word), _load(word + 32)
                _store(word, second_way)
                _store(word + 32, first_way)
        rest = _load(slot + 24)
        _store(output + 4 * num_values, _load(slot + 16))
        _store(output + 4 * num_values + 8, rest & _IDS_MASK)
        num_values += np.int64(rest >> _COUNT_SHIFT)
    return count, num_values


@njit(cache=True, nogil=True, forceinline=True)
def _keep(low: np.uint64, high: np.uint64, bucket: int, values: _Uint32s, start: int, end: int) -> None:
    """Put a pre-token into its bucket; the second there goes."""
    if _load(bucket + 8) != _ZERO:  # the first slot is for what was asked for more than once
        bucket += 32
    first, second = _ZERO, _ZERO
    for i in range(start, end):
        shift = np.uint64(32 * ((i - start) & 1))
        first |= np.uint64(values[i]) << shift if i < start + 2 else _ZERO
        second |= np.uint64(values[i]) << shift if i >= start + 2 else _ZERO
    _store(bucket, low)
    _store(bucket + 8, high)
    _store(bucket + 16, first)
    _store(bucket + 24, second | np.uint64(end - start) << _COUNT_SHIFT)


@njit(cache=True, nogil=True, forceinline=True)
def _look_up(data: _Bytes, start: int, size: int, model: Model, cache: _Cache, scratch: _Scratch, values: _Uint32s, num_values: int) -> Any:
    """Append the ids of a pre-token that is in no bucket: long, or of many ids, or new."""
    if size > _LONG_BYTES:
        return _merge_long(data[start : start + size], model, values, num_values)
    key = _hash(data, start, size)
    slot = np.int64(key) * 4 & (cache.long.size - 1)
    while cache.long[slot + 1] != _ZERO:
        if cache.long[slot] == key and np.int64(cache.long[slot + 1]) == size:
            place = np.int64(cache.long[slot + 2])
            first, count = np.int64(cache.long[slot + 3] >> _ID_BITS), np.int64(cache.long[slot + 3] & _ID_MASK)
            is_same = True
            for i in range(size):
                is_same &= cache.texts[place + i] == data[start + i]
            if is_same:
                for i in range(count):
                    values[num_values + i] = cache.ids[first + i]
                return num_values + count
        slot = (slot + 4) & (cache.long.size - 1)
    count = _merge(data, start, size, model, scratch)
    for i in range(count):
        values[num_values + i] = scratch.ids[i]
    if size > _SHORT_BYTES or count > _SHORT_IDS:
        _keep_long(key, slot, data, start, size, cache, scratch.ids, count)
    return num_values + count


@njit(cache=True, nogil=True, forceinline=True)
def _hash(data: _Bytes, start: int, size: int) -> np.uint64:
    """Hash bytes, eight at a time and then one by one."""
    mixed = np.uint64(size) * _SPREAD_2
    whole = size - size % 8
    for i in range(0, whole, 8):
        mixed = (mixed ^ _load(data.ctypes.data + start + i)) * _SPREAD_1
        mixed ^= mixed >> np.uint64(32)
    for i in range(whole, size):
        mixed = (mixed ^ np.uint64(data[start + i])) * _SPREAD_1
        mixed ^= mixed >> np.uint64(32)
    return mixed * _SPREAD_2 >> np.uint64(8)


@njit(cache=True, nogil=True)
def _keep_long(key: np.uint64, slot: Any, data: _Bytes, start: int, size: int, cache: _Cache, ids: _Uint32s, count: int) -> None:
    """Put a pre-token among the longer ones; when there is no more room, all of them go first."""
    used = cache.used
    if 8 * used[0] >= cache.long.size or used[1] + size > cache.texts.size or used[2] + count > cache.ids.size:
        cache.long[:] = _ZERO
        used[:] = 0
        slot = np.int64(key) * 4 & (cache.long.size - 1)
    cache.texts[used[1] : used[1] + size] = data[start : start + size]
    cache.ids[used[2] : used[2] + count] = ids[:count]
    cache.long[slot], cache.long[slot + 1], cache.long[slot + 2] = key, np.uint64(size), np.uint64(used[1])
    cache.long[slot + 3] = np.uint64(used[2]) << _ID_BITS | np.uint64(count)
    used[0] += 1
    used[1] += size
    used[2] += count


@njit(cache=True, nogil=True)
def _pair_tables(pairs: _Uint64s) -> tuple[_Uint64s, _Uint32s]:
    """Give a perfect hash of pairs of ids, 40 bits each, in the order of their rank; of a pair that comes twice the last rank counts.

    As in Belazzougui et al., "Hash, displace, and compress" (2009): groups of pairs, the largest first, try
    multipliers until each of their pairs has a place of its own.
    """
    bits = 4
    while 1 << bits < 2 * pairs.size:
        bits += 1
    table = np.full(1 << bits, _ALL, np.uint64)
    factors = np.ones(1 << (bits - 2), np.uint32)
    groups = np.empty(pairs.size, np.int64)
    for rank in range(pairs.size):
        groups[rank] = _group(pairs[rank], factors.size)
    sizes = np.bincount(groups, minlength=factors.size)
    order = np.argsort(groups * 1, kind="mergesort")
    ends = np.cumsum(sizes)
    places = np.empty(max(sizes.max(), 1), np.int64)
    for group in np.argsort(-sizes, kind="mergesort"):
        members = order[ends[group] - sizes[group] : ends[group]]
        factor = np.uint32(1)
        while not _settle(table, pairs, members, factor, places):
            factor += np.uint32(2)
        factors[group] = factor
    return table, factors


@njit(cache=True, nogil=True)
def _settle(table: _Uint64s, pairs: _Uint64s, members: _Int64s, factor: np.uint32, places: _Int64s) -> bool:
    """Put the pairs of a group where a factor sends them, if those places are free."""
    for i in range(members.size):
        pair = pairs[members[i]]
        places[i] = _place(pair, factor, table.size)
        if table[places[i]] != _ALL and table[places[i]] >> _RANK_BITS != pair:
            for j in range(i):
                table[places[j]] = _ALL
            return False
        table[places[i]] = pair << _RANK_BITS | np.uint64(members[i])
    return True


@njit(cache=True, nogil=True, forceinline=True)
def _group(pair: np.uint64, num_groups: int) -> np.int64:
    return np.int64(pair * _SPREAD_1 >> np.uint64(40)) & (num_groups - 1)


@njit(cache=True, nogil=True, forceinline=True)
def _place(pair: np.uint64, factor: np.uint32, size: int) -> np.int64:
    return np.int64((pair * _SPREAD_2 ^ pair >> np.uint64(20)) * np.uint64(factor) * _SPREAD_1 >> np.uint64(36)) & (size - 1)


@njit(cache=True, nogil=True, forceinline=True)
def _rank(model: Model, left: np.uint32, right: np.uint32) -> np.uint32:
    """Give the rank of a pair of ids, or `_NO_MERGE`: two loads and no branch."""
    pair = np.uint64(left) << _ID_BITS | np.uint64(right)
    found = model.merges[_place(pair, model.factors[_group(pair, model.factors.size)], model.merges.size)]
    return np.uint32(found & _RANK_MASK) if found >> _RANK_BITS == pair else _NO_MERGE


@njit(cache=True, nogil=True)
def _merge(data: _Bytes, start: int, size: int, model: Model, scratch: _Scratch) -> Any:
    """Merge a pre-token of up to 256 bytes, looking for the least rank again and again; give the number of ids.

    A pair is its rank and the place of its left symbol in one number, so that the least is the one to merge; symbols
    stay where they are, linked, and the outermost have neighbours that merge with nothing: hardly a branch.
    """
    ids, heads, before, after = scratch
    for i in range(size):
        ids[i] = model.byte_ids[data[start + i]]
        before[i], after[i] = i - 1, i + 1
    ids[size], ids[size + 1], before[0] = _NOBODY, _NOBODY, size + 1
    for i in range(size):
        heads[i] = _head(_rank(model, ids[i], ids[i + 1]), i)
    while True:
        least = heads[0]
        for i in range(1, size):
            least = min(least, heads[i])
        if least == _NO_MERGE:
            break
        at, rank = np.int64(least & np.uint32(0xFF)), least >> np.uint32(8)
        gone = after[at]
        left, right = before[at], after[gone]
        ids[at], heads[gone] = model.merged[rank], _NO_MERGE
        after[at], before[right] = right, at
        heads[at] = _head(_rank(model, ids[at], ids[right]), at)
        heads[left] = _head(_rank(model, ids[left], ids[at]), left)
    symbol, count = 0, 0
    while symbol < size:
        ids[count] = ids[symbol]
        symbol, count = after[symbol], count + 1
    return count


@njit(cache=True, nogil=True, forceinline=True)
def _head(rank: np.uint32, at: int) -> np.uint32:
    return np.uint32(rank << np.uint32(8) | np.uint32(at)) if rank != _NO_MERGE else _NO_MERGE


@njit(cache=True, nogil=True)
def _merge_long(text: _Bytes, model: Model, values: _Uint32s, num_values: int) -> int:
    """Merge a long pre-token with a heap of ranks and places, as `tokenizers` does, and append its ids."""
    ids = model.byte_ids[text]
    before, after = np.arange(-1, text.size - 1), np.arange(1, text.size + 1)
    heap, length = np.empty(2 * text.size, np.uint64), 0
    for i in range(text.size - 1):
        length = _push(heap, length, _rank(model, ids[i], ids[i + 1]), i)
    while length > 0:
        at, rank = np.int64(heap[0] & np.uint64(0xFFFFFFFF)), np.uint32(heap[0] >> np.uint64(32))
        length = _pop(heap, length)
        right = after[at]
        if right == text.size or before[right] != at or _rank(model, ids[at], ids[right]) != rank:
            continue
        ids[at] = model.merged[rank]
        after[at], before[right] = after[right], -2  # the right one is no more
        if after[at] < text.size:
            before[after[at]] = at
            length = _push(heap, length, _rank(model, ids[at], ids[after[at]]), at)
        if before[at] >= 0:
            length = _push(heap, length, _rank(model, ids[before[at]], ids[at]), before[at])
    symbol = 0
    while symbol < text.size:
        values[num_values] = ids[symbol]
        symbol, num_values = after[symbol], num_values + 1
    return num_values


@njit(cache=True, nogil=True)
def _push(heap: _Uint64s, length: int, rank: np.uint32, at: int) -> int:
    """Add a pair, if it merges; give the new length."""
    if rank == _NO_MERGE:
        return length
    item, i = np.uint64(rank) << np.uint64(32) | np.uint64(at), length
    while i > 0 and heap[(i - 1) >> 1] > item:
        heap[i] = heap[(i - 1) >> 1]
        i = (i - 1) >> 1
    heap[i] = item
    return length + 1


@njit(cache=True, nogil=True)
def _pop(heap: _Uint64s, length: int) -> int:
    """Remove the least; give the new length."""
    length -= 1
    item, i, child = heap[length], 0, 1
    while child < length:
        child += child + 1 < length and heap[child + 1] < heap[child]
        if heap[child] >= item:
            break
        heap[i] = heap[child]
        i, child = child, 2 * child + 1
    heap[i] = item
    return length
