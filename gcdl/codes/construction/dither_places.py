"""Where each worker's random numbers lie under correlated dither, so that workers with like gradients lie far apart.

Errors made with u = frac(v + place / n) cancel best between workers that hold the same shards when their places are evenly
spread: r replicas of one gradient then leave 1 / r^2 of one error's variance in their mean, where r random places leave 1 / r.
"""

from __future__ import annotations

import numpy as np

from gcdl.types import IntVector, Matrix

_RANGE = 1 << 16
_MANY = 2000  # above this, workers are lined up by id: comparing all pairs would take too long


def dither_shifts(B: Matrix) -> IntVector:
    """Return (n,) place / n of each worker, as a multiple of 2^-16, rounded down."""
    return dither_places(B) * _RANGE // len(B)


def dither_places(B: Matrix) -> IntVector:
    """Return (n,) places, a permutation of 0 .. n-1, for the encoding matrix (n, k).

    Workers are put in a line: after each comes the one most like it, by the angle between rows of B, of those that are left.
    Neighbours in the line are dealt in turn to r stretches of n / r places, where r is the mean replication.
    """
    n, k = B.shape
    line = np.arange(n) if n > _MANY else _line_up(B)
    stretches = max(1, round(np.count_nonzero(B) / k))
    position = np.empty(n, dtype=np.int64)
    position[line] = np.arange(n)
    dealt = np.lexsort((position // stretches, position % stretches))
    places = np.empty(n, dtype=np.int64)
    places[dealt] = np.arange(n)
    return places


def _line_up(B: Matrix) -> IntVector:
    lengths = np.linalg.norm(B, axis=1, keepdims=True)
    rows = B / np.where(lengths > 0.0, lengths, 1.0)
    likeness = np.abs(rows @ rows.T)
    line = [0]
    left = np.ones(len(B), dtype=bool)
    left[0] = False
    for _ in range(1, len(B)):
        # Rounded, so that ties are ties on every machine; the lowest id wins.
        line.append(int(np.argmax(np.where(left, np.round(likeness[line[-1]], 9), -1.0))))
        left[line[-1]] = False
    return np.array(line, dtype=np.int64)
