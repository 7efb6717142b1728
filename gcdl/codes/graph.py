"""Random regular graphs: shards and workers are the two sides of a random graph with given degrees.

Raviv, Tandon, Dimakis and Tamo, ICML 2018: n = k, B the scaled adjacency matrix of a d-regular expander. Glasgow and Wootters,
*Approximate Gradient Coding with Optimal Decoding*, 2021: shards are the vertices and workers the edges of a d-regular
expander, n = k d / 2, each worker holding its two ends, decoded by least squares. Both are random bipartite graphs in which
every shard has degree d and every worker the same load; so is this, for any n and k: loads are within one of each other.
With n = k d / 2 it is Glasgow and Wootters' random regular graph (parallel edges allowed).

The adversarial bounds of both papers are in terms of the second singular value of the assignment: the smaller it is, the
smaller the decoding error. Of several seeded draws the one with the smallest is taken. A random regular graph is nearly optimal
by itself; the choice guards against bad luck, which is common where n is small.

How: deal the k d half-edges to the workers at random, then swap away the places where a worker got a shard twice. Where we
differ from Raviv: the graph is bipartite, so B need not be symmetric. Weights are B_ij = 1 / (d (1 - s/n)): sums are unbiased.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gcdl.codes.base import GradientCode
from gcdl.codes.construction.assignment import check_sizes, weighted
from gcdl.types import Count, Natural

_DRAWS = 16
_LARGE = 300  # beyond this many workers or shards one draw is as good as any other


def graph(n: int, k: int, rng: np.random.Generator, *, replication: Count = 2, stragglers: Natural = 0) -> GradientCode:
    """Return the code of a random graph: each shard on ``replication`` workers, loads within one; least squares decodes.

    Raises
    ------
    ParameterError : replication above n, too few shards to employ every worker, or s not below n.
    """
    check_sizes("graph", n, k, replication, stragglers)
    draws = [random_regular(n, k, replication, rng) for _ in range(_DRAWS if max(n, k) <= _LARGE else 1)]
    support = min(draws, key=second_singular_value) if len(draws) > 1 else draws[0]
    return GradientCode(weighted(support, stragglers / n), stragglers=stragglers)


def second_singular_value(support: NDArray[np.bool_]) -> float:
    """Return the second largest singular value of a 0/1 matrix; 0 if there is none."""
    return float(np.linalg.svd(support.astype(np.float64), compute_uv=False)[1]) if min(support.shape) > 1 else 0.0


def random_regular(n: int, k: int, replication: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return a random (n, k) 0/1 matrix with ``replication`` ones in each column, rows within one of each other."""
    places = np.concatenate([np.tile(np.arange(n), k * replication // n), rng.permutation(n)[: k * replication % n]])
    workers = rng.permutation(places).reshape(k, replication)
    while True:
        in_order = np.sort(workers, axis=1)
        twice = np.flatnonzero((in_order[:, 1:] == in_order[:, :-1]).any(axis=1))
        if twice.size == 0:
            break
        for shard in twice:
            _mend(workers, int(shard), rng)
    support = np.zeros((n, k), dtype=np.bool_)
    support[workers.ravel(), np.repeat(np.arange(k), replication)] = True
    return support


def _mend(workers: NDArray[np.int64], shard: int, rng: np.random.Generator) -> None:
    """Exchange a worker that a shard has twice with one of another shard's, so that neither gets one that it has."""
    mine = workers[shard]
    values, counts = np.unique(mine, return_counts=True)
    if counts.max() == 1:
        return
    worker = values[counts.argmax()]
    place = int(np.flatnonzero(mine == worker)[0])
    other = (workers != worker).all(axis=1)[:, None] & ~np.isin(workers, mine)
    choices = np.argwhere(other)
    # If the shard's workers leave no such exchange (they can't all be distinct yet), any exchange moves things on.
    row, column = choices[rng.integers(len(choices))] if len(choices) else (rng.integers(len(workers)), rng.integers(mine.size))
    workers[shard, place], workers[row, column] = workers[row, column], worker
