"""Decoders: from the rows of B that have arrived, (m, k), to their weights, (m,).

*sum*
    a = 1: unbiased for codes whose weights already expect the stragglers (SGC).
*least squares*
    the a of smallest ||a B - 1||, and among those the one of smallest ||a||: exact whenever the rows can be
    combined to all ones, and then the least amplification of independent noise, so equal replicas are averaged.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gcdl.types import Matrix, Weights

Decoder = Callable[[Matrix], Weights]


def add_up(rows: Matrix) -> Weights:
    """Return weight one for every reply."""
    return np.ones(rows.shape[0])


def least_squares(rows: Matrix) -> Weights:
    """Return the minimum-norm solution of a rows = 1 in the least-squares sense."""
    return np.asarray(np.linalg.lstsq(rows.T, np.ones(rows.shape[1]), rcond=None)[0], dtype=np.float64)


DECODERS: dict[str, Decoder] = {"sum": add_up, "least_squares": least_squares}
