"""The numbers that travel beside the bits: what a group's two values are, +-M, or two values of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcdl.compressors.kernels import Kernels, Wide
from gcdl.types import IntVector, Vector

LARGEST = float(np.finfo(np.float32).max)
_SMALLEST = 1e-34  # below this 2^15 / M overflows float32: such a group is sent as zeros

Levels = NDArray[np.float32]
"""(1, G): M of each group, its values +-M; or (2, G): its upper and its lower value."""


class Scale(NamedTuple):
    """How levels are found: ``collect`` from each run of a block, ``combine`` over blocks, ``finish`` with the groups' sizes.

    The collected numbers are (c, q) for the q runs of a block, then (c, G). ``rows`` is that of :data:`Levels`; ``bounds``: no
    coordinate is larger than its group's level.
    """

    collect: Callable[[Kernels, Vector, IntVector], NDArray[Any]]
    finish: Callable[[Wide, IntVector], NDArray[Any]]
    combine: np.ufunc = np.add
    columns: int = 1
    rows: int = 1
    bounds: bool = False


def mean_abs() -> Scale:
    """M = mean |x_j|."""
    return Scale(lambda kernels, x, edges: kernels.sums_abs(x, edges), lambda sums, sizes: sums / np.maximum(sizes, 1))


def maximum() -> Scale:
    """M = max |x_j|."""
    return Scale(lambda kernels, x, edges: kernels.maxima(x, edges), lambda found, sizes: _safe(found), np.maximum, bounds=True)


def norm() -> Scale:
    """M = ||x||_2."""
    return Scale(_sums_square, lambda sums, sizes: _safe(np.sqrt(sums)), bounds=True)


def rms(factor: float) -> Scale:
    """M = factor ||x||_2 / sqrt(size)."""
    return Scale(_sums_square, lambda sums, sizes: _safe(factor * np.sqrt(sums / np.maximum(sizes, 1))))


def unbiased() -> Scale:
    """M = ||x||_2^2 / ||x||_1: with it the sign of a randomly rotated vector, rotated back, is unbiased (EDEN)."""

    def collect(kernels: Kernels, x: Vector, edges: IntVector) -> Wide:
        return np.stack([kernels.sums_square(x, edges), kernels.sums_abs(x, edges)])

    def finish(found: Wide, sizes: IntVector) -> Wide:
        squares, total = found
        with np.errstate(invalid="ignore"):
            ratio = squares / np.where(total > 0.0, total, 1.0)
        return _safe(np.where(np.isnan(ratio), LARGEST, ratio))  # both sums overflow where a rotated coordinate does

    return Scale(collect, finish, columns=2)


def two_means() -> Scale:
    """The mean of what is >= 0, and the mean of what is below; where there is only one kind, both are its mean."""

    def collect(kernels: Kernels, x: Vector, edges: IntVector) -> Wide:
        positive = kernels.sums_positive(x, edges)
        return np.stack([positive, kernels.sums_abs(x, edges), kernels.counts_positive(x, edges)])

    def finish(found: Wide, sizes: IntVector) -> Wide:
        positive, total, count = found
        upper = positive / np.maximum(count, 1)
        lower = (positive - total) / np.maximum(sizes - count, 1)
        return np.stack([np.where(count > 0, upper, lower), np.where(count < sizes, lower, upper)])

    return Scale(collect, finish, columns=3, rows=2)


def _sums_square(kernels: Kernels, x: Vector, edges: IntVector) -> Wide:
    return kernels.sums_square(x, edges)


def _safe(magnitude: Wide) -> Wide:
    return np.where(magnitude > _SMALLEST, np.minimum(magnitude, LARGEST), 0.0)
