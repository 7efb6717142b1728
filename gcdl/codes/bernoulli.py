"""Bernoulli gradient codes (BGC): each worker holds each shard with probability d / n, all independently.

Charles, Papailiopoulos and Ellenberg, *Approximate Gradient Coding via Sparse Random Graphs*, 2017, with their one-step
decoder. ``regularised`` is their rBGC: a worker that drew more than twice the expected load, k d / n, gives up shards
at random until it holds no more than that.

Where we differ. A shard that nobody drew goes to a worker with the least load, and a worker that drew nothing gets a shard at
random: else a shard would never be trained on, or a worker wait for ever. Weights are those of SGC for the numbers of
workers that were drawn, B_ij = 1 / (d_j (1 - p)), in place of 0/1: so ``decoder = "sum"`` is unbiased. One step picks the
best constant for each arrived set; with entries of equal size that is the paper's rho up to chance.
"""

from __future__ import annotations

import math

import numpy as np

from gcdl.codes.base import GradientCode
from gcdl.codes.construction.assignment import check_sizes, weighted
from gcdl.codes.decoders import one_step
from gcdl.types import Count, Fraction, Natural


def bernoulli(
    n: int,
    k: int,
    rng: np.random.Generator,
    *,
    replication: Count = 2,
    stragglers: Natural = 0,
    p: Fraction | None = None,
    regularised: bool = False,
) -> GradientCode:
    """Return a Bernoulli code.

    Parameters
    ----------
    replication : d, the expected number of workers that hold a shard.
    stragglers : s; a master that takes the first n - s replies leaves each worker out with probability s / n.
    p : the probability that a worker straggles; s / n when left out. Matters to ``decoder = "sum"``.
    regularised : no worker holds more than twice the expected load.

    Raises
    ------
    ParameterError : replication above n, fewer shards than can employ every worker, or s not below n.
    """
    check_sizes("bernoulli", n, k, replication, stragglers)
    support = rng.random((n, k)) < replication / n
    if regularised:
        most = math.ceil(2 * k * replication / n)
        for worker in np.flatnonzero(support.sum(axis=1) > most):
            held = np.flatnonzero(support[worker])
            support[worker, rng.choice(held, held.size - most, replace=False)] = False
    for shard in np.flatnonzero(~support.any(axis=0)):
        support[support.sum(axis=1).argmin(), shard] = True
    for worker in np.flatnonzero(~support.any(axis=1)):
        support[worker, rng.integers(k)] = True
    return GradientCode(weighted(support, stragglers / n if p is None else p), decoder=one_step, stragglers=stragglers)
