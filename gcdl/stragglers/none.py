"""No injected delay: only the machine's own stragglers."""

from __future__ import annotations

import numpy as np

from gcdl.types import Weights


class NoDelays:
    """Every delay is zero."""

    def delays(self, n: int, rng: np.random.Generator) -> Weights:
        """Return (n,) zeros."""
        return np.zeros(n)
