"""Stochastic gradient coding: B_ij = 1 / (d_j (1 - p)), and the master adds up whatever arrives.

Bitar, Wootters and El Rouayheb, *Stochastic Gradient Coding for Straggler Mitigation in Distributed Learning*, IEEE JSAIT
2020. With workers that straggle independently with probability p the sum is unbiased for every assignment; its variance is
smallest when any two shards meet in the same number of workers (:func:`gcdl.codes.construction.assignment.balanced` says how
near to that the assignment comes). This is the code under 1-bit gradient coding (Li and Skoglund, arXiv 2403.14716).

With a known probability p_i for each worker, the weights are those of Song and Choi (2025): B_ij = B'_ij / (1 - p_i), where B'
minimises sum_i p_i / (1 - p_i) (sum_j B'_ij)^2 while each shard's weights add up to one. That is the variance of the sum when
all shards have the same gradient. It depends on the loads L_i = sum_j B'_ij alone. Within each connected part of the
assignment L_i is in proportion to (1 - p_i) / p_i; workers that never straggle take all of it, if there are any. Of the B'
with these loads we take the one nearest to 1 / d_j. The paper's constraints allow weights below zero. They occur where the p_i
are very unequal, and add noise where gradients differ.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gcdl.codes.base import GradientCode
from gcdl.codes.construction.assignment import balanced, check_sizes, weighted
from gcdl.codes.decoders import add_up
from gcdl.errors import ParameterError
from gcdl.types import Count, Fraction, Matrix, Natural, Weights

_NOTHING = 1e-12


def sgc(
    n: int,
    k: int,
    rng: np.random.Generator,
    *,
    replication: Count = 2,
    stragglers: Natural = 0,
    p: Fraction | tuple[Fraction, ...] | None = None,
) -> GradientCode:
    """Return an SGC code: each shard on ``replication`` workers, loads within one shard of each other.

    Parameters
    ----------
    replication : d_j, the number of workers that hold a shard.
    stragglers : s; a master that takes the first n - s replies leaves each worker out with probability s / n.
    p : the probability that a worker straggles, or n of them; s / n when left out.

    Raises
    ------
    ParameterError : replication above n, too few shards to employ every worker, s not below n, or another number of p.
    """
    check_sizes("sgc", n, k, replication, stragglers)
    if isinstance(p, tuple) and len(p) != n:
        raise ParameterError(f"p: needs one probability, or one for each of the {n} workers, not {len(p)}")
    support = balanced(n, k, replication, rng)
    chance = stragglers / n if p is None else p
    B = heterogeneous(support, np.array(chance)) if isinstance(chance, tuple) else weighted(support, chance)
    return GradientCode(B, decoder=add_up, stragglers=stragglers)


def heterogeneous(support: NDArray[np.bool_], p: Weights) -> Matrix:
    """Return Song and Choi's B for an assignment, (n, k), and probabilities, (n,), below one."""
    A = support.astype(np.float64)
    loads = np.zeros(len(p))
    for workers, shards in _parts(support):
        never = workers & (p == 0.0)
        inverse = np.where(never, 1.0, 0.0) if never.any() else np.where(workers, (1.0 - p) / np.where(p > 0.0, p, 1.0), 0.0)
        loads += shards.sum() * inverse / inverse.sum()
    # The nearest to 1 / d_j with these row sums and unit column sums is 1 / d_j + alpha_i + beta_j on the support.
    d = A.sum(axis=0)
    laplacian = np.diag(A.sum(axis=1)) - (A / d) @ A.T
    alpha = np.linalg.lstsq(laplacian, loads - (A / d).sum(axis=1), rcond=None)[0]
    beta = -(alpha @ A) / d
    weights = 1.0 / d + alpha[:, None] + beta
    weights[np.abs(weights) < _NOTHING] = _NOTHING  # exactly zero would take the shard from its worker
    return np.asarray(np.where(support, weights, 0.0) / (1.0 - p)[:, None], dtype=np.float64)


def _parts(support: NDArray[np.bool_]) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Return the connected parts of an assignment: (workers (n,), shards (k,)) of each."""
    parts: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]] = []
    left = np.ones(support.shape[0], dtype=np.bool_)
    while left.any():
        workers = np.zeros_like(left)
        workers[left.argmax()] = True
        while True:
            shards = np.asarray(support[workers].any(axis=0))
            grown = np.asarray(support[:, shards].any(axis=1))
            if (grown == workers).all():
                break
            workers = grown
        parts.append((workers, shards))
        left &= ~workers
    return parts
