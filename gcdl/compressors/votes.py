"""Votes: where all messages have one scale and weights that are small multiples of a unit, their sum is an integer.

sum_i a_i M (+-1)_i = u M (2 V - W) with a_i = u c_i, W = sum_i c_i, and V = sum_i c_i bit_i between 0 and W: ceil(log2(W+1))
bits a coordinate say all of it, however many messages there were. Replicas that are averaged have such weights too: 1/2, 1/2
and 1 are 1, 1 and 2 halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_VOTES = 255
"""The largest W: eight planes, beyond which the messages themselves are not much larger."""
_PARTS = 16  # of the smallest weight, the unit
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Votes:
    """``planes``, (P, ceil(d/8)) uint8: V's bits, the lowest first; ``total``: W; ``unit``: u."""

    planes: NDArray[np.uint8]
    total: int
    unit: float

    @property
    def weights(self) -> list[int]:
        """What a plane's bits weigh: 1, 2, 4, ..."""
        return [1 << p for p in range(len(self.planes))]

    @property
    def offset(self) -> int:
        """What is to be added to the sum of the planes' signs, each by its weight, to make it 2 V - W."""
        return (1 << len(self.planes)) - 1 - self.total


def planes_of(total: int) -> int:
    """Return P = ceil(log2(W + 1)), the planes that W votes need."""
    return total.bit_length()


def multiples(weights: Sequence[float]) -> tuple[float, list[int]] | None:
    """Return u and c_i with a_i = u c_i to rounding, if there are small ones, the c_i positive; else None."""
    smallest = min(weights, default=0.0)
    if not smallest > 0.0 or sum(weights) > MOST_VOTES * smallest * (1.0 + _ROUNDING):
        return None
    parts = np.arange(1.0, _PARTS + 1.0)[:, np.newaxis]
    ratios = parts * (np.asarray(weights, dtype=np.float64) / smallest)
    counts = np.rint(ratios)
    fits = (np.abs(ratios - counts) <= _ROUNDING * counts).all(axis=1)
    if not fits.any():
        return None
    found = int(fits.argmax())
    if counts[: found + 1].sum(axis=1).max() > MOST_VOTES:
        return None
    return smallest / (found + 1), [int(count) for count in counts[found]]
