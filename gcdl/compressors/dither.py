"""How the random numbers of the workers relate.

A randomised one-bit compressor compares x with noise made from u, uniform on [0, 1) for each coordinate:

- ``independent``: every worker has a u of its own.
- ``correlated``: all workers share v, uniform, and worker i uses u = frac(v + place_i / n), the places a permutation of 0 ..
  n-1. Still uniform for each worker, but stratified across workers: where their inputs are alike, the errors cancel (Suresh
  et al., *Correlated Quantization for Distributed Mean Estimation and Optimization*, ICML 2022, with a random permutation).
  Ours is made for the code: workers that hold the same shards lie far apart; see :mod:`gcdl.codes.construction.dither_places`.
  place_i / n is rounded down to a multiple of 2^-16.
- ``subtractive``: the master, who can draw the same u, takes the noise out again. The error is then uniform and independent
  of x (Roberts 1962; Schuchman 1964), its variance a third of the worst case without.
- ``correlated+subtractive``: both.

All of it is recreated from (seed, step, worker, block of coordinates) by counter-based generation (Salmon et al., *Parallel
Random Numbers: As Easy as 1, 2, 3*, SC 2011): no state is shared or kept, and integer arithmetic alone decides the numbers,
so that they are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from gcdl.compressors.base import Draw
from gcdl.compressors.kernels import BLOCK, Stream16, Streams, mix
from gcdl.types import Stream, Weights, seed_words

DitherName = Literal["independent", "correlated", "subtractive", "correlated+subtractive"]

_DELTA_COUNTER = 1 << 63  # far from every coordinate's
_DELTA_BITS = 24  # what a float32 in [0, 1) holds exactly


def first_word(block: int) -> int:
    """Return the number of the first random word of a block: a word serves four coordinates."""
    return block * (BLOCK // 4)


class Source(NamedTuple):
    """The random numbers of one message: 16 bits a coordinate, and one fraction of their last place a block.

    (r + delta) / 2^15, r the 16 bits as a signed integer, is uniform on [-1, 1): the 16-bit grid adds no bias.
    """

    key: tuple[int, int]
    shift: int

    def stream(self, block: int) -> Stream16:
        """Return where r of a block's coordinates comes from."""
        return Stream16(self.key, first_word(block), self.shift)

    def delta(self, block: int) -> float:
        """Return delta of a block, in [0, 1)."""
        return (mix(_DELTA_COUNTER + block, self.key) >> (64 - _DELTA_BITS)) / float(1 << _DELTA_BITS)


class Sources:
    """Those of m messages."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.streams = Streams([source.key for source in sources], [source.shift for source in sources])

    def deltas(self, block: int) -> Weights:
        """Return delta of a block for each message, (m,)."""
        return (self.streams.mixed(_DELTA_COUNTER + block) >> np.uint64(64 - _DELTA_BITS)) / np.float64(1 << _DELTA_BITS)


class Dither:
    """A dither at work: finds the source of each message."""

    def __init__(self, name: DitherName) -> None:
        self.correlated = name.startswith("correlated")
        self.subtractive = name.endswith("subtractive")

    def source(self, draw: Draw) -> Source:
        """Return the source of the message with this draw."""
        if self.correlated:
            return Source(seed_words(draw.seed, Stream.DITHER, draw.step), draw.shift)
        return Source(seed_words(draw.seed, Stream.COMPRESSOR, draw.step, draw.worker), 0)

    def sources(self, draws: Sequence[Draw]) -> Sources:
        """Return the sources of these messages."""
        return Sources([self.source(draw) for draw in draws])
