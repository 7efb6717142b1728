"""Each worker straggles in each step with probability p, independently: the model of SGC and of 1-bit GC-DL."""

from __future__ import annotations

import numpy as np

from gcdl.types import Probability, Seconds, Weights


class BernoulliDelays:
    """Worker i sleeps ``seconds`` (inf: sends no reply) with probability ``p``."""

    def __init__(self, *, p: Probability, seconds: Seconds = 1.0) -> None:
        self.p = p
        self.seconds = seconds

    def delays(self, n: int, rng: np.random.Generator) -> Weights:
        """Return (n,) seconds."""
        return np.where(rng.random(n) < self.p, self.seconds, 0.0)
