"""Packing and decoding kernels: the few lines on which the speed of one bit depends.

Everything works in blocks that stay in the cache, in buffers allocated once. Bits are in ``numpy.packbits`` order; bit 1
means +1. A block is unpacked for all messages at once, and summed by one product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gcdl.types import Buffer, Layout, Vector

DRAW_BLOCK = 1 << 17
"""Coordinates that share one random generator. Part of every seed's meaning: never change it."""
_DECODE_BYTES = 1 << 12
_SAFE_SQUARE = 1e-24  # a float32 sum of squares below this may have lost terms to underflow
_ZERO = np.float32(0.0)  # a Python 0.0 is as good; a float64 one makes the comparison five times slower


def packed_bytes(d: int) -> int:
    """Return ceil(d / 8)."""
    return (d + 7) // 8


def pack_signs(x: Vector, out: Buffer, signs: NDArray[np.bool_]) -> None:
    """Write bit = (x >= 0) of x, (d,), to ``out``, (ceil(d/8),). ``signs`` is (d,) scratch. Zero counts as +."""
    np.greater_equal(x, _ZERO, out=signs)
    out[:] = np.packbits(signs)


def max_abs(x: Vector) -> float:
    """Return max |x_j| without a temporary."""
    return float(max(x.max(), -x.min())) if x.size else 0.0


def norm2(x: Vector) -> float:
    """Return ||x||_2; where squares leave float32's range, by way of float64."""
    with np.errstate(over="ignore", under="ignore"):
        square = float(np.dot(x, x))
    if not _SAFE_SQUARE < square < np.inf:
        square = sum(
            float(np.square(x[start : start + DRAW_BLOCK], dtype=np.float64).sum()) for start in range(0, x.size, DRAW_BLOCK)
        )
    return math.sqrt(square)


def mean_abs(x: Vector, scratch: Vector) -> float:
    """Return mean |x_j|, summed block by block in float64. ``scratch``: at least min(d, DRAW_BLOCK) float32."""
    total = 0.0
    for start in range(0, x.size, DRAW_BLOCK):
        part = x[start : start + DRAW_BLOCK]
        total += float(np.abs(part, out=scratch[: part.size]).sum())
    return total / x.size if x.size else 0.0


def pieces(layout: Layout, start: int, stop: int) -> Iterator[tuple[int, slice]]:
    """Yield (tensor, slice) for each tensor's part of coordinates start .. stop, slices relative to start."""
    for tensor, where in enumerate(layout.slices):
        if where.stop <= start:
            continue
        if where.start >= stop:
            return
        yield tensor, slice(max(where.start, start) - start, min(where.stop, stop) - start)


class SignSum:
    """Weighted sums of packed sign messages: unpack a block of all messages, then one matrix-vector product."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._blocks = [
            (first, min(first + _DECODE_BYTES, packed_bytes(layout.size)))
            for first in range(0, packed_bytes(layout.size), _DECODE_BYTES)
        ]
        # Which part of which tensor each block holds does not change: found once.
        self._pieces = [list(pieces(layout, 8 * first, min(8 * last, layout.size))) for first, last in self._blocks]
        self._packed = np.empty((0, _DECODE_BYTES), dtype=np.uint8)
        self._signs = np.empty((0, 8 * _DECODE_BYTES), dtype=np.float32)

    def __call__(self, bits: Sequence[Buffer], weights: NDArray[np.float32], into: Vector) -> None:
        """Overwrite ``into``, (d,), with sum_i weights[i, tensor] * (+-1)_i; ``bits`` m rows, ``weights`` (m, T)."""
        m = len(bits)
        if m == 0:
            into.fill(0.0)
            return
        if self._packed.shape[0] < m:
            self._packed = np.empty((m, _DECODE_BYTES), dtype=np.uint8)
            self._signs = np.empty((m, 8 * _DECODE_BYTES), dtype=np.float32)
        doubled = np.ascontiguousarray(2.0 * weights.T)
        total = weights.sum(axis=0)
        for (first, last), block_pieces in zip(self._blocks, self._pieces, strict=True):
            packed = self._packed[:m, : last - first]
            for row, message in zip(packed, bits, strict=True):
                row[:] = message[first:last]
            signs = self._signs[:m, : 8 * (last - first)]
            np.copyto(signs, np.unpackbits(packed, axis=1))
            start = 8 * first
            for tensor, where in block_pieces:
                part = into[start + where.start : start + where.stop]
                np.dot(doubled[tensor], signs[:, where], out=part)
                part -= total[tensor]
