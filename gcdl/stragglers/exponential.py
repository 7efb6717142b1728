"""Exponential delays, and exponential ones that begin at a shift: the models of computing time in the coding literature.

Lee, Lam, Pedarsani, Papailiopoulos and Ramchandran, *Speeding Up Distributed Machine Learning Using Codes*, IEEE Trans. Inf.
Theory 2018: P(delay > x) = exp(-(x - shift) / (mean - shift)) for x >= shift.
"""

from __future__ import annotations

import numpy as np

from gcdl.errors import ParameterError
from gcdl.types import Nonnegative, Weights


class ExponentialDelays:
    """Worker i sleeps an exponential time of mean ``seconds``, independently."""

    def __init__(self, *, seconds: Nonnegative = 1.0) -> None:
        self.seconds = seconds

    def delays(self, n: int, rng: np.random.Generator) -> Weights:
        """Return (n,) seconds."""
        return self.seconds * rng.standard_exponential(n)


class ShiftedExponentialDelays:
    """Worker i sleeps at least ``shift``, ``seconds`` on average; what is beyond the shift is exponential."""

    def __init__(self, *, shift: Nonnegative, seconds: Nonnegative = 1.0) -> None:
        if seconds < shift:
            raise ParameterError(f"seconds: the mean, {seconds:g} s, cannot be below the shift, {shift:g} s")
        self.shift = shift
        self.seconds = seconds

    def delays(self, n: int, rng: np.random.Generator) -> Weights:
        """Return (n,) seconds."""
        return self.shift + (self.seconds - self.shift) * rng.standard_exponential(n)
