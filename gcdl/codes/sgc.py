"""Stochastic gradient coding: B_ij = 1 / (d_j (1 - p)), and the master adds up whatever arrives.

Bitar, Wootters and El Rouayheb, *Stochastic Gradient Coding for Straggler Mitigation in Distributed Learning*, IEEE
JSAIT 2020. With workers that straggle independently with probability p the sum is unbiased for every assignment; its
variance is smallest when shards meet in as few common workers as possible (pairwise balance). This is the code under
1-bit gradient coding (Li and Skoglund, arXiv 2403.14716).
"""

from __future__ import annotations

import numpy as np

from gcdl.codes.base import GradientCode
from gcdl.codes.decoders import add_up
from gcdl.errors import ParameterError
from gcdl.types import Count, Fraction, Natural


def sgc(
    n: int,
    k: int,
    rng: np.random.Generator,
    *,
    replication: Count = 2,
    stragglers: Natural = 0,
    p: Fraction | None = None,
) -> GradientCode:
    """Return an SGC code: each shard on ``replication`` workers, loads within one shard of each other.

    Parameters
    ----------
    replication : d_j, the number of workers that hold a shard.
    stragglers : s; a master that takes the first n - s replies leaves each worker out with probability s / n.
    p : the probability that a worker straggles; s / n when left out.

    Raises
    ------
    ParameterError : replication above n, too few shards to employ every worker, or s not below n.
    """
    if replication > n:
        raise ParameterError(f"sgc: replication = {replication} must be at most the number of workers, {n}")
    if k * replication < n:
        raise ParameterError(f"sgc: {k} shards on {replication} workers each leave some of the {n} workers without work")
    if stragglers >= n:
        raise ParameterError(f"sgc: stragglers = {stragglers} must be at most n - 1 = {n - 1}")
    chance = stragglers / n if p is None else p
    B = np.zeros((n, k))
    load = np.zeros(n)
    together = np.zeros((n, n))  # how many shards two workers share
    for shard in range(k):
        holders: list[int] = []
        for _ in range(replication):
            # Least loaded first; among those, who shares least with the shard's other holders; then by lot.
            clash = together[:, holders].sum(axis=1)
            order = np.lexsort((rng.random(n), clash, load))
            chosen = next(int(worker) for worker in order if worker not in holders)
            holders.append(chosen)
            load[chosen] += 1
        for worker in holders:
            together[worker, holders] += 1
        B[holders, shard] = 1.0 / (replication * (1.0 - chance))
    return GradientCode(B, decoder=add_up, stragglers=stragglers)
