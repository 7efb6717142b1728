"""Assignments: 0/1 matrices, (n, k), that say which worker holds which shard, and the weights of SGC for any of them.

*Balance.* Bitar, Wootters and El Rouayheb (2020) show that stochastic gradient coding does best if any two shards meet in the
same number of workers. That is a block design and rarely exists; :func:`balanced` comes near for any n, k and replication.

1. It gives each shard in turn to the workers with the least load. Among equals it takes those who make pairs of shards meet
   least often.
2. It swaps shards between workers, which changes no load, as long as that lowers the sum of squares of the *meetings*: for each
   pair of shards, the number of workers that hold both.
3. It stops when all meetings are within one of each other, or when its tries are used up. No assignment with these loads has a
   smaller sum then.

Loads are always within one of each other. Meetings are within one for n = k = 100 with replication 3 and 5, and for n = k =
1000 with 3 and 10. Over n <= 12, k <= 2 n they are within one in nine cases of ten and within four in the others, many of which
allow no better. Dense assignments of many shards are farther off (n = k = 100, replication 30: 4 to 12): there the search ends
far from the best.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gcdl.errors import ParameterError
from gcdl.types import Matrix

_CANDIDATES = 256
_TRIES = 1000


def check_sizes(kind: str, n: int, k: int, replication: int, stragglers: int) -> None:
    """Check that k shards can each lie on ``replication`` of n workers, with work for all, of which s may be missing.

    Raises
    ------
    ParameterError : they cannot; ``kind`` is the code that asks.
    """
    if replication > n:
        raise ParameterError(f"{kind}: replication = {replication} must be at most the number of workers, {n}")
    if k * replication < n:
        raise ParameterError(f"{kind}: {k} shards on {replication} workers each leave some of the {n} workers without work")
    if stragglers >= n:
        raise ParameterError(f"{kind}: stragglers = {stragglers} must be at most n - 1 = {n - 1}")


def weighted(support: NDArray[np.bool_], p: float) -> Matrix:
    """Return B_ij = 1 / (d_j (1 - p)), (n, k): sums are unbiased if each worker is missing with probability p."""
    return np.asarray(support / (support.sum(axis=0) * (1.0 - p)), dtype=np.float64)


def balanced(n: int, k: int, replication: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return an (n, k) assignment: each shard on ``replication`` workers, loads within one, shards spread over pairs."""
    A = np.zeros((n, k), dtype=np.float32)
    load = np.zeros(n, dtype=np.int64)
    for shard in range(k):
        meets = np.zeros(k, dtype=np.float32)
        for _ in range(replication):
            # Least loaded first; among those, who adds least to the squares; then by lot.
            order = np.lexsort((rng.random(n), A @ (2.0 * meets + 1.0), load, A[:, shard]))
            meets += A[order[0]]
            A[order[0], shard] = 1.0
            load[order[0]] += 1
    _swap(A, rng)
    return A > 0.0


def spread(support: NDArray[np.bool_]) -> tuple[int, int]:
    """Return the smallest and the largest number of workers in which two different shards meet; (0, 0) for one shard."""
    meets = _meetings(support.astype(np.float32))[np.triu_indices(support.shape[1], 1)]
    return (int(meets.min()), int(meets.max())) if meets.size else (0, 0)


def _meetings(A: NDArray[np.float32]) -> NDArray[np.float32]:
    return A.T @ A


def _swap(A: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Improve A, (n, k), in place by swaps: worker i gives shard j to worker h and gets shard g for it."""
    k = A.shape[1]
    if k < 2:
        return
    C = _meetings(A)
    np.fill_diagonal(C, 0.0)
    off = ~np.eye(k, dtype=bool)
    for _ in range(_TRIES):
        low, high = C[off].min(), C.max()
        if high - low <= 1.0:
            return
        # One of the pairs of shards that meet most often, and one of the workers that hold both.
        pairs = np.argwhere(np.isclose(C, high))
        j, partner = pairs[rng.integers(len(pairs))]
        i = rng.choice(np.flatnonzero((A[:, j] > 0.0) & (A[:, partner] > 0.0)))
        others, given = np.nonzero((A > 0.0) & (A[:, [j]] == 0.0) & (A[i] == 0.0))
        if others.size == 0:
            continue
        if others.size > _CANDIDATES:
            chosen = rng.choice(others.size, _CANDIDATES, replace=False)
            others, given = others[chosen], given[chosen]
        # Shard j no longer meets i's other shards and now meets h's; g the other way round.
        change = A[others] - A[i]
        change[:, j] += 1.0
        change[np.arange(given.size), given] -= 1.0
        gain = np.einsum("ck,ck->c", change, C[j] - C[given] + change)
        best = int(gain.argmin())
        if gain[best] > 0.0:
            continue
        h, g = others[best], given[best]
        A[i, j], A[h, j], A[h, g], A[i, g] = 0.0, 1.0, 0.0, 1.0
        C[j] += change[best]
        C[:, j] += change[best]
        C[g] -= change[best]
        C[:, g] -= change[best]
