"""Cyclic repetition: worker i holds shards i, i+1, ..., i+s (mod n), and any n - s workers decode.

Tandon, Lei, Dimakis and Karampatziakis, *Gradient Coding*, ICML 2017, Algorithm 2: draw H, (s, n), with columns that
add up to zero; row i of B is the vector of that support with H B_i = 0. All rows then lie in the null space of H, which
has dimension n - s and contains the all-ones vector.

Where we differ: a random H can be so ill-conditioned that decoding multiplies compression noise ten thousandfold. So H is
searched for, among sampled waves (:mod:`gcdl.codes.construction.cyclic_search`), for the smallest worst ||a|| over patterns
of s missing workers; and each row is scaled to ||B_i|| = 1, so that ||a|| is the amplification of noise that is in proportion
to what a worker sends. Where s + 1 divides n, all entries of B come out equal and the worst ||a|| is at most sqrt(n).
"""

from __future__ import annotations

import numpy as np

from gcdl.codes.base import GradientCode
from gcdl.codes.construction.cyclic_search import search
from gcdl.codes.construction.few_missing import FewMissing
from gcdl.errors import ParameterError
from gcdl.types import Natural


def cyclic_repetition(n: int, k: int, rng: np.random.Generator, *, stragglers: Natural = 1) -> GradientCode:
    """Return the best cyclic code of a seeded search; exact for any s stragglers at load s + 1.

    Raises
    ------
    ParameterError : k is not n, s is not below n, or no code of this size was found that is well enough conditioned to
        be exact in float64 (large n that s + 1 does not divide).
    """
    s = stragglers
    if k != n:
        raise ParameterError(f"cyclic_repetition: needs as many shards as workers ({n}), not {k}")
    if s >= n:
        raise ParameterError(f"cyclic_repetition: stragglers = {s} must be at most n - 1 = {n - 1}")
    if s == 0:
        return GradientCode(np.eye(n))
    if s == n - 1:
        return GradientCode(np.full((n, n), n**-0.5), stragglers=s)
    B = search(n, s, rng)
    return GradientCode(B, stragglers=s, closed_form=FewMissing.of(B, s))
