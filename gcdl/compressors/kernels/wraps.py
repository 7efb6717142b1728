"""Correlated dither as steps: all messages share r, and each adds a shift of its own to it, modulo 2^16.

wrap(r + shift) is r + shift, or 2^16 less for those r that pass the end of the int16. As r grows the messages pass it one after
another, the largest shift first. So sum_i u_i (wrap(r + shift_i) + delta) is r sum_i u_i, plus a level that depends only on how
many have passed.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from gcdl.compressors.kernels.sums import Wide
from gcdl.types import IntVector, Vector

_HALF_RANGE = 1 << 15
_RANGE = 1 << 16


class Wraps:
    """When the messages with these ``shifts``, each in 0 .. 2^16 - 1, wrap.

    ``order``, (m,): the messages in the order in which they do. ``shifts``, (m,): theirs, in that order, descending.
    """

    def __init__(self, *shifts: int) -> None:
        self.order: IntVector = np.array(sorted(range(len(shifts)), key=lambda i: -shifts[i]), dtype=np.int64)
        self.shifts: IntVector = np.array(shifts, dtype=np.int64)[self.order]

    @cached_property
    def below(self) -> NDArray[np.int16]:
        """(m,) ascending: a message has wrapped where r is above this."""
        return (_HALF_RANGE - 1 - self.shifts).astype(np.int16)

    @cached_property
    def below_twice(self) -> NDArray[np.int32]:
        """(m,): :attr:`below` in both halves of an int32."""
        return np.repeat(self.below, 2).view(np.int32)

    @cached_property
    def counts(self) -> NDArray[np.uint16]:
        """(65536,): how many have wrapped, by r as uint16."""
        reached = np.bincount(_RANGE - self.shifts, minlength=_RANGE + 1)[:_RANGE]
        return np.roll(np.cumsum(reached), _HALF_RANGE).astype(np.uint16)

    def steps(self, scales: NDArray[np.float32], delta: float) -> tuple[Vector, NDArray[np.float32]]:
        """Return the slope, (q,), and the levels, (q, m + 1), for u_i = scale_i / 2^15; ``scales``, (m, q), by message."""
        slope, level, wrapped = np.zeros((3, scales.shape[1]))
        units: list[Wide] = [scales[i] / np.float64(_HALF_RANGE) for i in self.order.tolist()]
        for shift, unit in zip(self.shifts.tolist(), units, strict=True):
            slope += unit
            level += float(shift) * unit
        levels = [level + delta * slope]
        for unit in units:
            wrapped = wrapped + unit
            levels.append((level - _RANGE * wrapped) + delta * slope)
        return slope.astype(np.float32), np.stack(levels, axis=1).astype(np.float32)


wraps_of = lru_cache(maxsize=64)(Wraps)
"""The :class:`Wraps` of these shifts. Kept, because the sets of workers that answer recur, and the table is large."""
