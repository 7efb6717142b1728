"""One process with several workers computes a coded gradient once a step for all workers whose rows of B are equal.

The groups of a fractional repetition code have equal rows. Workers of other codes share shards but weigh them differently; one
weighted sum of their losses is one pass, so a sum of gradients computed shard by shard would differ from it in the last bit.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from gcdl.problems import CodedGradient
from gcdl.types import Vector, aligned_vector


class SharedGradient:
    """A coded gradient that several workers ask for; see :class:`gcdl.problems.CodedGradient`.

    Parameters
    ----------
    gradient : computes it, into host memory.
    d : parameters of the model.

    Attributes
    ----------
    holders : how many workers ask for it; of a single one the gradient is not kept.
    """

    def __init__(self, gradient: CodedGradient, d: int) -> None:
        self._gradient = gradient
        self.holders = 0
        self._d = d
        self._computed: Vector | None = None
        self._step = -1
        self._loss = 0.0

    def compute(self, parameters: Vector, step: int, out: Vector) -> Generator[float, None, float]:
        """Compute it when the first worker asks for it in a step; afterwards copy it. All workers of a step have one model."""
        if self.holders < 2:
            return (yield from self._gradient.compute(parameters, step, out))
        if self._computed is None:
            self._computed = aligned_vector(self._d)
        if step != self._step:
            self._loss = yield from self._gradient.compute(parameters, step, self._computed)
            self._step = step
        out[:] = self._computed
        return self._loss


def on_host(gradient: Any) -> bool:
    """Say whether a coded gradient is computed into host memory."""
    device = getattr(gradient, "device", None)
    return device is None or device.type == "cpu"
