"""Decoding when at most s workers are missing, by the left null space of B: a system of s unknowns in place of n - s.

Let N, (s, n), have orthonormal rows that span {y : y B = 0}, and let a_0 be the shortest vector with a_0 B = 1. Every exact
decoding vector is a_0 - y N, of squared length ||a_0||^2 + ||y||^2. With the workers in S missing, the shortest one that is
zero on S has the shortest y with y N_S = a_0S. The same formula, over many S at once, is what a search for
well-conditioned codes needs (:func:`worst_noise_gain`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcdl.types import IntVector, Mask, Matrix, Weights

_RANK = 1e-14  # of B B^T
_SINGULAR = 1e-9  # of N_S
_INEXACT = 1e-11
_UNDECODABLE = 1e-8


@dataclass(frozen=True, eq=False)
class FewMissing:
    """A closed form of :class:`gcdl.codes.GradientCode` for codes that are exact with any s workers missing.

    ``N``, (s, n), and ``whole``, (n,): a_0.
    """

    N: Matrix
    whole: Weights

    @classmethod
    def of(cls, B: Matrix, s: int) -> FewMissing | None:
        """Find N and a_0 of a B, (n, n), of rank n - s; None if it is of another rank."""
        n = B.shape[0]
        squares, U = np.linalg.eigh(B @ B.T)
        if s < n and squares[s] <= _RANK * squares[-1]:
            return None
        range_of_B = U[:, s:]
        return cls(U[:, :s].T.copy(), range_of_B @ ((range_of_B.T @ B.sum(axis=1)) / squares[s:]))

    def __call__(self, arrived: Mask) -> Weights | None:
        """Return the shortest a with a B = 1, or None if more than s are missing or this arrived set has none."""
        missing = np.flatnonzero(~arrived)
        if missing.size > self.N.shape[0]:
            return None
        N_S, wanted = self.N[:, missing], self.whole[missing]
        # N_S may be singular, or almost: small singular values are left out at first, and taken in if the result is not exact.
        for neglected in (_SINGULAR, None):
            y = np.linalg.lstsq(N_S.T, wanted, rcond=neglected)[0]
            a = self.whole - y @ self.N
            if np.abs(a[missing]).max(initial=0.0) <= _INEXACT:
                a[missing] = 0.0
                return np.asarray(a, dtype=np.float64)
        return None

    def worst_noise_gain(self, missing: IntVector) -> float:
        """Return the largest ||a|| over patterns of missing workers, (P, s); inf if one of them can't be decoded exactly."""
        N_S = self.N[:, missing].transpose(1, 2, 0)  # (P, s, s): N_S^T for each pattern
        wanted = self.whole[missing][..., None]
        y = np.linalg.pinv(N_S, rcond=_SINGULAR) @ wanted
        if np.abs(N_S @ y - wanted).max(initial=0.0) > _UNDECODABLE:
            return float("inf")
        return float(np.sqrt(self.whole @ self.whole + (y * y).sum(axis=(1, 2)).max(initial=0.0)))
