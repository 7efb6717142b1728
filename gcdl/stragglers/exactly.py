"""Exactly so many workers straggle in each step, drawn at random: the setting of codes that are made for s stragglers."""

from __future__ import annotations

import numpy as np

from gcdl.errors import ParameterError
from gcdl.types import Natural, Seconds, Weights


class ExactlyDelays:
    """In each step ``count`` workers, every set of them equally likely, sleep ``seconds`` (inf: send no reply)."""

    def __init__(self, n: int, *, count: Natural, seconds: Seconds = 1.0) -> None:
        if count > n:
            raise ParameterError(f"count: cannot delay {count} of {n} workers")
        self.count = count
        self.seconds = seconds

    def delays(self, n: int, rng: np.random.Generator) -> Weights:
        """Return (n,) seconds."""
        # The first `count` of one random order: raising the count keeps those that were late already.
        late = rng.random(n).argsort(kind="stable")[: self.count]
        delays = np.zeros(n)
        delays[late] = self.seconds
        return delays
