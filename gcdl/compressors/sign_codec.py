"""The engine of every one-bit compressor: it lays out the payload and decodes; a quantiser decides the bits.

A message tells its energy, size * M^2 for a tensor of scale M, but not how much of it is signal. ``signal_share``,
||x||^2 / (size M^2) for a tensor of that size, comes from the quantiser: exact where M is a norm, else as for normal x.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcdl.compressors.base import Draw, Message, State, Stateless
from gcdl.compressors.bits import DRAW_BLOCK, SignSum, packed_bytes
from gcdl.types import Buffer, Layout, Vector


@dataclass(frozen=True, eq=False)
class Scratch:
    """Buffers a quantiser may use: ``signs`` (d,) bool, ``block`` (at most DRAW_BLOCK,) float32."""

    signs: NDArray[np.bool_]
    block: Vector


Quantiser = Callable[[Vector, Layout, Draw, Buffer, Vector, Scratch], None]
"""(x, layout, draw, bits out (ceil(d/8),), scales out (T,), scratch): writes the bits and the scales of x, (d,)."""


def normal_share(size: int) -> float:
    """Return ||x||^2 / (size M^2) for normal x and M = mean|x|: pi / 2."""
    return math.pi / 2.0


class SignCodec(Stateless):
    """Bits, then one float32 scale per tensor (``scaled``) or none, every value then being +-1."""

    def __init__(
        self,
        layout: Layout,
        quantise: Quantiser,
        *,
        scaled: bool,
        signal_share: Callable[[int], float] = normal_share,
    ) -> None:
        d, tensors = layout.size, len(layout.names)
        self.layout = layout
        self.quantise = quantise
        self.scaled = scaled
        self._bits_bytes = packed_bytes(d)
        self.payload_bytes = self._bits_bytes + (4 * tensors if scaled else 0)
        self._scales = np.ones(tensors, dtype=np.float32)
        self._scratch = Scratch(np.empty(d, dtype=np.bool_), np.empty(min(d, DRAW_BLOCK), dtype=np.float32))
        self._sum = SignSum(layout)
        self._sizes = np.array([where.stop - where.start for where in layout.slices], dtype=np.float64)
        self._shares = np.array([signal_share(int(size)) if size else 1.0 for size in self._sizes])

    def compress(self, x: Vector, state: State, draw: Draw, out: Buffer) -> State:
        """Write the bits, then the scales; see :class:`gcdl.compressors.base.Codec`."""
        self.quantise(x, self.layout, draw, out[: self._bits_bytes], self._scales, self._scratch)
        if self.scaled:
            out[self._bits_bytes :] = self._scales.view(np.uint8)
        return state

    def decode(self, messages: Sequence[Message], into: Vector) -> None:
        """Overwrite ``into`` with sum_i weight_i * scale_i * (+-1)_i."""
        weights = np.empty((len(messages), self._scales.size), dtype=np.float32)
        for row, message in zip(weights, messages, strict=True):
            row[:] = message.weight
            if self.scaled:
                row *= self._read_scales(message.payload)
        self._sum([message.payload[: self._bits_bytes] for message in messages], weights, into)

    def energy(self, payload: Buffer) -> tuple[float, float]:
        """Return ||x||^2 and E||Q(x) - x||^2 as the scales tell: both in shares of size * M^2 per tensor.

        With share the signal's, the noise's is |1 - share|: M^2 - x_j^2 for an unbiased quantiser; for a deterministic one
        with M = mean|x| the squared error x_j^2 - M^2.
        """
        square = self._sizes * (self._read_scales(payload).astype(np.float64) ** 2 if self.scaled else 1.0)
        return float(square @ self._shares), float(square @ np.abs(1.0 - self._shares))

    def _read_scales(self, payload: Buffer) -> Vector:
        return np.frombuffer(payload[self._bits_bytes :].tobytes(), dtype=np.float32)
