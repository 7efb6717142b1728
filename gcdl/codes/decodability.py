"""Whether replies that come one after the other may decode by now: bounds that are cheap where solving is not.

The error ||a B - 1|| of any a is at least the distance of the all-ones row from the span of the rows that have arrived.

*Coverage.* A shard that nobody of them holds adds 1 to the square of it. So a number of further replies is needed, whoever
sends them: each covers at most as many shards as a worker holds.

*Span.* Each further row takes from the distance what lies along the row's new direction (Gram and Schmidt, each row twice).
That is k m operations for m rows, where solving for a takes k m^2. Where a share delta of a row is new, rounding turns its
direction by about eps / delta; that much is allowed for.
"""

from __future__ import annotations

import numpy as np

from gcdl.types import IntVector, Mask, Matrix, Weights

_MANY = 256  # rows, from which on solving is faster than following each row
_DEPENDENT = 1e-14  # share of a row that is new, below which nothing is
_ROUNDING = 16.0 * np.finfo(np.float64).eps


class Decodability:
    """Follows the arrived set as it grows. A set that is not the one before and more begins anew.

    Parameters
    ----------
    B : (n, k) the encoding matrix.
    most : the largest error ||a B - 1|| that counts as decodable.
    """

    def __init__(self, B: Matrix, most: float) -> None:
        self._most = most
        self._coverage = _Coverage(B)
        self._span = _Span(B)

    def lacking(self, arrived: Mask) -> int:
        """Return how many further replies it takes at least, by coverage: 0 if those of ``arrived``, (n,), may decode."""
        spare = int(self._most**2 * (1.0 + 1e-9))
        return self._coverage.lacking(arrived, spare)

    def excluded(self, arrived: Mask) -> bool:
        """Say whether the rows of ``arrived``, (n,), are sure not to decode."""
        if self.lacking(arrived) > 0:
            return True
        return int(arrived.sum()) < _MANY and self._span.distance(arrived) > self._most


class _Coverage:
    """Which shards the arrived workers hold."""

    def __init__(self, B: Matrix) -> None:
        n, k = B.shape
        self._B = B
        self._loads: IntVector = np.count_nonzero(B, axis=1)
        self._taken: Mask = np.zeros(n, dtype=bool)
        self._covered: Mask = np.zeros(k, dtype=bool)

    def lacking(self, arrived: Mask, spare: int) -> int:
        """Return how many more workers it takes at least until all shards but ``spare`` are covered."""
        if (self._taken & ~arrived).any():
            self._taken[:] = False
            self._covered[:] = False
        for worker in np.flatnonzero(arrived & ~self._taken):
            self._covered |= self._B[worker] != 0.0
        self._taken |= arrived
        uncovered = self._covered.size - int(self._covered.sum()) - spare
        if uncovered <= 0:
            return 0
        return -(-uncovered // int(self._loads[~arrived].max()))


class _Span:
    """An orthonormal basis of the arrived rows, and what the all-ones row has beside them."""

    def __init__(self, B: Matrix) -> None:
        n, k = B.shape
        self._B = B
        self._basis = np.empty((min(n, k, _MANY), k))
        self._taken: Mask = np.zeros(n, dtype=bool)
        self._begin()

    def _begin(self) -> None:
        self._taken[:] = False
        self._size = 0
        self._rest = np.ones(self._B.shape[1])
        self._least_share = 1.0
        """The smallest share of a row that was new."""

    def distance(self, arrived: Mask) -> float:
        """Return a lower bound on the distance of the all-ones row from the span of these rows, (n,)."""
        if (self._taken & ~arrived).any():
            self._begin()
        for worker in np.flatnonzero(arrived & ~self._taken):
            self._take(self._B[worker])
        self._taken |= arrived
        turned = _ROUNDING * self._size / self._least_share
        return float(np.linalg.norm(self._rest)) - turned * float(np.sqrt(self._B.shape[1]))

    def _take(self, row: Weights) -> None:
        """Add a row."""
        basis = self._basis[: self._size]
        whole = float(np.linalg.norm(row))
        if self._size == len(self._basis) or whole == 0.0:
            return
        new = row - (basis @ row) @ basis
        new -= (basis @ new) @ basis
        share = float(np.linalg.norm(new)) / whole
        if share < _DEPENDENT:
            return
        self._least_share = min(self._least_share, share)
        new /= share * whole
        self._basis[self._size] = new
        self._size += 1
        self._rest -= float(new @ self._rest) * new
