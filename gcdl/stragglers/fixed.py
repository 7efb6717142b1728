"""The same workers are late by the same time in every step: a slow machine, at its simplest."""

from __future__ import annotations

import numpy as np

from gcdl.stragglers.base import check_workers
from gcdl.types import Natural, Seconds, Weights


class FixedDelays:
    """``workers`` sleep ``seconds`` in each step."""

    def __init__(self, n: int, *, workers: tuple[Natural, ...], seconds: Seconds = 1.0) -> None:
        check_workers(workers, n)
        self.workers = workers
        self.seconds = seconds

    def delays(self, n: int, rng: np.random.Generator) -> Weights:
        """Return (n,) seconds."""
        delays = np.zeros(n)
        delays[list(self.workers)] = self.seconds
        return delays
