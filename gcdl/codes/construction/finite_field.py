"""Finite fields GF(q) of small order, as tables of sums and products. Projective planes are built from them.

An element of GF(p^e) is a number below q whose digits in base p are the coefficients of a polynomial; products are taken
modulo the first monic polynomial of degree e that leaves no divisors of zero.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.int64]


def prime_powers(most: int) -> list[int]:
    """Return all prime powers from 2 to ``most``."""
    return [q for q in range(2, most + 1) if _prime_power(q) is not None]


def primes(most: int) -> list[int]:
    """Return all primes from 2 to ``most``."""
    return [v for v in range(2, most + 1) if all(v % a for a in range(2, math.isqrt(v) + 1))]


def field(q: int) -> tuple[Table, Table]:
    """Return the tables of addition and multiplication of GF(q), (q, q) each, for a prime power q."""
    found = _prime_power(q)
    if found is None:
        raise ValueError(f"{q} is no prime power")
    p, e = found
    digits = np.array([[x // p**i % p for i in range(e)] for x in range(q)])  # (q, e), lowest first
    places = p ** np.arange(e)
    addition = (digits[:, None, :] + digits[None, :, :]) % p @ places
    products = np.zeros((q, q, 2 * e - 1), dtype=np.int64)
    for i, j in itertools.product(range(e), repeat=2):
        products[:, :, i + j] += digits[:, None, i] * digits[None, :, j]
    for tail in itertools.product(range(p), repeat=e):  # x^e = - sum of tail_i x^i
        reduced = products.copy()
        for top in range(2 * e - 2, e - 1, -1):
            for i in range(e):
                reduced[:, :, top - e + i] -= tail[i] * reduced[:, :, top]
        multiplication: Table = reduced[:, :, :e] % p @ places
        if multiplication[1:, 1:].all():
            return addition, multiplication
    raise AssertionError(f"no irreducible polynomial for {q}: there always is one")


def _prime_power(q: int) -> tuple[int, int] | None:
    """Return (p, e) with p^e = q, or None."""
    p = next((a for a in range(2, q + 1) if q % a == 0), 0)
    e = 0
    while p and q % p == 0:
        q, e = q // p, e + 1
    return (p, e) if p and q == 1 else None
