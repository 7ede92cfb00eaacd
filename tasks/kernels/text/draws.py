"""Random numbers fixed by a seed and a name, never by order, so that no cut of a corpus changes them.

Counter-based in the sense of Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3": number i of a name is
a hash of (seed, purpose, name, i). The name's bytes are absorbed by FNV-1a, 64 bits; the finaliser is SplitMix64's
(Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
Guarantee: equal on every machine; independent between purposes and between names. Not for secrets.
Cost: one multiplication a byte of the name.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from starloom.tasks.kernels.compiled import njit
from starloom.tasks.kernels.text.arrow_bytes import string_buffers

if TYPE_CHECKING:
    import pyarrow as pa

_Uint64s = NDArray[np.uint64]

FNV_PRIME = np.uint64(0x100000001B3)
GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)


@njit(cache=True, nogil=True)
def mix64(z: np.uint64) -> np.uint64:
    """Apply SplitMix64's finaliser: a bijection of 64 bits in which every bit depends on every other."""
    z = (z ^ (z >> np.uint64(30))) * MIX_1
    z = (z ^ (z >> np.uint64(27))) * MIX_2
    return z ^ (z >> np.uint64(31))


@njit(cache=True, nogil=True)
def _draw(offsets: NDArray[np.int64], data: NDArray[np.uint8], key: np.uint64, out: _Uint64s) -> None:
    for row in range(out.shape[0]):
        state = key
        for at in range(offsets[row], offsets[row + 1]):
            state = (state ^ np.uint64(data[at])) * FNV_PRIME
        for column in range(out.shape[1]):
            out[row, column] = mix64(state + np.uint64(column + 1) * GOLDEN_GAMMA)


def draw(names: pa.Array | pa.ChunkedArray, seed: int, purpose: str, num: int = 1) -> _Uint64s:
    """Draw `num` numbers, uniform over 64 bits, for each of n names: uint64 [n, num]."""
    offsets, data = string_buffers(names)
    digest = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=8).digest()
    out = np.empty((len(names), num), np.uint64)
    _draw(offsets, data, np.uint64(int.from_bytes(digest, "little")), out)
    return out


def happens(draws: _Uint64s, probability: float) -> NDArray[np.bool_]:
    """Return which draws fall under a probability: none at 0, all at 1."""
    return (draws >> np.uint64(11)).astype(np.float64) * 2.0**-53 < probability
