"""Codes in which a slow worker holds fewer shards than the others.

*Exact ones*: fractional repetition with groups whose runs of shards are of unequal length. With groups of s + 1 workers or more
any s may be missing. Tandon et al. (*Gradient Coding*, ICML 2017, section 4.1) have equal groups; section 5 there gives each
worker work in proportion to its speed. All workers of a group hold the same shards, so the slowest of them decides its pace:
workers of like speed are put together. With s = 0 a group is one worker.

*Approximate ones*: each shard on a given number of workers, at random, with given loads. The weights are the family's own.

*Loads* are integers that make the slowest part of the work take as few seconds as it can. The finer the shards, the nearer to
the ideal, work / (sum of speeds): a worker holds one shard at least.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from gcdl.codes.base import GradientCode
from gcdl.errors import ParameterError
from gcdl.types import IntVector, Weights


def loads_for(seconds: Weights, work: int, most: int) -> IntVector:
    """Return loads, (m,), from 1 to ``most``, that add up to ``work`` and have the least max load * seconds.

    ``seconds``, (m,): of one unit of work, of each. A unit goes each time to who would be done with it first; that is optimal.

    Raises
    ------
    ParameterError : there is too little work for all, or too much.

    >>> loads_for(np.array([1.0, 1.0, 3.0]), 14, 14).tolist()
    [6, 6, 2]
    """
    m = len(seconds)
    if not m <= work <= m * most:
        raise ParameterError(f"loads: {work} shards for {m} workers of {most} at most")
    loads = np.ones(m, dtype=np.int64)
    queue = [(2.0 * float(pace), i) for i, pace in enumerate(seconds) if most > 1]
    heapq.heapify(queue)
    for _ in range(work - m):
        _, i = heapq.heappop(queue)
        loads[i] += 1
        if loads[i] < most:
            heapq.heappush(queue, (float((loads[i] + 1) * seconds[i]), i))
    return loads


def unequal_repetition(seconds: Weights, k: int, stragglers: int) -> GradientCode:
    """Return fractional repetition for workers of these ``seconds`` a shard, (n,): exact for any s missing workers.

    Raises
    ------
    ParameterError : there are fewer shards than groups.
    """
    n = len(seconds)
    groups = np.array_split(np.argsort(seconds, kind="stable"), max(1, n // (stragglers + 1)))
    loads = loads_for(np.array([seconds[workers].max() for workers in groups]), k, k)
    B = np.zeros((n, k))
    ends = np.cumsum(loads)
    for workers, first, end in zip(groups, ends - loads, ends, strict=True):
        B[workers, first:end] = 1.0
    return GradientCode(B, stragglers=stragglers)


def unequal_assignment(seconds: Weights, k: int, replication: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return an (n, k) assignment of each shard to ``replication`` of the workers of these seconds a shard, (n,).

    Raises
    ------
    ParameterError : there are too few shards for all workers, or too many holders of a shard.
    """
    left = loads_for(seconds, k * replication, k)
    support = np.zeros((len(seconds), k), dtype=np.bool_)
    for shard in range(k):
        # Who has most left to take: otherwise the last shards would be left to too few workers.
        holders = np.lexsort((rng.random(len(left)), -left))[:replication]
        support[holders, shard] = True
        left[holders] -= 1
    return support[:, rng.permutation(k)]


def seconds_of(B: NDArray[np.float64], seconds: Weights) -> float:
    """Return how long the slowest worker takes for its shards, given each one's seconds a shard, (n,)."""
    return float((np.count_nonzero(B, axis=1) * seconds).max())
