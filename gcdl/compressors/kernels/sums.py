"""The order in which a run of coordinates is summed: part of the definition, for a float32 sum depends on it.

A run is read in rows of :data:`LANES` coordinates. The rows are added up in float32, one after another; the lanes of that
sum, and what follows the last whole row, in float64.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gcdl.types import IntVector, Vector

LANES = 1 << 10
"""Partial sums that a long run is added up in."""
FEW = 16
"""Runs of a block that are worth a Python loop; more are worked on together."""
_SAFE_SQUARE = 1e-24  # a float32 sum of squares below this may have lost terms to underflow

Wide = NDArray[np.float64]


def doubtful_squares(sums: Wide, edges: IntVector) -> NDArray[np.bool_]:
    """Say which sums of squares of float32 may have lost terms, (q,)."""
    return (np.diff(edges) > 0) & ~((sums > _SAFE_SQUARE) & (sums < np.inf))


def sum_runs(x: Vector, edges: IntVector) -> Wide:
    """Return the sum of each run, (q,) float64; of more than :data:`FEW` runs, each in float32 by ``np.add.reduceat``."""
    sizes = np.diff(edges)
    if sizes.size > FEW:
        full = np.flatnonzero(sizes)
        total = np.zeros(sizes.size)
        total[full] = np.add.reduceat(x, edges[full])
        return total
    return np.array([_lane_sum(x[start:stop]) for start, stop in pairwise(edges)])


def _lane_sum(x: Vector) -> float:
    rows = x.size // LANES
    lanes = np.add.reduce(x[: rows * LANES].reshape(rows, LANES), axis=0) if rows else None
    return sums_of_lanes(x[rows * LANES :], lanes)


def sums_of_lanes(tail: Vector, lanes: Vector | None) -> float:
    """Return the sum of a run from that of its rows, (LANES,), if it has any, and what follows them, in float64."""
    total = float(tail.sum(dtype=np.float64))
    return total if lanes is None else total + float(lanes.sum(dtype=np.float64))
