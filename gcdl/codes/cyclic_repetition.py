"""Cyclic repetition: worker i holds shards i, i+1, ..., i+s (mod n), and any n - s workers decode.

Tandon, Lei, Dimakis and Karampatziakis, *Gradient Coding*, ICML 2017, Algorithm 2: draw H, (s, n), with columns that
add up to zero; row i of B is the vector of that support with H B_i = 0. All rows then lie in the null space of H, which
has dimension n - s and contains the all-ones vector.

Where we differ: a random H can be so ill-conditioned that decoding multiplies compression noise a hundredfold. So each
row is scaled to ||B_i|| = 1 (||a|| is then the amplification of noise that is in proportion to what a worker sends), and of
several seeded draws the one with the smallest worst ||a|| is taken.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np

from gcdl.codes.base import GradientCode, noise_gain
from gcdl.errors import ParameterError
from gcdl.types import Mask, Matrix, Natural

_DRAWS = 32
_PATTERNS = 256


def cyclic_repetition(n: int, k: int, rng: np.random.Generator, *, stragglers: Natural = 1) -> GradientCode:
    """Return the best of several seeded draws of the cyclic code; exact for any s stragglers at load s + 1.

    Raises
    ------
    ParameterError : k is not n, or s is not below n.
    """
    s = stragglers
    if k != n:
        raise ParameterError(f"cyclic_repetition: needs as many shards as workers ({n}), not {k}")
    if s >= n:
        raise ParameterError(f"cyclic_repetition: stragglers = {s} must be at most n - 1 = {n - 1}")
    if s == 0:
        return GradientCode(np.eye(n))
    patterns = _patterns(n, s, rng)
    codes = (GradientCode(_draw(n, s, rng), stragglers=s) for _ in range(_DRAWS))
    return min(codes, key=lambda code: _worst_noise_gain(code, patterns))


def _draw(n: int, s: int, rng: np.random.Generator) -> Matrix:
    """Return one (n, n) draw of Algorithm 2, rows scaled to norm one."""
    H = rng.standard_normal((s, n))
    H[:, -1] = -H[:, :-1].sum(axis=1)
    B = np.zeros((n, n))
    for i in range(n):
        support = (i + np.arange(s + 1)) % n
        B[i, support[0]] = 1.0
        B[i, support[1:]] = -np.linalg.solve(H[:, support[1:]], H[:, support[0]])
    B /= np.linalg.norm(B, axis=1, keepdims=True)
    return B


def _patterns(n: int, s: int, rng: np.random.Generator) -> list[Mask]:
    """Return all arrived sets of n - s workers, or a sample of them when there are many."""
    absent: Iterable[Iterable[int]]
    if math.comb(n, s) <= _PATTERNS:
        absent = itertools.combinations(range(n), s)
    else:
        absent = (tuple(rng.choice(n, s, replace=False)) for _ in range(_PATTERNS))
    return [np.isin(np.arange(n), list(who), invert=True) for who in absent]


def _worst_noise_gain(code: GradientCode, patterns: list[Mask]) -> float:
    worst = 0.0
    for arrived in patterns:
        a = code.decoding_vector(arrived)
        if code.decoding_error(a) > 1e-9:  # too ill-conditioned to decode at all
            return math.inf
        worst = max(worst, noise_gain(a))
    return worst
