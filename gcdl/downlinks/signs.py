"""The signs of a gradient in one bit each, for an optimizer that looks at nothing else (``optimizer.kind = "sign"``).

Such an optimizer takes the same step with the signs as with the gradient, to the bit. So however many replies were decoded,
and with whatever weights, ceil(d/8) bytes say all that a replica needs: a lossless downlink of one bit a coordinate. A zero
has the sign that the optimizer gives it in that step (:func:`gcdl.optimizers.sign.ties_go_up`).
"""

from __future__ import annotations

import numpy as np

from gcdl.compressors.kernels import blocks
from gcdl.optimizers import OptimizerRecipe, ties_go_up
from gcdl.types import Buffer, Vector, aligned_buffer


def steps_on_signs(recipe: OptimizerRecipe) -> bool:
    """Say whether an optimizer's steps depend on the signs of the gradient alone."""
    return bool(getattr(recipe, "signs_alone", False))


class Signs:
    """Packs the signs of (d,) gradients into one buffer, allocated once."""

    def __init__(self, d: int) -> None:
        self._bits = aligned_buffer(signs_bytes(d))
        self._blocks = list(blocks(d))

    def pack(self, gradient: Vector, step: int) -> Buffer:
        """Return the bits of a gradient's signs, (ceil(d/8),), valid until the next call."""
        positive = np.greater_equal if ties_go_up(step) else np.greater
        for where, packed in self._blocks:
            self._bits[packed] = np.packbits(positive(gradient[where], 0.0))
        return self._bits


def unpack_signs(bits: Buffer, into: Vector) -> None:
    """Overwrite ``into``, (d,), with +1 and -1."""
    for where, packed in blocks(into.size):
        part = into[where]
        part[:] = np.unpackbits(bits[packed], count=part.size)
        part *= 2.0
        part -= 1.0


def signs_bytes(d: int) -> int:
    """Return the bytes of d signs."""
    return -(-d // 8)
