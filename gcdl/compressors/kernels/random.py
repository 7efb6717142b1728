"""Counter-based random numbers: a number depends on a key and on its place alone, so that no state is kept or shared.

64 random bits at a counter are Steele, Lea and Flood's SplitMix64 finaliser (*Fast Splittable Pseudorandom Number
Generators*, OOPSLA 2014), keyed twice. Each gives four 16-bit numbers, one a coordinate.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """Return the 64 random bits at a counter.

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


class Streams:
    """Where the 16-bit random numbers of m messages come from.

    ``keys``, (m, 2) uint64; ``shifts``, (m,) int16, added modulo 2^16. A block's numbers begin at word ``first`` of each key.
    """

    def __init__(self, keys: Sequence[tuple[int, int]], shifts: Sequence[int]) -> None:
        self.keys = np.array(keys, dtype=np.uint64).reshape(-1, 2)
        self.shifts = np.array(shifts, dtype=np.uint16).view(np.int16)
        self._streams = [Stream16(key, 0, shift) for key, shift in zip(keys, shifts, strict=True)]

    def at(self, first: int) -> list[Stream16]:
        """Return each message's numbers from word ``first`` on."""
        return [stream._replace(first=first) for stream in self._streams]

    def mixed(self, counter: int) -> Words:
        """Return :func:`mix` at a counter for each key, (m,)."""
        z = self.keys[:, 0] + np.uint64(counter * GAMMA & ALL)
        z = ((z ^ (z >> np.uint64(30))) * np.uint64(MIX_1)) ^ self.keys[:, 1]
        z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX_2)
        return z ^ (z >> np.uint64(31))


@cache
def _counters() -> Words:
    with np.errstate(over="ignore"):
        return np.arange(BLOCK // 4, dtype=np.uint64) * np.uint64(GAMMA)
