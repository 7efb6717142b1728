"""The engine of every one-bit compressor: it lays out the payload and decodes; a quantiser decides the bits."""

from __future__ import annotations

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


class SignCodec(Stateless):
    """Bits, then one float32 scale per tensor (``scaled``) or none, every value then being +-1."""

    def __init__(self, layout: Layout, quantise: Quantiser, *, scaled: bool) -> None:
        d, tensors = layout.size, len(layout.names)
        self.layout = layout
        self.quantise = quantise
        self.scaled = scaled
        self._bits_bytes = packed_bytes(d)
        self.payload_bytes = self._bits_bytes + (4 * tensors if scaled else 0)
        self._scales = np.ones(tensors, dtype=np.float32)
        self._scratch = Scratch(np.empty(d, dtype=np.bool_), np.empty(min(d, DRAW_BLOCK), dtype=np.float32))
        self._sum = SignSum(layout)

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
                row *= np.frombuffer(message.payload[self._bits_bytes :].tobytes(), dtype=np.float32)
        self._sum([message.payload[: self._bits_bytes] for message in messages], weights, into)
