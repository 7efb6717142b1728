"""How the random numbers of the workers relate.

A randomised one-bit compressor compares x with noise made from u, uniform on [0, 1) for each coordinate:

- ``independent``: every worker has a u of its own.
- ``correlated``: all workers share v, uniform, and worker i uses u = frac(v + pi(i) / n), pi a permutation drawn each step.
  Still uniform for each worker, but stratified across workers: where their inputs are alike, the errors cancel (Suresh et
  al., *Correlated Quantization for Distributed Mean Estimation and Optimization*, ICML 2022). pi(i) / n is rounded down to a
  multiple of 2^-16.
- ``subtractive``: the master, who can draw the same u, takes the noise out again. The error is then uniform and independent
  of x (Roberts 1962; Schuchman 1964), its variance a third of the worst case without.
- ``correlated+subtractive``: both.

All of it is recreated from (seed, step, worker, block of coordinates) by counter-based generation (Salmon et al., *Parallel
Random Numbers: As Easy as 1, 2, 3*, SC 2011): no state is shared or kept, and integer arithmetic alone decides the numbers,
so that they are the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gcdl.compressors.base import Draw
from gcdl.compressors.kernels import BLOCK, Stream16, mix, random_words
from gcdl.types import IntVector, Stream, seed_words

DitherName = Literal["independent", "correlated", "subtractive", "correlated+subtractive"]

_ORDER_COUNTER = 1 << 62  # these lie far from every coordinate's
_DELTA_COUNTER = 1 << 63
_DELTA_BITS = 24  # what a float32 in [0, 1) holds exactly


@dataclass(frozen=True, slots=True)
class Source:
    """The random numbers of one message: 16 bits a coordinate, and one fraction of their last place a block.

    (r + delta) / 2^15, r the 16 bits as a signed integer, is uniform on [-1, 1): the 16-bit grid adds no bias.
    """

    key: tuple[int, int]
    shift: int

    def stream(self, block: int) -> Stream16:
        """Return where r of a block's coordinates comes from."""
        return Stream16(self.key, block * (BLOCK // 4), self.shift)

    def delta(self, block: int) -> float:
        """Return delta of a block, in [0, 1)."""
        return (mix(_DELTA_COUNTER + block, self.key) >> (64 - _DELTA_BITS)) / float(1 << _DELTA_BITS)


class Dither:
    """A dither at work: finds the source of each message."""

    def __init__(self, name: DitherName) -> None:
        self.correlated = name.startswith("correlated")
        self.subtractive = name.endswith("subtractive")
        self._step: tuple[int, int, int] | None = None
        self._key = (0, 0)
        self._shifts: IntVector = np.zeros(0, dtype=np.int64)

    def source(self, draw: Draw) -> Source:
        """Return the source of the message with this key."""
        if not self.correlated:
            return Source(seed_words(draw.seed, Stream.COMPRESSOR, draw.step, draw.worker), 0)
        step = (draw.seed, draw.step, draw.n)
        if step != self._step:
            self._key = seed_words(draw.seed, Stream.DITHER, draw.step)
            self._shifts = (_permutation(draw.n, self._key) << 16) // draw.n
            self._step = step
        return Source(self._key, int(self._shifts[draw.worker]))


def _permutation(n: int, key: tuple[int, int]) -> IntVector:
    """Return a random permutation of 0 .. n-1: the order of n random words."""
    words = np.empty(n, dtype=np.uint64)
    for start in range(0, n, BLOCK // 4):
        part = words[start : start + BLOCK // 4]
        random_words(_ORDER_COUNTER + start, key, part, np.empty_like(part))
    return np.argsort(words, kind="stable")
