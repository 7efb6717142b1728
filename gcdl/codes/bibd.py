"""Block designs: any two shards (or any two workers) meet equally often.

Kadhe, Koyluoglu and Ramchandran, *Gradient Coding Based on Block Designs for Mitigating Adversarial Stragglers*, ISIT 2019.
In a balanced incomplete block design (BIBD) v points lie in b blocks, each point in r of them, each two points together in
lambda. Workers are blocks and shards points, or the other way round. Where any two workers share the same number
lambda of shards and have the same load l, B_A B_A^T = (l - lambda) I + lambda J up to scale: least squares gives all m that
have arrived the same weight, a = w = c / (1 + (m - 1) lambda / l), a closed form. No code of this size and load holds an
adversary who chooses the stragglers to a smaller error.

The families here, q a prime power up to 32:

- projective planes PG(2, q): n = k = q^2 + q + 1, replication q + 1;
- affine planes AG(2, q), from PG(2, q) without a line: n = q^2 + q lines, k = q^2 points, replication q + 1, and the dual;
- Paley designs, the squares modulo a prime n = 3 (mod 4): n = k, replication (n - 1) / 2 (with n = 11 the biplane);
- the biplane of 37 points, from fourth powers: n = k = 37, replication 9;
- all pairs: n = k (k-1) / 2 workers hold two shards each, replication k - 1, and the dual;
- the complements of the symmetric ones (n = k), and all sets of n - 1: n = k, replication n - 1.

Weights are B_ij = 1 / (r (1 - s/n)): sums are unbiased.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gcdl.codes.base import GradientCode
from gcdl.codes.construction.assignment import weighted
from gcdl.codes.construction.finite_field import field, prime_powers, primes
from gcdl.errors import ParameterError
from gcdl.types import Count, Mask, Natural, Weights

Support = NDArray[np.bool_]
_LARGEST_ORDER = 32
_LARGEST = 1100  # workers or shards
_SHOWN = 4
_FEW = 3


def bibd(n: int, k: int, *, replication: Count | None = None, stragglers: Natural = 0) -> GradientCode:
    """Return the code of a block design with n workers, k shards and this replication.

    Left out, the replication is the smallest there is, if it is at most three or half of the workers.

    Raises
    ------
    ParameterError : there is no such design here (names the nearest that are), or s is not below n.
    """
    if stragglers >= n:
        raise ParameterError(f"bibd: stragglers = {stragglers} must be at most n - 1 = {n - 1}")
    known = {
        (workers, shards, r): build
        for workers, shards, r, build in _designs()
        if replication is not None or r <= max(_FEW, (workers + 1) // 2)
    }
    found = [r for workers, shards, r in known if (n, k) == (workers, shards) and replication in (None, r)]
    if not found:
        nearest = sorted(known, key=lambda key: _distance(key, (n, k, replication)))[:_SHOWN]
        listed = "; ".join(f"{workers} workers, {shards} shards, replication {r}" for workers, shards, r in nearest)
        asked = "" if replication is None else f", replication {replication}"
        raise ParameterError(f"bibd: no known design has {n} workers, {k} shards{asked}; the nearest: {listed}")
    support = known[n, k, min(found)]()
    B = weighted(support, stragglers / n)
    return GradientCode(B, stragglers=stragglers, closed_form=_constant(B))


def _constant(B: NDArray[np.float64]) -> Callable[[Mask], Weights] | None:
    """Return the closed form if all workers have one load and any two share equally much; None otherwise."""
    overlaps = B @ B.T
    load, common = overlaps[0, 0], overlaps[0, -1]
    pattern = np.full_like(overlaps, common)
    np.fill_diagonal(pattern, load)
    if len(B) == 1 or not np.allclose(overlaps, pattern, rtol=1e-9, atol=0.0):
        return None
    row_sum = B[0].sum()

    def constant(arrived: Mask) -> Weights:
        return np.asarray(arrived * (row_sum / (load + (np.count_nonzero(arrived) - 1) * common)), dtype=np.float64)

    return constant


def _distance(key: tuple[int, int, int], asked: tuple[int, int, int | None]) -> float:
    """Return how far apart two (n, k, replication) are: the sum of their log ratios; that of the workers counts most."""
    return sum(
        weight * abs(math.log(have / want)) for have, want, weight in zip(key, asked, (4.0, 2.0, 1.0), strict=True) if want
    )


def _designs() -> Iterator[tuple[int, int, int, Callable[[], Support]]]:
    """Yield (n, k, replication, how to build it)."""
    for q in prime_powers(_LARGEST_ORDER):
        v = q * q + q + 1
        yield v, v, q + 1, partial(_projective, q)
        yield v, v, q * q, partial(_complement, _projective, q)
        yield q * q + q, q * q, q + 1, partial(_affine, q)
        yield q * q, q * q + q, q, partial(_dual, _affine, q)
    for v in primes(_LARGEST):
        if v % 4 == 3 and v > 3:
            yield v, v, (v - 1) // 2, partial(_developed, v, 2)
            yield v, v, (v + 1) // 2, partial(_complement, _developed, v, 2)
    yield 37, 37, 9, partial(_developed, 37, 4)
    yield 37, 37, 28, partial(_complement, _developed, 37, 4)
    for v in range(4, math.isqrt(2 * _LARGEST)):
        yield v * (v - 1) // 2, v, v - 1, partial(_pairs, v)
        yield v, v * (v - 1) // 2, 2, partial(_dual, _pairs, v)
    for v in range(2, _LARGEST):
        yield v, v, v - 1, partial(_complement, _alone, v)


def _complement(design: Callable[..., Support], *parameters: int) -> Support:
    return ~design(*parameters)


def _dual(design: Callable[..., Support], *parameters: int) -> Support:
    return design(*parameters).T


def _alone(v: int) -> Support:
    return np.eye(v, dtype=np.bool_)


def _projective(q: int) -> Support:
    """Return lines by points of PG(2, q): vectors up to factors; a point is on a line if their product is zero."""
    add, multiply = field(q)
    points = np.array([(1, x, y) for x in range(q) for y in range(q)] + [(0, 1, x) for x in range(q)] + [(0, 0, 1)])
    products = multiply[points[:, None, :], points[None, :, :]]
    return np.asarray(add[add[products[..., 0], products[..., 1]], products[..., 2]] == 0)


def _affine(q: int) -> Support:
    """Return lines by points of AG(2, q): PG(2, q) without its last line and the points on it."""
    plane = _projective(q)
    return plane[:-1][:, ~plane[-1]]


def _developed(v: int, power: int) -> Support:
    """Return the shifts of the nonzero ``power``-th powers modulo the prime v."""
    powers = {pow(x, power, v) for x in range(1, v)}
    first = np.isin(np.arange(v), sorted(powers))
    return np.array([np.roll(first, shift) for shift in range(v)])


def _pairs(v: int) -> Support:
    """Return all pairs of v points."""
    return np.array([np.isin(np.arange(v), pair) for pair in itertools.combinations(range(v), 2)])
