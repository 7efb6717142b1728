"""A gradient code is data: an encoding matrix B and a decoder.

Worker i sends C_i = sum_j B_ij G_j, compressed. When the workers in A have answered, the master picks weights a, zero off A,
so that a B is as near to the all-ones row as it can be. It takes sum_i a_i C_i for the full gradient sum_j G_j. Source: Tandon,
Lei, Dimakis and Karampatziakis, *Gradient Coding*, ICML 2017.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from gcdl.codes.construction.dither_places import dither_shifts
from gcdl.codes.decoders import Decoder, least_squares
from gcdl.errors import ParameterError
from gcdl.types import IntVector, Mask, Matrix, Weights

_CACHED_PATTERNS = 4096
_LARGE = 1 << 16
_SPARSE = 0.05


@dataclass(frozen=True, eq=False)
class GradientCode:
    """An encoding matrix, its decoder, and the number of stragglers it plans for (Tandon et al., ICML 2017).

    Parameters
    ----------
    B : (n, k) float64. Its support says which worker holds which shard.
    decoder : picks a from B and the arrived set.
    stragglers : s, the number of missing workers the code was made for. The master waits for n - s by default.
    closed_form : returns the least-squares a, (n,), of an arrived set by a formula, which is faster than solving; None where
        there is none. Only least squares asks it.

    Raises
    ------
    ParameterError : B is not a finite matrix, or some shard is held by nobody.
    """

    B: Matrix
    decoder: Decoder = least_squares
    stragglers: int = 0
    closed_form: Callable[[Mask], Weights | None] | None = None
    _cache: OrderedDict[bytes, Weights] = field(default_factory=OrderedDict, init=False, repr=False)

    def __post_init__(self) -> None:
        B = np.array(self.B, dtype=np.float64)
        if B.ndim != 2 or 0 in B.shape or not np.isfinite(B).all():
            raise ParameterError(f"B must be a finite (n, k) matrix, not one of shape {B.shape}")
        orphans = np.flatnonzero(~B.any(axis=0))
        if orphans.size:
            raise ParameterError(f"no worker holds shard {orphans[0]}: every shard needs a worker")
        if not 0 <= self.stragglers < B.shape[0]:
            raise ParameterError(f"stragglers = {self.stragglers} must be between 0 and n - 1 = {B.shape[0] - 1}")
        B.setflags(write=False)
        object.__setattr__(self, "B", B)

    @property
    def n(self) -> int:
        """The number of workers."""
        return int(self.B.shape[0])

    @property
    def k(self) -> int:
        """The number of shards."""
        return int(self.B.shape[1])

    @cached_property
    def shifts(self) -> IntVector:
        """(n,): where each worker lies under correlated dither, in 2^-16 of the range.

        See :mod:`gcdl.codes.construction.dither_places`.
        """
        return dither_shifts(self.B)

    def shards(self, worker: int) -> IntVector:
        """Return the shards that a worker holds, in ascending order."""
        return np.flatnonzero(self.B[worker])

    def decoding_vector(self, arrived: Mask, noise: Weights | None = None) -> Weights:
        """Return a, (n,) float64 and read-only, zero for workers that have not arrived.

        Parameters
        ----------
        arrived : (n,) bool.
        noise : (n,) v_i of the arrived messages, for a decoder that asks for it. Its vectors are computed each time; all
            others are cached by arrived set.
        """
        if noise is not None and self.decoder.needs_noise:
            return self._solve(arrived, noise[arrived])
        key = np.packbits(arrived).tobytes()
        found = self._cache.get(key)
        if found is None:
            found = self._cache[key] = self._solve(arrived, None)
            if len(self._cache) > _CACHED_PATTERNS:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(key)
        return found

    def _solve(self, arrived: Mask, noise: Weights | None) -> Weights:
        a = None
        if self.closed_form is not None and self.decoder is least_squares:
            a = self.closed_form(arrived)
        if a is None:
            a = np.zeros(self.n)
            if arrived.any():
                a[arrived] = self.decoder(self.B[arrived], noise)
        a.setflags(write=False)
        return a

    def decoding_error(self, a: Weights) -> float:
        """Return ||a B - 1|| for a, (n,): how far the decoded gradient is from the sum over all shards; 0 is exact."""
        return float(np.linalg.norm(self.coverage(a) - 1.0))

    def coverage(self, a: Weights) -> Weights:
        """Return a B, (k,), for a, (n,): the weight with which each shard enters."""
        if self._entries is None:
            return np.asarray(a @ self.B, dtype=np.float64)
        workers, shards, values = self._entries
        return np.asarray(np.bincount(shards, weights=a[workers] * values, minlength=self.k), dtype=np.float64)

    @cached_property
    def _entries(self) -> tuple[IntVector, IntVector, Weights] | None:
        """B's nonzero entries (worker, shard, value), where there are so few that adding them up is faster than a B."""
        if self.B.size < _LARGE or np.count_nonzero(self.B) > _SPARSE * self.B.size:
            return None
        workers, shards = np.nonzero(self.B)
        return workers, shards, self.B[workers, shards]


def noise_gain(a: Weights) -> float:
    """Return ||a||: what decoding does to compression noise that is independent from worker to worker."""
    return float(np.linalg.norm(a))
