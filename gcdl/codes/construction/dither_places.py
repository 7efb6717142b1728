"""Where each worker's random numbers lie under correlated dither, so that workers with like gradients lie far apart.

Errors made with u = frac(v + place / n) cancel best between workers that hold the same shards when their places are evenly
spread: r replicas of one gradient then leave 1 / r^2 of one error's variance in their mean, where r random places leave 1 / r.
"""

from __future__ import annotations

import numpy as np

from gcdl.types import IntVector, Matrix

_RANGE = 1 << 16
_MANY = 2000  # beyond, the order of the ids has to do: the similarities of all pairs would be too many


def dither_shifts(B: Matrix) -> IntVector:
    """Return (n,) place / n of each worker, as a multiple of 2^-16, rounded down."""
    return dither_places(B) * _RANGE // len(B)


def dither_places(B: Matrix) -> IntVector:
    """Return (n,) places, a permutation of 0 .. n-1, for the encoding matrix (n, k).

    Workers are lined up, each beside the one most like it that is left (by the angle between rows of B); neighbours in that
    line are dealt to r stretches of n / r places in turn, r the mean replication.
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
        # Rounded, so that equals are equal on every machine; the lowest id of them is taken.
        line.append(int(np.argmax(np.where(left, np.round(likeness[line[-1]], 9), -1.0))))
        left[line[-1]] = False
    return np.array(line, dtype=np.int64)
