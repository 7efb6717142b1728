"""No redundancy: B spreads the k shards over the n workers, each shard once.

With k = n this is B = I. The baseline: waiting for all is exact, leaving a worker out loses its shards' gradient.
"""

from __future__ import annotations

import numpy as np

from gcdl.codes.base import GradientCode
from gcdl.errors import ParameterError


def uncoded(n: int, k: int) -> GradientCode:
    """Return the code that gives each of k >= n shards to one worker, in contiguous runs, sizes within one shard.

    Raises
    ------
    ParameterError : fewer shards than workers.
    """
    if k < n:
        raise ParameterError(f"uncoded: {k} shards leave some of the {n} workers without work; use at least {n} shards")
    B = np.zeros((n, k))
    for worker, shards in enumerate(np.array_split(np.arange(k), n)):
        B[worker, shards] = 1.0
    return GradientCode(B, closed_form=lambda arrived: arrived.astype(np.float64))
