"""The noise that a randomised compressor compares x with, and how the master takes it out again.

The bit is x_j > N_j: so it is sign(x - N), and subtractive dither adds N to what the bit stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gcdl.compressors.base import Draw
from gcdl.compressors.dither import Dither, DitherName, Source
from gcdl.compressors.kernels import Kernels, Wraps
from gcdl.compressors.scale_groups import Block
from gcdl.types import Buffer, Vector

_HALF_RANGE = float(1 << 15)
_RANGE = 1 << 16

Adder = Callable[[Block, Vector, Kernels], None]
"""Adds noise to a block of a sum."""


class Noise(Protocol):
    """One shape of noise under one dither."""

    dither: Dither

    def quantise(self, block: Block, x: Vector, scales: Vector, source: Source, out: Buffer, kernels: Kernels) -> None:
        """Write the bits x > N of a block's x, for the scales M, (q,), of the groups it meets."""
        ...

    def adder(self, draws: Sequence[Draw], scales: NDArray[np.float32]) -> Adder:
        """Return what adds sum_i N_i, the scales of message i being scales[i], (m, G), negative ones included."""
        ...


class UniformNoise:
    """N uniform on [-M, M)."""

    def __init__(self, dither: DitherName) -> None:
        self.dither = Dither(dither)

    def quantise(self, block: Block, x: Vector, scales: Vector, source: Source, out: Buffer, kernels: Kernels) -> None:
        """Write the bits; see :class:`Noise`. M = 0 leaves a fair coin, whose value is zero."""
        with np.errstate(divide="ignore"):
            units = np.where(scales > 0.0, _HALF_RANGE / scales.astype(np.float64), 0.0).astype(np.float32)
        kernels.stochastic(x, units, block.edges, source.stream(block.number), source.delta(block.number), out)

    def adder(self, draws: Sequence[Draw], scales: NDArray[np.float32]) -> Adder:
        """Return the adder; with correlated dither one pass serves all messages."""
        sources = [self.dither.source(draw) for draw in draws]
        units = scales.astype(np.float64) / _HALF_RANGE
        if self.dither.correlated:
            return _steps(sources, units)
        rounded = units.astype(np.float32)

        def add(block: Block, into: Vector, kernels: Kernels) -> None:
            for source, exact, unit in zip(sources, units, rounded, strict=True):
                offsets = (exact[block.groups] * source.delta(block.number)).astype(np.float32)
                kernels.add_ramp(source.stream(block.number), unit[block.groups], offsets, block.edges, into)

        return add


def _steps(sources: Sequence[Source], units: NDArray[np.float64]) -> Adder:
    """Return the adder of sum_i unit_i (wrap(r + shift_i) + delta), r the same for all.

    wrap(r + shift) is r + shift, or 2^16 less for those r that pass the end of the int16: as r grows, the workers pass it one
    after another, the largest shift first. So the sum is r sum_i unit_i plus a level that depends on how many have passed.
    """
    order = sorted(range(len(sources)), key=lambda i: -sources[i].shift)
    shifts = np.array([sources[i].shift for i in order], dtype=np.int64)
    units = units[order]
    wraps = _wraps(*shifts.tolist())
    slope = units.sum(axis=0)
    levels = np.empty((units.shape[1], len(sources) + 1))
    levels[:, 0] = shifts @ units
    levels[:, 1:] = levels[:, :1] - _RANGE * np.cumsum(units, axis=0).T
    slopes = slope.astype(np.float32)
    common = Source(sources[0].key, 0)

    def add(block: Block, into: Vector, kernels: Kernels) -> None:
        delta = common.delta(block.number)
        level = (levels[block.groups] + delta * slope[block.groups, np.newaxis]).astype(np.float32)
        kernels.add_steps(common.stream(block.number), wraps, slopes[block.groups], level, block.edges, into)

    return add


@lru_cache(maxsize=64)
def _wraps(*shifts: int) -> Wraps:
    """Return the thresholds of these shifts. Kept, for the sets of workers that answer come again, and its table is large."""
    return Wraps((_RANGE // 2 - np.array(shifts, dtype=np.int64)).astype(np.int32))


class NormalNoise:
    """N normal with mean 0; M is its mean magnitude times pi / 2, so its standard deviation is M sqrt(2 / pi)."""

    def __init__(self, dither: DitherName) -> None:
        self.dither = Dither(dither)

    def quantise(self, block: Block, x: Vector, scales: Vector, source: Source, out: Buffer, kernels: Kernels) -> None:
        """Write the bits; see :class:`Noise`."""
        with np.errstate(divide="ignore"):
            units = np.where(scales > 0.0, 1.0 / scales.astype(np.float64), 0.0).astype(np.float32)
        noise = kernels.lookup(_quantiles(), source.stream(block.number), len(x))
        kernels.exceeds(x, units, block.edges, noise, out)

    def adder(self, draws: Sequence[Draw], scales: NDArray[np.float32]) -> Adder:
        """Return the adder: a pass for each message."""
        sources = [self.dither.source(draw) for draw in draws]

        def add(block: Block, into: Vector, kernels: Kernels) -> None:
            for source, scale in zip(sources, scales, strict=True):
                noise = kernels.lookup(_quantiles(), source.stream(block.number), len(into))
                kernels.add_noise(noise, scale[block.groups], block.edges, into)

        return add


@cache
def _quantiles() -> Vector:
    """Return (65536,): normal noise in units of M, by r as uint16: the quantile (r + 2^15 + 1/2) / 2^16."""
    normal = NormalDist(0.0, (2.0 / np.pi) ** 0.5)
    ascending = [normal.inv_cdf((u + 0.5) / _RANGE) for u in range(_RANGE)]
    return np.roll(np.array(ascending), _RANGE // 2).astype(np.float32)
