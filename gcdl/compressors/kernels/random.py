"""Counter-based random numbers: a number depends on a key and on its place alone, so that no state is kept or shared.

64 random bits at a counter are Steele, Lea and Flood's SplitMix64 finaliser (*Fast Splittable Pseudorandom Number
Generators*, OOPSLA 2014), keyed twice. Each gives four 16-bit numbers, one a coordinate.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcdl.compressors.kernels.blocks import BLOCK

Words = NDArray[np.uint64]
Shorts = NDArray[np.int16]

GAMMA = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB
ALL = (1 << 64) - 1


class Stream16(NamedTuple):
    """Where a block's 16-bit random numbers come from: words ``first``, ... of a key, with ``shift`` added modulo 2^16."""

    key: tuple[int, int]
    first: int
    shift: int


def mix(counter: int, key: tuple[int, int]) -> int:
    """Return the 64 random bits at a counter: Steele, Lea and Flood's SplitMix64 finaliser (OOPSLA 2014), keyed twice.

    The second key word goes in half way, so that two keys give different numbers even where their counters meet.
    """
    z = (counter * GAMMA + key[0]) & ALL
    z = ((z ^ (z >> 30)) * MIX_1) & ALL
    z ^= key[1]
    z = ((z ^ (z >> 27)) * MIX_2) & ALL
    return z ^ (z >> 31)


def random_words(first: int, key: tuple[int, int], z: Words, t: Words) -> Words:
    """Fill z, (at most BLOCK / 4,) uint64, with :func:`mix` of counters first, first + 1, ...; ``t`` is scratch as long."""
    np.add(_counters()[: z.size], np.uint64((first * GAMMA + key[0]) & ALL), out=z)
    np.right_shift(z, np.uint64(30), out=t)
    np.bitwise_xor(z, t, out=z)
    np.multiply(z, np.uint64(MIX_1), out=z)
    np.bitwise_xor(z, np.uint64(key[1]), out=z)
    np.right_shift(z, np.uint64(27), out=t)
    np.bitwise_xor(z, t, out=z)
    np.multiply(z, np.uint64(MIX_2), out=z)
    np.right_shift(z, np.uint64(31), out=t)
    return np.bitwise_xor(z, t, out=z)


@cache
def _counters() -> Words:
    with np.errstate(over="ignore"):
        return np.arange(BLOCK // 4, dtype=np.uint64) * np.uint64(GAMMA)
