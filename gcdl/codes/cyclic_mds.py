"""Cyclic MDS: every row of B is the first one, shifted; worker i holds shards i, i+1, ..., i+s (mod n).

Raviv, Tandon, Dimakis and Tamo, *Gradient Coding from Cyclic MDS Codes and Expander Graphs*, ICML 2018. The first row is
the generator polynomial g(x) = prod (x - w^r) of a cyclic code of length n, w = exp(2 pi i / n), with s consecutive roots.
Then any n - s rows of B span the code (BCH bound), and it contains the all-ones vector because 1 is no root.
Conjugate pairs make g real: over the reals, s consecutive roots lie around -1, which needs n and s of different parity
(or s = 0). B commutes with shifts, so its left null space is known: the roots' own cosines and sines.

Where we differ: roots c steps apart, c coprime to n, make an MDS code too; the c with the smallest worst noise gain is taken
(over all patterns of s missing workers, or a seeded sample). Rows are scaled to ||B_i|| = 1, as in ``cyclic_repetition``.
"""

from __future__ import annotations

import math

import numpy as np

from gcdl.codes.base import GradientCode
from gcdl.codes.construction.cyclic_search import circulant, missing_patterns, refuse_beyond_bound
from gcdl.codes.construction.few_missing import FewMissing
from gcdl.errors import ParameterError
from gcdl.types import IntVector, Matrix, Natural

_STEPS = 48


def cyclic_mds(n: int, k: int, rng: np.random.Generator, *, stragglers: Natural = 1) -> GradientCode:
    """Return the circulant real MDS code of load s + 1; exact for any s stragglers.

    Raises
    ------
    ParameterError : k is not n, s is not below n, n and s > 0 are both odd or both even, or no code of this size is
        well enough conditioned to be exact in float64.
    """
    s = stragglers
    if k != n:
        raise ParameterError(f"cyclic_mds: needs as many shards as workers ({n}), not {k}")
    if s >= n or (s > 0 and (n - s) % 2 == 0):
        possible = [0, *range(1 + n % 2, n, 2)]
        raise ParameterError(
            f"cyclic_mds: with {n} workers there is no real code for stragglers = {s}; "
            f"possible values of stragglers: {', '.join(map(str, possible))}"
        )
    if s == 0:
        return GradientCode(np.eye(n))
    steps = [c for c in range(1, n // 2 + 1) if math.gcd(c, n) == 1][:_STEPS] if n > 2 else [1]
    missing = missing_patterns(n, s, rng)
    found = (_with_roots(n, consecutive(n, s) * c % n) for c in steps)
    gain, B, decode = min(((decode.worst_noise_gain(missing), B, decode) for B, decode in found), key=lambda made: made[0])
    refuse_beyond_bound("cyclic_mds", n, s, gain)
    return GradientCode(B, stragglers=s, closed_form=decode)


def consecutive(n: int, s: int) -> IntVector:
    """Return the exponents of s consecutive n-th roots of unity around -1, (s,)."""
    return np.arange((n - s + 1) // 2, (n + s + 1) // 2)


def _with_roots(n: int, roots: IntVector) -> tuple[Matrix, FewMissing]:
    """Return B, (n, n), and its decoder for these exponents of roots, closed under conjugation."""
    g = np.real(np.poly(np.exp(2j * np.pi * roots / n)))
    B = circulant(n, g / np.linalg.norm(g))
    angles = 2 * np.pi * (np.outer(roots, np.arange(n)) % n) / n
    # cos + sin of each root's frequency: orthogonal for all frequencies mod n, conjugates included.
    N = (np.cos(angles) + np.sin(angles)) / math.sqrt(n)
    return B, FewMissing(N, np.full(n, 1.0 / B[0].sum()))
