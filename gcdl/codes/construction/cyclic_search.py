"""The search for a well-conditioned cyclic code: which null space, H, to give Algorithm 2 of Tandon et al.

Row i of B has the support i, ..., i+s (mod n), norm one, and H B_i = 0. A random H is badly conditioned. Better are s real
sampled waves, cos(2 pi f j / n + phase): with whole pairs of cosine and sine B is circulant.

Where s + 1 divides n, take the multiples of n / (s+1) for frequencies: all entries come out as 1 / sqrt(s+1). Workers i,
i + s+1, i + 2(s+1), ... hold every shard once; there are s + 1 such classes, so one is whole if s workers are missing,
and its sum alone is exact, with ||a|| = sqrt(n). No search is needed.

Elsewhere, look at

1. sets of s waves, frequencies nearest to the multiples of n / (s+1) first, the highest next (the BCH set, where there is
   one), then at random; if their number is odd, one comes as a single wave with a random phase;
2. a few random H;

and improve the best by random moves that lower the worst noise gain. Waves may fail in some pattern. Where all patterns can be
looked at, such a set is dropped. Where they cannot, a little noise is added to every H: then it decodes every pattern with
probability one, like Tandon's. The work is bounded by counts, not by the clock, so the same generator gives the same code.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from gcdl.codes.construction.few_missing import FewMissing
from gcdl.errors import ParameterError
from gcdl.types import IntVector, Matrix, Weights

_ALL_PATTERNS = 20_000
_SAMPLE = 2000
_WORK = 1.2e9
_WAVES = 240
_RANDOM = 8
_MOVES = 120
_FIRST_STEP = 0.1
_SHAKE = 0.02
_BOUND = 1e4
_THIN = 1e-3  # an entry this much smaller than its row would be a shard held in name only


def search(n: int, s: int, rng: np.random.Generator) -> Matrix:
    """Return the B, (n, n), of the smallest worst noise gain that was found, for 0 < s < n.

    Raises
    ------
    ParameterError : none was found that is exact to float64's accuracy.
    """
    if n % (s + 1) == 0:
        return circulant(n, np.full(s + 1, (s + 1) ** -0.5))
    missing = missing_patterns(n, s, rng)
    shake = 0.0 if math.comb(n, s) == missing.shape[0] else _SHAKE
    # Operations of one look, about: n small singular value decompositions, one large eigenvalue problem, the patterns.
    look = 20 * n * (s + 1) ** 3 + 12 * n**3 + missing.shape[0] * (40 * s**3 + 200)
    share = min(1.0, _WORK / look / (_WAVES + _RANDOM + _MOVES))
    candidates = itertools.chain(
        (H + shake * _move(n, s, rng) for H in itertools.islice(_waves(n, s, rng), max(8, int(share * _WAVES)))),
        (random_null_space(n, s, rng) for _ in range(max(2, int(share * _RANDOM)))),
    )
    best, H = min(((_worst(H, missing), H) for H in candidates), key=lambda found: found[0])
    step = _FIRST_STEP
    for _ in range(int(share * _MOVES)):
        moved = H + step * _move(n, s, rng)
        gain = _worst(moved, missing)
        step *= 1.4 if gain < best else 0.93
        if gain < best:
            best, H = gain, moved
    refuse_beyond_bound("cyclic_repetition", n, s, best)
    return with_null_space(H)


def refuse_beyond_bound(kind: str, n: int, s: int, gain: float) -> None:
    """Raise ParameterError if a code's worst noise gain is so large that it is no longer exact in float64.

    The decoding error is about 1e-14 times the gain: at the bound a tenth of the 1e-9 that exact codes promise.
    """
    if gain > _BOUND:
        divisors = [t for t in range(n) if n % (t + 1) == 0]
        raise ParameterError(
            f"{kind}: with {n} workers and stragglers = {s} the best code found multiplies noise by {gain:.1e}, and is not "
            f"exact any more; possible: a smaller one, code.kind = 'cyclic_repetition' with stragglers = "
            f"{', '.join(map(str, divisors))}, or an approximate code (sgc, graph)"
        )


def _move(n: int, s: int, rng: np.random.Generator) -> Matrix:
    """Return a random change of H, (s, n), that leaves its rows adding up to zero."""
    move: Matrix = rng.standard_normal((s, n))
    move -= move.mean(axis=1, keepdims=True)
    return move


def missing_patterns(n: int, s: int, rng: np.random.Generator) -> IntVector:
    """Return patterns of s missing workers, (P, s): all of them, or a sample with the runs of neighbours in it."""
    if math.comb(n, s) <= min(_ALL_PATTERNS, int(2e7 / s**2)):
        return np.array(list(itertools.combinations(range(n), s)), dtype=np.int64)
    affordable = max(64, min(_SAMPLE, int(2e7 / s**3)))
    runs = [(first + np.arange(s)) % n for first in range(min(n, affordable // 2))]
    drawn = [rng.choice(n, s, replace=False) for _ in range(affordable - len(runs))]
    return np.array(runs + drawn, dtype=np.int64)


def circulant(n: int, g: Weights) -> Matrix:
    """Return the (n, n) matrix whose row i is g, shifted by i."""
    B = np.zeros((n, n))
    rows = np.arange(n)[:, None]
    B[rows, (rows + np.arange(g.size)) % n] = g
    return B


def random_null_space(n: int, s: int, rng: np.random.Generator) -> Matrix:
    """Return H, (s, n), of Algorithm 2: normal, columns that add up to zero."""
    H = rng.standard_normal((s, n))
    H[:, -1] = -H[:, :-1].sum(axis=1)
    return H


def with_null_space(H: Matrix) -> Matrix:
    """Return the B, (n, n), of Algorithm 2 for H, (s, n): cyclic support, H B_i = 0, rows of norm one and positive sum."""
    s, n = H.shape
    support = (np.arange(n)[:, None] + np.arange(s + 1)) % n
    rows = np.linalg.svd(H[:, support].transpose(1, 0, 2))[2][:, -1]  # (n, s + 1)
    B = np.zeros((n, n))
    B[np.arange(n)[:, None], support] = np.where(rows.sum(axis=1, keepdims=True) < 0.0, -rows, rows)
    return B


def _worst(H: Matrix, missing: IntVector) -> float:
    """Return the worst noise gain of H's code over these patterns; inf if it is no code, or not exact."""
    s, n = H.shape
    B = with_null_space(H)
    if np.count_nonzero(np.abs(B) > _THIN) < n * (s + 1):
        return math.inf
    decode = FewMissing.of(B, s)
    return math.inf if decode is None else decode.worst_noise_gain(missing)


def _waves(n: int, s: int, rng: np.random.Generator) -> Iterator[Matrix]:
    """Yield H, (s, n), of sampled waves: the most promising first, then at random, endlessly."""
    pairs = np.arange(1, (n + 1) // 2)
    positions = 2 * np.pi * np.arange(n) / n
    ideal = np.arange(1, s + 1) * n / (s + 1)
    nearness = np.abs(pairs[:, None] - ideal[None, :]).min(axis=1)
    highest = -pairs
    for turn in itertools.count():
        order = pairs[np.argsort((nearness, highest)[turn], kind="stable")] if turn < 2 else rng.permutation(pairs)
        for alternating in (False, True) if n % 2 == 0 else (False,):
            left = s - alternating
            whole = left // 2
            if whole + left % 2 > pairs.size:
                continue
            rows = [np.cos(np.pi * np.arange(n))] if alternating else []
            for f in order[:whole]:
                rows += [np.cos(f * positions), np.sin(f * positions)]
            if left % 2:
                single = order[whole] if turn < 2 else rng.choice(order[whole:])
                rows.append(np.cos(single * positions + 2 * np.pi * rng.random()))
            yield np.array(rows)
