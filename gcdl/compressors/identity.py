"""Identity: the coded gradient itself, float32. The baseline, and the compressor of the exactness tests.

Bias 0, variance 0, 4 d bytes. Zeros, infinities and NaN travel as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gcdl.compressors.base import Draw, Message, State, Stateless
from gcdl.compressors.bits import norm2
from gcdl.types import Buffer, Layout, Vector

_BLOCK = 1 << 16


@dataclass(frozen=True)
class Identity:
    """Float32, uncompressed."""

    def codec(self, layout: Layout) -> IdentityCodec:
        """Return a codec of 4 d bytes a message."""
        return IdentityCodec(layout)


class IdentityCodec(Stateless):
    """Copies."""

    def __init__(self, layout: Layout) -> None:
        self.payload_bytes = 4 * layout.size
        self._block = np.empty(min(layout.size, _BLOCK), dtype=np.float32)

    def compress(self, x: Vector, state: State, draw: Draw, out: Buffer) -> State:
        """Copy x into ``out``."""
        out[:] = x.view(np.uint8)
        return state

    def decode(self, messages: Sequence[Message], into: Vector) -> None:
        """Overwrite ``into`` with the weighted sum of the messages."""
        into.fill(0.0)
        for message in messages:
            x = message.payload.view(np.float32)
            weight = np.float32(message.weight)
            for start in range(0, into.size, _BLOCK):
                part = into[start : start + _BLOCK]
                scaled = self._block[: part.size]
                np.multiply(x[start : start + _BLOCK], weight, out=scaled)
                part += scaled

    def energy(self, payload: Buffer) -> tuple[float, float]:
        """Return ||x||^2 and 0: nothing is lost."""
        return norm2(payload.view(np.float32)) ** 2, 0.0
