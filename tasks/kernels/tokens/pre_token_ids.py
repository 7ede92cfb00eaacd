"""Ids of pre-tokens: looked up in a cache of those met lately, merged by rank where they are new.

Sources: Sennrich et al. 2016 (merges by rank); a cache of pre-tokens is what `tokenizers` keeps too; the perfect hash of
pairs of ids, Belazzougui et al., "Hash, displace, and compress" (2009).
Guarantee: the ids are those of merging each pre-token by itself, whatever the cache holds. No hash stands for a text: the
bytes of a pre-token are compared. Memory is bounded: 16 MB for up to fifteen bytes and four ids, two a bucket, 8 MB for larger
ones and those that had to leave their bucket, and 4 MB for what does not fit there, all forgotten together when full.
Cost: one core of an EPYC 9005, 6 ns for a pre-token that is known, 0.1 to 0.2 us for a new one of nine bytes, in which several
are merged at a time. A new one of n bytes takes O(n^2) steps up to 254 bytes and O(n log n) above. The GIL is released.
"""

from __future__ import annotations

import heapq
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]  # comes with numba
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from starloom.tasks.kernels.compiled import njit

_Bytes = NDArray[np.uint8]
_Int64s = NDArray[np.int64]
_Uint32s = NDArray[np.uint32]
_Uint64s = NDArray[np.uint64]

_ALL, _ZERO, _ONE = np.uint64(0xFFFFFFFFFFFFFFFF), np.uint64(0), np.uint64(1)
# Multipliers that spread the bits of a key over the upper ones, which choose the bucket.
_SPREAD_1, _SPREAD_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)  # of splitmix64 and rrmxmx: odd, bits even

ID_BITS = 20
NO_ID = (1 << ID_BITS) - 1
"""An id that no token may have."""
NO_MERGE = np.uint32(0xFFFFFF00)
"""A rank, eight bits up, that no merge has."""
_RANK_BITS, _NO_CANDIDATE = np.uint64(24), 0xFFFFFF << 32

# A pre-token's key is two words: its first fifteen bytes, and its size in the last. A bucket is a cache line of two slots, a
# slot a key, two ids, and two more with the number of ids above them.
SHORT_BYTES, _SHORT_IDS = 15, 4
_SIZE_SHIFT, _COUNT_SHIFT = np.uint64(56), np.uint64(60)
_IDS_MASK = np.uint64((1 << 60) - 1)

# A wide slot is a cache line: the key, its second word inverted so that no look into a bucket takes it for its own; the next
# fifteen bytes; up to seven ids, and last their number. Larger ones lie elsewhere, and in place of ids is where.
_WIDE_BYTES, _WIDE_IDS = 30, 7
_WAYS = 4  # slots whose addresses differ in two bits
_LONG_BYTES = 254  # what is longer is not kept

# A lane is a pre-token that is being merged: its ids; for each pair its rank and place; the places of the neighbours; which
# row it is, its size, and the number of ids. There is room for 254 bytes, two neighbours that merge with nothing, and sixteen more.
LANES, _ABREAST = 4, 16
_HEADS, _AFTER, _BEFORE, _ROW, _SIZE, _COUNT, LANE_BYTES = 1088, 2176, 2464, 2752, 2760, 2768, 2816
_NO_ROW, _IDLE = -1, -2

BLOCK_BYTES = 1024  # of text at a time: keys and the buckets asked for in advance stay in the first-level cache
AT_ONCE = 8  # starts of pre-tokens that are listed without a look at whether they are
OVER_BYTES = 48  # bytes that are read beyond a pre-token


# The tables in memory; numbers are little-endian, offsets in bytes. Addresses are plain integers (`Tables`).
#
# Key of a pre-token, 16 bytes in two words (low, high). The size byte is 1 or more, so a key of zeros is an empty slot:
#
#      0                                                    15    16
#     | first fifteen bytes, zeros behind a shorter one    | size |      size: 1 … 254, or 255 for all above
#
# Short cache: 2^k buckets, each a cache line of two slots. A hash of the key chooses the bucket. A new pre-token
# takes the second slot (the first, if that is empty), and what was there moves to the wide cache. Asked for again, it changes
# places with the first:
#
#      0          16                          32         48                          64
#     | key      | id 0, id 1 | id 2, id 3+n | key      | id 0, id 1 | id 2, id 3+n |      n: number of ids, the top 4 of 64 bits
#
# Wide cache: slots of a cache line, for up to thirty bytes and seven ids, or a reference to more. The hash chooses a slot;
# the group is that and the three others whose addresses differ in bits 6 and 7 (home ^ way << 6), tried in this order:
#
#      0     8         16                    32                                        60        64
#     | low | ~high   | bytes 15 … 29       | up to seven ids                         | number |      at most 30 bytes and 7 ids
#     | low | ~high   | bytes 15 … 29       | place in texts, 8 | place in ids, 8 |   | number |      more of either
#
#     texts: whole bytes of such pre-tokens, end to end      ids: their ids, 4 bytes each, end to end      used: bytes, ids
#
# Merges: a perfect hash of pairs of ids. factors[group of the pair], 4 bytes, leads to merges[place], 8 bytes:
#
#     63          44 43          24 23           0
#     | left id     | right id     | rank         |      all ones: empty          merged[rank] is the id that it makes
#
#     byte_ids[byte] → id      byte_ranks[byte | next byte << 8] → rank << 8, or NO_MERGE (a pair of bytes needs no hash)
#
# Scratch, for the n pre-tokens of a block:
#
#     positions   n + 1 starts, 8 bytes each
#     keys        n rows of 24 bytes: | low | high | address of the bucket |
#     rows        numbers of those that are in no bucket, 8 bytes each
#     masks       by size 0 … 15, and a row 16 for longer ones, 32 bytes each: | mask of low | mask of high | table | shift of the hash |
#     lanes       LANES of LANE_BYTES, each a pre-token that is being merged; place p is that of its p-th byte:
#
#      0             1088                      2176           2464            2752  2760   2768             2816
#     | ids, 4 each | rank << 8 | p, 4 each   | next place   | place before  | row | size | number of ids   |
#
# A plain definition of the result is `merge_plainly` in tests/test_kernel_byte_pairs.py.


class Tables(NamedTuple):
    """The addresses and sizes of the arrays of a model, a cache and the scratch, which must outlive it.

    Handing an array on to a function counts its references, up and down in atomic steps: a quarter of a microsecond a call.
    """

    byte_ids: int
    byte_ranks: int
    merges: int
    num_places: int
    factors: int
    num_factors: int
    merged: int
    wide: int
    wide_bytes: int
    texts: int
    texts_end: int
    ids: int
    ids_end: int
    used: int
    positions: int
    keys: int
    rows: int
    lanes: int
    masks: int


def _memory(bits: int, kind: types.Integer = types.int64) -> tuple[Any, Any]:
    """Make functions that load and store little-endian numbers of so many bits at an address."""
    memory = ir.IntType(bits)

    @intrinsic
    def load(_typing: Any, _address: Any) -> Any:
        def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            number = builder.load(builder.inttoptr(arguments[0], memory.as_pointer()), align=1)
            return builder.zext(number, ir.IntType(64)) if bits < types.int64.bitwidth else number

        return kind(types.int64), build

    @intrinsic
    def store(_typing: Any, _address: Any, _number: Any) -> Any:
        def build(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            number = builder.trunc(arguments[1], memory) if bits < types.int64.bitwidth else arguments[1]
            builder.store(number, builder.inttoptr(arguments[0], memory.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, kind), build

    return load, store


_load, _store = _memory(64, types.uint64)
_load_64, _store_64 = _memory(64)
_load_32, _store_32 = _memory(32)
_load_16, _ = _memory(16)
_load_8, _store_8 = _memory(8)


@intrinsic
def _least(_typing: Any, _address: Any) -> Any:
    """Return the least of sixteen numbers of 32 bits."""

    def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        number, vector, name = ir.IntType(32), ir.VectorType(ir.IntType(32), 16), "llvm.vector.reduce.umin.v16i32"
        least = builder.module.globals.get(name) or ir.Function(builder.module, ir.FunctionType(number, [vector]), name)
        return builder.call(least, [builder.load(builder.inttoptr(arguments[0], vector.as_pointer()), align=1)])

    return types.uint32(types.int64), build


@intrinsic
def _prefetch(_typing: Any, _address: Any) -> Any:
    """Prefetch a cache line."""

    def build(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        ask = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        pointer = builder.inttoptr(arguments[0], byte)
        builder.call(builder.module.declare_intrinsic("llvm.prefetch", [byte], ask), [pointer, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(types.int64), build


def _of_bits(instruction: str, *options: ir.Constant) -> Any:
    """Make a function that applies an LLVM instruction to 64 bits."""

    @intrinsic
    def give(_typing: Any, _bits: Any) -> Any:
        def build(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return getattr(builder, instruction)(*arguments, *options)

        return types.int64(types.uint64), build

    return give


_num_set = _of_bits("ctpop")
_lowest = _of_bits("cttz", ir.Constant(ir.IntType(1), 0))


@njit(cache=True, nogil=True)
def encode(offsets: _Int64s, data: _Bytes, starts: _Uint64s, tables: Tables, copied: _Bytes, values: _Uint32s, lists: _Int64s) -> None:
    """Encode block by block: find where pre-tokens start, their keys, prefetch their buckets, then read the buckets.

    `lists[0]` says how many values there are already.
    """
    text, bits, first_value = np.int64(data.ctypes.data), np.int64(starts.ctypes.data), np.int64(values.ctypes.data)
    output = first_value + 4 * lists[0]
    for i in range(offsets.size - 1):
        at, stop = offsets[i], offsets[i + 1]
        while at < stop:
            count = _pre_tokens(bits, at, stop, tables.positions)
            end, address = _load_64(tables.positions + 8 * count), text
            if end + OVER_BYTES > data.size:
                size = min(end - at, BLOCK_BYTES)
                copied[:size] = data[at : at + size]
                address = np.int64(copied.ctypes.data) - at
            _find_buckets(address, count, tables)
            row, merged_to = 0, 0
            while True:
                row, output = _emit_known(tables.keys, row, count, output)
                if row == count:
                    break
                start, size = _extent(row, tables)
                slot = _find_wide(row, address + start, size, tables)
                if slot != 0:
                    output = _emit_wide(slot, size, tables, output)
                elif size > _LONG_BYTES:
                    output = _merge_long(text + start, size, tables, output)
                elif row >= merged_to:
                    _merge_new(address, row, count, tables)
                    merged_to = count
                    continue
                else:  # merged just now, but another has taken its slot
                    _merge_new(address, row, row + 1, tables)
                    output = _copy_ids(tables.lanes, _load_64(tables.lanes + _COUNT), output)
                row += 1
            at = end
        lists[i + 1] = (output - first_value) >> 2


@njit(cache=True, nogil=True, forceinline=True)
def _pre_tokens(starts: int, at: int, stop: int, positions: int) -> int:
    """Return the number of pre-tokens of a text in the next block, at least one, and where they start and end."""
    end = min(stop, at + BLOCK_BYTES)
    first, last = at >> 6, (end - 1) >> 6
    place = positions
    for word in range(first, last + 1):
        rest = _load(starts + 8 * word)
        if word == first:
            rest &= _ALL << np.uint64(at & 63)
        if word == last:
            rest &= _ALL >> np.uint64(63 - ((end - 1) & 63))
        following = place + 8 * _num_set(rest)
        while place < following:
            for _ in range(AT_ONCE):  # what is too much is written over
                _store_64(place, word * 64 + _lowest(rest))
                rest &= rest - _ONE  # clears the lowest bit set
                place += 8
        place = following
    count = (place - positions) >> 3
    if end == stop:
        _store_64(place, stop)
    elif count > 1:
        count -= 1  # where the last one ends is not known yet
    else:
        _store_64(place, _next_start(starts, end))
    return count


@njit(cache=True, nogil=True)
def _next_start(starts: int, at: int) -> Any:
    """Return the first start at or after a byte."""
    word = at >> 6
    rest = _load(starts + 8 * word) & (_ALL << np.uint64(at & 63))
    while rest == _ZERO:
        word += 1
        rest = _load(starts + 8 * word)
    return word * 64 + _lowest(rest)


@njit(cache=True, nogil=True, forceinline=True)
def _extent(row: int, tables: Tables) -> tuple[int, int]:
    """Return the start and the size of a pre-token."""
    start = _load_64(tables.positions + 8 * row)
    return start, _load_64(tables.positions + 8 * row + 8) - start


@njit(cache=True, nogil=True, forceinline=True)
def _find_buckets(text: int, count: int, tables: Tables) -> None:
    """Find the two words of each pre-token and the address of its bucket, or of its wide slot if it is longer."""
    for i in range(count):
        start, size = _extent(i, tables)
        mask = tables.masks + 32 * min(size, SHORT_BYTES + 1)
        low = _load(text + start) & _load(mask)
        high = _load(text + start + 8) & _load(mask + 8) | np.uint64(min(size, _LONG_BYTES + 1)) << _SIZE_SHIFT
        bucket = _bucket(low, high, mask)
        _prefetch(bucket)
        key = tables.keys + 24 * i
        _store(key, low)
        _store(key + 8, high)
        _store_64(key + 16, bucket)


@njit(cache=True, nogil=True, forceinline=True)
def _bucket(low: np.uint64, high: np.uint64, mask: int) -> Any:
    """Return the address of the cache line that two words are sent to."""
    mixed = (low ^ high * _SPREAD_2) * _SPREAD_1
    return _load_64(mask + 16) + (np.int64(mixed >> _load(mask + 24)) << 6)


@njit(cache=True, nogil=True, forceinline=True)
def _emit_known(keys: int, first: int, count: int, output: Any) -> tuple[int, Any]:
    """Append the ids of pre-tokens up to the first that is not in its bucket; return its number and where the ids end."""
    for i in range(first, count):
        key = keys + 24 * i
        low, high, slot = _load(key), _load(key + 8), _load_64(key + 16)
        if not _holds(slot, low, high):
            if not _holds(slot + 32, low, high):
                return i, output
            for word in range(slot, slot + 32, 8):  # asked for again: first from now on
                first_way, second_way = _load(word), _load(word + 32)
                _store(word, second_way)
                _store(word + 32, first_way)
        rest = _load(slot + 24)
        # always four ids, of which the count says how many stand: the next pre-token writes over the others
        _store(output, _load(slot + 16))
        _store(output + 8, rest & _IDS_MASK)
        output += 4 * np.int64(rest >> _COUNT_SHIFT)
    return count, output


@njit(cache=True, nogil=True, forceinline=True)
def _holds(slot: int, low: np.uint64, high: np.uint64) -> bool:
    return bool((_load(slot) ^ low | _load(slot + 8) ^ high) == _ZERO)


@njit(cache=True, nogil=True)
def _find_wide(row: int, text: int, size: int, tables: Tables) -> Any:
    """Return the wide slot of a pre-token, or 0."""
    low, high = _load(tables.keys + 24 * row), _load(tables.keys + 24 * row + 8)
    third, fourth = _further(text, size, tables.masks)
    home = _bucket(low, high, tables.masks + 32 * (SHORT_BYTES + 1))  # row 16 of the masks: the wide table
    for way in range(_WAYS):
        slot = home ^ way << 6
        if _holds(slot, low, ~high) and _holds(slot + 16, third, fourth):
            if size <= _WIDE_BYTES:
                return slot
            kept, is_same = tables.texts + _load_64(slot + 32), True
            for k in range(_WIDE_BYTES, size):
                is_same &= _load_8(kept + k) == _load_8(text + k)
            if is_same:
                return slot
        if _load_32(slot + 60) == 0:  # they are filled in this order
            return 0
    return 0


@njit(cache=True, nogil=True, forceinline=True)
def _further(text: int, size: int, masks: int) -> tuple[np.uint64, np.uint64]:
    """Return the fifteen bytes after the first fifteen of a pre-token."""
    mask = masks + 32 * min(max(size - SHORT_BYTES, 0), SHORT_BYTES)
    return _load(text + SHORT_BYTES) & _load(mask), _load(text + SHORT_BYTES + 8) & _load(mask + 8)


@njit(cache=True, nogil=True)
def _emit_wide(slot: int, size: int, tables: Tables, output: int) -> Any:
    """Append the ids of a wide slot; return where they end."""
    count = _load_32(slot + 60)
    if size > _WIDE_BYTES or count > _WIDE_IDS:
        return _copy_ids(tables.ids + 4 * _load_64(slot + 40), count, output)
    for word in range(0, 32, 8):
        _store(output + word, _load(slot + 32 + word))
    return output + 4 * count


@njit(cache=True, nogil=True, forceinline=True)
def _copy_ids(ids: int, count: int, output: int) -> Any:
    for k in range(0, 4 * count, 4):
        _store_32(output + k, _load_32(ids + k))
    return output + 4 * count


@njit(cache=True, nogil=True)
def _merge_new(text: int, first: int, last: int, tables: Tables) -> None:
    """Merge the pre-tokens of some rows that are cached nowhere yet, and cache them.

    Each merge waits for the one before; those of other pre-tokens, in other lanes, are done meanwhile.
    """
    row, end = tables.rows, _list_unknown(first, last, tables)
    num_lanes = min((end - row) >> 3, LANES)
    for lane in range(tables.lanes, tables.lanes + num_lanes * LANE_BYTES, LANE_BYTES):
        _store_64(lane + _ROW, _NO_ROW)
    at_work = num_lanes
    while at_work > 0:
        for lane in range(tables.lanes, tables.lanes + num_lanes * LANE_BYTES, LANE_BYTES):
            if _merge_once(lane, tables) or _load_64(lane + _ROW) == _IDLE:
                continue
            if _load_64(lane + _ROW) != _NO_ROW:
                _finish(text, lane, tables)
            while row < end and _is_wide(_load_64(row), text, tables):
                row += 8
            if row < end:
                _begin(_load_64(row), text, lane, tables)
                row += 8
            else:
                _store_64(lane + _ROW, _IDLE)
                at_work -= 1


@njit(cache=True, nogil=True, forceinline=True)
def _list_unknown(first: int, last: int, tables: Tables) -> int:
    """List the rows that are not in their bucket, and prefetch their wide slots; return where the list ends."""
    end = tables.rows
    for row in range(first, last):
        key = tables.keys + 24 * row
        low, high, slot = _load(key), _load(key + 8), _load_64(key + 16)
        if not (_holds(slot, low, high) or _holds(slot + 32, low, high)):
            _prefetch(_bucket(low, high, tables.masks + 32 * (SHORT_BYTES + 1)))
            _store_64(end, row)
            end += 8
    return end


@njit(cache=True, nogil=True, forceinline=True)
def _is_wide(row: int, text: int, tables: Tables) -> Any:
    """Return whether a pre-token has a wide slot, or is too long for one."""
    start, size = _extent(row, tables)
    return size > _LONG_BYTES or _find_wide(row, text + start, size, tables) != 0


@njit(cache=True, nogil=True, forceinline=True)
def _begin(row: int, text: int, lane: int, tables: Tables) -> None:
    """Put a pre-token into a lane, byte by byte; of one of up to fourteen, and its two neighbours, without a branch."""
    start, size = _extent(row, tables)
    _store_64(lane + _ROW, row)
    _store_64(lane + _SIZE, size)
    _store_64(lane + _COUNT, size)
    if size + 2 <= _ABREAST:
        for i in range(_ABREAST):
            _begin_byte(i, i + 1 < size, text + start, lane, tables)
    else:
        for i in range(size):
            _begin_byte(i, i + 1 < size, text + start, lane, tables)
        for i in range(size, size + _ABREAST):
            _store_32(lane + _HEADS + 4 * i, NO_MERGE)
    _store_64(lane + 4 * size, NO_ID << 32 | NO_ID)
    _store_8(lane + _BEFORE, size + 1)


@njit(cache=True, nogil=True, forceinline=True)
def _begin_byte(i: int, has_next: bool, text: int, lane: int, tables: Tables) -> None:
    head = np.uint32(_load_32(tables.byte_ranks + 4 * _load_16(text + i))) | np.uint32(i)
    _store_32(lane + 4 * i, _load_32(tables.byte_ids + 4 * _load_8(text + i)))
    _store_32(lane + _HEADS + 4 * i, head if has_next else NO_MERGE)
    _store_8(lane + _BEFORE + i, i - 1)
    _store_8(lane + _AFTER + i, i + 1)


@njit(cache=True, nogil=True, forceinline=True)
def _merge_once(lane: int, tables: Tables) -> bool:
    """Merge the pair of the least rank, the first of them; return whether there was one.

    A pair is its rank and the place of its left symbol in one number, so that the least is the one to merge; symbols
    stay where they are, linked, and the outermost have neighbours that merge with nothing: no branch.
    """
    size, least = _load_64(lane + _SIZE), _least(lane + _HEADS)
    for k in range(_ABREAST, size, _ABREAST):
        least = min(least, _least(lane + _HEADS + 4 * k))
    if least >= NO_MERGE:
        return False
    at, merged = np.int64(least & np.uint32(0xFF)), _load_32(tables.merged + 4 * np.int64(least >> np.uint32(8)))
    gone, left = _load_8(lane + _AFTER + at), _load_8(lane + _BEFORE + at)
    right = _load_8(lane + _AFTER + gone)
    left_rank = _rank(_load_32(lane + 4 * left), merged, tables)
    right_rank = _rank(merged, _load_32(lane + 4 * right), tables)
    _store_32(lane + 4 * at, merged)
    _store_32(lane + _HEADS + 4 * gone, NO_MERGE)
    _store_32(lane + _HEADS + 4 * at, right_rank | np.uint32(at))
    _store_32(lane + _HEADS + 4 * left, left_rank | np.uint32(left))
    _store_8(lane + _AFTER + at, right)
    _store_8(lane + _BEFORE + right, at)
    _store_64(lane + _COUNT, _load_64(lane + _COUNT) - 1)
    return True


@njit(cache=True, nogil=True, forceinline=True)
def _rank(left: int, right: int, tables: Tables) -> np.uint32:
    """Return the rank of a pair of ids, eight bits up, or `NO_MERGE`: two loads and no branch."""
    pair = np.uint64(left << ID_BITS | right)
    factor = np.uint64(_load_32(tables.factors + 4 * _group(pair, tables.num_factors)))
    found = _load(tables.merges + 8 * _place(pair, factor, tables.num_places))
    return np.uint32(found << np.uint64(8)) if found >> _RANK_BITS == pair else NO_MERGE


@njit(cache=True, nogil=True)
def _finish(text: int, lane: int, tables: Tables) -> None:
    """Join the ids of a lane and keep them in the pre-token's bucket, or in a wide slot if they are many or it is long."""
    row, count, symbol = _load_64(lane + _ROW), _load_64(lane + _COUNT), 0
    for k in range(count):
        _store_32(lane + 4 * k, _load_32(lane + 4 * symbol))
        symbol = _load_8(lane + _AFTER + symbol)
    key = tables.keys + 24 * row
    low, high, slot = _load(key), _load(key + 8), _load_64(key + 16)
    start, size = _extent(row, tables)
    if size > SHORT_BYTES or count > _SHORT_IDS:
        _keep_wide(low, high, text + start, size, lane, count, tables)
        return
    if _holds(slot, low, high) or _holds(slot + 32, low, high):  # merged in two lanes at once
        return
    if _load(slot + 8) != _ZERO:  # the first slot is for what was asked for more than once
        slot += 32
        if _load(slot + 8) != _ZERO:
            rest = _load(slot + 24)
            _store(slot + 24, rest & _IDS_MASK)
            _keep_wide(_load(slot), _load(slot + 8), text, 0, slot + 16, np.int64(rest >> _COUNT_SHIFT), tables)
    _store(slot, low)
    _store(slot + 8, high)
    _store(slot + 16, _load(lane))
    _store(slot + 24, _load(lane + 8) & _IDS_MASK | np.uint64(count) << _COUNT_SHIFT)


@njit(cache=True, nogil=True)
def _keep_wide(low: np.uint64, high: np.uint64, text: int, size: int, ids: int, count: int, tables: Tables) -> None:
    """Put a pre-token into one of its wide slots: its own, an empty one, or the first; all go when there is no more room elsewhere."""
    is_elsewhere = size > _WIDE_BYTES or count > _WIDE_IDS
    num_bytes, num_ids = _load_64(tables.used), _load_64(tables.used + 8)
    if is_elsewhere and (num_bytes + size > tables.texts_end or num_ids + count > tables.ids_end):
        num_bytes, num_ids = 0, 0
        for line in range(tables.wide, tables.wide + tables.wide_bytes, 8):
            _store(line, _ZERO)
    third, fourth = _further(text, size, tables.masks)
    home = slot = _bucket(low, high, tables.masks + 32 * (SHORT_BYTES + 1))
    for way in range(_WAYS):
        other = home ^ way << 6
        if _load_32(other + 60) == 0 or (_holds(other, low, ~high) and _holds(other + 16, third, fourth)):
            slot = other
            break
    _store(slot, low)
    _store(slot + 8, ~high)
    _store(slot + 16, third)
    _store(slot + 24, fourth)
    if is_elsewhere:
        _store_64(slot + 32, num_bytes)
        _store_64(slot + 40, num_ids)
        for k in range(size):
            _store_8(tables.texts + num_bytes + k, _load_8(text + k))
        num_bytes, num_ids = num_bytes + size, (_copy_ids(ids, count, tables.ids + 4 * num_ids) - tables.ids) >> 2
    else:
        _copy_ids(ids, count, slot + 32)
    _store_32(slot + 60, count)
    _store_64(tables.used, num_bytes)
    _store_64(tables.used + 8, num_ids)


@njit(cache=True, nogil=True)
def _merge_long(text: int, size: int, tables: Tables, output: int) -> Any:
    """Merge a long pre-token with a heap of ranks and places, as `tokenizers` does, and append its ids; return where they end."""
    ids, before, after = np.empty(size, np.int64), np.arange(-1, size - 1), np.arange(1, size + 1)
    for i in range(size):
        ids[i] = _load_32(tables.byte_ids + 4 * _load_8(text + i))
    candidates = [_candidate(ids[i], ids[i + 1], i, tables) for i in range(size - 1)]
    heap = [candidate for candidate in candidates if candidate < _NO_CANDIDATE]
    heapq.heapify(heap)
    while len(heap) > 0:
        least = heapq.heappop(heap)
        at = least & 0xFFFFFFFF
        right = after[at]
        if right == size or before[right] != at or _candidate(ids[at], ids[right], at, tables) != least:
            continue
        ids[at] = _load_32(tables.merged + 4 * (least >> 32))
        after[at], before[right] = after[right], -2  # the right one is no more
        for left in (before[at], at):
            if left >= 0 and after[left] < size:
                before[after[left]] = left
                candidate = _candidate(ids[left], ids[after[left]], left, tables)
                if candidate < _NO_CANDIDATE:
                    heapq.heappush(heap, candidate)
    symbol = 0
    while symbol < size:
        _store_32(output, ids[symbol])
        symbol, output = after[symbol], output + 4
    return output


@njit(cache=True, nogil=True, forceinline=True)
def _candidate(left: int, right: int, at: int, tables: Tables) -> Any:
    """Return the rank of a pair and its place in one number, the largest number for no merge."""
    return np.int64(_rank(left, right, tables) >> np.uint32(8)) << 32 | at


@njit(cache=True, nogil=True)
def pair_tables(pairs: _Uint64s) -> tuple[_Uint64s, _Uint32s]:
    """Return a perfect hash of pairs of ids, 40 bits each, in the order of their rank; of a repeated pair the last rank counts.

    Groups of pairs, the largest first, try multipliers until each of their pairs has a place of its own.
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
    """Place the pairs of a group where a factor sends them, if those places are free."""
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
