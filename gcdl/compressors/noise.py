"""The noise that a randomised compressor compares x with, and how the master takes it out again.

The bit is x_j > N_j: so it is sign(x - N), and subtractive dither adds N to what the bit stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from statistics import NormalDist
from typing import Protocol

import numpy as np

from gcdl.compressors.base import Draw
from gcdl.compressors.dither import Dither, DitherName, first_word
from gcdl.compressors.kernels import Kernels, Values, wraps_of
from gcdl.compressors.scale_groups import Block
from gcdl.types import Buffer, Vector

_HALF_RANGE = float(1 << 15)
_RANGE = 1 << 16

Quantiser = Callable[[Block, Vector, Buffer, Kernels], None]
"""Writes the bits x > N of a block's x."""
Adder = Callable[[Block, Vector, Kernels], None]
"""Adds noise to a block of a sum."""


class Noise(Protocol):
    """One shape of noise under one dither."""

    dither: Dither

    def quantiser(self, draw: Draw, scales: Vector) -> Quantiser:
        """Return what writes the bits of the message with this draw, for the scales M, (G,)."""
        ...

    def adder(self, draws: Sequence[Draw], scales: Values) -> Adder:
        """Return what adds sum_i N_i, the scales of message i being row i of ``scales``, negative ones included."""
        ...


class UniformNoise:
    """N uniform on [-M, M)."""

    def __init__(self, dither: DitherName) -> None:
        self.dither = Dither(dither)

    def quantiser(self, draw: Draw, scales: Vector) -> Quantiser:
        """Return the quantiser. M = 0 leaves a fair coin, whose value is zero."""
        source, units = self.dither.source(draw), _inverse(_HALF_RANGE, scales)

        def quantise(block: Block, x: Vector, out: Buffer, kernels: Kernels) -> None:
            stream, delta = source.stream(block.number), source.delta(block.number)
            kernels.stochastic(x, units[block.groups], block.edges, stream, delta, out)

        return quantise

    def adder(self, draws: Sequence[Draw], scales: Values) -> Adder:
        """Return the adder; with correlated dither one pass serves all messages."""
        if self.dither.correlated:
            return self._shared_adder(draws, scales)
        sources = self.dither.sources(draws)

        def add(block: Block, into: Vector, kernels: Kernels) -> None:
            exact = scales.block(block.groups) / np.float64(_HALF_RANGE)
            offsets = exact * sources.deltas(block.number)[:, np.newaxis]
            units = exact.astype(np.float32), offsets.astype(np.float32)
            kernels.add_ramps(sources.streams, first_word(block.number), *units, block.edges, into)

        return add

    def _shared_adder(self, draws: Sequence[Draw], scales: Values) -> Adder:
        wraps = wraps_of(*(draw.shift for draw in draws))
        common = self.dither.source(draws[0])._replace(shift=0)

        def add(block: Block, into: Vector, kernels: Kernels) -> None:
            stream, delta = common.stream(block.number), common.delta(block.number)
            kernels.add_steps(stream, wraps, scales, block.groups, delta, block.edges, into)

        return add


class NormalNoise:
    """N normal with mean 0; M is its mean magnitude times pi / 2, so its standard deviation is M sqrt(2 / pi)."""

    def __init__(self, dither: DitherName) -> None:
        self.dither = Dither(dither)

    def quantiser(self, draw: Draw, scales: Vector) -> Quantiser:
        """Return the quantiser; see :class:`Noise`."""
        source, units = self.dither.source(draw), _inverse(1.0, scales)

        def quantise(block: Block, x: Vector, out: Buffer, kernels: Kernels) -> None:
            kernels.exceeds(x, units[block.groups], block.edges, _quantiles(), source.stream(block.number), out)

        return quantise

    def adder(self, draws: Sequence[Draw], scales: Values) -> Adder:
        """Return the adder."""
        sources = self.dither.sources(draws)

        def add(block: Block, into: Vector, kernels: Kernels) -> None:
            first, units = first_word(block.number), scales.block(block.groups)
            kernels.add_noises(_quantiles(), sources.streams, first, units, block.edges, into)

        return add


def _inverse(numerator: float, scales: Vector) -> Vector:
    """Return numerator / scale, 0 where the scale is 0."""
    with np.errstate(divide="ignore"):
        return np.where(scales > 0.0, numerator / scales.astype(np.float64), 0.0).astype(np.float32)


@cache
def _quantiles() -> Vector:
    """Return (65536,): normal noise in units of M, by r as uint16: the quantile (r + 2^15 + 1/2) / 2^16."""
    normal = NormalDist(0.0, (2.0 / np.pi) ** 0.5)
    ascending = [normal.inv_cdf((u + 0.5) / _RANGE) for u in range(_RANGE)]
    return np.roll(np.array(ascending), _RANGE // 2).astype(np.float32)
